"""The adapters of peft, at the size of a budget: what ours are compared with.

They are peft's own code (extra ``peft``), put on the same model, targets and data. Where peft has
a default it is kept; ``lora_alpha`` is the rank, so that LoRA's update is B A.
"""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from itertools import islice
from typing import Any

import torch
from torch import Tensor, nn

from lowdim.adapt.adapter import matrix_shape
from lowdim.adapt.targets import Target, Targets, find_targets
from lowdim.adapt.task import Task, also_modules
from lowdim.core.random import integers
from lowdim.errors import InputError, require
from lowdim.io.batches import Batch

LINEAR = frozenset({"linear"})
START = 2**31 + 1  # a stream of the seed that no epoch uses
EVA_BATCHES = 32


@dataclass(frozen=True)
class PeftMethod:
    """How one of peft's adapters is made and what it trains.

    Attributes
    ----------
    options : mapping
        Of ``LoraConfig``.
    magnitudes : bool
        Whether a number for each output trains beside the rest.
    kinds : frozenset of str
        Kinds of tensors that it adapts, see :class:`Target`.
    """

    options: Mapping[str, Any] = field(default_factory=dict)
    magnitudes: bool = False
    kinds: frozenset[str] = LINEAR


PEFT = {
    "lora": PeftMethod(kinds=frozenset({"linear", "convolution", "embedding"})),
    "dora": PeftMethod({"use_dora": True}, magnitudes=True),
    "pissa": PeftMethod({"init_lora_weights": "pissa"}),
    "olora": PeftMethod({"init_lora_weights": "olora"}),
    "rslora": PeftMethod({"use_rslora": True}),
    "eva": PeftMethod({"init_lora_weights": "eva"}),
    "vera": PeftMethod(magnitudes=True),
}
"""Methods of peft by the names that :func:`compare` knows them by."""


def peft_count(name: str, shapes: Sequence[tuple[int, ...]], rank: int) -> int:
    """How many numbers one of peft's methods trains on tensors of these shapes.

    r (in + out) a tensor, and out more for DoRA; r + out for VeRA, whose matrices are drawn. EVA
    moves ranks between tensors: their sum is kept, the count only where sizes are equal.
    """
    fixed, each = _costs(name, shapes)
    return fixed + rank * each


def peft_rank(name: str, shapes: Sequence[tuple[int, ...]], budget: int) -> int:
    """Which is the largest rank of one of peft's methods within a budget?

    At most the smallest side of the tensors; of VeRA twice the largest, beyond which its drawn
    matrices cost several times the weight.

    Raises
    ------
    InputError
        Rank 1 trains more: names that count.
    """
    fixed, each = _costs(name, shapes)
    rank = (budget - fixed) // each
    if rank < 1:
        raise InputError(
            f"{name} trains {fixed + each:,} numbers on these {len(shapes)} tensors at rank 1: "
            "give a budget of that, or fewer targets"
        )
    sides = [side for shape in shapes for side in matrix_shape(shape)]
    return min(rank, 2 * max(sides) if name == "vera" else min(sides))


def attach_peft(
    model: nn.Module,
    name: str,
    targets: Targets,
    *,
    task: Task,
    rank: int,
    seed: int = 0,
) -> None:
    """Freeze a model and put one of peft's adapters on each target, in place.

    Parameters
    ----------
    model : torch.nn.Module
        From ``task.fresh()``; ``task.also`` trains whole beside the adapters.
    name : str
        One of :data:`PEFT`.
    targets : str, type or sequence of them
        See :func:`find_targets`.
    task : Task
        EVA reads inputs of the layers off its first batches.
    rank : int
        r of all tensors.
    seed : int
        Of the random parts.

    Raises
    ------
    InputError
        A kind of tensor that the method cannot adapt, or batches too small for EVA.
    MissingExtraError
        peft is not installed.
    """
    peft = require("peft", "peft")
    found = check_kinds(name, find_targets(model, targets))
    names = [target.module_name for target in found]
    shared = {"r": rank, "target_modules": names, "fan_in_fan_out": found[0].transposed}
    if name == "vera":
        config = peft.VeraConfig(**shared, projection_prng_key=seed)
    else:
        options = dict(PEFT[name].options)
        if name == "eva":
            options["eva_config"] = peft.EvaConfig()
        config = peft.LoraConfig(**shared, lora_alpha=rank, **options)
    devices = {p.device for p in model.parameters() if p.device.type == "cuda"}
    with torch.random.fork_rng(list(devices)), warnings.catch_warnings():
        warnings.filterwarnings("ignore", message=".*(eva|EVA|fan_in_fan_out).*")
        warnings.filterwarnings("ignore", category=FutureWarning)  # between peft and transformers
        torch.manual_seed(int(integers(1, 2**31, seed, START)))
        wrapped = peft.get_peft_model(model, config)  # changes the model itself
        if name == "eva":
            _start_eva(peft, wrapped, model, task, config, seed)
    for module in also_modules(model, task):
        module.requires_grad_(True)


def check_kinds(name: str, targets: list[Target]) -> list[Target]:
    """Raise an error unless one of peft's methods can adapt these; returns them."""
    for target in targets:
        if target.kind not in PEFT[name].kinds:
            raise InputError(
                f"{name} of peft adapts {', '.join(sorted(PEFT[name].kinds))} tensors and "
                f"{target.name} is of kind {target.kind}: leave it out"
            )
    if len({target.transposed for target in targets}) > 1:
        raise InputError("peft cannot adapt Linear and Conv1D together: name other targets")
    return targets


def _costs(name: str, shapes: Sequence[tuple[int, ...]]) -> tuple[int, int]:
    """What trains whatever the rank, and what each further rank adds."""
    sides = [matrix_shape(shape) for shape in shapes]
    fixed = sum(out for out, _ in sides) if PEFT[name].magnitudes else 0
    return fixed, len(sides) if name == "vera" else sum(out + width for out, width in sides)


def _start_eva(
    peft: Any, wrapped: nn.Module, model: nn.Module, task: Task, config: Any, seed: int
) -> None:
    """Set the A of each layer to the leading directions of its inputs, padding left out."""
    least = round(config.r * config.eva_config.rho)  # components that are sought

    def rows(inputs: Any, batch: Any, layer: str) -> Tensor:
        x = inputs[0] if isinstance(inputs, tuple) else inputs
        x = x[batch.mask] if isinstance(batch, Batch) else x.flatten(0, -2)  # (rows, in)
        if len(x) < least:
            raise InputError(
                f"eva at rank {config.r} needs {least} rows a batch and {layer} has {len(x)}: "
                "give larger batches or a smaller budget"
            )
        return x

    peft.initialize_lora_eva_weights(
        wrapped,
        list(islice(task.batches(seed, 0), EVA_BATCHES)),
        forward_fn=lambda _, batch: task.loss(model, batch),
        prepare_model_inputs_fn=None,
        prepare_layer_inputs_fn=rows,
        show_progress_bar=False,
    )
