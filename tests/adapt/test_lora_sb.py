"""LoRA-SB: the closest point to each gradient, and how much of it the fixed space holds."""

import math

import pytest
import torch
from torch import Tensor

from lowdim import adapt
from lowdim.adapt import LoRASB, captured_share
from lowdim.adapt.lora_sb import LoRASBAdapter
from lowdim.errors import InputError
from tests.adapt.sample import NAMES, attached, loss, tokens, trained, zoo

OUT, IN, RANK = 20, 14, 5


def random(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


def made(gradient: Tensor, options: LoRASB) -> LoRASBAdapter:
    adapter = LoRASBAdapter(tuple(gradient.shape), options).double()
    with torch.no_grad():
        adapter.start(torch.zeros_like(gradient), gradient)
    return adapter


@pytest.mark.parametrize("signs", [False, True])
def test_bases_are_orthonormal_and_lead_the_first_step(signs: bool) -> None:
    gradient = random(OUT, IN)
    adapter = made(gradient, LoRASB(RANK, signs))
    eye = torch.eye(RANK, dtype=torch.float64)
    torch.testing.assert_close(adapter.b.T @ adapter.b, eye)
    torch.testing.assert_close(adapter.a @ adapter.a.T, eye)
    first = gradient.sign() if signs else gradient
    held = torch.linalg.svdvals(first)[:RANK].square().sum() / first.square().sum()
    assert captured_share(first, adapter) == pytest.approx(float(held), rel=1e-10)


def test_gradient_of_r_and_the_closest_point() -> None:
    adapter = made(random(OUT, IN), LoRASB(RANK))
    with torch.no_grad():
        adapter.r.normal_()
    x, goal = random(30, IN, seed=1), random(30, OUT, seed=2)
    weight = random(OUT, IN, seed=3)
    full = (weight + adapter.delta()).detach().requires_grad_()
    (by_weight,) = torch.autograd.grad((x @ full.T - goal).square().mean(), full)
    value = (x @ weight.T + adapter(x) - goal).square().mean()
    (by_r,) = torch.autograd.grad(value, adapter.r)
    torch.testing.assert_close(by_r, adapter.b.T @ by_weight @ adapter.a.T, rtol=1e-10, atol=1e-12)

    near = adapter.b @ by_r @ adapter.a
    rest = by_weight - near
    for seed in range(4, 8):  # Pythagoras: every other point of the set is further by their gap
        other = adapter.b @ random(RANK, RANK, seed=seed) @ adapter.a
        gap = (rest.square().sum() + (near - other).square().sum()).item()
        assert (by_weight - other).square().sum().item() == pytest.approx(gap, rel=1e-10)
    share = (near.square().sum() / by_weight.square().sum()).item()
    assert captured_share(by_weight, adapter) == pytest.approx(share, rel=1e-10)


def test_full_rank_of_a_square_weight_takes_the_steps_of_full_training() -> None:
    n, lr = 9, 0.2
    x, goal, weight = random(40, n), random(40, n, seed=1), random(n, n, seed=2)
    full = weight.clone().requires_grad_()
    first = torch.autograd.grad((x @ full.T - goal).square().mean(), full)[0]
    adapter = made(first, LoRASB(n))
    mine = torch.optim.SGD(adapter.parameters(), lr, momentum=0.9)
    whole = torch.optim.SGD([full], lr, momentum=0.9)
    for _ in range(10):
        for optimizer, matrix in ((mine, lambda: weight + adapter.delta()), (whole, lambda: full)):
            optimizer.zero_grad()
            (x @ matrix().T - goal).square().mean().backward()
            optimizer.step()
    torch.testing.assert_close(weight + adapter.delta(), full, rtol=1e-10, atol=1e-12)
    assert captured_share(first, adapter) == pytest.approx(1)


def test_random_bases_hold_r_squared_over_in_out_and_the_first_step_far_more() -> None:
    low = random(40, 3) @ random(3, 30, seed=1) + 0.3 * random(40, 30, seed=2)
    later = low + random(40, 30, seed=3) * 0.3
    found = captured_share(later, made(low, LoRASB(6)))
    shares = []
    for seed in range(50):
        other = made(random(40, 30, seed=100 + seed), LoRASB(6))
        shares.append(captured_share(later, other))
    drawn = torch.tensor(shares)
    error = float(drawn.std()) / math.sqrt(len(shares))
    assert abs(float(drawn.mean()) - 6 * 6 / (40 * 30)) < 4 * error
    assert found > 10 * float(drawn.max())


@pytest.mark.parametrize("signs", [False, True])
def test_the_start_of_the_paper_is_the_first_step_cut_to_rank_r(signs: bool) -> None:
    gradient = random(OUT, IN)
    adapter = made(gradient, LoRASB(RANK, signs, step=0.1))
    step = -0.1 * (gradient.sign() if signs else gradient)
    u, s, vt = torch.linalg.svd(step)
    torch.testing.assert_close(adapter.delta(), (u[:, :RANK] * s[:RANK]) @ vt[:RANK])
    assert (adapter.delta() * gradient).sum() < 0  # it goes down


def test_the_start_of_the_paper_lowers_the_loss() -> None:
    batch = tokens(8, 7)  # what the gradients of the sample are taken on
    before = loss(zoo(), batch).item()
    assert loss(attached(LoRASB(4, step=1e-3)), batch).item() < before
    assert loss(attached(LoRASB(4)), batch).item() == before


def test_share_of_later_gradients_of_a_model_in_training() -> None:
    model = trained(attached(LoRASB(4)))
    adapters = {target.name: adapter for target, adapter in adapt.attached(model).pairs()}
    later = adapt.gradients(model, loss, [tokens(8, 7)], list(NAMES))
    for name, gradient in later.items():
        assert isinstance(adapters[name], LoRASBAdapter)
        share = captured_share(gradient, adapters[name])
        side = adapters[name].r.shape[0] ** 2 / gradient.numel()
        assert side < share <= 1 + 1e-12


def test_exported_at_its_rank(tmp_path) -> None:
    exported = adapt.to_lora(trained(attached(LoRASB(4))), tmp_path)
    assert set(exported.ranks.values()) == {4}
    assert exported.error < 1e-6


def test_count_is_r_squared() -> None:
    assert LoRASB(16).count([(768, 768)] * 12) == 12 * 256
    assert LoRASB(100).count([(12, 8), (6, 10, 3)]) == 64 + 36
    assert adapt.at_budget(LoRASB(), [(768, 768)] * 2, 2 * 33**2 - 1) == LoRASB(32)


def test_bad_input() -> None:
    adapter = made(random(OUT, IN), LoRASB(RANK))
    with pytest.raises(InputError, match=r"shape \(14, 20\), not \(20, 14\)"):
        captured_share(random(IN, OUT), adapter)
    assert captured_share(torch.zeros(OUT, IN), adapter) == 0
    given = adapt.gradients(zoo(), loss, [tokens()], ["query"])
    for options, match in (
        (LoRASB(0), "rank=0"),
        (LoRASB(step=-1.0), "learning rate"),
        (LoRASB(step=math.nan), "learning rate"),
    ):
        with pytest.raises(InputError, match=match):
            adapt.attach(zoo(), options, ["query"], gradients=given)
