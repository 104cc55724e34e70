"""Blocks of patches hold what a plain loop holds, whatever the budget and wherever the origin."""

import pytest
import torch

from lowdim.core.neighbors import Neighbors
from lowdim.errors import InputError, MemoryBudgetError
from lowdim.geometry.patches import centered_gram, gram, over_patches, spectra
from tests.geometry.manifolds import normal


def vectors(x, k, **options):
    return over_patches(lambda v: v, x, Neighbors.of_points(x, k), k, **options)


def test_vectors_are_those_of_a_loop_in_units_of_the_farthest():
    x = normal(60, 5)
    found = Neighbors.of_points(x, 9)
    for row, patch in enumerate(vectors(x, 7)):
        expected = (x[found.indices[row, :7]] - x[row]) / found.distances[row, 6]
        assert torch.allclose(patch, expected, atol=1e-14)


@pytest.mark.parametrize("k", [4, 30])
def test_does_not_see_the_budget_or_the_threads(k):
    x = normal(200, 11)
    whole = over_patches(gram, x, Neighbors.of_points(x, k), k)
    small = over_patches(gram, x, Neighbors.of_points(x, k), k, memory="1MB")
    assert torch.allclose(small, whole, atol=1e-14)
    before = torch.get_num_threads()
    torch.set_num_threads(3)
    try:
        assert torch.allclose(over_patches(gram, x, Neighbors.of_points(x, k), k), whole)
    finally:
        torch.set_num_threads(before)


def test_the_plan_comes_first():
    x = normal(50, 4)
    with pytest.raises(MemoryBudgetError, match="neighbour patches"):
        over_patches(gram, x, Neighbors.of_points(x, 10), 10, memory=1000)


def test_patches_of_queries():
    x, at = normal(80, 3), normal(20, 3, 1)
    found = Neighbors.of_points(x, 6, queries=at)
    patch = over_patches(lambda v: v, x, found, 6, queries=at)
    expected = (x[found.indices] - at[:, None]) / found.distances[:, -1, None, None]
    assert torch.allclose(patch, expected, atol=1e-14)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_far_from_the_origin_nothing_is_lost(dtype):
    """Coordinates are multiples of 2^-6 below 2^10, so the shift is exact in both dtypes."""
    x = (normal(100, 6) * 64).round() / 64
    near = vectors(x.to(dtype), 8)
    far = vectors(x.to(dtype) + 2.0**16, 8)
    assert torch.equal(near, far)


@pytest.mark.parametrize("size", [1e-30, 1e30])
def test_squares_neither_overflow_nor_vanish(size):
    x = normal(100, 6).float()
    same = over_patches(gram, x * size, Neighbors.of_points(x * size, 8), 8)
    assert torch.allclose(same, over_patches(gram, x, Neighbors.of_points(x, 8), 8), atol=1e-5)


@pytest.mark.parametrize(("k", "d"), [(20, 4), (8, 30), (10, 10)])
def test_spectra_are_those_of_the_covariance(k, d):
    x = normal(70, d)
    found = Neighbors.of_points(x, k)
    values = over_patches(spectra, x, found, k)
    assert values.shape == (70, min(k - 1, d))
    for row in range(0, 70, 10):
        patch = x[found.indices[row]] / found.distances[row, -1]
        expected = torch.linalg.eigvalsh(patch.T.cov()).flip(0)[: values.shape[1]]
        assert torch.allclose(values[row], expected, atol=1e-12)


def test_a_flat_patch_has_exactly_its_rank():
    x = normal(80, 3) @ normal(3, 20, 1) + 100
    values = over_patches(spectra, x, Neighbors.of_points(x, 12), 12)
    assert torch.equal((values > 0).sum(1), torch.full((80,), 3))


def test_centered_gram_is_that_of_centered_vectors():
    v = normal(24, 5).view(4, 6, 5)
    centered = v - v.mean(1, keepdim=True)
    assert torch.allclose(centered_gram(v), centered @ centered.mT, atol=1e-13)


def test_bad_input():
    x = normal(40, 3)
    found = Neighbors.of_points(x, 5)
    with pytest.raises(InputError, match="give the points of the search"):
        over_patches(gram, x[:30], found, 5)
    with pytest.raises(InputError, match="give the points of the search"):
        over_patches(gram, x[:, :2], found, 5)
    with pytest.raises(InputError, match="equals another row"):
        vectors(torch.cat([x, x[:1]]), 5)
    with pytest.raises(InputError, match="k=9"):
        over_patches(gram, x, found, 9)
