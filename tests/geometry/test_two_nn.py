"""Agreement with scikit-dimension, recovery of known dimensions, and honest intervals."""

import warnings

import pytest
import torch

from lowdim.core.neighbors import Neighbors
from lowdim.errors import InputError
from lowdim.geometry import two_nn
from tests.geometry.manifolds import cube, flat_torus, normal


def of(x, **options):
    return two_nn(Neighbors.of_points(x, 2), **options)


@pytest.mark.parametrize("discard", [0.1, 0.3])
@pytest.mark.parametrize(("n", "d"), [(300, 2), (501, 7), (200, 30)])
def test_agrees_with_scikit_dimension(n, d, discard):
    skdim = pytest.importorskip("skdim")
    x = cube(n, d)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        oracle = skdim.id.TwoNN(discard_fraction=discard).fit(x.numpy()).dimension_
    assert of(x, discard=discard).value == pytest.approx(oracle, abs=1e-6)


@pytest.mark.parametrize("d", [1, 2, 5])
def test_finds_the_dimension_in_a_larger_space(d):
    x = cube(2000, d) @ torch.linalg.qr(normal(20, d, 1))[0].T
    assert of(x).value == pytest.approx(d, rel=0.1)


@pytest.mark.parametrize(("d", "n"), [(1, 500), (2, 500), (2, 2000), (5, 500)])
def test_intervals_hold_the_truth_where_there_is_no_bias(d, n):
    """Nominal 95%; 120 draws of a 95% interval lie above 88% in all but one of 1,000 runs."""
    found = [two_nn(flat_torus(n, d, 2, seed)) for seed in range(120)]
    hits = sum(e.low <= d <= e.high for e in found)
    assert hits >= 0.88 * 120
    spread = torch.tensor([e.value for e in found]).std()
    claimed = torch.tensor([e.standard_error for e in found]).mean()
    assert claimed == pytest.approx(float(spread), rel=0.25)


def test_a_naive_error_would_be_too_small():
    """n independent exponentials give d / sqrt(n); neighbours are not independent."""
    found = two_nn(flat_torus(5000, 2, 2))
    assert found.standard_error > 1.2 * 2 / 5000**0.5


def test_no_discarding_leaves_out_only_the_last_point():
    assert of(cube(2000, 2), discard=0).value == pytest.approx(2, rel=0.15)


def test_few_rows_give_a_number_without_an_interval():
    found = of(cube(30, 2))
    assert found.low is None
    assert found.notes == ("30 rows are too few for an interval",)


def test_rounded_data_are_noted():
    x = (cube(500, 3) * 30).round()
    found = of(x.unique(dim=0))
    assert "r1 = r2: rounded data" in found.notes[0]


def test_bad_input():
    x = cube(40, 2)
    with pytest.raises(InputError, match="row 0 equals another row"):
        of(torch.cat([x, x[:1]]))
    with pytest.raises(InputError, match="grid"):
        of(torch.cartesian_prod(torch.arange(9.0), torch.arange(9.0)))
    with pytest.raises(InputError, match="discard=1"):
        of(x, discard=1)
    with pytest.raises(InputError, match="query 0 equals a point of the reference set"):
        two_nn(Neighbors.of_points(x, 2, queries=x[:5]))
    with pytest.raises(InputError):
        of(x[:2])
