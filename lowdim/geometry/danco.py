"""DANCo: dimension from angle and norm concentration (Ceruti et al. 2014).

In high dimension the nearest of k neighbours is hardly nearer than the next, and two neighbours
stand at right angles: how nearly depends on the dimension, even where balls of k neighbours reach
over the whole cloud. So three statistics of the data are held against those of as many points
drawn evenly from balls of known dimension: the maximum-likelihood dimension of the norms r_1 /
r_(k+1), and the mean direction nu and concentration tau of von Mises laws fitted to the angles of
each patch. The dimension is where the sum of the two Kullback-Leibler divergences is least.

Cost beyond the neighbours: five or so balls, each a search of at most 4,096 queries in n points of
the dimension in question. They depend on (n, k, seed) alone and are kept for the process.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from scipy.interpolate import PchipInterpolator
from scipy.optimize import minimize_scalar
from scipy.special import comb, i0e, i1e, psi
from torch import Tensor

from lowdim.core import random
from lowdim.core.neighbors import Neighbors
from lowdim.errors import InputError
from lowdim.geometry.gride import solve
from lowdim.geometry.nearest import Dimension, as_dimension, separations
from lowdim.geometry.patches import gram, over_patches
from lowdim.registry import method, neighbors, points

Memory = int | float | str | None

GRID = sorted({round(1.1**i) for i in range(80)})
"""Dimensions of the balls: every whole number up to 10, then steps of a tenth."""

QUERIES = 4096
"""Most patches that a ball is measured by: its error is that of as many data points."""

ALIGNED = 0.999
"""Largest resultant length: beyond it, as on a line, the concentration has no bound."""

EDGE = 1e-4
"""How near to an end of the range the minimum counts as lying on it."""

_BALLS: dict[tuple[int, int, int, int], np.ndarray] = {}


@dataclass(frozen=True, kw_only=True)
class Danco(Dimension):
    """A dimension found by comparison with balls.

    Attributes
    ----------
    divergence : float
        Kullback-Leibler divergence from the data to the best ball, in nats: zero for a ball.
    from_norms : float
        Maximum likelihood from the norms alone, without comparison.
    angle : float
        Mean direction of the angles in radians; a right angle is 1.571.
    concentration : float
        Mean von Mises concentration of the angles.
    """

    divergence: float
    from_norms: float
    angle: float
    concentration: float


@method(
    "geometry/danco",
    needs=(points(distinct=True), neighbors(k=11)),
    paper="Ceruti et al. 2014",
    arxiv="1206.3881",
    cost="O(n k^2 d) and about five searches of 4,096 queries in n points",
    oracle="skdim.id.DANCo",
    invariant=("permutation", "rotation", "translation", "scale"),
    deep=True,
)
def danco(
    x: Tensor, neighbors: Neighbors, *, k: int = 10, seed: int = 0, memory: Memory = None
) -> Danco:
    """Which ball has neighbours as near and as perpendicular as these, for as many points?

    Parameters
    ----------
    x : Tensor
        (n, d) distinct points.
    neighbors : Neighbors
        Of the same points, with at least ``k + 1`` columns.
    k : int
        Neighbours whose angles are taken, 2 to 30.
    seed : int
        Of the balls.
    memory : int, float or str, optional
        Budget of the patches and of the searches in the balls.

    Raises
    ------
    InputError
        Duplicates, k out of range, or every point with all its neighbours at one distance.

    Notes
    -----
    Trust it up to 50 dimensions on evenly filled clouds with a border, where every estimator
    without a comparison reads low: cubes and balls of 10, 20 and 50 dimensions read 9.5, 20.4 to
    20.7 and 50.2 from 1,500 points. What has no border or an uneven density reads high: spheres
    of 10 and 20 dimensions 10.4 and 21, a flat 5-torus 5.8, normal clouds 11.0 and 21.7. A large
    ``divergence`` says that no ball is like the data. The value lies between 1 and the number of
    columns; at either end it has no interval. Elsewhere that follows from the influence of each
    row on the three statistics, the error of the balls included. scikit-dimension caps its
    balls' dimension from norms at k, and so means something else above 10.
    """
    if not 2 <= k <= 30:
        raise InputError(f"k={k}: DANCo takes the angles of 2 to 30 neighbours")
    seen, influence = statistics(x, neighbors, k, memory=memory)
    n, queries = len(x), min(len(x), QUERIES)
    grid = [dim for dim in GRID if dim < x.shape[1]] + [x.shape[1]]

    def ball(dim: int) -> np.ndarray:
        key = (n, k, dim, seed)
        if key not in _BALLS:
            _BALLS[key] = _of_ball(n, queries, dim, k, seed, memory)
        return _BALLS[key]

    at = int(np.abs(np.array(grid) - seen[0]).argmin())
    at = _descend(lambda i: divergence(seen, ball(grid[i]), k), at, len(grid))
    around = grid[max(at - 1, 0) : at + 2]
    curve = _through(around, [ball(dim) for dim in around])

    def best(statistics: np.ndarray) -> float:
        found = minimize_scalar(
            lambda dim: divergence(statistics, curve(dim), k),
            bounds=(around[0], around[-1]), method="bounded", options={"xatol": 1e-8},
        )  # fmt: skip
        return float(found.x)

    value = best(seen)
    if min(value - 1, grid[-1] - value) < EDGE:
        note = f"at {value:.0f}, an end of the range from 1 to {grid[-1]} columns: no interval"
        found = Dimension(value=float(round(value)), n=n, notes=(note,))
    else:
        steps = np.diag(1e-3 * np.abs(seen) + 1e-6)
        slope = [(best(seen + step) - best(seen - step)) / (2 * step.sum()) for step in steps]
        moved = influence @ torch.tensor(slope).to(influence)  # (n, 3) @ (3,)
        moved = moved * math.sqrt(1 + n / queries)  # the balls waver as so many more rows would
        found = as_dimension(value, moved, neighbors.head(k + 1).indices)
    return Danco(
        value=found.value, low=found.low, high=found.high, n=n, exact=False, seed=seed,
        standard_error=found.standard_error, notes=found.notes, from_norms=float(seen[0]),
        angle=float(seen[1]), concentration=float(seen[2]),
        divergence=max(0.0, divergence(seen, curve(found.value), k)),
    )  # fmt: skip


def statistics(
    x: Tensor, neighbors: Neighbors, k: int, *, queries: Tensor | None = None, memory: Memory = None
) -> tuple[np.ndarray, Tensor]:
    """What DANCo reads off the data: dimension from norms, mean angle, mean concentration.

    Returns
    -------
    seen : ndarray
        (3,).
    influence : Tensor
        (n, 3) how much each row moves them, mean zero.

    Notes
    -----
    The direction of a law is the full-circle angle of its mean resultant, since the arc tangent of
    the quotient jumps by pi as the mean cosine crosses zero, which in high dimension it does from
    patch to patch.
    """
    r = separations(neighbors, k + 1)  # (n, k + 1)
    log_mu = (r[:, k] / r[:, 0]).log()
    if not bool((log_mu > 0).any()):
        raise InputError(f"every point has its {k + 1} nearest at one distance: points on a grid")
    norms, influence = solve(log_mu, 1, k + 1)
    laws = over_patches(_von_mises, x, neighbors, k, queries=queries, memory=memory)  # (n, 2)
    means = laws.mean(0)
    seen = np.array([norms, *means.tolist()])
    return seen, torch.cat([influence[:, None], laws - means], 1)


def _von_mises(vectors: Tensor) -> Tensor:
    """Direction and concentration of the angles in each patch: (b, k, d) to (b, 2).

    The concentration inverts A(tau) = I1(tau) / I0(tau) by the approximation of Best and Fisher
    (1981), as the paper does.
    """
    k = vectors.shape[1]
    units = torch.nn.functional.normalize(vectors.double(), dim=2)
    first, second = torch.triu_indices(k, k, 1, device=vectors.device)
    cosines = gram(units)[:, first, second].clamp(-1, 1)  # (b, k (k - 1) / 2)
    across, along = (1 - cosines.square()).sqrt().mean(1), cosines.mean(1)
    length = torch.hypot(across, along).clamp_max(ALIGNED)
    concentration = torch.where(
        length < 0.53,
        2 * length + length**3 + 5 * length**5 / 6,
        torch.where(
            length < 0.85,
            -0.4 + 1.39 * length + 0.43 / (1 - length),
            1 / (length**3 - 4 * length**2 + 3 * length),
        ),
    )
    return torch.stack([torch.atan2(across, along), concentration], 1)


def divergence(seen: np.ndarray, ball: np.ndarray, k: int) -> float:
    """Kullback-Leibler divergence of the norms' law and the angles' law from those of a ball.

    The norms have density k d r^(d - 1) (1 - r^d)^(k - 1), the angles a von Mises law.

    Parameters
    ----------
    seen, ball : ndarray
        (3,) dimension from norms, angle, concentration.
    """
    (dim, angle, tau), (ball_dim, ball_angle, ball_tau) = seen, ball
    ratio, i = ball_dim / dim, np.arange(k + 1)
    harmonic = (1 / np.arange(1, k + 1)).sum()
    # E log(1 - u^ratio) for u = r^dim, the smallest of k uniform draws
    log_rest = ((-1.0) ** i * comb(k, i) * psi(1 + i / ratio)).sum()
    norms = harmonic * (ratio - 1) - math.log(ratio) - (k - 1) * (log_rest + 1 / k)
    angles = (
        math.log(i0e(ball_tau) / i0e(tau)) + ball_tau - tau
        + i1e(tau) / i0e(tau) * (tau - ball_tau * math.cos(angle - ball_angle))
    )  # fmt: skip
    return float(norms + angles)


def _of_ball(n: int, queries: int, dim: int, k: int, seed: int, memory: Memory) -> np.ndarray:
    """The statistics of n points in a ball, of fresh queries in n - 1 points of it."""
    rows = n - 1 + queries
    x = random.normal((rows, dim), seed, stream=dim, dtype=torch.float64)
    radius = random.uniform((rows, 1), seed, stream=dim) ** (1 / dim)
    x = torch.nn.functional.normalize(x) * radius
    x, at = x[: n - 1], x[n - 1 :]
    found = Neighbors.of_points(x, k + 1, queries=at, memory=memory)
    return statistics(x, found, k, queries=at, memory=memory)[0]


def _descend(height: Callable[[int], float], at: int, count: int) -> int:
    """Walk from ``at`` among 0 ... count - 1 to where no neighbour is lower."""
    for step in (1, -1):
        while 0 <= at + step < count and height(at + step) < height(at):
            at += step
    return at


def _through(dims: list[int], measured: list[np.ndarray]) -> Callable[[float], np.ndarray]:
    """A monotone curve of statistics through those of a few whole dimensions."""
    if len(dims) == 1:
        return lambda dim: measured[0]
    return PchipInterpolator(dims, np.stack(measured))
