"""Attach, detach and merge: the model's own weights, flags, buffers, ties and hooks."""

from __future__ import annotations

import copy
import warnings

import pytest
import torch
from torch import nn
from torch.nn.utils.parametrizations import weight_norm

from lowdim import adapt
from lowdim.adapt import adaptation_methods
from lowdim.adapt.record import RECORD
from lowdim.errors import InputError
from tests.adapt.sample import NAMES, attached, tokens, trained, zoo

METHOD = adapt.SVFit(4)


class Tied(nn.Module):
    """A small language model whose output layer is its embedding table."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.emb = nn.Embedding(24, 8)
        self.inner = nn.Linear(8, 8)
        self.lm_head = nn.Linear(8, 24)
        self.lm_head.weight = self.emb.weight

    def forward(self, x):
        return self.lm_head(torch.tanh(self.inner(self.emb(x))))


def nudge(model):
    """Move every number of the adapters a little."""
    with torch.no_grad():
        for parameter in adapt.attached(model).adapter_parameters():
            parameter += 0.1
    return model


def test_the_update_of_a_layer_is_what_its_adapter_says():
    model = attached(METHOD, also=[])
    nudge(model)
    for target, adapter in adapt.attached(model).pairs():
        weight = target.weight + adapter.delta()
        expected = copy.deepcopy(zoo().get_submodule(target.module_name))
        with torch.no_grad():
            expected.weight.copy_(weight.T if target.transposed else weight)
        sizes = {"emb": None, "query": (3, 16), "c_fc": (3, 12), "line": (3, 16, 9)}
        sizes |= {"plane": (3, 12, 4, 5), "volume": (3, 8, 2, 4, 5)}
        size = sizes[target.module_name]
        x = tokens() if size is None else torch.randn(size)
        torch.testing.assert_close(target.module(x), expected(x), rtol=1e-5, atol=1e-5)


def test_only_adapters_and_also_train():
    model = attached(METHOD, also=["classifier"])
    trains = {name for name, p in model.named_parameters() if p.requires_grad}
    assert {name for name in trains if "change" not in name} == {
        "classifier.weight",
        "classifier.bias",
    }


def test_keys_of_the_base_stay_beside_a_linear_layer():
    model = zoo()
    adapt.attach(model, METHOD, ["query", "emb"], also=["classifier"])
    missing, unexpected = model.load_state_dict(zoo(1).state_dict(), strict=False)
    assert not unexpected
    assert all("lowdim_adapter" in name for name in missing)


def test_a_mapping_gives_each_target_its_own_method():
    model = zoo()
    record = adapt.attach(
        model,
        {"query": adapt.SVFit(2), "c_fc": adapt.SVFit(5), "line": adapt.SVFit(2)},
        also=["classifier"],
    )
    ranks = {t.module_name: len(a.change) for t, a in record.pairs()}
    assert ranks == {"query": 2, "c_fc": 5, "line": 2}
    assert len(record.groups) == 2  # equal methods adapt together
    assert record.n_trainable == 9


def test_a_call_by_keyword():
    model = nudge(attached(METHOD, names=["query", "emb"]))
    x = torch.randn(2, 16)
    assert torch.equal(model.query(input=x), model.query(x))
    assert torch.equal(model.emb(input=tokens()), model.emb(tokens()))


def test_subclasses_that_change_the_forward_pass_are_adapted_in_the_weight():
    class Scaled(nn.Embedding):
        def forward(self, index):
            return 3 * super().forward(index + 1)

    model = nn.Sequential(Scaled(9, 4), nn.Linear(4, 4))
    adapt.attach(model, METHOD, "0")
    found = nudge(model)(torch.arange(5))
    assert torch.equal(adapt.merge(model)(torch.arange(5)), found)


def test_multi_head_attention_reads_its_output_weight_directly():
    torch.manual_seed(0)
    layer = nn.TransformerEncoderLayer(16, 2, 32, batch_first=True).eval()
    x = torch.randn(2, 5, 16)
    before = layer(x)
    adapt.attach(layer, METHOD, ["out_proj", "linear1"])
    torch.testing.assert_close(layer(x), before)  # torch takes another path for a frozen layer
    found = nudge(layer)(x)
    with torch.no_grad():
        torch.testing.assert_close(layer(x), found)  # the fast path of evaluation
    assert not torch.allclose(found, before, atol=1e-3)
    torch.testing.assert_close(adapt.merge(layer)(x), found)


def test_tied_tensors_share_one_adapter():
    model = Tied()
    before = model(tokens())
    record = adapt.attach(model, METHOD, ["emb", "lm_head"])
    assert record.n_trainable == 4
    assert torch.equal(model(tokens()), before)
    found = nudge(model)(tokens())
    adapt.merge(model)
    assert model.lm_head.weight is model.emb.weight
    torch.testing.assert_close(model(tokens()), found)


def test_what_adapters_share_is_once_in_the_state_dict():
    """Savers refuse one tensor under two names."""
    model = Tied()
    adapt.attach(model, METHOD, ["emb", "lm_head"])
    for whole in (nudge(model), nn.Sequential(model)):
        state = whole.state_dict()
        assert sum(name.endswith("change") for name in state) == 1
        other = copy.deepcopy(whole)
        assert not any(other.load_state_dict({n: x + 1 for n, x in state.items()}))
        assert all(torch.equal(x, state[n] + 1) for n, x in other.state_dict().items())
    adapt.detach(model)
    assert list(model.state_dict()) == list(Tied().state_dict())


def test_one_of_two_tied_tensors_trains_but_cannot_be_merged(tmp_path):
    model = Tied()
    adapt.attach(model, METHOD, ["emb"])
    found = nudge(model)(tokens())
    with pytest.raises(InputError, match=r"lm_head\.weight is tied"):
        adapt.merge(model)
    assert torch.equal(model(tokens()), found)
    adapt.save(model, tmp_path)
    again = Tied()
    adapt.load(again, tmp_path)
    assert torch.equal(again(tokens()), found)
    assert torch.equal(adapt.detach(model)(tokens()), Tied()(tokens()))


def test_tied_tensors_with_two_methods_are_refused():
    model = Tied()
    with pytest.raises(InputError, match="tied to a tensor that another method adapts"):
        adapt.attach(model, {"emb": adapt.SVFit(2), "lm_head": adapt.SVFit(3)})
    assert not hasattr(model, RECORD)


def test_a_module_that_is_used_twice_is_adapted_twice_in_the_pass():
    class Twice(nn.Module):
        def __init__(self):
            super().__init__()
            torch.manual_seed(0)
            self.a = nn.Linear(6, 6)
            self.b = self.a

        def forward(self, x):
            return self.b(torch.tanh(self.a(x)))

    model = Twice()
    record = adapt.attach(model, METHOD, ["a", "b"])
    assert record.n_trainable == 4
    x = torch.randn(3, 6)
    found = nudge(model)(x)
    torch.testing.assert_close(adapt.merge(model)(x), found)


def test_detach_keeps_what_trained_whole():
    model = trained(attached(METHOD, also=["classifier", "norm"]))
    head, norm = (copy.deepcopy(m.state_dict()) for m in (model.classifier, model.norm))
    adapt.detach(model)
    for now, kept, fresh in ((model.classifier, head, "classifier"), (model.norm, norm, "norm")):
        assert all(torch.equal(x, kept[name]) for name, x in now.state_dict().items())
        old = zoo().get_submodule(fresh).state_dict()
        assert any(not torch.equal(x, old[name]) for name, x in now.state_dict().items())


def test_merge_keeps_the_statistics_of_training():
    model = trained(attached(METHOD))
    mean = model.norm.running_mean.clone()
    assert not torch.equal(mean, zoo().norm.running_mean)
    assert torch.equal(adapt.merge(model).norm.running_mean, mean)


def test_order_of_parameters_is_restored():
    """Optimisers find their state by position."""
    for undo in (adapt.detach, adapt.merge):
        model = undo(attached(METHOD))
        assert [n for n, _ in model.named_parameters()] == [n for n, _ in zoo().named_parameters()]


def test_other_parametrizations_and_lists_of_parameters_are_left_alone():
    def net():
        torch.manual_seed(0)
        model = nn.ModuleDict({"query": nn.Linear(4, 4), "normed": weight_norm(nn.Linear(4, 4))})
        model.numbers = nn.ParameterList([torch.ones(2), torch.zeros(3)])
        return model

    model = net()
    adapt.attach(model, adaptation_methods()["bora"](rank=2), "query")
    adapt.detach(model)
    assert list(model.state_dict()) == list(net().state_dict())
    assert len(model.numbers) == 2
    x = torch.randn(3, 4)
    assert torch.equal(model["normed"](x), net()["normed"](x))


def test_a_copy_can_be_merged_while_the_original_goes_on():
    model = nudge(attached(METHOD))
    found = model(tokens())
    merged = adapt.merge(copy.deepcopy(model))
    torch.testing.assert_close(merged(tokens()), found)
    assert torch.equal(model(tokens()), found)
    trained(model)
    adapt.detach(model)
    torch.testing.assert_close(merged(tokens()), found)


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ((METHOD,), "name the targets"),
        ((METHOD, "qurey"), "did you mean query"),
        ((METHOD, ["norm"]), "svfit adapts .* and norm.weight is of kind other"),
        (({},), "at least one"),
        (({"query": METHOD}, "query"), "names the targets itself"),
        (({"query": METHOD, "quer?": METHOD},), "query.weight is adapted twice"),
        (({"query": METHOD, "quer?": adapt.SVFit(2)},), "query.weight is adapted twice"),
    ],
)
def test_what_cannot_be_attached_leaves_the_model_as_it_was(arguments, said):
    model = zoo()
    with pytest.raises(InputError, match=said):
        adapt.attach(model, *arguments)
    assert all(p.requires_grad for p in model.parameters())
    assert list(model.state_dict()) == list(zoo().state_dict())
    adapt.attach(model, METHOD, "query", also=["classifier"])


@pytest.mark.parametrize("also", [["query"], ["stack"], ["0"]])
def test_also_may_not_train_an_adapted_tensor(also):
    model = nn.Module()
    model.stack = nn.Sequential(nn.Linear(4, 4))
    model.query = model.stack[0]
    with pytest.raises(InputError, match="trains it whole: choose one"):
        adapt.attach(model, METHOD, "query", also=also) if also != ["query"] else adapt.attach(
            model, METHOD, nn.Linear, also=["stack"]
        )


@pytest.mark.parametrize("every", ["all", "linear"])
def test_what_trains_whole_is_left_out_of_every(every):
    model = zoo()
    model.classifier = nn.Sequential(nn.Linear(8, 5), nn.Linear(5, 3))
    record = adapt.attach(model, adapt.RandomSubspace(10), every, also=["classifier"])
    adapted = {target.module_name for target, _ in record.pairs()}
    assert "query" in adapted
    assert not any(name.startswith("classifier") for name in adapted)
    assert all(p.requires_grad for p in model.classifier.parameters())


def test_also_names_what_is_there():
    with pytest.raises(InputError, match="also='clasifier': Zoo has no such module"):
        adapt.attach(zoo(), METHOD, "query", also=["clasifier"])


def test_weights_that_are_no_plain_parameter_are_refused():
    model = nn.ModuleDict(
        {"normed": weight_norm(nn.Linear(4, 4)), "bounded": nn.Embedding(5, 4, max_norm=1.0)}
    )
    with pytest.raises(InputError, match="computed from others"):
        adapt.attach(model, METHOD, "normed")
    with pytest.raises(InputError, match="max_norm"):
        adapt.attach(model, METHOD, "bounded")


def test_quantised_weights_are_refused():
    layer = nn.Linear(4, 4)
    layer.weight = nn.Parameter(torch.zeros(4, 4, dtype=torch.int8), requires_grad=False)
    with pytest.raises(InputError, match=r"stored as torch\.int8"):
        adapt.attach(nn.Sequential(layer), METHOD, "0")


def test_gradients_are_asked_for_and_checked():
    method = adapt.LoRAGA(rank=2)
    with pytest.raises(InputError, match=r"no gradient of query\.weight"):
        adapt.attach(zoo(), method, "query")
    with pytest.raises(InputError, match=r"gradient of query\.weight has shape \(3, 3\)"):
        adapt.attach(zoo(), method, "query", gradients={"query.weight": torch.ones(3, 3)})


def test_a_frozen_head_is_warned_of_and_a_trained_one_is_not():
    with pytest.warns(UserWarning, match="classifier stays frozen"):
        adapt.attach(zoo(), METHOD, "query")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        adapt.attach(zoo(), METHOD, "query", also=["classifier"])
        adapt.attach(zoo(), METHOD, ["query", "classifier"])
        adapt.attach(Tied(), METHOD, "inner")  # the output layer of a language model is old
        outer = nn.Sequential()
        outer.add_module("top", nn.Sequential())
        outer.top.add_module("head", nn.Linear(4, 4))
        outer.add_module("query", nn.Linear(4, 4))
        adapt.attach(outer, METHOD, "query", also=["top"])


def test_nothing_attached_and_adapters_inside_a_wrapper():
    with pytest.raises(InputError, match="no adapters: attach or load"):
        adapt.detach(zoo())
    wrapper = nn.Sequential(attached(METHOD))
    for use in (adapt.detach, adapt.merge, adapt.attached):
        with pytest.raises(InputError, match="inside this Sequential: give that one"):
            use(wrapper)
    compiled = torch.compile(attached(METHOD), backend="eager")
    with pytest.raises(InputError, match="inside this OptimizedModule"):
        adapt.detach(compiled)


@pytest.mark.parametrize("reentrant", [False, True])
def test_gradient_checkpointing(reentrant):
    from torch.utils.checkpoint import checkpoint

    plain, saving = attached(METHOD), attached(METHOD)

    class Saving(nn.Module):
        def __init__(self, inner):
            super().__init__()
            self.inner = inner

        def forward(self, x):
            if reentrant:  # needs an input that requires a gradient, as with any frozen base
                mark = torch.ones((), requires_grad=True)
                return checkpoint(lambda x, _: self.inner(x), x, mark, use_reentrant=True)
            return checkpoint(self.inner, x, use_reentrant=False)

    for model in (plain, Saving(saving)):
        model(tokens()).square().sum().backward()
    for a, b in zip(plain.parameters(), saving.parameters(), strict=True):
        assert (a.grad is None) == (b.grad is None)
        if a.grad is not None:
            torch.testing.assert_close(a.grad, b.grad)


def test_compiled_model_gives_the_same():
    model = nudge(attached(METHOD))
    compiled = torch.compile(model, backend="eager")
    torch.testing.assert_close(compiled(tokens()), model(tokens()))


def test_replicas_of_data_parallel_hold_plain_tensors():
    layer = nn.Sequential(nn.Linear(6, 6))
    adapt.attach(layer, METHOD, "0")
    adapter = nudge(layer)[0].lowdim_adapter
    replica = adapter._replicate_for_data_parallel()
    for name, parameter in adapter.named_parameters():
        setattr(replica, name, parameter.detach().clone())
    x = torch.randn(2, 6)
    assert replica.dtype == torch.float32
    assert torch.equal(replica(x), adapter(x))


def test_names_of_the_sample_are_all_adapted():
    assert [t.module_name for t, _ in adapt.attached(attached(METHOD)).pairs()] == list(NAMES)
