"""Rows that nearly repeat another row: found without a threshold in the data's own units.

In d dimensions a share 1 - 2^-(t^d), about 0.7 t^d, of independent points has its nearest within t
times the median nearest distance: next to none for embeddings, but 1 in 25 at d = 2 and t = 1/4.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from lowdim.core.estimate import Estimate
from lowdim.core.points import as_points, distinct
from lowdim.errors import InputError
from lowdim.registry import method, neighbors, points

if TYPE_CHECKING:
    from lowdim.core.neighbors import Neighbors

SHOWN = 100
CHANCE = 0.001


@dataclass(frozen=True, kw_only=True)
class NearDuplicates(Estimate):
    """How many rows nearly repeat another.

    Attributes
    ----------
    pairs : tuple of (int, int, float)
        Up to 100 pairs of rows of ``x`` with their distance, closest first: each row counted and
        its nearest. A row that has exact copies stands for all of them.
    threshold : float
        The distance below which a pair counts.
    """

    pairs: tuple[tuple[int, int, float], ...]
    threshold: float


@method(
    "geometry/near-duplicates",
    needs=(points(), neighbors(k=2)),
    paper="a rule of this library",
    cost="O(nd)",
    invariant=("permutation", "rotation", "translation", "scale"),
)
def near_duplicates(x: Tensor, neighbors: Neighbors, *, ratio: float = 0.25) -> NearDuplicates:
    """How many rows say nearly the same as another row, exact copies not counted?

    A row counts when another lies closer than a quarter of the median distance from a point to its
    nearest, and closer than chance alone brings one row in a thousand at the dimension of the data.
    Neither has a unit, nor gives way unless half of the rows are near-copies: the dimension is that
    of the median ratio of second to first distance, whose logarithm has the median log(2) / d.

    Parameters
    ----------
    x : Tensor
        (n, d).
    neighbors : Neighbors
        Of the distinct rows of ``x``, in their order of first appearance; k at least 2.
    ratio : float
        Share of the median nearest distance, a quarter by default.

    Raises
    ------
    InputError
        The neighbours are not those of the distinct rows of ``x``.

    Notes
    -----
    Trust it for independent rows; up to 0.1% of them count by chance where the dimension is below
    5. Rows along a path (frames of a video, tokens of one text) are close without being copies. It
    misses near-copies where they make up most of the data.
    """
    x = as_points(x)
    kept, inverse = distinct(x)
    nearest = neighbors.head(1)
    distance = nearest.distances[:, 0].double()  # (m,)
    if len(distance) != len(kept):
        raise InputError(
            f"x has {len(kept)} distinct rows and the neighbours are of {len(distance)}: "
            "search among lowdim.core.points.distinct(x)[0]"
        )
    second = neighbors.head(2).distances[:, 1].double()
    per_dimension = float((second / distance).log().median()) / math.log(2)  # 1/d, copies or not
    by_chance = -math.log2(1 - CHANCE)  # t^d where the share 1 - 2^-(t^d) is CHANCE
    threshold = min(ratio, by_chance**per_dimension) * float(distance.median())
    close = (distance < threshold).nonzero()[:, 0]
    row = torch.full((len(kept),), len(x), device=x.device)  # where each distinct row first stands
    row.scatter_reduce_(0, inverse, torch.arange(len(x), device=x.device), "amin")

    closest = close[distance[close].argsort(stable=True)][: 2 * SHOWN]  # most pairs come twice
    ends = torch.stack([row[closest], row[nearest.indices[closest, 0]]], 1).sort(1).values
    pairs = dict(zip(map(tuple, ends.tolist()), distance[closest].tolist(), strict=True))
    return NearDuplicates(
        value=float(len(close)),
        n=len(kept),
        pairs=tuple((i, j, gap) for (i, j), gap in pairs.items())[:SHOWN],
        threshold=threshold,
    )
