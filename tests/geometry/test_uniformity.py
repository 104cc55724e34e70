"""Closed forms, axioms and brute force for the measures of unit rows."""

import math

import pytest
import torch

from lowdim.core.points import unit_rows
from lowdim.core.spectrum import Spectrum
from lowdim.errors import InputError
from lowdim.geometry import mean_cosine, uniformity, uniformity_of


def draw(n, d, seed=0):
    return torch.randn(n, d, generator=torch.Generator().manual_seed(seed)).double()


def unit_spectrum(x):
    return Spectrum.of_points(x, center=True, unit=True)


def plus_and_minus(r, d):
    """The 2r points +-e_i of the first r axes: mean zero, covariance I/r on them."""
    e = torch.eye(d, dtype=torch.float64)[:r]
    return torch.cat([e, -e])


@pytest.mark.parametrize(("r", "d"), [(1, 1), (1, 8), (4, 8), (8, 8)])
def test_r_even_directions_of_d(r, d):
    expected = math.sqrt(2 - 2 * math.sqrt(r / d))
    found = uniformity(unit_spectrum(plus_and_minus(r, d))).value
    assert found == pytest.approx(expected, abs=1e-7)


def test_uniformity_is_the_distance_of_gaussians():
    """Against the formula for any two Gaussians, square roots by scipy."""
    from scipy.linalg import sqrtm

    x = draw(200, 6) + 0.5
    z = unit_rows(x)
    mean, cov = z.mean(0), torch.cov(z.T, correction=0)
    cross = torch.from_numpy(sqrtm((cov / 6).numpy()).real)
    squared = mean @ mean + 1 + cov.trace() - 2 * cross.trace()
    assert uniformity(unit_spectrum(x)).value == pytest.approx(math.sqrt(squared), abs=1e-9)


def test_uniformity_axioms():
    x = draw(300, 10)
    value = uniformity(unit_spectrum(x)).value
    scaled = x * torch.linspace(0.1, 9, 300).double()[:, None]
    assert uniformity(unit_spectrum(scaled)).value == pytest.approx(value)
    assert uniformity(unit_spectrum(x.repeat(3, 1))).value == pytest.approx(value)
    cloned = torch.cat([x, x], 1)
    padded = torch.cat([x, torch.zeros(300, 5).double()], 1)
    assert uniformity(unit_spectrum(cloned)).value > value + 0.1
    assert uniformity(unit_spectrum(padded)).value > value + 0.1


def test_total_collapse_is_the_square_root_of_two():
    found = uniformity(unit_spectrum(torch.ones(20, 5) * torch.arange(1, 21)[:, None])).value
    assert found == pytest.approx(math.sqrt(2), abs=1e-6)


@pytest.mark.parametrize("n", [300, 3])
def test_mean_cosine_is_the_mean_over_all_pairs(n):
    x = draw(n, 7) + 0.3
    z = unit_rows(x)
    cosines = z @ z.T
    expected = cosines[~torch.eye(n, dtype=torch.bool)].mean()
    assert mean_cosine(unit_spectrum(x)).value == pytest.approx(float(expected), abs=1e-12)


def test_mean_cosine_of_copies_and_of_opposites():
    assert mean_cosine(unit_spectrum(torch.ones(5, 3))).value == pytest.approx(1)
    opposite = torch.tensor([[1.0, 0], [-2.0, 0]])
    assert mean_cosine(unit_spectrum(opposite)).value == pytest.approx(-1)
    with pytest.raises(InputError, match="at least 2 rows"):
        mean_cosine(unit_spectrum(torch.ones(1, 3)))


def test_the_loss_is_the_measure():
    x = draw(80, 6) + 0.3
    assert float(uniformity_of(x)) == pytest.approx(uniformity(unit_spectrum(x)).value, abs=1e-9)


def test_the_loss_has_the_gradient_of_finite_differences():
    x = draw(12, 4).requires_grad_()
    assert torch.autograd.gradcheck(uniformity_of, x)


@pytest.mark.parametrize("x", [draw(5, 16), draw(5, 1).expand(5, 3) + 1, torch.ones(6, 4)])
def test_the_loss_has_finite_gradients_where_directions_are_missing(x):
    h = x.clone().requires_grad_()
    uniformity_of(h).backward()
    assert bool(torch.isfinite(h.grad).all())


def test_descending_the_loss_uses_more_directions():
    h = (draw(64, 8) * torch.tensor([5.0] + [0.2] * 7)).requires_grad_()
    before = float(uniformity_of(h).detach())
    for _ in range(30):
        (gradient,) = torch.autograd.grad(uniformity_of(h), h)
        h = (h - 5 * gradient).detach().requires_grad_()
    assert float(uniformity_of(h)) < before - 0.05
