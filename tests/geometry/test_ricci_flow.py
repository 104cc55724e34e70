"""The flow of GraphRicciCurvature step by step, and planted communities."""

import numpy as np
import pytest
import torch
from sklearn.metrics import adjusted_rand_score

from lowdim.core.neighbors import Neighbors
from lowdim.errors import InputError
from lowdim.geometry.ollivier_ricci import representation_graph
from lowdim.geometry.ricci_flow import ricci_flow
from tests.geometry.manifolds import normal


def planted(blocks, size, inside, between, seed=0):
    rng = np.random.default_rng(seed)
    label = np.repeat(np.arange(blocks), size)
    p = np.where(label[:, None] == label, inside, between)
    upper = np.triu(rng.random(p.shape) < p, 1)
    return (upper | upper.T).astype(float), label


@pytest.mark.parametrize("steps", [1, 4])
def test_agrees_with_graph_ricci_curvature(steps):
    pytest.importorskip("GraphRicciCurvature")
    import networkx as nx
    from GraphRicciCurvature.OllivierRicci import OllivierRicci

    graph = representation_graph(Neighbors.of_points(normal(60, 2), 6))
    net = nx.from_scipy_sparse_array(graph)
    assert nx.is_connected(net)
    peer = OllivierRicci(net, alpha=0.5, method="OTD", exp_power=0, proc=1)
    peer.compute_ricci_flow(iterations=steps)
    found = ricci_flow(graph, steps=steps)
    theirs = [peer.G[a][b]["weight"] for a, b in found.edges.tolist()]
    assert found.lengths.numpy() == pytest.approx(theirs, rel=1e-9)


def test_planted_blocks_come_apart():
    graph, label = planted(4, 20, 0.6, 0.03)
    found = ricci_flow(graph, steps=8)
    assert adjusted_rand_score(label, found.per_point) > 0.95
    assert found.value > 0.5
    assert found.lengths.mean() == pytest.approx(1)


def test_separate_components_are_never_joined_and_a_cut_can_be_given():
    graph = np.kron(np.eye(2), np.ones((6, 6)))
    found = ricci_flow(graph, steps=2)
    assert found.communities == 2
    assert found.value == pytest.approx(0.5)
    assert ricci_flow(graph, steps=2, cut=1e-6).communities == 12
    assert torch.equal(found.per_point, torch.tensor([0] * 6 + [1] * 6))


def test_an_edge_of_curvature_one_does_not_vanish():
    found = ricci_flow(np.array([[0, 1.0], [1, 0]]), steps=3)
    assert found.lengths.isfinite().all()


def test_bad_settings():
    for options in ({"steps": 0}, {"rate": 0.0}, {"rate": 1.5}):
        with pytest.raises(InputError, match="steps"):
            ricci_flow(np.ones((3, 3)), **options)
