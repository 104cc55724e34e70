"""`Codec` to a folder and back: numbers as safetensors, facts as JSON, nothing that runs.

A folder may come from a stranger: whatever is missing, of another shape, damaged or of another
version is one sentence that names the file, and never a wrong result.
"""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

import torch
from safetensors import SafetensorError
from safetensors.torch import load as parse
from safetensors.torch import save
from torch import Tensor

import lowdim
from lowdim.core.estimate import to_json
from lowdim.errors import InputError
from lowdim.io.write import atomic_write, check_writable
from lowdim.retrieval.code import Code, find_code
from lowdim.retrieval.codec import Codec
from lowdim.retrieval.drift import Fingerprint
from lowdim.retrieval.map import Map
from lowdim.retrieval.metric import check_metric

SCHEMA = "lowdim.codec/1"
NUMBERS, FACTS = "codec.safetensors", "codec.json"
PARAMS = ("code", "reduction", "dims", "metric", "n_train", "seed")
BACK = ("none", "transpose", "stored")
"""How the map's way back is kept: there is none, it is the encoder's transpose, or as it is."""

T = TypeVar("T")


def save_codec(codec: Codec, folder: str | Path) -> Path:
    """Write a fitted codec to ``codec.safetensors`` and ``codec.json``.

    The same codec gives the same bytes. The budget of working memory is not kept: it belongs to
    the machine. The fingerprint that drift is told by takes d^2 bytes beyond ``codec.overhead``.

    Raises
    ------
    InputError
        It is not fitted, or the folder cannot be written.
    """
    data, facts = _packed(codec)
    folder = check_writable(folder)
    atomic_write(folder / NUMBERS, data)
    write_json(folder / FACTS, facts)
    return folder


def codec_digest(codec: Codec) -> str:
    """SHA-256 of all that a fitted codec is."""
    facts = _packed(codec)[1]
    return hashlib.sha256(json.dumps(to_json(facts), sort_keys=True).encode()).hexdigest()


def _packed(codec: Codec) -> tuple[bytes, dict[str, Any]]:
    """The bytes of both files, the second as facts."""
    codec._check_fitted()
    tensors = {f"code/{name}": x for name, x in codec.code_.tensors().items()}
    encoder, center, decoder = codec.map_.encoder, codec.map_.center, codec.map_.decoder
    back = "none" if decoder is None else "stored"
    if encoder is not None and decoder is not None and torch.equal(encoder.T, decoder):
        back = "transpose"
    tensors |= {"map/center": center} | ({} if encoder is None else {"map/encoder": encoder})
    tensors |= {"map/decoder": decoder} if decoder is not None and back == "stored" else {}
    drift = codec.fingerprint_
    tensors |= {} if drift is None else {"drift/basis": drift.basis}
    data = save({name: x.detach().cpu().contiguous().clone() for name, x in tensors.items()})
    return data, {
        "schema": SCHEMA,
        "lowdim": lowdim.__version__,
        "params": {name: getattr(codec, name) for name in PARAMS},
        "dim": codec.n_features_in_,
        "dims": codec.map_.dims,
        "bytes_per_vector": codec.bytes_per_vector,
        "map": {"back": back},
        "code": codec.code_.options(),
        "drift": None if drift is None else {"share": drift.share},
        "sha256": hashlib.sha256(data).hexdigest(),
    }


def load_codec(folder: str | Path) -> Codec:
    """Read what :func:`save_codec` wrote, checked.

    Raises
    ------
    InputError
        Missing, damaged, changed, of another schema, or with numbers that make no codec.
    """
    facts_path, path = Path(folder) / FACTS, Path(folder) / NUMBERS
    facts = read_json(
        facts_path, SCHEMA, params=dict, dim=int, dims=int, bytes_per_vector=int, map=dict,
        code=dict, sha256=str,
    )  # fmt: skip
    tensors = read(path, partial(_numbers, facts["sha256"]))
    for name, x in tensors.items():
        if x.is_floating_point() and not bool(torch.isfinite(x.float()).all()):
            raise InputError(f"{path}: {name} holds NaN or Inf, fit the codec again")
    try:
        codec = _codec(facts["params"])
        codec.map_ = _map(tensors, facts["map"].get("back"), facts["dim"], facts["dims"])
        codec.code_ = _code(codec.code, tensors, facts["code"], facts)
        codec.fingerprint_ = _fingerprint(tensors, facts.get("drift"), facts["dim"])
        if tensors:
            raise ValueError(f"{min(tensors)} belongs to no part of it")
    except (ArithmeticError, AttributeError, LookupError, RuntimeError, TypeError, ValueError) as e:
        raise InputError(f"{folder} holds no codec that can be used: {e}") from e
    codec.n_features_in_ = facts["dim"]
    return codec


