"""Exact nearest neighbours from blocked matrix products: propose, rank, certify, complete.

Half squared distances h = |x|^2/2 + |y|^2/2 - x.y come from products, a block at a time, which is
fast but cancels for near points. So products only *propose* a few more candidates than asked; true
differences in float64 rank them; a rounding bound proves for each row that no point left out can
be nearer; and rows without a proof are searched once more, in float64, for every point within the
distance already reached. The answer depends on neither block sizes, nor the order of the visit, nor
the rounding of the products.

Cost: n^2 d / 2 multiply-adds among n points (each block serves its rows and its columns), m n d
for m queries, and a tenth or so of that for the selection. Memory: a float32 copy of the points,
the candidates and one block.
"""

from __future__ import annotations

import math
import os
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor, wait
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from functools import cache
from threading import Barrier, Lock
from typing import TypeVar

import torch
from torch import Tensor

from lowdim.core.memory import budget, plan
from lowdim.core.points import distinct
from lowdim.core.progress import Advance
from lowdim.core.random import permutation

Item = TypeVar("Item")
Result = TypeVar("Result")

BLOCK = 1024
"""Side of the largest block of products: full speed, and small enough for the cache."""

GROUP = 32
"""Most columns that share one minimum in the first level of the selection."""

CELL_BYTES = 64
"""Working memory that a cell of a block takes if all of them are candidates."""

PAIR_CELLS = 2**19
"""Coordinates differenced at once in float64, by all cores together: fits their caches."""


