"""Tight local intrinsic dimension (Amsaleg, Chelly, Houle, Kawarabayashi, Radovanovic 2019).

The maximum-likelihood estimate uses the k distances to the query alone. In a small ball every
neighbour may serve as a query too, if the border of the ball is accounted for: from i to j, the
ball is shrunk towards i until j lies on its surface, and its radius is the measurement. Each j
is also reflected through the query. That makes 2k^2 measurements of k points.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor

from lowdim.errors import InputError
from lowdim.geometry.nearest import Dimension, mean_of_local
from lowdim.geometry.patches import gram, over_patches
from lowdim.registry import method, neighbors, points

if TYPE_CHECKING:
    from lowdim.core.neighbors import Neighbors

FLAT = 2e-6
"""Mean logarithm that rounding alone can make: a dimension above a million is none."""


@method(
    "geometry/tle",
    needs=(points(distinct=True), neighbors(k=20)),
    paper="Amsaleg et al. 2019",
    arxiv="2209.14475",
    cost="O(n k^2 d)",
    oracle="skdim.id.TLE",
    invariant=("permutation", "rotation", "translation", "scale"),
)
def tle(
    x: Tensor, neighbors: Neighbors, *, k: int = 20, epsilon: float = 1e-4,
    queries: Tensor | None = None, memory: int | float | str | None = None,
) -> Dimension:  # fmt: skip
    """What is the dimension at each point, read off all distances within its neighbourhood?

    ``per_point`` holds the local dimensions, ``value`` their mean.

    Parameters
    ----------
    x : Tensor
        (n, d) distinct points.
    neighbors : Neighbors
        Of the same points, with at least ``k`` columns.
    k : int
        Size of a neighbourhood, at least 3.
    epsilon : float
        Measurements below this share of the neighbourhood's radius are left out.
    queries : Tensor, optional
        (m, d) the points whose neighbours these are, where that is not ``x`` itself.
    memory : int, float or str, optional
        Budget of the blocks of patches.

    Raises
    ------
    InputError
        Duplicates, k < 3, or all neighbours of every point at one distance from it.

    Notes
    -----
    Trust it where neighbourhoods must be small (k of 10 to 30), up to a dimension of about 10. The
    mean of local values is biased upwards, by a tenth at d = 2 (2.2 on a flat 2-torus, 3.1 on a
    3-dimensional cube, n = 1,500), which in high dimension makes up for part of what boundaries
    take away (8.7 and 15 for cubes of 10 and 20 dimensions, where MLE reads 8.0 and 14).
    """
    if k < 3:
        raise InputError(f"k={k}: tight estimation needs at least 3 neighbours")
    local = over_patches(
        lambda vectors: _tight(vectors.double(), epsilon),
        x, neighbors, k, queries=queries, memory=memory,
    )  # fmt: skip
    return mean_of_local(local, neighbors, k)


def _tight(vectors: Tensor, epsilon: float) -> Tensor:
    """Local dimension of each patch: (b, k, d) vectors within the unit ball to (b,)."""
    products = gram(vectors)
    squares = products.diagonal(dim1=1, dim2=2)  # (b, k) squared distances to the query
    own, other = squares[:, :, None], squares[:, None, :]
    direct = _measured((own + other - 2 * products).clamp_min(0), own, other)  # (b, k, k)
    mirrored = _measured((own + other + 2 * products).clamp_min(0), own, other)
    used = (direct >= epsilon) & (mirrored >= epsilon)
    used.diagonal(dim1=1, dim2=2).zero_()
    logs = torch.where(used, (direct * mirrored).log(), 0.0).sum((1, 2))
    central = squares.sqrt()
    near = central >= epsilon
    logs = logs + 2 * torch.where(near, central.log(), 0.0).sum(1)
    count = used.sum((1, 2)) + near.sum(1)
    return torch.where(logs < -FLAT * count, -2 * count / logs, torch.inf)


def _measured(square: Tensor, own: Tensor, other: Tensor) -> Tensor:
    """By which factor s is the unit ball shrunk towards u_i until u_j is on its surface?

    Its centre is then (1 - s) u_i. With ``square`` = |u_i - u_j|^2, s is the positive root of
    (1 - own) s^2 + b s = square, b = own + square - other, written so that nothing cancels as u_i
    comes to the surface itself, own = 1.
    """
    b = own + square - other
    root = (b.square() + 4 * square * (1 - own).clamp_min(0)).sqrt()
    return 2 * square / (b + root).clamp_min(torch.finfo(square.dtype).tiny)
