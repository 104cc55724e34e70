"""Dictionaries in the format of SAELens: its own formulas, round trips, and hostile files."""

import json
import math
import struct

import pytest
import torch
from safetensors.torch import load_file, save_file

from lowdim.errors import InputError
from lowdim.structure import load_saelens, save_saelens
from lowdim.structure.sae import (
    SAE,
    BatchTopKSAE,
    GatedSAE,
    JumpReLUSAE,
    ReLUSAE,
    TopKSAE,
)

D, M = 6, 11


def noise(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def stored(folder, architecture="standard", **changes):
    """A folder as SAELens leaves it; returns its tensors."""
    tensors = {"W_enc": noise(D, M), "W_dec": noise(M, D, seed=1), "b_dec": noise(D, seed=2)}
    names = {
        "jumprelu": ["b_enc", "threshold"],
        "gated": ["b_gate", "b_mag", "r_mag"],
    }.get(architecture, ["b_enc"])
    tensors |= {name: noise(M, seed=3 + i) for i, name in enumerate(names)}
    config = {
        "architecture": architecture,
        "d_in": D,
        "d_sae": M,
        "dtype": "float32",
        "device": "cuda:0",
        "apply_b_dec_to_input": True,
        "normalize_activations": "none",
        "reshape_activations": "none",
        "metadata": {"hook_name": "blocks.0.hook_resid_pre"},
    }
    config |= {"k": 3} if architecture == "topk" else {}
    folder.mkdir(exist_ok=True)
    save_file(tensors, folder / "sae_weights.safetensors")
    (folder / "cfg.json").write_text(json.dumps(config | changes))
    return tensors


def reconfigure(folder, **changes):
    path = folder / "cfg.json"
    config = json.loads(path.read_text()) | changes
    path.write_text(json.dumps({k: v for k, v in config.items() if v != "absent"}))


def expected(t, x, architecture, center=True, k=3):
    """Codes and reconstruction by the formulas of SAELens."""
    x = x - t["b_dec"] * center
    if architecture == "gated":
        gate = x @ t["W_enc"] + t["b_gate"] > 0
        codes = gate * (x @ (t["W_enc"] * t["r_mag"].exp()) + t["b_mag"]).relu()
    else:
        z = x @ t["W_enc"] + t["b_enc"]
        codes = z.relu()
        if architecture == "jumprelu":
            codes = codes * (z > t["threshold"])
        if architecture == "topk":
            top = z.topk(k, dim=-1)
            codes = torch.zeros_like(z).scatter(-1, top.indices, top.values.relu())
    return codes @ t["W_dec"] + t["b_dec"], codes


@pytest.mark.parametrize("center", [True, False])
@pytest.mark.parametrize("architecture", ["standard", "topk", "gated", "jumprelu"])
def test_reads_what_saelens_computes(tmp_path, architecture, center):
    tensors, x = stored(tmp_path, architecture, apply_b_dec_to_input=center), noise(50, D, seed=9)
    sae = load_saelens(tmp_path)
    assert isinstance(sae, SAE)
    assert not sae.training
    rebuilt, codes = expected(tensors, x, architecture, center)
    assert torch.allclose(sae.encode(x), codes, atol=1e-5)
    assert torch.allclose(sae(x)[0], rebuilt, atol=1e-5)
    assert float((codes > 0).float().mean()) > 0.05


def test_old_configurations_name_the_activation_function(tmp_path):
    tensors = stored(tmp_path)
    reconfigure(
        tmp_path, architecture="absent", activation_fn_str="topk", activation_fn_kwargs={"k": 4},
        apply_b_dec_to_input="absent",
    )  # fmt: skip
    x = noise(20, D, seed=9)
    sae = load_saelens(tmp_path)
    assert torch.allclose(sae(x)[0], expected(tensors, x, "topk", k=4)[0], atol=1e-5)


def test_activations_in_units_of_the_decoder_rows(tmp_path):
    t, x = stored(tmp_path, "topk", rescale_acts_by_decoder_norm=True), noise(40, D, seed=9)
    z = ((x - t["b_dec"]) @ t["W_enc"] + t["b_enc"]) * t["W_dec"].norm(dim=-1)
    top = z.topk(3, dim=-1)
    codes = torch.zeros_like(z).scatter(-1, top.indices, top.values.relu())
    sae = load_saelens(tmp_path)
    assert torch.allclose(sae.encode(x), codes, atol=1e-5)
    rebuilt = codes / t["W_dec"].norm(dim=-1) @ t["W_dec"] + t["b_dec"]
    assert torch.allclose(sae(x)[0], rebuilt, atol=1e-5)


@pytest.mark.parametrize("mode", ["layer_norm", "constant_norm_rescale"])
def test_inputs_that_are_normalised_row_by_row(tmp_path, mode):
    tensors, x = stored(tmp_path, normalize_activations=mode), 5 * noise(20, D, seed=9) + 3
    if mode == "layer_norm":
        shift, scale = x.mean(1, keepdim=True), x.std(1, keepdim=True)
        inner = (x - shift) / (scale + 1e-5)
    else:
        shift, scale = 0, x.norm(dim=1, keepdim=True) / D**0.5
        inner = x / scale
    rebuilt, codes = expected(tensors, inner, "standard")
    sae = load_saelens(tmp_path)
    assert torch.allclose(sae.encode(x), codes, atol=1e-4)
    assert torch.allclose(sae(x)[0], rebuilt * scale + shift, atol=1e-4)
    assert bool(torch.isfinite(sae(torch.zeros(1, D))[0]).all())


def test_one_factor_for_all_inputs_is_folded_or_asked_for(tmp_path):
    mode = "expected_average_only_in"
    tensors = stored(tmp_path, "jumprelu", normalize_activations=mode, norm_scaling_factor=0.25)
    x = noise(20, D, seed=9)
    rebuilt, codes = expected(tensors, 0.25 * x, "jumprelu")
    sae = load_saelens(tmp_path)
    assert torch.allclose(sae(x)[0], rebuilt / 0.25, atol=1e-4)
    assert torch.equal(sae.encode(x) > 0, codes > 0)
    stored(tmp_path, "jumprelu", normalize_activations=mode)
    with pytest.raises(InputError, match=r"cfg.json: normalize_activations .*norm_scaling_factor"):
        load_saelens(tmp_path)


@pytest.mark.parametrize("kind", [ReLUSAE, TopKSAE, BatchTopKSAE, GatedSAE, JumpReLUSAE])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_round_trip(tmp_path, kind, dtype):
    option = {"k": 3} if issubclass(kind, TopKSAE) else {}
    sae, x = kind(D, M, center_input=False, **option).to(dtype), noise(60, D, seed=9).to(dtype)
    with torch.no_grad():
        for i, weight in enumerate(sae.parameters()):
            weight += 0.2 * noise(*weight.shape, seed=i)
    if kind is JumpReLUSAE:
        sae.threshold += 0.3
    sae.train().encode(x)
    sae.eval()
    save_saelens(sae, tmp_path / "new")
    again = load_saelens(tmp_path / "new")
    assert type(again) is (JumpReLUSAE if kind is BatchTopKSAE else kind)
    assert torch.equal(again.encode(x), sae.encode(x))
    assert torch.equal(again(x)[0], sae(x)[0])
    keys = set(load_file(tmp_path / "new" / "sae_weights.safetensors"))
    own = {GatedSAE: {"b_gate", "b_mag", "r_mag"}, JumpReLUSAE: {"b_enc", "threshold"}}
    own[BatchTopKSAE] = own[JumpReLUSAE]
    assert keys == {"W_enc", "W_dec", "b_dec"} | own.get(kind, {"b_enc"})


def test_half_precision_is_promoted(tmp_path):
    tensors = stored(tmp_path)
    halves = {key: t.bfloat16() for key, t in tensors.items()}
    save_file(halves, tmp_path / "sae_weights.safetensors")
    sae = load_saelens(tmp_path)
    assert sae.decoder.dtype == torch.float32
    assert torch.equal(sae.decoder.detach(), halves["W_dec"].float())


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"architecture": "crosscoder"}, "architecture is 'crosscoder', known are standard"),
        ({"architecture": ["standard"]}, "architecture"),
        ({"d_in": "absent"}, "d_in is None"),
        ({"d_sae": -1}, "d_sae is -1"),
        ({"d_sae": True}, "d_sae is True"),
        ({"d_sae": 10**30}, "d_sae"),
        ({"d_sae": M + 1}, r"W_enc has shape \(6, 11\)"),
        ({"apply_b_dec_to_input": "yes"}, "apply_b_dec_to_input is 'yes'"),
        ({"normalize_activations": "batch_norm"}, "normalize_activations is 'batch_norm'"),
        ({"activation_fn_str": "tanh-relu"}, "activation_fn_str is 'tanh-relu'"),
        ({"finetuning_scaling_factor": True}, "finetuning_scaling_factor"),
        ({"rescale_acts_by_decoder_norm": True}, "rescale_acts_by_decoder_norm"),
        ({"architecture": "topk"}, "k is None"),
        ({"architecture": "topk", "k": M + 1}, "k is 12"),
        ({"architecture": "gated"}, "lacks b_gate, which the architecture gated needs"),
        ({"architecture": "jumprelu"}, "lacks threshold"),
    ],
)
def test_a_configuration_that_does_not_fit_names_its_key(tmp_path, changes, words):
    stored(tmp_path)
    reconfigure(tmp_path, **changes)
    with pytest.raises(InputError, match=words) as caught:
        load_saelens(tmp_path)
    assert "\n" not in str(caught.value)
    assert str(tmp_path) in str(caught.value)


