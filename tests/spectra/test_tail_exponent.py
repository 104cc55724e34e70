import math
import warnings

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import pareto

from lowdim.core.spectrum import Spectrum
from lowdim.errors import InputError
from lowdim.spectra import tail_exponent
from tests.spectra.sample import gaussian, minilm, spectrum_from

RNG = np.random.default_rng(0)
SAMPLES = {
    "pareto 1.8": RNG.pareto(0.8, 400) + 1,
    "pareto 2.5": RNG.pareto(1.5, 400) + 1,
    "lognormal": RNG.lognormal(0, 1, 200),
    "student": np.abs(RNG.standard_t(2, 400)),
    "exponential": RNG.exponential(size=150),
    "ties": np.round(RNG.pareto(1.5, 400) + 1, 1),
    "body and tail": np.r_[RNG.random(200), 1 + RNG.pareto(1.2, 200)],
}
MINILM = [
    "encoder.layer.0.attention.self.key.weight",
    "encoder.layer.0.intermediate.dense.weight",
    "encoder.layer.2.output.dense.weight",
]


def from_the_package(values, **options):
    powerlaw = pytest.importorskip("powerlaw")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return powerlaw.Fit(np.asarray(values), verbose=False, **options)


def by_brute_force(values):
    """Exponent, start and distance of the best of all starts, each computed on its own."""
    best = (math.inf, math.inf, math.inf)
    for xmin in np.unique(values)[:-2]:
        tail = np.sort(values[values >= xmin])
        alpha = 1 + len(tail) / np.log(tail / xmin).sum()
        below = np.searchsorted(tail, tail, side="left") / len(tail)
        distance = np.abs(1 - (tail / xmin) ** (1 - alpha) - below).max()
        best = min(best, (distance, alpha, xmin))
    return best


def agrees(found, alpha, xmin, distance):
    assert found.value == pytest.approx(alpha, rel=1e-6)
    assert found.xmin == pytest.approx(xmin, rel=1e-6)
    assert found.ks == pytest.approx(distance, rel=1e-6)


@pytest.mark.parametrize("name", SAMPLES)
def test_same_fit_as_powerlaw(name):
    expected = from_the_package(SAMPLES[name])
    found = tail_exponent(spectrum_from(SAMPLES[name]), max_alpha=3)
    agrees(found, expected.alpha, expected.xmin, expected.D)
    assert found.n_tail == expected.n_tail
    assert found.sigma == pytest.approx(expected.sigma, rel=1e-6)


@pytest.mark.parametrize("name", MINILM)
def test_same_fit_as_powerlaw_on_trained_weights(name):
    spectrum = Spectrum.of_matrix(minilm(name)[0])
    expected = from_the_package(spectrum.values)
    agrees(tail_exponent(spectrum, max_alpha=3), expected.alpha, expected.xmin, expected.D)


@pytest.mark.parametrize("name", SAMPLES)
def test_without_a_limit_it_is_the_best_of_all_starts(name):
    distance, alpha, xmin = by_brute_force(SAMPLES[name])
    agrees(tail_exponent(spectrum_from(SAMPLES[name])), alpha, xmin, distance)


@settings(max_examples=40, deadline=None)
@given(st.lists(st.integers(1, 60), min_size=12, max_size=80).filter(lambda v: len(set(v)) >= 10))
def test_cuts_never_lose_the_best_start(values):
    values = np.asarray(values, dtype=float)
    found = tail_exponent(spectrum_from(values))
    assert found.ks == pytest.approx(by_brute_force(values)[0], rel=1e-9)


@pytest.mark.parametrize("alpha", [1.5, 2.5, 4.0, 6.0])
def test_finds_the_exponent_of_pareto_samples(alpha):
    values = pareto.rvs(alpha - 1, size=5000, random_state=3)
    found = tail_exponent(spectrum_from(values))
    assert found.value == pytest.approx(alpha, rel=0.1)
    shape, _, _ = pareto.fit(values[values >= found.xmin], floc=0, fscale=found.xmin)
    assert found.value == pytest.approx(1 + shape, rel=1e-9)
    assert found.sigma == pytest.approx(shape / math.sqrt(found.n_tail))
    assert found.low == pytest.approx(found.value - 1.96 * found.sigma)


def test_interval_covers_the_exponent_when_the_start_is_the_whole_sample():
    covered, cases = 0, 100
    for seed in range(cases):
        found = tail_exponent(spectrum_from(pareto.rvs(1.5, size=300, random_state=seed)))
        covered += found.low <= 2.5 <= found.high
    assert covered >= 80  # short of 95: the start is chosen as well


def test_comparison_with_an_exponential_tail():
    heavy, thin = SAMPLES["pareto 2.5"], SAMPLES["exponential"]
    found = tail_exponent(spectrum_from(heavy))
    assert found.vuong > 1.96
    assert found.notes == ()
    expected, _ = from_the_package(heavy, xmin=found.xmin).distribution_compare(
        "power_law", "exponential", normalized_ratio=True
    )
    assert found.vuong == pytest.approx(expected, rel=1e-2)
    doubtful = tail_exponent(spectrum_from(thin))
    assert doubtful.vuong < 1.96
    assert any("exponential" in note for note in doubtful.notes)


def test_short_tails_are_said():
    found = tail_exponent(spectrum_from(pareto.rvs(1.5, size=30, random_state=1)))
    assert any(f"only {found.n_tail} values" in note for note in found.notes)


@settings(max_examples=20, deadline=None)
@given(seed=st.integers(0, 99), scale=st.floats(1e-6, 1e6))
def test_scale_does_not_matter(seed, scale):
    w = gaussian(40, 30, seed)
    here, there = tail_exponent(Spectrum.of_matrix(w)), tail_exponent(Spectrum.of_matrix(scale * w))
    assert there.value == pytest.approx(here.value, rel=1e-6)
    assert there.xmin == pytest.approx(scale**2 * here.xmin, rel=1e-6)


def test_zero_values_are_left_out():
    values = SAMPLES["pareto 2.5"]
    padded = tail_exponent(spectrum_from(np.r_[values, np.zeros(50)]))
    assert padded.value == tail_exponent(spectrum_from(values)).value
    assert padded.n == 450


@pytest.mark.parametrize(
    "matrix", [torch.eye(30), gaussian(9, 50), gaussian(50, 1) @ gaussian(1, 50)]
)
def test_too_few_values_are_an_error_that_counts_them(matrix):
    with pytest.raises(InputError, match="needs 10 distinct positive singular values"):
        tail_exponent(Spectrum.of_matrix(matrix))


def test_limit_below_every_exponent_is_an_error():
    with pytest.raises(InputError, match="max_alpha"):
        tail_exponent(Spectrum.of_matrix(gaussian(40, 4000)), max_alpha=1.01)
