"""scikit-dimension's values, the bias that is stated, and an interval of the mean."""

import numpy as np
import pytest
import torch
from scipy import integrate

from lowdim.core.neighbors import Neighbors
from lowdim.errors import InputError
from lowdim.geometry import mada
from tests.geometry.manifolds import coverage, cube, flat_torus, normal


@pytest.mark.parametrize(("n", "d", "k"), [(300, 2, 20), (400, 12, 31)])
def test_agrees_with_scikit_dimension(n, d, k):
    skdim = pytest.importorskip("skdim")
    x = cube(n, d)
    found = mada(Neighbors.of_points(x, k), k=k)
    oracle = skdim.id.MADA().fit(x.numpy(), n_neighbors=k)
    assert found.per_point.tolist() == pytest.approx(oracle.dimension_pw_.tolist(), rel=1e-6)
    assert found.value == pytest.approx(oracle.dimension_, rel=1e-6)


@pytest.mark.parametrize("k", [20, 32])
@pytest.mark.parametrize("d", [1, 3])
def test_is_biased_by_the_factor_that_theory_gives(d, k):
    """d log(r_k / r_h) is a sum of exponentials of rates h ... k-1; the mean of 1 / it is known."""
    rates = np.arange(k // 2, k)
    bias = np.log(2) * integrate.quad(lambda s: np.prod(rates / (rates + s)), 0, np.inf)[0]
    assert bias > 1.04
    found = [mada(flat_torus(1000, d, k, seed), k=k).value for seed in range(10)]
    assert np.mean(found) == pytest.approx(bias * d, rel=0.02)


@pytest.mark.parametrize("d", [1, 2, 5])
def test_intervals_hold_the_mean_of_the_estimator(d):
    """Nominal 95%; of 60 draws of a 95% interval 52 or more hold it in 99.7% of runs."""
    found = [mada(flat_torus(500, d, 20, seed)) for seed in range(60)]
    hits, claimed = coverage(found, np.mean([e.value for e in found]))
    assert hits >= 52 / 60
    assert 0.8 < claimed < 1.6


def test_points_with_equal_radii_are_left_out_and_noted():
    """An octahedron's corners have four neighbours at one distance."""
    corners = torch.cat([torch.eye(3), -torch.eye(3)]).double() + 50
    found = mada(Neighbors.of_points(torch.cat([normal(100, 3), corners]), 4), k=4)
    assert found.notes == ("6 points with all neighbours at one distance: left out of the mean",)
    assert torch.isinf(found.per_point[100:]).all()
    assert found.value == pytest.approx(float(found.per_point[:100].mean()))


def test_bad_input():
    x = normal(40, 3)
    with pytest.raises(InputError, match="equals another row"):
        mada(Neighbors.of_points(torch.cat([x, x[:1]]), 5), k=5)
    with pytest.raises(InputError, match="k=1"):
        mada(Neighbors.of_points(x, 5), k=1)
    with pytest.raises(InputError, match="grid"):
        mada(Neighbors.of_points(torch.eye(10), 5), k=5)
