"""aTLAS: task arithmetic as its limit, the gradient of a coefficient, and a mix that is found."""

from __future__ import annotations

import copy
import json

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import nn

from lowdim import adapt
from lowdim.adapt.atlas import ATLAS, task_vector
from lowdim.errors import InputError


def a_net(seed=0):
    torch.manual_seed(seed)
    return nn.Sequential(
        nn.Linear(6, 8), nn.LayerNorm(8), nn.Tanh(), nn.Unflatten(1, (2, 4)), nn.Conv1d(2, 3, 2)
    )


def tuned(base, seed):
    """A state dict beside that of the base."""
    g = torch.Generator().manual_seed(seed)
    return {
        name: x + 0.3 * torch.randn(x.shape, generator=g, dtype=torch.float64).to(x.dtype)
        for name, x in base.state_dict().items()
    }


@pytest.fixture
def vectors(tmp_path):
    """Three files of changes, float64 so that identities hold to the last digits."""
    base = a_net().double()
    return [
        str(
            task_vector(
                tuned(base, seed),
                base.state_dict(),
                tmp_path / f"{seed}.safetensors",
                dtype=torch.float64,
            )
        )
        for seed in (1, 2, 3)
    ]


def attached(vectors, values=None, **options):
    """A net in float64 with a mixture attached, its coefficients drawn."""
    net = a_net().double()
    record = adapt.attach(net, ATLAS(vectors, **options), "all", seed=4)
    for adapter in (a.double() for _, a in record.pairs()):
        if values is None:
            nn.init.normal_(adapter.coefficients)
        else:
            adapter.coefficients.data.copy_(values)
    return net, record


def test_one_number_a_vector_is_task_arithmetic(vectors):
    scale = torch.tensor([[0.5], [-0.2], [0.8]], dtype=torch.float64)
    net, record = attached(vectors, scale, blocks="model")
    assert record.n_trainable == 3
    base = a_net().double().state_dict()
    changes = [load_file(path) for path in vectors]
    by_hand = {
        name: x + sum(float(s) * change[name] for s, change in zip(scale, changes, strict=True))
        for name, x in base.items()
    }
    expected = a_net().double()
    expected.load_state_dict(by_hand)
    adapt.merge(net)
    for name, x in net.state_dict().items():
        assert torch.allclose(x, by_hand[name], atol=1e-14)
    x = torch.randn(5, 6, dtype=torch.float64)
    assert torch.allclose(net(x), expected(x), atol=1e-13)


@pytest.mark.parametrize("parts", [1, 5])
@pytest.mark.parametrize("block", [7, 2**20])
def test_gradient_of_a_coefficient_is_the_gradient_along_its_block(
    vectors, parts, block, monkeypatch
):
    monkeypatch.setattr("lowdim.adapt.atlas.BLOCK", block)
    net, record = attached(vectors, parts=parts)
    x = torch.randn(5, 6, dtype=torch.float64)
    loss = net(x).pow(3).sum()
    found = torch.autograd.grad(loss, [a.coefficients for _, a in record.pairs()])
    # the same point, its weights as parameters
    plain = a_net().double()
    plain.load_state_dict(adapt.merge(copy.deepcopy(net)).state_dict())
    weights = dict(plain.named_parameters())
    found_by_weight = torch.autograd.grad(plain(x).pow(3).sum(), list(weights.values()))
    gradients = dict(zip(weights, found_by_weight, strict=True))
    for (target, adapter), coefficients in zip(record.pairs(), found, strict=True):
        for i, path in enumerate(vectors):
            product = gradients[target.name] * load_file(path)[target.name]
            for part in range(parts):
                inside = product if parts == 1 else product[adapter.partition == part]
                assert abs(float(coefficients[i, part] - inside.sum())) < 1e-10


def test_parts_cut_each_block_and_one_number_in_all_of_them_is_the_block_itself(vectors):
    values = torch.tensor([0.4, -0.1, 0.7], dtype=torch.float64)[:, None]
    _, whole = attached(vectors, values)
    _, cut = attached(vectors, values.expand(3, 4), parts=4)
    for (_, a), (_, b) in zip(whole.pairs(), cut.pairs(), strict=True):
        assert torch.allclose(a.delta(), b.delta(), atol=1e-14)
    partition = cut.pairs()[0][1].partition
    assert partition.shape == (8, 6)
    assert set(partition.flatten().tolist()) == {0, 1, 2, 3}


