"""Which points carry the magnitude: exact removal, and a reduced set (Jimenez, Bunch, et al.).

Taking x away from a set lowers the magnitude by exactly w_x^2 / (Z^-1)_xx (Schur complement, with
w the weighting), which is never below zero for Euclidean points. Removing the point of least loss
again and again, each time with a rank-one downdate of Z^-1, leaves a subset that is nearly as
large in magnitude; at small t it is the outline. The formula is exact; whether the paper scales
its moment in the same way was not checked. Cost: n^3 for the start and n^2 a removal; 24 n^2 bytes.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from lowdim.core.estimate import Estimate
from lowdim.core.memory import plan
from lowdim.core.points import as_points
from lowdim.errors import InputError
from lowdim.geometry.magnitude import factor, rate_of, similarities
from lowdim.registry import method, points


@dataclass(frozen=True, kw_only=True)
class Reduction(Estimate):
    """Magnitude of what is kept; ``per_point`` is 1 for a kept point and 0 for another.

    Attributes
    ----------
    kept : Tensor
        (m,) int64 rows, ascending.
    full : float
        Magnitude of all points.
    """

    kept: Tensor = field(repr=False, compare=False)
    full: float


@method(
    "geometry/magnitude-moments",
    needs=points(distinct=True),
    paper="Jimenez et al.: convex hull via magnitude",
    cost="O(n^3), 24 n^2 bytes",
    invariant=("permutation", "rotation", "translation", "scale"),
    deep=True,
)
def magnitude_moments(
    x: Any, *, t: float = 1.0, scale: float | None = None, memory: int | float | str | None = None
) -> Estimate:
    """How much magnitude does the cloud lose without this point, for each of them?

    Parameters
    ----------
    x : array-like
        (n, d) distinct points.
    t, scale : float
        As for :func:`~lowdim.geometry.magnitude`.
    memory : int, float or str, optional
        Budget; 24 n^2 bytes are needed.

    Returns
    -------
    Estimate
        ``value`` is the magnitude, ``per_point`` the losses.

    Notes
    -----
    Trust the order of the losses at one ``t``: at a small one they find the outline, at 1 and above
    lone points. They do not add up: two points that stand in for each other each cost little.
    """
    inverse, weights = _inverse(x, t, scale, memory)
    loss = weights.square() / inverse.diagonal()
    return Estimate(value=float(weights.sum()), n=len(weights), per_point=loss)


def magnitude_subset(
    x: Any,
    *,
    loss: float = 0.01,
    t: float = 1.0,
    scale: float | None = None,
    memory: int | float | str | None = None,
) -> Reduction:
    """Which few points have nearly the magnitude of all?

    Parameters
    ----------
    x : array-like
        (n, d) distinct points.
    loss : float
        Share of the magnitude that may go, in [0, 1).
    t, scale, memory
        As for :func:`magnitude_moments`.

    Notes
    -----
    Greedy: each removal is the cheapest at its time. Trust the kept points as the outline at
    small t (0.1 and less) in few dimensions; in many every point lies on the outline. The value is
    computed anew from the kept points, not summed up.
    """
    if not 0 <= loss < 1:
        raise InputError(f"loss={loss}: the share of magnitude to lose lies in [0, 1)")
    points = as_points(x).double()
    inverse, weights = _inverse(points, t, scale, memory)
    rate = rate_of(points, t, scale, memory)
    full, spare = float(weights.sum()), loss * float(weights.sum())
    alive = torch.ones(len(weights), dtype=torch.bool, device=weights.device)
    for _ in range(len(weights) - 1):
        moments = torch.where(alive, weights.square() / inverse.diagonal(), torch.inf)
        row = int(moments.argmin())
        spare -= float(moments[row])
        if spare < 0:
            break
        column = inverse[:, row] / inverse[row, row].sqrt()
        weights -= column * (weights[row] / inverse[row, row].sqrt())
        inverse.addr_(column, column, alpha=-1)  # its own row and column become zero
        inverse[row, row] = 1.0
        alive[row] = False
    kept = alive.nonzero()[:, 0]
    z = similarities(points[kept], points[kept], rate)
    ones = z.new_ones(len(kept), 1)
    value = float(torch.cholesky_solve(ones, factor(z)).sum())
    return Reduction(value=value, n=len(alive), per_point=alive.double(), kept=kept, full=full)


def _inverse(
    x: Any, t: float, scale: float | None, memory: int | float | str | None
) -> tuple[Tensor, Tensor]:
    """Z^-1, which the losses are read off, and the weighting."""
    x = as_points(x).double()
    plan("magnitude_moments", rows=1, bytes_per_row=24 * len(x) ** 2, memory=memory)
    lower = factor(similarities(x, x, rate_of(x, t, scale, memory)))
    weights = torch.cholesky_solve(x.new_ones(len(x), 1), lower)[:, 0]
    return torch.cholesky_inverse(lower), weights
