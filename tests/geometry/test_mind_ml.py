"""The paper's likelihood over real and over whole numbers, scikit-dimension, honest intervals."""

import numpy as np
import pytest
import torch
from scipy import optimize

from lowdim.core.neighbors import Neighbors
from lowdim.errors import InputError
from lowdim.geometry import mind_ml, two_nn
from tests.geometry.manifolds import coverage, cube, flat_torus, known, normal


def log_likelihood(d, rho, k):
    """As in the paper: rho has density k d rho^(d-1) (1 - rho^d)^(k-1)."""
    return (np.log(k * d) + (d - 1) * np.log(rho) + (k - 1) * np.log1p(-(rho**d))).sum()


@pytest.mark.parametrize(("n", "d", "k"), [(300, 2, 20), (300, 7, 10), (200, 30, 20)])
def test_maximises_the_papers_likelihood(n, d, k):
    near = Neighbors.of_points(cube(n, d), k + 1)
    rho = (near.distances[:, 0] / near.distances[:, k]).numpy()
    found = mind_ml(near, k=k)
    real = optimize.minimize_scalar(
        lambda d: -log_likelihood(d, rho, k), bounds=(0.5, 60), method="bounded",
        options={"xatol": 1e-9},
    )  # fmt: skip
    assert found.value == pytest.approx(real.x, rel=1e-6)
    assert found.whole == max(range(1, 60), key=lambda d: log_likelihood(d, rho, k))


@pytest.mark.parametrize(("n", "d"), [(500, 5), (300, 30), (400, 2)])
def test_at_least_as_likely_as_scikit_dimensions(n, d):
    """Their optimizer starts at the whole number and sometimes stays there."""
    skdim = pytest.importorskip("skdim")
    x = normal(n, d)
    near = Neighbors.of_points(x, 21)
    found = mind_ml(near)
    theirs = skdim.id.MiND_ML(D=60).fit(x.numpy()).dimension_
    assert found.whole == skdim.id.MiND_ML(D=60, ver="MLi").fit(x.numpy()).dimension_
    rho = (near.distances[:, 0] / near.distances[:, 20]).numpy()
    assert log_likelihood(found.value, rho, 20) >= log_likelihood(theirs, rho, 20) - 1e-9
    if theirs != found.whole:  # it did move
        assert found.value == pytest.approx(theirs, rel=1e-6)


def test_one_neighbour_is_two_nn():
    near = Neighbors.of_points(cube(2000, 3), 2)
    assert mind_ml(near, k=1).value == pytest.approx(two_nn(near).value, rel=0.05)


@pytest.mark.parametrize("d", [1, 2, 5])
def test_intervals_hold_the_truth_where_there_is_no_bias(d):
    """Nominal 95%; of 60 draws of a 95% interval 52 or more hold it in 99.7% of runs."""
    found = [mind_ml(flat_torus(500, d, 21, seed)) for seed in range(60)]
    hits, claimed = coverage(found, d)
    assert hits >= 52 / 60
    assert 0.7 < claimed < 1.5
    assert all(e.whole == d for e in found)


@known(affine=3)
def test_finds_known_dimensions(x, d):
    found = mind_ml(Neighbors.of_points(x, 21))
    assert found.value == pytest.approx(d, rel=0.1)
    assert found.whole == d


def test_bad_input():
    x = normal(40, 3)
    with pytest.raises(InputError, match="equals another row"):
        mind_ml(Neighbors.of_points(torch.cat([x, x[:1]]), 6), k=5)
    with pytest.raises(InputError, match="k=0"):
        mind_ml(Neighbors.of_points(x, 5), k=0)
    with pytest.raises(InputError, match="grid"):
        mind_ml(Neighbors.of_points(torch.eye(10), 6), k=5)
