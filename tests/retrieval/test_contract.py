"""What every registered code and reduction keeps: sizes, seeds, copies, and scores as decoded."""

import pytest
import torch

from lowdim.errors import InputError
from lowdim.retrieval import Codec, Training, exact_search
from lowdim.retrieval.code import codes, find_code
from lowdim.retrieval.reduction import reductions

N, D, M = 600, 24, 12
LABELS = torch.arange(N) % (M + 1)
METRICS = ("cosine", "dot", "euclidean")


def vectors(n=N, seed=0):
    """Points near a tilted ellipsoid away from the origin, as embeddings lie."""
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(n, D, generator=generator) * torch.linspace(2, 0.2, D)
    turn = torch.linalg.qr(torch.randn(D, D, generator=torch.Generator().manual_seed(1)))[0]
    return x @ turn + 0.3


def named(name):
    """A code as it is asked for; of those that come in any size one of 6 bytes."""
    return f"{name}6" if codes()[name].sized else name


def dims_of(name):
    return D if name == "none" else M


@pytest.fixture(autouse=True)
def short_fits(monkeypatch):
    """What holds of every map holds of one that was trained for a moment."""
    monkeypatch.setattr("lowdim.retrieval.learned_maps.STEPS", 10)
    monkeypatch.setattr("lowdim.retrieval.learned_maps.BATCH", 64)


@pytest.fixture(params=sorted(codes()))
def code(request):
    return named(request.param)


@pytest.fixture(params=sorted(reductions()))
def reduction(request):
    return request.param


@pytest.mark.parametrize("metric", METRICS)
def test_a_search_ranks_as_an_exact_search_of_what_the_codes_stand_for(code, metric):
    x, q = vectors(), vectors(20, seed=2)
    codec = Codec(code, reduction="pca", dims=M, metric=metric).fit(x)
    encoded = codec.encode(x)
    ids, scores = codec.search(encoded, q, 5)
    decoded = codec.decode(encoded)
    truth, best = exact_search(decoded, q, 5, metric=metric)
    assert torch.allclose(scores, best, atol=2e-4 if metric == "euclidean" else 1e-4)
    apart = (scores[:, :-1] - scores[:, 1:]).amin(1) > 1e-4  # ties may come in either order
    assert torch.equal(ids[apart][:, :4], truth[apart][:, :4])


@pytest.mark.parametrize("metric", METRICS)
def test_a_search_through_any_map_ranks_as_what_is_decoded(reduction, metric):
    x, q = vectors(), vectors(20, seed=2)
    codec = Codec("float32", reduction=reduction, dims=dims_of(reduction), metric=metric)
    codec.fit(x, LABELS, queries=vectors(50, seed=3))
    encoded = codec.encode(x)
    ids, scores = codec.search(encoded, q, 5)
    decoded, asked = codec.decode(encoded), q
    if codec.map_.decoder is None and codec.map_.encoder is not None:  # a space of its own
        placed = torch.nn.functional.normalize(q) if metric == "cosine" else q
        asked = codec.map_.reduce(placed)
    truth, best = exact_search(decoded, asked, 5, metric=metric)
    assert torch.allclose(scores, best, rtol=1e-3, atol=1e-3)
    assert (ids == truth).float().mean() > 0.97


@pytest.mark.parametrize("reduction", ["none", "pca"])
def test_distances_far_from_the_origin_do_not_cancel(reduction):
    far = 3000.0  # squares of 1e8, of which float32 holds the units
    x, q = vectors() + far, vectors(20, seed=2) + far
    codec = Codec("float32", reduction=reduction, metric="euclidean").fit(x)
    ids, scores = codec.search(codec.encode(x), q, 5)
    truth, best = exact_search(x, q, 5, metric="euclidean")
    assert torch.equal(ids, truth)
    assert torch.allclose(scores, best, atol=1e-3)
    assert torch.allclose(codec.decode(codec.encode(x)), x, atol=1e-3)


def test_codes_have_the_size_they_say_and_come_back(code):
    kind, size = find_code(code)
    z = vectors() @ torch.eye(D)[:, :M]
    fitted = kind.fit(z, size=size, seed=0)
    encoded = fitted.encode(z)
    assert encoded.dtype == torch.uint8
    assert encoded.shape == (N, fitted.bytes_per_vector)
    assert size in (None, fitted.bytes_per_vector)
    decoded = fitted.decode(encoded)
    assert decoded.shape == z.shape
    assert decoded.dtype == torch.float32
    assert (decoded - z).square().sum() < (z - z.mean(0)).square().sum()  # than one point for all


def test_a_code_is_its_tensors_and_options(code):
    kind, size = find_code(code)
    z = vectors()[:, :M].contiguous()
    fitted = kind.fit(z, size=size, seed=0)
    again = kind(**{k: v.clone() for k, v in fitted.tensors().items()}, **fitted.options())
    assert torch.equal(again.encode(z), fitted.encode(z))
    assert torch.equal(again.decode(fitted.encode(z)), fitted.decode(fitted.encode(z)))


def test_a_seed_gives_the_same_code_twice(code):
    kind, size = find_code(code)
    z = vectors()[:, :M].contiguous()
    first, second = (kind.fit(z, size=size, seed=5).encode(z) for _ in range(2))
    assert torch.equal(first, second)


