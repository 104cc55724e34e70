import dataclasses
import math
from contextlib import suppress
from itertools import pairwise

import pytest
import torch

from lowdim.errors import InputError, MemoryBudgetError
from lowdim.io.activations import (
    embed,
    hidden_states,
    input_moments,
    perplexity,
    replaced_weight,
)
from lowdim.io.batches import tokenize
from lowdim.io.models import load_model
from tests.conftest import SENTENCES

transformers = pytest.importorskip("transformers")

FAMILIES = ["BertModel", "GPT2LMHeadModel", "GPTNeoXForCausalLM", "LlamaForCausalLM", "T5Model"]
CAUSAL = ["GPT2LMHeadModel", "GPTNeoXForCausalLM", "LlamaForCausalLM"]


@pytest.fixture(scope="module")
def model_of(tiny_folder):
    made = {}

    def make(name):
        if name not in made:
            made[name] = load_model(tiny_folder(name))
        return made[name]

    return make


@pytest.fixture(scope="module")
def minilm(minilm_folder):
    return load_model(minilm_folder)


@pytest.fixture(scope="module")
def stories(stories15m_folder):
    return load_model(stories15m_folder)


def alone(model, text):
    """Hidden states (L + 1, t, d) of one text by itself: nothing is padded, nothing masked."""
    ids = model.tokenizer(text, return_tensors="pt")["input_ids"]
    with torch.no_grad():
        output = model.body(input_ids=ids, output_hidden_states=True)
    return ids[0], torch.stack(output.hidden_states)[:, 0]


def is_word(model, ids):
    """True at tokens that are not [CLS] or [SEP]."""
    return ~torch.isin(ids, torch.tensor([2, 3]))


@pytest.mark.parametrize("name", FAMILIES)
@pytest.mark.parametrize("pooling", ["mean", "last", "tokens"])
def test_each_text_gives_what_it_gives_alone(name, pooling, model_of):
    """The independent reference: one forward pass for each text, no batch, no padding."""
    model = model_of(name)
    expected, rows = [], []
    for i, text in enumerate(SENTENCES):
        ids, states = alone(model, text)
        if pooling == "tokens" or (pooling == "mean" and model.kind == "causal"):
            states = states[:, is_word(model, ids)]
        if pooling == "mean":
            states = states.mean(1, keepdim=True)
        if pooling == "last":
            states = states[:, -1:]
        expected.append(states)
        rows += [i] * states.shape[1]
    found = hidden_states(model, SENTENCES, pooling=pooling, batch_tokens=64)
    assert found.names == ["embedding", "layer 1", "layer 2"]
    assert found.rows.tolist() == rows
    torch.testing.assert_close(
        torch.stack(found.layers), torch.cat(expected, 1), rtol=1e-4, atol=1e-5
    )


@pytest.mark.parametrize("name", FAMILIES)
def test_results_do_not_depend_on_batches_or_order(name, model_of):
    model = model_of(name)
    for pooling in ("mean", "last", "tokens"):
        one = hidden_states(model, SENTENCES, pooling=pooling, batch_tokens=1)
        many = hidden_states(model, SENTENCES, pooling=pooling, batch_tokens=10**4)
        back = hidden_states(model, SENTENCES[::-1], pooling=pooling, batch_tokens=40)
        assert torch.equal(one.rows, many.rows)
        order = (len(SENTENCES) - 1 - back.rows).argsort(stable=True)
        for a, b, c in zip(one.layers, many.layers, back.layers, strict=True):
            torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-5)
            torch.testing.assert_close(a, c[order], rtol=1e-4, atol=1e-5)


def test_padding_never_enters_whatever_token_it_is(model_of):
    model = model_of("LlamaForCausalLM")
    before = hidden_states(model, SENTENCES).layers[-1]
    pad = model.tokenizer.pad_token
    try:
        model.tokenizer.pad_token = "cat"
        after = hidden_states(model, SENTENCES).layers[-1]
    finally:
        model.tokenizer.pad_token = pad
    assert torch.equal(before, after)


