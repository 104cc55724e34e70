import copy

import pytest
import torch
from torch import nn

from lowdim import adapt
from lowdim.adapt import RandomSubspace
from lowdim.adapt.projections import PROJECTIONS
from lowdim.errors import InputError
from tests.adapt.descent import INDEX, train
from tests.adapt.sample import attached, loss, trained, zoo

KINDS = pytest.mark.parametrize("kind", list(PROJECTIONS))


@KINDS
@pytest.mark.parametrize("scales", [False, True])
def test_saving_and_loading(kind, scales, tmp_path):
    model = trained(attached(RandomSubspace(dim=40, projection=kind, scales=scales)))
    adapt.save(model, tmp_path)
    loaded = zoo()
    adapt.load(loaded, tmp_path)
    assert torch.equal(loaded(INDEX), model(INDEX))
    assert not torch.equal(loaded(INDEX), zoo()(INDEX))
    torch.testing.assert_close(adapt.merge(loaded)(INDEX), model(INDEX))


def test_every_parameter_moves_along_the_columns_of_one_map():
    model = zoo()
    base = {name: p.clone() for name, p in model.named_parameters()}
    record = adapt.attach(model, RandomSubspace(dim=30), "all", seed=1)
    assert record.n_trainable == 30
    assert sum(p.numel() for p in model.parameters() if p.requires_grad) == 30
    train(model)
    z = record.adapter_parameters()[0].detach().clone()
    adapt.merge(model)
    total = sum(p.numel() for p in base.values())
    stream = adapt.Draws(1, "").stream("projection")
    theta = PROJECTIONS["fastfood"](total, 30, seed=1, stream=stream)(z)
    moved = [
        (p - base[name]).T if name == "c_fc.weight" else p - base[name]
        for name, p in model.named_parameters()
    ]
    moved = torch.cat([x.flatten() for x in moved])
    torch.testing.assert_close(moved, theta, rtol=0, atol=1e-6)
    assert moved.detach().norm() > 0.01


def gradient(model: nn.Module) -> torch.Tensor:
    loss(model, INDEX).backward()
    parts = [p.grad.T if n == "c_fc.weight" else p.grad for n, p in model.named_parameters()]
    return torch.cat([g.flatten() for g in parts])


@KINDS
def test_gradient_of_z_is_the_transpose_of_p_times_that_of_the_weights(kind):
    g = gradient(zoo())
    model = zoo()
    record = adapt.attach(model, RandomSubspace(dim=30, projection=kind), "all", seed=2)
    loss(model, INDEX).backward()
    p = PROJECTIONS[kind](len(g), 30, seed=2, stream=adapt.Draws(2, "").stream("projection"))
    found = record.adapter_parameters()[0].grad
    torch.testing.assert_close(found, p.transpose(g), rtol=1e-5, atol=1e-6)


def test_as_many_numbers_as_weights_is_full_training():
    """An orthonormal P with d = D: steps of gradient descent are those of full training."""
    full, model = zoo(), zoo()
    dim = sum(p.numel() for p in full.parameters())
    adapt.attach(model, RandomSubspace(dim=dim, projection="hashed"), "all")
    assert train(model) == pytest.approx(train(full), rel=1e-5)
    adapt.merge(model)
    for ours, theirs in zip(model.parameters(), full.parameters(), strict=True):
        torch.testing.assert_close(ours, theirs, rtol=0, atol=1e-6)


def test_said_with_scales_of_one_is_did():
    did, said = zoo(), zoo()
    n_tensors = len(list(did.parameters()))
    adapt.attach(did, RandomSubspace(dim=20), "all")
    record = adapt.attach(said, RandomSubspace(dim=20 + n_tensors, scales=True), "all")
    assert record.n_trainable == 20 + n_tensors
    for _, adapter in record.pairs():
        adapter.scale.requires_grad_(False)
    assert train(did) == train(said)
    assert torch.equal(did(INDEX), said(INDEX))


def test_scales_train():
    model = zoo()
    record = adapt.attach(model, RandomSubspace(dim=40, scales=True), "all")
    train(model, 20, 0.3)
    assert all(adapter.scale.item() != 1 for _, adapter in record.pairs())


def test_tied_tensors_have_one_update():
    class Tied(nn.Module):
        def __init__(self):
            super().__init__()
            self.a = nn.Linear(6, 6, bias=False)
            self.b = nn.Linear(6, 6, bias=False)
            self.b.weight = self.a.weight

        def forward(self, x):
            return self.b(self.a(x))

    model = Tied()
    record = adapt.attach(model, RandomSubspace(dim=36, projection="hashed"), "all")
    with torch.no_grad():
        record.adapter_parameters()[0].normal_()
    assert torch.equal(model.a.weight, model.b.weight)
    assert (model.a.weight - model.a.parametrizations.weight.original).detach().norm() > 1


def test_file_holds_the_numbers_alone(tmp_path):
    model = zoo()
    adapt.attach(model, RandomSubspace(dim=25), "all")
    train(model)
    adapt.save(model, tmp_path)
    assert (tmp_path / "adapter.safetensors").stat().st_size < 25 * 4 + 200
    other = adapt.load(zoo(), tmp_path)
    assert torch.equal(other.adapter_parameters()[0], adapt.attached(model).adapter_parameters()[0])


def test_copies_share_their_numbers_as_well():
    model = zoo()
    adapt.attach(model, RandomSubspace(dim=25), "all")
    again = copy.deepcopy(model)
    assert len({id(p) for p in again.parameters() if p.requires_grad}) == 1


@pytest.mark.parametrize(
    ("method", "message"),
    [
        (RandomSubspace(dim=0), "dim=0"),
        (RandomSubspace(dim=10**6), "at most 2891 is possible"),
        (RandomSubspace(projection="gauss"), "no projection 'gauss': choose from dense"),
        (RandomSubspace(dim=15, scales=True), "scales of 15 tensors: give at least 16"),
    ],
)
def test_bad_options_are_named(method, message):
    with pytest.raises(InputError, match=message):
        adapt.attach(zoo(), method, "all")