def test_rows_are_coded_each_for_itself(code):
    kind, size = find_code(code)
    z = vectors()[:, :M].contiguous()
    fitted = kind.fit(z, size=size, seed=0)
    whole = fitted.encode(z)
    parts = torch.cat([fitted.encode(part) for part in z.split(77)])
    assert (whole != parts).float().mean() < 1e-3  # products of other shapes round elsewhere


def test_constant_and_equal_coordinates_are_coded_without_nan(code):
    kind, size = find_code(code)
    z = vectors()[:, :M].contiguous()
    z[:, 3] = 0.25
    z[:, 4] = 0.0
    for points in (z, z[:1].expand(N, M).contiguous()):
        fitted = kind.fit(points, size=size, seed=0)
        decoded = fitted.decode(fitted.encode(points))
        assert torch.isfinite(decoded).all()
        assert decoded.abs().max() <= 2 * points.abs().max()


def test_far_values_saturate_and_never_wrap(code):
    kind, size = find_code(code)
    z = vectors()[:, :M].contiguous()
    fitted = kind.fit(z, size=size, seed=0)
    far = torch.cat([z[:1] * 0 + 1e6, z[:1] * 0 - 1e6])
    high, low = fitted.decode(fitted.encode(far))
    assert torch.isfinite(high).all()
    assert (high - low).sum() > 0


def test_a_map_is_the_same_from_the_same_seed(reduction):
    training = Training(vectors(), "euclidean", vectors(40, 7), LABELS, 3)
    dims = dims_of(reduction)
    first, second = (reductions()[reduction](training, dims) for _ in range(2))
    assert first.dims == dims
    assert first.dim == D
    assert torch.equal(first.reduce(training.x), second.reduce(training.x))
    assert torch.isfinite(first.restore(first.reduce(training.x))).all()


@pytest.mark.parametrize("dims", [0, D + 1, 2.5, True])
def test_dims_that_cannot_be_are_refused(reduction, dims):
    with pytest.raises(InputError, match="dims"):
        reductions()[reduction](Training(vectors(), labels=LABELS), dims)


WHOLE = ("none", "pca", "random", "fft", "truncate", "query-aware")
"""Reductions that lose nothing where they keep as many coordinates as there are columns."""


@pytest.mark.parametrize("reduction", WHOLE)
def test_all_dims_keep_every_score(reduction):
    x, q = vectors(), vectors(10, seed=2)
    codec = Codec("float32", reduction=reduction, dims=D).fit(x, queries=vectors(50, seed=3))
    _, scores = codec.search(codec.encode(x), q, 5)
    assert torch.allclose(scores, exact_search(x, q, 5)[1], atol=1e-4)


@pytest.mark.parametrize(
    ("asked", "said"),
    [("int9", "no code 'int9': did you mean"), ("pq", "no code 'pq'"), ("", "no code ''")],
)
def test_an_unknown_code_names_those_there_are(asked, said):
    with pytest.raises(InputError, match=said):
        Codec(asked).fit(vectors())


def test_an_unknown_reduction_and_metric_are_named():
    with pytest.raises(InputError, match="did you mean pca"):
        Codec(reduction="pcaa").fit(vectors())
    with pytest.raises(InputError, match="metric='l2': choose from cosine"):
        Codec(metric="l2").fit(vectors())


@pytest.mark.parametrize("k", [0, N + 1])
def test_more_rows_than_there_are_cannot_be_found(k):
    codec = Codec("float16").fit(vectors())
    with pytest.raises(InputError, match="there are 600 rows"):
        codec.search(codec.encode(vectors()), vectors(3), k)


def test_input_of_another_dimension_with_nan_or_zero_rows_is_refused():
    x = vectors()
    codec = Codec("float16").fit(x)
    with pytest.raises(InputError, match="12 columns"):
        codec.encode(x[:, :12])
    with pytest.raises(InputError, match="queries have 12 columns"):
        codec.search(codec.encode(x), x[:3, :12], 5)
    bad = x.clone()
    bad[7, 2] = float("nan")
    with pytest.raises(InputError, match="row 7"):
        codec.encode(bad)
    bad[7] = 0
    with pytest.raises(InputError, match="row 7 is all zeros"):
        codec.encode(bad)
    with pytest.raises(InputError, match="not fitted"):
        Codec().encode(x)
    with pytest.raises(InputError, match="y has shape"):
        Codec("float16", reduction="supervised", dims=2).fit(x, ["a", "b"])
    with pytest.raises(InputError, match="codes have shape"):
        codec.search(torch.zeros(9, 3, dtype=torch.uint8), x[:3], 5)


def test_rescoring_by_the_vectors_finds_what_exact_search_finds():
    x, q = vectors(), vectors(20, seed=2)
    for metric in METRICS:
        codec = Codec("float16", reduction="pca", dims=6, metric=metric).fit(x)
        ids, scores = codec.search(codec.encode(x), q, 5, rescore=x, candidates=N)
        truth, best = exact_search(x, q, 5, metric=metric)
        assert torch.equal(ids, truth)
        assert torch.allclose(scores, best, atol=1e-5)


def test_half_precision_and_paths_are_read_as_they_are(tmp_path):
    import numpy as np

    x = vectors()
    np.save(tmp_path / "x.npy", x.numpy())
    codec = Codec("float16").fit(tmp_path / "x.npy")
    assert torch.equal(codec.encode(tmp_path / "x.npy"), codec.encode(x))
    half = x.half()
    assert torch.equal(codec.encode(half), codec.encode(half.float()))
