"""Planted coordinates are found, a rotation hides them."""

import pytest
import torch

from lowdim.core.spectrum import Spectrum
from lowdim.errors import InputError
from lowdim.geometry import anisotropy, outlier_dimensions


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
