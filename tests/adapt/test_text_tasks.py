"""Tasks of text: pooling, losses and perplexity against the library and transformers."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import nn

from lowdim import adapt
from lowdim.adapt import causal_lm, fit, text_classification
from lowdim.adapt.task import fingerprint
from lowdim.adapt.text_data import read_examples
from lowdim.adapt.text_tasks import usual_targets
from lowdim.core.random import permutation
from lowdim.datasets import glosses
from lowdim.errors import InputError
from lowdim.io.activations import embed, hidden_states, perplexity
from lowdim.io.batches import padded
from lowdim.io.models import load_model
from lowdim.io.text import Texts
from tests.conftest import SENTENCES

pytest.importorskip("transformers")

Folder = Callable[[str], Path]
LABELLED = [(text, "cat" if "cat" in text else "none") for text in SENTENCES]


@pytest.mark.parametrize(
    ("name", "targets"),
    [
        ("BertModel", ("query", "value")),
        ("LlamaForCausalLM", ("q_proj", "v_proj")),
        ("GPT2LMHeadModel", ("c_attn",)),
        ("MPNetModel", ("attn.q", "attn.v")),
    ],
)
def test_queries_and_values_are_found_by_their_names(
    tiny_folder: Folder, name: str, targets: tuple[str, ...]
) -> None:
    task = text_classification(tiny_folder(name), LABELLED, LABELLED)
    assert task.targets == targets
    found = adapt.find_targets(task.fresh(), task.targets)
    assert len(found) == 2 * len(targets)  # two layers


def test_other_models_are_adapted_in_every_linear_layer() -> None:
    assert usual_targets(nn.Sequential(nn.Linear(2, 2))) == "linear"


def test_an_encoder_is_read_as_it_pools(tiny_folder: Folder) -> None:
    task = text_classification(tiny_folder("BertModel"), LABELLED, LABELLED)
    model = task.fresh().eval()
    head = model.get_submodule("classifier")
    batch = padded(task.base, task.train_tokens, torch.arange(len(SENTENCES)))
    wanted = head(embed(task.base, SENTENCES))  # base without normalisation
    torch.testing.assert_close(task.scores(model, batch), wanted, rtol=1e-4, atol=1e-5)
    assert task.predict(model, SENTENCES) == [task.labels[i] for i in wanted.argmax(1)]
    right = [label == text[1] for label, text in zip(task.predict(model, SENTENCES), LABELLED,
                                                     strict=True)]  # fmt: skip
    assert task.evaluate(model).value == sum(right) / len(right)


@pytest.mark.parametrize("name", ["LlamaForCausalLM", "GPT2LMHeadModel"])
def test_a_causal_model_is_read_at_its_last_token(tiny_folder: Folder, name: str) -> None:
    task = text_classification(tiny_folder(name), LABELLED, LABELLED)
    model = task.fresh().eval()
    assert not hasattr(model, "lm_head")
    batch = padded(task.base, task.train_tokens, torch.arange(len(SENTENCES)))
    last = hidden_states(task.base, SENTENCES, pooling="last").layers[-1]
    wanted = model.get_submodule("classifier")(last)
    torch.testing.assert_close(task.scores(model, batch), wanted, rtol=1e-4, atol=1e-5)


def test_a_loss_does_not_depend_on_the_padding(tiny_folder: Folder) -> None:
    task = text_classification(tiny_folder("BertModel"), LABELLED, LABELLED, batch_size=8)
    model = task.fresh().eval()
    (batch,) = task.batches(0, 0)
    single = [nn.functional.cross_entropy(
        task.scores(model, padded(task.base, task.train_tokens, batch.texts[i : i + 1])),
        batch.labels[i : i + 1]) for i in range(8)]  # fmt: skip
    assert task.loss(model, batch).item() == pytest.approx(sum(single).item() / 8, rel=1e-5)


def test_an_epoch_holds_every_text_once_in_batches_of_similar_length(tiny_folder: Folder) -> None:
    data = LABELLED * 8
    task = text_classification(tiny_folder("BertModel"), data, LABELLED, batch_size=8)
    orders, places = [], 0
    for seed, epoch in ((0, 0), (0, 0), (0, 1), (1, 0)):
        batches = list(task.batches(seed, epoch))
        places = sum(batch.ids.numel() for batch in batches)
        assert len(batches) == task.n_batches() == 8
        texts = torch.cat([batch.texts for batch in batches])
        assert torch.equal(texts.sort().values, torch.arange(len(data)))
        for batch in batches:
            assert [task.labels[i] for i in batch.labels] == [data[i][1] for i in batch.texts]
        orders.append(texts.tolist())
    assert orders[0] == orders[1]
    assert len({tuple(order) for order in orders}) == 3
    used = int(task.train_tokens.lengths.sum())
    assert places == used  # eight lengths, eight texts of each: no padding


def test_heads_are_drawn_from_the_seed_and_the_base_stays(tiny_folder: Folder) -> None:
    task = text_classification(tiny_folder("BertModel"), LABELLED, LABELLED, batch_size=4)
    before = fingerprint(task.base.module.state_dict().values())
    a, b, c = (fingerprint(task.fresh(seed).state_dict().values()) for seed in (0, 0, 1))
    assert a == b != c
    model = task.fresh()
    fit(model, task, epochs=1, lr=0.1)
    assert fingerprint(task.base.module.state_dict().values()) == before
    assert fingerprint(task.fresh().state_dict().values()) == a
    weight = task.fresh().get_parameter("classifier.weight")
    assert 0.01 < weight.std().item() < 0.03
    assert not task.fresh().get_parameter("classifier.bias").any()


def test_adapters_learn_a_task_and_load_into_the_model_of_the_folder(
    tiny_folder: Folder, tmp_path: Path
) -> None:
    peft = pytest.importorskip("peft")
    folder = tiny_folder("BertModel")
    task = text_classification(folder, LABELLED * 4, LABELLED, batch_size=8)
    model = task.fresh()
    adapt.attach(model, adapt.SVFit(32), "linear", also=task.also)
    found = fit(model, task, epochs=10, lr=0.1)
    assert found.score.value == 1.0
    adapt.to_lora(model, tmp_path / "lora")
    plain = load_model(folder)
    loaded = peft.PeftModel.from_pretrained(plain.module, tmp_path / "lora").eval()
    batch = padded(plain, task.valid_tokens, torch.arange(len(SENTENCES)))
    given = {"input_ids": batch.ids, "attention_mask": batch.mask.long()}
    with torch.no_grad():
        ours, theirs = (m(**given).last_hidden_state for m in (model, loaded))
    torch.testing.assert_close(theirs[batch.mask], ours[batch.mask], rtol=1e-4, atol=1e-4)
    adapt.save(model, tmp_path / "own")
    again = task.fresh(seed=5)
    adapt.load(again, tmp_path / "own")
    assert again.eval()(**given).last_hidden_state.equal(model(**given).last_hidden_state)
    assert task.predict(again, SENTENCES) == [label for _, label in LABELLED]


def test_dropout_is_that_of_the_models_configuration(tiny_folder: Folder) -> None:
    task = text_classification(tiny_folder("BertModel"), LABELLED, LABELLED, batch_size=8)
    model = task.fresh()
    assert task.base.config.hidden_dropout_prob > 0
    (batch,) = task.batches(0, 0)
    model.train()
    assert task.loss(model, batch) != task.loss(model, batch)
    model.eval()
    assert task.loss(model, batch) == task.loss(model, batch)


@pytest.mark.parametrize("name", ["LlamaForCausalLM", "GPT2LMHeadModel"])
def test_the_loss_of_a_causal_model_is_that_of_transformers(tiny_folder: Folder, name: str) -> None:
    texts = [text for text in SENTENCES if len(text.split()) > 1]
    task = causal_lm(tiny_folder(name), texts, texts, batch_size=len(texts))
    model = task.fresh().eval()
    (batch,) = task.batches(0, 0)
    labels = batch.ids.masked_fill(~batch.mask, -100)
    with torch.no_grad():
        theirs = model(input_ids=batch.ids, attention_mask=batch.mask.long(), labels=labels).loss
        assert float(task.loss(model, batch)) == pytest.approx(float(theirs), rel=1e-5)


def test_perplexity_is_measured_on_held_out_texts(tiny_folder: Folder) -> None:
    folder = tiny_folder("LlamaForCausalLM")
    task = causal_lm(folder, SENTENCES, SENTENCES[:5], batch_size=4)
    model = task.fresh().train()
    score = task.evaluate(model)
    wanted = perplexity(load_model(folder), SENTENCES[:5])
    assert model.training
    assert (score.value, score.low, score.high, score.n) == pytest.approx(
        (wanted.value, wanted.low, wanted.high, wanted.n)
    )
    assert math.exp(float(score.per_item.mean())) == pytest.approx(score.value)
    adapt.attach(model, adapt.SVFit(8), task.targets)
    found = fit(model, task, epochs=8, lr=0.1)
    assert found.score.value < 0.9 * score.value


def test_the_perplexity_of_a_diverged_model_is_infinite(tiny_folder: Folder) -> None:
    task = causal_lm(tiny_folder("GPT2LMHeadModel"), SENTENCES[:3], SENTENCES[:3])
    model = task.fresh()
    with torch.no_grad():
        model.get_parameter("transformer.ln_f.weight").mul_(1e6)
    score = task.evaluate(model)
    assert (score.value, score.high) == (math.inf, math.inf)


@pytest.mark.slow
def test_minilm_learns_fields_of_the_dictionary(minilm_folder: Path) -> None:
    found = glosses()
    order = permutation(len(found), 0).tolist()
    data = [(found.texts[i], found.labels[i]) for i in order]
    task = text_classification(minilm_folder, data[:400], data[400:800], max_length=32)
    model = task.fresh()
    chance = task.evaluate(model)
    adapt.attach(model, adapt.SVFit(64), task.targets, also=task.also)
    score = fit(model, task, epochs=2, lr=5e-3).score
    assert chance.high < 0.3
    assert score.low > 0.7  # of eight fields


def test_texts_beyond_the_length_are_cut(tiny_folder: Folder) -> None:
    task = causal_lm(tiny_folder("LlamaForCausalLM"), SENTENCES, SENTENCES, max_length=4)
    assert int(task.train_tokens.lengths.max()) == 4
    assert task.evaluate(task.fresh()).n == int((task.valid_tokens.lengths - 1).sum())


def test_files_lists_and_texts_are_the_same_data(tiny_folder: Folder, tmp_path: Path) -> None:
    folder = tiny_folder("BertModel")
    path = tmp_path / "train.jsonl"
    lines = [json.dumps({"text": text, "label": label}) for text, label in LABELLED]
    path.write_text("\n".join(lines), encoding="utf-8")
    texts = Texts([text for text, _ in LABELLED], [label for _, label in LABELLED])
    keys = {
        text_classification(folder, data, data).key
        for data in (path, LABELLED, texts, read_examples(path))
    }
    assert len(keys) == 1
    assert text_classification(folder, LABELLED, LABELLED[:4]).key not in keys


def test_pairs_are_joined_as_the_tokenizer_joins_them(tiny_folder: Folder, tmp_path: Path) -> None:
    folder = tiny_folder("BertModel")
    triples = [(SENTENCES[i], SENTENCES[-1 - i], "ab"[i % 2]) for i in range(6)]
    path = tmp_path / "pairs.jsonl"
    lines = [json.dumps({"text": a, "sentence2": b, "label": c}) for a, b, c in triples]
    path.write_text("\n".join(lines), encoding="utf-8")
    ours = text_classification(folder, triples, triples)
    read = text_classification(folder, path, path, second="sentence2")
    assert ours.key == read.key
    for i, (a, b, _) in enumerate(triples):
        start, n = int(ours.train_tokens.starts[i]), int(ours.train_tokens.lengths[i])
        assert ours.train_tokens.ids[start : start + n].tolist() == ours.base.tokenizer(
            a, b, truncation=True)["input_ids"]  # fmt: skip
    inner = ours.tuning()
    assert sorted(inner.train.second + inner.valid.second) == sorted(b for _, b, _ in triples)


def test_tuning_holds_out_a_fifth_of_the_training_texts(tiny_folder: Folder) -> None:
    data = [(f"the cat {i % 7} sat", str(i % 2)) for i in range(20)]
    task = text_classification(tiny_folder("BertModel"), data, [("a dog", "1")])
    inner = task.tuning()
    assert len(inner.train) == 16
    both = [*zip(inner.train.texts, inner.train.labels, strict=True),
            *zip(inner.valid.texts, inner.valid.labels, strict=True)]  # fmt: skip
    assert sorted(both) == sorted(data)
    assert inner.labels == task.labels
    assert len(inner.valid_tokens.lengths) == 4


def test_labels_are_checked(tiny_folder: Folder) -> None:
    folder = tiny_folder("BertModel")
    strange = [*LABELLED, ("a dog", "whale")]
    with pytest.raises(InputError, match="valid has the label 'whale', which no training text"):
        text_classification(folder, LABELLED, strange)
    with pytest.raises(InputError, match="every training text has the label 'cat'"):
        text_classification(folder, [("a cat", "cat")], [("a cat", "cat")])
    with pytest.raises(InputError, match="valid has no labels"):
        text_classification(folder, LABELLED, SENTENCES)
    for odd in ([("a", "b", "c", "d")], [*LABELLED, "a dog"], [*LABELLED, 3], [("a", "b"), ("a",)]):
        with pytest.raises(InputError, match=r"give \(text, label\) or \(text, second text"):
            text_classification(folder, odd, LABELLED)
    with pytest.raises(InputError, match="text 0 is a int"):
        text_classification(folder, [(3, "a"), ("a", "b")], LABELLED)


def test_bad_input(tiny_folder: Folder) -> None:
    with pytest.raises(InputError, match="predicts no next token"):
        causal_lm(tiny_folder("BertModel"), SENTENCES, SENTENCES)
    with pytest.raises(InputError, match="at least one text"):
        causal_lm(tiny_folder("LlamaForCausalLM"), [], SENTENCES)
    with pytest.raises(InputError, match="training text 1 has a single token"):
        causal_lm(tiny_folder("GPT2LMHeadModel"), ["the cat", "old"], SENTENCES)
    with pytest.raises(InputError, match="max_length=1"):
        text_classification(tiny_folder("BertModel"), LABELLED, LABELLED, max_length=1)
    with pytest.raises(InputError, match="does not exist"):
        text_classification(tiny_folder("BertModel"), "missing.jsonl", LABELLED)
