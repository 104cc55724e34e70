"""Closed forms on graphs, agreement with GraphRicciCurvature, an interval that holds."""

import numpy as np
import pytest
import scipy.sparse as sp
import torch

from lowdim.core.neighbors import Neighbors
from lowdim.errors import InputError, MemoryBudgetError
from lowdim.geometry.ollivier_ricci import (
    neighbor_curvature,
    ollivier_ricci,
    representation_graph,
)
from tests.geometry.manifolds import flat_torus, normal


def cycle(n):
    ring = sp.diags_array([np.ones(n - 1), [1.0]], offsets=[1, n - 1], shape=(n, n))
    return (ring + ring.T).tocsr()


@pytest.mark.parametrize("n", [3, 5, 9])
def test_complete_graph(n):
    found = ollivier_ricci(np.ones((n, n)))
    assert found.edge_curvature.numpy() == pytest.approx(n / (2 * (n - 1)))
    assert len(found.edges) == n * (n - 1) // 2


@pytest.mark.parametrize("alpha", [0.0, 0.3, 0.5])
def test_long_cycles_and_grids_are_flat(alpha):
    assert ollivier_ricci(cycle(9), alpha=alpha).edge_curvature.abs().max() < 1e-12
    grid = sp.kron(cycle(7), sp.eye_array(7)) + sp.kron(sp.eye_array(7), cycle(7))
    assert ollivier_ricci(grid, alpha=alpha).edge_curvature.abs().max() < 1e-12


@pytest.mark.parametrize(("dx", "dy"), [(3, 3), (3, 5), (2, 6), (1, 4), (1, 1)])
def test_tree_edge(dx, dy):
    """Two hubs with leaves: kappa = -2 (1 - 1/dx - 1/dy)+ at alpha 0 (Jost and Liu 2014)."""
    n = dx + dy
    tree = np.zeros((n, n))
    tree[0, 1 : 1 + dx] = 1  # the first of these is the other hub
    tree[1, 1 + dx :] = 1
    found = ollivier_ricci(tree + tree.T, alpha=0.0)
    at = (found.edges == torch.tensor([0, 1])).all(1)
    assert float(found.edge_curvature[at]) == pytest.approx(-2 * max(0, 1 - 1 / dx - 1 / dy))


def test_curvature_is_linear_in_alpha_from_one_half_on():
    graph = representation_graph(Neighbors.of_points(normal(80, 3), 5))
    half, most = (ollivier_ricci(graph, alpha=a).edge_curvature for a in (0.5, 0.8))
    assert most.numpy() == pytest.approx(2 * (1 - 0.8) * half.numpy(), abs=1e-12)


def test_every_edge_is_the_optimum_of_a_linear_program():
    from scipy.optimize import linprog
    from scipy.sparse.csgraph import shortest_path

    graph = representation_graph(Neighbors.of_points(normal(25, 4), 3))
    found, far = ollivier_ricci(graph, alpha=0.3), shortest_path(graph)
    step = graph.astype(bool).astype(float).toarray()
    walk = 0.3 * np.eye(25) + 0.7 * step / step.sum(1, keepdims=True)
    margins = np.concatenate([np.kron(np.eye(25), np.ones(25)), np.kron(np.ones(25), np.eye(25))])
    for (x, y), curvature in zip(found.edges.tolist(), found.edge_curvature.tolist(), strict=True):
        program = linprog(far.reshape(-1), A_eq=margins, b_eq=np.concatenate([walk[x], walk[y]]))
        assert curvature == pytest.approx(1 - program.fun / far[x, y], abs=1e-9)


