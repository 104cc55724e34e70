import math

import numpy as np
import pytest
import scipy.linalg
import scipy.sparse as sp
import torch
from sklearn.cluster import KMeans
from sklearn.metrics import adjusted_rand_score

from lowdim.errors import InputError, MemoryBudgetError
from lowdim.structure import graph_proximity, spectral_labels
from lowdim.structure.graph_proximity import KINDS


def chain(n, seed):
    """Random weights on a path and some more edges."""
    rng = np.random.default_rng(seed)
    upper = np.triu((rng.random((n, n)) < 0.2) * rng.random((n, n)), 1)
    upper[np.arange(n - 1), np.arange(1, n)] += 0.2
    return upper + upper.T


def blocks(seed, sizes=(60, 40, 25), within=0.3, between=0.08):
    rng = np.random.default_rng(seed)
    labels = np.repeat(np.arange(len(sizes)), sizes)
    chance = np.where(labels[:, None] == labels, within, between)
    upper = np.triu(rng.random(chance.shape) < chance, 1)
    return (upper + upper.T).astype(float), labels


def test_kernels_are_what_they_are_called():
    a = chain(20, 0)
    eye, laplacian, t = np.eye(20), np.diag(a.sum(1)) - a, 0.2
    expected = {
        "walk": np.linalg.inv(eye - t * a),
        "communicability": scipy.linalg.expm(t * a),
        "forest": np.linalg.inv(eye + t * laplacian),
        "heat": scipy.linalg.expm(-t * laplacian),
    }
    for kind, kernel in expected.items():
        found = graph_proximity(a, kind=kind, t=t, log=False)
        assert np.allclose(found.kernel, kernel, rtol=1e-9, atol=1e-15)
        assert np.allclose(graph_proximity(a, kind=kind, t=t).kernel, np.log(kernel), atol=1e-6)
        own = np.diag(kernel)
        assert np.allclose(found.distance, (own[:, None] + own) / 2 - kernel)
        assert found.value == pytest.approx(float(found.distance.sum()) / (20 * 19))


def test_commute_distances_are_half_the_resistance():
    path = np.diag([1.0, 2.0, 4.0], 1)
    found = graph_proximity(path + path.T, kind="commute", log=False).distance
    assert np.allclose(found[0], np.array([0, 1, 1.5, 1.75]) / 2)


@pytest.mark.parametrize("kind", KINDS[:4])
def test_logarithms_of_walk_and_forest_are_cutpoint_additive(kind):
    n = 25
    a = np.zeros((2 * n - 1, 2 * n - 1))
    a[:n, :n] += chain(n, 1)
    a[n - 1 :, n - 1 :] += chain(n, 2)  # every path from one half to the other passes n - 1
    d = graph_proximity(a, kind=kind).distance
    left, right, across = d[: n - 1, n - 1, None], d[n - 1, n:], d[: n - 1, n:]
    off = float(((left + right - across).abs() / across).max())
    assert (off < 1e-14) == (kind in ("walk", "forest"))
    assert kind in ("walk", "forest") or off > 0.05
    plain = graph_proximity(a, kind=kind, log=False).distance
    assert not torch.allclose(plain[: n - 1, n - 1, None] + plain[n - 1, n:], plain[: n - 1, n:])


@pytest.mark.parametrize("kind", KINDS[:4])
def test_tiny_entries_are_right_to_their_last_digits(kind):
    path = np.diag(np.ones(59), 1)
    found = graph_proximity(path + path.T, kind=kind, t=0.01).kernel
    assert torch.isfinite(found).all()
    assert float(found[0, -1]) < -200  # far below what float64 tells from zero beside one
    steps = found[0].diff()
    assert (steps < 0).all()
    if kind == "walk":  # closed form: proportional to sinh((60 - i) theta), cosh(theta) = 1 / 2t
        assert np.allclose(steps[:40], -np.arccosh(1 / 0.02), atol=1e-12)
    if kind == "communicability":  # its first term, t^d / d!, and the next
        leading = 59 * math.log(0.01) - math.lgamma(60)
        assert float(found[0, -1]) == pytest.approx(leading, abs=1e-4)
    with pytest.raises(InputError, match="larger"):
        graph_proximity(path + path.T, kind=kind, t=1e-12)


def test_components_are_infinitely_far():
    a = scipy.linalg.block_diag(chain(6, 0), chain(5, 1))
    for kind in KINDS[:4]:
        found = graph_proximity(a, kind=kind)
        assert torch.isinf(found.distance[:6, 6:]).all()
        assert torch.isfinite(found.distance[:6, :6]).all()
        plain = graph_proximity(a, kind=kind, log=False)
        assert (plain.kernel[:6, 6:] == 0).all()
    assert torch.isinf(graph_proximity(a, kind="commute", log=False).distance[:6, 6:]).all()


def test_logarithms_find_blocks_that_plain_kernels_miss():
    for kind in ("forest", "heat", "communicability"):
        scores = {True: [], False: []}
        for seed in range(5):
            a, labels = blocks(seed)
            for log, score in scores.items():
                kernel = graph_proximity(a, kind=kind, log=log).kernel.numpy()
                centred = kernel - kernel.mean(0) - kernel.mean(1)[:, None] + kernel.mean()
                values, vectors = np.linalg.eigh(centred)
                features = vectors * np.sqrt(values.clip(0))
                found = KMeans(3, n_init=3, random_state=0).fit_predict(features)
                score.append(adjusted_rand_score(labels, found))
        assert np.mean(scores[True]) > 0.9
        assert np.mean(scores[True]) > np.mean(scores[False]) + 0.3


def test_it_refines_an_affinity():
    a, labels = blocks(0)
    near = (-graph_proximity(a, kind="forest").distance).exp()
    assert adjusted_rand_score(labels, spectral_labels(near.fill_diagonal_(0), 3)) > 0.9


def test_the_argument_stays_and_may_be_sparse():
    a = chain(12, 0)
    before = a.copy()
    found = graph_proximity(a)
    assert np.array_equal(a, before)
    assert graph_proximity(sp.csr_array(a)).value == found.value
    assert graph_proximity(a + np.eye(12)).value == found.value  # loops are not read
    assert "kernel" not in found.to_dict()


def test_mistakes_are_named():
    a = chain(12, 0)
    for options, what in (
        ({"kind": "cosine"}, "kind"),
        ({"kind": "commute"}, "log=False"),
        ({"kind": "walk", "t": 10.0}, "t=10"),
        ({"kind": "heat", "t": -1.0}, "t=-1"),
        ({"kind": "communicability", "t": 1e4}, "overflows"),
    ):
        with pytest.raises(InputError, match=what):
            graph_proximity(a, **options)
    for bad, what in ((-a, "negative"), (0 * a, "no edge"), (a[:-1], "shape"), (np.triu(a), "sym")):
        with pytest.raises(InputError, match=what):
            graph_proximity(bad)
    with pytest.raises(MemoryBudgetError):
        graph_proximity(a, memory=1000)
