"""LoRA-GA: the first step is the best that rank 2r allows, and the start is the base."""

import math

import pytest
import torch
from torch import Tensor, nn

from lowdim import adapt
from lowdim.adapt import LoRAGA, to_lora
from lowdim.adapt.lora_ga import LoRAGAAdapter
from lowdim.errors import InputError
from tests.adapt.sample import NAMES, attached, loss, tokens, trained, zoo

OUT, IN, RANK, ALPHA, GAMMA = 24, 17, 3, 16.0, 16.0


def made(gradient: Tensor) -> LoRAGAAdapter:
    adapter = LoRAGAAdapter(tuple(gradient.shape), RANK, ALPHA, GAMMA).double()
    with torch.no_grad():
        adapter.start(torch.zeros_like(gradient), gradient)
    return adapter


def stepped(adapter: LoRAGAAdapter, gradient: Tensor, lr: float) -> Tensor:
    """The update after one step of gradient descent on a loss whose gradient is this one."""
    value = (adapter.delta() * gradient).sum()
    by_b, by_a = torch.autograd.grad(value, [adapter.b, adapter.a])
    kept = [p.detach().clone() for p in (adapter.b, adapter.a)]
    with torch.no_grad():
        adapter.b -= lr * by_b
        adapter.a -= lr * by_a
        moved = adapter.delta()
        adapter.b.copy_(kept[0])
        adapter.a.copy_(kept[1])
    return moved


def truncated(gradient: Tensor, rank: int) -> Tensor:
    u, s, vt = torch.linalg.svd(gradient, full_matrices=False)
    return (u[:, :rank] * s[:rank]) @ vt[:rank]


@pytest.mark.parametrize("shape", [(OUT, IN), (IN, OUT), (12, 12)])
def test_first_step_is_a_multiple_of_the_best_approximation_of_rank_2r(
    shape: tuple[int, int],
) -> None:
    gradient = torch.randn(*shape, dtype=torch.float64, generator=torch.manual_seed(0))
    adapter, lr = made(gradient), 0.3
    # the update is quadratic in the step: half the difference of two is its first order, exactly
    first = (stepped(adapter, gradient, lr) - stepped(adapter, gradient, -lr)) / 2
    size = (ALPHA / math.sqrt(RANK)) ** 2 * math.sqrt(shape[0]) / GAMMA
    best = -lr * size * truncated(gradient, 2 * RANK)
    assert torch.linalg.matrix_norm(first - best) < 1e-12 * torch.linalg.matrix_norm(best)


def missed(gradient: Tensor, b: Tensor, a: Tensor) -> float:
    """Share of a gradient that the first step from these factors cannot follow, at any size."""
    move = gradient @ a.T @ a + b @ b.T @ gradient
    scale = (move * gradient).sum() / move.square().sum()
    gap = torch.linalg.matrix_norm(gradient - scale * move)
    return (gap / torch.linalg.matrix_norm(gradient)).item()


@pytest.mark.parametrize("rank", [1, 3, 8])
def test_no_other_pair_follows_the_gradient_better(rank: int) -> None:
    gradient = torch.randn(OUT, IN, dtype=torch.float64, generator=torch.manual_seed(1))
    adapter = LoRAGAAdapter((OUT, IN), rank, ALPHA, GAMMA).double()
    adapter.start(gradient, gradient)
    s = torch.linalg.svdvals(gradient)
    best = missed(gradient, adapter.b0, adapter.a0)
    assert best == pytest.approx(float(s[2 * rank :].norm() / s.norm()), rel=1e-10)
    b, a = torch.randn_like(adapter.b0), torch.randn_like(adapter.a0)
    assert best < missed(gradient, b, a)
    assert best < missed(gradient, torch.zeros_like(b), a) <= 1  # plain LoRA: B is zero


def test_large_step_keeps_rank_2r() -> None:
    gradient = torch.randn(OUT, IN, dtype=torch.float64)
    adapter = made(gradient)
    with torch.no_grad():
        adapter.b.normal_()
        adapter.a.normal_()
    b, a = adapter.factors()
    assert b.shape == (OUT, 2 * RANK)
    assert a.shape == (2 * RANK, IN)
    eta = ALPHA / math.sqrt(RANK)
    product = (adapter.b0 + adapter.b) @ (adapter.a0 + adapter.a) - adapter.b0 @ adapter.a0
    torch.testing.assert_close(adapter.delta(), eta * product)
    assert int(torch.linalg.matrix_rank(adapter.delta())) == 2 * RANK