@dataclass(frozen=True)
class Frame:
    """A shift and a power-of-two scale that bring all coordinates into [-1, 1].

    Distances are unchanged but for the exact factor ``scale``; norms become as small as they can
    be (the error of products grows with them) and no square over- or underflows.
    """

    center: Tensor  # (d,) float64, in scaled units
    scale: float

    @classmethod
    def of(cls, x: Tensor, queries: Tensor | None = None) -> Frame:
        """Median of a thousand points or so: any shift is valid, this one ignores outliers."""
        sets = [x] if queries is None else [x, queries]
        low = torch.stack([s.amin(0).double() for s in sets]).amin(0)
        high = torch.stack([s.amax(0).double() for s in sets]).amax(0)
        scale = _power_of_two_over(max(float(high.max()), -float(low.min())))
        center = (x[:: math.ceil(len(x) / 1024)].double() * scale).median(0).values
        spread = torch.maximum(high * scale - center, center - low * scale).max()
        zoom = _power_of_two_over(float(spread))
        return cls(center * zoom, scale * zoom)

    def place(self, rows: Tensor, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
        """Rows in this frame, rounded to ``dtype``, and half their squared norms."""
        # not mul_: double() of a float64 tensor is that tensor, and it belongs to the user
        placed = (rows.double() * self.scale - self.center).to(dtype)
        return placed, (placed.double().square().sum(1) / 2).to(dtype)


def _power_of_two_over(size: float) -> float:
    return math.ldexp(1.0, min(max(-math.frexp(size)[1], -1000), 500)) if size > 0 else 1.0


def rounding(d: int, dtype: torch.dtype) -> float:
    """The g in |h from products - h| <= g (|x|^2 + |y|^2), for any order of summation.

    d + 1 roundings in the dot product, 2 of the coordinates, 1 each of the norms and their sum
    (Higham, Accuracy and Stability of Numerical Algorithms, section 3.1). As |y| <= |x| + dist,
    the right side is at most g (3 |x|^2 + 4 h), which no longer depends on y.
    """
    unit = (d + 8) * torch.finfo(dtype).eps / 2
    return unit / (1 - unit)


@contextmanager
def full_precision() -> Iterator[None]:
    """Products keep every bit of float32, even where the user allows TF32 or bfloat16."""
    before = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision("highest")
    try:
        yield
    finally:
        torch.set_float32_matmul_precision(before)


def workers(device: torch.device) -> int:
    """Blocks worked on at once: one a core, or one where the device is parallel itself."""
    return torch.get_num_threads() if device.type == "cpu" else 1


def on_threads(
    function: Callable[[Item], Result], items: Iterable[Item], device: torch.device
) -> Iterator[Result]:
    """Apply ``function`` to each item, results in order, each item on one core from end to end.

    Splitting every small operation over the cores instead costs a barrier for each, at which a
    core that another process has taken holds up all the others. One item alone stays where it is.
    """
    before, items = torch.get_num_threads(), list(items)
    if workers(device) == 1 or len(items) == 1:
        yield from map(function, items)
        return
    begun = deque(_pool(before).submit(function, item) for item in items)
    try:
        while begun:
            yield begun.popleft().result()
    finally:
        for future in begun:
            future.cancel()
        wait(begun)


@cache
def _pool(count: int) -> ThreadPoolExecutor:
    """Threads on which torch keeps to one core; kept, since starting them takes half a millisecond.

    All are started here, and asked once how many cores torch uses: a thread that has not been asked
    begins with what any thread has set last.
    """
    started = Barrier(count)

    def begin() -> None:
        torch.set_num_threads(1)
        torch.get_num_threads()
        started.wait()

    pool = ThreadPoolExecutor(count, initializer=begin)
    wait([pool.submit(int) for _ in range(count)])
    torch.set_num_threads(count)
    return pool


if hasattr(os, "register_at_fork"):  # a child has none of its parent's threads
    os.register_at_fork(after_in_child=_pool.cache_clear)


def half_squares(
    rows: Tensor, row_norms: Tensor, columns: Tensor, column_norms: Tensor, out: Tensor
) -> Tensor:
    """Half squared distances of all rows to all columns, into the front of a flat buffer."""
    block = out[: len(rows) * len(columns)].view(len(rows), len(columns))
    torch.add(row_norms[:, None], column_norms, out=block)
    return block.addmm_(rows, columns.T, alpha=-1)  # (r, d) @ (d, c)


def ragged(line: Tensor, lines: int) -> tuple[Tensor, int]:
    """Place of each entry within its line, for entries sorted by line, and the longest line."""
    count = torch.bincount(line, minlength=lines)
    start = count.cumsum(0) - count
    return torch.arange(len(line), device=line.device) - start[line], int(count.max())


class Shortlist:
    """The smallest values offered to each row so far, and where they were."""

    def __init__(self, rows: int, size: int, like: Tensor) -> None:
        self.size = size
        self.values = like.new_full((rows, size), math.inf)
        self.indices = like.new_zeros((rows, size), dtype=torch.int32)
        self.limit = like.new_full((rows,), math.inf)

    def offer(self, rows: slice, block: Tensor, lowest: Tensor, first: int) -> None:
        """Take in a (r, c) block whose columns are points ``first``, ``first + 1``, ...

        ``lowest`` (r, c / GROUP) are the minima over columns g, g + groups, g + 2 groups, ...;
        only groups below a row's worst listed value are looked into.
        """
        limit, groups = self.limit[rows], lowest.shape[1]
        if groups >= self.size and bool(torch.isposinf(limit).any()):
            # The first block a row sees: as many groups as the list is long have a minimum up to
            # this bound, so as many columns are.
            bound = lowest.topk(self.size, 1, largest=False, sorted=False).values.amax(1)
            limit = torch.minimum(limit, torch.nextafter(bound, bound.new_tensor(math.inf)))
        line, group = (lowest < limit[:, None]).nonzero().unbind(1)
        values = block.unflatten(1, (-1, groups))[line, :, group]  # (hits, columns of a group)
        hit, member = (values < limit[line, None]).nonzero().unbind(1)
        if len(hit) == 0:
            return
        values, line, group = values[hit, member], line[hit], group[hit]
        slot, width = ragged(line, len(block))
        fresh = block.new_full((len(block), width), math.inf)
        where = self.indices.new_zeros((len(block), width))
        fresh[line, slot] = values
        where[line, slot] = (first + member * groups + group).int()
        fresh = torch.cat([self.values[rows], fresh], 1)
        where = torch.cat([self.indices[rows], where], 1)
        self.values[rows], best = fresh.topk(self.size, 1, largest=False, sorted=False)
        self.indices[rows] = where.gather(1, best)
        self.limit[rows] = torch.minimum(self.limit[rows], self.values[rows].amax(1))


def group_of(side: int, size: int) -> int:
    """Columns a group: as many as leave twice as many groups as the list is long."""
    group = GROUP
    while group > 1 and side // group < 2 * size:
        group //= 2
    return group


def propose_among(
    points: Tensor, norms: Tensor, n: int, size: int, side: int, progress: Advance | None
) -> Shortlist:
    """Candidates of each point among the others: only blocks on and above the diagonal.

    Points come in random order, in whole blocks (infinite norms fill the last), so the j-th point
    seen is a candidate with probability size / j whatever the data: few are ever looked at.
    """
    total, group = len(points) // side, group_of(side, size)
    lists = Shortlist(len(points), size, norms)
    lists.limit[n:] = -math.inf  # the filling has no neighbours
    locks = [Lock() for _ in range(total)]  # of the lists of each block of points

    def row_of_blocks(i: int) -> None:
        rows, buffer = slice(i * side, (i + 1) * side), norms.new_empty(side * side)
        for j in range(i, total):
            columns = slice(j * side, (j + 1) * side)
            block = half_squares(points[rows], norms[rows], points[columns], norms[columns], buffer)
            if i == j:
                block.fill_diagonal_(math.inf)  # a point is not its own neighbour
            else:
                lowest = block.unflatten(0, (group, -1)).amin(0)
                with locks[j]:
                    lists.offer(columns, block.T, lowest.T, rows.start)
            lowest = block.unflatten(1, (group, -1)).amin(1)
            with locks[i]:
                lists.offer(rows, block, lowest, columns.start)

    for i, _ in enumerate(on_threads(row_of_blocks, range(total), points.device)):
        if progress is not None:
            left = total - 1 - i
            progress((total * (total + 1) - left * (left + 1)) // 2, total * (total + 1) // 2)
    return lists


def propose_for(
    queries: Tensor,
    query_norms: Tensor,
    points: Tensor,
    norms: Tensor,
    size: int,
    side: int,
    progress: Advance | None,
) -> Shortlist:
    """Candidates of each query among the points, which come as for :func:`propose_among`."""
    lists, group = Shortlist(len(queries), size, norms), group_of(side, size)

    def row_of_blocks(start: int) -> int:
        rows = slice(start, min(start + side, len(queries)))
        buffer = norms.new_empty(side * side)
        for first in range(0, len(points), side):
            columns = slice(first, first + side)
            block = half_squares(
                queries[rows], query_norms[rows], points[columns], norms[columns], buffer
            )
            lists.offer(rows, block, block.unflatten(1, (group, -1)).amin(1), first)
        return rows.stop

    for done in on_threads(row_of_blocks, range(0, len(queries), side), points.device):
        if progress is not None:
            progress(done, len(queries))
    return lists


@dataclass(frozen=True)
class Search:
    """Which k of the points ``x`` are nearest to each query? Distances in units of the frame.

    Attributes
    ----------
    x, queries : Tensor
        (n, d) and (m, d); the same tensor when the points are searched among themselves.
    own : Tensor or None
        (m,) the index in ``x`` that each query may not have as its neighbour: itself.
    k : int
        At most n, or n - 1 with ``own``.
    frame : Frame
        Holds both sets.
    threads : int
        Blocks that may be worked on at once; a core each (a thread of the pool sees only one).
    """

    x: Tensor
    queries: Tensor
    own: Tensor | None
    k: int
    frame: Frame
    threads: int = field(default_factory=torch.get_num_threads)

    def only(self, rows: Tensor) -> Search:
        """The same search for some of the queries."""
        own = None if self.own is None else self.own[rows]
        return replace(self, queries=self.queries[rows], own=own)

    def run(
        self, memory: int | float | str | None = None, progress: Advance | None = None
    ) -> tuple[Tensor, Tensor]:
        """(m, k) distances in float64, ascending, and indices; smaller index first among equals."""
        (n, d), m = self.x.shape, len(self.queries)
        among = self.queries is self.x
        size = min(self.k + max(8, self.k // 4) + (self.own is not None), n) - among
        stored = (n + BLOCK) * (d + 2) * 4 + (0 if among else m * d * 4)
        lists = m * (size * 16 + self.k * 16)
        threads = self.threads
        pairs = 24 * max(PAIR_CELLS, threads * size * d)
        side = block_side(n, d, stored + lists + pairs, threads, memory)
        order = permutation(n, seed=0, device=self.x.device)
        points, norms = self.placed(self.x, order, -(-n // side) * side)
        with full_precision():
            if among:
                found = propose_among(points, norms, n, size, side, progress)
                row_norms = norms[:n]
            else:
                queries, row_norms = self.placed(self.queries, None, m)
                found = propose_for(queries, row_norms, points, norms, size, side, progress)
        candidates, worst = order[found.indices[:m].long()], found.values[:m].amax(1).double()
        if size < n - among:
            g = rounding(d, torch.float32)
            tiny = (4 * d + 8) * torch.finfo(torch.float32).tiny  # where squares underflow
            least = (worst - 6 * g * row_norms.double() - tiny) / (1 + 4 * g)  # h of those left out
            beyond = (2 * least.clamp_min(0)).sqrt()
        else:
            beyond = torch.full_like(worst, math.inf)
        if among:
            back = order.argsort()
            candidates, beyond = candidates[back], beyond[back]
        gaps, indices, rows = self.settle(candidates, beyond)
        if len(rows):
            reach = gaps[rows, -1]
            gaps[rows], indices[rows] = self.complete(rows, reach, side // 2, progress)
        return gaps, indices

    def placed(self, x: Tensor, order: Tensor | None, length: int) -> tuple[Tensor, Tensor]:
        """Rows of ``x`` in the frame, in float32 and in this order, filled up to a length."""
        points = x.new_zeros((length, x.shape[1]), dtype=torch.float32)
        norms = x.new_full((length,), math.inf, dtype=torch.float32)
        step = max(1, PAIR_CELLS // x.shape[1])
        for start in range(0, len(x), step):
            rows = slice(start, min(start + step, len(x)))
            chunk = x[rows] if order is None else x[order[rows]]
            points[rows], norms[rows] = self.frame.place(chunk, torch.float32)
        return points, norms

    def settle(self, candidates: Tensor, beyond: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """The k nearest among (m, size) candidates, and the rows where this proves nothing.

        ``beyond`` (m,) says how near the points that are not candidates may come; a row is proven
        when its k-th candidate is nearer than that, or when it has k exact duplicates.
        """
        gaps, indices = self.rank(candidates)
        slack = 1 - (self.x.shape[1] + 8) * torch.finfo(torch.float64).eps  # rounding of the gaps
        rows = (gaps[:, -1] >= beyond * slack).nonzero()[:, 0]
        if bool((gaps[rows, -1] == 0).any()):
            settled, twins = self.twins(rows)
            gaps[rows[settled]], indices[rows[settled]] = 0, twins  # none need be a candidate
            rows = rows[~settled]
        return gaps, indices, rows

    def gaps(self, rows: Tensor, indices: Tensor) -> Tensor:
        """Distances of queries ``rows`` (r,) to points ``indices`` (r, c), from differences."""
        d = self.x.shape[1]
        # both are copies (index_select, advanced indexing), so they may be scaled in place
        points = self.x.index_select(0, indices.flatten()).double().mul_(self.frame.scale)
        queries = self.queries[rows].double().mul_(self.frame.scale)
        differences = points.view(*indices.shape, d).sub_(queries[:, None])  # (r, c, d)
        return torch.linalg.vector_norm(differences, dim=-1)

    def rank(self, candidates: Tensor) -> tuple[Tensor, Tensor]:
        """The k nearest of (m, size) candidates; smaller index first among equals."""
        m, size = candidates.shape
        gaps = self.x.new_empty((m, self.k), dtype=torch.float64)
        indices = candidates.new_empty((m, self.k))
        step = max(1, PAIR_CELLS // (self.threads * size * self.x.shape[1]))

        def some(start: int) -> None:
            rows = torch.arange(start, min(start + step, m), device=self.x.device)
            index = candidates[rows].sort(1).values
            gap = self.gaps(rows, index)
            if self.own is not None:
                gap.masked_fill_(index == self.own[rows, None], math.inf)
            gaps[rows], indices[rows] = _nearest(gap, index, self.k)

        for _ in on_threads(some, range(0, m, step), self.x.device):
            pass
        return gaps, indices

    def twins(self, rows: Tensor) -> tuple[Tensor, Tensor]:
        """Which rows have k exact duplicates, and the first k of each such row: (r,), (s, k)."""
        n, extra = len(self.x), int(self.own is not None)
        if self.queries is self.x:
            label = distinct(self.x)[1]
            mine = label[rows]
        else:
            label, mine = distinct(torch.cat([self.x, self.queries[rows]]))[1].tensor_split([n])
        order = label.argsort(stable=True)  # members of a label together, smaller index first
        count = torch.bincount(label, minlength=int(mine.max()) + 1)
        settled = count[mine] >= self.k + extra
        start = (count.cumsum(0) - count)[mine[settled]]
        twins = order[start[:, None] + torch.arange(self.k + extra, device=order.device)]
        if self.own is not None:
            itself = twins == self.own[rows[settled], None]
            twins = twins.masked_fill(itself, n).sort(1).values[:, : self.k]
        return settled, twins

    def complete(
        self, rows: Tensor, reach: Tensor, side: int, progress: Advance | None = None
    ) -> tuple[Tensor, Tensor]:
        """Nearest k of all points within ``reach`` of each row, found by products in float64.

        Whatever their rounding, no such point is missed: the limit on h allows for it.
        """
        g = rounding(self.x.shape[1], torch.float64)
        gaps = self.x.new_full((len(rows), self.k), math.inf, dtype=torch.float64)
        indices = rows.new_zeros((len(rows), self.k))

        def row_of_blocks(start: int) -> int:
            part = slice(start, min(start + side, len(rows)))
            buffer = gaps.new_empty(side * side)
            queries, query_norms = self.frame.place(self.queries[rows[part]], torch.float64)
            limit = (1 + 6 * g) * reach[part] ** 2 / 2 + 6 * g * query_norms
            for first in range(0, len(self.x), side):
                points, norms = self.frame.place(self.x[first : first + side], torch.float64)
                block = half_squares(queries, query_norms, points, norms, buffer)
                line, column = (block <= limit[:, None]).nonzero().unbind(1)
                self._merge(gaps[part], indices[part], rows[part], line, first + column)
            return part.stop

        for done in on_threads(row_of_blocks, range(0, len(rows), side), self.x.device):
            if progress is not None:
                progress(done, len(rows))
        return gaps, indices

    def _merge(
        self, gaps: Tensor, indices: Tensor, rows: Tensor, line: Tensor, index: Tensor
    ) -> None:
        """Merge pairs (sorted by line, then index) into the lists of these rows, in place."""
        if self.own is not None:
            other = index != self.own[rows[line]]
            line, index = line[other], index[other]
        if len(line) == 0:
            return
        slot, width = ragged(line, len(rows))
        fresh = gaps.new_full((len(rows), width), math.inf)
        where = indices.new_zeros((len(rows), width))
        step = max(1, PAIR_CELLS // (self.threads * self.x.shape[1]))
        for start in range(0, len(line), step):
            pairs = slice(start, start + step)
            gap = self.gaps(rows[line[pairs]], index[pairs, None])[:, 0]
            fresh[line[pairs], slot[pairs]] = gap
        where[line, slot] = index
        gaps[:], indices[:] = _nearest(
            torch.cat([gaps, fresh], 1), torch.cat([indices, where], 1), self.k
        )


def _nearest(gaps: Tensor, indices: Tensor, k: int) -> tuple[Tensor, Tensor]:
    """The k smallest of each row; equals stay in the order they came in."""
    gaps, order = gaps.sort(stable=True, dim=1)
    return gaps[:, :k], indices.gather(1, order[:, :k])


def block_side(n: int, d: int, fixed: int, threads: int, memory: int | float | str | None) -> int:
    """Side of the blocks, a multiple of GROUP: the largest that the budget allows, evened out."""
    available, side = budget(memory), BLOCK

    def need(side: int) -> int:
        return threads * side * (side * CELL_BYTES + d * 24)

    while side > GROUP and fixed + need(side) > available:
        side //= 2
    plan("Neighbors", rows=1, bytes_per_row=need(side), fixed=fixed, memory=available)
    even = -(-n // -(-n // side))
    return -(-even // GROUP) * GROUP
