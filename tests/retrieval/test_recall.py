"""Intervals by simulation, nDCG by scikit-learn, judgements from files."""

import math

import numpy as np
import pytest
import torch

from lowdim.errors import InputError
from lowdim.retrieval.recall import (
    highest_bound,
    interval,
    lower_bound,
    mrr,
    ndcg,
    queries_for,
    read_qrels,
    recall_at_k,
)


def test_recall_counts_the_true_rows():
    truth = torch.tensor([[1, 2, 3], [4, 5, 6]])
    found = torch.tensor([[3, 9, 1, 7], [-1, -1, -1, -1]])
    assert recall_at_k(found, truth).tolist() == [2 / 3, 0]
    assert recall_at_k(truth.flip(1), truth).tolist() == [1, 1]


def drawn(kind, p, n, repeats, rng, k=10):
    if kind == "independent":
        return rng.binomial(k, p, (repeats, n)) / k
    if kind == "all or none":
        return rng.binomial(1, p, (repeats, n)).astype(float)
    if kind == "correlated":
        return rng.binomial(k, rng.beta(2 * p, 2 * (1 - p), (repeats, n))) / k
    lost = rng.random((repeats, n)) < (1 - p)  # a few queries lose everything
    return np.where(lost, 0.0, 1.0 - rng.binomial(1, 0.02, (repeats, n)) / k)


@pytest.mark.parametrize("kind", ["independent", "all or none", "correlated", "rare losses"])
@pytest.mark.parametrize(("p", "n"), [(0.9, 100), (0.98, 250), (0.99, 500)])
def test_bounds_hold_however_the_hits_of_a_query_hang_together(kind, p, n):
    x = torch.from_numpy(drawn(kind, p, n, 400, np.random.default_rng(1)))
    truth = p if kind != "rare losses" else p * (1 - 0.002)
    below = np.mean([lower_bound(row) <= truth for row in x])
    inside = np.mean([low <= truth <= high for _, low, high in map(interval, x)])
    assert below >= 0.95 - 3 * math.sqrt(0.05 * 0.95 / 400)
    assert inside >= 0.93 - 3 * math.sqrt(0.05 * 0.95 / 400)


def test_a_bound_tightens_with_queries_and_is_no_wider_than_it_has_to_be():
    recalls = torch.from_numpy(drawn("independent", 0.9, 2000, 1, np.random.default_rng(0))[0])
    bounds = [lower_bound(recalls[:n]) for n in (50, 200, 2000)]
    assert bounds == sorted(bounds)
    normal = float(recalls.mean()) - 1.645 * float(recalls.std()) / math.sqrt(2000)
    assert bounds[-1] == pytest.approx(normal, abs=5e-4)


def test_perfect_queries_show_what_highest_bound_says():
    assert lower_bound(torch.ones(80).double()) == pytest.approx(highest_bound(80))
    n = queries_for(0.98)
    assert highest_bound(n) >= 0.98 > highest_bound(n - 1)


def test_ndcg_is_that_of_scikit_learn():
    metrics = pytest.importorskip("sklearn.metrics")
    rng = np.random.default_rng(0)
    gains = rng.integers(0, 4, (20, 30)).astype(float)
    scores = rng.standard_normal((20, 30))
    ids = torch.from_numpy(np.argsort(-scores, 1).copy())
    qrels = {i: dict(enumerate(row)) for i, row in enumerate(gains)}
    expected = [metrics.ndcg_score(gains[i : i + 1], scores[i : i + 1], k=10) for i in range(20)]
    assert ndcg(ids, qrels, 10).tolist() == pytest.approx(expected)


def test_mrr_is_one_over_the_place_of_the_first_right_row():
    ids = torch.tensor([[5, 6, 7], [8, 9, 1], [2, 3, 4]])
    assert mrr(ids, {0: {5: 1}, 1: {1: 2, 9: 1}, 2: {99: 1}}, 3).tolist() == [1, 0.5, 0]


def test_queries_without_any_gain_are_not_judged():
    ids = torch.tensor([[0, 1], [1, 0]])
    assert ndcg(ids, {0: {0: 0.0}, 1: {1: 1.0}}, 2).tolist() == [1]
    with pytest.raises(InputError, match="no query any row"):
        ndcg(ids, {0: {0: 0.0}}, 2)
    with pytest.raises(InputError, match="judge query 7"):
        mrr(ids, {7: {0: 1.0}}, 2)


def test_judgements_of_both_forms(tmp_path):
    trec, beir = tmp_path / "a.tsv", tmp_path / "b.tsv"
    trec.write_text("0 0 12 1\n0 0 3 2\n4 0 3 0\n")
    beir.write_text("query-id\tcorpus-id\tscore\nq1\tdoc b\t1\n".replace("doc b", "docb"))
    assert read_qrels(trec) == {0: {12: 1, 3: 2}, 4: {3: 0}}
    assert read_qrels(beir, queries=["q0", "q1"], rows=["doca", "docb"]) == {1: {1: 1}}


@pytest.mark.parametrize("line", ["1 2", "a 0 b 1", "0 0 3 x", "0 0 -1 1", "0 0 1 nan", ""])
def test_judgements_that_are_none_are_named(tmp_path, line):
    path = tmp_path / "qrels.tsv"
    path.write_text(line)
    with pytest.raises(InputError, match=r"qrels\.tsv"):
        read_qrels(path)
    with pytest.raises(InputError, match="cannot be read"):
        read_qrels(tmp_path / "missing")
