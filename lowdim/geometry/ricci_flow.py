"""Ricci flow on a graph, and the communities it pulls apart (Ni, Lin, Luo, Gao 2019).

Every edge is scaled by 1 - kappa, so that what holds a community together shrinks and what
bridges two of them grows; the total length is kept. After a few steps the bridges stand out by
their length alone: they are cut (the surgery), and the pieces are the communities. Cost: one
curvature of the whole graph a step.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np
import scipy.sparse as sp
import torch
from numpy.typing import NDArray
from scipy.sparse.csgraph import connected_components
from torch import Tensor

from lowdim.core.estimate import Estimate
from lowdim.errors import InputError
from lowdim.geometry.ollivier_ricci import as_graph, ollivier_ricci, representation_graph
from lowdim.registry import method, neighbors

if TYPE_CHECKING:
    from lowdim.core.neighbors import Neighbors

SHORTEST = 1e-9
"""Shortest length of an edge, the mean being one: an edge of curvature 1 would vanish."""

CUTS = 200
"""Most cuts that are tried."""


@dataclass(frozen=True, kw_only=True)
class RicciFlow(Estimate):
    """Communities of a graph: ``value`` is their modularity, ``per_point`` each node's own.

    Attributes
    ----------
    edges : Tensor
        (m, 2) int64 nodes of each edge.
    lengths : Tensor
        (m,) after the last step, one on average.
    cut : float
        Edges longer than this were cut.
    communities : int
        How many pieces are left.
    """

    edges: Tensor = field(repr=False, compare=False)
    lengths: Tensor = field(repr=False, compare=False)
    cut: float
    communities: int

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON values; what is one number an edge is left out."""
        return {k: v for k, v in super().to_dict().items() if k not in ("edges", "lengths")}


@method(
    "geometry/ricci-flow",
    needs=neighbors(k=10),
    paper="Ni et al. 2019",
    arxiv="1907.03993",
    cost="a curvature of the neighbour graph a step",
    oracle="GraphRicciCurvature",
    invariant=("permutation", "rotation", "translation", "scale"),
    deep=True,
)
def neighbor_communities(
    neighbors: Neighbors,
    *,
    k: int = 10,
    steps: int = 10,
    memory: int | float | str | None = None,
) -> RicciFlow:
    """Into which groups does the data fall when the bridges between neighbourhoods are cut?

    :func:`ricci_flow` of the graph that joins each point to its ``k`` nearest.

    Parameters
    ----------
    neighbors : Neighbors
        Of distinct points, with at least ``k`` columns.
    k, steps : int
        Neighbours joined to each point; steps of the flow.
    memory : int, float or str, optional
        Budget for the distances.

    Notes
    -----
    Trust the groups where the modularity is well above what one even cloud of the same n gives
    (try a ball: slices of it have some as well), and when they hold over ``k``.
    """
    return ricci_flow(representation_graph(neighbors, k=k), steps=steps, memory=memory)


def ricci_flow(
    graph: Any,
    *,
    steps: int = 10,
    rate: float = 1.0,
    alpha: float = 0.5,
    cut: float | None = None,
    memory: int | float | str | None = None,
) -> RicciFlow:
    """Into which communities does a graph fall when its bridges are stretched and cut?

    Parameters
    ----------
    graph : sparse or dense array
        (n, n) symmetric lengths, as for :func:`~lowdim.geometry.ollivier_ricci`.
    steps : int
        How often the lengths are scaled by ``1 - rate * curvature``.
    rate : float
        In (0, 1].
    alpha : float
        Probability that a walker stays.
    cut : float, optional
        Length, the mean being one, beyond which an edge is cut. By default the one of up to 200
        quantiles of the lengths whose pieces have the largest modularity in the graph as given,
        its edges counted alike.

    Raises
    ------
    InputError
        As for the curvature; no step, or a rate outside (0, 1].

    Notes
    -----
    The lengths agree with GraphRicciCurvature's ``compute_ricci_flow`` on a connected graph; on
    others it takes the largest component, where we keep all. How the cut is chosen is ours: theirs
    looks for drops of the modularity. Trust the communities where modularity is well above 0.3,
    which random sparse graphs reach too.
    """
    if steps < 1 or not 0 < rate <= 1:
        raise InputError(f"steps={steps}, rate={rate}: at least one step, and a rate in (0, 1]")
    current = as_graph(graph)
    n = current.shape[0]
    x, y = sp.triu(current).tocsr().nonzero()
    lengths = np.asarray(current[x, y]).reshape(-1)
    for _ in range(steps):
        found = ollivier_ricci(current, alpha=alpha, memory=memory)
        shrink = 1 - rate * found.edge_curvature.numpy()
        lengths = np.maximum(lengths * shrink, SHORTEST * lengths.mean())
        lengths *= len(x) / lengths.sum()
        current = _joined(x, y, lengths, n)
    cuts = [cut] if cut is not None else np.unique(np.quantile(lengths, np.linspace(0, 1, CUTS)))
    labels = [connected_components(_joined(x, y, lengths, n, c), directed=False)[1] for c in cuts]
    scores = [_modularity(x, y, label) for label in labels]
    best = int(np.argmax(scores))
    return RicciFlow(
        value=scores[best],
        n=n,
        per_point=torch.from_numpy(labels[best].astype(np.int64)),
        edges=found.edges,
        lengths=torch.from_numpy(lengths),
        cut=float(cuts[best]),
        communities=int(labels[best].max()) + 1,
    )


def _joined(
    x: NDArray[Any], y: NDArray[Any], lengths: NDArray[Any], n: int, cut: float = np.inf
) -> sp.csr_array:
    """The graph of the edges up to a length."""
    kept = lengths <= cut
    half = sp.csr_array((lengths[kept], (x[kept], y[kept])), (n, n))
    return (half + half.T).tocsr()


def _modularity(x: NDArray[Any], y: NDArray[Any], labels: NDArray[Any]) -> float:
    """Share of edges within a community, less what the degrees alone would give (Newman 2006)."""
    ends = np.bincount(labels[np.concatenate([x, y])])
    return float((labels[x] == labels[y]).mean() - ((ends / (2 * len(x))) ** 2).sum())
