import json
import pickle
import struct
from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from safetensors.torch import load_file, save_file
from torch import nn

from lowdim.errors import InputError
from lowdim.io.fused import Split
from lowdim.io.tensors import SafetensorsFile
from lowdim.io.weights import open_weights
from tests.conftest import tiny_config


def by_name(path) -> dict:
    return {m.name: m for m in open_weights(path)}


def save(folder: Path, tensors: dict, config: dict | None = None) -> Path:
    save_file({k: v.contiguous() for k, v in tensors.items()}, folder / "model.safetensors")
    if config is not None:
        (folder / "config.json").write_text(json.dumps(config))
    return folder


FUSED_MODELS = [
    ("GPT2", {}, "c_attn", (4, 4)),
    ("GPTNeoX", {}, "query_key_value", (4, 4)),
    ("Bloom", {}, "query_key_value", (4, 4)),
    ("Falcon", {"new_decoder_architecture": True, "num_kv_heads": 2}, "query_key_value", (4, 2)),
    ("Falcon", {"multi_query": True}, "query_key_value", (4, 1)),
    ("Falcon", {"multi_query": False}, "query_key_value", (4, 4)),
    ("GPTBigCode", {"multi_query": True}, "c_attn", (4, 1)),
    ("GPTBigCode", {"multi_query": False}, "c_attn", (4, 4)),
    ("Phi3", {"num_key_value_heads": 2}, "qkv_proj", (4, 2)),
    ("ModernBert", {"deterministic_flash_attn": False}, "Wqkv", (4, 4)),
    ("Persimmon", {"qk_layernorm": False}, "query_key_value", (4, 4)),
]


