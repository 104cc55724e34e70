"""Agreement with scikit-dimension, the law of even points on a sphere, and its inverse."""

import math

import pytest
import torch

from lowdim import datasets
from lowdim.errors import InputError, MemoryBudgetError
from lowdim.geometry import fisher_separability
from lowdim.geometry.fisher_separability import ALPHAS, dimension_at, inseparable
from tests.geometry.manifolds import normal


@pytest.mark.parametrize(
    "x",
    [
        datasets.sphere(300, 5, 12),
        datasets.swiss_roll(300),
        datasets.cube(300, 10, 12),
        datasets.affine(400, 30, 40),
    ],
    ids=["sphere", "roll", "cube", "affine"],
)
def test_agrees_with_scikit_dimension(x):
    skdim = pytest.importorskip("skdim")
    oracle = skdim.id.FisherS().fit(x.numpy())
    found = fisher_separability(x)
    assert found.value == pytest.approx(float(oracle.dimension_), rel=1e-9)
    assert list(found.profile) == pytest.approx(oracle.n_alpha_.tolist(), rel=1e-9, nan_ok=True)
    local, _ = oracle.point_inseparability_to_pointID(idx="selected", verbose=False)
    assert found.per_point.tolist() == pytest.approx(local.tolist(), rel=1e-9)


@pytest.mark.parametrize("n", [2, 9.5, 60])
def test_the_dimension_inverts_the_law_of_the_sphere(n):
    p = (1 - ALPHAS**2) ** ((n - 1) / 2) / (ALPHAS * math.sqrt(2 * math.pi * n))
    assert dimension_at(p, ALPHAS).tolist() == pytest.approx([n] * len(ALPHAS), rel=1e-9)
    assert math.isnan(float(dimension_at(torch.zeros(1).double(), ALPHAS[:1])))


@pytest.mark.parametrize(("d", "within"), [(4, 0.05), (10, 0.05), (20, 0.1), (35, 0.2)])
def test_even_directions_read_their_number(d, within):
    """At 35 dimensions a few dozen of half a million pairs are inseparable."""
    assert fisher_separability(normal(1000, d)).value == pytest.approx(d, rel=within)


def test_whitening_evens_out_what_is_kept_and_drops_the_rest():
    scales = torch.tensor([3.0, 2, 2, 1.5, 0.5, 0.3]).double()  # variances against 9 / 10
    found = fisher_separability(normal(800, 6) * scales)
    assert found.components == 4
    assert found.value == pytest.approx(4, rel=0.05)
    every = fisher_separability(normal(800, 6) * scales, condition=1e6)
    assert every.components == 6
    assert every.value == pytest.approx(6, rel=0.05)


def test_counts_are_those_of_the_full_matrix_whatever_the_blocks():
    z = torch.nn.functional.normalize(normal(150, 3))
    products = z @ z.T
    products.fill_diagonal_(-1)
    expected = torch.stack([(products >= a).sum(1) for a in ALPHAS], 1) / 149
    for memory in (None, "1MB"):
        assert torch.allclose(inseparable(z, memory=memory), expected.double())


def test_stated_error_is_that_of_repeated_draws_on_an_even_cloud():
    found = [fisher_separability(datasets.cube(300, 5, 6, seed=s)) for s in range(40)]
    spread = torch.tensor([f.value for f in found]).std()
    claimed = torch.tensor([f.standard_error for f in found]).mean()
    assert 0.75 < float(claimed / spread) < 2


def test_copies_of_a_direction_are_inseparable():
    """Two thirds of the points on one ray, which no whitening can pull apart."""
    ray = torch.rand(200, 1, generator=torch.Generator().manual_seed(1)).double() + 9
    x = torch.cat([normal(100, 5), ray * torch.ones(1, 5)])
    found = fisher_separability(x)
    assert float(found.per_point[100:].mean()) < float(found.per_point[:100].mean())


def test_a_row_at_the_mean_has_no_direction():
    x = normal(100, 3)
    x = torch.cat([x, -x, torch.zeros(1, 3).double()])
    found = fisher_separability(x)
    assert found.notes == ("1 rows at the mean, without a direction",)
    assert found.value == pytest.approx(3, rel=0.05)


def test_bad_input():
    with pytest.raises(InputError, match="too high for this many rows"):
        fisher_separability(normal(40, 300))
    with pytest.raises(InputError, match="all energies are zero"):
        fisher_separability(torch.ones(20, 3))
    with pytest.raises(MemoryBudgetError):
        inseparable(torch.nn.functional.normalize(normal(500, 3)), memory=10_000)
