"""Correlation dimension: how the number of close pairs grows with the radius (Grassberger and
Procaccia 1983).

C(r) is the share of pairs nearer than r, which grows as r^d, so d is the slope of log C against
log r between two radii. These are the medians over points of the k1-th and k2-th distance, as in
scikit-dimension. A neighbour list at one end or the other holds every pair that counts, but for
pairs of points in dense places, both of whose lists end before the larger radius: those are counted
from products in float64.

Cost O(nk) and s^2 d operations, where s points have too short a list (few where the density is
even, a quarter to a half of the points where it is not). Memory: a few (n, k) arrays, and two
blocks of points with their products.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from lowdim.core.blocked import Frame, half_squares, rounding
from lowdim.core.memory import plan
from lowdim.errors import InputError
from lowdim.geometry.nearest import Dimension, is_own, separations, with_interval
from lowdim.registry import method, neighbors, points

if TYPE_CHECKING:
    from lowdim.core.neighbors import Neighbors


@method(
    "geometry/correlation-integral",
    needs=(neighbors(k=32), points(distinct=True)),
    paper="Grassberger and Procaccia 1983",
    cost="O(nk + s^2 d), s points with too short a list",
    oracle="skdim.id.CorrInt",
    invariant=("permutation", "rotation", "translation", "scale"),
)
def correlation_integral(
    neighbors: Neighbors, x: Tensor, *, k1: int = 10, k2: int = 20,
    memory: int | float | str | None = None,
) -> Dimension:  # fmt: skip
    """How fast does the number of close pairs grow with the distance that counts as close?

    Parameters
    ----------
    neighbors : Neighbors
        Of the points among themselves, with at least ``k2`` columns; more of them spare work.
    x : Tensor
        (n, d) the points.
    k1, k2 : int
        The radii are the medians over points of the k1-th and of the k2-th distance.
    memory : int, float or str, optional
        Budget of the blocks.

    Raises
    ------
    InputError
        Duplicates, queries from outside, k1 not below k2, equal radii, or no pair within the
        smaller one.

    Notes
    -----
    Trust it where density is even. Every pair counts the same, so dense places, which hold most of
    the close pairs, speak for the whole, and at radii that are typical of the whole set they are
    seen at a scale that is large for them (7.9 for 2,000 points of a 10-dimensional normal, where
    MLE reads 9.1); on clustered data the number says little. The standard
    error is that of a sum over pairs where pairs with a point in common depend on each other:
    squares of the sums over each point's pairs, less the squares of the pairs counted twice.
    """
    if not 1 <= k1 < k2:
        raise InputError(f"k1={k1}, k2={k2}: give 1 <= k1 < k2")
    if not is_own(neighbors) or len(x) != len(neighbors):
        raise InputError(
            f"{len(x)} points and neighbours of {len(neighbors)} rows among "
            f"{neighbors.n_reference}: pairs are counted among the points themselves"
        )
    r = separations(neighbors, neighbors.k)  # (n, k)
    radii = r[:, [k1 - 1, k2 - 1]].quantile(0.5, dim=0)  # (2,)
    count = _count(neighbors.indices, r, x, radii, memory)  # (n, 2) others within each radius
    near, far = (int(c) // 2 for c in count.sum(0))  # pairs
    span = float((radii[1] / radii[0]).log())
    if near == 0 or far == near or span == 0:
        raise InputError(
            f"{near} pairs within {radii[0]:.4g} and {far} within {radii[1]:.4g} have no slope: "
            "too few points, points on a grid, or density that is too uneven for one pair of radii"
        )
    # log(far / near) moves by 1/far for a pair within the larger radius, less 1/near within both
    gain = count[:, 1] / far - count[:, 0] / near  # (n,) sum over the pairs of each point
    twice = near * (1 / far - 1 / near) ** 2 + (far - near) / far**2
    own_pairs = float(gain.double().square().sum())
    # of a multinomial the variance is `twice` itself: the least it can be
    error = math.sqrt(max(own_pairs - twice, twice)) / span
    return with_interval(math.log(far / near) / span, error, len(x))


def _count(
    indices: Tensor, r: Tensor, x: Tensor, radii: Tensor, memory: int | float | str | None
) -> Tensor:
    """(n, 2) how many others lie within each radius of each point."""
    within = (r[:, :, None] < radii).long()  # (n, k, 2)
    short = r[:, -1] < radii[1]
    count = within.sum(1)
    rows = short.nonzero()[:, 0]
    listed = torch.zeros_like(count)  # how often the complete lists hold each point
    listed.index_add_(0, indices[~short].reshape(-1), within[~short].reshape(-1, 2))
    count[rows] = listed[rows] + _among(x[rows], radii, memory)
    return count


def _among(x: Tensor, radii: Tensor, memory: int | float | str | None) -> Tensor:
    """(s, 2) how many of these points lie within each radius of each of them."""
    count = torch.zeros(len(x), 2, dtype=torch.int64, device=x.device)
    if len(x) < 2:
        return count
    block = plan(
        "correlation-integral",
        rows=len(x),
        bytes_per_row=16 * x.shape[1] + 9 * min(1024, len(x)),
        memory=memory,
        largest=1024,
    )
    frame = Frame.of(x)
    limits = (radii * frame.scale).square() / 2
    norm = max(float(frame.place(part, torch.float64)[1].max()) for part in x.split(block))
    doubt = 8 * rounding(x.shape[1], torch.float64) * norm
    if doubt > 1e-6 * limits[0]:
        raise InputError(
            f"dense places lie too far apart to count their pairs within {radii[0]:.3g}: "
            "float64 does not resolve it, measure each place by itself"
        )
    buffer = x.new_empty(block * block, dtype=torch.float64)
    for top in range(0, len(x), block):
        rows = slice(top, top + block)
        ours = frame.place(x[rows], torch.float64)
        for left in range(top, len(x), block):
            columns = slice(left, left + block)
            theirs = frame.place(x[columns], torch.float64)
            squares = half_squares(*ours, *theirs, buffer)  # (rows, columns)
            near = [squares < limit for limit in limits]
            count[rows] += torch.stack([n.sum(1) for n in near], 1)
            if left > top:  # each block serves its rows and its columns
                count[columns] += torch.stack([n.sum(0) for n in near], 1)
    return count - 1  # each is within any radius of itself
