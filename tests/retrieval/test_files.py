"""A codec that was saved answers as before, and a folder that was tampered with does not load."""

import hashlib
import json

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file, save, save_file

from lowdim.core.random import normal
from lowdim.errors import InputError
from lowdim.retrieval import Codec
from lowdim.retrieval.code import codes
from lowdim.retrieval.files import FACTS, NUMBERS, codec_digest

X = normal((300, 16), seed=1) @ normal((16, 16), seed=2)
Q = normal((7, 16), seed=3)
NAMES = sorted(f"{name}4" if kind.sized else name for name, kind in codes().items())


@settings(max_examples=20, deadline=None)
@given(
    name=st.sampled_from(NAMES),
    metric=st.sampled_from(["cosine", "dot", "euclidean"]),
    reduced=st.sampled_from([("none", None), ("pca", 8)]),
    seed=st.integers(0, 3),
)
def test_answers_are_the_same_before_and_after(tmp_path_factory, name, metric, reduced, seed):
    folder = tmp_path_factory.mktemp("codec")
    codec = Codec(name, reduction=reduced[0], dims=reduced[1], metric=metric, seed=seed).fit(X)
    loaded = Codec.load(codec.save(folder))
    rows = codec.encode(X)
    assert torch.equal(rows, loaded.encode(X))
    assert torch.equal(codec.decode(rows), loaded.decode(rows))
    for before, after in zip(codec.search(rows, Q, 9), loaded.search(rows, Q, 9), strict=True):
        assert torch.equal(before, after)
    assert (loaded.overhead, loaded.bytes_per_vector) == (codec.overhead, codec.bytes_per_vector)
    assert loaded.get_params() == codec.get_params()
    assert codec_digest(loaded) == codec_digest(codec)


def test_the_same_codec_gives_the_same_bytes(tmp_path):
    for name in "ab":
        Codec("int8", reduction="pca", dims=8).fit(X).save(tmp_path / name)
    for file in (NUMBERS, FACTS):
        assert (tmp_path / "a" / file).read_bytes() == (tmp_path / "b" / file).read_bytes()


def test_what_is_stored_is_the_overhead_and_what_tells_drift(tmp_path):
    codec = Codec("int8", reduction="pca", dims=8).fit(X)
    codec.save(tmp_path)
    stored = sum(x.nbytes for x in load_file(tmp_path / NUMBERS).values())
    assert stored == codec.overhead + codec.fingerprint_.basis.nbytes


def test_drift_is_told_after_loading(tmp_path):
    codec = Codec("float32").fit(X)
    loaded = Codec.load(codec.save(tmp_path))
    other = normal((200, 16), seed=9)
    assert loaded.fingerprint_.share == codec.fingerprint_.share
    assert loaded.fingerprint_.retained(other) == codec.fingerprint_.retained(other)


def facts(folder, **changes):
    path = folder / FACTS
    found = json.loads(path.read_text()) | changes
    path.write_text(json.dumps({k: v for k, v in found.items() if v != "REMOVED"}))


def tensors(folder, **changes):
    """Other numbers, with their right checksum."""
    found = load_file(folder / NUMBERS) | {k.replace("__", "/"): v for k, v in changes.items()}
    data = save({name: x for name, x in found.items() if x is not None})
    (folder / NUMBERS).write_bytes(data)
    facts(folder, sha256=hashlib.sha256(data).hexdigest())


def params(folder, **changes):
    facts(folder, params=json.loads((folder / FACTS).read_text())["params"] | changes)


def flip(folder):
    data = bytearray((folder / NUMBERS).read_bytes())
    data[-5] ^= 1
    (folder / NUMBERS).write_bytes(data)


TAMPERED = {
    "no facts": (lambda f: (f / FACTS).unlink(), "codec.json does not exist"),
    "no numbers": (lambda f: (f / NUMBERS).unlink(), "codec.safetensors does not exist"),
    "no JSON": (lambda f: (f / FACTS).write_text("{"), "cannot be read"),
    "a list": (lambda f: (f / FACTS).write_text("[]"), "schema None"),
    "deep": (lambda f: (f / FACTS).write_text("[" * 10**5), "cannot be read"),
    "other schema": (lambda f: facts(f, schema="lowdim.strata/1"), "reads 'lowdim.codec/1'$"),
    "newer": (lambda f: facts(f, schema="lowdim.codec/2"), "update lowdim"),
    "no dim": (lambda f: facts(f, dim="REMOVED"), "no 'dim'"),
    "true dim": (lambda f: facts(f, dim=True), "no 'dim'"),
    "other dim": (lambda f: facts(f, dim=17), "map/center is"),
    "other dims": (lambda f: facts(f, dims=9), "map/encoder is"),
    "other bytes": (lambda f: facts(f, bytes_per_vector=9), "9 of 8 are stated"),
    "unknown code": (lambda f: params(f, code="int9"), "no code 'int9'"),
    "another code": (lambda f: params(f, code="float16"), "float16|unexpected"),
    "unknown metric": (lambda f: params(f, metric="angle"), "metric='angle'"),
    "more params": (lambda f: params(f, more=1), "params are"),
    "way back": (lambda f: facts(f, map={"back": "there"}), "'there'"),
    "options": (lambda f: facts(f, code={"size": 3}), "unexpected keyword"),
    "flipped bit": (flip, "damaged"),
    "truncated": (lambda f: (f / NUMBERS).write_bytes(b"12345"), "damaged"),
    "NaN": (lambda f: tensors(f, map__center=torch.full((16,), torch.nan)), "map/center holds NaN"),
    "missing tensor": (lambda f: tensors(f, map__center=None), "map/center is missing"),
    "extra tensor": (lambda f: tensors(f, map__more=torch.ones(2)), "map/more belongs to no"),
    "extra field": (lambda f: tensors(f, code__more=torch.ones(2)), "unexpected keyword"),
    "double": (lambda f: tensors(f, map__center=torch.ones(16).double()), "torch.float64"),
    "no share": (lambda f: facts(f, drift={"share": None}), "must be real number|share"),
    "no basis": (lambda f: tensors(f, drift__basis=None), "drift/basis"),
    "no drift": (lambda f: facts(f, drift=None), "drift/basis belongs"),
}  # fmt: skip


@pytest.mark.parametrize("case", TAMPERED)
def test_a_folder_of_a_stranger_is_one_sentence(tmp_path, case):
    Codec("int8", reduction="pca", dims=8).fit(X).save(tmp_path)
    change, message = TAMPERED[case]
    change(tmp_path)
    with pytest.raises(InputError, match=message) as error:
        Codec.load(tmp_path)
    assert str(tmp_path) in str(error.value)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("name", NAMES)
def test_a_code_with_tensors_of_other_shapes_is_refused(tmp_path, name):
    Codec(name).fit(X).save(tmp_path)
    whole = load_file(tmp_path / NUMBERS)
    for field in [key for key in whole if key.startswith("code/")]:
        save_file(whole, tmp_path / NUMBERS)
        tensors(tmp_path, **{field.replace("/", "__"): whole[field].flatten()[:3].clone()})
        with pytest.raises(InputError, match="no codec that can be used"):
            Codec.load(tmp_path)


def test_a_codec_that_is_not_fitted_is_not_saved(tmp_path):
    with pytest.raises(InputError, match="not fitted"):
        Codec().save(tmp_path)