def _codec(params: dict[str, Any]) -> Codec:
    if set(params) != set(PARAMS):
        raise ValueError(f"params are {', '.join(params)} and not {', '.join(PARAMS)}")
    check_metric(params["metric"])
    return Codec(**params)


def _map(tensors: dict[str, Tensor], back: Any, dim: int, dims: int) -> Map:
    if back not in BACK:
        raise ValueError(f"the map's way back is {back!r} and not {', '.join(BACK)}")
    center = _taken(tensors, "map/center", (dim,))
    encoder = _taken(tensors, "map/encoder", (dim, dims)) if "map/encoder" in tensors else None
    if encoder is None and dims != dim:
        raise ValueError(f"no map leads from {dim} columns to {dims} coordinates")
    if back == "none":
        return Map(encoder, center)
    if back == "stored":
        return Map(encoder, center, _taken(tensors, "map/decoder", (dims, dim)))
    if encoder is None:
        raise ValueError("the way back is the transpose of a map that is not there")
    return Map(encoder, center, encoder.T)


def _code(
    name: str, tensors: dict[str, Tensor], options: dict[str, Any], facts: Mapping[str, Any]
) -> Code:
    """A code that makes rows of the size that is stated, and takes them back."""
    parts = {key: tensors.pop(key) for key in list(tensors) if key.startswith("code/")}
    fields = {key.removeprefix("code/"): x for key, x in parts.items()} | options
    code = find_code(name)[0](**fields)
    dims, size = facts["dims"], facts["bytes_per_vector"]
    if code.dims != dims or code.bytes_per_vector != size:
        raise ValueError(
            f"{name} makes {code.bytes_per_vector} bytes of {code.dims} coordinates, and {size} of "
            f"{dims} are stated"
        )
    codes = code.encode(torch.zeros(2, dims))
    if codes.shape != (2, size) or code.decode(codes).shape != (2, dims):
        raise ValueError(f"the tensors of {name} are of shapes that do not fit together")
    return code


def _fingerprint(tensors: dict[str, Tensor], facts: Any, dim: int) -> Fingerprint | None:
    if facts is None:
        return None
    rank = tensors["drift/basis"].shape[-1]
    basis = _taken(tensors, "drift/basis", (dim, rank), torch.float16)
    if not (math.isfinite(facts["share"]) and rank / dim < facts["share"] <= 1 + 1e-3):
        raise ValueError(f"a share of {facts['share']} in {rank} of {dim} directions is none")
    return Fingerprint(basis, facts["share"])


def _taken(
    tensors: dict[str, Tensor],
    name: str,
    shape: tuple[int, ...],
    dtype: torch.dtype = torch.float32,
) -> Tensor:
    if name not in tensors:
        raise ValueError(f"{name} is missing")
    x = tensors.pop(name)
    if x.shape != shape or x.dtype != dtype:
        raise ValueError(f"{name} is {tuple(x.shape)} of {x.dtype} and not {shape} of {dtype}")
    return x


def _numbers(digest: str, data: bytes) -> dict[str, Tensor]:
    if hashlib.sha256(data).hexdigest() != digest:
        raise ValueError(f"it is damaged, or not the file that {FACTS} was written with")
    return {name: x.clone() for name, x in parse(data).items()}  # aligned, as products want it


def write_json(path: Path, facts: Mapping[str, Any]) -> None:
    """Write facts as strict JSON, whole or not at all."""
    atomic_write(path, json.dumps(to_json(dict(facts)), indent=1, allow_nan=False) + "\n")


def read_json(path: Path, schema: str, **kinds: type) -> dict[str, Any]:
    """Facts of this schema, with an entry of the kind that each name asks for."""
    facts = read(path, lambda data: json.loads(data.decode("utf-8")))
    found = facts.get("schema") if isinstance(facts, dict) else None
    if found != schema:
        other = isinstance(found, str) and found.split("/")[0] == schema.split("/")[0]
        raise InputError(
            f"{path} has schema {found!r}, and lowdim {lowdim.__version__} reads {schema!r}"
            + (": update lowdim" if other else "")
        )
    for name, kind in kinds.items():
        if type(facts.get(name)) is not kind:
            raise InputError(f"{path} has no {name!r} that can be used: it was changed or damaged")
    return facts


def read(path: Path, parse: Callable[[bytes], T]) -> T:
    """A file, or one sentence about why it cannot be read."""
    try:
        return parse(path.read_bytes())
    except FileNotFoundError:
        raise InputError(f"{path} does not exist: give a folder that lowdim wrote") from None
    except (OSError, ValueError, RecursionError, SafetensorError) as error:
        raise InputError(f"{path} cannot be read: {error}") from error
