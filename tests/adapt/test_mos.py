"""MoS: LoRA as its limit, the pools and who takes what, and what sharing costs."""

from __future__ import annotations

import copy
from collections import Counter

import pytest
import torch
from torch import nn

from lowdim import adapt
from lowdim.adapt.mos import MoS, stacked_rank
from lowdim.errors import InputError

WIDTH, LAYERS = 24, 6


def a_net(layers=LAYERS):
    torch.manual_seed(0)
    inner = [m for _ in range(layers) for m in (nn.Linear(WIDTH, WIDTH), nn.Tanh())]
    return nn.Sequential(*inner, nn.Linear(WIDTH, 8))


def attach(net, method, seed=0):
    """Adapters of every linear layer, their numbers no longer zero."""
    record = adapt.attach(net, method, [nn.Linear], seed=seed)
    g = torch.Generator().manual_seed(1)
    for p in record.adapter_parameters():
        p.data = torch.randn(p.shape, generator=g) / 4
    return record


def square(record):
    """Adapters of the layers of one shape."""
    return [a for t, a in record.pairs() if t.shape == (WIDTH, WIDTH)]


def train(net, steps=4):
    optimizer = torch.optim.SGD([p for p in net.parameters() if p.requires_grad], 0.1)
    x = torch.randn(5, WIDTH, generator=torch.Generator().manual_seed(2))
    for _ in range(steps):
        optimizer.zero_grad()
        net(x).square().sum().backward()
        optimizer.step()
    return net(x)


@pytest.mark.parametrize("shards", [1, 4])
def test_without_sharing_it_is_lora_of_peft_step_by_step(shards):
    peft = pytest.importorskip("peft")
    net, rank = a_net(), 3
    theirs = copy.deepcopy(net)
    record = attach(net, MoS(rank=rank, times=1, shards=shards, private=1.0))
    config = peft.LoraConfig(
        r=rank, lora_alpha=rank, target_modules=[t.module_name for t, _ in record.pairs()]
    )
    theirs = peft.get_peft_model(theirs, config)
    layers = dict(theirs.named_modules())
    for target, adapter in record.pairs():
        b, a = adapter.factors()
        lora = layers[f"base_model.model.{target.module_name}"]
        lora.lora_A["default"].weight.data = a.detach().clone()
        lora.lora_B["default"].weight.data = b.detach().clone()
    theirs_trainable = sum(p.numel() for p in theirs.parameters() if p.requires_grad)
    assert record.n_trainable == theirs_trainable
    ours, expected = train(net), train(theirs)
    assert torch.allclose(ours, expected, rtol=1e-5, atol=1e-6)


def test_each_row_is_its_shards_end_to_end():
    record = attach(a_net(), MoS())
    adapter = square(record)[2]
    b, a = adapter.factors()
    for row in range(8):
        shards = [adapter.pool_a[i] for i in adapter.index_a[row]]
        assert torch.equal(a[row], torch.cat(shards))
        assert torch.equal(b[:, row], torch.cat([adapter.pool_b[i] for i in adapter.index_b[row]]))


@pytest.mark.parametrize("method", [MoS(), MoS(rank=1, shards=2), MoS(private=0.0)])
def test_who_takes_what(method):
    adapters = [a for _, a in attach(a_net(), method).pairs()]  # all read the one width
    own = int(method.private * method.rank * method.shards)
    first = own * len(adapters)
    shared = Counter()
    for i, adapter in enumerate(adapters):
        shards = adapter.index_a.flatten().tolist()
        assert shards[:own] == list(range(i * own, (i + 1) * own))  # nobody else's
        assert min(shards[own:]) >= first
        assert len(set(shards)) == len(shards)  # none twice in one weight
        shared.update(shards[own:])
    assert set(shared) == set(range(first, len(adapters[0].pool_a)))  # none is left out
    assert max(shared.values()) - min(shared.values()) <= 1


def test_sides_are_drawn_apart_and_by_the_seed():
    one, other, again = (attach(a_net(), MoS(), seed) for seed in (0, 1, 0))
    a = square(one)[0]
    assert not torch.equal(a.index_a, a.index_b)
    assert not torch.equal(a.index_a, square(other)[0].index_a)
    assert torch.equal(a.index_a, square(again)[0].index_a)


def test_pools_are_shared_by_width():
    record = attach(a_net(), MoS())
    pools = {id(a.pool_a) for _, a in record.pairs()}
    writes = {id(a.pool_b) for _, a in record.pairs()}
    assert len(pools) == 1  # every layer reads the one width
    assert len(writes) == 2  # the last one writes another


def test_starts_at_the_base_and_counts_as_lora_of_its_rank():
    net, x = a_net(), torch.randn(4, WIDTH)
    before = net(x)
    record = adapt.attach(net, MoS(rank=2), [nn.Linear])
    assert torch.equal(net(x), before)
    assert record.n_trainable == 2 * (LAYERS * 2 * WIDTH + WIDTH + 8)
    assert record.n_trainable == MoS(rank=2).count([t.shape for t, _ in record.pairs()])
    assert all(a.factors()[1].shape == (8, t.shape[1]) for t, a in record.pairs())


