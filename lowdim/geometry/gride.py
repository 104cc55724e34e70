"""Intrinsic dimension against scale, from generalised ratios (Denti, Doimo, Laio, Mira 2022).

Around each point let mu = r_n2 / r_n1, the distance to its n2-th neighbour over that to its n1-th.
If density hardly changes within r_n2, mu^-d follows a Beta(n1, n2 - n1) law whatever the density,
so with x = d log mu the log-likelihood of n points is, up to a constant,

    n log d - n1 sum x + (n2 - n1 - 1) sum log(1 - exp(-x))

concave in d. n1 = 1, n2 = 2 is TwoNN by maximum likelihood, 1 / mean(log mu); n1 = 1, n2 = k + 1
is MiND-ML. Doubling n1 looks at a larger scale with all points and without thinning them out.
Cost O(n) a step of Newton's method, about six steps a scale; memory a few (n,) arrays.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from itertools import pairwise
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from lowdim.errors import InputError
from lowdim.geometry.nearest import Dimension, as_dimension, separations
from lowdim.registry import method, neighbors

if TYPE_CHECKING:
    from lowdim.core.neighbors import Neighbors


@dataclass(frozen=True, kw_only=True)
class Gride(Dimension):
    """An intrinsic dimension with its profile over scales.

    Attributes
    ----------
    n1 : tuple of int
        1, 2, 4, ...: the scale, at which ratios r_(2 n1) / r_n1 are taken.
    dimensions : tuple of float
        The estimate at each scale.
    standard_errors : tuple of float
        Of each of them, overlap of neighbourhoods counted. They are not independent.
    distances : tuple of float
        What the scale is in the units of the data: the mean of r_n1 and r_(2 n1) over all points.
    scale : int
        The ``n1`` at which ``value`` was read.
    """

    n1: tuple[int, ...]
    dimensions: tuple[float, ...]
    standard_errors: tuple[float | None, ...]
    distances: tuple[float, ...]
    scale: int


@method(
    "geometry/gride",
    needs=neighbors(k=32),
    paper="Denti et al. 2022",
    arxiv="2104.13832",
    cost="O(nk)",
    oracle="skdim.id.GRIDE",
    invariant=("permutation", "rotation", "translation", "scale"),
)
def gride(neighbors: Neighbors, *, k: int = 32) -> Gride:
    """How does the number of directions the data can move in depend on the scale?

    The profile is taken at n1 = 1, 2, 4, ... as long as 2 n1 is at most ``k``. ``value`` is read
    where it is flattest: of all steps from one scale to the next, take the one where the logarithm
    of the dimension changes least, and of its two scales the larger, whose error is smaller.

    Parameters
    ----------
    neighbors : Neighbors
        Of distinct points, or of queries among others, with at least ``k`` columns.
    k : int
        The farthest neighbour looked at: 32 gives five scales, 64 six.

    Raises
    ------
    InputError
        Duplicates, k < 2, or every ratio 1 (points on a grid).

    Notes
    -----
    Trust it where two or more scales in a row agree within their errors: that is a plateau. A
    profile that falls all the way has none: noise in every coordinate lifts the small scales,
    boundaries and high dimension pull the large ones down (a 10-dimensional cube of 2,000 points
    reads 8.4 at n1 = 1 and 7.8 at n1 = 16), and then the headline is one point of a slope.
    Ties (r_n1 = r_(2 n1)) are no ratios of a continuous law: they enter as the limit mu -> 1, and a
    note says how many there are. The interval is that of the scale read, as if chosen beforehand.
    """
    if k < 2:
        raise InputError(f"k={k}: ratios need at least 2 neighbours")
    r = separations(neighbors, k)  # (n, k)
    n1 = [2**i for i in range(k.bit_length() - 1)]
    profile = [of_ratios(r, near, 2 * near, neighbors) for near in n1]
    logs = [math.log(found.value) for found in profile]
    steps = [abs(b - a) for a, b in pairwise(logs)]
    at = steps.index(min(steps)) + 1 if steps else 0
    read = profile[at]
    return Gride(
        value=read.value, low=read.low, high=read.high, n=read.n, notes=read.notes,
        standard_error=read.standard_error, n1=tuple(n1), scale=n1[at],
        dimensions=tuple(found.value for found in profile),
        standard_errors=tuple(found.standard_error for found in profile),
        distances=tuple(float(r[:, [near - 1, 2 * near - 1]].mean()) for near in n1),
    )  # fmt: skip


def of_ratios(r: Tensor, n1: int, n2: int, neighbors: Neighbors) -> Dimension:
    """Maximum likelihood of d from the ratios r_n2 / r_n1, with its interval.

    Parameters
    ----------
    r : Tensor
        (n, k) float64 distances above zero, ascending in each row.
    n1, n2 : int
        Orders of the two neighbours, n1 < n2 <= k.
    neighbors : Neighbors
        Where the distances come from.
    """
    log_mu = (r[:, n2 - 1] / r[:, n1 - 1]).log()  # (n,)
    tied = int((log_mu == 0).sum())
    if tied == len(log_mu):
        raise InputError(f"every point has r_{n1} = r_{n2}: points on a grid")
    value, influence = solve(log_mu, n1, n2)
    note = f"{tied / len(log_mu):.0%} of points have r_{n1} = r_{n2}: rounded data"
    return as_dimension(
        value, influence, neighbors.head(n2).indices, n_reference=neighbors.n_reference,
        notes=(note,) if tied > 0.01 * len(log_mu) else (),
    )  # fmt: skip


def solve(log_mu: Tensor, n1: int, n2: int) -> tuple[float, Tensor]:
    """The root of the score in d, and how much each ratio moves it.

    d times the score is the sum of 1 - n1 x + (n2 - n1 - 1) x / (e^x - 1), which falls in d and is
    convex. As x / (e^x - 1) >= 1 - x/2, the start lies left of the root, and Newton's method climbs
    to it without ever stepping over. With n2 = n1 + 1 the start is the root.

    Returns
    -------
    value : float
    influence : Tensor
        (n,) mean zero: to first order, the mean is the error of the estimate.
    """
    between = n2 - n1 - 1
    d = (1 + between) / ((n1 + between / 2) * log_mu.mean())
    for _ in range(100):
        x = d * log_mu
        # x / (e^x - 1) as x e^-x / (1 - e^-x): no overflow; its limit at a tie is 1
        bose = torch.where(x > 0, x * (-x).exp() / -(-x).expm1(), 1)
        score = 1 - n1 * x + between * bose  # (n,) each times d
        # x times the derivative of bose is bose (1 - x - bose); at a tie it is zero
        slope = (between * bose * (1 - x - bose) - n1 * x).mean() / d
        step = -score.mean() / slope
        d = d + step
        if abs(step) <= 1e-12 * d:
            break
    return float(d), (score - score.mean()) / -slope
