"""One dimension with an interval that has been tried: many estimators, calibrated together.

Every estimator of intrinsic dimension is biased, by boundaries, by curvature, by noise, by too few
points, and each in its own way. So their *disagreement* says which bias is at work. Fourteen
readings at three scales (ratios of neighbour distances, angles between neighbours, unevenness) are
turned into a dimension and an interval by a regression on simulated sets of known dimension; the
interval's width is set so that it holds for a family of shapes that the regression has not seen.

The readings: distance ratios as in Facco et al. 2017 (ranks 1:2) and Denti et al. 2022 (2:4, 4:8,
8:16), Levina and Bickel 2004 at 20 neighbours, and angles, which tell high dimensions apart where
distances no longer do (Ceruti et al. 2014, Johnsson et al. 2015). Regression adjusted simulation is
Beaumont et al. 2002, the interval split conformal (Lei et al. 2018) across families. Calibrated by
``python -m benchmarks.make_calibration``; none of the standard benchmark manifolds is in it.
"""

from __future__ import annotations

import json
import math
from dataclasses import dataclass, field, replace
from functools import cache, partial
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch
from torch import Tensor

from lowdim.core.memory import plan
from lowdim.core.neighbors import Neighbors
from lowdim.core.random import choice, permutation
from lowdim.core.shards import sample
from lowdim.core.spectrum import Spectrum
from lowdim.errors import InputError
from lowdim.geometry.nearest import Dimension, separations
from lowdim.nouns import Shared
from lowdim.registry import find, method, neighbors, points, spectrum

FEWEST, LARGEST = 100, 10_000
"""Rows of the smallest and the largest simulated set."""

RESOLVED = 2.5
"""Largest ratio of the upper to the lower end that still says something."""

UNEVEN = 2.5
"""Spread of local dimensions, over that of sampling, beyond which there is more than one."""

FAR = 64  # rows of the coarsest scale


@dataclass(frozen=True, kw_only=True)
class CombinedDimension(Dimension):
    """A dimension and what it was read from.

    Attributes
    ----------
    readings : dict
        The estimators that were combined, by name; plain numbers, each with its own bias.
    """

    readings: dict[str, float] = field(default_factory=dict)

    @property
    def resolved(self) -> bool:
        """Whether there is an interval."""
        return self.low is not None


def dimension(
    x: Any, *, level: float = 0.9, memory: int | float | str | None = None, seed: int = 0
) -> CombinedDimension:
    """How many directions can the data move in, and between which bounds for certain?

    Parameters
    ----------
    x : array-like, path or PointSource
        (n, d) points; of more than 10,000 rows a random 10,000 are read.
    level : float
        Coverage of the interval, 0.5 to 0.98.
    memory : int, float or str, optional
        Budget, a quarter of free RAM by default.
    seed : int
        Of the subsets that show the coarser scales.

    Returns
    -------
    CombinedDimension
        ``low`` and ``high`` are None, and a note says why, where the dimension is not resolved.

    Raises
    ------
    InputError
        Fewer than 21 distinct points, NaN/Inf, or points on a grid.

    Notes
    -----
    Trust it as :func:`dimension_from` says.
    """
    chosen = find("geometry/dimension")
    chosen = replace(chosen, function=partial(dimension_from, level=level))
    shared = Shared(x, [chosen], memory=memory, seed=seed)
    n = shared.source.n
    if n <= LARGEST:
        return cast(CombinedDimension, shared.run(chosen))
    rows = choice(n, LARGEST, seed).sort().values
    kept = sample(shared.source, rows, engine=shared.engine, memory=memory)
    found = Shared(kept, [chosen], memory=memory, seed=seed).run(chosen)
    note = f"read off {LARGEST:,} of {n:,} rows"
    return cast(CombinedDimension, found.replace(notes=(*found.notes, note)))


