"""What peft makes of an exported adapter: the same outputs, from the files alone."""

from __future__ import annotations

import copy
import json

import pytest
import torch
from torch import nn

from lowdim import adapt
from lowdim.adapt import adaptation_methods
from lowdim.errors import InputError
from tests.adapt.sample import attached, tokens, trained, zoo
from tests.conftest import tiny_config

peft = pytest.importorskip("peft")
transformers = pytest.importorskip("transformers")

METHOD = adapt.SVFit(3)
IDS = torch.arange(24).view(2, 12) % 23


def tiny(name, **changes):
    """A random model of a family, larger in its weights than a fresh one."""
    torch.manual_seed(0)
    family = name.removesuffix("LMHeadModel").split("For")[0]
    model = getattr(transformers, name)(tiny_config(family, **changes))
    for parameter in model.parameters():
        parameter.data += 0.1 * torch.randn_like(parameter)
    return model.eval()


def nudged(model):
    with torch.no_grad():
        for parameter in adapt.attached(model).adapter_parameters():
            parameter += 0.3 * torch.randn_like(parameter)
    return model


def loaded(base, folder):
    return peft.PeftModel.from_pretrained(base, folder).eval()


def test_every_layer_of_the_zoo_and_its_head(tmp_path):
    model = trained(attached(METHOD), lr=0.2)
    found = adapt.to_lora(model, tmp_path)
    assert found.error < 1e-6
    assert set(found.ranks.values()) == {3}
    expected = model(tokens())
    assert not torch.allclose(expected, zoo()(tokens()), atol=1e-2)
    other = loaded(zoo(), tmp_path)
    torch.testing.assert_close(other(tokens()), expected, rtol=1e-5, atol=1e-5)
    merged = other.merge_and_unload()
    torch.testing.assert_close(merged(tokens()), expected, rtol=1e-5, atol=1e-5)
    assert torch.equal(model(tokens()), expected)  # the export changed nothing


def test_every_method_that_has_factors(method, tmp_path):
    model = attached(method)
    if method.id == "strata":
        with pytest.raises(InputError, match="depends on the input"):
            adapt.to_lora(model, tmp_path)
        return
    trained(model)
    low_rank = all(adapter.factors() is not None for _, adapter in adapt.attached(model).pairs())
    if not low_rank:
        with pytest.raises(InputError, match="give a rank to cut it to"):
            adapt.to_lora(model, tmp_path)
    adapt.to_lora(model, tmp_path, rank=None if low_rank else 24)  # no layer has a larger side
    expected = model(tokens())
    torch.testing.assert_close(loaded(zoo(), tmp_path)(tokens()), expected, rtol=1e-5, atol=1e-5)


def test_ranks_that_differ_and_names_that_end_alike(tmp_path):
    def net():
        torch.manual_seed(0)
        inner = nn.ModuleDict({"query": nn.Linear(8, 8), "value": nn.Linear(8, 8)})
        model = nn.ModuleDict({"query": nn.Linear(8, 8), "block": inner})
        model.forward = lambda x: inner["value"](inner["query"](model["query"](x)).tanh())
        return model

    model = net()
    ranks = {"query": 2, "block.query": 5, "block.value": 1}
    adapt.attach(model, {"block.query": adapt.SVFit(5), "block.value": adapt.SVFit(1)})
    adapt.to_lora(nudged(model), tmp_path / "some")
    x = torch.randn(4, 8)
    torch.testing.assert_close(loaded(net(), tmp_path / "some")(x), model(x))

    model = nn.Sequential()  # one name is the end of another, with another rank
    model.add_module("a", nn.Sequential())
    model.a.add_module("query", nn.Linear(8, 8))
    model.add_module("query", nn.Linear(8, 8))
    base = copy.deepcopy(model)
    adapt.attach(model, {"[!a]uery": adapt.SVFit(2), "a.query": adapt.SVFit(5)})
    found = adapt.to_lora(nudged(model), tmp_path / "ends")
    assert found.ranks == {"query": ranks["query"], "a.query": ranks["block.query"]}
    torch.testing.assert_close(loaded(base, tmp_path / "ends")(x), model(x))


def test_equal_ranks_need_no_pattern(tmp_path):
    adapt.to_lora(nudged(attached(METHOD, names=["query", "c_fc"])), tmp_path)
    config = json.loads((tmp_path / "adapter_config.json").read_text())
    assert config["rank_pattern"] == config["alpha_pattern"] == {}
    assert config["r"] == config["lora_alpha"] == 3


