"""Manifold-adaptive dimension: twice the neighbours, how much farther (Farahmand et al. 2007)?

The mass within r grows as r^d, so doubling the count of neighbours from k/2 to k multiplies the
radius by 2^(1/d): the local dimension is log 2 / log(r_k / r_(k/2)), averaged over points.
Cost O(n), memory a few (n,) arrays.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from lowdim.errors import InputError
from lowdim.geometry.nearest import Dimension, mean_of_local, separations
from lowdim.registry import method, neighbors

if TYPE_CHECKING:
    from lowdim.core.neighbors import Neighbors


@method(
    "geometry/mada",
    needs=neighbors(k=20),
    paper="Farahmand, Szepesvari and Audibert 2007",
    cost="O(n)",
    oracle="skdim.id.MADA",
    invariant=("permutation", "rotation", "translation", "scale"),
)
def mada(neighbors: Neighbors, *, k: int = 20) -> Dimension:
    """How many directions can the data move in, by the radius that twice the neighbours take?

    ``per_point`` holds the local dimension of every row.

    Parameters
    ----------
    neighbors : Neighbors
        Of distinct points, or of queries among others, with at least ``k`` columns.
    k : int
        The larger count; the smaller is k // 2.

    Raises
    ------
    InputError
        Duplicates, k < 2, or every point with r_k = r_(k/2).

    Notes
    -----
    Trust its order of magnitude and what it says of one place against another. It reads one pair of
    distances, so a local value scatters by a third at k = 20, and the mean of such quotients lies
    above the truth (7.5% at k = 20, whatever d); MLE uses all k distances and has neither
    trouble. A few points with nearly equal radii can dominate the mean: then look at the median of
    ``per_point``. Points with equal radii are left out of the mean, with a note.
    """
    if k < 2:
        raise InputError(f"k={k}: at least 2 neighbours, to compare k with k // 2")
    r = separations(neighbors, k)  # (n, k)
    return mean_of_local(math.log(2) / (r[:, -1] / r[:, k // 2 - 1]).log(), neighbors, k)
