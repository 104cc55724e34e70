"""Adapters as stock LoRA in peft's format, which every server of fine-tuned models loads.

Exact where the update has low rank: its own factors, with peft's scaling set to 1. Any other
update is cut at a rank that the caller names, and what the cut loses is returned.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save as dump
from torch import Tensor, nn

from lowdim.adapt.adapter import Adapter, as_matrix, leading_svd, relative_error
from lowdim.adapt.files import check_numbers
from lowdim.adapt.method import check_size
from lowdim.adapt.record import attached, moved_buffers
from lowdim.adapt.targets import Target
from lowdim.errors import InputError
from lowdim.io.write import atomic_write, check_writable

NUMBERS, FACTS = "adapter_model.safetensors", "adapter_config.json"
PREFIX = "base_model.model."
CAUSAL = ("ForCausalLM", "LMHeadModel")


@dataclass(frozen=True)
class Exported:
    """What a folder of peft holds.

    Attributes
    ----------
    folder : Path
        For ``PeftModel.from_pretrained(base, folder)``.
    ranks : dict of str to int
        Rank of each module's update.
    error : float
        Largest relative error (Frobenius) of an update against the adapter's.
    """

    folder: Path
    ranks: dict[str, int]
    error: float


@torch.no_grad()
def to_lora(
    model: nn.Module,
    folder: str | Path,
    *,
    rank: int | None = None,
    tolerance: float = 1e-5,
) -> Exported:
    """Write the adapters of a model as a stock LoRA of peft.

    Parameters
    ----------
    model : torch.nn.Module
        With adapters attached; not changed.
    folder : path
        Gets ``adapter_model.safetensors`` and ``adapter_config.json``.
    rank : int, optional
        Cut updates of higher rank to this one, by their singular values. Without it an update
        without low-rank factors is an error.
    tolerance : float
        Where no ``rank`` is given, the largest relative error of an update that is let pass.

    Raises
    ------
    InputError
        An update of full rank without ``rank``, one that depends on the input, a tensor that
        LoRA cannot adapt (a bias, a norm), numbers that are NaN or Inf, or a folder that cannot
        be written.

    Notes
    -----
    Modules that trained whole, and batch norms whose statistics moved, are stored as peft's
    ``modules_to_save``.
    """
    record = attached(model)
    if rank is not None:
        check_size("rank", rank)
    tensors: dict[str, Tensor] = {}
    ranks: dict[str, int] = {}
    error = 0.0
    for target, adapter in record.pairs():
        b, a = _factors(target, adapter, rank)
        lost = relative_error(as_matrix(adapter.update(target.weight)), b @ a)
        if rank is None and lost > tolerance:
            raise InputError(f"the factors of {target.name} miss its update by {lost:.2g}")
        error = max(error, lost)
        ranks[target.module_name] = len(a)
        tensors |= _named(target, b, a)
    moved = {name.rpartition(".")[0] for name in moved_buffers(model)}
    whole = [*record.also, *sorted(moved)]
    _check_apart(whole, ranks)
    for name in whole:
        for key, x in model.get_submodule(name).state_dict().items():
            tensors[f"{PREFIX}{name}.{key}"] = x
    config = _config(model, ranks, whole)
    config["fan_in_fan_out"] = any(target.transposed for target, _ in record.pairs())
    held = {name: x.detach().cpu().contiguous().clone() for name, x in tensors.items()}
    for name, x in held.items():
        check_numbers(name, x)
    folder = check_writable(folder)
    atomic_write(folder / NUMBERS, dump(held, metadata={"format": "pt"}))
    atomic_write(folder / FACTS, json.dumps(config, indent=1) + "\n")
    return Exported(folder, ranks, error)


def _config(model: nn.Module, ranks: dict[str, int], whole: list[str]) -> dict[str, Any]:
    """What peft reads: plain where all ranks are equal, since not every server knows patterns."""
    largest = max(ranks.values())
    longest_first = sorted(ranks, key=len, reverse=True)  # peft takes the first end of a name
    pattern = {name: ranks[name] for name in longest_first if min(ranks.values()) < largest}
    return {
        "peft_type": "LORA",
        "task_type": "CAUSAL_LM" if type(model).__name__.endswith(CAUSAL) else None,
        "inference_mode": True,
        "base_model_name_or_path": getattr(getattr(model, "config", None), "_name_or_path", None),
        "r": largest,
        "lora_alpha": largest,
        "rank_pattern": pattern,
        "alpha_pattern": pattern,  # alpha / r = 1
        "target_modules": sorted(ranks),
        "modules_to_save": whole or None,
        "lora_dropout": 0.0,
        "bias": "none",
    }


def _check_apart(whole: list[str], targets: Iterable[str]) -> None:
    """Raise where peft would not adapt a target because of the modules that are stored whole."""
    for name in whole:
        lost = [t for t in targets if re.match(rf"(^|.*\.){name}($|\..*)", t)]  # peft's own rule
        if not name or lost:
            raise InputError(
                f"{name or 'the model'} is stored whole, and peft adapts nothing by that name: "
                f"merge the update{'s of ' + lost[0] if lost else ''} instead"
            )


def _factors(target: Target, adapter: Adapter, rank: int | None) -> tuple[Tensor, Tensor]:
    """B (out, r) and A (r, in kernel) of the update."""
    if target.kind == "other":
        raise InputError(f"{target.name} is no weight: LoRA cannot adapt it")
    if not target.module_name:
        raise InputError("the adapted layer is the whole model: peft adapts layers inside one")
    if getattr(target.module, "groups", 1) > 1:
        raise InputError(f"{target.name} is a grouped convolution: peft cannot hold its update")
    if not adapter.mergeable:
        raise InputError(f"the update of {target.name} depends on the input: LoRA cannot hold it")
    found = adapter.factors()
    if found is not None and (rank is None or found[1].shape[0] <= rank):
        return found
    if rank is None:
        raise InputError(
            f"the update of {target.name} has full rank: give a rank to cut it to, or merge it"
        )
    u, s, vt = leading_svd(as_matrix(adapter.update(target.weight)), rank)
    return (u * s).float(), vt.float()


def _named(target: Target, b: Tensor, a: Tensor) -> dict[str, Tensor]:
    """The factors under peft's names and in its shapes."""
    name = PREFIX + target.module_name
    if target.kind == "embedding":  # peft: weight + (B A)^T with B (dim, r), A (r, rows)
        return {f"{name}.lora_embedding_A": b.T, f"{name}.lora_embedding_B": a.T}
    if target.kind == "convolution":
        kernel = target.shape[2:]
        a = a.view(len(a), target.shape[1], *kernel)
        b = b.view(*b.shape, *(1 for _ in kernel))
    return {f"{name}.lora_A.weight": a, f"{name}.lora_B.weight": b}