def test_files_that_are_missing_truncated_or_hostile_are_named(tmp_path):
    with pytest.raises(InputError, match=r"cfg.json does not exist"):
        load_saelens(tmp_path)
    tensors = stored(tmp_path)
    weights = tmp_path / "sae_weights.safetensors"
    whole = weights.read_bytes()
    header = struct.unpack("<Q", whole[:8])[0]
    for data in (whole[:-10], whole[:20], b"", b"\x80\x04pickle", struct.pack("<Q", 2**60)):
        weights.write_bytes(data)
        with pytest.raises(InputError, match=r"sae_weights.safetensors is damaged"):
            load_saelens(tmp_path)
    weights.write_bytes(struct.pack("<Q", header) + b"{" * header + whole[8 + header :])
    with pytest.raises(InputError, match=r"sae_weights.safetensors is damaged"):
        load_saelens(tmp_path)
    save_file(tensors | {"b_dec": torch.full((D,), math.nan)}, weights)
    with pytest.raises(InputError, match=r"sae_weights.safetensors: b_dec holds NaN"):
        load_saelens(tmp_path)
    save_file(tensors | {"W_dec": torch.ones(M, D, dtype=torch.int32)}, weights)
    with pytest.raises(InputError, match=r"W_dec has shape .* and dtype I32"):
        load_saelens(tmp_path)
    for text in ("{", "[]", "null", '{"a":' * 100_000):
        (tmp_path / "cfg.json").write_text(text)
        with pytest.raises(InputError, match=r"cfg.json"):
            load_saelens(tmp_path)


def test_an_untrained_batch_top_k_is_not_written(tmp_path):
    with pytest.raises(InputError, match="train it first"):
        save_saelens(BatchTopKSAE(D, M, 2), tmp_path)
    assert not list(tmp_path.iterdir())
