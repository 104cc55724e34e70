"""Gradients of the loss by the weights that are to be adapted, before anything trains.

What starts from a gradient (LoRA-GA, LoRA-SB) and what chooses ranks by it reads these. Cost: one
forward and backward pass of each batch; memory: one float32 tensor a target, of the size of its
weight, beside the gradients of one batch. Batches are taken one at a time, so a large one can be
given as several small ones.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from operator import length_hint
from typing import Any

import torch
from torch import Tensor, nn

from lowdim.adapt.targets import Targets, find_targets
from lowdim.core.points import check_finite
from lowdim.core.progress import Advance
from lowdim.errors import InputError


def gradients(
    model: nn.Module,
    loss: Callable[[nn.Module, Any], Tensor],
    batches: Iterable[Any],
    targets: Targets,
    *,
    progress: Advance | None = None,
) -> dict[str, Tensor]:
    """Which way would the first step of full fine-tuning move each of these weights?

    Parameters
    ----------
    model : torch.nn.Module
        Left as it was: modes, flags and ``.grad`` of its parameters. Run in evaluation mode, so
        that dropout adds no noise. With adapters attached the gradients are those by the frozen
        weights under them, which are those by the adapted weights where an update is added.
    loss : callable
        ``loss(model, batch)``, the mean over a batch.
    batches : iterable
        A few batches, weighted alike; taken one at a time.
    targets : str, type or sequence of them
        See :func:`find_targets`.
    progress : callable, optional
        ``progress(done, total)`` after each batch; total is 0 where batches have no length.

    Returns
    -------
    dict of str to Tensor
        The mean gradient over the batches by each target, float32, in the shape of
        :attr:`Target.weight`, by the parameter's name.

    Raises
    ------
    InputError
        No batch, a loss that is no finite number, a gradient that is not finite, or a target that
        the loss does not depend on.
    """
    found = {target.name: target for target in find_targets(model, targets)}
    parameters = {name: target.parameter for name, target in found.items()}
    trained = [(p, p.requires_grad) for p in model.parameters()]
    modes = [(module, module.training) for module in model.modules()]
    model.eval().requires_grad_(False)
    for parameter in parameters.values():
        parameter.requires_grad_(True)
    sums: dict[str, Tensor] = {}
    n = 0
    try:
        for n, batch in enumerate(batches, 1):
            parts = _of_batch(model, loss, batch, n, parameters)
            for name, part in zip(parameters, parts, strict=True):
                if name in sums:
                    sums[name] += part
                else:
                    sums[name] = part.to(torch.float32, copy=True)
            if progress is not None:
                progress(n, length_hint(batches))
    finally:
        for parameter, trains in trained:
            parameter.requires_grad_(trains)
        for module, mode in modes:
            module.training = mode
    if n == 0:
        raise InputError("no batches: give at least one to take gradients of")
    for name, x in sums.items():
        check_finite(x.reshape(1, -1), f"the gradient of {name}")
    return {name: (x.T if found[name].transposed else x) / n for name, x in sums.items()}


def _of_batch(
    model: nn.Module,
    loss: Callable[[nn.Module, Any], Tensor],
    batch: Any,
    n: int,
    parameters: dict[str, nn.Parameter],
) -> tuple[Tensor, ...]:
    """Gradients of the loss of the n-th batch."""
    with torch.enable_grad():
        value = loss(model, batch)
        if value.numel() != 1 or not bool(torch.isfinite(value)):
            shown = value.item() if value.numel() == 1 else f"of shape {tuple(value.shape)}"
            raise InputError(f"the loss of batch {n} is {shown}: it has to be one finite number")
        if not value.requires_grad:
            raise InputError("the loss does not depend on the targets: check loss and targets")
        parts = torch.autograd.grad(value.sum(), list(parameters.values()), allow_unused=True)
    for name, part in zip(parameters, parts, strict=True):
        if part is None:
            raise InputError(f"the loss does not depend on {name}: leave it out")
    return parts
