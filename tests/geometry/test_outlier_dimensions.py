"""Planted coordinates are found, a rotation hides them."""

import pytest
import torch

from lowdim.core.spectrum import Spectrum
from lowdim.errors import InputError
from lowdim.geometry import anisotropy, outlier_dimensions, persistence


def planted():
    x = torch.randn(2000, 40, generator=torch.Generator().manual_seed(0)).double()
    x[:, 7] *= 20**0.5
    x[:, 30] *= 40**0.5
    return x


def test_planted_coordinates_in_order():
    x = planted()
    found = outlier_dimensions(Spectrum.of_points(x))
    assert found.value == 2
    assert found.coordinates == (30, 7)
    variance = x.var(0, correction=0)
    assert found.ratios == pytest.approx((variance[[30, 7]] / variance.mean()).tolist())


def test_none_in_isotropic_data():
    x = torch.randn(500, 40, generator=torch.Generator().manual_seed(1))
    assert outlier_dimensions(Spectrum.of_points(x)).value == 0


def test_a_rotation_takes_them_and_leaves_the_spectrum():
    x = planted()
    g = torch.Generator().manual_seed(2)
    q = torch.linalg.qr(torch.randn(40, 40, generator=g).double())[0]
    before, after = Spectrum.of_points(x), Spectrum.of_points(x @ q)
    assert outlier_dimensions(after).value == 0
    assert anisotropy(after).value == pytest.approx(anisotropy(before).value)


def test_poor_data():
    with pytest.raises(InputError, match="all energies are zero"):
        outlier_dimensions(Spectrum.of_points(torch.ones(20, 3)))
    with pytest.raises(InputError, match="coordinates"):
        outlier_dimensions(Spectrum(values=torch.ones(3).double(), total=3.0, shape=(9, 3)))


def test_persistence_against_chance():
    kept = persistence([1, 2, 3], [2, 3, 9, 10], 100)
    assert kept.value == pytest.approx(2 / 3)
    assert kept.kept == (2, 3)
    assert kept.expected == 0.04
    total = 100 * 99 * 98 / 6  # ways to choose 3; with 2 or 3 of the 4 that are outliers after
    assert kept.p_value == pytest.approx((6 * 96 + 4) / total)
    assert persistence([1], [2], 10).p_value == 1
    with pytest.raises(InputError, match="nothing can persist"):
        persistence([], [1], 10)
    with pytest.raises(InputError, match="0 to 9"):
        persistence([10], [1], 10)
