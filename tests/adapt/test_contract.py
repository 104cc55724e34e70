"""What every adaptation method has to do, made from the registry."""

from __future__ import annotations

import copy
import io
import pickle

import pytest
import torch
from torch import nn

from lowdim import adapt
from lowdim.errors import InputError
from tests.adapt.sample import attached, layers, loss, tokens, trained, zoo


def ready(model, method):
    """What a method needs between attach and training."""
    if method.id == "strata":
        adapt.fit_gates(model, loss, [tokens(40, 3)])
    return model


def adapted(method, **options):
    return ready(attached(method, **options), method)


def mergeable(model):
    return all(adapter.mergeable for _, adapter in adapt.attached(model).pairs())


def close(a, b, tolerance):
    """Relative to the largest entry."""
    return float((a - b).abs().max()) <= tolerance * max(1.0, float(b.abs().max()))


def test_only_what_is_counted_trains(method):
    model = attached(method)
    record = adapt.attached(model)
    head = sum(p.numel() for p in model.classifier.parameters())
    trains = sum(p.numel() for p in model.parameters() if p.requires_grad)
    shapes = [target.shape for target, _ in record.pairs()]
    assert trains - head == record.n_trainable == method.count(shapes)
    parts = [p for _, adapter in record.pairs() for p in adapter.parameters()]
    assert all(p.requires_grad for p in parts)


def test_every_layer_alone_is_counted_exactly(method):
    for name in layers(method):
        record = adapt.attached(attached(method, names=[name]))
        assert record.n_trainable == method.count([record.pairs()[0][0].shape])


def test_starts_at_the_base_bit_for_bit(method):
    before = zoo()(tokens())
    model = adapted(method)
    if method.starts_at_base:
        assert torch.equal(model(tokens()), before)
    model.train()
    assert torch.isfinite(model(tokens())).all()


@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float32, 1e-6), (torch.float64, 1e-12)])
def test_merged_gives_the_outputs_of_the_adapted(method, dtype, tolerance):
    model = trained(ready(attached(method, zoo().to(dtype)), method))
    found = model(tokens())
    assert found.dtype == dtype
    assert not close(found, zoo().to(dtype)(tokens()), 1e-3)
    if not mergeable(model):
        with pytest.raises(InputError, match="depends on the input"):
            adapt.merge(model)
        assert torch.equal(model(tokens()), found)
        return
    adapt.merge(model)
    assert close(model(tokens()), found, tolerance)
    assert list(model.state_dict()) == list(zoo().state_dict())
    assert type(model.plane) is nn.Conv2d


def test_each_kind_of_layer_alone(method):
    for name in layers(method):
        model = trained(ready(attached(method, names=[name], also=[]), method))
        before = zoo()
        before.norm = copy.deepcopy(model.norm)  # whose statistics moved
        found = model(tokens())
        assert not torch.equal(found, before(tokens())), name
        adapter = model.get_submodule(name)
        if mergeable(model):
            adapt.merge(model)
            assert close(model(tokens()), found, 1e-6), (name, adapter)


def test_detach_gives_the_base_back_bit_for_bit(method):
    base = zoo()
    base.query.bias.requires_grad_(False)
    before = copy.deepcopy(base.state_dict())
    flags = {name: p.requires_grad for name, p in base.named_parameters()}
    model = trained(ready(attached(method, base, also=[]), method))
    assert any(not torch.equal(a, b) for a, b in zip(before.values(), state(model), strict=False))
    adapt.detach(model)
    after = model.state_dict()
    assert list(after) == list(before)
    assert all(torch.equal(after[name], before[name]) for name in before)
    assert {name: p.requires_grad for name, p in model.named_parameters()} == flags
    assert type(model.query) is nn.Linear
    assert torch.equal(model(tokens()), zoo()(tokens()))


def state(model):
    return model.state_dict().values()


def test_what_is_loaded_gives_the_same_outputs_bit_for_bit(method, tmp_path):
    model = trained(adapted(method))
    adapt.save(model, tmp_path / "kept")
    again = zoo()
    torch.nn.init.zeros_(again.classifier.weight)  # a head of its own, as a fresh one would be
    record = adapt.load(again, tmp_path / "kept")
    assert torch.equal(again(tokens()), model(tokens()))
    assert record.n_trainable == adapt.attached(model).n_trainable
    assert record.groups[0].method == method
    once = trained(again, steps=1)
    assert torch.equal(once(tokens()), trained(model, steps=1)(tokens()))


