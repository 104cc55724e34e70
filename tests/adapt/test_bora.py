"""BoRA: norms of both sides, DoRA where one side is left, and a start that is the base."""

import pytest
import torch
from torch import Tensor, nn

from lowdim import adapt
from lowdim.adapt import BoRA, Draws
from lowdim.adapt.bora import BoRAAdapter
from lowdim.errors import InputError
from tests.adapt.sample import attached, tokens, trained, zoo

OUT, IN, RANK = 10, 6, 3


def moved(sides: str, seed: int = 0) -> BoRAAdapter:
    torch.manual_seed(seed)
    adapter = BoRAAdapter((OUT, IN), BoRA(RANK, sides=sides), Draws(0, "x")).double()
    with torch.no_grad():
        for parameter in adapter.parameters():
            parameter.add_(0.2 * torch.randn_like(parameter))
    return adapter


def norms(x: Tensor, dim: int) -> Tensor:
    return torch.linalg.vector_norm(x, dim=dim)


@pytest.mark.parametrize("sides", ["both", "out", "in"])
def test_the_side_that_comes_last_has_its_norms(sides: str) -> None:
    adapter, weight = moved(sides), torch.randn(OUT, IN, dtype=torch.float64)
    adapted = weight + adapter.update(weight)
    dim, change = (1, adapter.out_change) if sides == "out" else (0, adapter.in_change)
    assert change is not None
    torch.testing.assert_close(norms(adapted, dim), norms(weight, dim) * (1 + change))


def test_both_sides_one_after_the_other() -> None:
    adapter, weight = moved("both"), torch.randn(OUT, IN, dtype=torch.float64)
    v = weight + 16 / RANK * adapter.b @ adapter.a
    v = v / norms(v, 1)[:, None] * (norms(weight, 1) * (1 + adapter.out_change))[:, None]
    v = v / norms(v, 0) * norms(weight, 0) * (1 + adapter.in_change)
    torch.testing.assert_close(weight + adapter.update(weight), v)


@pytest.mark.parametrize("layer", ["linear", "conv"])
def test_without_the_inputs_it_is_dora_of_peft(layer: str) -> None:
    peft = pytest.importorskip("peft")
    torch.manual_seed(0)
    made = nn.Linear(IN, OUT) if layer == "linear" else nn.Conv2d(IN, OUT, 3)
    x = torch.randn(5, IN) if layer == "linear" else torch.randn(2, IN, 7, 7)
    model = nn.Sequential(made)
    config = peft.LoraConfig(r=RANK, lora_alpha=16, target_modules=["0"], use_dora=True)
    ours = nn.Sequential(type(made)(*((IN, OUT) if layer == "linear" else (IN, OUT, 3))))
    ours.load_state_dict(model.state_dict())
    adapter = adapt.attach(ours, BoRA(RANK, 16.0, "out"), ["0"]).pairs()[0][1]
    assert isinstance(adapter, BoRAAdapter)
    assert adapter.out_change is not None
    dora = peft.get_peft_model(model, config)
    theirs = dora.base_model.model[0]
    a, b = theirs.lora_A["default"].weight, theirs.lora_B["default"].weight
    size = theirs.lora_magnitude_vector["default"].weight
    with torch.no_grad():
        adapter.b.normal_(0, 0.3)
        adapter.out_change.normal_(0, 0.3)
        a.copy_(adapter.a.view(a.shape))
        b.copy_(adapter.b.view(b.shape))
        base = norms(made.weight.flatten(1), 1)  # the base layer inside peft's
        size.copy_((base * (1 + adapter.out_change)).view(size.shape))

    torch.testing.assert_close(ours(x), dora(x), rtol=1e-5, atol=1e-5)
    goal = torch.randn(ours(x).shape)
    mine = torch.autograd.grad(
        (ours(x) - goal).square().sum(), [adapter.a, adapter.b, adapter.out_change]
    )
    other = torch.autograd.grad((dora(x) - goal).square().sum(), [a, b, size])
    torch.testing.assert_close(mine[0], other[0].view(mine[0].shape), rtol=1e-4, atol=1e-3)
    torch.testing.assert_close(mine[1], other[1].view(mine[1].shape), rtol=1e-4, atol=1e-3)
    torch.testing.assert_close(mine[2], other[2].flatten() * base, rtol=1e-4, atol=1e-3)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_starts_at_a_base_in_half_precision(dtype: torch.dtype) -> None:
    model = zoo().to(dtype)
    before = model(tokens())
    assert torch.equal(attached(BoRA(), model)(tokens()), before)


def test_lines_of_zeros_learn_as_in_lora_and_nothing_is_nan() -> None:
    adapter, weight = moved("both"), torch.randn(OUT, IN, dtype=torch.float64)
    weight[2], weight[:, 1] = 0, 0
    update = adapter.update(weight)
    assert torch.isfinite(update).all()
    assert update[2].abs().max() > 0
    by_b, by_out = torch.autograd.grad(update.square().sum(), [adapter.b, adapter.out_change])
    assert torch.isfinite(by_b).all()
    assert torch.isfinite(by_out).all()
    assert by_b[2].abs().max() > 0
    adapter.b.data.zero_()
    assert not adapter.update(torch.zeros(OUT, IN, dtype=torch.float64)).any()


def test_the_weight_is_not_stored_again(tmp_path) -> None:
    record = adapt.attached(attached(BoRA(1), names=["query"]))
    held = sum(x.numel() for x in record.pairs()[0][1].state_dict().values())
    assert held == record.n_trainable == (12 + 16) + (12 + 16)


def test_exported_at_a_rank_and_exact_where_that_is_full(tmp_path) -> None:
    model = trained(attached(BoRA(2), names=["query"]))
    with pytest.raises(InputError, match="full rank"):
        adapt.to_lora(model, tmp_path)
    assert adapt.to_lora(model, tmp_path, rank=12).error < 1e-6


def test_bad_input() -> None:
    with pytest.raises(InputError, match="choose from both, out, in"):
        adapt.attach(zoo(), BoRA(sides="left"), ["query"])
    with pytest.raises(InputError, match="alpha=0"):
        adapt.attach(zoo(), BoRA(alpha=0), ["query"])
    with pytest.raises(InputError, match=r"update\(weight\)"):
        moved("both").delta()
