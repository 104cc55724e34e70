"""Prediction by distances between labels: what is said, what can be said, and what adds most."""

import itertools

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.sparse import csr_array
from scipy.sparse.csgraph import shortest_path

from lowdim.errors import InputError
from lowdim.retrieval import frechet_predict, locus, next_class


def tree(n, seed, weighted=False):
    """(n, n) distances in a random tree, and its leaves."""
    rng = np.random.default_rng(seed)
    edges = np.zeros((n, n))
    for child in range(1, n):
        edges[rng.integers(child), child] = rng.uniform(0.5, 2) if weighted else 1
    degree = ((edges + edges.T) > 0).sum(0)
    return shortest_path(csr_array(edges), directed=False), np.flatnonzero(degree == 1).tolist()


def path(n):
    at = np.arange(n)
    return np.abs(at[:, None] - at).astype(float)


def simplex(count, classes, seed=0):
    return np.random.default_rng(seed).dirichlet(np.full(classes, 0.5), count)


@settings(max_examples=20, deadline=None)
@given(st.integers(2, 12), st.integers(0, 1000))
def test_a_sure_classifier_is_followed(n, seed):
    distances, _ = tree(n, seed, weighted=True)
    trained = list(range(0, n, 2))
    found = frechet_predict(np.eye(len(trained)), distances[:, trained] ** 2)
    assert found.tolist() == trained


def test_equal_distances_are_argmax():
    p = simplex(500, 7)
    assert np.array_equal(frechet_predict(p, 1 - np.eye(7)), p.argmax(1))


def test_squared_euclidean_distances_predict_the_label_nearest_to_the_mean():
    """sum_i p_i |y - x_i|^2 = |y - sum_i p_i x_i|^2 + what does not depend on y."""
    rng = np.random.default_rng(0)
    labels, p = rng.normal(size=(40, 3)), simplex(300, 5)
    squares = ((labels[:, None] - labels[None, :5]) ** 2).sum(2)
    gaps = ((p @ labels[:5])[:, None] - labels[None]) ** 2
    assert np.array_equal(frechet_predict(p, squares), gaps.sum(2).argmin(1))
    assert np.array_equal(frechet_predict(7 * p, squares), frechet_predict(p, squares))


def test_of_equal_means_the_first_label_is_said():
    assert frechet_predict([[0.5, 0.5]], [[0.0, 1.0], [1.0, 0.0], [0.5, 0.5]]).item() == 0


def test_two_ends_of_a_path_reach_every_node():
    n = 9
    seen = []
    found = locus(path(n), [0, n - 1], progress=lambda done, total: seen.append((done, total)))
    assert seen == [(i + 1, n) for i in range(n)]
    assert found.is_cover
    assert found.ties == ()
    p = np.arange(n) / (n - 1)  # the node at distance L p_2
    said = frechet_predict(np.stack([1 - p, p], 1), path(n)[:, [0, n - 1]] ** 2)
    assert said.tolist() == list(range(n))


@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize("seed", range(3))
def test_leaves_of_a_tree_reach_all_nodes_and_no_smaller_set_does(seed, weighted):
    distances, leaves = tree(10, seed, weighted)
    assert locus(distances, leaves).is_cover
    for left_out in leaves:
        some = [leaf for leaf in leaves if leaf != left_out]
        assert left_out not in locus(distances, some).labels


@pytest.mark.parametrize("seed", range(4))
def test_locus_of_a_tree_is_what_lies_between_the_trained(seed):
    distances, _ = tree(14, seed)
    trained = [0, 5, 11]
    between = {
        y
        for a, b in itertools.combinations(trained, 2)
        for y in range(14)
        if distances[a, y] + distances[y, b] == distances[a, b]
    }
    assert set(locus(distances, trained).labels) == between


@pytest.mark.parametrize("seed", range(3))
def test_what_is_said_is_in_the_locus_and_what_is_in_it_can_be_said(seed):
    points = np.random.default_rng(seed).normal(size=(25, 2))
    distances = np.linalg.norm(points[:, None] - points, axis=2)
    trained = sorted({*points.argmin(0), *points.argmax(0)})
    found = locus(distances, trained)
    squares = distances[:, trained] ** 2
    said = set(frechet_predict(simplex(50_000, len(trained), seed), squares).tolist())
    assert said <= set(found.labels)
    wide = {y for y in found.labels if found.margins[y] > 2e-3}
    assert len(wide - set(trained)) > 5
    assert wide <= said


