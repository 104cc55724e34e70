"""Ollivier-Ricci curvature of a graph (Ollivier 2009; conventions of Ni et al. 2019).

A lazy walker at x stays with probability alpha and else moves to a neighbour. The curvature of an
edge compares how far apart two walkers are before and after one step: above zero they draw nearer
(the inside of a community), below zero they part (a bridge).

    kappa(x, y) = 1 - W1(m_x, m_y) / d(x, y)

W1 is exact (POT's network simplex, extra ``transport``). What the two measures share stays where
it is, as it may under any metric; what is left are problems of about ten points a side. Distances
are shortest paths, searched no further than the walkers of a block of edges can be apart. Cost:
one such search a node, O(m log n) at worst and the ball of three edges at best, and some tens of
microseconds an edge of degree 10. Memory: the distances from the nodes of one block, within
``memory``; never n x n unless that fits.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

import numpy as np
import scipy.sparse as sp
import torch
from numpy.typing import NDArray
from scipy.sparse.csgraph import dijkstra, reverse_cuthill_mckee
from torch import Tensor

from lowdim.core.blocked import on_threads
from lowdim.core.estimate import Estimate
from lowdim.core.memory import plan
from lowdim.errors import InputError, LowdimError, require
from lowdim.geometry.nearest import FEWEST, Z95, standard_error
from lowdim.registry import method, neighbors

if TYPE_CHECKING:
    from lowdim.core.neighbors import Neighbors

CPU = torch.device("cpu")

EDGES = 1024
"""Transport problems that a core takes at once."""

SEARCHES = 32
"""Nodes whose shortest paths are searched to one common limit."""

MOST_STEPS, OPTIMAL = 10**6, 1


@dataclass(frozen=True, kw_only=True)
class Curvature(Estimate):
    """Mean curvature over the edges; ``per_point`` is the mean over each node's own edges.

    Attributes
    ----------
    edges : Tensor
        (m, 2) int64 nodes of each edge, the smaller first, in ascending order.
    edge_curvature : Tensor
        (m,) float64, at most 1.
    negative : float
        Share of edges with curvature below zero.
    """

    edges: Tensor = field(repr=False, compare=False)
    edge_curvature: Tensor = field(repr=False, compare=False)
    negative: float

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON values; what is one number an edge is left out."""
        slim = super().to_dict()
        return {k: v for k, v in slim.items() if k not in ("edges", "edge_curvature")}


@method(
    "geometry/ollivier-ricci",
    needs=neighbors(k=10),
    paper="Ollivier 2009; Ni et al. 2019",
    cost="a shortest-path search a point, a small transport problem an edge",
    oracle="GraphRicciCurvature",
    invariant=("permutation", "rotation", "translation", "scale"),
    deep=True,
)
def neighbor_curvature(
    neighbors: Neighbors,
    *,
    k: int = 10,
    alpha: float = 0.5,
    memory: int | float | str | None = None,
) -> Curvature:
    """Do neighbourhoods overlap as in communities, or does the data hang together by bridges?

    Ollivier-Ricci curvature of the graph that joins each point to its ``k`` nearest, edges as long
    as they are. Near zero on flat even data, above inside tight groups, below along bridges.

    Parameters
    ----------
    neighbors : Neighbors
        Of distinct points, with at least ``k`` columns.
    k : int
        Neighbours joined to each point.
    alpha : float
        Probability of staying, in [0, 1).
    memory : int, float or str, optional
        Budget for the distances.

    Notes
    -----
    Trust it to compare layers or models on the same rows at one ``k``, and to find the edges and
    points that hold groups together. The value itself depends on ``k``, on n and on the dimension:
    it is a property of the graph and no estimate of a curvature of the manifold. The interval
    covers sampling of points, neighbouring ones moving together.
    """
    graph = representation_graph(neighbors, k=k)
    found = ollivier_ricci(graph, alpha=alpha, memory=memory)
    n = len(neighbors)
    if n < FEWEST:
        return replace(found, notes=(*found.notes, f"{n} rows are too few for an interval"))
    degree = torch.bincount(found.edges.reshape(-1), minlength=n).double()
    assert found.per_point is not None
    influence = degree * (found.per_point.cpu() - found.value) / degree.mean()
    error = Z95 * standard_error(influence, neighbors.head(k).indices.cpu())
    return replace(found, low=found.value - error, high=found.value + error)


