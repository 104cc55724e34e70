"""Counts by hand, skewness by scipy, and hubs where theory puts them."""

import pytest
import torch
from scipy import stats

from lowdim.core.neighbors import Neighbors
from lowdim.geometry import hubness
from tests.geometry.manifolds import normal


def of(x, k):
    return hubness(Neighbors.of_points(x, k), k=k)


def test_counts_by_hand():
    x = torch.tensor([[0.0], [1.0], [-1.1], [1.21], [50.0]])
    found = of(x, 1)  # 0 -> 1, 1 -> 1.21, -1.1 -> 0, 1.21 -> 1, 50 -> 1.21
    assert found.per_point.tolist() == [1, 2, 0, 2, 0]
    assert found.anti_hubs == pytest.approx(2 / 5)
    assert found.largest == 2


def test_queries_count_the_points_they_find():
    x = torch.tensor([[0.0], [1.0], [9.0]])
    found = hubness(Neighbors.of_points(x, 1, queries=torch.tensor([[0.1], [0.2]])), k=1)
    assert found.per_point.tolist() == [2, 0, 0]


def test_skewness_is_scipys():
    found = of(normal(400, 20), 10)
    assert found.value == pytest.approx(stats.skew(found.per_point.numpy()), rel=1e-9)
    assert float(found.per_point.mean()) == pytest.approx(10)


def test_grows_with_dimension():
    flat, deep = of(normal(800, 2), 10), of(normal(800, 60), 10)
    assert flat.value < 1 < 2 < deep.value
    assert deep.anti_hubs > 0.1 > flat.anti_hubs


def test_equal_shares_have_no_skew():
    triangle = torch.tensor([[0.0, 0], [1, 0], [0.5, 0.8]])
    assert of(triangle, 2).value == 0
