"""The promises, against quadrature of the densities they are about."""

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import norm

from lowdim.errors import InputError
from lowdim.structure.privacy_accounting import (
    Guarantee,
    compose,
    energy_range,
    gaussian_delta,
    gaussian_noise,
    moment_sensitivity,
    zcdp_epsilon,
    zcdp_rho,
)


def hockey_stick(noise, epsilon):
    """The integral of max(0, p - exp(epsilon) q), p and q normal with means 1 and 0."""
    t = np.linspace(-40 * noise, 1 + 40 * noise, 2_000_001)
    p, q = norm.pdf(t, 1, noise), norm.pdf(t, 0, noise)
    return np.trapezoid(np.maximum(0, p - math.exp(epsilon) * q), t)


@pytest.mark.parametrize(("noise", "epsilon"), [(0.4, 1.0), (1.0, 0.5), (3.0, 1.0), (5.0, 0.01)])
def test_delta_of_gaussian_noise_is_the_divergence_of_the_two_densities(noise, epsilon):
    expected = hockey_stick(noise, epsilon)
    assert gaussian_delta(noise, epsilon) == pytest.approx(expected, rel=1e-6, abs=1e-13)


@settings(max_examples=60, deadline=None)
@given(st.floats(0.01, 20), st.floats(-12, -0.4))
def test_the_noise_is_the_least_that_keeps_the_promise(epsilon, log_delta):
    delta = 10**log_delta
    noise = gaussian_noise(epsilon, delta)
    assert gaussian_delta(noise, epsilon) <= delta * (1 + 1e-9)
    assert gaussian_delta(noise * 0.999, epsilon) > delta
    if epsilon <= 1:  # where the classical formula is proven
        assert noise <= math.sqrt(2 * math.log(1.25 / delta)) / epsilon


@pytest.mark.parametrize("noise", [0.7, 3.0])
def test_rho_of_gaussian_noise_bounds_every_divergence_and_implies_its_deltas(noise):
    rho = 1 / (2 * noise**2)
    t = np.linspace(-60 * noise, 60 * noise, 400_001)
    p, q = norm.logpdf(t, 1, noise), norm.logpdf(t, 0, noise)
    for alpha in (1.5, 2.0, 5.0):
        renyi = math.log(np.trapezoid(np.exp(alpha * p + (1 - alpha) * q), t)) / (alpha - 1)
        assert renyi == pytest.approx(alpha * rho, rel=1e-6)
    for delta in (1e-2, 1e-6):
        assert gaussian_delta(noise, zcdp_epsilon(rho, delta)) <= delta


@pytest.mark.parametrize("epsilon", [0.3, 2.0])
def test_rho_of_the_exponential_mechanism_bounds_every_divergence(epsilon):
    """The energies of two neighbours on the circle, at several concentrations."""
    angle = np.linspace(0, math.pi, 20_001)
    scores = np.cos(2 * angle) / 2  # range 1
    for kappa in (0.0, 1.0, 8.0):
        p, q = ((kappa + s) * scores for s in (epsilon, 0.0))
        p, q = (f - math.log(np.trapezoid(np.exp(f), angle)) for f in (p, q))
        assert np.abs(p - q).max() <= epsilon
        for alpha in (1.2, 2.0, 10.0):
            inside = np.trapezoid(np.exp(alpha * p + (1 - alpha) * q), angle)
            assert math.log(inside) / (alpha - 1) <= alpha * epsilon**2 / 8


@given(st.floats(0.01, 10), st.floats(1e-12, 0.5))
def test_rho_and_epsilon_are_inverses(epsilon, delta):
    assert zcdp_epsilon(zcdp_rho(epsilon, delta), delta) == pytest.approx(epsilon, rel=1e-6)


@settings(max_examples=50, deadline=None)
@given(st.integers(0, 2**31), st.integers(1, 6), st.floats(0.1, 3))
def test_no_neighbour_moves_the_sums_by_more_than_stated(seed, d, clip):
    g = np.random.default_rng(seed)
    x, y = g.standard_normal((2, d))
    x, y = (v / max(1, np.linalg.norm(v) / clip) for v in (x, y))
    moved = np.outer(x, x), np.outer(x, x) - np.outer(y, y)
    for change, relation in zip(moved, ("add-remove", "replace"), strict=True):
        assert np.linalg.norm(change) <= moment_sensitivity(clip, relation) * (1 + 1e-12)
        values = np.linalg.eigvalsh(change)
        for k in range(1, d):
            span = values[-k:].sum() - values[:k].sum()  # of the energies of k directions
            assert span <= energy_range(clip, relation) * (1 + 1e-12)


def test_the_sensitivities_are_reached():
    x, y = np.diag([4.0, 0]), np.diag([0, 4.0])
    assert np.linalg.norm(x - y) == pytest.approx(moment_sensitivity(2, "replace"))
    assert np.linalg.norm(x) == pytest.approx(moment_sensitivity(2, "add-remove"))
    assert np.ptp(np.linalg.eigvalsh(x - y)) == pytest.approx(energy_range(2, "replace"))
    assert np.ptp(np.linalg.eigvalsh(x)) == pytest.approx(energy_range(2, "add-remove"))


def promise(epsilon, delta, rho, **changes):
    return Guarantee(
        epsilon=epsilon, delta=delta, rho=rho, neighbors="replace", mechanism="gauss", **changes
    )


def test_releases_compose():
    one = promise(1.0, 1e-6, 0.02)
    both = compose([one, promise(0.5, 0.0, None, exact=False)])
    assert (both.epsilon, both.delta, both.rho, both.exact) == (1.5, 1e-6, None, False)
    many = compose([one] * 20, delta=1e-5)
    assert many.epsilon == pytest.approx(zcdp_epsilon(0.4, 1e-5))
    assert many.epsilon < 20
    assert many.rho == pytest.approx(0.4)
    assert compose([one], delta=1e-5).epsilon <= 1
    assert str(compose([one, promise(1, 0, None, private=False)])).startswith("not private: seeded")
    assert str(both).startswith("approximately (1.5, 1e-06)")
    assert one.to_dict()["rho"] == 0.02


def test_mistakes_are_named():
    one = promise(1.0, 1e-6, None)
    with pytest.raises(InputError, match="below the sum"):
        compose([one, one], delta=1e-6)
    with pytest.raises(InputError, match="same neighbour"):
        compose([])
    with pytest.raises(InputError, match="neighbors='other'"):
        moment_sensitivity(1, "other")
    for epsilon, delta in ((0, 0.1), (math.nan, 0.1), (1, 0), (1, 1)):
        with pytest.raises(InputError):
            gaussian_noise(epsilon, delta)
