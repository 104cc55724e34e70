"""Von Neumann entropy of a representation, measured or as a term of a loss (Kim et al. 2023).

The second moment of unit rows has trace one, so its eigenvalues are a distribution; the entropy is
log r for r orthogonal directions in equal use and 0 for a collapsed representation.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from lowdim.core.estimate import Estimate
from lowdim.core.points import unit_rows
from lowdim.core.spectrum import Spectrum
from lowdim.registry import method, spectrum


@method(
    "diversity/von-neumann-entropy",
    needs=spectrum(center=False, unit=True),
    paper="Kim et al. 2023",
    arxiv="2304.01434",
    cost="O(d)",
    invariant=("permutation", "rotation", "scale", "row-scale"),
)
def von_neumann_entropy(spectrum: Spectrum) -> Estimate:
    """How much room do the directions of the rows take, in nats, from 0 to log d?

    The logarithm of the Vendi score of order 1.

    Notes
    -----
    Trust it for comparing sets of the same n and d, with n well above d: it cannot exceed log n.
    A shared mean direction lowers it however varied the rest is.
    """
    return Estimate(
        value=math.log(spectrum.effective_rank(1)), n=spectrum.shape[0], exact=spectrum.exact
    )


def von_neumann_entropy_of(h: Tensor) -> Tensor:
    """The same for a batch, with gradients: a term of a loss.

    ``loss = loss - c * von_neumann_entropy_of(h)`` spreads the representation for c > 0 and
    concentrates it for c < 0.

    Parameters
    ----------
    h : Tensor
        (n, d) rows, none of them zero. Half precision is computed in float32, under autocast too.

    Returns
    -------
    Tensor
        A scalar with finite gradients also where the batch does not span all directions.

    Notes
    -----
    -x log x has an infinite slope at 0, but an eigenvalue is the square of a singular value and the
    slope in that goes to 0: directions without energy are left out, in value and in gradient.
    O(n d min(n, d)). The paper advises |c| up to 0.5 and batches of 32 rows or more: the entropy
    of a batch cannot exceed log n.
    """
    with torch.autocast(h.device.type, enabled=False):
        z = unit_rows(h if h.dtype == torch.float64 else h.float(), name="h")
        moment = (z.T @ z if len(z) > z.shape[1] else z @ z.T) / len(z)
        p = torch.linalg.eigvalsh(moment)
        p = p[p > len(p) * torch.finfo(p.dtype).eps]
        return -(p * p.log()).sum()
