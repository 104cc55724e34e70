"""Closed forms for Gaussian and for sinusoidal embeddings."""

import math

import pytest
import torch

from lowdim.core.spectrum import Spectrum
from lowdim.errors import InputError
from lowdim.geometry import (
    choose_sigma,
    embedding_tradeoff,
    gaussian_embedding,
    gaussian_stable_rank,
)


def measured(psi, **options):
    return embedding_tradeoff(Spectrum.of_points(psi, center=False), psi, **options)


@pytest.mark.parametrize("sigma", [0.005, 0.01, 0.03])
def test_gaussian_bumps_have_the_predicted_rank_and_kernel(sigma):
    t = torch.linspace(0, 1, 600).double()
    found = measured(gaussian_embedding(t, 600, sigma), lags=20)
    assert found.value == pytest.approx(gaussian_stable_rank(600, sigma), rel=0.04)
    lag = torch.arange(21) / 599
    inner = (-(lag**2) / (4 * sigma**2)).exp()
    assert found.kernel == pytest.approx(inner.tolist(), abs=0.02)


def test_narrow_bumps_reach_the_number_of_samples():
    t = torch.linspace(0, 1, 50).double()
    found = measured(gaussian_embedding(t, 50, 1e-4))
    assert found.value == pytest.approx(50)
    assert gaussian_stable_rank(50, 1e-4) == 50
    assert found.reach == 1


def test_sinusoids_depend_on_distance_alone():
    """cos, sin pairs: <psi(a), psi(b)> = sum of cos(f (a - b))."""
    f = torch.tensor([1.0, 3.0, 9.0]).double()
    t = torch.arange(40).double()
    psi = torch.cat([(t[:, None] * f / 5).cos(), (t[:, None] * f / 5).sin()], 1)
    found = measured(psi, lags=10)
    expected = [float((f / 5 * lag).cos().mean()) for lag in range(11)]
    assert found.kernel == pytest.approx(expected)
    assert max(found.spread) < 1e-9


def test_chosen_width_has_the_rank_it_was_chosen_for():
    sigma = choose_sigma(40)
    t = torch.linspace(0, 1, 400).double()
    assert measured(gaussian_embedding(t, 400, sigma)).value == pytest.approx(40, rel=0.05)
    assert choose_sigma(1000, bandwidth=10) == pytest.approx(1 / (2 * math.sqrt(math.pi) * 21))
    assert choose_sigma(10, bandwidth=100) == choose_sigma(10)


def test_chosen_width_fits_held_out_samples_better_than_far_narrower_or_wider():
    g = torch.Generator().manual_seed(0)
    t = torch.linspace(0, 1, 64).double() + 0.004 * torch.randn(64, generator=g).double()
    held = torch.rand(200, generator=g).double()

    def signal(at):
        return sum((2 * math.pi * k * at + k).sin() for k in (1, 3, 7))

    def error(sigma):
        phi, psi = (gaussian_embedding(at, 256, sigma) for at in (t, held))
        gram = phi @ phi.T + 1e-6 * torch.eye(64)
        return float((psi @ phi.T @ torch.linalg.solve(gram, signal(t)) - signal(held)).std())

    chosen = choose_sigma(64, bandwidth=7)
    assert error(chosen) < error(choose_sigma(64)) / 2
    assert error(chosen) < error(chosen / 30) / 10
    assert error(chosen) < error(chosen * 30) / 10


def test_bad_input():
    with pytest.raises(InputError, match="no embedding"):
        measured(torch.zeros(5, 3))
    with pytest.raises(InputError, match="n_samples=0"):
        choose_sigma(0)
