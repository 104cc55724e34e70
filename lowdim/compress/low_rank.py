"""Low rank by what the weight is used for: the best rank-r stand-in on the inputs it really sees.

Among all matrices of rank r, ``U_r U_r^T W`` with U_r the leading eigenvectors of the second moment
of the *outputs*, W C W^T, makes E||W x - W' x||^2 smallest (Eckart-Young on W C^{1/2}); the plain
SVD of W answers the same question only for white inputs. Nothing is inverted: the rank of C may be
anything. Cost: O(out^2 in) for the product and O(min(out, in)^3) for the eigenvectors.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import torch
from torch import Tensor

from lowdim.core.linalg import eigh_psd
from lowdim.core.points import check_finite
from lowdim.errors import InputError


@dataclass(frozen=True)
class LowRank:
    """Two factors that stand in for a weight.

    Attributes
    ----------
    left : Tensor
        (out, r) with orthonormal columns.
    right : Tensor
        (r, in).
    energy : float
        Share of E||W x||^2 that the stand-in keeps.
    """

    left: Tensor = field(repr=False)
    right: Tensor = field(repr=False)
    energy: float

    @property
    def rank(self) -> int:
        """Inner dimension r."""
        return self.left.shape[1]

    @property
    def weight(self) -> Tensor:
        """(out, in) the product of the factors."""
        return self.left @ self.right

    @property
    def saved(self) -> int:
        """Parameters saved by storing the factors; negative where they are larger."""
        rows, cols = self.left.shape[0], self.right.shape[1]
        return rows * cols - self.rank * (rows + cols)


def low_rank(weight: Tensor, moment: Tensor, *, energy: float = 0.99) -> LowRank:
    """How few directions of a weight's output carry this share of its energy on real inputs?

    Parameters
    ----------
    weight : Tensor
        (out, in), applied as ``x @ weight.T``.
    moment : Tensor
        (in, in) uncentred second moment of the inputs, E[x x^T].
    energy : float
        Share of the activation-weighted energy E||W x||^2 to keep, in (0, 1].

    Returns
    -------
    LowRank
        Factors in the dtype of ``weight``; computed in float64.

    Raises
    ------
    InputError
        Where the shapes do not fit, a value is not finite, or the inputs were all zero.
    """
    rows, cols = weight.shape
    if moment.shape != (cols, cols):
        raise InputError(
            f"weight is {rows} x {cols} but moment is {tuple(moment.shape)}: it has to be the "
            f"{cols} x {cols} second moment of the inputs"
        )
    if not 0 < energy <= 1:
        raise InputError(f"energy={energy}: a share in (0, 1]")
    check_finite(weight, "weight")
    check_finite(moment, "moment")
    w, c = weight.double(), moment.double()
    if rows <= cols:
        values, left = eigh_psd(w @ c @ w.T)  # (out, out): second moment of the outputs
    else:
        spread, basis = eigh_psd(c)
        half = w @ (basis * spread.sqrt())  # (out, in): half @ half.T = W C W^T
        values, right = eigh_psd(half.T @ half)  # (in, in), the smaller side
        scale = values.clamp_min(values[0] * torch.finfo(values.dtype).eps).sqrt()
        left = half @ right / scale  # orthonormal where the value is not zero
    total = values.sum()
    if not total > 0:
        raise InputError("the inputs or the weight are all zero: there is no energy to keep")
    held = values.cumsum(0) / total
    rank = int((held < energy * (1 - 1e-12)).sum()) + 1
    left = left[:, :rank]
    return LowRank(left.to(weight.dtype), (left.T @ w).to(weight.dtype), float(held[rank - 1]))
