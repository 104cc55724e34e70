"""Intrinsic dimension from the two nearest neighbours alone (Facco et al. 2017).

Around each point let mu = r2 / r1. If density hardly changes within r2, log mu is exponential
with rate d whatever the density, so -log(1 - F(mu)) against log mu is a line of slope d.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor

from lowdim.errors import InputError
from lowdim.geometry.nearest import Dimension, as_dimension, separations
from lowdim.registry import method, neighbors

if TYPE_CHECKING:
    from lowdim.core.neighbors import Neighbors


@method(
    "geometry/two-nn",
    needs=neighbors(k=2),
    paper="Facco et al. 2017",
    arxiv="1803.06992",
    cost="O(n log n)",
    oracle="skdim.id.TwoNN",
    invariant=("permutation", "rotation", "translation", "scale"),
)
def two_nn(neighbors: Neighbors, *, discard: float = 0.1) -> Dimension:
    """How many directions can the data move in, seen at the smallest scale there is?

    Parameters
    ----------
    neighbors : Neighbors
        Of distinct points, k at least 2.
    discard : float
        Share of the largest ratios left out of the fit, as the paper does: they come from points
        at the rim, where the density does change within r2.

    Raises
    ------
    InputError
        Duplicates, fewer than three rows, or points on a grid, all of them with r1 = r2.

    Notes
    -----
    Trust it up to a dimension of about 10 from 1,000 rows; beyond, too few points fill the space
    and it reads low (8.4 for a 10-dimensional cube, 16 for a 20-dimensional one, n = 2,000). It
    sees the smallest scale, so noise in every coordinate raises it towards the ambient dimension,
    and rounded or quantised data mislead it. The standard error follows from the influence of each
    ratio on the fitted slope; see :func:`~lowdim.geometry.nearest.standard_error`.
    """
    if not 0 <= discard < 1:
        raise InputError(f"discard={discard}: a share in [0, 1)")
    r = separations(neighbors, 2)  # (n, 2)
    log_mu = (r[:, 1] / r[:, 0]).log()
    n = len(log_mu)
    kept = min(int(n * (1 - discard)), n - 1)  # F = 1 at the last point: its logarithm is infinite
    x, order = (a[:kept] for a in log_mu.sort())  # (kept,) ascending
    y = -torch.log1p(-torch.arange(1, kept + 1, dtype=x.dtype, device=x.device) / n)
    if kept < 2 or float(x[-1]) == 0:
        raise InputError(
            f"two-nn has {kept} ratios to fit, {int((x == 0).sum())} of them 1: it needs three or "
            "more rows, and points that do not lie on a grid"
        )
    value = float(x @ y / (x @ x))
    tied = float((log_mu == 0).double().mean())
    notes = (f"{tied:.0%} of points have r1 = r2: rounded data",) if tied > 0.01 else ()
    influence = _influence(log_mu, order, x, y - 2 * value * x)
    return as_dimension(
        value, influence, neighbors.head(2).indices, n_reference=neighbors.n_reference, notes=notes
    )


def _influence(log_mu: Tensor, order: Tensor, x: Tensor, weight: Tensor) -> Tensor:
    """How much does each point move the slope sum(x y) / sum(x^2) of its sorted sample?

    The slope is a function of quantiles. A further observation at z lowers every quantile above z
    by its spacing, so it moves the slope by minus the integral of ``weight`` from z upwards.
    """
    spacing = torch.diff(x, append=x[-1:])
    above = (weight * spacing).flip(0).cumsum(0).flip(0)
    influence = torch.zeros_like(log_mu)
    influence[order] = -above
    return (influence - influence.mean()) * len(log_mu) / (x @ x)
