"""Agreement with scipy's entropy, and what the measure must not see."""

import math

import numpy as np
import pytest
import torch
from scipy import stats

from lowdim.core.spectrum import Spectrum
from lowdim.errors import InputError
from lowdim.geometry import vasicek_ratio


def read(x, **options):
    return vasicek_ratio(x, Spectrum.of_points(x, vectors=True), **options)


def draw(n, d, seed=0):
    return torch.randn(n, d, generator=torch.Generator().manual_seed(seed)).double()


def by_scipy(x):
    x = x - x.mean(0)
    _, _, vt = np.linalg.svd(x, full_matrices=False)
    turned = x @ vt.T
    turned *= math.sqrt(x.shape[1] / turned.var(0).sum())
    entropy = stats.differential_entropy(turned, axis=0, method="vasicek")
    return np.mean((1 - np.exp(entropy) / math.sqrt(2 * math.pi * math.e)) ** 2)


@pytest.mark.parametrize(("n", "d"), [(50, 3), (200, 1), (333, 6)])
def test_agrees_with_scipy(n, d):
    x = draw(n, d) ** 3 + draw(n, d, 1)
    assert read(x).value == pytest.approx(by_scipy(x.numpy()), rel=1e-9)


def test_a_normal_sample_reads_nearly_zero_and_less_with_more_rows():
    small, large = (read(draw(n, 10)).value for n in (200, 5000))
    assert large < 1e-3 < small


def test_a_direction_without_spread_counts_fully():
    x = torch.cat([draw(2000, 3), torch.zeros(2000, 1).double()], 1)
    with_dead = read(x).value
    # three directions of variance 4/3 and one of width zero
    expected = (3 * (1 - math.sqrt(4 / 3)) ** 2 + 1) / 4
    assert with_dead == pytest.approx(expected, abs=0.02)


def test_fewer_rows_than_columns():
    value = read(draw(10, 40)).value
    assert 30 / 40 < value < 40  # the thirty-one unseen directions count one each


def test_does_not_see_the_budget():
    x = draw(500, 12)
    whole = read(x).value
    assert read(x, memory="100kB").value == pytest.approx(whole, rel=1e-12)


def test_poor_data():
    with pytest.raises(InputError, match="all energies are zero"):
        read(torch.ones(30, 2))
    with pytest.raises(InputError, match="at least 5 rows"):
        read(draw(4, 2))
