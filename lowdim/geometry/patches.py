"""The vectors from every point to its neighbours, worked off in blocks that stay in the cache.

Each patch is centred on its query point before anything is multiplied, in the dtype of the points,
and measured in units of its farthest neighbour. So a patch far from the origin loses one rounding
of each difference and no more, and no square over- or underflows.

Cost: n k d to gather, n k^2 d for Gram matrices. Memory: one block of patches a core.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from lowdim.core.blocked import full_precision, on_threads, workers
from lowdim.core.memory import plan
from lowdim.core.points import as_points
from lowdim.errors import InputError
from lowdim.geometry.nearest import separations

if TYPE_CHECKING:
    from lowdim.core.neighbors import Neighbors

CELLS = 2**18
"""Coordinates of the patches that one core holds at once: with their products, its cache."""


def over_patches(
    function: Callable[[Tensor], Tensor], x: Tensor, neighbors: Neighbors, k: int, *,
    queries: Tensor | None = None, memory: int | float | str | None = None,
) -> Tensor:  # fmt: skip
    """Apply ``function`` to the vectors from each point to its ``k`` nearest.

    Parameters
    ----------
    function : callable
        (b, k, d) vectors of length at most one, nearest first, to (b, ...) results. It may
        change its input, and runs on several threads.
    x : Tensor
        (n, d) distinct points.
    neighbors : Neighbors
        Of the same points, or of the queries, with at least ``k`` columns.
    k : int
        Neighbours of each.
    queries : Tensor, optional
        (m, d) centres of the patches, where they are not the points themselves.
    memory : int, float or str, optional
        Budget of the blocks.

    Returns
    -------
    Tensor
        (n, ...) results in the order of the points, or (m, ...) of the queries.

    Raises
    ------
    InputError
        Duplicates, or neighbours that were found among other points or of other queries.
    """
    x = as_points(x)
    centers = x if queries is None else queries.to(x)
    radius = separations(neighbors, k)[:, -1].to(x.dtype)  # (n,)
    found = (neighbors.n_reference, neighbors.dim, len(neighbors))
    if (*x.shape, len(centers)) != found:
        raise InputError(
            f"{len(centers)} centres in {len(x)} x {x.shape[1]} points, and these are the "
            f"neighbours of {found[2]} in {found[0]} x {found[1]}: give the points of the search"
        )
    indices = neighbors.indices[:, :k]
    d, cores = x.shape[1], workers(x.device)
    block = plan(
        "neighbour patches",
        rows=len(centers),
        bytes_per_row=cores * k * (24 * d + 64 * k),
        memory=memory,
        largest=max(1, CELLS // (k * max(k, d))),
    )

    def some(start: int) -> Tensor:
        at = slice(start, start + block)
        vectors = x.index_select(0, indices[at].reshape(-1)).view(-1, k, d)
        vectors -= centers[at, None]
        vectors /= radius[at, None, None]
        return function(vectors)

    with full_precision():
        return torch.cat(list(on_threads(some, range(0, len(centers), block), x.device)))


def gram(vectors: Tensor) -> Tensor:
    """Inner products within each patch: (b, k, d) to (b, k, k)."""
    return vectors @ vectors.mT


def centered_gram(vectors: Tensor) -> Tensor:
    """Inner products about the mean of each patch: (b, k, d) to (b, k, k)."""
    products = gram(vectors)
    mean = products.mean(2, keepdim=True)
    return products - mean - mean.mT + mean.mean(1, keepdim=True)


def spectra(vectors: Tensor) -> Tensor:
    """Eigenvalues of the covariance of each patch, descending, through its smaller side.

    Returns
    -------
    Tensor
        (b, min(k - 1, d)) float64, divided by k - 1; what rounding alone can make is zero.
    """
    _, k, d = vectors.shape
    if d < k:
        centered = vectors - vectors.mean(1, keepdim=True)
        moment = centered.mT @ centered  # (b, d, k) @ (b, k, d)
    else:
        moment = centered_gram(vectors)
    values = torch.linalg.eigvalsh(moment).flip(-1)[:, : min(k - 1, d)].double() / (k - 1)
    floor = values[:, :1] * (max(k, d) * torch.finfo(vectors.dtype).eps)
    return torch.where(values > floor, values, 0.0)
