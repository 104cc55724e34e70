"""Trained maps: they beat their start where they should, and closed forms hold where there are."""

import numpy as np
import pytest
import torch
from sklearn.datasets import load_digits

from lowdim.core.random import choice
from lowdim.errors import InputError
from lowdim.retrieval import learned_maps
from lowdim.retrieval.codec import Codec
from lowdim.retrieval.learned_maps import _anchors, _decoded_scores, autoencoder, supervised, tldr
from lowdim.retrieval.map import Map
from lowdim.retrieval.metric import exact_search, placed
from lowdim.retrieval.recall import recall_at_k
from lowdim.retrieval.reduction import Training, pca
from lowdim.structure.tldr import TLDR


@pytest.fixture(autouse=True)
def small_batches(monkeypatch):
    monkeypatch.setattr(learned_maps, "BATCH", 64)


def islands(n=2000, seed=0):
    """Few far places that six directions tell apart; what is near there, six others say."""
    g = torch.Generator().manual_seed(seed)
    places = 2 * torch.randn(8, 6, generator=g)[torch.randint(8, (n,), generator=g)]
    x = torch.cat([places, torch.randn(n, 6, generator=g), torch.zeros(n, 12)], 1)
    turn = torch.linalg.qr(torch.randn(24, 24, generator=g))[0]
    return (x + 0.1 * torch.randn(n, 24, generator=g)) @ turn


def recall(name, x, dims, metric):
    rows, q = x[200:], x[:200]
    codec = Codec("float32", reduction=name, dims=dims, metric=metric).fit(rows)
    found, _ = codec.search(codec.encode(rows), q, 10)
    return float(recall_at_k(found, exact_search(rows, q, 10, metric=metric)[0]).mean())


@pytest.mark.parametrize(("metric", "gain"), [("cosine", -0.01), ("dot", 0.2)])
def test_autoencoder_keeps_what_ranks_where_pca_keeps_what_varies(metric, gain):
    """On digits lengths rank dot products, unknown to PCA; with cosine nothing is lost."""
    x = torch.from_numpy(load_digits().data).float()
    assert recall("autoencoder", x, 8, metric) > recall("pca", x, 8, metric) + gain


def restored(map_):
    return lambda x: map_.restore(map_.reduce(x))


@pytest.mark.parametrize("metric", ["cosine", "dot", "euclidean"])
def test_scores_by_coordinates_are_those_of_the_decoded_vectors(metric):
    g = torch.Generator().manual_seed(1)
    q, x = torch.randn(5, 9, generator=g), torch.randn(7, 9, generator=g)
    map_ = Map(*(torch.randn(s, generator=g) for s in ((9, 4), (9,), (4, 9))))
    decoded = map_.restore(map_.reduce(x))
    want = {
        "cosine": q @ torch.nn.functional.normalize(decoded).T,
        "dot": q @ decoded.T,
        "euclidean": (q.square().sum(1)[:, None] - torch.cdist(q, decoded).square()) / 2,
    }[metric]
    torch.testing.assert_close(
        _decoded_scores(q, map_.reduce(x), map_, metric), want, atol=1e-4, rtol=1e-4
    )


def test_anchors_are_the_queries_and_rows_to_make_up_the_number(monkeypatch):
    monkeypatch.setattr(learned_maps, "ANCHORS", 55)
    monkeypatch.setattr(learned_maps, "FEW", 50)
    x, q = islands(400), islands(30, seed=1)
    anchors, own = _anchors(Training(x, queries=q))
    assert own[:30].eq(-1).all()
    assert anchors[30:].equal(x[own[30:]])
    assert len(own[30:].unique()) == 20
    assert anchors[:30].sort(0).values.equal(q.sort(0).values)
    anchors, own = _anchors(Training(x, queries=torch.cat([q, q])))
    assert len(anchors) == 55
    assert own.eq(-1).all()
    assert len(_anchors(Training(x))[0]) == 55
    anchors, own = _anchors(Training(x[:10]))
    assert anchors.equal(x[own])
    assert own.sort().values.equal(torch.arange(10))


