"""How the dimension of a representation rises and falls through the layers of a network.

Valeriani et al. 2023 and Cheng et al. 2025 (a phase of high dimension in the middle of language
models), Razzhigaev et al. 2024 (anisotropy and TwoNN by layer), Lee et al. 2025 (nonlinear against
linear dimension). One neighbour search and one spectrum a layer serve all the dimensions; who
predicts whom is :mod:`lowdim.compare.information_imbalance`, and what stays is
:mod:`lowdim.compare.neighborhood_overlap`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Any

from lowdim.battery import Shared
from lowdim.compare.information_imbalance import imbalances
from lowdim.compare.neighborhood_overlap import shared
from lowdim.core.estimate import Estimate
from lowdim.core.neighbors import Neighbors
from lowdim.core.points import as_points
from lowdim.core.random import choice
from lowdim.errors import InputError
from lowdim.registry import find, layers, method

MEASURES = (
    "geometry/two-nn",
    "geometry/gride",
    "geometry/mle",
    "geometry/participation-ratio",
    "geometry/rank-99",
    "geometry/anisotropy",
)
OVERLAP_K = 10
SAMPLE = 2_000


@dataclass(frozen=True)
class Phase:
    """The layers of high dimension around the maximum of a profile.

    Attributes
    ----------
    peak, onset, end : int
        The layer of the maximum; the first and the last of the contiguous layers around it whose
        dimension is at least halfway from the smallest of the profile to the largest.
    level : float
        That halfway dimension.
    clear : bool
        Whether the peak lies inside, and the lower end of its interval above the upper ends of
        the first and the last layer's; without intervals, whether it exceeds them.
    """

    peak: int
    onset: int
    end: int
    level: float
    clear: bool


@dataclass(frozen=True, kw_only=True)
class DimensionProfile(Estimate):
    """Dimensions by layer; ``value`` with its interval is that of the peak layer.

    Attributes
    ----------
    by : str
        Which measure the phase was read off.
    phase : Phase
        Where the dimension is high.
    layers : tuple of dict
        For each layer an :class:`~lowdim.Estimate` by method id.
    overlap : tuple of float
        L - 1 shares of the 10 nearest neighbours that a layer has in common with the next.
    to_first, from_first, to_last, from_last : tuple of float
        L information imbalances: how badly a layer predicts the neighbours of the first, and so
        on; 2/n at best, about 1 at worst.
    n_compared : int
        Rows that overlap and imbalance rest on, a uniform sample of all.
    """

    by: str
    phase: Phase
    layers: tuple[dict[str, Estimate], ...] = field(repr=False)
    overlap: tuple[float, ...] = field(repr=False)
    to_first: tuple[float, ...] = field(repr=False)
    from_first: tuple[float, ...] = field(repr=False)
    to_last: tuple[float, ...] = field(repr=False)
    from_last: tuple[float, ...] = field(repr=False)
    n_compared: int

    def curve(self, id: str) -> list[float]:
        """Values of one measure through the layers."""
        return [layer[id].value for layer in self.layers]

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON values."""
        layers = [{id: e.to_dict() for id, e in layer.items()} for layer in self.layers]
        return super().to_dict() | {"phase": vars(self.phase), "layers": layers}


@method(
    "geometry/dimension-profile",
    needs=layers(),
    paper="Cheng et al. 2025; Razzhigaev et al. 2024",
    arxiv="2405.15471",
    cost="a neighbour search and a spectrum a layer, O(n^2 d) more for each on 2,000 rows",
    invariant=("permutation", "rotation", "translation", "scale"),
    deep=True,
)
def dimension_profile(
    layers: Sequence[Any],
    *,
    by: str = "geometry/gride",
    memory: int | float | str | None = None,
    seed: int = 0,
) -> DimensionProfile:
    """In which layers is the representation of highest dimension, and where does that begin?

    Parameters
    ----------
    layers : sequence of array-like
        L of (n, d_l), the same rows in every layer, in the order of the network.
    by : str
        Id of the measure whose maximum is looked for; it reads points.
    memory, seed
        Budget of a layer; seed of the sample for overlap and imbalance.

    Raises
    ------
    InputError
        No layers, different rows, NaN or Inf, or too few distinct rows (33).

    Notes
    -----
    Trust it for the shape and not for the height: nearest-neighbour dimensions above ten read low,
    most so where they are largest. Believe a peak only where ``phase.clear``, and compare it with
    the same texts with their words shuffled or with an untrained model: a peak that these show
    too is the architecture's and not of the language.
    """
    xs = _check(layers)
    chosen = [find(id) for id in dict.fromkeys((*MEASURES, by))]
    found = []
    for x in xs:
        nouns = Shared(x, chosen, memory=memory, seed=seed)
        found.append({m.id: nouns.run(m) for m in chosen})
    rows = choice(len(xs[0]), min(len(xs[0]), SAMPLE), seed=seed).sort().values
    some = [x[rows.to(x.device)] for x in xs]
    near = [Neighbors.of_points(x, OVERLAP_K, memory=memory).indices for x in some]
    overlap = [float(shared(a, b).mean()) for a, b in pairwise(near)]
    first, last = (imbalances(some, some[i], memory=memory) for i in (0, -1))
    curve = [layer[by] for layer in found]
    where = phase([e.value for e in curve], [e.low for e in curve], [e.high for e in curve])
    top = curve[where.peak]
    return DimensionProfile(
        value=top.value, low=top.low, high=top.high, n=len(xs[0]), seed=seed, notes=top.notes,
        by=by, phase=where, layers=tuple(found), overlap=tuple(overlap),
        to_first=_means(first[0]), from_first=_means(first[1]),
        to_last=_means(last[0]), from_last=_means(last[1]), n_compared=len(rows),
    )  # fmt: skip


def phase(
    values: Sequence[float],
    low: Sequence[float | None] = (),
    high: Sequence[float | None] = (),
) -> Phase:
    """Which contiguous layers around the maximum are of high dimension? See :class:`Phase`."""
    if not values:
        raise InputError("a profile of no layers has no phase: give at least one value")
    peak = max(range(len(values)), key=lambda i: values[i])
    level = (min(values) + values[peak]) / 2
    onset = end = peak
    while onset > 0 and values[onset - 1] >= level:
        onset -= 1
    while end + 1 < len(values) and values[end + 1] >= level:
        end += 1

    def edge(ends: Sequence[float | None], i: int) -> float:
        found = ends[i] if ends else None
        return values[i] if found is None else found

    rim = max(edge(high, 0), edge(high, len(values) - 1))
    inside = 0 < peak < len(values) - 1
    return Phase(peak, onset, end, level, inside and edge(low, peak) > rim)


def _means(columns: Any) -> tuple[float, ...]:
    return tuple(columns.mean(0).tolist())


def _check(layers: Sequence[Any]) -> list[Any]:
    if not len(layers):
        raise InputError("there are no layers: give one array of points for each")
    xs = [as_points(x, name=f"layers[{i}]") for i, x in enumerate(layers)]
    for i, x in enumerate(xs):
        if len(x) != len(xs[0]):
            raise InputError(f"layers[{i}] has {len(x)} rows and layers[0] {len(xs[0])}: the same")
    return xs
