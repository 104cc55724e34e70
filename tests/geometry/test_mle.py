"""Agreement with scikit-dimension, unbiased local dimensions, and honest intervals."""

import pytest
import torch

from lowdim.core.neighbors import Neighbors
from lowdim.errors import InputError
from lowdim.geometry import mle, mle_levina_bickel
from tests.geometry.manifolds import coverage, cube, flat_torus, normal


@pytest.mark.parametrize("k", [5, 20])
@pytest.mark.parametrize(("n", "d"), [(300, 2), (400, 12)])
def test_agrees_with_scikit_dimension(n, d, k):
    skdim = pytest.importorskip("skdim")
    x = cube(n, d)
    found = mle(Neighbors.of_points(x, k), k=k)
    oracle = skdim.id.MLE().fit(x.numpy(), n_neighbors=k, comb="mle")
    assert found.value == pytest.approx(oracle.dimension_, rel=1e-6)
    unbiased = skdim.id.MLE(unbiased=True).fit(x.numpy(), n_neighbors=k)
    assert found.per_point.tolist() == pytest.approx(unbiased.dimension_pw_.tolist(), rel=1e-6)


@pytest.mark.parametrize("k", [5, 20])
def test_mean_of_local_dimensions_agrees_with_scikit_dimension(k):
    skdim = pytest.importorskip("skdim")
    x = cube(400, 6)
    found = mle_levina_bickel(Neighbors.of_points(x, k), k=k)
    oracle = skdim.id.MLE(unbiased=True).fit(x.numpy(), n_neighbors=k, comb="mean")
    assert found.value == pytest.approx(oracle.dimension_, rel=1e-6)


@pytest.mark.parametrize("d", [1, 2, 5])
def test_intervals_of_the_mean_of_local_dimensions_hold_the_truth(d):
    """Nominal 95%; of 60 draws of a 95% interval 52 or more hold it in 99.7% of runs."""
    found = [mle_levina_bickel(flat_torus(500, d, 20, seed)) for seed in range(60)]
    hits, claimed = coverage(found, d)
    assert hits >= 52 / 60
    assert 0.8 < claimed < 2


def test_the_two_averagings_differ_where_dimension_does():
    flat = torch.cat([cube(400, 1), torch.zeros(400, 4).double()], 1)
    mixed = Neighbors.of_points(torch.cat([flat, cube(400, 5, 1) + 5]), 20)
    assert mle_levina_bickel(mixed).value > 1.3 * mle(mixed).value


def test_infinite_local_dimensions_are_left_out_of_the_mean():
    corners = torch.cat([torch.eye(3), -torch.eye(3)]).double() + 50
    found = mle_levina_bickel(Neighbors.of_points(torch.cat([normal(100, 3), corners]), 4), k=4)
    assert found.value == pytest.approx(float(found.per_point[:100].mean()))
    assert found.notes == ("6 points with all neighbours at one distance: left out of the mean",)


@pytest.mark.parametrize("d", [1, 2, 5])
def test_local_dimensions_are_unbiased_and_as_noisy_as_stated(d):
    found = mle(flat_torus(3000, d, 20))
    assert found.value == pytest.approx(d, rel=0.03)
    assert float(found.per_point.mean()) == pytest.approx(d, rel=0.03)
    assert float(found.per_point.std()) / d == pytest.approx(17**-0.5, rel=0.1)


def test_local_dimension_tells_a_sheet_from_a_ball():
    sheet = torch.cat([cube(600, 2), torch.zeros(600, 4).double()], 1)
    ball = cube(600, 6, 1) + 5
    local = mle(Neighbors.of_points(torch.cat([sheet, ball]), 20)).per_point
    assert float(local[:600].median()) == pytest.approx(2, abs=0.4)
    assert float(local[600:].median()) > 4


@pytest.mark.parametrize(("d", "n"), [(1, 500), (2, 500), (5, 500)])
def test_intervals_hold_the_truth_where_there_is_no_bias(d, n):
    """Nominal 95%; of 60 draws of a 95% interval 52 or more hold it in 99.7% of runs."""
    found = [mle(flat_torus(n, d, 20, seed)) for seed in range(60)]
    hits = sum(e.low <= d <= e.high for e in found)
    assert hits >= 52
    spread = torch.tensor([e.value for e in found]).std()
    claimed = torch.tensor([e.standard_error for e in found]).mean()
    assert claimed == pytest.approx(float(spread), rel=0.35)


def test_reads_the_first_k_columns_of_a_longer_search():
    x = normal(200, 4)
    short, long = (mle(Neighbors.of_points(x, k), k=10) for k in (10, 30))
    assert short.value == pytest.approx(long.value, rel=1e-12)
    assert short.standard_error == pytest.approx(long.standard_error, rel=1e-12)


def test_equally_distant_neighbours_are_noted():
    """An octahedron's corners have four neighbours at one distance."""
    corners = torch.cat([torch.eye(3), -torch.eye(3)]).double() + 50
    found = mle(Neighbors.of_points(torch.cat([normal(100, 3), corners]), 4), k=4)
    assert found.notes[0].startswith("6 points with all neighbours at one distance")
    assert torch.isinf(found.per_point[100:]).all()


def test_bad_input():
    x = normal(40, 3)
    with pytest.raises(InputError, match="equals another row"):
        mle(Neighbors.of_points(torch.cat([x, x[:1]]), 5), k=5)
    with pytest.raises(InputError, match="k=2"):
        mle(Neighbors.of_points(x, 5), k=2)
    with pytest.raises(InputError):
        mle(Neighbors.of_points(x, 5), k=20)
    with pytest.raises(InputError, match="grid"):
        mle(Neighbors.of_points(torch.eye(10), 5), k=5)
