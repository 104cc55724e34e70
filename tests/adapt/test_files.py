"""Adapters on disk: what is refused, why, and that model and old files stay as they were."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import subprocess

import pytest
import torch
from safetensors.torch import load_file, save
from torch import nn

from lowdim import adapt
from lowdim.adapt.files import FACTS, NUMBERS, base_hash
from lowdim.errors import InputError
from tests.adapt.sample import attached, tokens, trained, zoo

METHOD = adapt.SVFit(4)


@pytest.fixture
def kept(tmp_path):
    """A folder with trained adapters and a head."""
    return adapt.save(trained(attached(METHOD)), tmp_path / "kept", about={"accuracy": 0.5})


def rewrite(folder, facts=None, tensors=None):
    """Change parts of a saved adapter, with a hash that fits: what a stranger could send."""
    found = json.loads((folder / FACTS).read_text())
    held = load_file(folder / NUMBERS)
    for path, value in (facts or {}).items():
        inner = found
        *parents, last = path
        for key in parents:
            inner = inner[key]
        inner[last] = value
    for name, x in (tensors or {}).items():
        held[name] = x
    data = save({name: x for name, x in held.items() if x is not None})
    found["sha256"] = hashlib.sha256(data).hexdigest()
    (folder / NUMBERS).write_bytes(data)
    (folder / FACTS).write_text(json.dumps(found))


def refused(folder, said, model=None):
    """Loading says this, and leaves the model as it was."""
    model = zoo() if model is None else model
    before = {name: x.clone() for name, x in model.state_dict().items()}
    with pytest.raises(InputError, match=said):
        adapt.load(model, folder)
    after = model.state_dict()
    assert list(after) == list(before)
    assert all(torch.equal(after[name], x) for name, x in before.items())
    assert all(p.requires_grad for p in model.parameters())


def test_what_the_files_say(kept):
    facts = json.loads((kept / FACTS).read_text())
    assert facts["about"] == {"accuracy": 0.5}
    assert facts["groups"][0]["method"] == "svfit"
    assert facts["groups"][0]["options"] == {"rank": 4}
    assert facts["groups"][0]["targets"]["c_fc.weight"] == [16, 12]
    assert facts["base"] == {"class": "Zoo", "sha256": base_hash(zoo(), ["classifier"])}
    assert facts["trainable"] == 24
    assert os.listdir(kept) == [FACTS, NUMBERS] or os.listdir(kept) == [NUMBERS, FACTS]


def test_what_is_loaded_can_be_saved_again(kept, tmp_path):
    model = zoo()
    adapt.load(model, kept)
    adapt.save(model, tmp_path / "again", about={"accuracy": 0.5})
    for name in (FACTS, NUMBERS):
        assert (kept / name).read_bytes() == (tmp_path / "again" / name).read_bytes()


def test_statistics_of_batch_norms_come_along(kept):
    model = zoo()
    adapt.load(model, kept)
    assert not torch.equal(model.norm.running_mean, zoo().norm.running_mean)
    assert torch.equal(adapt.detach(model).norm.running_mean, zoo().norm.running_mean)


def test_a_head_that_is_tied_to_the_table_trains_whole(tmp_path):
    from tests.adapt.test_attach import Tied

    model = Tied()
    adapt.attach(model, METHOD, "inner", also=["lm_head"])
    found = trained(model, loss=lambda m, x: m(x).square().mean())(tokens())
    adapt.save(model, tmp_path)
    again = Tied()
    adapt.load(again, tmp_path)
    assert torch.equal(again(tokens()), found)
    assert again.emb.weight is again.lm_head.weight


def test_a_base_in_double_or_half_precision(tmp_path):
    for dtype in (torch.float64, torch.bfloat16):
        model = trained(attached(METHOD, zoo().to(dtype)))
        adapt.save(model, tmp_path / str(dtype))
        again = zoo().to(dtype)
        adapt.load(again, tmp_path / str(dtype))
        assert torch.equal(again(tokens()), model(tokens()))


def test_a_model_that_was_cast_while_adapted(tmp_path):
    model = trained(attached(METHOD)).bfloat16()
    adapt.save(model, tmp_path)
    again = zoo().bfloat16()
    adapt.load(again, tmp_path)
    assert torch.equal(again(tokens()), model(tokens()))
    refused(tmp_path, "in the same precision")


def test_another_architecture(kept):
    class Other(nn.Module):
        def __init__(self):
            super().__init__()
            self.emb, self.query = nn.Embedding(24, 16), nn.Linear(16, 13)

    refused(kept, r"query\.weight of shape \[12, 16\] and this Other has \[13, 16\]", Other())
    refused(kept, r"emb\.weight of shape .* has no such tensor", nn.Sequential(nn.Linear(3, 3)))


def test_a_changed_base(kept):
    model = zoo()
    with torch.no_grad():
        model.plane.bias[2] += 1e-6
    refused(kept, "are not those that .* was trained on", model)
    model = zoo()
    model.norm.running_var[0] += 1
    refused(kept, "are not those that .* was trained on", model)


def test_a_head_of_other_classes(kept):
    model = zoo()
    model.classifier = nn.Linear(8, 4)
    refused(kept, r"classifier\.\w+ of shape .* Zoo has in shape", model)


def test_adapters_that_are_there_already(kept):
    model = attached(METHOD)
    with pytest.raises(InputError, match="adapters already"):
        adapt.load(model, kept)


def test_nothing_there(tmp_path):
    refused(tmp_path, "adapter.json does not exist: give a folder of lowdim.adapt.save")
    (tmp_path / FACTS).mkdir()
    refused(tmp_path, "cannot be read")


@pytest.mark.parametrize(
    ("facts", "said"),
    [
        ({("format",): 2}, "reads up to 1 and 1: update lowdim"),
        ({("random",): 7}, "random numbers 7"),
        ({("format",): "x"}, "names no format"),
        ({("random",): None}, "no 'random' that can be used"),
        ({("seed",): "x"}, "no 'seed' that can be used"),
        ({("seed",): True}, "no 'seed' that can be used"),
        ({("base",): []}, "no 'base' that can be used"),
        ({("base",): {"class": "Zoo"}}, "no 'sha256' that can be used"),
        ({("groups",): []}, "names no targets"),
        ({("groups",): [3]}, "no 'method' that can be used"),
        ({("groups", 0, "targets"): {}}, "names no targets"),
        ({("groups", 0, "targets"): {"query.weight": "x"}}, "of shape x"),
        ({("groups", 0, "targets"): {"query.forward": [1]}}, "no such tensor"),
        ({("groups", 0, "targets"): {"a.b.c": [1]}}, "no such tensor"),
        ({("groups", 0, "targets"): {"norm.weight": [12]}}, "is of kind other"),
        ({("groups", 0, "method"): "os.system"}, "no adaptation method 'os.system'"),
        ({("groups", 0, "options"): {"rank": 10**9, "x": 1}}, "no option 'x'"),
        ({("groups", 0, "options"): {"rank": "1"}}, "rank='1' is no int"),
        ({("groups", 0, "options"): {"rank": -1}}, "whole number"),
        ({("also",): ["nowhere"]}, "trained 'nowhere', which Zoo lacks"),
        ({("also",): [[1]]}, "names no targets"),
        ({("also",): ["query", "classifier"]}, "not those that"),
    ],
)
def test_facts_of_a_stranger(kept, facts, said):
    rewrite(kept, facts)
    refused(kept, said)


def test_a_size_that_the_file_does_not_fill(tmp_path):
    """An option may not ask for memory that no stored number stands for."""
    adapt.save(attached(adapt.SLTrain(rank=2), also=[], names=["query"]), tmp_path)
    rewrite(tmp_path, {("groups", 0, "options", "rank"): 10**12})
    refused(tmp_path, "fewer than SLTrain.* trains")


@pytest.mark.parametrize(
    ("tensors", "said"),
    [
        ({"query.weight:change": None}, "query.weight:change is not in each"),
        ({"nobody.weight:change": torch.zeros(2)}, "nobody.weight:change is not in each"),
        ({"query.weight:change": torch.zeros(3)}, "other sizes than query.weight needs"),
        ({"plane.weight:left": torch.zeros(8, 3)}, "other sizes than plane.weight needs"),
        ({"query.weight:change": torch.zeros(4, dtype=torch.int64)}, "as torch.int64"),
        ({"query.weight:change": torch.full((4,), torch.nan)}, "NaN or Inf"),
        ({"also:classifier.weight": torch.zeros(1, 1)}, "shape"),
        ({"also:query.weight": torch.zeros(12, 16)}, "also:query.weight is not in each"),
        ({"buffer:query.weight": torch.zeros(12, 16)}, "buffer:query.weight is not in each"),
        ({"also:classifier.bias": None}, "also:classifier.bias is not in each"),
    ],
)
def test_numbers_of_a_stranger(kept, tensors, said):
    rewrite(kept, tensors=tensors)
    refused(kept, said)


def test_damaged_files(kept):
    data = (kept / NUMBERS).read_bytes()
    (kept / NUMBERS).write_bytes(data[: len(data) // 2])
    refused(kept, "damaged")
    (kept / NUMBERS).write_bytes(data[:-1] + bytes([data[-1] ^ 1]))
    refused(kept, "damaged")
    text = (kept / FACTS).read_text()
    for broken in (text[:-20], "", "[" * 100_000, "3", "\udcff".encode("utf-8", "surrogatepass")):
        (kept / FACTS).write_bytes(broken if isinstance(broken, bytes) else broken.encode())
        refused(kept, "cannot be read|names no format")


def test_a_parameter_that_trains_and_would_be_lost(tmp_path):
    model = attached(METHOD)
    model.plane.bias.requires_grad_(True)
    with pytest.raises(InputError, match=r"plane\.bias trains and would not be stored"):
        adapt.save(model, tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_a_folder_that_cannot_be_made(tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(InputError, match="cannot write to the folder"):
        adapt.save(attached(METHOD), tmp_path / "file" / "out")


@pytest.mark.skipif(not hasattr(os, "geteuid") or os.geteuid() != 0, reason="mounting needs root")
def test_a_full_disk_keeps_what_was_saved_before(tmp_path):
    mount = ["mount", "-t", "tmpfs", "-o", "size=48k", "tmpfs", str(tmp_path)]
    if shutil.which("mount") is None or subprocess.run(mount, capture_output=True).returncode:
        pytest.skip("no tmpfs can be mounted here")
    try:
        model = attached(METHOD)
        adapt.save(model, tmp_path / "kept")
        before = {name: (tmp_path / "kept" / name).read_bytes() for name in (FACTS, NUMBERS)}
        trained(model)
        free = shutil.disk_usage(tmp_path).free
        (tmp_path / "ballast").write_bytes(bytes(free - 8192))
        with pytest.raises(InputError, match=r"disk full while writing .*adapter\.safetensors"):
            adapt.save(model, tmp_path / "kept")
        assert {name: (tmp_path / "kept" / name).read_bytes() for name in before} == before
        adapt.load(zoo(), tmp_path / "kept")
    finally:
        subprocess.run(["umount", str(tmp_path)], check=True)
