"""Put a method on a fresh model of a task, with what its start takes from the task's data."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from itertools import islice
from typing import Any

from torch import Tensor, nn

from lowdim.adapt.attach import Attached, attach
from lowdim.adapt.gradients import gradients
from lowdim.adapt.method import Method
from lowdim.adapt.strata_adapter import StrataLoRA, fit_gates
from lowdim.adapt.targets import Targets
from lowdim.adapt.task import Task

START_BATCHES = 8
"""Training batches that gradients and strata are measured on."""


def start(
    task: Task,
    model: nn.Module,
    method: Method | Mapping[str, Method],
    targets: Targets | None = None,
    *,
    seed: int = 0,
) -> Attached:
    """Attach a method to a model as its task needs it: head, gradients and strata included.

    Parameters
    ----------
    task : Task
        ``task.also`` trains whole; its first training batches give the gradients of methods that
        start from them and the strata of strata adapters.
    model : torch.nn.Module
        From ``task.fresh()``, changed in place.
    method, targets, seed
        As for :func:`attach`; the seed is that of the batches as well.

    Raises
    ------
    InputError
        See :func:`attach`, :func:`gradients` and :func:`fit_gates`.
    """
    if isinstance(method, Method):
        methods, named = [method], targets
    else:
        methods, named = list(method.values()), list(method)
    found: dict[str, Tensor] | None = None
    if named is not None and any(m.uses_gradients for m in methods):
        found = gradients(model, task.loss, _batches(task, seed), named)
    record = attach(model, method, targets, also=task.also, gradients=found, seed=seed)
    if any(isinstance(m, StrataLoRA) for m in methods):
        fit_gates(model, task.loss, _batches(task, seed), seed=seed)
    return record


def _batches(task: Task, seed: int) -> Iterator[Any]:
    return islice(task.batches(seed, 0), START_BATCHES)
