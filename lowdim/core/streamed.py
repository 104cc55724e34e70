"""Nearest neighbours of points that do not fit in memory, a block of queries at a time.

Every block of queries meets every block of references; each meeting is an exact search of
:mod:`lowdim.core.blocked`, and lists of the nearest so far are merged in order of distance, then
index. Distances are ranked from float64 differences there as here, so the result is that of one
search over everything, to the last bit of an index.

Cost: n d multiply-adds for each query (no half is saved by symmetry), and one reading of the
references for each block of queries.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from lowdim.core.blocked import Frame, Search
from lowdim.core.engine import Engine, watched
from lowdim.core.memory import budget, plan
from lowdim.core.pieces import Pieces
from lowdim.core.progress import Advance
from lowdim.core.random import choice
from lowdim.core.shards import Held, Source, shards
from lowdim.errors import require

LINKS = 32
"""Of each point in an HNSW graph."""

GRAPH = 2**20
"""Most points of one graph: larger ones take too long to be one piece of work."""

LARGEST = 2**16
"""Rows of a block beyond which nothing is gained."""

Excluded = Callable[[Tensor, Tensor, Tensor], Tensor]
"""(gaps, indices, row numbers of the queries) to a mask of at most one entry a row."""


def itself(gaps: Tensor, indices: Tensor, rows: Tensor) -> Tensor:
    """A query is a reference of the same number."""
    return indices == rows[:, None]


def twin(gaps: Tensor, indices: Tensor, rows: Tensor) -> Tensor:
    """A query that equals a reference is that reference; references must be distinct."""
    return gaps == 0


@dataclass(frozen=True)
class Nearest:
    """The k nearest references of each row of a shard; a function that can be sent to a worker.

    Attributes
    ----------
    references : Source
        Searched block by block.
    k : int
        How many; with ``excluded`` one more is searched for.
    excluded : callable or None
        Which reference a query may not have as its neighbour.
    memory : int
        Bytes for everything.
    """

    references: Source
    k: int
    excluded: Excluded | None
    memory: int

    def __call__(self, queries: Source) -> dict[str, Tensor]:
        """``distances`` and ``indices``, (m, k), ascending, smaller index first among equals."""
        rows = self.block_rows(queries)
        found = [self.block(part, rows) for part in shards(queries, rows)]
        gaps, indices = (torch.cat(column) for column in zip(*found, strict=True))
        return {"distances": gaps.to(self.references.dtype), "indices": indices}

    def block_rows(self, queries: Source) -> int:
        """Rows of a block of queries, and of one of references: half of the budget holds them."""
        d, size = queries.dim, self.k + max(9, self.k // 4 + 1)
        return plan(
            f"the {self.k} nearest of {self.references.n:,} points",
            rows=max(queries.n, self.references.n),
            bytes_per_row=d * (queries.dtype.itemsize + self.references.dtype.itemsize + 8)
            + 96 * size,
            memory=budget(self.memory) // 2,
            largest=LARGEST,
        )

    def block(self, queries: Source, rows: int) -> tuple[Tensor, Tensor]:
        """Distances in float64, and indices, of the nearest of all blocks of references."""
        q = queries.read(self.memory)
        k = self.k + (self.excluded is not None)
        gaps = q.new_empty((len(q), 0), dtype=torch.float64)
        indices = torch.empty_like(gaps, dtype=torch.int64)
        for part in shards(self.references, rows):
            x = part.read(self.memory)
            search = Search(x, q.to(x.device), None, min(k, len(x)), Frame.of(x, q.to(x.device)))
            near, where = search.run(self.memory // 2)
            first = part.start - self.references.start
            gaps = torch.cat([gaps.to(x.device), near / search.frame.scale], 1)
            indices = torch.cat([indices.to(x.device), where + first], 1)
            gaps, indices = nearer(gaps, indices, k)
        if self.excluded is None:
            return gaps, indices
        numbers = torch.arange(len(q), device=gaps.device) + queries.start - self.references.start
        return without(self.excluded(gaps, indices, numbers), gaps, indices)


@dataclass(frozen=True)
class Graph:
    """Approximately the k nearest within a shard of references: one HNSW graph a shard.

    As a function of the shard, so that graphs are built by many workers; ``queries`` all meet it.
    """

    queries: Source
    k: int
    memory: int

    def __call__(self, references: Source) -> dict[str, Tensor]:
        """``gaps`` in float64 and ``indices``, (m, k) at most, ranked by true differences."""
        x = references.read(self.memory)
        k = min(self.k, len(x))
        frame = Frame.of(x)
        size = min(k + 8, len(x))
        rows = plan(
            "Neighbors(method='hnsw')",
            rows=self.queries.n,
            bytes_per_row=x.shape[1] * 24 + size * 96,
            fixed=graph_bytes(references),
            memory=self.memory,
            largest=LARGEST,
        )
        graph = build(x, frame, size, rows)
        found = []
        for part in shards(self.queries, rows):
            search = Search(x, part.read(self.memory), None, k, frame)
            found.append(ask(graph, search, size, rows, self.memory))
        gaps, indices = (torch.cat(column) for column in zip(*found, strict=True))
        return {"gaps": gaps / frame.scale, "indices": indices + references.start}


def graph_bytes(references: Source) -> int:
    """What a shard takes: itself, its copy in the graph, and the links."""
    row = references.dim * (references.dtype.itemsize + 8) + LINKS * 8 + 64
    return references.n * row


def build(x: Tensor, frame: Frame, size: int, step: int, progress: Advance | None = None) -> Any:
    """An HNSW graph of the points in their frame, to be asked for ``size`` neighbours."""
    faiss = require("faiss", "faiss")
    faiss.omp_set_num_threads(torch.get_num_threads())
    graph = faiss.IndexHNSWFlat(x.shape[1], LINKS)
    graph.hnsw.efConstruction, graph.hnsw.efSearch = 200, max(64, 4 * size)
    for start in range(0, len(x), step):
        graph.add(frame.place(x[start : start + step], torch.float32)[0].numpy(force=True))
        if progress is not None:
            progress(min(start + step, len(x)), len(x))
    return graph


def ask(
    graph: Any, search: Search, size: int, step: int, memory: int | float | str | None
) -> tuple[Tensor, Tensor]:
    """What the graph finds, ranked by true differences; rows it finds too few for are exact."""
    near = torch.cat(
        [
            torch.from_numpy(
                graph.search(search.frame.place(q, torch.float32)[0].numpy(force=True), size)[1]
            )
            for q in search.queries.split(step)
        ]
    ).to(search.x.device)
    gaps, indices = search.rank(near.clamp_min(0))
    short = (near < 0).any(1).nonzero()[:, 0]
    if len(short):
        gaps[short], indices[short] = search.only(short).run(memory)
    return gaps, indices


@dataclass(frozen=True)
class Streamed:
    """A search whose points, queries or both are not held, by shards on an engine.

    ``queries`` None: of each point among the others. What comes back are distances, indices, and
    the recall with the queries it was measured on, where the search is not exact.
    """

    x: Source
    queries: Source | None
    k: int
    memory: int | float | str | None
    engine: Engine
    pieces: Pieces | None
    progress: Advance | None

    @property
    def rows(self) -> Source:
        """What is searched for."""
        return self.x if self.queries is None else self.queries

    @property
    def share(self) -> int:
        """The budget of one task, once the table of all neighbours is held."""
        row = self.k * (16 + self.x.dtype.itemsize)
        plan(f"the {self.k} nearest", rows=1, bytes_per_row=self.rows.n * row, memory=self.memory)
        return (budget(self.memory) - self.rows.n * row) // self.engine.tasks

    def each(self, name: str, function: Any, parts: list[Source]) -> Iterator[dict[str, Tensor]]:
        """The function of each shard, from its piece where there is one."""
        pieces = self.pieces or Pieces(None, {})
        return watched(pieces.map(name, function, parts, self.engine), len(parts), self.progress)

    def exact(self) -> tuple[Tensor, Tensor, None, None]:
        """Each shard of queries meets all points."""
        excluded = itself if self.queries is None else None
        nearest = Nearest(self.x, self.k, excluded, self.share)
        distances = torch.empty(self.rows.n, self.k, dtype=self.x.dtype)
        indices = torch.empty(self.rows.n, self.k, dtype=torch.int64)
        first = 0
        for piece in self.each(f"neighbors k={self.k}", nearest, shards(self.rows)):
            rows = slice(first, first + len(piece["indices"]))
            distances[rows], indices[rows] = piece["distances"], piece["indices"]
            first = rows.stop
        return distances, indices, None, None

    def graphs(self, recall_n: int, seed: int) -> tuple[Tensor, Tensor, float, int]:
        """All queries meet one graph for each shard of points, a shard being what fits."""
        k, share = self.k + (self.queries is None), self.share
        row = 2 * graph_bytes(self.x.slice(0, 1))
        what = "Neighbors(method='hnsw')"
        size = plan(what, rows=self.x.n, bytes_per_row=row, memory=share, largest=GRAPH)
        graph, parts = Graph(self.rows, k, share), shards(self.x, size)
        gaps = torch.empty(self.rows.n, 0, dtype=torch.float64)
        indices = torch.empty(self.rows.n, 0, dtype=torch.int64)
        for piece in self.each(f"graphs k={k} rows={size}", graph, parts):
            gaps = torch.cat([gaps, piece["gaps"]], 1)
            indices = torch.cat([indices, piece["indices"]], 1)
            gaps, indices = nearer(gaps, indices, k)
        some = choice(self.rows.n, min(self.rows.n, recall_n), seed).sort().values
        asked = Held(self.rows.take(some, share))
        nearest = Nearest(self.x, k, None, share)
        true = nearest.block(asked, nearest.block_rows(asked))
        if self.queries is None:
            numbers = torch.arange(self.rows.n)
            gaps, indices = without(itself(gaps, indices, numbers), gaps, indices)
            true = without(itself(*true, some), *true)
        hits = (indices[some][:, :, None] == true[1][:, None]).any(2)
        recall = float(hits.double().mean())
        return gaps.to(self.x.dtype), indices, recall, len(some)


def nearer(gaps: Tensor, indices: Tensor, k: int) -> tuple[Tensor, Tensor]:
    """The k nearest of each row of lists that come in order of index, smaller index first."""
    gaps, order = gaps.sort(dim=1, stable=True)
    return gaps[:, :k], indices.gather(1, order[:, :k])


def without(out: Tensor, gaps: Tensor, indices: Tensor) -> tuple[Tensor, Tensor]:
    """Lists one shorter: without the entry marked, or without the last where none is."""
    order = out.to(torch.int8).argsort(dim=1, stable=True)[:, :-1]
    return gaps.gather(1, order), indices.gather(1, order)
