"""What near means: exact search by cosine, dot product or Euclidean distance."""

from __future__ import annotations

from functools import partial
from typing import Any

import torch
from torch import Tensor

from lowdim.core.neighbors import Neighbors
from lowdim.core.points import as_points, unit_rows
from lowdim.core.progress import Advance
from lowdim.core.shards import Held, Mapped, Source
from lowdim.errors import InputError
from lowdim.structure.estimator import open_source

METRICS = ("cosine", "dot", "euclidean")


def check_metric(metric: str) -> None:
    """Raise where ``metric`` is none of METRICS."""
    if metric not in METRICS:
        raise InputError(f"metric={metric!r}: choose from {', '.join(METRICS)}")


def placed(x: Tensor, metric: str, name: str = "x", offset: int = 0) -> Tensor:
    """(n, d) float32 vectors as they are compared: for cosine of length one.

    ``offset`` is added to the row that an error names.
    """
    return (unit_rows(x, name, offset) if metric == "cosine" else x).float()


def as_queries(queries: Any, metric: str, dim: int) -> Tensor:
    """(m, d) checked queries, placed as the metric compares them."""
    q = as_points(queries, name="queries")
    if q.shape[1] != dim:
        raise InputError(f"queries have {q.shape[1]} columns and the vectors {dim}")
    return placed(q, metric, "queries")


def exact_search(
    x: Any,
    queries: Any,
    k: int,
    *,
    metric: str = "cosine",
    memory: int | float | str | None = None,
    progress: Advance | None = None,
) -> tuple[Tensor, Tensor]:
    """Which k rows of ``x`` score best with each query, with no approximation?

    Parameters
    ----------
    x : array-like, path or source
        (n, d) vectors; a source is read block by block and never held.
    queries : array-like
        (m, d).
    k : int
        Rows wanted for each query.
    metric : {"cosine", "dot", "euclidean"}
        Scores are cosines, dot products or negative distances.
    memory : int, float, str or None
        Budget of working memory, see :func:`lowdim.core.memory.budget`.
    progress : callable, optional
        Called with (done, total).

    Returns
    -------
    ids, scores : Tensor
        (m, k) row numbers, and their scores in descending order.

    Raises
    ------
    InputError
        Columns that differ, a zero vector with cosine, k out of range, NaN or Inf.

    Notes
    -----
    m n d multiply-adds. Dot products become distances with one more coordinate: with
    x' = (x, sqrt(s^2 - |x|^2)), s the largest length, |q' - x'|^2 = |q|^2 + s^2 - 2 q.x.
    """
    check_metric(metric)
    source = open_source(x)
    q = as_queries(queries, metric, source.dim)
    if metric == "dot":
        largest = max(
            float(torch.linalg.vector_norm(c.double(), dim=1).max()) for c in source.chunks(memory)
        )
        rows: Source = Mapped(source, partial(_lifted, largest), source.dim + 1)
        found = _nearest(rows, torch.cat([q, q.new_zeros(len(q), 1)], 1), k, memory, progress)
        squares = q.double().square().sum(1, keepdim=True) + largest**2
        return found.indices, ((squares - found.distances.double().square()) / 2).float()
    if metric == "cosine":
        source = Mapped(source, _of_length_one, source.dim)
    found = _nearest(source, q, k, memory, progress)
    if metric == "cosine":
        return found.indices, 1 - found.distances.square() / 2
    return found.indices, -found.distances


def _nearest(
    rows: Source, q: Tensor, k: int, memory: int | float | str | None, progress: Advance | None
) -> Neighbors:
    in_memory = isinstance(rows, Mapped) and isinstance(rows.source, Held)
    points = rows.read(memory) if in_memory else rows
    return Neighbors.of_points(points, k, queries=q, memory=memory, progress=progress)


def _of_length_one(x: Tensor, first: int) -> Tensor:
    return unit_rows(x, offset=first)


def _lifted(largest: float, x: Tensor, first: int) -> Tensor:
    rest = (largest**2 - x.double().square().sum(1, keepdim=True)).clamp_min(0).sqrt()
    return torch.cat([x, rest.to(x.dtype)], 1)