def test_token_samples_are_of_the_same_rows_in_every_layer(model_of):
    model = model_of("BertModel")
    full = hidden_states(model, SENTENCES, pooling="tokens")
    assert full.notes == ()
    assert len(full.rows) == sum(len(text.split()) for text in SENTENCES)
    some = hidden_states(model, SENTENCES, pooling="tokens", max_points=11, seed=3, batch_tokens=9)
    assert some.layers[0].shape == (11, 32)
    assert "11 of 50 tokens" in some.notes[0]
    matches = torch.cdist(some.layers[2], full.layers[2]).argmin(1)
    assert matches.unique().tolist() == matches.tolist()  # ascending, none twice
    for few, many in zip(some.layers, full.layers, strict=True):
        torch.testing.assert_close(few, many[matches], rtol=1e-4, atol=1e-5)
    assert torch.equal(some.rows, full.rows[matches])
    again = hidden_states(model, SENTENCES, pooling="tokens", max_points=11, seed=3)
    assert torch.equal(again.rows, some.rows)
    other = hidden_states(model, SENTENCES, pooling="tokens", max_points=11, seed=4)
    assert not torch.equal(other.layers[0], some.layers[0])


def test_text_samples_name_their_texts(model_of):
    model = model_of("BertModel")
    full = hidden_states(model, SENTENCES)
    some = hidden_states(model, SENTENCES, max_points=3, seed=1)
    assert len(some.rows) == 3
    assert "3 of 8 texts" in some.notes[0]
    torch.testing.assert_close(some.layers[1], full.layers[1][some.rows], rtol=1e-4, atol=1e-5)


def test_long_texts_are_cut_and_said_so(model_of):
    model = model_of("BertModel")
    texts = ["the cat " * 40, "a dog"]
    found = hidden_states(model, texts, max_length=10**6)
    assert found.token_count == 32 + 4
    assert "1 texts reach 32 tokens" in found.notes[0]
    cut = hidden_states(model, texts, max_length=5)
    assert cut.token_count == 5 + 4


@pytest.mark.parametrize(("pooling", "at"), [("cls", 0), ("last", -1)])
def test_an_encoder_embeds_by_its_own_rule(pooling, at, model_of):
    model = dataclasses.replace(model_of("BertModel"), pooling=pooling, normalize=True)
    expected = torch.stack([alone(model, text)[1][-1, at] for text in SENTENCES])
    expected = torch.nn.functional.normalize(expected)
    torch.testing.assert_close(embed(model, SENTENCES), expected, rtol=1e-4, atol=1e-5)
    found = hidden_states(model, SENTENCES)
    torch.testing.assert_close(found.embedding, expected, rtol=1e-4, atol=1e-5)
    tokens = hidden_states(model, SENTENCES, pooling="tokens")
    assert torch.equal(tokens.embedding, tokens.layers[-1])


def test_texts_without_tokens_are_named(model_of):
    with pytest.raises(InputError, match="text 1 has no tokens"):
        hidden_states(model_of("GPT2LMHeadModel"), ["a dog", "", "a cat"])
    with pytest.raises(InputError, match="text 1 has no tokens but special ones"):
        hidden_states(model_of("LlamaForCausalLM"), ["a dog", "", "a cat"])
    assert len(hidden_states(model_of("BertModel"), ["a dog", "", "a cat"]).rows) == 3
    with pytest.raises(InputError, match="text 2 is a float"):
        hidden_states(model_of("BertModel"), ["a", "b", math.nan])
    for nothing in ([], "one string"):
        with pytest.raises(InputError, match="at least one text"):
            embed(model_of("BertModel"), nothing)
        with pytest.raises(InputError, match="at least one text"):
            hidden_states(model_of("BertModel"), nothing)
    with pytest.raises(InputError, match="max"):
        hidden_states(model_of("BertModel"), SENTENCES, pooling="max")


def test_what_cannot_fit_says_so_first(model_of):
    with pytest.raises(MemoryBudgetError, match="hidden states needs at least"):
        hidden_states(model_of("BertModel"), SENTENCES, memory=10_000)
    roomy = hidden_states(model_of("BertModel"), SENTENCES)
    tight = hidden_states(model_of("BertModel"), SENTENCES, memory="60kB")
    torch.testing.assert_close(tight.layers[2], roomy.layers[2], rtol=1e-4, atol=1e-5)


def test_progress_counts_texts(model_of):
    seen = []
    hidden_states(
        model_of("BertModel"), SENTENCES, batch_tokens=40, progress=lambda *at: seen.append(at)
    )
    assert len(seen) > 2
    assert [done for done, _ in seen] == sorted({done for done, _ in seen})
    assert seen[-1] == (8, 8)


