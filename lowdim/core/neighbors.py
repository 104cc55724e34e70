"""`Neighbors`: the k nearest points of each point or query, exact or with its measured recall.

One search, read by every nearest-neighbour dimension estimator, by precision and recall, density
and coverage, hubness and curvature.

Policies. *Itself*: a point is excluded from its own neighbours by index, so exact duplicates do
appear, at distance zero. *Ties*: ordered by index, smaller first, and exact methods also choose by
index among points tied for the last place; so exact results do not depend on method, memory, block
size or device up to the last bit of a distance. *Precision*: candidates are ranked by differences
in float64, so distances of near-duplicates far from the origin are right to the last digit.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import Any

import torch
from scipy.spatial import KDTree
from torch import Tensor

from lowdim.core.blocked import PAIR_CELLS, Frame, Search
from lowdim.core.engine import Engine, open_engine
from lowdim.core.memory import plan
from lowdim.core.pieces import Pieces
from lowdim.core.progress import Advance
from lowdim.core.random import choice
from lowdim.core.shards import Held, Source, as_source
from lowdim.core.streamed import LINKS, Streamed, ask, build
from lowdim.errors import InputError

METHODS = ("auto", "exact", "tree", "hnsw")

TREE_DIM = 7
"""Most columns for which a tree beats matrix products on scattered points."""

RECALL_SAMPLE = 500
"""Queries of an approximate search that are also searched exactly."""


@dataclass(frozen=True, eq=False)
class Neighbors:
    """Which k points are nearest to each, and how far are they?

    Attributes
    ----------
    distances : Tensor
        (m, k) ascending, in the float dtype of the points.
    indices : Tensor
        (m, k) int64 rows of the reference set.
    n_reference : int
        Points in the reference set, a point among its own reference set counted.
    dim : int
        Columns of the points.
    exact : bool
        Whether these are provably the nearest.
    recall : float or None
        Share of the true neighbours found, where ``exact`` is False.
    recall_n : int or None
        Random queries on which ``recall`` was measured.
    """

    distances: Tensor
    indices: Tensor
    n_reference: int
    dim: int
    exact: bool = True
    recall: float | None = None
    recall_n: int | None = None

    @property
    def k(self) -> int:
        """Neighbours of each query."""
        return self.indices.shape[1]

    def __len__(self) -> int:
        return len(self.indices)

    def __repr__(self) -> str:
        how = "exact" if self.exact else f"recall {self.recall:.3f} on {self.recall_n} queries"
        return f"Neighbors({len(self)} x {self.k} of {self.n_reference} in {self.dim}-d, {how})"

    def head(self, k: int) -> Neighbors:
        """The k nearest only; the measured recall is that of the whole list."""
        if not 1 <= k <= self.k:
            raise InputError(f"k={k}: between 1 and {self.k} neighbours are known")
        return replace(self, distances=self.distances[:, :k], indices=self.indices[:, :k])

    @classmethod
    def of_points(
        cls,
        x: Any,
        k: int,
        *,
        queries: Any = None,
        method: str = "auto",
        memory: int | float | str | None = None,
        seed: int = 0,
        engine: Engine | str | None = None,
        pieces: Pieces | None = None,
        progress: Advance | None = None,
    ) -> Neighbors:
        """Find the k nearest neighbours of each point among the others, or of each query.

        Parameters
        ----------
        x : array-like or source
            (n, d) the reference set; a source (:func:`lowdim.io.points.open_points`) is searched
            block by block and never held.
        k : int
            Neighbours of each.
        queries : array-like or source, optional
            (m, d); without it each point is searched for among the others.
        method : {"auto", "exact", "tree", "hnsw"}
            ``exact``: blocked matrix products, on the device of ``x``; n^2 d / 2 or m n d
            multiply-adds. ``tree``: a k-d tree, also exact, O(n log n) in few dimensions.
            ``hnsw``: approximate (faiss), O(n log n), with measured recall; the graph is built by
            several threads, so it differs between runs. ``auto``: a tree up to 7 columns,
            products above, and for sources. For them ``hnsw`` builds one graph for each shard that
            fits in memory.
        memory : int, float, str or None
            Budget of working memory, see :func:`lowdim.core.memory.budget`.
        seed : int
            Chooses the queries on which recall is measured; exact results do not depend on it.
        engine : Engine, str or None
            Where shards of queries are searched for, see :func:`lowdim.core.engine.open_engine`.
        pieces : Pieces, optional
            Keeps the neighbours of each shard of queries, and finds those of an earlier run.
        progress : callable, optional
            Called with (done, total).

        Returns
        -------
        Neighbors
            Distances and indices, (n, k) or (m, k), on the device of ``x``.

        Raises
        ------
        InputError
            k below 1 or too large, columns that differ, NaN or Inf, an unknown method.
        MemoryBudgetError
            The smallest block does not fit, with the figure.
        MissingExtraError
            ``hnsw`` without faiss.

        Notes
        -----
        Many exact ties for the last place (points on a grid, binary codes), and points far nearer
        to each other than to the centre, by less than about 1e-3 of their norm, cost a second pass
        in float64: up to five times the time, never a wrong neighbour.
        """
        references = as_source(x)
        others = None if queries is None else as_source(queries, name="queries")
        _check(references, others, k, method)
        held = isinstance(references, Held) and isinstance(others, Held | None)
        if not held or engine is not None or pieces is not None:
            if method == "tree":
                raise InputError("method='tree' needs its points in memory: choose exact or hnsw")
            how = Streamed(references, others, k, memory, open_engine(engine), pieces, progress)
            distances, indices, recall, recall_n = (
                how.graphs(RECALL_SAMPLE, seed) if method == "hnsw" else how.exact()
            )
            return cls(
                distances, indices, references.n, references.dim, recall is None, recall, recall_n
            )
        x = references.read()
        if others is None:
            search = Search(x, x, torch.arange(len(x), device=x.device), k, Frame.of(x))
        else:
            asked = others.read().to(x.device)
            search = Search(x, asked, None, k, Frame.of(x, asked))
        if method == "auto":
            method = "tree" if x.shape[1] <= TREE_DIM and x.device.type == "cpu" else "exact"
        if method == "exact":
            gaps, indices = search.run(memory, progress)
        else:
            gaps, indices = (_tree if method == "tree" else _graph)(search, memory, progress)
        found = cls((gaps / search.frame.scale).to(x.dtype), indices, *x.shape)
        return found if method != "hnsw" else _measured(found, search, memory, seed)


def _check(x: Source, queries: Source | None, k: int, method: str) -> None:
    if method not in METHODS:
        raise InputError(f"method={method!r}: choose from {', '.join(METHODS)}")
    if isinstance(k, bool) or not isinstance(k, int) or k < 1:
        raise InputError(f"k={k!r}: give a whole number of neighbours, at least 1")
    if queries is not None and queries.dim != x.dim:
        raise InputError(
            f"queries have {queries.dim} columns and x has {x.dim}: "
            "both must hold the same features"
        )
    if x.n < k + (queries is None):
        raise InputError(
            f"k={k} neighbours need at least {k + (queries is None)} points, x has {x.n}"
        )


def _tree(
    search: Search, memory: int | float | str | None, progress: Advance | None
) -> tuple[Tensor, Tensor]:
    """Exact search by a k-d tree; rows with ties for the last place ask for twice as many."""
    (n, d), m, device = search.x.shape, len(search.queries), search.x.device
    tree = KDTree((search.x.double() * search.frame.scale).numpy(force=True))
    gaps = search.x.new_empty((m, search.k), dtype=torch.float64)
    indices = torch.empty_like(gaps, dtype=torch.int64)
    todo, done = [(torch.arange(m, device=device), search.k + 8)], 0
    while todo:
        rows, size = todo.pop()
        size = min(size, n)
        step = plan(
            "Neighbors(method='tree')",
            rows=len(rows),
            bytes_per_row=size * 64 + d * 16,
            fixed=n * (d * 8 + 32)
            + gaps.nbytes * 2
            + 24 * max(PAIR_CELLS, search.threads * size * d),
            memory=memory,
            largest=2**14,
        )
        if len(rows) > step:
            todo += [(part, size) for part in reversed(rows.split(step))]
            continue
        part = search.only(rows)
        at = (part.queries.double() * search.frame.scale).numpy(force=True)
        far, near = (
            torch.from_numpy(a.reshape(-1, size)) for a in tree.query(at, size, workers=-1)
        )
        beyond = far[:, -1] if size < n else torch.full((len(rows),), math.inf)
        gaps[rows], indices[rows], left = part.settle(near.to(device), beyond.to(device))
        if len(left):
            todo.append((rows[left], 2 * size))
        done += len(rows) - len(left)
        if progress is not None:
            progress(done, m)
    return gaps, indices


def _graph(
    search: Search, memory: int | float | str | None, progress: Advance | None
) -> tuple[Tensor, Tensor]:
    """Approximate search by an HNSW graph; rows that it finds too few points for are exact."""
    (n, d), m = search.x.shape, len(search.queries)
    size = min(search.k + 8, n)
    step = plan(
        "Neighbors(method='hnsw')",
        rows=max(n, m),
        bytes_per_row=d * 16 + size * 64,
        fixed=n * (d * 4 + LINKS * 8 + 16)
        + m * search.k * 16
        + 24 * max(PAIR_CELLS, search.threads * size * d),
        memory=memory,
        largest=2**14,
    )
    graph = build(search.x, search.frame, size, step, progress)
    return ask(graph, search, size, step, memory)


def _measured(
    found: Neighbors, search: Search, memory: int | float | str | None, seed: int
) -> Neighbors:
    """The same with the recall of a random sample of its rows."""
    sample = choice(len(found), min(len(found), RECALL_SAMPLE), seed, device=search.x.device)
    _, true = search.only(sample).run(memory)
    hits = (found.indices[sample][:, :, None] == true[:, None]).any(2)
    return replace(found, exact=False, recall=float(hits.double().mean()), recall_n=len(sample))