def test_a_twin_is_a_tie_and_a_lonely_label_is_out_of_reach():
    distances = np.array([[0, 1, 0, 9], [1, 0, 1, 9], [0, 1, 0, 9], [9, 9, 9, 0]], float)
    found = locus(distances, [0, 1])
    assert found.labels == (0, 1, 2)
    assert found.ties == (0, 2)
    assert not found.is_cover
    assert found.margins[3] < -0.5
    assert found.to_dict()["is_cover"] is False


@pytest.mark.parametrize("seed", range(3))
def test_next_class_of_a_tree_is_the_farthest_from_the_locus(seed):
    distances, _ = tree(10, seed)
    trained = [0, 1]
    while not locus(distances, trained).is_cover:
        reached = list(locus(distances, trained).labels)
        counts = []
        label, gained = next_class(
            distances, trained, progress=lambda *done, into=counts: into.append(done)
        )
        assert counts[-1] == (10 - len(trained),) * 2
        far = distances[:, reached].min(1)
        assert gained == far.max() == far[label]
        trained.append(label)
        assert len(locus(distances, trained).labels) == len(reached) + gained
    with pytest.raises(InputError, match="no label adds one"):
        next_class(distances, trained)


def test_digits_that_were_never_trained():
    """Digits but two, distances of class means: what the locus holds is said, and nothing else."""
    from sklearn.datasets import load_digits
    from sklearn.linear_model import LogisticRegression

    x, y = load_digits(return_X_y=True)
    x, order = x / 16, np.random.default_rng(0).permutation(len(x))
    train, test = order[:900], order[900:]
    means = np.stack([x[train][y[train] == digit].mean(0) for digit in range(10)])
    distances = np.linalg.norm(means[:, None] - means, axis=2)
    for unseen in ([8, 9], [1, 8], [2, 6]):
        seen = [digit for digit in range(10) if digit not in unseen]
        rows = train[np.isin(y[train], seen)]
        model = LogisticRegression(C=0.05, max_iter=1000).fit(x[rows], y[rows])
        p = model.predict_proba(x[test])
        said = frechet_predict(p, distances[:, seen] ** 2).numpy()
        reach = locus(distances, seen).labels
        assert set(said) <= set(reach)
        new = np.isin(y[test], unseen)
        best = np.asarray(seen)[p.argmax(1)]
        right = (said == y[test])[new].mean()
        if 8 in reach and 8 in unseen:
            assert right > 0.25  # argmax: 0
        else:
            assert right == 0
        squares = distances**2
        assert squares[said[new], y[test][new]].mean() < squares[best[new], y[test][new]].mean()
        assert (said == y[test])[~new].mean() > (best == y[test])[~new].mean() - 0.04


def test_bad_input():
    d = path(4)
    lopsided, hole = d.copy(), d.copy()
    lopsided[0, 1], hole[2, 1] = 3, np.nan
    for call, message in (
        (lambda: frechet_predict([[0.5, 0.5]], d), "of 2 classes"),
        (lambda: frechet_predict([[0.5, -0.5]], d[:, :2]), "not negative"),
        (lambda: frechet_predict([[0.0, 0.0]], d[:, :2]), "not all zeros"),
        (lambda: frechet_predict([[0.5, np.inf]], d[:, :2]), "column 1"),
        (lambda: locus(d[:3], [0]), "every label to every label"),
        (lambda: locus(d + 1, [0]), "zero of each to itself"),
        (lambda: locus(lopsided, [0]), "not symmetric"),
        (lambda: locus(hole, [0]), "row 2, column 1"),
        (lambda: locus(d, []), r"trained=\[\]"),
        (lambda: locus(d, [1, 1]), "each once"),
        (lambda: locus(d, [4]), "from 0 to 3"),
        (lambda: next_class(d, [-1]), "from 0 to 3"),
    ):
        with pytest.raises(InputError, match=message):
            call()
    assert locus([[0.0]], [0]).is_cover
    assert torch.equal(frechet_predict(torch.eye(2).half(), torch.ones(2, 2)), torch.tensor([0, 0]))