def test_autoencoder_learns_what_queries_ask():
    """Queries vary along a few directions, so only these and no others rank."""
    g = torch.Generator().manual_seed(3)
    x = torch.randn(2000, 16, generator=g)
    q = torch.randn(1400, 16, generator=g) * torch.tensor([1.0] * 4 + [0.02] * 12)
    found = autoencoder(Training(x, "dot", queries=q[:1200]), 4)
    truth, _ = exact_search(x, q[1200:], 10, metric="dot")

    def of(map_):
        return float(recall_at_k((q[1200:] @ restored(map_)(x).T).topk(10).indices, truth).mean())

    assert of(found) > of(pca(Training(x, "dot"), 4)) + 0.2


def test_autoencoder_repeats_and_leaves_its_input():
    x = islands(500)
    before = x.clone()
    a, b = (autoencoder(Training(x, "dot", seed=2), 3) for _ in range(2))
    assert x.equal(before)
    assert a.encoder.equal(b.encoder)
    assert a.decoder.equal(b.decoder)
    assert not a.encoder.requires_grad


def test_autoencoder_of_vectors_without_an_order():
    with pytest.raises(InputError, match="score alike"):
        autoencoder(Training(torch.ones(40, 6)), 2)
    with pytest.raises(InputError, match="dims=7"):
        autoencoder(Training(torch.ones(40, 6)), 7)
    few = placed(islands(12), "cosine")
    assert autoencoder(Training(few), 3).decoder.isfinite().all()


def test_tldr_is_the_linear_encoder_of_the_structure_room():
    x = islands(600)
    found = tldr(Training(x, seed=4), 5)
    rows = choice(600, 600, 4)
    want = TLDR(5, epochs=10, projector=256, random_state=4).fit(x[rows]).transform(x)
    torch.testing.assert_close(found.reduce(x), want, atol=1e-3, rtol=1e-3)
    assert found.decoder is None


def labelled(n=900, d=10, classes=4, seed=0):
    """Classes that differ along directions of little variance."""
    g = torch.Generator().manual_seed(seed)
    y = torch.randint(classes, (n,), generator=g)
    scales = torch.linspace(5, 0.5, d)
    x = torch.randn(n, d, generator=g) * scales
    x[:, -3:] += 3 * torch.randn(classes, 3, generator=g)[y]
    return x, y + 7


def test_supervised_is_linear_discriminant_analysis(monkeypatch):
    from sklearn.discriminant_analysis import LinearDiscriminantAnalysis

    monkeypatch.setattr(learned_maps, "SHRINKAGE", 0.0)
    x, y = labelled()
    found = supervised(Training(x, labels=y), 3).reduce(x)
    want = LinearDiscriminantAnalysis(n_components=3).fit(x.numpy(), y.numpy()).transform(x.numpy())
    for a, b in zip(found.double().numpy().T, want.T, strict=True):
        assert abs(np.corrcoef(a, b)[0, 1]) > 1 - 1e-6
    means = torch.stack([found[y == c].mean(0) for c in range(7, 11)])
    within = found - means[y - 7]
    torch.testing.assert_close(within.T @ within / len(x), torch.eye(3), atol=1e-3, rtol=0)


def test_supervised_finds_more_of_the_class_than_pca():
    x, y = labelled()
    rows, labels, q, asked = x[100:], y[100:], x[:100], y[:100]

    def same_class(name):
        codec = Codec("float32", reduction=name, dims=3, metric="euclidean").fit(rows, labels)
        found, _ = codec.search(codec.encode(rows), q, 10)
        return float((labels[found] == asked[:, None]).double().mean())

    assert same_class("supervised") > same_class("pca") + 0.2


def test_supervised_without_what_it_needs():
    x, y = labelled()
    with pytest.raises(InputError, match="class of each vector"):
        supervised(Training(x), 2)
    with pytest.raises(InputError, match="from 1 to 3"):
        supervised(Training(x, labels=y), 4)
    with pytest.raises(InputError, match="dims=1"):
        supervised(Training(x, labels=torch.zeros(len(x), dtype=torch.int64)), 1)
    with pytest.raises(InputError, match="nothing varies within"):
        supervised(Training(torch.eye(3)[y % 3], labels=y % 3), 2)
    flat = torch.cat([x, torch.ones(len(x), 2)], 1)  # constant columns
    assert supervised(Training(flat, labels=y), 3).reduce(flat).isfinite().all()
