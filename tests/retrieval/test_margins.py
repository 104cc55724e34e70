"""Ranking margins: the lemma, the closed form beside it, and projections of real rankings."""

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.sparse import csr_array, csr_matrix
from scipy.stats import binomtest, f, norm

from lowdim.datasets import glosses
from lowdim.errors import InputError
from lowdim.retrieval import (
    dimension_for,
    gaussian_dimension_for,
    misordering,
    misordering_bound,
    multi_vector_score,
    ranking_margin,
    ranking_margins,
)

MARGIN = st.floats(0.001, 1)


def gaussian(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def test_margin_is_the_cosine_of_the_query_and_the_difference():
    q, a, b = gaussian(3, 50, 8).double()
    expected = torch.cosine_similarity(q, a - b)
    assert torch.allclose(ranking_margin(q, a, b), expected)
    assert torch.allclose(ranking_margin(3 * q, a / 7, b / 7), expected)
    assert torch.allclose(ranking_margin(q[:1], a, b), torch.cosine_similarity(q[:1], a - b))
    some = ranking_margin(csr_matrix(q.numpy()), csr_array(a.numpy()), b)
    assert torch.allclose(some, expected)


def test_no_margin_where_there_is_nothing_to_order():
    q, a = gaussian(2, 3, 4)
    assert ranking_margin(q, a, a).isnan().all()
    assert ranking_margin(0 * q, a, q).isnan().all()
    assert ranking_margin(csr_array((3, 4)), a, q).isnan().all()


@pytest.mark.parametrize("dims", [1, 2, 5, 64])
@pytest.mark.parametrize("margin", [-0.3, 0.0, 0.1, 0.6, 1.0])
def test_closed_form_is_a_tail_of_fisher(margin, dims):
    found = float(misordering(margin, dims))
    assert found == pytest.approx(f.cdf((1 - margin) / (1 + margin), dims, dims), abs=1e-12)
    if dims == 1:  # two signs differ
        assert found == pytest.approx(math.acos(margin) / math.pi)


@pytest.mark.parametrize("entries", ["gaussian", "signs"])
@pytest.mark.parametrize(("margin", "dims"), [(0.28, 16), (0.28, 64), (0.7, 4), (0.05, 200)])
def test_projections_turn_round_as_many_as_they_say(margin, dims, entries):
    trials, width = 4000, 12
    g = torch.Generator().manual_seed(dims)
    u, v = torch.linalg.qr(torch.randn(width, 2, generator=g, dtype=torch.float64))[0].T
    q, difference = u, margin * u + math.sqrt(1 - margin**2) * v
    matrix = torch.randn(trials, dims, width, generator=g, dtype=torch.float64)
    if entries == "signs":
        matrix = matrix.sign()
    turned = int((((matrix @ q) * (matrix @ difference)).sum(1) <= 0).sum())
    assert turned / trials <= float(misordering_bound(margin, dims))
    if entries == "gaussian":
        assert binomtest(turned, trials, float(misordering(margin, dims))).pvalue > 1e-4


@settings(max_examples=100, deadline=None)
@given(MARGIN, st.integers(1, 5000))
def test_lemma_and_chernoff_are_above_the_closed_form(margin, dims):
    exact = float(misordering(margin, dims))
    assert exact <= float(misordering_bound(margin, dims)) + 1e-12
    assert exact <= (1 - margin**2) ** (dims / 2) + 1e-12


@settings(max_examples=60, deadline=None)
@given(MARGIN, st.floats(1e-6, 0.5))
def test_dimensions_are_the_least(margin, error):
    k = dimension_for(margin, error)
    assert 4 * math.exp(-k / 2 * (margin**2 / 2 - margin**3 / 3)) <= error * (1 + 1e-9)
    assert 4 * math.exp(-(k - 1) / 2 * (margin**2 / 2 - margin**3 / 3)) > error * (1 - 1e-9)
    least = gaussian_dimension_for(margin, error)
    assert least <= k
    assert float(misordering(margin, least)) <= error
    assert least == 1 or float(misordering(margin, least - 1)) > error


def test_dimensions_of_small_margins_are_those_of_a_normal():
    for margin in (1e-2, 1e-3, 1e-4):
        found = gaussian_dimension_for(margin, 0.01)
        assert found == pytest.approx((norm.ppf(0.99) / margin) ** 2, rel=1e-3)
    assert gaussian_dimension_for(1e-6) is None


@pytest.mark.parametrize("metric", ["cosine", "dot", "euclidean"])
def test_set_has_the_margins_of_its_pairs(metric):
    x, q = gaussian(60, 6).double() + 0.5, gaussian(15, 6, seed=1).double()
    found = ranking_margins(x, q, k=3, metric=metric, dims=[8], repeats=1)
    if metric == "cosine":
        x, q = (rows / rows.norm(dim=1, keepdim=True) for rows in (x, q))
    scores = -torch.cdist(q, x) if metric == "euclidean" else q @ x.T
    order = scores.argsort(1, descending=True)
    a, b = x[order[:, 2]], x[order[:, 3]]
    margins = ranking_margin(q - (a + b) / 2 if metric == "euclidean" else q, a, b)
    assert found.next.pairs == 15
    assert found.next.median == pytest.approx(float(margins.quantile(0.5)), rel=1e-4)
    assert found.random.low >= 0
    assert found.random.median > found.next.median


@pytest.mark.parametrize("metric", ["cosine", "dot", "euclidean"])
def test_sparse_rows_give_what_dense_rows_give(metric):
    x, q = gaussian(80, 30).relu(), gaussian(10, 30, seed=1).relu()
    options = {"k": 4, "metric": metric, "dims": [4, 16], "repeats": 2}
    dense = ranking_margins(x, q, **options).to_dict()
    sparse = ranking_margins(csr_matrix(x.numpy()), csr_array(q.numpy()), **options).to_dict()
    for against in ("next", "random"):
        one, two = dense[against], sparse[against]
        assert one["pairs"] == two["pairs"]
        assert one["median"] == pytest.approx(two["median"], rel=1e-3)
        assert one["projected"][1]["measured"] == pytest.approx(
            two["projected"][1]["measured"], abs=0.02
        )


def test_projections_of_texts_keep_below_the_lemma_and_at_the_closed_form():
    """TF-IDF: one matrix turns many pairs round together, hence the room."""
    text = pytest.importorskip("sklearn.feature_extraction.text")
    x = text.TfidfVectorizer().fit_transform(glosses().texts)
    found = ranking_margins(x[100:], x[:100], k=1, dims=(16, 64, 256), repeats=4)
    for pairs in (found.next, found.random):
        for at in pairs.projected:
            assert at.measured <= at.bound
            assert at.measured == pytest.approx(at.expected, abs=0.05)
    assert found.random.gaussian_dims < found.random.lemma_dims / 4
    assert "against random rows" in str(found)
    assert found.to_dict()["n"] == 1900


def test_margins_shrink_as_documents_grow():
    text = pytest.importorskip("sklearn.feature_extraction.text")
    texts = glosses().texts
    terms = text.TfidfVectorizer().fit(texts)
    queries, medians = terms.transform(texts[:100]), []
    for size in (1, 3, 9):
        documents = [" ".join(texts[i : i + size]) for i in range(100, 1900, size)]
        found = ranking_margins(terms.transform(documents), queries, k=1, dims=[1], repeats=1)
        medians.append(found.random.median)
    assert medians[0] > 1.2 * medians[1] > 1.4 * medians[2]


def test_equal_rows_are_left_out_and_all_equal_ones_refused():
    x = gaussian(40, 5)
    twice = torch.cat([x, x])
    found = ranking_margins(twice, gaussian(9, 5, seed=2), k=2, dims=[2], repeats=1, others=60)
    assert found.random.pairs < 9 * 60
    with pytest.raises(InputError, match="merge equal rows first"):
        ranking_margins(torch.ones(20, 3), gaussian(4, 3), k=2)


def test_a_margin_of_zero_has_no_dimension():
    x = torch.tensor([[1.0, 1.0], [1.0, -1.0], [-1.0, 0.0]])  # the first two tie
    found = ranking_margins(x, torch.tensor([[2.0, 0.0]]), k=1, metric="dot", dims=[4])
    assert found.next.margin == 0
    assert found.next.lemma_dims is None
    assert found.next.gaussian_dims is None
    assert "no number of" in str(found)


def test_best_of_several_vectors():
    q, documents = gaussian(5, 4), gaussian(7, 3, 4, seed=1)
    expected = torch.stack([(documents @ one).amax(1) for one in q])
    assert torch.allclose(multi_vector_score(q, documents), expected)
    assert torch.allclose(multi_vector_score(q, documents[:, :1]), q @ documents[:, 0].T)
    with pytest.raises(InputError, match="documents have shape"):
        multi_vector_score(q, documents[:, 0])


def test_bad_input():
    x, q = gaussian(20, 4), gaussian(3, 4, seed=1)
    hole = x.clone()
    hole[3, 2] = math.nan
    sparse = csr_array(np.where(np.arange(80).reshape(20, 4) == 17, np.inf, 0))
    for call, message in (
        (lambda: ranking_margins(x, q[:, :3]), "columns differ"),
        (lambda: ranking_margins(x, q, k=20), "k=20"),
        (lambda: ranking_margins(x[:5], q, k=4, others=1, seed=1), "no random row fell behind"),
        (lambda: ranking_margins(x, q, dims=[]), r"dims=\(\)"),
        (lambda: ranking_margins(x, q, metric="angle"), "choose from"),
        (lambda: ranking_margins(hole, q), "row 3, column 2"),
        (lambda: ranking_margins(sparse, q), "stored values of x holds inf"),
        (lambda: ranking_margins(csr_array((20, 4)), q, k=2), "x row 0 is all zeros"),
        (lambda: ranking_margins(csr_array((0, 4)), q), "it is empty"),
        (lambda: ranking_margin(x, q, q), r"\[20, 3, 3\] rows"),
        (lambda: misordering(1.5, 3), "between -1 and 1"),
        (lambda: misordering_bound(0.5, 0), "dims=0"),
        (lambda: dimension_for(0.0), "margin=0.0"),
        (lambda: gaussian_dimension_for(0.5, 1.0), "error=1.0"),
    ):
        with pytest.raises(InputError, match=message):
            call()
