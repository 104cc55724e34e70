"""In which order should vectors go into an HNSW graph?

Elliott and Clark 2024, "The impacts of data, ordering, and intrinsic dimensionality on recall in
hierarchical navigable small worlds": each row links to the nearest of those that came before it, so
what came first shapes the graph. They order rows by local intrinsic dimension, which is that of
:func:`lowdim.geometry.mle.mle` here, or by category.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import torch
from scipy.special import stdtrit
from torch import Tensor

from lowdim.core.estimate import to_json
from lowdim.core.neighbors import Neighbors
from lowdim.core.points import as_points, distinct
from lowdim.core.random import permutation
from lowdim.errors import InputError, require
from lowdim.geometry.mle import mle
from lowdim.registry import method, rows
from lowdim.retrieval.metric import as_queries, check_metric, exact_search, placed
from lowdim.retrieval.recall import recall_at_k

ORDERS = ("random", "descending", "ascending", "labels")

Search = Callable[[np.ndarray, int], np.ndarray]
"""(m, d) queries and k to (m, k) row numbers."""

Build = Callable[[np.ndarray, np.ndarray, str, int], Search]
"""(n, d) rows, the order to insert them in, the metric and a seed to a search that gives numbers
of the rows as they stood before."""


@method(
    "retrieval/insertion-order",
    needs=rows(),
    paper="Elliott and Clark 2024",
    arxiv="2405.17813",
    cost="n^2 d / 2 multiply-adds",
    invariant=(),
)
def insertion_order(
    x: Any, *, by: str = "lid", descending: bool = True, k: int = 100, labels: Any = None,
    metric: str = "cosine", seed: int = 0, memory: int | float | str | None = None,
) -> Tensor:  # fmt: skip
    """In which order should rows go into an HNSW graph?

    Parameters
    ----------
    x : array-like
        (n, d) vectors.
    by : {"lid", "labels", "random"}
        Local intrinsic dimension by maximum likelihood from exact neighbours, the label of each
        row, or nothing.
    descending : bool
        The largest first.
    k : int
        Neighbours that the dimension is read off; at most n - 1 are used.
    labels : array-like, optional
        (n,) integers, for ``by="labels"``; rows of one label stay together, in random order.
    metric : {"cosine", "dot", "euclidean"}
        For cosine neighbours are those of rows of length one.
    seed : int
        Of the order of rows that are equal in what they are ordered by.
    memory : int, float, str or None
        Budget of the neighbour search.

    Returns
    -------
    Tensor
        (n,) int64: insert ``x[order]``, and map ids back by ``order[ids]``.

    Raises
    ------
    InputError
        Fewer than four different rows, no labels to order by, an unknown name.

    Notes
    -----
    Trust it only after :func:`recall_by_order` on rows of your own, and for libraries that insert
    rows as they come: hnswlib and usearch do, faiss shuffles each call of ``add``. By little:
    ``python -m benchmarks.index_order`` prints what was found.
    """
    check_metric(metric)
    x = placed(as_points(x), metric)
    if by == "random":
        return permutation(len(x), seed)
    if by == "lid":
        return _sorted(local_dimension(x, k, memory), descending, seed)
    if by != "labels" or labels is None:
        raise InputError(f"by={by!r}: choose lid, random, or labels with labels= of each row")
    return _sorted(_checked(labels, len(x)), descending, seed)


def local_dimension(x: Tensor, k: int, memory: int | float | str | None = None) -> Tensor:
    """(n,) intrinsic dimension around each row; equal rows share one."""
    points, inverse = distinct(x)
    if len(points) < 4:
        raise InputError(f"x has {len(points)} different rows: a local dimension needs 4 or more")
    near = Neighbors.of_points(points, min(k, len(points) - 1), memory=memory)
    values = mle(near, k=near.k).per_point
    if values is None:
        raise InputError("x has no local dimension")
    return values[inverse]


@dataclass(frozen=True)
class OrderRow:
    """Recall after one order of insertion.

    Attributes
    ----------
    order : str
        random, descending or ascending local dimension, or labels.
    recall : float
        Mean over seeds of the share of the true k rows found.
    low, high : float
        95% interval of that mean, by Student's t over the seeds.
    recalls : tuple of float
        One a seed.
    """

    order: str
    recall: float
    low: float
    high: float
    recalls: tuple[float, ...]


@dataclass(frozen=True)
class OrderRecall:
    """Recall by order of insertion, best first.

    Attributes
    ----------
    rows : tuple of OrderRow
    k, n, n_queries, seeds : int
        Recall is of the true ``k``; ``seeds`` graphs were built in each order.
    """

    rows: tuple[OrderRow, ...]
    k: int
    n: int
    n_queries: int
    seeds: int

    def __getitem__(self, order: str) -> OrderRow:
        return next(row for row in self.rows if row.order == order)

    def __str__(self) -> str:
        return "\n".join(
            f"{r.order:10} recall@{self.k} {r.recall:.4f} [{r.low:.4f}, {r.high:.4f}]"
            for r in self.rows
        )

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON values."""
        return to_json(asdict(self))