@pytest.mark.parametrize(("power", "hops"), [(0.0, False), (2.0, False), (0.0, True)])
def test_agrees_with_graph_ricci_curvature(power, hops):
    pytest.importorskip("GraphRicciCurvature")
    import networkx as nx
    from GraphRicciCurvature.OllivierRicci import OllivierRicci

    graph = representation_graph(Neighbors.of_points(normal(120, 3), 6))
    if hops:
        graph = graph.astype(bool).astype(float)
    found = ollivier_ricci(graph, power=power)
    peer = OllivierRicci(
        nx.from_scipy_sparse_array(graph), alpha=0.5, method="OTD", exp_power=power, proc=1
    )
    peer.compute_ricci_curvature()
    edges = [peer.G[a][b]["ricciCurvature"] for a, b in found.edges.tolist()]
    nodes = [peer.G.nodes[i]["ricciCurvature"] for i in range(120)]
    assert found.edge_curvature.numpy() == pytest.approx(edges, abs=1e-9)
    assert found.per_point.numpy() == pytest.approx(nodes, abs=1e-9)


def test_edges_longer_than_the_way_round():
    """The distance is the shortest path, also where an edge is longer."""
    long = np.array([[0, 1, 5.0], [1, 0, 1], [5, 1, 0]])
    found = ollivier_ricci(long, alpha=0.5)
    # walkers at 0 and 2: masses (1/2, 1/4, 1/4) and (1/4, 1/4, 1/2), a quarter goes 2, of d = 2
    assert found.edge_curvature[1] == pytest.approx(1 - 0.25 * 2 / 2)


def test_small_memory_and_several_components():
    graph = representation_graph(Neighbors.of_points(normal(200, 2), 4))
    two = sp.block_diag([graph, 3 * graph, sp.csr_array((2, 2))]).tocsr()
    whole = ollivier_ricci(two)
    blocked = ollivier_ricci(two, memory=300_000)
    assert torch.equal(whole.edges, blocked.edges)
    assert blocked.edge_curvature.numpy() == pytest.approx(whole.edge_curvature.numpy(), abs=1e-12)
    half = len(whole.edges) // 2
    assert whole.edge_curvature[:half].numpy() == pytest.approx(whole.edge_curvature[half:].numpy())
    assert whole.per_point[-2:].tolist() == [0, 0]
    assert whole.notes == ("2 nodes without edges",)
    with pytest.raises(MemoryBudgetError):
        ollivier_ricci(two, memory=10_000)


def test_a_bridge_between_two_groups_has_the_lowest_curvature():
    group = representation_graph(Neighbors.of_points(normal(60, 2), 6)).astype(bool)
    both = sp.block_diag([group, group]).tolil()
    both[3, 70] = both[70, 3] = True
    found = ollivier_ricci(both.tocsr())
    lowest = int(found.edge_curvature.argmin())
    assert found.edges[lowest].tolist() == [3, 70]
    assert float(found.edge_curvature[lowest]) < -0.3


def test_interval_holds_the_mean_of_many_draws():
    found = [neighbor_curvature(flat_torus(300, 2, 6, seed), k=6) for seed in range(25)]
    truth = np.mean([e.value for e in found])
    assert sum(e.low <= truth <= e.high for e in found) >= 20
    widths = np.mean([e.high - e.low for e in found]) / (2 * 1.96)
    assert widths == pytest.approx(np.std([e.value for e in found]), rel=0.6)


def test_bad_graphs():
    for bad, why in [
        (np.ones((3, 4)), "shape"),
        (np.triu(np.ones((4, 4))), "symmetric"),
        (-np.ones((3, 3)), "length"),
        (np.eye(3), "no edges"),
    ]:
        with pytest.raises(InputError, match=why):
            ollivier_ricci(bad)
    with pytest.raises(InputError, match="alpha"):
        ollivier_ricci(np.ones((3, 3)), alpha=1.0)
    x = normal(20, 2)
    with pytest.raises(InputError, match="equals another row"):
        representation_graph(Neighbors.of_points(torch.cat([x, x]), 3))
    with pytest.raises(InputError, match="queries"):
        representation_graph(Neighbors.of_points(x, 3, queries=x[:4]))
