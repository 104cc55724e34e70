"""Maps without a fit against closed forms, numpy, scikit-learn and sentence-transformers."""

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from lowdim.core.random import permutation
from lowdim.errors import InputError
from lowdim.retrieval.codec import Codec
from lowdim.retrieval.metric import exact_search, placed
from lowdim.retrieval.projections import (
    band,
    fft,
    low_frequencies,
    pca_whitened,
    random,
    sparse,
    truncate,
)
from lowdim.retrieval.recall import recall_at_k
from lowdim.retrieval.reduction import Training, pca

ALL = [random, sparse, fft, truncate, pca_whitened, band]
by_name = {"ids": lambda f: f.__name__}


def embeddings(n=1500, d=48, rank=8, seed=0):
    """Unit rows off the origin, most of their spread in ``rank`` directions."""
    g = torch.Generator().manual_seed(seed)
    z = torch.randn(n, rank, generator=g) @ torch.randn(rank, d, generator=g)
    return placed(z + 0.5 * torch.randn(n, d, generator=g) + torch.randn(d, generator=g), "cosine")


def recall(reduction, x, dims, queries=200):
    q, rows = x[:queries], x[queries:]
    codec = Codec("float32", reduction=reduction, dims=dims).fit(rows)
    found, _ = codec.search(codec.encode(rows), q, 10)
    return float(recall_at_k(found, exact_search(rows, q, 10)[0]).mean())


@pytest.mark.parametrize("fit", [random, fft], **by_name)
@pytest.mark.parametrize("dims", [1, 7, 48])
def test_orthonormal_and_back(fit, dims):
    x = embeddings()
    found = fit(Training(x), dims)
    assert found.encoder.shape == (48, dims)
    torch.testing.assert_close(found.encoder.T @ found.encoder, torch.eye(dims))
    assert found.decoder.equal(found.encoder.T)
    nearest = torch.linalg.lstsq(found.encoder, (x[:5] - x.mean(0)).T).solution.T
    torch.testing.assert_close(found.reduce(x[:5]), nearest, atol=1e-5, rtol=1e-4)
    if dims == 48:  # Parseval
        torch.testing.assert_close(found.restore(found.reduce(x)), x, atol=1e-5, rtol=1e-4)


def test_random_keeps_m_over_d_of_any_vector():
    """The share of a squared length is Beta(m / 2, (d - m) / 2)."""
    d, m, draws = 24, 6, 400
    x = torch.zeros(2, d)
    x[1, 3] = 2.0  # one direction, centred to +-1
    shares = torch.tensor([
        float(random(Training(x, seed=s), m).reduce(x)[1].square().sum()) for s in range(draws)
    ])  # fmt: skip
    a, b = m / 2, (d - m) / 2
    sd = math.sqrt(a * b / ((a + b) ** 2 * (a + b + 1)))
    assert abs(float(shares.mean()) - m / d) < 4 * sd / math.sqrt(draws)
    assert float(shares.std()) == pytest.approx(sd, rel=0.15)


def test_random_of_few_dims_begins_that_of_many_and_follows_the_seed():
    x = embeddings()
    few, many = random(Training(x), 5), random(Training(x), 20)
    torch.testing.assert_close(few.encoder, many.encoder[:, :5])
    assert not torch.allclose(few.encoder, random(Training(x, seed=1), 5).encoder)


def test_sparse_has_signs_of_the_density_and_the_least_squares_way_back():
    d, m = 400, 100
    x = torch.randn(50, d, generator=torch.Generator().manual_seed(0))
    found = sparse(Training(x), m)
    assert set(found.encoder.unique().tolist()) == {-1.0, 0.0, 1.0}
    share = float((found.encoder != 0).double().mean())
    p = 1 / math.sqrt(d)
    assert abs(share - p) < 4 * math.sqrt(p * (1 - p) / (d * m))
    assert abs(float(found.encoder.sum())) < 4 * math.sqrt(p * d * m)
    back = np.linalg.pinv(found.encoder.double().numpy())
    np.testing.assert_allclose(found.decoder.numpy(), back, atol=1e-5)
    torch.testing.assert_close(  # going there and back and there again is going there once
        found.reduce(found.restore(found.reduce(x))), found.reduce(x), atol=1e-3, rtol=1e-3
    )


@settings(deadline=None, max_examples=25)
@given(st.integers(1, 40), st.integers(0, 100))
def test_sparse_comes_back_without_blowing_up_what_a_code_rounds(d, seed):
    """A square map of few signs is near singular, or has empty and equal columns."""
    found = sparse(Training(torch.randn(3, d), seed=seed), d)
    there, back = (float(torch.linalg.matrix_norm(w, 2)) for w in (found.encoder, found.decoder))
    assert there * back <= 20 * (1 + 1e-4)


