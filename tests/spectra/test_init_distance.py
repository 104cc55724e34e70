import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import kstest

from lowdim.core.spectrum import Spectrum
from lowdim.errors import InputError
from lowdim.spectra import init_distance, mp_cdf
from tests.spectra.sample import gaussian, minilm


def test_value_is_the_kolmogorov_distance_of_scipy():
    w = gaussian(40, 90) @ torch.diag(torch.linspace(0.5, 2, 90).double())
    spectrum = Spectrum.of_matrix(w)
    x = spectrum.values / spectrum.values.mean()
    expected = kstest(x.numpy(), lambda v: mp_cdf(torch.as_tensor(v), 40 / 90).numpy()).statistic
    assert init_distance(spectrum).value == pytest.approx(expected)


@pytest.mark.parametrize("draw", ["normal", "uniform", "signs"])
def test_fresh_matrices_stay_below_their_level_in_95_of_100(draw):
    generator = torch.Generator().manual_seed(11)
    shapes, cases = [(40, 40), (100, 30), (64, 256), (20, 1500)], 150
    above = 0
    for shape in shapes:
        for _ in range(cases):
            w = torch.rand(shape, generator=generator, dtype=torch.float64) - 0.5
            if draw == "normal":
                w = torch.randn(shape, generator=generator, dtype=torch.float64)
            elif draw == "signs":
                w = w.sign()
            found = init_distance(Spectrum.of_matrix(w))
            above += found.value > found.fresh
    assert 0.02 < above / (len(shapes) * cases) < 0.085  # 600 matrices: 0.05 +- 3.5 * 0.009


def test_known_matrices_are_far():
    spike = gaussian(100, 100) + 5
    assert init_distance(Spectrum.of_matrix(spike)).value > 0.5  # all energy in one direction
    orthogonal = init_distance(Spectrum.of_matrix(torch.eye(100)))
    assert orthogonal.value == pytest.approx(float(mp_cdf(torch.ones(1).double(), 1.0)))
    assert orthogonal.value > 10 * orthogonal.fresh


def test_dead_rows_count_as_distance():
    w = gaussian(100, 100)
    w[:30] = 0
    found = init_distance(Spectrum.of_matrix(w))
    assert 0.2 < found.value < 0.35  # 30 zeros, of which a fresh matrix has none
    assert found.n == 100


def test_a_trained_matrix_is_far_and_its_shuffled_entries_are_not():
    (w,) = minilm("encoder.layer.1.output.dense.weight")
    order = torch.randperm(w.numel(), generator=torch.Generator().manual_seed(0))
    shuffled = init_distance(Spectrum.of_matrix(w.flatten()[order].view_as(w)))
    trained = init_distance(Spectrum.of_matrix(w))
    assert trained.value > 20 * trained.fresh
    assert shuffled.value < 3 * shuffled.fresh  # entries are independent, if heavy-tailed


@settings(max_examples=20, deadline=None)
@given(
    rows=st.integers(1, 40),
    cols=st.integers(1, 40),
    seed=st.integers(0, 99),
    scale=st.floats(1e-6, 1e6),
)
def test_scale_and_side_do_not_matter(rows, cols, seed, scale):
    w = gaussian(rows, cols, seed)
    here, there = (
        init_distance(Spectrum.of_matrix(w)),
        init_distance(Spectrum.of_matrix(scale * w.T)),
    )
    assert there.value == pytest.approx(here.value, abs=1e-9)
    assert 0 <= here.value <= 1


def test_zero_matrix_is_an_error():
    with pytest.raises(InputError, match="zero"):
        init_distance(Spectrum.of_matrix(torch.zeros(3, 3)))