def recall_by_order(
    x: Any, queries: Any, *, build: Build | None = None, orders: Sequence[str] | None = None,
    labels: Any = None, metric: str = "cosine", k: int = 10, lid_k: int = 100, seeds: int = 5,
    memory: int | float | str | None = None,
) -> OrderRecall:  # fmt: skip
    """Does the order of insertion change what a graph finds?

    Parameters
    ----------
    x : array-like
        (n, d) rows.
    queries : array-like
        (m, d), none of the rows.
    build : callable, optional
        ``build(x, order, metric, seed) -> search(queries, k) -> ids``; a graph of faiss with 16
        links and 40 candidates, rows inserted one by one, by default.
    orders : sequence of str, optional
        Some of random, descending, ascending, labels; all that can be made by default.
    labels : array-like, optional
        (n,) integers.
    metric : {"cosine", "dot", "euclidean"}
        What near means.
    k, lid_k : int
        Rows found, and neighbours that the local dimension is read off.
    seeds : int
        Graphs built in each order, at least two: the seed is of the graph's layers and of the order
        where it is random.
    memory : int, float, str or None
        Budget of exact searches.

    Raises
    ------
    InputError
        An unknown order, fewer than two seeds, labels to order by that are not given.
    """
    names = tuple(orders or (ORDERS if labels is not None else ORDERS[:-1]))
    if unknown := set(names) - set(ORDERS):
        raise InputError(f"order {min(unknown)!r} is not known: {', '.join(ORDERS)}")
    if seeds < 2:
        raise InputError(f"seeds={seeds}: an interval needs two or more")
    points = as_points(x)
    q = as_queries(queries, metric, points.shape[1])
    truth = exact_search(points, q, k, metric=metric, memory=memory)[0]
    held = placed(points, metric).numpy(force=True)
    make, n = build or faiss_graph, len(points)
    lid = local_dimension(placed(points, metric), lid_k, memory)
    orders_of: dict[str, Callable[[int], Tensor]] = {
        "random": lambda seed: permutation(n, seed),
        "descending": lambda seed: _sorted(lid, True, seed),
        "ascending": lambda seed: _sorted(lid, False, seed),
        "labels": lambda seed: _sorted(_checked(labels, n), False, seed),
    }
    found: dict[str, list[float]] = {name: [] for name in names}
    for seed in range(seeds):
        for name in names:
            search = make(held, orders_of[name](seed).numpy(), metric, seed)
            ids = torch.from_numpy(search(q.numpy(force=True), k).astype(np.int64))
            found[name].append(float(recall_at_k(ids, truth).mean()))
    made = sorted((_row(name, values) for name, values in found.items()), key=lambda r: -r.recall)
    return OrderRecall(tuple(made), k, n, len(q), seeds)


def faiss_graph(
    x: np.ndarray, order: np.ndarray, metric: str, seed: int, *, links: int = 16,
    effort: int = 40, search_effort: int = 40,
) -> Search:  # fmt: skip
    """A graph of faiss, rows inserted one by one: those of one call of ``add`` it would shuffle."""
    faiss = require("faiss", "faiss")
    faiss.omp_set_num_threads(1)
    measure = faiss.METRIC_L2 if metric == "euclidean" else faiss.METRIC_INNER_PRODUCT
    index = faiss.IndexHNSWFlat(x.shape[1], links, measure)
    index.hnsw.rng = faiss.RandomGenerator(seed)
    index.hnsw.efConstruction, index.hnsw.efSearch = effort, search_effort
    for row in x[order]:
        index.add(row[None])

    def search(q: np.ndarray, k: int) -> np.ndarray:
        ids = index.search(q, k)[1]
        return np.where(ids < 0, -1, order[ids])

    return search


def _checked(labels: Any, n: int) -> Tensor:
    if labels is None:
        raise InputError("order labels: give labels= of each row")
    labels = torch.as_tensor(labels)
    if labels.shape != (n,):
        raise InputError(f"labels have shape {tuple(labels.shape)}: give one for each of {n} rows")
    return labels


def _sorted(values: Tensor, descending: bool, seed: int) -> Tensor:
    """(n,) rows by value, equals in random order."""
    shuffled = permutation(len(values), seed)
    return shuffled[values[shuffled].argsort(descending=descending, stable=True)]


def _row(order: str, recalls: list[float]) -> OrderRow:
    values = torch.tensor(recalls, dtype=torch.float64)
    mean, spread = float(values.mean()), float(values.std()) / math.sqrt(len(recalls))
    half = float(stdtrit(len(recalls) - 1, 0.975)) * spread
    return OrderRow(order, mean, max(0.0, mean - half), min(1.0, mean + half), tuple(recalls))