@pytest.mark.parametrize("name", FAMILIES)
def test_input_moments_are_those_of_each_text_alone(name, model_of):
    model = model_of(name)
    inputs = {name: [] for name in model.linears()}
    hooks = [
        module.register_forward_pre_hook(lambda _, args, name=name: inputs[name].append(args[0]))
        for name, module in model.linears().items()
    ]
    for text in SENTENCES:
        alone(model, text)
    for hook in hooks:
        hook.remove()
    moments = input_moments(model, SENTENCES, batch_tokens=50)
    per_token = {k: torch.cat([x[0] for x in v]) for k, v in inputs.items() if v[0].ndim == 3}
    assert moments.keys() == per_token.keys()
    for key, x in per_token.items():
        expected = x.double().T @ x.double() / len(x)
        assert moments[key].count == len(x) == len(tokenize(model, SENTENCES).ids)
        found = moments[key].second_moment(center=False)
        assert found.dtype == torch.float64
        torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-5)
    assert not any(m._forward_pre_hooks for m in model.module.modules())


def test_queries_keys_and_values_share_their_moments(model_of):
    attention = "model.layers.0.self_attn"
    moments = input_moments(model_of("LlamaForCausalLM"), SENTENCES)
    q, k, v, o = (moments[f"{attention}.{part}_proj"] for part in "qkvo")
    assert q is k is v
    assert o is not q
    assert len({id(m) for m in moments.values()}) == 2 * 4  # q k v | o | gate up | down


def test_moments_of_chosen_modules_and_of_unknown_ones(model_of):
    model = model_of("LlamaForCausalLM")
    name = "model.layers.1.mlp.down_proj"
    every, one = input_moments(model, SENTENCES), input_moments(model, SENTENCES, [name])
    assert list(one) == [name]
    assert torch.equal(one[name].scatter, every[name].scatter)
    with pytest.raises(InputError, match="no linear module 'nonsense'"):
        input_moments(model, SENTENCES, ["nonsense"])
    with pytest.raises(MemoryBudgetError, match="moments of the inputs"):
        input_moments(model, SENTENCES, memory="50kB")


def test_a_pooler_sees_no_tokens_and_is_left_out(model_of):
    model = model_of("BertModel")
    assert set(model.linears()) - set(input_moments(model, SENTENCES)) == {"pooler.dense"}


@pytest.mark.parametrize("name", CAUSAL)
def test_perplexity_is_that_of_the_model_s_own_loss(name, model_of):
    model = model_of(name)
    total, count = 0.0, 0
    for text in SENTENCES:
        ids = model.tokenizer(text, return_tensors="pt")["input_ids"]
        if ids.shape[1] > 1:
            with torch.no_grad():
                total += float(model.module(ids, labels=ids).loss) * (ids.shape[1] - 1)
            count += ids.shape[1] - 1
    found = perplexity(model, SENTENCES, batch_tokens=60)
    assert found.n == count
    assert found.value == pytest.approx(math.exp(total / count), rel=1e-5)
    assert found.low < found.value < found.high
    assert perplexity(model, SENTENCES, batch_tokens=1).value == pytest.approx(
        found.value, rel=1e-5
    )
    single = perplexity(model, [SENTENCES[2]])
    assert single.interval == ""
    assert float(found.per_point[2]) == pytest.approx(single.value, rel=1e-4)


def test_perplexity_of_a_uniform_model_is_its_vocabulary(model_of):
    model = model_of("LlamaForCausalLM")
    head = model.module.lm_head.weight
    original = head.data
    try:
        head.data = torch.zeros_like(original)
        assert perplexity(model, SENTENCES).value == pytest.approx(len(original))
    finally:
        head.data = original


def test_perplexity_needs_something_to_predict(model_of):
    with pytest.raises(InputError, match="BertModel predicts no next token"):
        perplexity(model_of("BertModel"), SENTENCES)
    with pytest.raises(InputError, match="no text has two tokens"):
        perplexity(model_of("GPT2LMHeadModel"), ["old", "cat"])


