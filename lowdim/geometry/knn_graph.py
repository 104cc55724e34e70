"""Intrinsic dimension from how the neighbour graph shortens as points are added (Costa and Hero).

The mean distance to the k nearest among p points falls as p^(-1/d) (Costa and Hero 2004; Carter,
Raich and Hero 2010), so -1/d is the slope of its logarithm against log p. Here p runs over n, n/2,
n/4 and n/8: a random permutation is cut into 1, 2, 4 and 8 parts, so every size uses all points
once, no point is drawn twice, and all searches of the parts together cost less than the one of the
whole, which is shared. Memory: that of one search of half of the points.
"""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import Tensor

from lowdim.core.neighbors import Neighbors
from lowdim.core.random import permutation
from lowdim.errors import InputError
from lowdim.geometry.nearest import Dimension, as_dimension, is_own, separations
from lowdim.registry import method, neighbors, points

HALVINGS = 3


@method(
    "geometry/knn-graph",
    needs=(neighbors(k=32), points(distinct=True)),
    paper="Costa and Hero 2004; Carter, Raich and Hero 2010",
    cost="searches of 2 halves, 4 quarters and 8 eighths: 7/8 of the whole's",
    oracle="skdim.id.KNN",
    invariant=("rotation", "translation", "scale"),
    deep=True,
)
def knn_graph(
    neighbors: Neighbors, x: Tensor, *, k: int = 4, seed: int = 0,
    memory: int | float | str | None = None,
) -> Dimension:  # fmt: skip
    """How many directions can the data move in, by how slowly points draw nearer as more come?

    Parameters
    ----------
    neighbors : Neighbors
        Of the points among themselves, with at least ``k`` columns; 8 k of them tell which points
        are neighbours in an eighth of the set, for the interval.
    x : Tensor
        (n, d) the points, distinct.
    k : int
        Neighbours in the mean distance.
    seed : int
        Of the permutation.
    memory : int, float or str, optional
        Budget of each search.

    Raises
    ------
    InputError
        Duplicates, queries from outside, an eighth of the points not above ``k``, or distances that
        do not fall with n.

    Notes
    -----
    Trust it as an independent opinion: it compares sets of several sizes and assumes nothing of the
    law of distances within one neighbourhood, which every ratio estimator does. Where density is
    even it is nearly as precise as MLE. Its mean is over distances, so sparse places weigh the
    most, and heavy tails lift it: 500 points of a 2-dimensional normal read 2.1, of Student's t
    with three degrees of freedom 2.4. Boundaries, high dimension and noise act as on the others.
    scikit-dimension's draws samples of 3 to 6 points by default, with replacement, so that a point
    meets its own copy at distance zero, and answers in whole numbers.
    """
    n = len(neighbors)
    if not is_own(neighbors) or len(x) != n:
        raise InputError(
            f"{len(x)} points and neighbours of {n} rows among {neighbors.n_reference}: "
            "sets of several sizes are made from the points themselves"
        )
    if not 1 <= k < n >> HALVINGS:
        raise InputError(
            f"k={k}: between 1 and {max((n >> HALVINGS) - 1, 0)}, below an eighth of the {n} points"
        )
    order = permutation(n, seed, device=x.device)
    log_size = torch.tensor([n >> i for i in range(HALVINGS + 1)]).double().log()
    weight = log_size - log_size.mean()
    weight = weight / weight.square().sum()  # of least squares: slope = weight @ log mean distance
    slope, influence = 0.0, torch.zeros(n, dtype=torch.float64, device=x.device)
    for i, share in enumerate(weight.tolist()):
        if i == 0:
            rows, length = torch.arange(n, device=x.device), separations(neighbors, k).mean(1)
        else:
            parts = order[: (n >> i) << i].view(1 << i, n >> i)
            searched = [Neighbors.of_points(x[part], k, memory=memory) for part in parts]
            rows = parts.reshape(-1)
            length = torch.cat([separations(found, k).mean(1) for found in searched])
        mean = length.mean()
        slope += share * float(mean.log())
        influence[rows] += share * (length / mean - 1) * n / len(rows)
    if slope >= 0:
        raise InputError(f"distances do not fall as points are added (slope {slope:.3g} of log p)")
    near = neighbors.head(min(neighbors.k, k << HALVINGS)).indices
    found = as_dimension(-1 / slope, influence / slope**2, near)
    return replace(found, exact=False, seed=seed)