def test_a_known_mix_is_found_again(vectors):
    target, _ = attached(vectors)
    learner, record = attached(vectors, torch.zeros(3, 1))
    x = torch.randn(200, 6, generator=torch.Generator().manual_seed(7), dtype=torch.float64)
    wanted = target(x).detach()
    optimizer = torch.optim.LBFGS(
        record.adapter_parameters(), max_iter=400, tolerance_grad=1e-13, tolerance_change=1e-15,
        line_search_fn="strong_wolfe",
    )  # fmt: skip

    def loss():
        optimizer.zero_grad()
        value = (learner(x) - wanted).square().mean()
        value.backward()
        return value

    optimizer.step(loss)
    assert float(loss().detach()) < 1e-14
    for (_, found), (_, known) in zip(record.pairs(), adapt.attached(target).pairs(), strict=True):
        assert torch.allclose(found.coefficients, known.coefficients, atol=1e-5)


def test_starts_at_the_base_bit_for_bit_and_counts(vectors):
    net, x = a_net(), torch.randn(4, 6)
    before = net(x)
    for method in (ATLAS(vectors), ATLAS(vectors, blocks="model"), ATLAS(vectors, parts=3)):
        record = adapt.attach(net, method, "all")
        assert torch.equal(net(x), before)
        assert record.n_trainable == method.count([t.shape for t, _ in record.pairs()])
        adapt.detach(net)
    assert ATLAS(vectors, parts=3).count([(8, 6), (8,)]) == 3 * 3 * 2
    assert adapt.at_budget(ATLAS(vectors), [(8, 6), (8,)], 20).parts == 3


def test_life_of_an_adapter(vectors, tmp_path):
    net, x = a_net(), torch.randn(4, 6)
    base = copy.deepcopy(net)
    adapt.attach(net, ATLAS(vectors, parts=2), "all", seed=9)
    optimizer = torch.optim.SGD([p for p in net.parameters() if p.requires_grad], 0.1)
    for _ in range(3):
        optimizer.zero_grad()
        net(x).square().mean().backward()
        optimizer.step()
    assert not torch.allclose(net(x), base(x))
    folder = adapt.save(net, tmp_path / "atlas")
    stored = load_file(folder / "adapter.safetensors")
    assert {t.shape for t in stored.values()} == {(3, 2)}  # no vector is in it
    options = json.loads((folder / "adapter.json").read_text())["groups"][0]["options"]
    assert options["vectors"] == vectors
    again = copy.deepcopy(base)
    adapt.load(again, folder)
    assert torch.equal(again(x), net(x))
    adapt.merge(again)
    assert torch.allclose(again(x), net(x), atol=1e-6)
    assert torch.equal(adapt.detach(net)(x), base(x))


def test_shared_coefficients_come_back_shared(vectors, tmp_path):
    net = a_net()
    base = copy.deepcopy(net)
    record = adapt.attach(net, ATLAS(vectors, blocks="model"), "all")
    record.pairs()[0][1].coefficients.data.fill_(0.5)
    adapt.save(net, tmp_path / "one")
    loaded = adapt.load(base, tmp_path / "one")
    assert len({id(a.coefficients) for _, a in loaded.pairs()}) == 1
    assert loaded.n_trainable == 3
    x = torch.randn(4, 6)
    assert torch.equal(base(x), net(x))


def test_other_vectors_are_refused(vectors, tmp_path):
    net = a_net()
    base = copy.deepcopy(net)
    adapt.attach(net, ATLAS(vectors), "all")
    adapt.save(net, tmp_path / "atlas")
    changes = load_file(vectors[1])
    changes["0.bias"] += 1e-9
    save_file(changes, vectors[1])
    with pytest.raises(InputError, match=r"2.safetensors has changed"):
        adapt.load(base, tmp_path / "atlas")
    assert not hasattr(base, "lowdim_attached")


