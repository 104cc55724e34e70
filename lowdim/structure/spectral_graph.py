"""Cut a sparse graph into K parts by the eigenvectors of its normalised adjacency.

Ng, Jordan and Weiss 2002, made safe for graphs that fall apart. Each component of a graph, even a
single node, is a perfect cut with eigenvalue one: with more components than K the leading
eigenvectors point at any of them, and an iteration for the largest eigenvalues misses some of many
that are equal. So components are taken one by one, the large before the small, and those far too
small to be a part are set aside. Within a component all nodes may be joined by a small weight
(Amini et al. 2013), which makes dangling ends dear to cut; it is a matrix of rank one and is never
written down. Cost: some hundred products with the sparse graph.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import scipy.sparse as sp
import torch
from numpy.typing import NDArray
from scipy.sparse.csgraph import connected_components
from scipy.sparse.linalg import LinearOperator, eigsh
from sklearn.cluster import KMeans
from torch import Tensor

from lowdim.core.random import normal
from lowdim.errors import InputError

DENSE = 256
"""Nodes up to which the whole eigenproblem is solved."""

STARTS = 10
"""Starts of KMeans on the embedding."""


def affinity(coefficients: sp.sparray) -> sp.csr_array:
    """|C| + |C^T|, each row of |C| divided by its largest entry first: symmetric, no loops."""
    c = sp.coo_array(coefficients)
    apart = c.row != c.col
    row, column, values = c.row[apart], c.col[apart], np.abs(c.data[apart].astype(np.float64))
    largest = np.zeros(c.shape[0])
    np.maximum.at(largest, row, values)
    largest[largest == 0] = 1
    directed = sp.csr_array((values / largest[row], (row, column)), shape=c.shape)
    return sp.csr_array(directed + directed.T)


def spectral_embedding(graph: Any, k: int, *, join: float = 0.01, seed: int = 0) -> Tensor:
    """Where does each node of a graph lie, when nodes that are well connected lie together?

    Parameters
    ----------
    graph : array-like or scipy.sparse array
        (n, n) symmetric weights, not negative. Nodes without an edge are allowed.
    k : int
        Columns: as many as there are clusters.
    join : float
        Weight from each node to all others of its component together, in units of the mean degree.
    seed : int
        Of the start vector of the Lanczos iteration.

    Returns
    -------
    Tensor
        (n, k) float64 rows of length one; zero in all but the k largest components.

    Raises
    ------
    InputError
        Not square, not symmetric, a negative or non-finite weight, no edge at all, k above n.
    """
    a = _checked(graph)
    n = a.shape[0]
    if not 1 <= k <= n:
        raise InputError(f"k={k}: between 1 and {n}, the nodes of the graph")
    if not join >= 0:
        raise InputError(f"join={join}: give a share of the mean degree, from 0")
    component = connected_components(a, directed=False)[1]
    largest = np.argsort(-np.bincount(component), kind="stable")[:k]
    most = k - len(largest) + 1  # eigenvectors of one component that can be among the k
    tau = join * a.sum() / n
    found = []
    for place, c in enumerate(largest):
        rows = np.flatnonzero(component == c)
        values, vectors = _leading(a[rows][:, rows], min(most, len(rows)), tau, seed)
        for i, (value, vector) in enumerate(zip(values, vectors.T, strict=True)):
            found.append(((-1.0 if i == 0 else -value), i, place, rows, vector))
    found.sort(key=lambda pair: pair[:3])  # the first of each component has eigenvalue one
    embedded = torch.zeros(n, k, dtype=torch.float64)
    for column, (_, _, _, rows, vector) in enumerate(found[:k]):
        embedded[rows, column] = torch.from_numpy(vector)
    return torch.nn.functional.normalize(embedded)


def _leading(
    a: sp.csr_array, k: int, tau: float, seed: int
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """The k largest eigenvalues of D^-1/2 (A + tau/n 1 1^T) D^-1/2, descending, and vectors."""
    n = a.shape[0]
    volume = np.asarray(a.sum(axis=1)).ravel() + tau
    volume[volume == 0] = 1  # a single node
    scale = 1 / np.sqrt(volume)
    if k == 1:
        return np.ones(1), np.sqrt(volume / volume.sum())[:, None]
    a = sp.csr_array(sp.diags_array(scale) @ a @ sp.diags_array(scale))
    if n <= max(DENSE, 3 * k):
        values, vectors = np.linalg.eigh(a.toarray() + tau / n * np.outer(scale, scale))
    else:
        operator = LinearOperator(
            (n, n), lambda v: a @ v.ravel() + scale * (tau / n * (scale @ v.ravel())), dtype=a.dtype
        )
        start = normal(n, seed, dtype=torch.float64).numpy()
        values, vectors = eigsh(operator, k, which="LA", v0=start, ncv=4 * k + 20, tol=1e-6)
        order = values.argsort()
        values, vectors = values[order], vectors[:, order]
    return values[::-1][:k], np.ascontiguousarray(vectors[:, ::-1][:, :k])


def spectral_labels(
    graph: Any,
    k: int,
    *,
    join: float = 0.01,
    smallest: float = 0.1,
    random_state: int = 0,
) -> Tensor:
    """Into which k parts does a graph fall, few and light edges being cut?

    Parameters
    ----------
    graph, k, join
        See :func:`spectral_embedding`.
    smallest : float
        Components with fewer nodes than this share of n / k are set aside.
    random_state : int
        Of the ten starts of KMeans, and of the eigenvectors.

    Returns
    -------
    Tensor
        (n,) int64 from 0 to k - 1; -1 for nodes that are set aside: those of small components, and
        of all beyond the k largest.

    Raises
    ------
    InputError
        As :func:`spectral_embedding`; and where fewer than k nodes are left.

    Notes
    -----
    Trust it where the parts are of comparable size, and few nodes are set aside. A small ``join``
    is right for graphs in which each part hangs well together: what is cut are the few edges
    between. Graphs with a handful of edges a node have dangling ends, groups of some nodes with an
    edge or two to the rest, which are lighter cuts than any real one: a ``join`` of some tenths
    makes them dear (Zhang and Rohe 2018), and blurs parts that are long and thin.
    """
    a = _checked(graph)
    n = a.shape[0]
    _, component = connected_components(a, directed=False)
    kept = (np.bincount(component) >= smallest * n / k)[component]
    if kept.sum() < k:
        raise InputError(
            f"the graph fell into components of fewer than {smallest * n / k:.3g} nodes: "
            f"too small for {k} parts, give it more edges"
        )
    embedded = torch.zeros(n, k, dtype=torch.float64)
    part = spectral_embedding(a[kept][:, kept], k, join=join, seed=random_state)
    embedded[torch.from_numpy(kept)] = part
    seen = embedded.any(1)
    kmeans = KMeans(k, n_init=STARTS, random_state=random_state).fit(embedded[seen].numpy())
    if len(np.unique(kmeans.labels_)) < k:
        raise InputError(f"the graph has fewer than {k} different places: give it more edges")
    labels = torch.full((n,), -1)
    labels[seen] = torch.from_numpy(kmeans.labels_).long()
    return labels


def _checked(graph: Any) -> sp.csr_array:
    if isinstance(graph, Tensor):
        graph = graph.numpy(force=True)
    a = sp.csr_array(graph, dtype=np.float64)
    if a.ndim != 2 or a.shape[0] != a.shape[1]:
        raise InputError(f"the graph has shape {a.shape}: give (n, n) weights")
    if not np.isfinite(a.data).all() or (a.data < 0).any():
        raise InputError("the graph has a negative, NaN or infinite weight: give weights from 0")
    if not a.data.any():
        raise InputError("the graph has no edge: there is nothing to cluster")
    if abs(a - a.T).max() > 1e-9 * a.data.max():
        raise InputError("the graph is not symmetric: give A + A^T")
    return a