def test_bert_with_a_new_classifier(tmp_path):
    def base():
        return tiny("BertForSequenceClassification", num_labels=3)

    model = base()
    adapt.attach(model, adapt.LSR(terms=2), ["query", "value"], also=["classifier"])
    with torch.no_grad():
        model.classifier.weight += 1
    adapt.to_lora(nudged(model), tmp_path)
    fresh = base()
    torch.nn.init.normal_(fresh.classifier.weight)  # a head that was drawn anew
    expected = model(IDS).logits
    other = loaded(fresh, tmp_path)
    torch.testing.assert_close(other(IDS).logits, expected, rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(other.merge_and_unload()(IDS).logits, expected, rtol=1e-5, atol=1e-5)


def test_gpt2_whose_weights_are_stored_transposed(tmp_path):
    model = tiny("GPT2LMHeadModel")
    adapt.attach(model, METHOD, ["c_attn", "c_fc", "c_proj"])
    adapt.to_lora(nudged(model), tmp_path)
    other = loaded(tiny("GPT2LMHeadModel"), tmp_path)
    assert type(other) is peft.PeftModelForCausalLM
    expected = model(IDS).logits
    torch.testing.assert_close(other(IDS).logits, expected, rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(other.merge_and_unload()(IDS).logits, expected, rtol=1e-5, atol=1e-5)


def test_llama_with_its_embedding_table(tmp_path):
    def base():
        return tiny("LlamaForCausalLM", tie_word_embeddings=False)

    model = base()
    adapt.attach(model, METHOD, ["embed_tokens", "q_proj", "down_proj", "lm_head"])
    adapt.to_lora(nudged(model), tmp_path)
    torch.testing.assert_close(
        loaded(base(), tmp_path)(IDS).logits, model(IDS).logits, rtol=1e-5, atol=1e-5
    )


def test_a_table_tied_to_the_output_layer(tmp_path):
    def base():
        return tiny("LlamaForCausalLM", tie_word_embeddings=True)

    model = base()
    assert model.lm_head.weight is model.model.embed_tokens.weight
    adapt.attach(model, METHOD, ["embed_tokens", "lm_head"])
    adapt.to_lora(nudged(model), tmp_path)
    torch.testing.assert_close(
        loaded(base(), tmp_path)(IDS).logits, model(IDS).logits, rtol=1e-5, atol=1e-5
    )


def test_a_cut_update_says_what_it_lost(tmp_path):
    model = attached(adaptation_methods()["sltrain"](rank=2, density=0.2), names=["query"])
    trained(model, lr=0.2)
    _, adapter = adapt.attached(model).pairs()[0]
    s = torch.linalg.svdvals(adapter.delta().detach().double())
    found = adapt.to_lora(model, tmp_path, rank=3)
    assert found.error == pytest.approx(float(s[3:].norm() / s.norm()), rel=1e-4)


def test_a_low_rank_update_may_be_cut_further(tmp_path):
    model = nudged(attached(METHOD, names=["query"]))
    found = adapt.to_lora(model, tmp_path, rank=2)
    assert found.ranks == {"query": 2}
    s = torch.linalg.svdvals(adapt.attached(model).pairs()[0][1].delta().detach().double())
    assert found.error == pytest.approx(float(s[2] / s.norm()), rel=1e-4)


def test_a_base_in_half_precision(tmp_path):
    model = nudged(attached(METHOD, zoo().bfloat16(), names=["query", "emb"]))
    adapt.to_lora(model, tmp_path)
    other = loaded(zoo().bfloat16(), tmp_path)
    torch.testing.assert_close(other(tokens()), model(tokens()), rtol=0.05, atol=0.05)


def test_what_lora_cannot_hold(tmp_path):
    with pytest.raises(InputError, match="no adapters"):
        adapt.to_lora(zoo(), tmp_path)
    model = zoo()
    random = adaptation_methods()["random-subspace"](dim=20)
    adapt.attach(model, random, "all")
    with pytest.raises(InputError, match=r"bias is no weight|norm.* is no weight|full rank"):
        adapt.to_lora(model, tmp_path)
    layer = nn.Linear(4, 4)
    adapt.attach(layer, METHOD, nn.Linear)
    with pytest.raises(InputError, match="is the whole model"):
        adapt.to_lora(layer, tmp_path)
    grouped = nn.Sequential(nn.Conv1d(4, 4, 3, groups=2))
    adapt.attach(grouped, METHOD, nn.Conv1d)
    with pytest.raises(InputError, match="grouped convolution"):
        adapt.to_lora(grouped, tmp_path)
    with pytest.raises(InputError, match="rank=0"):
        adapt.to_lora(attached(METHOD), tmp_path, rank=0)
    assert not list(tmp_path.iterdir())


def test_what_peft_would_leave_out_or_cannot_read(tmp_path):
    block = nn.ModuleDict({"norm": nn.ModuleDict({"query": nn.Linear(4, 4)})})
    model = nn.ModuleDict({"norm": nn.BatchNorm1d(4), "block": block})
    adapt.attach(model, METHOD, ["query"])
    model["norm"](torch.randn(9, 4))  # moves its statistics
    with pytest.raises(InputError, match="is stored whole, and peft adapts nothing"):
        adapt.to_lora(model, tmp_path)
    model = attached(METHOD)
    adapt.attached(model).adapter_parameters()[0].data[0] = torch.inf
    with pytest.raises(InputError, match=r"NaN or Inf|miss its update"):
        adapt.to_lora(model, tmp_path)
    assert not list(tmp_path.iterdir())