@pytest.mark.parametrize(
    ("name", "module"),
    [
        ("BertModel", "encoder.layer.0.output.dense"),
        ("GPT2LMHeadModel", "transformer.h.0.mlp.c_fc"),
    ],
)
def test_a_replaced_weight_works_and_comes_back_exactly(name, module, model_of):
    model = model_of(name)
    before, states = model.weight(module).clone(), hidden_states(model, SENTENCES).layers[-1]
    kept = model.parameter(module).data_ptr()
    with suppress(ZeroDivisionError), replaced_weight(model, module, 2 * before.double()):
        assert torch.equal(model.weight(module), 2 * before)
        assert not torch.allclose(hidden_states(model, SENTENCES).layers[-1], states)
        raise ZeroDivisionError  # it comes back after an error as well
    assert torch.equal(model.weight(module), before)
    assert model.parameter(module).data_ptr() == kept
    assert torch.equal(hidden_states(model, SENTENCES).layers[-1], states)
    with (
        pytest.raises(InputError, match="same shape"),
        replaced_weight(model, module, before[:, :-1]),
    ):
        pass


def test_minilm_is_pooled_and_scaled_as_published(minilm):
    texts = ["A cat sits on the mat.", "Kittens play.", "The stock market fell sharply today."]
    inputs = minilm.tokenizer(texts, padding=True, return_tensors="pt")
    with torch.no_grad():
        last = minilm.module(**inputs).last_hidden_state
    mask = inputs["attention_mask"][..., None]
    mean = (last * mask).sum(1) / mask.sum(1)
    found = hidden_states(minilm, texts)
    torch.testing.assert_close(found.layers[-1], mean, rtol=1e-4, atol=1e-5)
    unit = torch.nn.functional.normalize(mean)
    torch.testing.assert_close(found.embedding, unit, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(embed(minilm, texts), unit, rtol=1e-4, atol=1e-5)
    cosine = unit @ unit.T
    assert cosine[0, 1] > 0.3 > 0.1 > cosine[0, 2]


def test_minilm_does_not_depend_on_batches(minilm):
    from lowdim.datasets import glosses

    texts = list(glosses().texts[:32])
    one = hidden_states(minilm, texts, batch_tokens=1)
    many = hidden_states(minilm, texts[::-1], batch_tokens=10**4)
    for a, b in zip(one.layers, many.layers, strict=True):
        torch.testing.assert_close(a, b.flip(0), rtol=1e-4, atol=2e-5)


STORY = (
    "Once upon a time, there was a little girl named Mia. She had a red ball. One day, Mia went "
    "to the park with her mom. She saw a big dog. The dog wanted to play with the ball. Mia was "
    "happy and they played all day."
)


def test_stories15m_finds_stories_likely_and_shuffled_ones_not(stories):
    words = STORY.split()
    shuffled = " ".join(
        words[i] for i in torch.randperm(len(words), generator=torch.manual_seed(0))
    )
    assert 1.5 < perplexity(stories, [STORY]).value < 4
    assert perplexity(stories, [shuffled]).value > 200


def test_stories15m_does_not_depend_on_batches(stories):
    texts = [STORY, "The cat sat.", "Tom had a red car and he was very happy.", STORY[:60]]
    one = hidden_states(stories, texts, batch_tokens=1)
    many = hidden_states(stories, texts[::-1], batch_tokens=10**4)
    for a, b in zip(one.layers, many.layers, strict=True):
        torch.testing.assert_close(a, b.flip(0), rtol=1e-4, atol=1e-4)


def test_stories15m_tokenizer_merges_by_score(stories):
    """The reference is the rule itself: join the adjacent pair whose joint piece scores best."""
    index = stories.tokenizer.get_vocab()

    def encode(text):
        pieces = list("▁" + text.replace(" ", "▁"))
        while True:
            joint = [(index.get(a + b, 10**9), i) for i, (a, b) in enumerate(pairwise(pieces))]
            best, i = min(joint, default=(10**9, 0))  # pieces are numbered by falling score
            if best == 10**9:
                return [1, *(index[piece] for piece in pieces)]
            pieces[i : i + 2] = [pieces[i] + pieces[i + 1]]

    for text in (STORY, "Extraordinary mathematicians, 1234 dollars; naïve façade!"):
        assert stories.tokenizer(text)["input_ids"] == encode(text)
    fallback = stories.tokenizer("🐈")["input_ids"]
    assert fallback[-4:] == [3 + byte for byte in "🐈".encode()]
    assert stories.tokenizer.decode(fallback, skip_special_tokens=True) == "🐈"


@pytest.mark.slow
def test_smollm2_finds_plain_english_likely(smollm2_folder):
    model = load_model(smollm2_folder)
    text = (
        "Photosynthesis is the process by which green plants use sunlight to make food from carbon "
        "dioxide and water, and release oxygen."
    )
    assert perplexity(model, [text]).value < 15
