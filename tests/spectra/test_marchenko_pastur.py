import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.integrate import quad

from lowdim.core.spectrum import Spectrum
from lowdim.errors import InputError
from lowdim.spectra import marchenko_pastur, mp_cdf, mp_density, mp_median
from tests.spectra.sample import gaussian, minilm

RATIOS = [1.0, 0.999, 0.5, 0.05, 1e-4]


def at(x: float) -> torch.Tensor:
    return torch.tensor(x, dtype=torch.float64)


@pytest.mark.parametrize("ratio", RATIOS)
def test_cdf_is_the_integral_of_the_density(ratio):
    root = math.sqrt(ratio)
    low, high = (1 - root) ** 2, (1 + root) ** 2

    def density(angle):  # x runs from edge to edge; its derivative cancels the square roots there
        x = 1 + ratio - 2 * root * math.cos(angle)
        return 2 * root * math.sin(angle) * float(mp_density(at(x), ratio))

    for angle in [0.3, 1.0, 1.6, 2.5, 3.0]:
        expected, error = quad(density, 0, angle, epsabs=1e-10)
        assert error < 1e-8
        x = at(1 + ratio - 2 * root * math.cos(angle))
        assert float(mp_cdf(x, ratio)) == pytest.approx(expected, abs=1e-9)
    ends = torch.tensor([low - 1, low, high, high + 1], dtype=torch.float64)
    assert mp_cdf(ends, ratio).tolist() == pytest.approx([0, 0, 1, 1], abs=1e-9)
    assert float(mp_density(at(high + 1), ratio)) == 0


@pytest.mark.parametrize("ratio", RATIOS)
def test_median_halves_the_law(ratio):
    assert float(mp_cdf(at(mp_median(ratio)), ratio)) == pytest.approx(0.5, abs=1e-9)


def test_median_of_the_square_law_is_that_of_gavish_and_donoho():
    # their 4/sqrt(3) becomes 2.858 over the median singular value: (4 / sqrt 3) / sqrt(median)
    assert 4 / math.sqrt(3) / math.sqrt(mp_median(1.0)) == pytest.approx(2.858, abs=5e-4)


@pytest.mark.parametrize(("draw", "fewest"), [("normal", 0.025), ("uniform", 0)])
def test_pure_noise_shows_an_outlier_in_five_cases_of_a_hundred(draw, fewest):
    generator = torch.Generator().manual_seed(5)
    shapes, cases = [(48, 48), (30, 120), (200, 60), (20, 1500)], 200
    false = 0
    for shape in shapes:
        for _ in range(cases):
            w = torch.randn(shape, generator=generator, dtype=torch.float64)
            if draw == "uniform":
                w = torch.rand(shape, generator=generator, dtype=torch.float64) - 0.5
            false += marchenko_pastur(Spectrum.of_matrix(w)).value > 0
    # 800 matrices: 0.05 +- 3.2 * 0.008; a uniform law has light tails and stays below
    assert fewest <= false / (len(shapes) * cases) < 0.075


@pytest.mark.parametrize("shape", [(100, 100), (80, 400), (300, 60)])
def test_planted_direction_is_found_above_the_threshold_and_not_below(shape):
    rows, cols = shape
    u = torch.nn.functional.normalize(gaussian(rows, 1, seed=1), dim=0)
    v = torch.nn.functional.normalize(gaussian(cols, 1, seed=2), dim=0)
    threshold = (rows * cols) ** 0.25  # singular value, for noise of variance one
    found = {0.5: [], 2.0: []}
    for strength, counts in found.items():
        for seed in range(20):
            w = gaussian(rows, cols, seed=10 + seed) + strength * threshold * u @ v.T
            counts.append(marchenko_pastur(Spectrum.of_matrix(w)).value)
    assert sum(found[0.5]) <= 4
    assert all(count >= 1 for count in found[2.0])
    assert sum(found[2.0]) <= 24


