"""Orders of insertion: what comes first, and what a graph finds after."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from lowdim.errors import InputError
from lowdim.retrieval.insertion_order import (
    faiss_graph,
    insertion_order,
    local_dimension,
    recall_by_order,
)


def of_rank(rank: int, n: int, dim: int = 32, seed: int = 0) -> torch.Tensor:
    """Gaussian coefficients of ``rank`` orthonormal directions: linear dimension exactly rank."""
    g = torch.Generator().manual_seed(seed)
    basis = torch.linalg.qr(torch.randn(dim, rank, generator=g))[0]
    return torch.randn(n, rank, generator=g) @ basis.T


def two_ranks() -> torch.Tensor:
    return torch.cat([of_rank(2, 300), 100 + of_rank(16, 300)])  # far apart


@pytest.mark.parametrize("rank", [2, 4, 6])
def test_local_dimension_recovers_a_small_linear_dimension(rank):
    found = local_dimension(of_rank(rank, 4000), 50).mean()
    assert found == pytest.approx(rank, rel=0.1)


@pytest.mark.parametrize("by", ["lid", "random", "labels"])
def test_is_a_permutation_the_same_from_run_to_run(by):
    x, labels = of_rank(4, 200), torch.arange(200) % 3
    order = insertion_order(x, by=by, labels=labels, k=20, seed=5)
    assert torch.equal(order.sort().values, torch.arange(200))
    assert torch.equal(order, insertion_order(x, by=by, labels=labels, k=20, seed=5))
    if by == "random":
        assert not torch.equal(order, insertion_order(x, by=by, seed=6))


def test_largest_local_dimension_comes_first_and_ascending_is_the_reverse():
    down = insertion_order(two_ranks(), k=30, metric="euclidean")
    up = insertion_order(two_ranks(), k=30, metric="euclidean", descending=False)
    assert (down[:300] >= 300).double().mean() > 0.95
    assert torch.equal(up, down.flip(0))


def test_labels_stay_together():
    labels = torch.arange(90) % 3
    order = insertion_order(of_rank(4, 90), by="labels", labels=labels, descending=False)
    assert labels[order].tolist() == [0] * 30 + [1] * 30 + [2] * 30
    assert order.tolist() != sorted(order.tolist(), key=lambda i: (i % 3, i))  # random within


def test_equal_rows_share_a_dimension():
    x = of_rank(4, 100)
    found = local_dimension(torch.cat([x, x]), 20)
    assert torch.equal(found[:100], found[100:])
    assert torch.equal(found[:100], local_dimension(x, 20))


def exact(x, order, metric, seed):
    def search(q, k):
        return order[np.argsort(-q @ x[order].T, axis=1)[:, :k]]

    return search


def test_exact_search_has_recall_one_in_every_order():
    x = of_rank(8, 300)
    found = recall_by_order(
        x[50:], x[:50], build=exact, labels=torch.arange(250) % 2, seeds=2, lid_k=20
    )
    assert {row.order for row in found.rows} == {"random", "descending", "ascending", "labels"}
    assert all(row.recall == row.low == row.high == 1 for row in found.rows)
    assert len(str(found).splitlines()) == 4
    assert found.to_dict()["n"] == 250


def test_interval_is_students():
    scipy_stats = pytest.importorskip("scipy.stats")
    share = iter([1.0, 0.5, 0.8])

    def build(x, order, metric, seed):
        kept, search = next(share), exact(x, order, metric, seed)
        return lambda q, k: np.where(np.arange(k) < kept * k, search(q, k), -1)

    x = of_rank(8, 60)
    row = recall_by_order(x[10:], x[:10], build=build, orders=["random"], seeds=3, lid_k=20)[
        "random"
    ]
    assert row.recalls == pytest.approx((1.0, 0.5, 0.8))
    low, high = scipy_stats.t.interval(0.95, 2, row.recall, scipy_stats.sem(row.recalls))
    assert (row.low, row.high) == pytest.approx((max(0, low), min(1, high)))


def test_graph_of_faiss_gives_numbers_of_the_rows_before_they_were_ordered():
    pytest.importorskip("faiss")
    x = of_rank(4, 200).numpy()
    order = insertion_order(x, by="random").numpy()
    found = faiss_graph(x, order, "euclidean", 0)(x, 1)[:, 0]
    assert np.mean(found == np.arange(200)) > 0.97


def test_recall_falls_with_the_linear_dimension():
    pytest.importorskip("faiss")

    def build(x, order, metric, seed):
        return faiss_graph(x, order, metric, seed, links=4, effort=8, search_effort=10)

    recalls = []
    for rank in (2, 8, 32):
        x = of_rank(rank, 1100)
        found = recall_by_order(
            x[100:], x[:100], build=build, orders=["random"], seeds=2, metric="euclidean"
        )
        recalls.append(found["random"].recall)
    assert recalls[0] > recalls[1] + 0.05
    assert recalls[1] > recalls[2] + 0.05


def test_bad_input_says_what_is_missing():
    x = of_rank(4, 50)
    with pytest.raises(InputError, match="labels with labels="):
        insertion_order(x, by="labels")
    with pytest.raises(InputError, match="one for each of 50 rows"):
        insertion_order(x, by="labels", labels=[0, 1])
    with pytest.raises(InputError, match="1 different rows"):
        insertion_order(torch.ones(9, 3))
    with pytest.raises(InputError, match="row 3"):
        insertion_order(torch.cat([x[:3], torch.zeros(1, 32), x]))
    with pytest.raises(InputError, match="two or more"):
        recall_by_order(x[10:], x[:10], seeds=1)
    with pytest.raises(InputError, match="'up' is not known"):
        recall_by_order(x[10:], x[:10], orders=["up"])
    with pytest.raises(InputError, match="give labels="):
        recall_by_order(x[10:], x[:10], orders=["labels"], build=exact, seeds=2)