def test_half_precision_vectors_are_promoted(tmp_path):
    base = a_net()
    checkpoint = tuned(base, 1)
    files = [
        str(task_vector(checkpoint, base.state_dict(), tmp_path / f"{d}.safetensors", dtype=d))
        for d in (torch.float32, torch.bfloat16)
    ]
    deltas = []
    for file in files:
        net = a_net()
        record = adapt.attach(net, ATLAS([file]), "all")
        adapter = record.pairs()[0][1]
        adapter.coefficients.data.fill_(1.0)
        assert adapter.vectors[0].dtype == (torch.float32 if file == files[0] else torch.bfloat16)
        deltas.append(adapter.delta())
    exact, half = deltas
    assert half.dtype == torch.float32
    assert ((half - exact).abs() <= exact.abs() / 256).all()


def test_checkpoints_in_files_and_what_is_left_out(tmp_path):
    base = a_net()
    checkpoint = tuned(base, 1) | {"classifier.weight": torch.ones(2, 3)}
    save_file(checkpoint, tmp_path / "tuned.safetensors")
    torch.save(base.state_dict() | {"steps": torch.tensor(3)}, tmp_path / "base.pt")
    file = task_vector(
        tmp_path / "tuned.safetensors", tmp_path / "base.pt", tmp_path / "v.safetensors"
    )
    found = load_file(file)
    assert found.keys() == base.state_dict().keys()
    for name, x in base.state_dict().items():
        assert torch.allclose(x + found[name], checkpoint[name], atol=1e-7)


def test_transposed_layers_of_transformers(tmp_path):
    conv1d = pytest.importorskip("transformers.pytorch_utils").Conv1D
    torch.manual_seed(0)
    net = nn.Sequential(conv1d(5, 3))  # stores (in, out) = (3, 5)
    checkpoint = tuned(net, 1)
    file = task_vector(checkpoint, net.state_dict(), tmp_path / "v.safetensors")
    record = adapt.attach(net, ATLAS([str(file)]), "all")
    for _, adapter in record.pairs():
        adapter.coefficients.data.fill_(1.0)
    adapt.merge(net)
    assert torch.allclose(net[0].weight, checkpoint["0.weight"], atol=1e-6)


def test_bad_input_is_named(vectors, tmp_path):
    base = a_net()
    with pytest.raises(InputError, match="task_vector wrote"):
        adapt.attach(base, ATLAS(), "all")
    with pytest.raises(InputError, match="blocks='layer'"):
        adapt.attach(base, ATLAS(vectors, blocks="layer"), "all")
    with pytest.raises(InputError, match="parts=0"):
        adapt.attach(base, ATLAS(vectors, parts=0), "all")
    with pytest.raises(InputError, match="give a list"):
        ATLAS(vectors[0])
    with pytest.raises(InputError, match=r"none\.safetensors"):
        ATLAS([str(tmp_path / "none.safetensors")])
    wider = nn.Sequential(nn.Linear(7, 8), *list(a_net())[1:])
    with pytest.raises(InputError, match=r"0\.weight is \(8, 6\) .* the model has \(8, 7\)"):
        adapt.attach(wider, ATLAS(vectors), "all")
    deeper = nn.Sequential(*a_net(), nn.Linear(3, 3))
    with pytest.raises(InputError, match=r"no change of 5\.weight: leave it out"):
        adapt.attach(deeper, ATLAS(vectors), "all")
    with pytest.raises(InputError, match="fine-tuned from"):
        task_vector(wider.state_dict(), base.state_dict(), tmp_path / "x.safetensors")
    with pytest.raises(InputError, match="no tensor in common"):
        task_vector({"a": torch.ones(2)}, base.state_dict(), tmp_path / "x.safetensors")
    broken = base.state_dict() | {"0.bias": torch.full((8,), float("inf"))}
    with pytest.raises(InputError, match=r"change of 0\.bias holds inf"):
        task_vector(broken, base.state_dict(), tmp_path / "x.safetensors")
    assert not (tmp_path / "x.safetensors").exists()
