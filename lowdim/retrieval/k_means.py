"""k-means: the centroids that rows are nearest to, which is what codebooks are trained by."""

from __future__ import annotations

from functools import partial

import torch
from torch import Tensor

from lowdim.core.blocked import on_threads, workers
from lowdim.core.random import choice
from lowdim.retrieval.code import compiles

ROWS = 512
"""Rows whose products with the centroids are held at once: they stay in the cache."""

NARROW = 32
"""Most coordinates for which one compiled pass is faster than products of matrices."""


def k_means(
    x: Tensor, centroids: Tensor | int, *, iterations: int = 25, seed: int = 0, stream: int = 0
) -> Tensor:
    """Which k points are nearest to the rows, in the mean square?

    Parameters
    ----------
    x : Tensor
        (n, d) float32.
    centroids : Tensor or int
        (k, d) to start from, or how many: that many of the rows are drawn.
    iterations : int
        Of Lloyd's algorithm.
    seed, stream : int
        Of the rows drawn.

    Returns
    -------
    Tensor
        (k, d) centroids, a local optimum.

    Notes
    -----
    Lloyd 1982. A centroid that has no rows moves to the row that is worst off. n k d multiply-adds
    an iteration.
    """
    if isinstance(centroids, int):
        centroids = x[choice(len(x), centroids, seed, stream)]
    k = len(centroids)
    for _ in range(iterations):
        labels, errors = nearest(x, centroids)
        counts = torch.bincount(labels, minlength=k)
        sums = torch.zeros_like(centroids).index_add_(0, labels, x)
        centroids = sums / counts.clamp_min(1)[:, None]
        empty = (counts == 0).nonzero()[:, 0]
        centroids[empty] = x[errors.topk(len(empty)).indices]
    return centroids


def nearest(x: Tensor, centroids: Tensor) -> tuple[Tensor, Tensor]:
    """(n,) number of the nearest of (k, d) centroids, and (n,) half the squared distance to it."""
    half = centroids.square().sum(1, keepdim=True) / 2
    lifted = torch.cat([centroids, half], 1).T.contiguous()  # (d + 1, k)
    shards = x.split(max(ROWS, -(-len(x) // workers(x.device))))
    find = _compiled if compiles(x) and x.shape[1] <= NARROW else _multiplied
    parts = list(on_threads(partial(find, lifted), shards, x.device))
    labels, gaps = (torch.cat(part) for part in zip(*parts, strict=True))
    return labels, gaps + x.square().sum(1) / 2


def _compiled(lifted: Tensor, x: Tensor) -> tuple[Tensor, Tensor]:
    """Number of the column with the least |c|^2 / 2 - <x, c>, and that."""
    from lowdim.retrieval import kernels

    labels, values = x.new_empty(len(x), dtype=torch.int64), x.new_empty(len(x))
    kernels.closest(x.contiguous().numpy(), lifted.numpy(), labels.numpy(), values.numpy())
    return labels, values


def _multiplied(lifted: Tensor, x: Tensor) -> tuple[Tensor, Tensor]:
    """The same by products of matrices, as many rows at a time as stay in the cache."""
    k = lifted.shape[1]
    labels, values = x.new_empty(len(x)), x.new_empty(len(x))
    gaps, aboves = x.new_empty(2, ROWS, k)
    order = torch.arange(k).to(x)
    for i in range(0, len(x), ROWS):
        part = x[i : i + ROWS]
        gap, above = gaps[: len(part)], aboves[: len(part)]
        torch.addmm(lifted[-1], part, lifted[:-1], alpha=-1, out=gap)
        lowest = torch.amin(gap, 1, keepdim=True, out=values[i : i + ROWS, None])
        # the first column that is not above the lowest; argmin says it in three times the time
        torch.gt(gap, lowest, out=above)
        torch.add(order, above, alpha=k, out=above)
        torch.amin(above, 1, out=labels[i : i + ROWS])
    return labels.long(), values