def representation_graph(neighbors: Neighbors, *, k: int | None = None) -> sp.csr_array:
    """Which points does the neighbour graph join, and how far are they apart?

    Parameters
    ----------
    neighbors : Neighbors
        Of the points among themselves.
    k : int, optional
        How many of the neighbours; all that are known by default.

    Returns
    -------
    scipy.sparse.csr_array
        (n, n) symmetric: an edge where either point is among the other's ``k`` nearest, its
        distance as weight. ``graph.astype(bool)`` is the same graph in hops.

    Raises
    ------
    InputError
        Equal points, or neighbours of queries in another set.
    """
    n, nearest = len(neighbors), neighbors.head(k or neighbors.k)
    if n != neighbors.n_reference:
        raise InputError(
            f"these are neighbours of {n} queries in {neighbors.n_reference} others: a graph joins "
            "points among themselves, Neighbors.of_points(x, k)"
        )
    distances = nearest.distances.double().numpy(force=True).reshape(-1)
    if not distances.all():
        raise InputError(
            f"row {int(distances.argmin()) // nearest.k} equals another row: "
            "merge duplicates first, lowdim.core.points.distinct(x)[0]"
        )
    indices = nearest.indices.numpy(force=True).reshape(-1)
    graph = sp.csr_array((distances, indices, np.arange(0, n * nearest.k + 1, nearest.k)), (n, n))
    return graph.maximum(graph.T).tocsr()


def ollivier_ricci(
    graph: Any,
    *,
    alpha: float = 0.5,
    power: float = 0.0,
    memory: int | float | str | None = None,
) -> Curvature:
    """Which edges of a graph are bridges, and which lie inside communities?

    Parameters
    ----------
    graph : sparse or dense array
        (n, n) symmetric lengths of edges, above zero where there is one; booleans count hops.
        The diagonal is ignored.
    alpha : float
        Probability of staying, in [0, 1).
    power : float
        A neighbour at distance w is moved to with probability proportional to exp(-w^power): 0
        makes all alike; 2 is the default of GraphRicciCurvature, and depends on the unit of w.
    memory : int, float or str, optional
        Budget for the distances.

    Returns
    -------
    Curvature
        ``per_point`` is the mean over the edges of each node, 0 for a node without edges. No
        interval: a graph is taken as it is.

    Raises
    ------
    InputError
        Not square or symmetric, lengths below zero or not finite, no edge, alpha out of range.

    Notes
    -----
    The same numbers as GraphRicciCurvature's ``method="OTD"`` with ``exp_power=power``: d is the
    shortest path, also where it is shorter than the edge.
    """
    graph = as_graph(graph)
    if not 0 <= alpha < 1:
        raise InputError(f"alpha={alpha}: the probability of staying lies in [0, 1)")
    n = graph.shape[0]
    x, y = sp.triu(graph).tocsr().nonzero()
    curvature = _edge_curvature(graph, x, y, alpha, power, memory)
    ends = np.concatenate([x, y])
    degree = np.bincount(ends, minlength=n)
    node = np.bincount(ends, np.tile(curvature, 2), minlength=n) / np.maximum(degree, 1)
    lonely = int((degree == 0).sum())
    return Curvature(
        value=float(curvature.mean()),
        n=n,
        notes=(f"{lonely} nodes without edges",) if lonely else (),
        per_point=torch.from_numpy(node),
        edges=torch.from_numpy(np.stack([x, y], 1).astype(np.int64)),
        edge_curvature=torch.from_numpy(curvature),
        negative=float((curvature < -1e-9).mean()),
    )


def as_graph(graph: Any) -> sp.csr_array:
    """Check a graph: (n, n) csr of symmetric lengths above zero, no diagonal, sorted indices."""
    found = sp.coo_array(graph)
    if found.ndim != 2 or found.shape[0] != found.shape[1]:
        raise InputError(f"the graph has shape {found.shape}: give (n, n) lengths of edges")
    found = found.astype(np.float64)
    off = (found.row != found.col) & (found.data != 0)
    row, col, data = found.row[off], found.col[off], found.data[off]
    bad = ~(np.isfinite(data) & (data > 0))
    if bad.any():
        at = bad.argmax()
        raise InputError(f"edge ({row[at]}, {col[at]}) has length {data[at]}: give lengths above 0")
    checked = sp.csr_array((data, (row, col)), found.shape)
    if not len(data) or (checked != checked.T).nnz:
        raise InputError(
            "the graph is not symmetric: use graph.maximum(graph.T)"
            if len(data)
            else "the graph has no edges"
        )
    checked.sort_indices()
    return checked


