"""Against dcor, the Gaussian closed form, and the size of the test."""

import math
import sys

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from lowdim.compare import affine_distance_correlation, distance_correlation
from lowdim.errors import InputError

routes = sys.modules["lowdim.compare.distance_correlation"]


@pytest.fixture
def dcor():
    threads = torch.get_num_threads()
    yield pytest.importorskip("dcor")
    torch.set_num_threads(threads)  # numba, which it imports, sets OpenMP's for everybody


def draw(n, d, seed=0):
    return torch.randn(n, d, generator=torch.Generator().manual_seed(seed)).double()


def related(n, d1, d2):
    x = 3 * draw(n, d1) + 10
    return x, 0.1 * draw(n, d2, 1) + x[:, :1].sin()


@pytest.mark.parametrize(
    ("n", "d1", "d2"), [(4, 1, 2), (5, 1, 1), (64, 1, 1), (333, 1, 1), (700, 3, 7), (600, 1, 9)]
)
def test_agrees_with_dcor(n, d1, d2, dcor):
    x, y = related(n, d1, d2)
    found = distance_correlation(x, y)
    a, b = x.numpy(), y.numpy()
    assert found.value == pytest.approx(dcor.distance_correlation(a, b), abs=1e-12)
    assert found.unbiased == pytest.approx(dcor.u_distance_correlation_sqr(a, b), abs=1e-12)
    assert found.covariance == pytest.approx(dcor.distance_covariance(a, b), abs=1e-12)


def test_affine_form_agrees_with_dcor_and_ignores_linear_maps(dcor):
    x, y = related(200, 4, 3)
    y = y * torch.tensor([1, 100, 1e4])
    found = affine_distance_correlation(x, y)
    oracle = dcor.distance_correlation_af_inv(x.numpy(), y.numpy())
    assert found.value == pytest.approx(oracle, abs=1e-12)
    mixed = torch.cat([x @ draw(4, 4, 5), x[:, :1]], 1)  # and a column that repeats another
    assert affine_distance_correlation(mixed - 7, y).value == pytest.approx(found.value, abs=1e-9)


@settings(max_examples=50, deadline=None)
@given(st.lists(st.tuples(st.integers(-5, 5), st.integers(-3, 9)), min_size=4, max_size=40))
def test_sorted_columns_give_what_all_pairs_give(points):
    """Small integers: ties on either side or both."""
    x, y = torch.tensor(points, dtype=torch.float64).T[:, :, None]
    a, b = routes._line_sums(x, y, None), routes._block_sums(x, y, None)
    assert a.products == pytest.approx(b.products, abs=1e-9)
    assert torch.allclose(torch.stack(a.rows), torch.stack(b.rows), atol=1e-9)


@pytest.mark.parametrize("rho", [0.0, 0.3, 0.8, 1.0])
def test_gaussian_pair_has_its_closed_form(rho):
    """Szekely, Rizzo and Bakirov 2007, theorem 7."""
    n = 50_000
    x, y = draw(n, 1), draw(n, 1, 1)
    y = rho * x + math.sqrt(1 - rho**2) * y
    top = rho * math.asin(rho) + math.sqrt(1 - rho**2)
    top -= rho * math.asin(rho / 2) + math.sqrt(4 - rho**2) - 1
    squared = top / (1 + math.pi / 3 - math.sqrt(3))
    assert distance_correlation(x, y).unbiased == pytest.approx(squared, abs=0.012)


def test_turned_shifted_scaled_is_one_and_a_parabola_is_seen():
    x = draw(300, 6)
    turned = 7 * x @ torch.linalg.qr(draw(6, 6, 1))[0] - 2
    found = distance_correlation(x, turned)
    assert found.value == pytest.approx(1)
    assert found.unbiased == pytest.approx(1)
    line = torch.linspace(-1, 1, 500).double()
    bent = distance_correlation(line, line**2)
    assert abs(float(torch.corrcoef(torch.stack([line, line**2]))[0, 1])) < 1e-6
    assert bent.value > 0.3
    assert bent.p_value < 1e-6


def test_wide_unrelated_layers_read_one_and_only_the_unbiased_form_tells():
    found = [distance_correlation(draw(40, 400, s), draw(40, 400, 100 + s)) for s in range(30)]
    assert min(f.value for f in found) > 0.9
    assert abs(sum(f.unbiased for f in found)) / 30 < 0.03
    assert sum(f.p_value < 0.05 for f in found) <= 3


@pytest.mark.parametrize(("n", "d"), [(30, 1), (60, 3)])
def test_the_test_holds_its_level_and_has_power(n, d):
    draws = [distance_correlation(draw(n, d, 2 * s), draw(n, d, 2 * s + 1)) for s in range(300)]
    assert sum(f.p_value < 0.05 for f in draws) / 300 < 0.05 + 3 * math.sqrt(0.05 * 0.95 / 300)
    x = draw(n, d, 7)
    assert distance_correlation(x, x + 0.5 * draw(n, d, 8)).p_value < 1e-3


def test_small_budget_wild_scale_and_single_precision():
    x, y = related(900, 5, 4)
    found = distance_correlation(x, y)
    again = distance_correlation(x, y, memory="1MiB")
    assert again.value == pytest.approx(found.value, rel=1e-12)
    wild = distance_correlation(x * 1e200, y * 1e-200)
    assert wild.value == pytest.approx(found.value, rel=1e-12)
    assert wild.covariance == pytest.approx(found.covariance, rel=1e-12)
    assert distance_correlation(x.float(), y.float()).value == pytest.approx(found.value, abs=1e-6)


def test_poor_data():
    x = draw(20, 3)
    with pytest.raises(InputError, match="x has 20 rows and y 19"):
        distance_correlation(x, x[:-1])
    with pytest.raises(InputError, match="at least 4 rows"):
        distance_correlation(x[:3], x[:3])
    with pytest.raises(InputError, match="y has all rows equal"):
        distance_correlation(x, torch.full((20, 2), 0.3))
    with pytest.raises(InputError, match="x spans 19 directions with 20 rows"):
        affine_distance_correlation(draw(20, 30), x)
    one_apart = torch.tensor([0.0, 0, 0, 1])
    assert distance_correlation(one_apart, draw(4, 1)).notes[0].startswith("too few different rows")