def test_fit_recovers_the_noise_and_the_share_of_the_signal():
    noise = 0.02 * gaussian(300, 500)
    signal = 3 * gaussian(300, 4, seed=1) @ gaussian(4, 500, seed=2) / math.sqrt(300 * 500) * 10
    spectrum = Spectrum.of_matrix(noise + signal)
    found = marchenko_pastur(spectrum)
    assert found.value == 4
    assert found.sigma2 == pytest.approx(0.02**2, rel=0.03)
    assert found.singular_edge == pytest.approx(0.02 * (math.sqrt(300) + math.sqrt(500)), rel=0.03)
    assert found.edge == pytest.approx(found.singular_edge**2)
    assert found.detectable == pytest.approx(0.02**2 * math.sqrt(300 * 500), rel=0.03)
    assert found.outlier_energy == pytest.approx(float(spectrum.values[:4].sum()) / spectrum.total)
    assert found.ks < 0.03


def test_bulk_that_is_not_noise_has_a_large_ks():
    u, _ = torch.linalg.qr(gaussian(200, 100))
    geometric = u @ torch.diag(0.9 ** torch.arange(100).double())
    assert marchenko_pastur(Spectrum.of_matrix(geometric)).ks > 0.1
    assert marchenko_pastur(Spectrum.of_matrix(gaussian(200, 100))).ks < 0.04


def test_many_planted_directions_leave_a_bulk_of_noise():
    signal = gaussian(256, 60, seed=1) @ gaussian(60, 1024, seed=2)
    found = marchenko_pastur(Spectrum.of_matrix(gaussian(256, 1024) + 2 * signal))
    assert found.value == 60
    assert found.ks < 0.03


def test_dead_rows_do_not_change_the_fit():
    w = gaussian(50, 200)
    padded = torch.cat([w, torch.zeros(50, 200).double()])
    alive, dead = (
        marchenko_pastur(Spectrum.of_matrix(w)),
        marchenko_pastur(Spectrum.of_matrix(padded)),
    )
    assert dead.sigma2 == pytest.approx(alive.sigma2)
    assert dead.edge == pytest.approx(alive.edge)
    assert dead.notes == ("rank 50 of 100: the bulk is fitted to rank x 200",)


@pytest.mark.parametrize("shape", [(1, 1), (1, 500), (500, 1), (2, 3)])
def test_too_few_values_are_answered_and_said(shape):
    found = marchenko_pastur(Spectrum.of_matrix(gaussian(*shape)))
    assert found.value == 0
    assert "too few" in found.notes[-1]


def test_zero_and_truncated_are_errors():
    with pytest.raises(InputError, match="zero"):
        marchenko_pastur(Spectrum.of_matrix(torch.zeros(5, 8)))
    whole = Spectrum.of_matrix(gaussian(30, 20))
    with pytest.raises(InputError, match="3 of 20"):
        marchenko_pastur(
            Spectrum(values=whole.values[:3], total=whole.total, shape=whole.shape, exact=False)
        )


@settings(max_examples=20, deadline=None)
@given(
    rows=st.integers(1, 40),
    cols=st.integers(1, 40),
    seed=st.integers(0, 99),
    scale=st.floats(1e-6, 1e6),
)
def test_scale_and_side_do_not_matter(rows, cols, seed, scale):
    w = gaussian(rows, cols, seed)
    here = marchenko_pastur(Spectrum.of_matrix(w))
    there = marchenko_pastur(Spectrum.of_matrix(scale * w.T))
    assert there.value == here.value
    assert there.sigma2 == pytest.approx(scale**2 * here.sigma2)
    assert there.ks == pytest.approx(here.ks, abs=1e-9)


def test_a_trained_matrix_has_outliers_and_its_shuffled_entries_do_not():
    (w,) = minilm("encoder.layer.0.attention.self.query.weight")
    order = torch.randperm(w.numel(), generator=torch.Generator().manual_seed(0))
    shuffled = w.flatten()[order].reshape(w.shape)
    assert marchenko_pastur(Spectrum.of_matrix(w)).value > 30
    assert marchenko_pastur(Spectrum.of_matrix(shuffled)).value <= 2
