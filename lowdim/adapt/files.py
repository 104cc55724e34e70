"""Adapters on disk: safetensors and JSON, checked against the model when they are read.

``adapter.safetensors`` holds what trained and what the start took from data, ``adapter.json`` the
methods with their options, the seed of every random part (which is not stored), the targets with
their shapes, and a hash of the base weights, without which an update means nothing.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load as parse
from safetensors.torch import save as dump
from torch import Tensor, nn

import lowdim
from lowdim.adapt.adapter import Adapter
from lowdim.adapt.attach import (
    BESIDE,
    Attached,
    Group,
    attached,
    install,
    make_adapters,
)
from lowdim.adapt.method import make_method
from lowdim.adapt.targets import Target
from lowdim.core import random
from lowdim.core.estimate import to_json
from lowdim.core.points import check_finite
from lowdim.errors import InputError
from lowdim.io.write import atomic_write, check_writable

FORMAT = 1
NUMBERS, FACTS = "adapter.safetensors", "adapter.json"


def save(model: nn.Module, folder: str | Path, *, about: Mapping[str, Any] | None = None) -> Path:
    """Write the adapters of a model, and the modules that trained beside them.

    Parameters
    ----------
    model : torch.nn.Module
        With adapters attached.
    folder : path
        Gets ``adapter.safetensors`` and ``adapter.json``; made where it is missing.
    about : mapping, optional
        What else a reader should know (the task, the figures): JSON values.

    Returns
    -------
    Path
        The folder.

    Raises
    ------
    InputError
        No adapters, an update with NaN or Inf, or a folder that cannot be written.
    """
    record = attached(model)
    folder = check_writable(folder)
    facts = {
        "format": FORMAT,
        "lowdim": lowdim.__version__,
        "random": random.VERSION,
        "seed": record.seed,
        "base": {"class": type(model).__name__, "sha256": base_hash(model, record.also)},
        "groups": [
            {
                "method": group.method.id,
                "options": group.method.options(),
                "targets": {t.name: list(t.shape) for t in group.targets},
            }
            for group in record.groups
        ],
        "also": record.also,
        "trainable": record.n_trainable,
        "about": dict(about or {}),
    }
    buffers = dict(model.named_buffers())
    moved = {
        f"buffer:{name}": buffers[name]
        for name, before in record.buffers_before.items()
        if not torch.equal(buffers[name], before)
    }
    whole = {
        f"also:{name}.{key}": x
        for name in record.also
        for key, x in model.get_submodule(name).state_dict().items()
    }
    every = {**_adapter_tensors(record.groups), **whole, **moved}
    tensors = {name: x.detach().cpu().contiguous().clone() for name, x in every.items()}
    for name, x in tensors.items():
        check_finite(x.reshape(1, -1), name)
    atomic_write(folder / NUMBERS, dump(tensors))
    atomic_write(folder / FACTS, json.dumps(to_json(facts), indent=1, allow_nan=False) + "\n")
    return folder


@torch.no_grad()
def load(model: nn.Module, folder: str | Path) -> Attached:
    """Attach the adapters that :func:`save` wrote to the base that they were trained on.

    Raises
    ------
    InputError
        Missing or damaged files, a newer format, another architecture, or other base weights (the
        hash is checked). The model is then as it was.
    """
    folder = Path(folder)
    facts = _facts(folder)
    tensors = _read(folder / NUMBERS, parse)
    _check_base(model, facts, folder)
    groups = [_group(model, stored, folder) for stored in facts["groups"]]
    for group in groups:
        make_adapters(group, facts["seed"])
    _check_names(model, groups, tensors, folder)
    _fill(groups, tensors)
    record = install(model, groups, facts["also"], facts["seed"])
    held = _held(model)
    for name, x in tensors.items():
        kind, _, rest = name.partition(":")
        if kind in ("also", "buffer"):
            held[rest].copy_(x)
    return record


def base_hash(model: nn.Module, also: Sequence[str] = ()) -> str:
    """SHA-256 of the weights under the adapters; modules in ``also`` are left out."""
    digest = hashlib.sha256()
    for name, x in sorted(_base_parameters(model)):
        if not any(name.startswith(module + ".") for module in also):
            digest.update(f"{name} {x.dtype} {tuple(x.shape)}".encode())
            digest.update(x.detach().cpu().contiguous().view(-1).view(torch.uint8).numpy().data)
    return digest.hexdigest()


def _base_parameters(model: nn.Module) -> Iterator[tuple[str, Tensor]]:
    """The frozen parameters, by the names that they have without adapters."""
    for name, parameter in model.named_parameters():
        if f"{BESIDE}." in name:
            continue
        if "parametrizations." not in name:
            yield name, parameter
        elif name.endswith(".original"):
            yield name.replace("parametrizations.", "").removesuffix(".original"), parameter


def _adapter_tensors(groups: list[Group]) -> dict[str, Tensor]:
    """Parameters and stored buffers of all adapters, shared ones once, in a fixed order."""
    found: dict[str, Tensor] = {}
    seen: set[int] = set()
    for target, adapter in _pairs(groups):
        for name, x in adapter.state_dict(keep_vars=True).items():
            if id(x) not in seen:
                seen.add(id(x))
                found[f"{target.name}:{name}"] = x
    return found


def _pairs(groups: list[Group]) -> Iterator[tuple[Target, Adapter]]:
    for group in groups:
        yield from zip(group.targets, group.adapters, strict=True)


def _fill(groups: list[Group], tensors: Mapping[str, Tensor]) -> None:
    """Put the stored numbers, at their own sizes, into fresh adapters."""
    held = {id(x): tensors[key] for key, x in _adapter_tensors(groups).items()}
    for adapter in {id(a): a for _, a in _pairs(groups)}.values():
        for name, x in adapter.state_dict(keep_vars=True).items():
            path, _, leaf = name.rpartition(".")
            if isinstance(x, nn.Parameter):
                x.data = held[id(x)].to(x.dtype)
            else:
                setattr(adapter.get_submodule(path), leaf, held[id(x)])


def _group(model: nn.Module, stored: Mapping[str, Any], folder: Path) -> Group:
    targets = []
    for name, shape in stored["targets"].items():
        module_name, _, tensor = name.rpartition(".")
        try:
            target = Target(module_name, model.get_submodule(module_name), tensor)
            found = list(target.shape)
        except AttributeError:
            found = None
        if found != shape:
            raise InputError(
                f"{folder} adapts {name} of shape {shape} and this {type(model).__name__} has "
                f"{found or 'no such tensor'}: load it into the architecture it was trained on"
            )
        targets.append(target)
    return Group(make_method(stored["method"], stored["options"]), targets, [])


def _facts(folder: Path) -> dict[str, Any]:
    path = folder / FACTS
    facts = _read(path, lambda data: json.loads(data.decode("utf-8")))
    if not isinstance(facts, dict) or not isinstance(facts.get("format"), int):
        raise InputError(f"{path} is no adapter of lowdim: it names no format")
    newest = (FORMAT, random.VERSION)
    if facts["format"] > FORMAT or facts.get("random", 0) > random.VERSION:
        found = (facts["format"], facts.get("random"))
        raise InputError(
            f"{path} was written by lowdim {facts.get('lowdim')} in format {found}, and this "
            f"{lowdim.__version__} reads up to {newest}: update lowdim"
        )
    if missing := {"seed", "base", "groups", "also"} - facts.keys():
        raise InputError(f"{path} lacks {min(missing)!r}: the file is damaged, save it again")
    return facts


def _check_base(model: nn.Module, facts: Mapping[str, Any], folder: Path) -> None:
    also = [name for name in facts["also"] if name in dict(model.named_modules())]
    if base_hash(model, also) != facts["base"]["sha256"]:
        raise InputError(
            f"the weights of this {type(model).__name__} are not those that {folder} was trained "
            f"on ({facts['base']['class']}): load the same base, without changes"
        )


def _check_names(
    model: nn.Module, groups: list[Group], tensors: Mapping[str, Tensor], folder: Path
) -> None:
    wanted = set(_adapter_tensors(groups))
    rest = {name for name in tensors if name.partition(":")[0] in ("also", "buffer")}
    if odd := wanted.symmetric_difference(set(tensors) - rest):
        raise InputError(f"{folder / NUMBERS} and {FACTS} do not fit: {min(odd)} is in only one")
    held = _held(model)
    for name in rest:
        found = held.get(name.partition(":")[2])
        if found is None or found.shape != tensors[name].shape:
            raise InputError(f"{folder} stores {name}, which {type(model).__name__} does not have")


def _held(model: nn.Module) -> dict[str, Tensor]:
    """Parameters and buffers of the model by their full names."""
    return {**dict(model.named_parameters()), **dict(model.named_buffers())}


def _read(path: Path, parse: Callable[[bytes], Any]) -> Any:
    try:
        return parse(path.read_bytes())
    except FileNotFoundError:
        raise InputError(f"{path} does not exist: give a folder of lowdim.adapt.save") from None
    except (OSError, ValueError, SafetensorError) as error:
        raise InputError(f"{path} cannot be read: {error}") from error