@method(
    "geometry/dimension",
    needs=(points(distinct=True), neighbors(k=20), spectrum(center=True)),
    paper="Beaumont et al. 2002; Lei et al. 2018; Denti et al. 2022; Johnsson et al. 2015",
    cost="O(n k^2 d), and eight searches of 64 and four of 8 sqrt(n) points",
    oracle="manifolds of known dimension",
    invariant=("rotation", "translation", "scale"),
    deep=True,
)
def dimension_from(
    x: Tensor,
    neighbors: Neighbors,
    spectrum: Spectrum,
    *,
    level: float = 0.9,
    memory: int | float | str | None = None,
    seed: int = 0,
) -> CombinedDimension:
    """How many directions can the data move in, and between which bounds for certain?

    :func:`dimension` is this method from points alone.

    Parameters
    ----------
    x : Tensor
        (n, d) distinct points.
    neighbors : Neighbors
        Of ``x``, with at least 20 columns.
    spectrum : Spectrum
        Of the points, centred.
    level, memory, seed
        See :func:`dimension`.

    Notes
    -----
    Trust it from 250 rows on and up to a dimension of about 30. It says "not resolved" below 100
    rows, where the upper end would exceed 2.5 times the lower, where local dimensions vary beyond
    sampling (several dimensions at once), and where the readings lie outside those of the
    simulated sets (tight clusters). It can be surely wrong on a curve or sheet wound so tightly
    that its turns are as close as its points, or buried in noise longer than that distance: it
    then reads the space filled. An interval without a whole number in it is extended to the
    nearest, and none exceeds the rank of the points. On a kind of shape unlike all simulated ones
    it is less sure than it says: of those left out in turn, the worst held in 74%.
    """
    calibration = load_calibration()
    quantile = calibration.score(level)
    if len(x) > LARGEST:  # the calibration knows no larger sets
        return dimension(x, level=level, memory=memory, seed=seed)
    found, n = readings(x, neighbors, memory=memory, seed=seed), len(x)
    rank = float((spectrum.values > 1e-9 * spectrum.total).sum())
    result = partial(CombinedDimension, n=n, level=level, seed=seed, readings=found)
    location, spread, distance = calibration.predict(found, n)
    if distance > calibration.farthest:
        note = "not resolved: the readings are unlike the simulated sets, the value is the MLE's"
        return result(value=min(found["mle"], rank), notes=(note,))
    value = min(math.exp(location), rank)
    low = min(math.exp(location - quantile * spread), rank)
    high = min(math.exp(location + quantile * spread), rank)
    low, high = _with_a_whole_number(value, low, high)
    if n < FEWEST or high / low > RESOLVED:
        note = f"not resolved at this n: {n} rows leave it between {low:.2g} and {high:.2g}"
        return result(value=value, notes=(note,))
    if found["uneven"] > UNEVEN:
        how = f"local dimensions vary {found['uneven']:.1f} times as much as by sampling"
        return result(value=value, notes=(f"not resolved: {how}, as if there were several",))
    return result(value=value, low=low, high=high)


def _with_a_whole_number(value: float, low: float, high: float) -> tuple[float, float]:
    """Extend an interval to the nearest whole number if it holds none: manifolds have such."""
    if math.floor(high) >= low:
        return low, high
    nearest = max(1, round(value))
    return min(low, nearest), max(high, nearest)


