"""FLoRA: the Tucker form, its start, its bound, and what it is of a matrix."""

from __future__ import annotations

import copy
import math

import pytest
import torch
from torch import nn

from lowdim import adapt
from lowdim.adapt.flora import FLoRA, FLoRAAdapter, hosvd, largest_ranks, mode_products
from lowdim.adapt.method import Draws
from lowdim.errors import InputError

SHAPES = {"linear": (7, 9), "conv1d": (6, 5, 4), "conv2d": (6, 5, 3, 3), "conv3d": (4, 5, 3, 2, 3)}


def of_rank(shape, ranks, seed=0):
    """A float64 tensor of these multilinear ranks."""
    g = torch.Generator().manual_seed(seed)
    core = torch.randn(*ranks, generator=g, dtype=torch.float64)
    return mode_products(
        core,
        [
            torch.randn(d, r, generator=g, dtype=torch.float64)
            for d, r in zip(shape, ranks, strict=True)
        ],
    )


def an_adapter(shape, ranks, scale=1.0):
    return FLoRAAdapter(shape, ranks, scale, Draws(0, "w")).double()


def a_net():
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(3, 8, 3, padding=1, stride=2, padding_mode="reflect"),
        nn.Tanh(),
        nn.Conv2d(8, 6, 3, groups=2),
        nn.Flatten(),
        nn.Linear(24, 10),
    )


@pytest.mark.parametrize("shape", SHAPES.values(), ids=SHAPES)
def test_update_is_the_tucker_product_of_tensorly(shape):
    tensorly = pytest.importorskip("tensorly")
    adapter = an_adapter(shape, tuple(min(3, r) for r in largest_ranks(shape)), scale=0.7)
    nn.init.normal_(adapter.core)
    expected = tensorly.tucker_to_tensor(
        (adapter.core.detach().numpy(), [m.detach().numpy() for m in adapter.modes])
    )
    assert torch.allclose(adapter.delta(), 0.7 * torch.from_numpy(expected), atol=1e-12)


@pytest.mark.parametrize("shape", SHAPES.values(), ids=SHAPES)
def test_an_update_of_its_ranks_is_recovered(shape):
    ranks = tuple(min(n, r) for n, r in zip((2, 3, 2, 1, 2), largest_ranks(shape), strict=False))
    ranks = (2, 2) if len(shape) == 2 else ranks  # row and column rank of a matrix are one
    delta = of_rank(shape, ranks)
    found = hosvd(delta)
    assert found.ranks_within(0) == ranks
    adapter = an_adapter(shape, ranks, scale=0.3)
    became = adapter.set_delta(delta)
    assert torch.allclose(adapter.delta(), delta, rtol=0, atol=1e-13 * float(delta.norm()))
    assert became.bound == 0


def test_full_ranks_reproduce_any_tensor():
    delta = of_rank((5, 4, 3, 3), (5, 4, 3, 3))
    assert torch.allclose(hosvd(delta).tensor(), delta, atol=1e-12)


@pytest.mark.parametrize("ranks", [(3, 3, 2, 2), (1, 4, 3, 1), (6, 1, 1, 3), (1, 1, 1, 1)])
def test_error_lies_within_its_bound(ranks):
    delta = of_rank((6, 5, 3, 3), (6, 5, 3, 3), seed=1)
    found = hosvd(delta)
    cut = found.cut(ranks)
    error = float((delta - cut.tensor()).norm())
    tails = [float(v[r:].square().sum()) for v, r in zip(found.values, ranks, strict=True)]
    assert math.isclose(cut.bound, sum(tails) ** 0.5)
    # at most the bound; at least what one mode alone must lose (Eckart and Young)
    assert max(tails) ** 0.5 * (1 - 1e-12) <= error <= cut.bound * (1 + 1e-12)


@pytest.mark.parametrize("share", [0.05, 0.3, 0.7])
def test_proposed_ranks_keep_their_promise_and_no_mode_is_too_large(share):
    delta = of_rank((8, 7, 3, 3), (8, 7, 3, 3), seed=2)
    found = hosvd(delta)
    ranks = found.ranks_within(share)
    norm = float(delta.norm())
    assert float((delta - found.cut(ranks).tensor()).norm()) <= share * norm
    for n, rank in enumerate(ranks):
        if rank > 1:
            assert found.values[n][rank - 1 :].square().sum() > share**2 / 4 * norm**2


def test_singular_values_of_the_modes_are_those_of_tensorly():
    tensorly = pytest.importorskip("tensorly")
    delta = of_rank((6, 5, 3), (6, 5, 3))
    for n, values in enumerate(hosvd(delta).values):
        unfolding = torch.from_numpy(tensorly.unfold(delta.numpy(), n))
        assert torch.allclose(values, torch.linalg.svdvals(unfolding))


def test_of_a_matrix_with_an_identity_core_it_is_lora():
    adapter = an_adapter((7, 9), (3, 3))
    adapter.core.data.copy_(torch.eye(3))
    b, a = adapter.modes[0], adapter.modes[1].T
    x = torch.randn(4, 9, dtype=torch.float64)
    assert torch.allclose(adapter.delta(), b @ a, atol=1e-14)
    assert torch.allclose(adapter(x), x @ a.T @ b.T, atol=1e-14)