@pytest.mark.filterwarnings("ignore:Full backward hook")
def test_directions_are_those_of_peft_and_their_sizes_follow_the_gradient_better() -> None:
    peft = pytest.importorskip("peft")
    from peft.tuners.lora.loraga import preprocess_loraga

    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(IN, OUT, bias=False))
    left, right = torch.linalg.qr(torch.randn(OUT, IN)).Q, torch.linalg.qr(torch.randn(IN, IN)).Q
    gradient = left * 0.5 ** torch.arange(IN) @ right.T  # so that peft's sketch is exact
    config = peft.LoraConfig(
        r=RANK, lora_alpha=ALPHA, target_modules=["0"], use_rslora=True,
        init_lora_weights="lora_ga", lora_ga_config=peft.LoraGAConfig(stable_gamma=16),
    )  # fmt: skip
    x = torch.eye(IN)
    preprocess_loraga(model, config, lambda: (model(x) * gradient.T).sum().backward())
    theirs = peft.get_peft_model(model, config).base_model.model[0]

    ours = LoRAGAAdapter((OUT, IN), RANK, ALPHA, GAMMA)
    ours.start(torch.zeros(OUT, IN), gradient)
    for mine, other in (
        (ours.a0, theirs.lora_A["default"].weight),
        (ours.b0.T, theirs.lora_B["default"].weight.T),
    ):
        cosine = torch.nn.functional.cosine_similarity(mine, other).abs()
        torch.testing.assert_close(cosine, torch.ones(RANK), atol=1e-4, rtol=0)
    # peft scales B by the singular values of the gradient, the paper and its code do not
    pair = theirs.lora_B["default"].weight, theirs.lora_A["default"].weight
    assert missed(gradient, ours.b0, ours.a0) < missed(gradient, *pair)


def test_learns_faster_than_from_a_random_pair_of_the_same_size() -> None:
    ends = {}
    for kind in ("gradient", "random"):
        model = zoo()
        given = adapt.gradients(model, loss, [tokens()], list(NAMES))
        if kind == "random":
            given = {name: torch.randn_like(g) for name, g in given.items()}
        record = adapt.attach(
            model, LoRAGA(rank=1, alpha=1.0), list(NAMES), also=["classifier"], gradients=given
        )
        optimizer = torch.optim.SGD(record.adapter_parameters(), 0.02)
        for _ in range(3):
            optimizer.zero_grad()
            loss(model, tokens()).backward()
            optimizer.step()
        ends[kind] = loss(model, tokens()).item()
    assert ends["gradient"] < ends["random"]


def test_exported_as_lora_of_twice_the_rank(tmp_path) -> None:
    model = trained(attached(LoRAGA(rank=2, alpha=1.0)))
    exported = to_lora(model, tmp_path)
    assert set(exported.ranks.values()) == {4}
    assert exported.error < 1e-6


def test_rank_is_at_most_half_the_smaller_side() -> None:
    adapter = LoRAGA(rank=50).adapter(adapt.find_targets(zoo(), ["query"])[0], adapt.Draws(0, ""))
    assert adapter.a.shape == (6, 16)
    assert LoRAGA(rank=50).count([(12, 16)]) == 6 * 28 == adapter.n_trainable


def test_bad_input() -> None:
    with pytest.raises(InputError, match=r"no gradient of query\.weight"):
        adapt.attach(zoo(), LoRAGA(), ["query"])
    with pytest.raises(InputError, match=r"shape \(16, 12\) and the tensor \(12, 16\)"):
        adapt.attach(zoo(), LoRAGA(), ["query"], gradients={"query.weight": torch.zeros(16, 12)})
    bad = torch.zeros(12, 16)
    bad[3, 2] = math.nan
    with pytest.raises(InputError, match=r"query\.weight holds NaN or Inf"):
        adapt.attach(zoo(), LoRAGA(), ["query"], gradients={"query.weight": bad})
    with pytest.raises(InputError, match="gamma=0"):
        adapt.attach(zoo(), LoRAGA(gamma=0), ["query"], gradients={"query.weight": bad})
    thin = nn.Sequential(nn.Linear(5, 1))
    with pytest.raises(InputError, match="has one singular direction"):
        adapt.attach(thin, LoRAGA(), ["0"], gradients={"0.weight": torch.ones(1, 5)})