@pytest.mark.parametrize(("family", "changes", "module", "heads"), FUSED_MODELS)
def test_split_rows_are_what_the_model_attends_with(
    family, changes, module, heads, tmp_path, monkeypatch
):
    """At position 0 rotary embeddings turn nothing: attention sees the plain projections."""
    transformers = pytest.importorskip("transformers")
    torch.manual_seed(0)
    config = tiny_config(family, **changes)
    auto = transformers.AutoModel
    model = auto.from_config(config, attn_implementation="sdpa" if family != "Bloom" else "eager")
    model.eval().save_pretrained(tmp_path)
    fused = next(m for name, m in model.named_modules() if name.endswith(module))
    inputs, attended = [], []
    fused.register_forward_hook(lambda m, args, out: inputs.append(args[0]))
    if family == "Bloom":
        attention = type(next(m for n, m in model.named_modules() if n.endswith("self_attention")))
        reshape = attention._reshape

        def spy(self, fused_qkv):
            attended.append(reshape(self, fused_qkv))
            return attended[-1]

        monkeypatch.setattr(attention, "_reshape", spy)
    else:
        real = nn.functional.scaled_dot_product_attention

        def spy(q, k, v, *args, **kwargs):
            attended.append((q, k, v))
            return real(q, k, v, *args, **kwargs)

        monkeypatch.setattr(nn.functional, "scaled_dot_product_attention", spy)
    with torch.no_grad():
        model(torch.tensor([[5]]))
    weights = by_name(tmp_path)
    stem = next(name for name in weights if name.endswith(f"{module}.weight[q]"))[:-3]
    x = inputs[0].reshape(-1)
    for part, seen in zip("qkv", attended[0], strict=True):
        seen = seen.reshape(-1, 8)  # (heads, head_dim)
        n_heads = heads[0] if part == "q" else heads[1]
        seen = seen[:: len(seen) // n_heads]  # shared heads may have been repeated
        matrix = weights[f"{stem}[{part}]"]
        assert matrix.shape == (8 * n_heads, 32)
        assert tuple(matrix.load().shape) == matrix.shape
        torch.testing.assert_close(matrix.load() @ x, seen.flatten(), rtol=1e-4, atol=1e-5)


def test_conv1d_weights_are_turned_to_out_in(tiny_folder):
    folder = tiny_folder("GPT2LMHeadModel")
    stored = load_file(folder / "model.safetensors")
    weights = by_name(folder)
    for name in ("transformer.h.1.mlp.c_fc.weight", "transformer.h.0.attn.c_proj.weight"):
        assert torch.equal(weights[name].load(), stored[name].T)
        assert weights[name].shape == tuple(stored[name].shape)[::-1]
    alone = by_name(folder / "model.safetensors")
    assert alone.keys() == weights.keys()


def test_a_gpt2_file_without_config_is_known_by_its_shape(tmp_path):
    fused = torch.randn(16, 48)
    save(tmp_path, {"h.0.attn.c_attn.weight": fused})
    weights = by_name(tmp_path / "model.safetensors")
    assert torch.equal(weights["h.0.attn.c_attn.weight[k]"].load(), fused[:, 16:32].T)


def test_multihead_attention_of_torch_is_split(tmp_path):
    module = nn.MultiheadAttention(24, 3)
    save(tmp_path, module.state_dict())
    names = [m.name for m in open_weights(tmp_path)]
    assert names == [
        "in_proj_weight[q]",
        "in_proj_weight[k]",
        "in_proj_weight[v]",
        "out_proj.weight",
    ]
    value = open_weights(tmp_path)[2].load()
    assert torch.equal(value, module.in_proj_weight[48:])


def test_unknown_layouts_stay_whole_and_say_so(tmp_path):
    save(tmp_path, {"h.0.query_key_value.weight": torch.randn(48, 16)}, {"model_type": "novel"})
    weights = open_weights(tmp_path)
    assert [m.shape for m in weights] == [(48, 16)]
    assert "unknown layout" in weights.notes[0]


@given(
    st.integers(1, 5),
    st.lists(st.integers(1, 4), min_size=1, max_size=3),
)
def test_parts_of_a_split_hold_each_row_once(groups, sizes):
    split = Split(tuple("qkv"[: len(sizes)]), groups, tuple(sizes))
    rows = torch.arange(groups * sum(sizes), dtype=torch.float32)[:, None]
    parts = [split.part(rows, i) for i in range(len(sizes))]
    assert [len(p) for p in parts] == [groups * s for s in sizes]
    assert torch.equal(torch.cat(parts).sort(0).values, rows)


def test_convolutions_are_unfolded_and_vectors_left_out(tmp_path):
    kernel = torch.randn(6, 3, 2, 5)
    tensors = {
        "conv.weight": kernel,
        "conv.bias": torch.randn(6),
        "depthwise.weight": torch.randn(6, 1, 4),
        "pointless.weight": torch.randn(6, 1, 1),
        "one_output.weight": torch.randn(1, 4, 3),
        "norm.weight": torch.randn(1, 6),
        "scale": torch.tensor(2.0),
        "empty": torch.zeros(0, 4),
        "h.0.attn.bias": torch.ones(1, 1, 8, 8),
        "pos_embed": torch.randn(1, 7, 6),
    }
    weights = by_name(save(tmp_path, tensors))
    found = {name: (m.kind, m.shape) for name, m in weights.items()}
    assert found == {
        "conv.weight": ("conv", (6, 30)),
        "depthwise.weight": ("conv", (6, 4)),
        "pos_embed": ("embedding", (7, 6)),
    }
    assert torch.equal(weights["conv.weight"].load(), kernel.flatten(1))


def test_each_expert_is_a_matrix(tmp_path):
    stack = torch.randn(3, 4, 8)
    weights = by_name(save(tmp_path, {"layers.0.mlp.experts.down_proj": stack}))
    assert len(weights) == 3
    assert torch.equal(weights["layers.0.mlp.experts.down_proj[2]"].load(), stack[2])


def test_layers_come_in_natural_order(tmp_path):
    save(tmp_path, {f"layers.{i}.weight": torch.randn(2, 2) for i in (10, 2, 1)})
    names = [m.name for m in open_weights(tmp_path)]
    assert names == ["layers.1.weight", "layers.2.weight", "layers.10.weight"]


def test_copies_of_an_embedding_count_once(tmp_path):
    table = torch.randn(5000, 4)
    tensors = {"model.embed_tokens.weight": table, "lm_head.weight": table.clone()}
    weights = open_weights(save(tmp_path, tensors))
    assert [(m.name, m.kind) for m in weights] == [("model.embed_tokens.weight", "embedding")]
    assert "lm_head.weight is the same as model.embed_tokens.weight" in weights.notes[0]
    tensors["lm_head.weight"][4999, 3] += 1  # one number away: a head of its own
    assert len(open_weights(save(tmp_path, tensors))) == 2


def test_half_precision_is_promoted_exactly_and_double_stays(tmp_path):
    weight = torch.randn(4, 3, dtype=torch.float64)
    for dtype in (torch.float16, torch.bfloat16, torch.float32, torch.float64):
        loaded = open_weights(save(tmp_path, {"w": weight.to(dtype)}))[0].load()
        assert loaded.dtype == (torch.float64 if dtype == torch.float64 else torch.float32)
        assert torch.equal(loaded.double(), weight.to(dtype).double())


def test_quantised_tensors_are_left_out_with_a_note(tmp_path):
    tensors = {
        "a.qweight": torch.ones(4, 8, dtype=torch.int32),
        "a.scales": torch.ones(4, 2, dtype=torch.float16),
        "b.weight": torch.ones(4, 8).to(torch.float8_e4m3fn),
        "b.weight_scale_inv": torch.ones(2, 2),
        "embeddings.position_ids": torch.arange(8).reshape(1, 8).repeat(2, 1),
    }
    with pytest.raises(InputError, match="2 tensors are quantised"):
        open_weights(save(tmp_path, tensors))
    weights = open_weights(save(tmp_path, tensors | {"head.weight": torch.randn(4, 8)}))
    assert [m.name for m in weights] == ["head.weight"]
    assert "2 tensors are quantised or packed (F8_E4M3, I32)" in weights.notes[0]


def test_shards_hold_what_one_file_holds(tiny_folder, tmp_path):
    transformers = pytest.importorskip("transformers")
    whole = tiny_folder("LlamaForCausalLM")
    model = transformers.AutoModelForCausalLM.from_pretrained(whole)
    model.save_pretrained(tmp_path, max_shard_size="20KB")
    shards = sorted(tmp_path.glob("model-*.safetensors"))
    assert len(shards) > 2
    one, many = by_name(whole), by_name(tmp_path)
    assert one.keys() == many.keys()
    assert all(torch.equal(one[k].load(), many[k].load()) for k in one)
    shards[1].unlink()
    with pytest.raises(InputError, match=rf"lacks 1 of .* shards: {shards[1].name}"):
        open_weights(tmp_path)
    (tmp_path / "model.safetensors.index.json").unlink()
    with pytest.raises(InputError, match=r"no model.safetensors.index.json"):
        open_weights(tmp_path)


def test_an_index_may_not_leave_its_folder(tmp_path):
    save(tmp_path, {"w": torch.randn(3, 3)})
    folder = tmp_path / "model"
    folder.mkdir()
    index = {"weight_map": {"w": "../model.safetensors"}}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))
    with pytest.raises(InputError, match="plain file name"):
        open_weights(folder)