@pytest.mark.parametrize("shape", SHAPES.values(), ids=SHAPES)
def test_factors_and_gradients(shape):
    adapter = an_adapter(shape, tuple(min(2, r) for r in largest_ranks(shape)))
    nn.init.normal_(adapter.core)
    b, a = adapter.factors()
    assert torch.equal((b @ a).view(shape), adapter.delta())
    assert torch.autograd.gradcheck(lambda *_: adapter.delta(), tuple(adapter.parameters()))


def test_starts_at_the_base_bit_for_bit_and_counts():
    net, x = a_net(), torch.randn(2, 3, 8, 8)
    before = net(x)
    method = FLoRA(rank=4)
    record = adapt.attach(net, method, [nn.Conv2d, nn.Linear])
    assert torch.equal(net(x), before)
    # (8,3,3,3), (6,4,3,3) and (10,24) at ranks (4,3,3,3), (4,4,3,3), (4,4)
    by_hand = (108 + 32 + 9 + 18) + (144 + 24 + 16 + 18) + (16 + 40 + 96)
    assert record.n_trainable == by_hand == method.count([t.shape for t, _ in record.pairs()])


def test_life_of_an_adapter(tmp_path):
    net, x = a_net(), torch.randn(2, 3, 8, 8)
    base = copy.deepcopy(net)
    adapt.attach(net, FLoRA(rank=3, scale=2.0), [nn.Conv2d, nn.Linear], seed=5)
    optimizer = torch.optim.Adam([p for p in net.parameters() if p.requires_grad], 0.01)
    for _ in range(3):
        optimizer.zero_grad()
        net(x).square().mean().backward()
        optimizer.step()
    trained = net(x)
    assert not torch.allclose(trained, base(x))
    adapt.save(net, tmp_path / "flora")
    again = copy.deepcopy(base)
    loaded = adapt.load(again, tmp_path / "flora")
    assert torch.equal(again(x), trained)
    assert loaded.groups[0].method == FLoRA(rank=3, scale=2.0)
    adapt.merge(again)
    assert torch.allclose(again(x), trained, atol=1e-6)
    assert torch.equal(adapt.detach(net)(x), base(x))


def test_peft_loads_convolutions_and_matrices_as_lora(tmp_path):
    peft = pytest.importorskip("peft")
    torch.manual_seed(0)
    net = nn.Sequential(nn.Conv2d(3, 8, 3, padding=1), nn.Flatten(), nn.Linear(128, 10))
    base, x = copy.deepcopy(net), torch.randn(2, 3, 4, 4)
    record = adapt.attach(net, FLoRA(rank=2), [nn.Conv2d, nn.Linear])
    for _, adapter in record.pairs():
        nn.init.normal_(adapter.core)
    exported = adapt.to_lora(net, tmp_path)
    assert exported.ranks == {"0": 2, "2": 2}
    assert exported.error < 1e-6
    assert torch.allclose(peft.PeftModel.from_pretrained(base, tmp_path)(x), net(x), atol=1e-5)


def test_ranks_found_from_an_update_are_those_to_train(tmp_path):
    """A proposal goes straight into the options, and through a file."""
    net = nn.Sequential(nn.Conv2d(6, 8, 3))
    base = copy.deepcopy(net)
    delta = of_rank((8, 6, 3, 3), (2, 3, 1, 2)).float()
    found = hosvd(delta)
    record = adapt.attach(net, FLoRA(rank=found.ranks_within(1e-4)), [nn.Conv2d])
    ((_, adapter),) = record.pairs()
    adapter.set_delta(delta)
    assert record.n_trainable == 2 * 3 * 2 + 8 * 2 + 6 * 3 + 3 * 1 + 3 * 2
    assert torch.allclose(adapter.delta(), delta, atol=1e-4)
    adapt.save(net, tmp_path)
    assert adapt.load(base, tmp_path).groups[0].method.rank == (2, 3, 1, 2)


def test_rank_is_cut_to_what_a_mode_can_hold():
    assert FLoRA(rank=16).count([(8, 3, 3, 3)]) == 8 * 27 + 64 + 27
    assert FLoRA(rank=16).count([(100, 4)]) == 16 + 400 + 16
    assert largest_ranks((100, 4)) == (4, 4)


@pytest.mark.parametrize(
    ("method", "says"),
    [
        (FLoRA(rank=0), "rank=0"),
        (FLoRA(rank=(2, 2)), "2 ranks for the 4 modes"),
        (FLoRA(rank=(2, 2, 4, 1)), r"rank\[2\]=4: at most 3"),
        (FLoRA(scale=0.0), "scale=0.0"),
        (FLoRA(scale=math.nan), "scale=nan"),
    ],
)
def test_bad_options_are_named(method, says):
    net = nn.Sequential(nn.Conv2d(4, 5, 3))
    with pytest.raises(InputError, match=says):
        adapt.attach(net, method, [nn.Conv2d])
    assert not hasattr(net, "lowdim_attached")


def test_bad_updates_are_named():
    with pytest.raises(InputError, match="holds nan"):
        hosvd(torch.full((2, 2), math.nan))
    with pytest.raises(InputError, match="no modes"):
        hosvd(torch.zeros(0, 3))
    with pytest.raises(InputError, match="shape"):
        an_adapter((4, 5), (2, 2)).set_delta(torch.zeros(5, 4))
    with pytest.raises(InputError, match="error=1"):
        hosvd(torch.eye(3)).ranks_within(1)
    with pytest.raises(InputError, match="only"):
        hosvd(torch.eye(3)).cut((2, 2)).cut((3, 3))
    zero = hosvd(torch.zeros(3, 4))
    assert zero.ranks_within(0) == (1, 1)
    assert zero.bound == 0