@pytest.mark.parametrize("d", [1, 2, 7, 8, 384])
def test_low_frequencies_are_those_of_rfft(d):
    x = torch.randn(d, dtype=torch.float64, generator=torch.Generator().manual_seed(d))
    wave = torch.fft.rfft(x, norm="ortho")
    parts = [wave[0].real]
    for k in range(1, len(wave)):
        last = 2 * k == d
        parts += [wave[k].real * (1 if last else math.sqrt(2))]
        parts += [] if last else [-wave[k].imag * math.sqrt(2)]
    torch.testing.assert_close(x @ low_frequencies(d, d), torch.stack(parts))
    basis = low_frequencies(d, d)
    torch.testing.assert_close(basis.T @ basis, torch.eye(d).double(), atol=1e-9, rtol=0)


def test_fft_is_random_by_another_name():
    """Shuffled columns change its recall within chance, and PCA beats it by far."""
    x = embeddings()
    own = recall("fft", x, 8)
    shuffled = torch.tensor([recall("fft", x[:, permutation(48, s)], 8) for s in range(12)])
    drawn = torch.tensor([
        recall("random", x @ torch.linalg.qr(random(Training(x, seed=s), 48).encoder)[0], 8)
        for s in range(12)
    ])  # fmt: skip
    spread = float(torch.cat([shuffled, drawn]).std())
    assert abs(own - float(shuffled.mean())) < 4 * spread
    assert abs(float(shuffled.mean() - drawn.mean())) < 4 * spread / math.sqrt(6)
    assert recall("pca", x, 8) > float(shuffled.max()) + 0.1


@pytest.mark.slow
def test_fft_does_not_beat_random_on_minilm():
    from benchmarks.inputs import Unavailable, minilm_embeddings

    try:
        x = minilm_embeddings(10_000)
    except Unavailable as error:
        pytest.skip(str(error))
    for dims in (48, 96):
        low, drawn, best = (recall(name, x, dims, 500) for name in ("fft", "random", "pca"))
        assert abs(low - drawn) < 0.05
        assert best > max(low, drawn) + 0.1


@pytest.mark.slow  # the import alone takes seconds
def test_truncate_is_what_sentence_transformers_does():
    util = pytest.importorskip("sentence_transformers.util")
    x, q = embeddings()[200:], embeddings()[:50]
    codec = Codec("float32", reduction="truncate", dims=16).fit(x)
    found, scores = codec.search(codec.encode(x), q, 10)
    rows, asked = (util.normalize_embeddings(util.truncate_embeddings(v, 16)) for v in (x, q))
    want = util.semantic_search(asked, rows, top_k=10)
    assert found.tolist() == [[hit["corpus_id"] for hit in hits] for hits in want]
    cut = torch.linalg.vector_norm(q[:, :16], dim=1, keepdim=True)  # q itself is not cut again
    best = torch.tensor([[hit["score"] for hit in hits] for hits in want])
    torch.testing.assert_close(scores / cut, best, atol=1e-5, rtol=1e-5)


def test_whitened_is_that_of_scikit_learn():
    from sklearn.decomposition import PCA

    x = embeddings()
    found = pca_whitened(Training(x), 12)
    want = PCA(12, whiten=True, svd_solver="full").fit_transform(x.double().numpy())
    z = found.reduce(x).double().numpy() * math.sqrt((len(x) - 1) / len(x))
    signs = np.sign((z * want).sum(0))
    np.testing.assert_allclose(z * signs, want, atol=1e-3)
    assert found.decoder is None
    torch.testing.assert_close(torch.cov(found.reduce(x).T, correction=0), torch.eye(12),
                               atol=1e-3, rtol=0)  # fmt: skip


def test_whitened_says_where_the_vectors_vary_no_more():
    x = torch.randn(50, 3, generator=torch.Generator().manual_seed(0)) @ torch.eye(3, 8)
    with pytest.raises(InputError, match="along 3 directions"):
        pca_whitened(Training(x), 4)
    assert pca_whitened(Training(x), 3).reduce(x).isfinite().all()
    with pytest.raises(InputError, match="along 0 directions"):
        pca_whitened(Training(torch.ones(9, 4)), 1)


def test_band_is_pca_without_its_first_directions():
    x = embeddings(d=300)
    found, whole = band(Training(x), 10), pca(Training(x), 13)
    z, all_ = found.reduce(x), whole.reduce(x)
    torch.testing.assert_close(z, all_[:, 3:])
    with pytest.raises(InputError, match="from 1 to 47"):
        band(Training(embeddings()), 48)


@pytest.mark.parametrize("fit", ALL, **by_name)
@pytest.mark.parametrize("dims", [0, 49, 2.0, True])
def test_dims_that_cannot_be(fit, dims):
    with pytest.raises(InputError, match="dims="):
        fit(Training(embeddings()), dims)


@pytest.mark.parametrize("fit", ALL, **by_name)
def test_vectors_stay_as_they_were_and_a_fit_repeats(fit):
    x = embeddings()
    before = x.clone()
    a, b = fit(Training(x, seed=3), 6), fit(Training(x, seed=3), 6)
    assert x.equal(before)
    assert a.encoder.equal(b.encoder)
    assert a.center.equal(b.center)
    assert a.encoder.dtype == torch.float32
