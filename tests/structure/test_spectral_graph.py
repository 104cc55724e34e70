import numpy as np
import pytest
import scipy.sparse as sp
import torch
from sklearn.cluster import SpectralClustering
from sklearn.metrics import adjusted_rand_score

from lowdim.errors import InputError
from lowdim.structure.spectral_graph import affinity, spectral_embedding, spectral_labels


def blocks(sizes, within=0.3, between=0.01, seed=0):
    """A random graph with a dense block for each size."""
    rng = np.random.default_rng(seed)
    labels = np.repeat(np.arange(len(sizes)), sizes)
    chance = np.where(labels[:, None] == labels, within, between)
    upper = np.triu(rng.random(chance.shape) < chance, 1)
    return (upper + upper.T).astype(float), labels


def test_affinity_is_symmetric_without_loops_and_leaves_its_argument():
    c = sp.csr_array(np.array([[5.0, -2, 1], [0, 0, 0.5], [0, 0, 0]], dtype=np.float32))
    before = c.copy()
    found = affinity(c).toarray()
    expected = np.array([[0, 1, 0.5], [0, 0, 1], [0, 0, 0]])
    assert np.allclose(found, expected + expected.T)
    assert (c != before).nnz == 0


@pytest.mark.parametrize("sizes", [(60, 50, 40), (300, 200, 150)], ids=["dense", "sparse"])
def test_blocks_are_found_as_scikit_learn_finds_them(sizes):
    graph, labels = blocks(sizes)
    found = spectral_labels(sp.csr_array(graph), 3)
    assert adjusted_rand_score(labels, found) == 1
    peer = SpectralClustering(3, affinity="precomputed", random_state=0).fit_predict(graph)
    assert adjusted_rand_score(peer, found) == 1
    assert torch.equal(spectral_labels(torch.from_numpy(graph), 3), found)


def test_the_embedding_is_of_the_normalised_adjacency():
    graph, _ = blocks((120, 100, 90))
    found = spectral_embedding(graph, 3, join=0.2)
    tau, n = 0.2 * graph.sum(1).mean(), len(graph)
    degree = graph.sum(1) + tau
    joined = (graph + tau / n) / np.sqrt(np.outer(degree, degree))
    vectors = np.linalg.eigh(joined)[1][:, -3:]
    rows = vectors / np.linalg.norm(vectors, axis=1, keepdims=True)
    assert np.allclose(found @ found.T, rows @ rows.T, atol=1e-5)  # up to a rotation
    assert torch.equal(found, spectral_embedding(graph, 3, join=0.2))


def test_components_are_parts_however_small_the_join():
    graph, labels = blocks((200, 150, 100), within=0.1, between=0.0)
    for join in (0.0, 0.01, 1.0):
        assert adjusted_rand_score(labels, spectral_labels(graph, 3, join=join)) == 1


def test_crumbs_are_set_aside_and_the_rest_is_found():
    graph, labels = blocks((200, 150), within=0.1, between=0.005)
    n, crumbs = len(graph), 20
    whole = np.zeros((n + 3 * crumbs, n + 3 * crumbs))
    whole[:n, :n] = graph
    for i in range(crumbs):  # pairs, and nodes without an edge
        a = n + 3 * i
        whole[a, a + 1] = whole[a + 1, a] = 1
    found = spectral_labels(whole, 2)
    assert (found[n:] == -1).all()
    assert adjusted_rand_score(labels, found[:n]) == 1


def test_equal_components_are_all_seen():
    circle = np.roll(np.eye(100), 1, 0) + np.roll(np.eye(100), -1, 0)  # each eigenvalue many times
    found = spectral_labels(np.kron(np.eye(4), circle), 4)
    assert adjusted_rand_score(np.repeat(np.arange(4), 100), found) == 1


def test_with_more_large_components_than_parts_the_largest_are_the_parts():
    graph, labels = blocks((100, 90, 80, 30), within=0.2, between=0.0)
    found = spectral_labels(graph, 2).numpy()
    assert set(found[labels == 0]) | set(found[labels == 1]) == {0, 1}
    assert len(set(found[labels == 0])) == len(set(found[labels == 1])) == 1
    assert (found[labels > 1] == -1).all()


def test_a_component_is_cut_where_there_are_fewer_than_parts():
    one, inner = blocks((100, 100), within=0.2, between=0.005)
    two, _ = blocks((120,), within=0.2, seed=1)
    found = spectral_labels(sp.block_diag([one, two]), 3)
    assert adjusted_rand_score(np.concatenate([inner, np.full(120, 2)]), found) == 1


def test_dangling_ends_are_dear_to_cut():
    graph, labels = blocks((300, 300), within=0.05, between=0.01)
    n = len(graph)
    whole = np.zeros((n + 90, n + 90))
    whole[:n, :n] = graph
    for i in range(30):  # threes that hang on one node
        a = n + 3 * i
        whole[a : a + 3, a : a + 3] = 1 - np.eye(3)
        whole[a, 10 * i] = whole[10 * i, a] = 0.05
    plain, joined = (spectral_labels(whole, 2, join=join)[:n] for join in (0.0, 0.3))
    assert adjusted_rand_score(labels, plain) < 0.1
    assert adjusted_rand_score(labels, joined) > 0.9


def test_mistakes_are_named():
    graph, _ = blocks((10, 10))
    lopsided, holed = graph.copy(), graph.copy()
    lopsided[0, 1] += 1
    holed[0, 0] = np.nan
    for bad, what in (
        (graph[:-1], "shape"),
        (lopsided, "symmetric"),
        (holed, "NaN"),
        (-graph, "negative"),
        (0 * graph, "no edge"),
    ):
        with pytest.raises(InputError, match=what):
            spectral_labels(bad, 2)
    with pytest.raises(InputError, match="k=21"):
        spectral_embedding(graph, 21)
    with pytest.raises(InputError, match="components of fewer"):
        spectral_labels(np.kron(np.eye(200), 1 - np.eye(2)), 2)
    with pytest.raises(InputError, match="join"):
        spectral_labels(graph, 2, join=-1)
