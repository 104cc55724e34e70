import json
import logging
import shutil
import sys

import pytest
import torch
from safetensors.torch import load_file, save_file

from lowdim.errors import InputError, MissingExtraError
from lowdim.io.models import load_model

transformers = pytest.importorskip("transformers")


@pytest.fixture
def folder(tiny_folder, tmp_path):
    """A copy of a tiny BERT that a test may spoil."""
    return shutil.copytree(tiny_folder("BertModel"), tmp_path / "model")


def change_config(folder, **changes):
    path = folder / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


def as_sentence_model(folder, *kinds, **pooling):
    modules = [{"path": "", "type": "sentence_transformers.models.Transformer"}]
    modules += [{"path": kind, "type": f"sentence_transformers.models.{kind}"} for kind in kinds]
    (folder / "modules.json").write_text(json.dumps(modules))
    (folder / "Pooling").mkdir(exist_ok=True)
    (folder / "Pooling" / "config.json").write_text(json.dumps(pooling))


@pytest.mark.parametrize(
    ("name", "kind"),
    [
        ("BertModel", "encoder"),
        ("BertForMaskedLM", "encoder"),
        ("GPT2LMHeadModel", "causal"),
        ("GPT2Model", "encoder"),
        ("GPTNeoXForCausalLM", "causal"),
        ("LlamaForCausalLM", "causal"),
        ("T5Model", "encoder"),
    ],
)
def test_facts_of_a_model(name, kind, tiny_folder):
    model = load_model(tiny_folder(name))
    assert (model.kind, model.n_layers, model.dim) == (kind, 2, 32)
    assert model.max_length == 32
    assert not model.module.training
    assert all(p.dtype == torch.float32 for p in model.module.parameters())
    assert not any(p.requires_grad for p in model.module.parameters())
    assert model.n_parameters == sum(p.numel() for p in set(model.module.parameters()))


def test_weights_of_modules_are_out_by_in(tiny_folder):
    """x @ weight.T + bias is what the module computes, also for the Conv1D of GPT-2."""
    x = torch.randn(5, 32)
    for name, module in (
        ("GPT2LMHeadModel", "transformer.h.0.attn.c_attn"),
        ("BertModel", "encoder.layer.0.attention.self.query"),
        ("LlamaForCausalLM", "model.layers.1.mlp.up_proj"),
    ):
        model = load_model(tiny_folder(name))
        linear = model.linears()[module]
        bias = linear.bias if linear.bias is not None else 0
        torch.testing.assert_close(x @ model.weight(module).T + bias, linear(x))


def test_the_output_head_is_no_linear_of_the_body(tiny_folder):
    model = load_model(tiny_folder("LlamaForCausalLM"))
    assert len(model.linears()) == 2 * 7
    with pytest.raises(InputError, match="lm_head"):
        model.weight("lm_head")


def test_half_precision_folders_compute_in_float32(folder):
    tensors = load_file(folder / "model.safetensors")
    half = {k: v.bfloat16() for k, v in tensors.items()}
    save_file(half, folder / "model.safetensors", metadata={"format": "pt"})
    change_config(folder, dtype="bfloat16")
    weight = load_model(folder).weight("encoder.layer.0.attention.self.query")
    assert weight.dtype == torch.float32
    assert torch.equal(weight, half["encoder.layer.0.attention.self.query.weight"].float())


def test_sentence_transformers_rules_are_read(folder):
    as_sentence_model(folder, "Pooling", "Normalize", pooling_mode_cls_token=True)
    (folder / "sentence_bert_config.json").write_text('{"max_seq_length": 7}')
    model = load_model(folder)
    assert (model.pooling, model.normalize, model.max_length) == ("cls", True, 7)
    as_sentence_model(folder, "Pooling", "Dense", pooling_mode="lasttoken")
    model = load_model(folder)
    assert (model.pooling, model.normalize) == ("last", False)
    assert "Dense" in model.notes[0]


def test_a_causal_network_of_a_sentence_folder_is_an_encoder(tiny_folder, tmp_path):
    shutil.copytree(tiny_folder("LlamaForCausalLM"), tmp_path, dirs_exist_ok=True)
    as_sentence_model(tmp_path, "Pooling", pooling_mode_lasttoken=True)
    assert load_model(tmp_path).kind == "encoder"


@pytest.mark.parametrize(
    "pooling",
    [
        {},
        {"pooling_mode_max_tokens": True},
        {"pooling_mode_mean_tokens": True, "pooling_mode_cls_token": True},
    ],
)
def test_poolings_that_are_not_followed_are_errors(pooling, folder):
    as_sentence_model(folder, "Pooling", **pooling)
    with pytest.raises(InputError, match=r"Pooling/config\.json asks for"):
        load_model(folder)