def readings(
    x: Tensor, neighbors: Neighbors, *, memory: int | float | str | None = None, seed: int = 0
) -> dict[str, float]:
    """What do the estimators say? All positive; those named by a scale are dimensions.

    ``ratio`` compares the distances of two ranks, ``angles`` are those among k neighbours;
    ``middle`` is the scale of subsets of 8 sqrt(n) points and ``coarse`` that of subsets of 64.
    ``uneven`` is the spread of local dimensions over that of pure sampling, ``density k`` the
    spread of log-distances to the k-th neighbour.
    """
    r = separations(neighbors, 20)  # (n, 20)
    found = {f"ratio {j}:{2 * j}": _ratio(r, j) for j in (1, 2, 4, 8)}
    inverse = _inverse(r)
    found["mle"] = float(1 / inverse.mean())
    found["uneven"] = float(inverse.std()) * found["mle"] * math.sqrt(19)
    found["density 1"] = float(r[:, 0].log().std()) * found["mle"]
    found["density 20"] = float(r[:, -1].log().std()) * found["mle"]
    for k in (8, 20):
        cosine = squared_cosine(x, neighbors.head(k).indices, memory=memory)
        found[f"angles {k}"] = float(1 / cosine)
    n, order = len(x), permutation(len(x), seed, device=x.device)
    for name, size, most in (("middle", 8 * math.isqrt(n), 4), ("coarse", FAR, 8)):
        size = min(size, n)
        parts = [x[rows] for rows in order.split(size)[: min(most, n // size)]]
        searches = [Neighbors.of_points(part, 12, memory=memory) for part in parts]
        distances = torch.cat([separations(search, 12) for search in searches])
        found[f"{name} mle"] = float(1 / _inverse(distances).mean())
        cosines = [
            squared_cosine(part, search.indices, memory=memory)
            for part, search in zip(parts, searches, strict=True)
        ]
        found[f"{name} angles"] = float(1 / torch.stack(cosines).mean())
    grid = [name for name, value in found.items() if not (0 < value < math.inf)]
    if grid:
        raise InputError(f"{', '.join(grid)} has no value here: points on a grid or on a line")
    return found


def _inverse(r: Tensor) -> Tensor:
    """(n,) local 1/d of Levina and Bickel from all columns."""
    return (r[:, -1:] / r[:, :-1]).log().mean(1)


def _ratio(r: Tensor, j: int) -> float:
    """Dimension from the mean log ratio of ranks j and 2j, which is (1/d) sum_{i=j}^{2j-1} 1/i."""
    log_mu = (r[:, 2 * j - 1] / r[:, j - 1]).log().mean()
    return float(sum(1 / i for i in range(j, 2 * j)) / log_mu)


def squared_cosine(
    x: Tensor, indices: Tensor, *, memory: int | float | str | None = None
) -> Tensor:
    """Mean cos^2 of the angles between neighbours: 1/d where directions are isotropic.

    Directions are differences of disjoint pairs of neighbours (1 - 2, 3 - 4, ...), whose law is
    symmetric about zero: no centre has to be guessed, and a boundary does not tilt them.

    Parameters
    ----------
    x : Tensor
        (n, d).
    indices : Tensor
        (n, k) neighbours of each, k even and at least 4.
    """
    n, k = indices.shape
    pairs = k // 2
    block = plan(
        "angles between neighbours", rows=n, bytes_per_row=32 * k * x.shape[1], memory=memory,
        largest=2048,
    )  # fmt: skip
    total = x.new_zeros((), dtype=torch.float64)
    for rows in indices.split(block):
        near = x[rows].double()  # (b, k, d)
        u = torch.nn.functional.normalize(near[:, 0::2] - near[:, 1::2], dim=2)
        cosine = u @ u.transpose(1, 2)  # (b, k/2, k/2)
        total += cosine.square().sum() - cosine.diagonal(dim1=1, dim2=2).square().sum()
    return total / (n * pairs * (pairs - 1))


@dataclass(frozen=True, eq=False)
class Calibration:
    """A quadratic regression of log d and of its error on the logarithms of the readings.

    Attributes
    ----------
    names : tuple of str
        The readings, in the order of the coefficients; ``n`` last.
    mean, scale : array
        (p,) of the simulated log-readings.
    location, spread : array
        (1 + p + p (p + 1) / 2,) coefficients of log d, and of the log of its error.
    precision : array
        (p, p) inverse correlation of the readings, by which ``farthest`` is measured.
    farthest : float
        Distance beyond which readings count as unlike the simulated ones.
    levels, scores : array
        Quantiles of |error| / spread on families that were left out of the fit.
    """

    names: tuple[str, ...]
    mean: np.ndarray
    scale: np.ndarray
    location: np.ndarray
    spread: np.ndarray
    precision: np.ndarray
    farthest: float
    levels: np.ndarray
    scores: np.ndarray

    def predict(self, found: dict[str, float], n: int) -> tuple[float, float, float]:
        """Log dimension, the size of its error, and the distance to the simulated readings."""
        at = np.log([found[name] for name in self.names[:-1]] + [n])
        z = (at - self.mean) / self.scale  # (p,)
        terms = quadratic(z[None])[0]
        distance = math.sqrt(float(z @ self.precision @ z))
        return float(terms @ self.location), math.exp(float(terms @ self.spread)), distance

    def score(self, level: float) -> float:
        """Half the width of an interval at this level, in spreads."""
        first, last = float(self.levels[0]), float(self.levels[-1])
        if not first <= level <= last:
            raise InputError(f"level={level}: calibrated from {first} to {last}")
        return float(np.interp(level, self.levels, self.scores))


def quadratic(z: np.ndarray) -> np.ndarray:
    """(m, p) -> (m, 1 + p + p (p + 1) / 2): one, the readings and their products."""
    i, j = np.triu_indices(z.shape[1])
    return np.concatenate([np.ones((len(z), 1)), z, z[:, i] * z[:, j]], 1)


@cache
def load_calibration() -> Calibration:
    """What ``benchmarks/make_calibration.py`` wrote."""
    stored = json.loads(Path(__file__).with_name("calibration.json").read_text("utf-8"))
    stored.pop("made")
    return Calibration(
        **{k: np.array(v) if isinstance(v, list) else v for k, v in stored.items()}
        | {"names": tuple(stored["names"])}
    )