@pytest.mark.parametrize(
    "damage",
    [
        lambda data: data[: len(data) // 2],
        lambda data: data[:5],
        lambda data: b"",
        lambda data: struct.pack("<Q", 2**62) + data[8:],
        lambda data: data.replace(b"[16,16]", b"[99,16]"),
        lambda data: b"\x80\x04" + data,
    ],
)
def test_damaged_files_are_named(damage, tmp_path):
    path = save(tmp_path, {"w": torch.randn(16, 16)}) / "model.safetensors"
    path.write_bytes(damage(path.read_bytes()))
    with pytest.raises(InputError, match=r"model\.safetensors"):
        open_weights(path)


def test_config_that_is_no_json_is_named(tmp_path):
    save(tmp_path, {"w": torch.randn(3, 3)})
    for text in ("{", "[]", "\x00"):
        (tmp_path / "config.json").write_text(text)
        with pytest.raises(InputError, match=r"config\.json"):
            open_weights(tmp_path)


def test_missing_inputs_are_named(tmp_path):
    with pytest.raises(InputError, match="holds no weights"):
        open_weights(tmp_path)
    with pytest.raises(InputError, match="does not exist"):
        open_weights(tmp_path / "nowhere")
    save(tmp_path, {"bias": torch.randn(3)})
    with pytest.raises(InputError, match="no weight matrix"):
        open_weights(tmp_path)


class Bomb:
    def __reduce__(self):
        return (Path.touch, (Path("exploded"),))


def test_checkpoints_are_read_as_data_alone(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    weight = torch.randn(4, 3)
    path = tmp_path / "pytorch_model.bin"
    for content in ({"w": weight}, {"state_dict": {"w": weight}, "epoch": 3}):
        for zipped in (True, False):
            torch.save(content, path, _use_new_zipfile_serialization=zipped)
            assert torch.equal(open_weights(tmp_path)[0].load(), weight)
    torch.save({"w": weight, "hook": Bomb()}, path)
    with pytest.raises(InputError, match=r"pytorch_model\.bin .*\.safetensors"):
        open_weights(tmp_path)
    path.write_bytes(pickle.dumps(Bomb(), protocol=2))
    with pytest.raises(InputError, match=r"pytorch_model\.bin"):
        open_weights(tmp_path)
    torch.save([weight], path)
    with pytest.raises(InputError, match="not named tensors"):
        open_weights(tmp_path)
    assert not Path("exploded").exists()


def test_nothing_is_read_before_load(tmp_path, monkeypatch):
    def read(self, name, rows=None):
        raise AssertionError(name)

    monkeypatch.setattr(SafetensorsFile, "read", read)
    weights = open_weights(save(tmp_path, {"a": torch.randn(3, 3), "wte": torch.randn(9, 3)}))
    assert len(weights) == 2
    with pytest.raises(AssertionError):
        weights[0].load()


def test_minilm_inventory_accounts_for_every_parameter(minilm_folder):
    weights = open_weights(minilm_folder)
    stored = load_file(minilm_folder / "model.safetensors")
    vectors = sum(t.numel() for t in stored.values() if t.ndim == 1 and t.is_floating_point())
    total = sum(t.numel() for t in stored.values() if t.is_floating_point())
    assert sum(m.shape[0] * m.shape[1] for m in weights) + vectors == total
    assert len(weights) == 3 + 6 * 6 + 1
    assert {m.name for m in weights if m.kind == "embedding"} == {
        f"embeddings.{kind}_embeddings.weight" for kind in ("word", "position", "token_type")
    }