def test_files_hold_no_random_part(method, tmp_path):
    model = attached(method, also=[])
    adapt.save(model, tmp_path)
    stored = (tmp_path / "adapter.safetensors").stat().st_size
    record = adapt.attached(model)
    parts = {id(x): x for _, adapter in record.pairs() for x in adapter.state_dict(
        keep_vars=True).values()}  # fmt: skip
    assert stored <= sum(x.nbytes for x in parts.values()) + 400 * (len(parts) + 1)


def test_random_parts_are_those_of_the_seed_and_the_tensor(method):
    def first(names):
        return adapt.attached(attached(method, names=names, seed=4)).pairs()[0][1]

    one = layers(method)[0]
    alone, among = first([one]), first(None)
    fixed = {name: x for name, x in alone.named_buffers() if name not in alone.state_dict()}
    same = dict(among.named_buffers())
    if method.id not in JOINT:
        assert all(torch.equal(x, same[name]) for name, x in fixed.items())
    threads = torch.get_num_threads()
    torch.set_num_threads(1 if threads > 1 else 2)
    again = dict(first([one]).named_buffers())
    torch.set_num_threads(threads)
    assert all(torch.equal(x, again[name]) for name, x in fixed.items())


JOINT = {"mos", "random-subspace", "shared-parameters"}
"""Methods whose random parts are one map over all tensors together."""


def test_copies_are_independent(method):
    model = trained(adapted(method))
    found = model(tokens())
    other = copy.deepcopy(model)
    assert torch.equal(other(tokens()), found)
    trained(other)
    assert torch.equal(model(tokens()), found)
    assert not torch.equal(other(tokens()), found)
    adapt.detach(other)
    assert torch.equal(model(tokens()), found)
    assert torch.equal(other.query(torch.ones(16)), zoo().query(torch.ones(16)))


def test_weights_go_through_torch_save(method):
    model = trained(adapted(method))
    file = io.BytesIO()
    torch.save(model.state_dict(), file)
    file.seek(0)
    other = adapted(method)
    other.load_state_dict(torch.load(file, weights_only=True))
    assert torch.equal(other(tokens()), model(tokens()))
    assert pickle.loads(pickle.dumps(method)) == method


def test_a_second_attachment_is_refused(method):
    model = adapted(method)
    found = model(tokens())
    for again in (model, model.get_submodule(layers(method)[0]), nn.Sequential(model)):
        with pytest.raises(InputError, match="adapters already"):
            adapt.attach(again, adapt.SVFit(2), [nn.Linear, nn.Embedding])
    assert torch.equal(model(tokens()), found)


def test_numbers_that_are_not_finite_are_refused(method, tmp_path):
    model = trained(adapted(method))
    parameter = adapt.attached(model).adapter_parameters()[-1]
    with torch.no_grad():
        parameter.view(-1)[-1] = float("nan")
    with pytest.raises(InputError, match="NaN or Inf"):
        adapt.save(model, tmp_path / "kept")
    assert not (tmp_path / "kept" / "adapter.safetensors").exists()
    with pytest.raises(InputError, match=r"not finite|depends on the input"):
        adapt.merge(model)
    adapt.attached(model)


def test_half_precision(method):
    for dtype in (torch.bfloat16, torch.float16):
        model = ready(attached(method, zoo().to(dtype)), method)
        assert {p.dtype for p in adapt.attached(model).adapter_parameters()} == {torch.float32}
        assert model(tokens()).dtype == dtype
        if method.starts_at_base:
            assert torch.equal(model(tokens()), zoo().to(dtype)(tokens()))
    model = trained(ready(attached(method, zoo().bfloat16()), method))
    found = model(tokens())
    if mergeable(model):
        adapt.merge(model)
        assert close(model(tokens()).float(), found.float(), 0.05)


def test_autocast(method):
    model = adapted(method)

    def under_autocast(model, x):
        with torch.autocast("cpu", torch.bfloat16):
            return model(x)

    before = under_autocast(model, tokens())
    trained(model, loss=lambda m, x: loss(lambda batch: under_autocast(m, batch).float(), x))
    after = under_autocast(model, tokens())
    assert not torch.equal(before, after)
    assert close(after.float(), model(tokens()), 0.05)


def test_cast_after_attaching(method):
    model = trained(adapted(method)).bfloat16()
    assert model(tokens()).dtype == torch.bfloat16
    trained(model)


def test_every_number_learns(method):
    model = adapted(method)
    before = [p.clone() for p in adapt.attached(model).adapter_parameters()]
    trained(model, steps=3)
    for old, new in zip(before, adapt.attached(model).adapter_parameters(), strict=True):
        assert not torch.equal(old, new)


def test_options_survive_json(method):
    import json

    again = adapt.make_method(method.id, json.loads(json.dumps(method.options())))
    assert again == method
    assert hash(again) == hash(method)
