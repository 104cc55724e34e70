"""The activation-weighted stand-in is the best of its rank, and its energy is what it says."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from lowdim.compress import low_rank, output_spectrum
from lowdim.errors import InputError


def make(rows, cols, seed=0, n=500):
    g = torch.Generator().manual_seed(seed)
    x = torch.randn(n, cols, generator=g, dtype=torch.float64)
    x = x * torch.logspace(0, -2, cols, dtype=torch.float64)
    weight = torch.randn(rows, cols, generator=g, dtype=torch.float64)
    return weight, x


@settings(max_examples=25, deadline=None)
@given(st.integers(2, 12), st.integers(2, 12), st.sampled_from([0.5, 0.9, 0.99]))
def test_error_equals_the_energy_left_out_and_beats_plain_svd(rows, cols, energy):
    weight, x = make(rows, cols)
    moment = x.T @ x / len(x)
    found = low_rank(weight, output_spectrum(weight, moment), energy=energy)
    output = x @ weight.T
    error = (output - x @ found.weight.T).pow(2).sum() / output.pow(2).sum()
    assert error == pytest.approx(1 - found.energy, abs=1e-9)
    assert found.energy >= energy * (1 - 1e-9)
    u, s, v = torch.linalg.svd(weight, full_matrices=False)
    plain = (u[:, : found.rank] * s[: found.rank]) @ v[: found.rank]
    assert error <= (output - x @ plain.T).pow(2).sum() / output.pow(2).sum() + 1e-9


def test_white_inputs_give_the_plain_svd():
    weight, _ = make(6, 9)
    found = low_rank(weight, output_spectrum(weight, torch.eye(9, dtype=torch.float64)), energy=0.8)
    s = torch.linalg.svdvals(weight)
    assert found.energy == pytest.approx(float(s[: found.rank].pow(2).sum() / s.pow(2).sum()))
    eye = torch.eye(found.rank, dtype=torch.float64)
    assert torch.allclose(found.left.T @ found.left, eye, atol=1e-10)


def test_inputs_on_a_line_need_rank_one_whatever_the_weight():
    weight, _ = make(7, 5)
    direction = torch.arange(1.0, 6.0, dtype=torch.float64)
    found = low_rank(
        weight, output_spectrum(weight, torch.outer(direction, direction)), energy=0.999
    )
    assert found.rank == 1
    assert torch.allclose(found.weight @ direction, weight @ direction)
    assert found.saved == 7 * 5 - 12


def test_wrong_shapes_zero_inputs_and_nan_are_named():
    weight, _ = make(4, 3)
    with pytest.raises(InputError, match="3 x 3"):
        output_spectrum(weight, torch.eye(4))
    with pytest.raises(InputError, match="energies are zero"):
        low_rank(weight, output_spectrum(weight, torch.zeros(3, 3)))
    with pytest.raises(InputError, match="moment holds nan at row 1"):
        output_spectrum(weight, torch.diag(torch.tensor([1.0, float("nan"), 1.0])))
    outputs = output_spectrum(weight, torch.eye(3))
    with pytest.raises(InputError, match="energy"):
        low_rank(weight, outputs, energy=0)
    with pytest.raises(InputError, match="own output_spectrum"):
        low_rank(torch.randn(5, 3), outputs)