def _edge_curvature(
    graph: sp.csr_array,
    x: NDArray[Any],
    y: NDArray[Any],
    alpha: float,
    power: float,
    memory: int | float | str | None,
) -> NDArray[np.float64]:
    walk = _walk(graph, alpha, power)
    reach = _row_max(graph, graph.data)  # longest edge of each node
    lengths = np.asarray(graph[x, y]).reshape(-1)
    place = np.empty(graph.shape[0], np.int64)
    curvature = np.empty(len(x))
    for edges, sources in _blocks(graph, x, y, memory):
        # from u through its neighbour x and over the edge to a neighbour of y: none is further
        beyond = np.full(graph.shape[0], -np.inf)
        np.maximum.at(beyond, x[edges], lengths[edges] + reach[y[edges]])
        limit = np.maximum(_row_max(graph, graph.data + beyond[graph.indices]), beyond)
        sources = sources[limit[sources].argsort()]  # one long edge makes few searches long
        far = np.empty((len(sources), graph.shape[0]))
        for start in range(0, len(sources), SEARCHES):
            some = sources[start : start + SEARCHES]
            far[start : start + SEARCHES] = dijkstra(
                graph, indices=some, limit=limit[some[-1]] * (1 + 1e-9)
            )
        place[sources] = np.arange(len(sources))
        apart = far[place[x[edges]], y[edges]]
        excess = (walk[x[edges]] - walk[y[edges]]).tocsr()
        curvature[edges] = 1 - _w1(excess, far, place) / apart
    return curvature


def _row_max(graph: sp.csr_array, values: NDArray[np.float64]) -> NDArray[np.float64]:
    """(n,) largest of the values at each node's edges; minus infinity for a node without."""
    found = np.full(graph.shape[0], -np.inf)
    some = np.diff(graph.indptr) > 0
    found[some] = np.maximum.reduceat(values, graph.indptr[:-1][some])
    return found


def _walk(graph: sp.csr_array, alpha: float, power: float) -> sp.csr_array:
    """(n, n) where a step from each node ends: alpha stays, the rest moves to neighbours."""
    n = graph.shape[0]
    degree = np.diff(graph.indptr)
    row = np.repeat(np.arange(n), degree)
    closeness = -(graph.data**power) if power else np.zeros(len(graph.data))
    closest = np.full(n, -np.inf)
    np.maximum.at(closest, row, closeness)
    share = np.exp(closeness - closest[row])
    share *= (1 - alpha) / np.bincount(row, share, minlength=n)[row]
    moves = sp.csr_array((share, graph.indices, graph.indptr), graph.shape)
    return (moves + sp.diags_array(np.where(degree > 0, alpha, 1.0))).tocsr()


def _blocks(
    graph: sp.csr_array, x: NDArray[Any], y: NDArray[Any], memory: int | float | str | None
) -> Iterator[tuple[NDArray[Any], NDArray[Any]]]:
    """Edges, and the nodes whose distances they need, as many as fit; near nodes together."""
    n = graph.shape[0]
    around = (graph.astype(bool) + sp.eye_array(n, dtype=bool)).tocsr()
    rows = plan("ollivier_ricci", rows=n, bytes_per_row=9 * n, fixed=40 * graph.nnz, memory=memory)
    order = np.empty(n, dtype=np.int64)
    order[reverse_cuthill_mckee(graph, symmetric_mode=True)] = np.arange(n)
    todo = order[x].argsort(kind="stable")
    while len(todo):
        # the most edges whose sources fit: grow by halves, at least one node's
        size = len(todo)
        while True:
            sources = np.unique(around[np.unique(x[todo[:size]])].indices)
            if len(sources) <= rows or size == 1:
                break
            size = max(1, size // 2)
        yield todo[:size], sources
        todo = todo[size:]


def _w1(excess: sp.csr_array, far: NDArray[Any], place: NDArray[Any]) -> NDArray[np.float64]:
    """(e,) transport cost of each row's positive entries to its negative ones, exactly.

    What both measures hold stays where it is: under a metric no plan that moves it is cheaper.
    """
    emd = require("ot.lp.emd_wrap", "transport").emd_c  # without POT's checks of every argument
    gives, takes = _part(excess, 1.0), _part(excess, -1.0)
    mass = gives.sum(1)
    ratio = mass / np.where(mass > 0, takes.sum(1), 1.0)  # equal up to rounding; the solver asks
    takes.data *= np.repeat(ratio, np.diff(takes.indptr))
    costs = np.zeros(excess.shape[0])

    def solve(edges: NDArray[Any]) -> None:
        for edge in edges:
            a = slice(gives.indptr[edge], gives.indptr[edge + 1])
            b = slice(takes.indptr[edge], takes.indptr[edge + 1])
            cost = far[place[gives.indices[a]][:, None], takes.indices[b]]
            _, costs[edge], _, _, code = emd(gives.data[a], takes.data[b], cost, MOST_STEPS, 1)
            if code != OPTIMAL:
                raise LowdimError(f"no optimal transport was found (code {code} of POT's solver)")

    moved = np.flatnonzero(mass > 0)
    for _ in on_threads(solve, np.array_split(moved, max(1, len(moved) // EDGES)), CPU):
        pass
    return costs


def _part(excess: sp.csr_array, sign: float) -> sp.csr_array:
    """The entries of one sign; shared mass cancels up to rounding and is none."""
    part = sp.csr_array(excess * sign)
    part.data[part.data < 1e-15] = 0.0
    part.eliminate_zeros()
    return part
