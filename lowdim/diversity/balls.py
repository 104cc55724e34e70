"""Which points of one set lie inside the nearest-neighbour balls of another, both ways at once.

Every point carries a ball that reaches to its k-th neighbour in its own set. Whether |x - y| is
below a radius is read off blocks of float32 products; where their rounding leaves it open, the
distance is taken again from differences in float64, by the same routine as the radius: so a point
exactly on the boundary is outside, whatever the block sizes.

Cost: n m d multiply-adds and two passes over the distances for both directions together. Memory:
one block and float32 copies of the points; the n x m distances are never held.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from threading import Lock

import torch
from torch import Tensor

from lowdim.core.blocked import (
    BLOCK,
    GROUP,
    PAIR_CELLS,
    Frame,
    Search,
    block_side,
    full_precision,
    half_squares,
    on_threads,
    rounding,
)
from lowdim.core.neighbors import Neighbors


@dataclass
class Tally:
    """Of pairs (i, j): how many each i and each j is in, and the sum of its partners' indices.

    Where the count is one, that sum is the partner: so it is known who is whose only partner.
    """

    counts: tuple[Tensor, Tensor]
    partners: tuple[Tensor, Tensor]
    lock: Lock = field(default_factory=Lock)

    @classmethod
    def of_size(cls, n: int, m: int, device: torch.device) -> Tally:
        """No pairs yet."""
        a, b, c, d = (
            torch.zeros(size, dtype=torch.int64, device=device) for size in (n, m) for _ in "cp"
        )
        return cls((a, c), (b, d))

    def add(self, i: Tensor, j: Tensor) -> None:
        """Count the pairs; threads may call this at once, integers do not mind their order."""
        with self.lock:
            for at, (one, other) in enumerate(((i, j), (j, i))):
                self.counts[at].index_add_(0, one, torch.ones_like(one))
                self.partners[at].index_add_(0, one, other)

    def sole(self, side: int) -> Tensor:
        """For each member of ``side``, how many of the other side have it as their only partner."""
        single = self.counts[1 - side] == 1
        return torch.bincount(self.partners[1 - side][single], minlength=len(self.counts[side]))


def memberships(
    x: Tensor, y: Tensor, k: int, memory: int | float | str | None
) -> tuple[Tally, Tally, int]:
    """Pairs (i, j) with y_j inside the ball of x_i, and pairs with x_i inside the ball of y_j.

    The third result counts the balls of radius zero.

    Parameters
    ----------
    x, y : Tensor
        (n, d) and (m, d) checked points.
    k : int
        A ball reaches up to, and does not hold, the k-th nearest other point of its own set.
    """
    (n, d), m, device = x.shape, len(y), x.device
    frame = Frame.of(x, y)
    search = Search(y, x, None, 1, frame)  # distances from rows of x to rows of y
    reach = tuple(_radii(points, k, frame, memory) for points in (x, y))
    fixed = (n + m + 2 * BLOCK) * (d + 2) * 4 + 24 * max(PAIR_CELLS, search.threads * d)
    side = block_side(max(n, m), d, fixed + 80 * (n + m), search.threads, memory)
    rows, row_norms = search.placed(x, None, -(-n // side) * side)
    columns, column_norms = search.placed(y, None, -(-m // side) * side)
    (row_sure, row_open), (column_sure, column_open) = (
        _limits(radii, norms, d)
        for radii, norms in zip(reach, (row_norms, column_norms), strict=True)
    )
    of_x, of_y = (Tally.of_size(n, m, device) for _ in "xy")

    def inside(i: Tensor, j: Tensor, certain: Tensor, radii: Tensor) -> tuple[Tensor, Tensor]:
        """The pairs that are certain, and those that float64 finds below the radius."""
        unsure = (~certain).nonzero()[:, 0]
        if len(unsure):
            certain[unsure] = _gaps(search, i[unsure], j[unsure]) < radii[unsure]
        return i[certain], j[certain]

    def row_of_blocks(first: int) -> None:
        a, buffer = slice(first, first + side), rows.new_empty(side * side)
        for start in range(0, len(columns), side):
            b = slice(start, start + side)
            block = half_squares(rows[a], row_norms[a], columns[b], column_norms[b], buffer)
            lowest = block.unflatten(1, (GROUP, -1)).amin(1)  # (side, side / GROUP)
            i, j, h = _below(block, lowest, row_open[a])
            i, j = i + first, j + start
            of_x.add(*inside(i, j, h < row_sure[i], reach[0][i]))
            lowest = block.unflatten(0, (GROUP, -1)).amin(0)  # before .T: five times as fast
            j, i, h = _below(block.T, lowest.T, column_open[b])
            i, j = i + first, j + start
            of_y.add(*inside(i, j, h < column_sure[j], reach[1][j]))

    with full_precision():
        for _ in on_threads(row_of_blocks, range(0, len(rows), side), device):
            pass
    return of_x, of_y, sum(int((radii == 0).sum()) for radii in reach)


def _radii(x: Tensor, k: int, frame: Frame, memory: int | float | str | None) -> Tensor:
    """(n,) float64 distances to the k-th neighbour, in units of the frame."""
    kth = Neighbors.of_points(x, k, memory=memory).indices[:, -1]
    return _gaps(Search(x, x, None, 1, frame), torch.arange(len(x), device=x.device), kth)


def _gaps(search: Search, i: Tensor, j: Tensor) -> Tensor:
    """(p,) distances of the pairs, from differences in float64."""
    step = max(1, PAIR_CELLS // (search.threads * search.x.shape[1]))
    pairs = zip(i.split(step), j.split(step), strict=True)
    return torch.cat([search.gaps(a, b[:, None])[:, 0] for a, b in pairs])


def _limits(radii: Tensor, norms: Tensor, d: int) -> tuple[Tensor, Tensor]:
    """Half squares from products below the first are inside for sure, above the second outside.

    |h from products - h| <= g (|x|^2 + |y|^2) <= g (3 |x|^2 + 4 h), see ``blocked.rounding``.
    """
    g, single = rounding(d, torch.float32), torch.finfo(torch.float32)
    half = radii.square() / 2
    slack = 6 * g * norms[: len(radii)].double() + 4 * g * half + (4 * d + 8) * single.tiny
    ends = []
    for limit, way in ((half - slack, -math.inf), (half + slack, math.inf)):
        padded = norms.new_full(norms.shape, -math.inf)  # rows that only fill a block hold nothing
        single_limit = limit.float()
        padded[: len(radii)] = single_limit.nextafter(single_limit.new_tensor(way))
        ends.append(padded)
    return ends[0], ends[1]


def _below(block: Tensor, lowest: Tensor, limit: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Rows, columns and values of the (r, c) block's entries up to the limit of their row.

    ``lowest`` (r, c / GROUP) are the minima over columns g, g + groups, g + 2 groups, ...; only
    groups whose minimum passes are looked into.
    """
    line, group = (lowest <= limit[:, None]).nonzero().unbind(1)
    values = block.unflatten(1, (GROUP, -1))[line, :, group]  # (hits, GROUP)
    hit, member = (values <= limit[line, None]).nonzero().unbind(1)
    return line[hit], member * lowest.shape[1] + group[hit], values[hit, member]
