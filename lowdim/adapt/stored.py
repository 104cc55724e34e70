"""What a saved adapter holds, read as the data of a stranger: checked before it is used."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load as parse
from torch import Tensor

import lowdim
from lowdim.core import random
from lowdim.errors import InputError

FORMAT = 1
NUMBERS, FACTS = "adapter.safetensors", "adapter.json"
KINDS = {"seed": int, "base": dict, "groups": list, "also": list, "sha256": str}


def read_tensors(folder: Path, sha256: str) -> dict[str, Tensor]:
    """The numbers, if they are those that the facts were written with."""
    return _read(folder / NUMBERS, partial(_numbers, sha256))


def _numbers(digest: str, data: bytes) -> dict[str, Tensor]:
    if hashlib.sha256(data).hexdigest() != digest:
        raise ValueError(f"it is damaged, or not the file that {FACTS} was written with")
    return parse(data)


def read_facts(folder: Path) -> dict[str, Any]:
    """The methods, options and targets, each of the kind that it has to be."""
    path = folder / FACTS
    facts = _read(path, lambda data: json.loads(data.decode("utf-8")))
    if not isinstance(facts, dict) or not isinstance(facts.get("format"), int):
        raise InputError(f"{path} is no adapter of lowdim: it names no format")
    _check_kinds(path, facts, {"format": int, "random": int})
    if facts["format"] > FORMAT or facts["random"] > random.VERSION:
        raise InputError(
            f"{path} was written by lowdim {facts.get('lowdim')} in format {facts['format']} with "
            f"random numbers {facts['random']}, and this {lowdim.__version__} reads up to {FORMAT} "
            f"and {random.VERSION}: update lowdim"
        )
    _check_kinds(path, facts, KINDS)
    _check_kinds(path, facts["base"], {"class": str, "sha256": str})
    for group in facts["groups"]:
        _check_kinds(path, group, {"method": str, "options": dict, "targets": dict})
    named = [group["targets"] for group in facts["groups"]]
    if not named or not all(named) or not all(isinstance(name, str) for name in facts["also"]):
        raise InputError(f"{path} names no targets that can be used: save it again")
    return facts


def _check_kinds(path: Path, found: Any, kinds: Mapping[str, type]) -> None:
    for name, kind in kinds.items():
        if not isinstance(found, dict) or type(found.get(name)) is not kind:
            raise InputError(f"{path} has no {name!r} that can be used: save it again")


def check_numbers(name: str, x: Tensor) -> None:
    """Raise where a stored tensor is not finite."""
    if not bool(torch.isfinite(x).all()):
        raise InputError(f"{name} holds NaN or Inf: the training diverged")


def _read(path: Path, parse: Callable[[bytes], Any]) -> Any:
    try:
        return parse(path.read_bytes())
    except FileNotFoundError:
        raise InputError(f"{path} does not exist: give a folder of lowdim.adapt.save") from None
    except (OSError, ValueError, RecursionError, SafetensorError) as error:
        raise InputError(f"{path} cannot be read: {error}") from error