def test_what_is_missing_is_said(folder, tmp_path):
    with pytest.raises(InputError, match="is no folder"):
        load_model(tmp_path / "nowhere")
    with pytest.raises(InputError, match=r"no config\.json"):
        load_model(tmp_path)
    (folder / "model.safetensors").rename(folder / "pytorch_model.bin")
    with pytest.raises(InputError, match="no weights in safetensors"):
        load_model(folder)
    (folder / "pytorch_model.bin").rename(folder / "model.safetensors")
    (folder / "tokenizer.json").unlink()
    with pytest.raises(InputError, match="no tokenizer"):
        load_model(folder)


def test_missing_weights_are_an_error_and_not_random(folder):
    change_config(folder, num_hidden_layers=3)
    with pytest.raises(InputError, match=r"lacks 16 weights .*layer\.2"):
        load_model(folder)


def test_a_missing_pooler_does_not_matter(folder):
    tensors = load_file(folder / "model.safetensors")
    kept = {k: v for k, v in tensors.items() if "pooler" not in k}
    assert len(kept) < len(tensors)
    save_file(kept, folder / "model.safetensors", metadata={"format": "pt"})
    assert load_model(folder).kind == "encoder"


def test_code_of_the_folder_is_never_run(folder):
    change_config(folder, model_type="novel", auto_map={"AutoModel": "evil.Model"})
    (folder / "evil.py").write_text("raise SystemExit('ran')")
    with pytest.raises(InputError, match="code of its own"):
        load_model(folder)
    change_config(folder, model_type="bert", auto_map={"AutoModel": "evil.Model"})
    assert load_model(folder).architecture == "BertModel"


@pytest.mark.parametrize(
    ("file", "content"),
    [
        ("config.json", b"{"),
        ("config.json", b'{"model_type": "novel"}'),
        ("config.json", b'{"model_type": "bert", "hidden_size": "wide"}'),
        ("config.json", b'{"model_type": "bert", "hidden_size": 100, "num_attention_heads": 3}'),
        ("model.safetensors", b"not tensors"),
        ("tokenizer.json", b"[]"),
        ("tokenizer.json", b"\xff"),
    ],
)
def test_damaged_folders_are_one_sentence(file, content, folder):
    (folder / file).write_bytes(content)
    with pytest.raises(InputError) as caught:
        load_model(folder)
    assert str(folder) in str(caught.value)
    assert "\n" not in str(caught.value)


def test_loading_is_quiet_and_leaves_the_settings_alone(tiny_folder, capfd):
    log = transformers.utils.logging
    level = log.get_verbosity()
    log.set_verbosity(logging.INFO)
    log.enable_progress_bar()
    try:
        load_model(tiny_folder("GPT2LMHeadModel"))
        assert log.get_verbosity() == logging.INFO
        assert log.is_progress_bar_enabled()
    finally:
        log.set_verbosity(level)
    assert capfd.readouterr() == ("", "")


def test_without_transformers_the_extra_is_named(tiny_folder, monkeypatch):
    monkeypatch.setitem(sys.modules, "transformers", None)
    with pytest.raises(MissingExtraError, match=r"lowdim\[models\]"):
        load_model(tiny_folder("BertModel"))


def test_minilm_is_the_model_it_says(minilm_folder):
    model = load_model(minilm_folder)
    assert (model.kind, model.n_layers, model.dim, model.max_length) == ("encoder", 6, 384, 256)
    assert (model.pooling, model.normalize) == ("mean", True)
    assert model.n_parameters == 22_713_216
    assert len(model.linears()) == 6 * 6 + 1


def test_stories_are_told(stories15m_folder):
    model = load_model(stories15m_folder)
    assert (model.kind, model.n_layers, model.dim, model.max_length) == ("causal", 6, 288, 256)
    assert model.n_parameters == 15_191_712
    start = model.tokenizer("Once upon a time", return_tensors="pt")
    told = model.module.generate(**start, max_new_tokens=24, do_sample=False)
    text = model.tokenizer.decode(told[0], skip_special_tokens=True)
    assert text == (
        "Once upon a time, there was a little girl named Lily. "
        "She loved to play outside in the sunshine. One day,"
    )


@pytest.mark.slow
def test_smollm2_knows_a_capital(smollm2_folder):
    model = load_model(smollm2_folder)
    assert (model.kind, model.n_layers, model.dim) == ("causal", 30, 576)
    start = model.tokenizer("The capital of France is", return_tensors="pt")
    told = model.module.generate(**start, max_new_tokens=2, do_sample=False)
    assert "Paris" in model.tokenizer.decode(told[0])
