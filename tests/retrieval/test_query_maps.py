"""The least error as queries see it: by closed form, against random maps and PCA."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from lowdim.errors import InputError
from lowdim.retrieval.codec import Codec
from lowdim.retrieval.map import Map
from lowdim.retrieval.metric import exact_search
from lowdim.retrieval.query_maps import query_aware, shrunk_second_moment
from lowdim.retrieval.recall import recall_at_k
from lowdim.retrieval.reduction import Training, pca


def unlike(n=600, d=20, seed=0):
    """Vectors with falling variances, and queries whose variances fall in another order."""
    g = torch.Generator().manual_seed(seed)
    scales = 0.8 ** torch.arange(d)
    turn = torch.linalg.qr(torch.randn(d, d, generator=g))[0]
    x = torch.randn(n, d, generator=g) * scales @ turn + torch.randn(d, generator=g)
    q = torch.randn(n, d, generator=g) * scales[torch.randperm(d, generator=g)] @ turn + 0.2
    return x, q


def error(map_, x, moment):
    """Mean of <q, x - x^>^2 over queries of this second moment."""
    e = (x - map_.restore(map_.reduce(x))).double()
    return float(torch.einsum("nd,de,ne->", e, moment, e) / len(x))


@settings(deadline=None, max_examples=15)
@given(st.integers(0, 10**6), st.integers(1, 19))
def test_error_is_the_sum_of_what_is_left_out_and_no_map_has_less(seed, dims):
    x, q = unlike(seed=seed)
    moment = shrunk_second_moment(q)
    found = query_aware(Training(x, metric="dot", queries=q), dims)
    least = error(found, x, moment)
    root = np.linalg.cholesky(moment.numpy())  # any root has the same spectrum
    left = np.linalg.eigvalsh(root.T @ np.cov(x.double().numpy().T, bias=True) @ root)[::-1][dims:]
    assert least == pytest.approx(left.sum(), rel=1e-3, abs=1e-7)
    assert least <= error(pca(Training(x), dims), x, moment) * (1 + 1e-4)
    g = torch.Generator().manual_seed(seed)
    for spread in (1e-3, 1e-2, 1.0):  # neighbours of the optimum, and anything at all
        encoder = found.encoder + spread * torch.randn(20, dims, generator=g)
        z = torch.cat([x - found.center, x.new_zeros(1, 20)])[:-1] @ encoder
        decoder = torch.linalg.lstsq(z, x - found.center).solution  # the best one whatever S is
        other = Map(encoder, found.center, decoder)
        assert least <= error(other, x, moment) * (1 + 1e-4)
    moved = Map(found.encoder, found.center + 0.1 * torch.randn(20, generator=g), found.decoder)
    assert least <= error(moved, x, moment) * (1 + 1e-4)


def test_going_twice_is_going_once():
    x, q = unlike()
    found = query_aware(Training(x, queries=q), 6)
    torch.testing.assert_close(found.decoder @ found.encoder, torch.eye(6), atol=1e-4, rtol=0)


def test_queries_alike_in_all_directions_make_it_pca():
    x, _ = unlike()
    q = torch.cat([torch.eye(20), -torch.eye(20)])
    found, plain = query_aware(Training(x, queries=q), 5), pca(Training(x), 5)
    torch.testing.assert_close(
        found.restore(found.reduce(x)), plain.restore(plain.reduce(x)), atol=1e-4, rtol=1e-4
    )


def test_shrinkage_is_that_of_scikit_learn_and_fewer_queries_are_shrunk_more():
    from sklearn.covariance import ledoit_wolf

    _, q = unlike(300)
    want, share = ledoit_wolf(q.double().numpy(), assume_centered=True)
    np.testing.assert_allclose(shrunk_second_moment(q).numpy(), want, rtol=1e-6, atol=1e-12)
    assert ledoit_wolf(q[:20].double().numpy(), assume_centered=True)[1] > share


@pytest.mark.parametrize("queries", [1, 2, 5])
def test_few_queries_leave_a_map_with_a_way_back(queries):
    x, q = unlike()
    found = query_aware(Training(x, queries=q[:queries]), 8)
    assert found.decoder.isfinite().all()
    torch.testing.assert_close(found.decoder @ found.encoder, torch.eye(8), atol=1e-3, rtol=0)


def test_a_direction_that_no_query_asks_about_is_dropped_first():
    g = torch.Generator().manual_seed(0)
    x = torch.randn(500, 6, generator=g) * torch.tensor([3.0, 1, 1, 1, 1, 1])
    q = torch.randn(400, 6, generator=g) * torch.tensor([0.0, 1, 1, 1, 1, 1])
    found = query_aware(Training(x, metric="dot", queries=q), 5)
    lost = (x - found.restore(found.reduce(x))).std(0)
    assert lost[0] > 2.5
    assert lost[1:].max() < 0.5


@pytest.mark.parametrize("metric", ["cosine", "dot"])
def test_recall_beats_pca_where_queries_are_of_another_kind(metric):
    x, q = unlike(3000, 40, seed=1)
    learnt, asked = q[:2000], q[2000:2400]
    truth, _ = exact_search(x, asked, 10, metric=metric)

    def recall(name):
        codec = Codec("float32", reduction=name, dims=10, metric=metric).fit(x, queries=learnt)
        found, _ = codec.search(codec.encode(x), asked, 10)
        return float(recall_at_k(found, truth).mean())

    assert recall("query-aware") > recall("pca") + 0.1


def test_without_queries_the_vectors_stand_in():
    x, _ = unlike()
    a, b = query_aware(Training(x), 4), query_aware(Training(x, queries=x), 4)
    assert a.encoder.equal(b.encoder)


def test_poor_input():
    x, q = unlike()
    with pytest.raises(InputError, match="all queries are zero"):
        query_aware(Training(x, queries=torch.zeros(5, 20)), 4)
    with pytest.raises(InputError, match="dims=21"):
        query_aware(Training(x, queries=q), 21)
    same = query_aware(Training(torch.ones(50, 20), queries=q), 3)  # nothing to lose
    torch.testing.assert_close(same.restore(same.reduce(torch.ones(2, 20))), torch.ones(2, 20))
