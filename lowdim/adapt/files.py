"""Adapters on disk: safetensors and JSON, checked against the model when they are read.

``adapter.safetensors`` holds what trained and what the start took from data, ``adapter.json`` the
methods with their options, the seed of every random part (which is not stored), the targets with
their shapes, and a hash of the base weights, without which an update means nothing.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save as dump
from torch import Tensor, nn

import lowdim
from lowdim.adapt.adapter import Adapter, ProductAdapter
from lowdim.adapt.attach import install, make_adapters
from lowdim.adapt.check import fitting
from lowdim.adapt.method import make_method
from lowdim.adapt.place import BESIDE
from lowdim.adapt.record import (
    Attached,
    Group,
    attached,
    base_buffers,
    check_bare,
    inside,
    moved_buffers,
)
from lowdim.adapt.stored import FACTS, FORMAT, NUMBERS, check_numbers, read_facts, read_tensors
from lowdim.adapt.targets import Target
from lowdim.core import random
from lowdim.core.estimate import to_json
from lowdim.errors import InputError
from lowdim.io.write import atomic_open, check_writable


def save(model: nn.Module, folder: str | Path, *, about: Mapping[str, Any] | None = None) -> Path:
    """Write the adapters of a model, and the modules that trained beside them.

    Parameters
    ----------
    model : torch.nn.Module
        With adapters attached.
    folder : path
        Gets ``adapter.safetensors`` and ``adapter.json``, both or neither; made where missing.
    about : mapping, optional
        What else a reader should know (the task, the figures): JSON values.

    Returns
    -------
    Path
        The folder.

    Raises
    ------
    InputError
        No adapters, numbers that are NaN or Inf, a parameter of the base that trains although it
        would not be stored, a folder that cannot be written, or a full disk.
    """
    record = attached(model)
    free = _whole(model, record.also)
    for name, parameter in _base_parameters(model):
        if parameter.requires_grad and id(parameter) not in free:
            raise InputError(
                f"{name} trains and would not be stored: freeze it, or name its module in also="
            )
    every = {
        **_adapter_tensors(record.groups),
        **_also_tensors(model, record.also),
        **{f"buffer:{name}": x for name, x in moved_buffers(model).items()},
    }
    tensors = {name: x.detach().cpu().contiguous().clone() for name, x in every.items()}
    for name, x in tensors.items():
        check_numbers(name, x)
    numbers = dump(tensors)
    facts = {
        "format": FORMAT,
        "lowdim": lowdim.__version__,
        "random": random.VERSION,
        "seed": record.seed,
        "base": {
            "class": type(model).__name__,
            "sha256": base_hash(model, record.also, base_buffers(model)),
        },
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
        "sha256": hashlib.sha256(numbers).hexdigest(),
        "about": dict(about or {}),
    }
    text = json.dumps(to_json(facts), indent=1, allow_nan=False) + "\n"
    folder = check_writable(folder)
    with (
        atomic_open(folder / FACTS, size=len(text)) as facts_file,
        atomic_open(folder / NUMBERS, size=len(numbers)) as numbers_file,
    ):
        facts_file.write(text.encode())
        facts_file.flush()  # so that a disk that is full says so before either takes its place
        numbers_file.write(numbers)
    return folder


@torch.no_grad()
def load(model: nn.Module, folder: str | Path) -> Attached:
    """Attach the adapters that :func:`save` wrote to the base that they were trained on.

    Parameters
    ----------
    model : torch.nn.Module
        The base, in the precision it was trained in; it may be cast afterwards.
    folder : path
        What :func:`save` wrote.

    Raises
    ------
    InputError
        Missing or damaged files, a newer format, another architecture, or other base weights (the
        hash is checked). The model is then as it was.
    """
    check_bare(model)
    folder = Path(folder)
    facts = read_facts(folder)
    tensors = read_tensors(folder, facts["sha256"])
    groups = [_group(model, stored, folder) for stored in facts["groups"]]
    _check_base(model, facts, folder)
    _check_count(groups, tensors, folder)
    for group in groups:
        make_adapters(group, facts["seed"])
    rest = _check_names(model, groups, facts["also"], tensors, folder)
    _fill(groups, tensors, folder)
    record = install(model, groups, facts["also"], facts["seed"])
    for x, stored in rest.items():
        x.copy_(stored)
    return record


def base_hash(
    model: nn.Module, also: Sequence[str] = (), buffers: Mapping[str, Tensor] | None = None
) -> str:
    """SHA-256 of the weights and buffers under the adapters; modules in ``also`` are left out.

    ``buffers`` are taken in place of the model's own, which training may have moved.
    """
    free = _whole(model, also)
    stored = set(model.state_dict())
    fixed = {n: x for n, x in model.named_buffers() if n in stored and not inside(n, also)}
    parameters = {name: p for name, p in _base_parameters(model) if id(p) not in free}
    digest = hashlib.sha256()
    for name, x in sorted({**parameters, **(fixed if buffers is None else buffers)}.items()):
        digest.update(f"{name} {x.dtype} {tuple(x.shape)}".encode())
        digest.update(x.detach().cpu().contiguous().view(-1).view(torch.uint8).numpy().data)
    return digest.hexdigest()


def _whole(model: nn.Module, also: Sequence[str]) -> set[int]:
    """Parameters of the modules in ``also``, under whatever name they are met."""
    return {id(p) for name in also for p in model.get_submodule(name).parameters()}


def _base_parameters(model: nn.Module) -> Iterator[tuple[str, nn.Parameter]]:
    """Parameters of the base, by the names that they have without adapters."""
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
    for group in groups:
        for target, adapter in group.distinct():
            for name, x in adapter.state_dict(keep_vars=True).items():
                if id(x) not in seen:
                    seen.add(id(x))
                    found[f"{target.name}:{name}"] = x
    return found


def _fill(groups: list[Group], tensors: Mapping[str, Tensor], folder: Path) -> None:
    """Put the stored numbers, at their own sizes, into fresh adapters."""
    fresh = _adapter_tensors(groups)  # kept to the end, lest an id be given to another tensor
    held = {id(x): tensors[key] for key, x in fresh.items()}
    for target, adapter in [pair for group in groups for pair in group.distinct()]:
        for name, x in adapter.state_dict(keep_vars=True).items():
            stored = held.get(id(x), x)  # what is shared was filled before
            if stored.is_floating_point() != x.is_floating_point():
                raise InputError(f"{folder} holds {name} of {target.name} as {stored.dtype}")
            path, _, leaf = name.rpartition(".")
            if isinstance(x, nn.Parameter):
                x.data = stored
            else:
                setattr(adapter.get_submodule(path), leaf, stored)
        adapter.to(target.weight.device, adapter.dtype)
        _check_shape(target, adapter, folder)


def _check_shape(target: Target, adapter: Adapter, folder: Path) -> None:
    """Raise where the stored sizes make no update of the tensor."""
    try:
        if isinstance(adapter, ProductAdapter) and len(target.shape) == 2:
            x = torch.zeros(1, target.shape[1], dtype=adapter.dtype, device=target.weight.device)
            fits = adapter(x).shape == (1, target.shape[0])
        else:
            fits = adapter.update(target.weight).shape == target.shape
    except (RuntimeError, ValueError):  # how torch says that shapes do not fit
        fits = False
    if not fits:
        raise InputError(f"{folder} holds numbers of other sizes than {target.name} needs")


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
    method = make_method(stored["method"], stored["options"])
    return Group(method, fitting(method, targets))


def _check_base(model: nn.Module, facts: Mapping[str, Any], folder: Path) -> None:
    known = dict(model.named_modules())
    for name in facts["also"]:
        if name not in known:
            raise InputError(f"{folder} trained {name!r}, which {type(model).__name__} lacks")
    if base_hash(model, facts["also"]) != facts["base"]["sha256"]:
        raise InputError(
            f"the weights of this {type(model).__name__} are not those that {folder} was trained "
            f"on ({facts['base']['class']}): load the same base in the same precision, unchanged"
        )


def _check_count(groups: list[Group], tensors: Mapping[str, Tensor], folder: Path) -> None:
    """Raise where the options ask for more numbers than the file has, before any is made."""
    for group in groups:
        names = {target.name for target in group.targets}
        held = sum(x.numel() for key, x in tensors.items() if key.partition(":")[0] in names)
        distinct = {id(target.parameter): target.shape for target in group.targets}
        if group.method.count(list(distinct.values())) > held:
            raise InputError(
                f"{folder / NUMBERS} holds {held:,} numbers, fewer than {group.method} trains"
            )


def _check_names(
    model: nn.Module,
    groups: list[Group],
    also: Sequence[str],
    tensors: Mapping[str, Tensor],
    folder: Path,
) -> dict[Tensor, Tensor]:
    """Raise unless the file holds what it should; returns what else to set, and to what."""
    whole = _also_tensors(model, also)
    buffers = {f"buffer:{name}": x for name, x in model.named_buffers()}
    wanted = {*_adapter_tensors(groups), *whole}
    if odd := wanted - set(tensors) or set(tensors) - wanted - set(buffers):
        raise InputError(
            f"{folder / NUMBERS}, {FACTS} and this {type(model).__name__} do not fit: {min(odd)} "
            "is not in each"
        )
    held = {name: x for name, x in {**whole, **buffers}.items() if name in tensors}
    for name, x in held.items():
        if x.shape != tensors[name].shape:
            raise InputError(
                f"{folder} stores {name} of shape {tuple(tensors[name].shape)}, which this "
                f"{type(model).__name__} has in shape {tuple(x.shape)}"
            )
    for name, x in tensors.items():
        check_numbers(name, x)
    return {x: tensors[name] for name, x in held.items()}


def _also_tensors(model: nn.Module, also: Sequence[str]) -> dict[str, Tensor]:
    """Parameters and buffers of the modules that train whole."""
    return {
        f"also:{name}.{key}": x
        for name in also
        for key, x in model.get_submodule(name).state_dict(keep_vars=True).items()
    }
