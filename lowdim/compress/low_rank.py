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
from lowdim.core.spectrum import Spectrum
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


def output_spectrum(weight: Tensor, moment: Tensor) -> Spectrum:
    """How is the energy of a weight's output shared out among directions, on real inputs?

    Parameters
    ----------
    weight : Tensor
        (out, in), applied as ``x @ weight.T``.
    moment : Tensor
        (in, in) uncentred second moment of the inputs, E[x x^T].

    Returns
    -------
    Spectrum
        Of the outputs: ``vectors`` are (out, r) with r = min(out, in); float64.

    Raises
    ------
    InputError
        Where the shapes do not fit, or a value is not finite.
    """
    rows, cols = weight.shape
    if moment.shape != (cols, cols):
        raise InputError(
            f"weight is {rows} x {cols} but moment is {tuple(moment.shape)}: it has to be the "
            f"{cols} x {cols} second moment of the inputs"
        )
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
    return Spectrum(values, float(values.sum()), (rows, cols), vectors=left)


def low_rank(weight: Tensor, outputs: Spectrum, *, energy: float = 0.99) -> LowRank:
    """How few directions of a weight's output carry this share of its energy on real inputs?

    Parameters
    ----------
    weight : Tensor
        (out, in), applied as ``x @ weight.T``.
    outputs : Spectrum
        Of :func:`output_spectrum`.
    energy : float
        Share of the activation-weighted energy E||W x||^2 to keep, in (0, 1].

    Returns
    -------
    LowRank
        Factors in the dtype of ``weight``; computed in float64.

    Raises
    ------
    InputError
        Where the inputs were all zero, or ``outputs`` is another weight's.
    """
    if outputs.vectors is None or outputs.shape != tuple(weight.shape):
        raise InputError(
            f"outputs is of shape {outputs.shape} and weight of {tuple(weight.shape)}: give the "
            "weight's own output_spectrum"
        )
    rank = outputs.rank_at(energy)
    left = outputs.vectors[:, :rank]
    right = left.T @ weight.double()  # (r, out) @ (out, in)
    held = float(outputs.values[:rank].sum()) / outputs.total
    return LowRank(left.to(weight.dtype), right.to(weight.dtype), held)