def test_sharing_caps_the_rank_of_all_updates_together():
    alone = stacked_rank(square(attach(a_net(4), MoS(rank=2, times=1, private=1.0))))
    assert alone == (8, 8, 8)  # four weights of rank 2, nothing shared
    # whole vectors: at most as many directions as the pool has, though each update has rank 6
    record = attach(a_net(4), MoS(rank=1, times=6, shards=1, private=0.0))
    shared = stacked_rank(square(record))
    assert shared.alone == 24
    assert shared.reads == len(square(record)[0].pool_a) == 5
    assert shared.writes == len(square(record)[0].pool_b) == 4
    # shards undo part of it: the same numbers at several places are other directions
    cut = stacked_rank(square(attach(a_net(4), MoS(rank=1, times=6, shards=4, private=0.0))))
    assert cut.reads > shared.reads


def test_stacked_rank_is_that_of_the_updates_themselves():
    adapters = square(attach(a_net(3), MoS(rank=1, times=3, shards=2)))
    deltas = [a.delta().double() for a in adapters]
    found = stacked_rank(adapters)
    tol = 1e-5  # updates are products in float32
    assert found.reads == int(torch.linalg.matrix_rank(torch.cat(deltas), rtol=tol))
    assert found.writes == int(torch.linalg.matrix_rank(torch.cat(deltas, 1), rtol=tol))


def test_gradients_of_all_users_add_up_in_the_pool():
    record = attach(a_net(3), MoS(rank=1, times=2, shards=2))
    adapters = square(record)
    pool = adapters[0].pool_a
    weights = [torch.randn(WIDTH, WIDTH) for _ in adapters]
    loss = sum((w * a.delta()).sum() for w, a in zip(weights, adapters, strict=True))
    (found,) = torch.autograd.grad(loss, pool)
    expected = torch.zeros_like(pool)
    for w, adapter in zip(weights, adapters, strict=True):
        b, _ = adapter.factors()
        rows = (b.T @ w).view(*adapter.index_a.shape, -1)  # gradient by A, cut into shards
        for index, part in zip(adapter.index_a.flatten(), rows.flatten(0, 1), strict=True):
            expected[index] += part.detach()
    assert torch.allclose(found, expected, atol=1e-5)


def test_life_of_an_adapter(tmp_path):
    net = a_net()
    base = copy.deepcopy(net)
    record = adapt.attach(net, MoS(rank=1), [nn.Linear], seed=3)
    train(net)
    adapt.save(net, tmp_path / "mos")
    again = copy.deepcopy(base)
    loaded = adapt.load(again, tmp_path / "mos")
    x = torch.randn(3, WIDTH)
    assert not torch.allclose(net(x), base(x))
    assert torch.equal(again(x), net(x))
    assert loaded.n_trainable == record.n_trainable
    first, second = square(loaded)[:2]
    assert first.pool_a is second.pool_a  # still one pool
    adapt.merge(again)
    assert torch.allclose(again(x), net(x), atol=1e-6)
    assert torch.equal(adapt.detach(net)(x), base(x))


def test_peft_loads_the_export(tmp_path):
    peft = pytest.importorskip("peft")
    net = a_net()
    base, x = copy.deepcopy(net), torch.randn(3, WIDTH)
    attach(net, MoS())
    exported = adapt.to_lora(net, tmp_path)
    assert set(exported.ranks.values()) == {8}
    assert torch.allclose(peft.PeftModel.from_pretrained(base, tmp_path)(x), net(x), atol=1e-5)


def test_one_weight_repeats_its_pool():
    """With a single user the pool is smaller than what it takes: each shard falls several times."""
    record = attach(nn.Sequential(nn.Linear(16, 16)), MoS(rank=2, times=3, private=0.0))
    ((_, adapter),) = record.pairs()
    counts = Counter(adapter.index_a.flatten().tolist())
    assert sorted(counts.values()) == [3] * 8


def test_convolutions_and_embeddings():
    torch.manual_seed(0)
    net = nn.Sequential(nn.Embedding(20, 8), nn.Conv1d(6, 12, 4))
    index = torch.randint(0, 20, (2, 6))
    before = net(index)
    adapt.attach(net, MoS(rank=1, times=2), [nn.Embedding, nn.Conv1d])
    assert torch.equal(net(index), before)


@pytest.mark.parametrize(
    ("method", "says"),
    [
        (MoS(rank=0), "rank=0"),
        (MoS(times=0), "times=0"),
        (MoS(shards=5), "width 24 of 0.weight does not cut into 5 shards: .* 1, 2, 3, 4, 6, 8, 12"),
        (MoS(private=1.0), "times has to be 1"),
        (MoS(private=1.5), "private=1.5"),
        (MoS(rank=3), "times x rank at 12.weight=12: at most 8"),
    ],
)
def test_bad_options_are_named(method, says):
    net = a_net()
    with pytest.raises(InputError, match=says):
        adapt.attach(net, method, [nn.Linear])


def test_stacked_rank_names_what_it_cannot_stack():
    record = attach(a_net(), MoS())
    with pytest.raises(InputError, match="one shape"):
        stacked_rank([a for _, a in record.pairs()])
    with pytest.raises(InputError, match="at least one"):
        stacked_rank([])
