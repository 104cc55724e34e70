"""Inverted lists and coordinates in which anyone can compare decoded vectors."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from lowdim.errors import InputError
from lowdim.retrieval.codec import Codec
from lowdim.retrieval.isometry import Isometry
from lowdim.retrieval.lists import InvertedLists, by_list, fit_centroids, nearest_list
from lowdim.retrieval.map import Map
from lowdim.retrieval.metric import METRICS, exact_search, placed
from lowdim.retrieval.recall import recall_at_k


def clustered(n: int = 3000, dim: int = 24, seed: int = 0) -> torch.Tensor:
    g = torch.Generator().manual_seed(seed)
    centres = 2 * torch.randn(30, dim, generator=g)
    return centres[torch.randint(30, (n,), generator=g)] + torch.randn(n, dim, generator=g)


def fitted(metric: str, code: str = "int8", reduction: str = "pca", dims: int = 12) -> Codec:
    return Codec(code, reduction=reduction, dims=dims, metric=metric).fit(clustered())


X, Q = clustered(), clustered(40, seed=1)


@pytest.mark.parametrize("metric", METRICS)
@pytest.mark.parametrize("reduction", ["none", "pca"])
def test_all_lists_give_the_search_of_the_codec(metric, reduction):
    codec = fitted(metric, reduction=reduction, dims=24 if reduction == "none" else 12)
    codes = codec.encode(X)
    lists = InvertedLists.of(codec, codes, 30)
    ids, scores = codec.search(codes, Q, 7)
    found, values = lists.search(Q, 7, probes=30)
    torch.testing.assert_close(values, scores, atol=1e-4, rtol=1e-5)
    apart = torch.cat([scores[:, :-1] - scores[:, 1:] > 1e-4, scores[:, :1] > 9], 1)
    alone = apart.clone()
    alone[:, 1:] &= apart[:, :-1]  # no other score within rounding
    assert alone.any()
    assert torch.equal(found[alone], ids[alone])


@pytest.mark.parametrize("metric", METRICS)
@pytest.mark.parametrize("m", [1, 40])  # one query reads its lists at once, many share them
def test_some_lists_give_the_search_among_their_rows(metric, m):
    codec = fitted(metric)
    codes = codec.encode(X)
    lists = InvertedLists.of(codec, codes, 30)
    found, values = lists.search(Q[:m], 5, probes=3)
    near = lists._isometry.queries(placed(Q[:m], metric)) @ lists.centroids.T
    if metric == "euclidean":
        near -= lists.centroids.square().sum(1) / 2
    for i, chosen in enumerate(near.topk(3).indices.tolist()):
        rows = torch.cat([lists.rows[lists.starts[j] : lists.starts[j + 1]] for j in chosen])
        rows = rows.long().sort().values
        ids, scores = codec.search(codes[rows], Q[i : i + 1], 5)
        torch.testing.assert_close(values[i : i + 1], scores, atol=1e-4, rtol=1e-5)
        assert recall_at_k(found[i : i + 1], rows[ids]) >= 0.8  # but for ties within rounding


def test_more_probes_find_more_and_a_few_find_most():
    codec = fitted("cosine", "float32")
    codes = codec.encode(X)
    lists = InvertedLists.of(codec, codes, 30)
    truth = codec.search(codes, Q, 10)[0]
    recalls = [
        float(recall_at_k(lists.search(Q, 10, probes=p)[0], truth).mean()) for p in (1, 3, 9, 30)
    ]
    assert recalls == sorted(recalls)
    assert recalls[1] > 0.8
    assert recalls[3] == 1


def test_every_row_is_in_one_list_that_of_its_nearest_centre():
    codec = fitted("euclidean")
    codes = codec.encode(X)
    lists = InvertedLists.of(codec, codes, 20)
    assert torch.equal(lists.rows.long().sort().values, torch.arange(len(X)))
    assert torch.equal(lists.codes, codes[lists.rows.long()])
    y = Isometry.of(codec).rows(codec.code_.decode(lists.codes))
    own = torch.repeat_interleave(torch.arange(20), lists.starts.diff())
    gaps = torch.cdist(y.double(), lists.centroids.double())
    assert (gaps.gather(1, own[:, None])[:, 0] <= gaps.min(1).values + 1e-3).all()
    for first, stop in zip(lists.starts[:-1], lists.starts[1:], strict=True):
        assert (lists.rows[first:stop].diff() > 0).all()


def test_parts_made_shard_by_shard_are_the_whole():
    codec = fitted("dot")
    codes = codec.encode(X)
    whole = InvertedLists.of(codec, codes, 16, seed=3)
    centroids = fit_centroids(codec, codes, 16, seed=3)
    each = torch.cat([nearest_list(codec, centroids, part) for part in codes.split(700)])
    rows, starts = by_list(each, 16)
    assert torch.equal(centroids, whole.centroids)
    assert torch.equal(rows, whole.rows)
    assert torch.equal(starts, whole.starts)


def test_bytes_count_row_numbers_and_centres():
    codec = fitted("cosine")
    lists = InvertedLists.of(codec, codec.encode(X), 16)
    assert lists.bytes_per_vector == 12 + 4
    assert lists.overhead == codec.overhead + 4 * 16 * 13 + 8 * 17


def test_rescored_by_the_vectors_themselves():
    codec = fitted("euclidean", "binary")
    lists = InvertedLists.of(codec, codec.encode(X), 16)
    ids, scores = lists.search(Q, 5, probes=16, rescore=X, candidates=len(X))
    true, distances = exact_search(X, Q, 5, metric="euclidean")
    assert torch.equal(ids, true)
    torch.testing.assert_close(scores, distances, atol=1e-4, rtol=1e-5)


def test_equal_rows_come_in_their_order():
    x = torch.cat([X[:1].expand(50, -1), X[1:200]])
    codec = Codec("float32", metric="euclidean").fit(x)
    for probes in (1, 8):
        lists = InvertedLists.of(codec, codec.encode(x), 8)
        ids, _ = lists.search(X[:1], 10, probes=probes)
        assert ids.tolist() == [list(range(10))]


def test_too_few_rows_in_the_lists_leave_no_row():
    codec = Codec("float32", metric="euclidean").fit(X[:64])
    lists = InvertedLists.of(codec, codec.encode(X[:64]), 32)
    ids, scores = lists.search(Q, 20, probes=1)
    assert ((ids == -1) == scores.isinf()).all()
    assert (ids == -1).any()
    again, anew = lists.search(Q, 20, probes=1, rescore=X[:64], candidates=30)
    assert ((again == -1) == anew.isinf()).all()
    assert torch.equal(again.sort().values, ids.sort().values)


def test_same_lists_from_run_to_run_and_all_equal_rows_are_found():
    codec = fitted("cosine")
    codes = codec.encode(X)
    assert torch.equal(fit_centroids(codec, codes, 9), fit_centroids(codec, codes, 9))
    same = codes[:1].expand(100, -1).contiguous()
    ids, _ = InvertedLists.of(codec, same, 4).search(Q[:2], 3, probes=4)
    assert ids.tolist() == [[0, 1, 2]] * 2


def test_bad_arguments_say_what_there_is():
    codec = fitted("cosine")
    codes = codec.encode(X[:20])
    with pytest.raises(InputError, match="20 vectors fill 1 to 20"):
        InvertedLists.of(codec, codes, 21)
    lists = InvertedLists.of(codec, codes, 4)
    with pytest.raises(InputError, match="there are 4 lists"):
        lists.search(Q, 3, probes=5)
    with pytest.raises(InputError, match="there are 20 rows"):
        lists.search(Q, 21)
    with pytest.raises(InputError, match="columns"):
        lists.search(Q[:, :5], 3)


@settings(max_examples=25, deadline=None)
@given(
    m=st.integers(1, 9),
    d=st.integers(1, 9),
    back=st.booleans(),
    metric=st.sampled_from(["dot", "euclidean"]),
    seed=st.integers(0, 2**16),
)
def test_isometry_keeps_what_is_compared_whatever_the_map(m, d, back, metric, seed):
    g = torch.Generator().manual_seed(seed)
    encoder, decoder = torch.randn(d, m, generator=g), torch.randn(m, d, generator=g)
    codec = Codec("float32", metric=metric)
    codec.map_ = Map(encoder, torch.randn(d, generator=g), decoder if back else None)
    isometry = Isometry.of(codec)
    z, q = torch.randn(6, m, generator=g), torch.randn(5, d, generator=g)
    y, asked = isometry.rows(z), isometry.queries(q)
    assert y.shape == (6, isometry.dims)
    x, compared = codec.map_.restore(z), q if back else codec.map_.reduce(q)
    if metric == "dot":
        torch.testing.assert_close(asked @ y.T, compared @ x.T, atol=2e-4, rtol=1e-4)
        torch.testing.assert_close(y.norm(dim=1), x.norm(dim=1), atol=2e-4, rtol=1e-4)
    else:  # what of a query lies beyond the map adds the same to its distance from every row
        beyond = (torch.cdist(compared, x).square() - torch.cdist(asked, y).square()).mean(1)
        squares = torch.cdist(asked, y).square() + beyond[:, None]
        torch.testing.assert_close(squares, torch.cdist(compared, x).square(), atol=2e-3, rtol=1e-4)
        torch.testing.assert_close(torch.cdist(y, y), torch.cdist(x, x), atol=1e-2, rtol=1e-4)
