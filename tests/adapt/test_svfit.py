"""SVFit: the gradient of each singular value, ranks by energy, and how far the values moved."""

import pytest
import torch
from torch import nn

from lowdim import adapt
from lowdim.adapt import SVFit, svfit_by_energy, value_moves
from lowdim.adapt.adapter import leading_svd
from lowdim.adapt.svfit import SVFitAdapter, ValueMoves
from lowdim.errors import InputError
from tests.adapt.sample import NAMES, attached, trained, zoo


def test_gradient_of_each_value_is_u_g_v() -> None:
    generator = torch.manual_seed(0)
    weight = torch.randn(11, 7, dtype=torch.float64, generator=generator)
    x, goal = torch.randn(20, 7, dtype=torch.float64), torch.randn(20, 11, dtype=torch.float64)
    adapter = SVFitAdapter((11, 7), 7).double()
    adapter.start(weight, None)
    full = weight.clone().requires_grad_()
    (by_weight,) = torch.autograd.grad((x @ full.T - goal).square().mean(), full)
    value = (x @ weight.T + adapter(x) - goal).square().mean()
    (by_value,) = torch.autograd.grad(value, adapter.change)
    u, s, vt = torch.linalg.svd(weight, full_matrices=False)
    expected = torch.einsum("oi,oj,ij->i", u, by_weight, vt)  # u_i^T G v_i
    torch.testing.assert_close(by_value, expected, rtol=1e-10, atol=1e-12)
    torch.testing.assert_close(adapter.values, s)

    with torch.no_grad():
        adapter.change.copy_(torch.linspace(-1, 1, 7))
    moved = (u * (s + adapter.change)) @ vt
    torch.testing.assert_close(weight + adapter.delta(), moved)


def test_ranks_by_energy_are_the_least_that_hold_it() -> None:
    model = zoo()
    found = svfit_by_energy(model, list(NAMES), 0.9)
    assert list(found) == list(NAMES)
    for target in adapt.find_targets(model, list(NAMES)):
        energies = torch.linalg.svdvals(target.weight.flatten(1).double()).square()
        rank = found[target.module_name].rank
        share = energies.cumsum(0) / energies.sum()
        assert share[rank - 1] >= 0.9
        assert rank == 1 or share[rank - 2] < 0.9
    record = adapt.attach(model, found, also=["classifier"])
    assert record.n_trainable == sum(method.rank for method in found.values())
    exact = svfit_by_energy(zoo(), ["query"], 1.0)["query"].rank
    assert exact == 12


def test_moves_are_those_of_the_singular_values() -> None:
    model = trained(attached(SVFit(12), names=["query"]), steps=20)
    moves = value_moves(model)["query.weight"]
    merged = adapt.merge(model).query.weight
    torch.testing.assert_close(
        torch.linalg.svdvals(merged), moves.after.abs().sort(descending=True).values
    )
    torch.testing.assert_close(moves.before * (1 + moves.relative), moves.after)
    assert moves.relative.abs().max() > 0
    most = int(moves.relative.abs().argmax())
    assert f"{most + 1}: {float(moves.relative[most]):+.2%}" in str(moves)


def test_no_move_of_a_value_of_zero_is_zero() -> None:
    moves = ValueMoves(torch.tensor([2.0, 0.0]), torch.tensor([1.0, 0.0]))
    assert moves.relative.tolist() == [-0.5, 0.0]


def test_large_weights_are_decomposed_by_a_sketch() -> None:
    torch.manual_seed(0)
    low = torch.randn(1100, 6) @ torch.randn(6, 1030)
    weight = low + 0.01 * torch.randn(1100, 1030)
    u, s, vt = leading_svd(weight, 6)
    torch.testing.assert_close(s, torch.linalg.svdvals(weight.double())[:6], rtol=1e-8, atol=0)
    torch.testing.assert_close(u.T @ weight.double() @ vt.T, s.diag(), rtol=1e-8, atol=1e-6)


def test_bad_input() -> None:
    with pytest.raises(InputError, match="no weight of this model is adapted by svfit"):
        value_moves(attached(adapt.BoRA(2)))
    with pytest.raises(InputError, match="no adapters"):
        value_moves(nn.Linear(3, 3))
    with pytest.raises(InputError, match="share in"):
        svfit_by_energy(zoo(), ["query"], 1.5)
    zero = nn.Sequential(nn.Linear(3, 3))
    nn.init.zeros_(zero[0].weight)
    with pytest.raises(InputError, match="zero"):
        svfit_by_energy(zero, ["0"])
