import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from lowdim.core.spectrum import Spectrum
from lowdim.errors import InputError
from lowdim.spectra import effective_rank, entropy_rank, rank_90, rank_99, stable_rank
from tests.spectra.sample import gaussian

ALL = [stable_rank, entropy_rank, effective_rank, rank_90, rank_99]


@pytest.mark.parametrize("measure", ALL)
def test_rank_one_is_one_and_orthogonal_is_full(measure):
    u, v = gaussian(40, 1), gaussian(1, 25, seed=1)
    assert measure(Spectrum.of_matrix(u @ v)).value == pytest.approx(1, abs=1e-6)
    found = measure(Spectrum.of_matrix(torch.eye(30)[:20]))
    share = {rank_90: 0.9, rank_99: 0.99}.get(measure, 1)
    assert found.value == pytest.approx(math.ceil(share * 20))
    assert found.n == 20


def test_closed_forms_of_a_diagonal_matrix():
    spectrum = Spectrum.of_matrix(torch.diag(torch.tensor([2.0, 1.0, 1.0])))  # energies 4, 1, 1
    assert stable_rank(spectrum).value == pytest.approx(6 / 4)
    shares = [4 / 6, 1 / 6, 1 / 6]
    assert entropy_rank(spectrum).value == pytest.approx(
        math.exp(-sum(p * math.log(p) for p in shares))
    )
    shares = [1 / 2, 1 / 4, 1 / 4]
    assert effective_rank(spectrum).value == pytest.approx(
        math.exp(-sum(p * math.log(p) for p in shares))
    )
    assert rank_90(spectrum).value == 3  # two directions hold 5/6
    assert (
        rank_90(Spectrum.of_matrix(torch.diag(torch.tensor([4.0, 1.0, 1.0])))).value == 2
    )  # 17/18


@settings(max_examples=25, deadline=None)
@given(
    rows=st.integers(1, 30),
    cols=st.integers(1, 30),
    seed=st.integers(0, 99),
    scale=st.floats(1e-6, 1e6),
)
def test_ordered_within_bounds_and_blind_to_scale(rows, cols, seed, scale):
    w = gaussian(rows, cols, seed)
    values = [measure(Spectrum.of_matrix(w)).value for measure in ALL]
    assert [measure(Spectrum.of_matrix(scale * w)).value for measure in ALL] == pytest.approx(
        values
    )
    stable, entropy, effective, at_90, at_99 = values
    full = min(rows, cols)
    assert 1 <= stable + 1e-9 <= entropy + 2e-9 <= effective + 3e-9 <= full + 4e-9
    assert 1 <= at_90 <= at_99 <= full


def test_energy_ranks_bound_the_error_of_the_best_low_rank_copy():
    w = gaussian(60, 45) @ torch.diag(0.9 ** torch.arange(45).double())
    u, s, vh = torch.linalg.svd(w, full_matrices=False)
    for measure, error in [(rank_90, math.sqrt(0.1)), (rank_99, 0.1)]:
        r = int(measure(Spectrum.of_matrix(w)).value)
        left = torch.linalg.norm(w - u[:, :r] @ torch.diag(s[:r]) @ vh[:r]) / torch.linalg.norm(w)
        assert left <= error
        worse = w - u[:, : r - 1] @ torch.diag(s[: r - 1]) @ vh[: r - 1]
        assert torch.linalg.norm(worse) / torch.linalg.norm(w) > error


def test_truncated_spectrum_gives_stable_rank_and_refuses_what_needs_all():
    whole = Spectrum.of_matrix(gaussian(30, 20))
    top = Spectrum(values=whole.values[:3], total=whole.total, shape=whole.shape, exact=False)
    assert stable_rank(top).value == pytest.approx(stable_rank(whole).value)
    assert not stable_rank(top).exact
    for measure in [entropy_rank, effective_rank, rank_99]:
        with pytest.raises(InputError, match="exact"):
            measure(top)


@pytest.mark.parametrize("measure", ALL)
def test_zero_matrix_is_an_error(measure):
    with pytest.raises(InputError, match="zero"):
        measure(Spectrum.of_matrix(torch.zeros(4, 3)))
