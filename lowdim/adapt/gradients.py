"""Gradients of the loss by the weights that are to be adapted, before anything trains.

What starts from a gradient (LoRA-GA, LoRA-SB) and what chooses ranks by it reads these. Cost: one
forward and backward pass of each batch; memory: one float32 tensor a target, of the size of its
weight.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor, nn

from lowdim.adapt.targets import Targets, find_targets
from lowdim.errors import InputError


def gradients(
    model: nn.Module,
    loss: Callable[[nn.Module, Any], Tensor],
    batches: Iterable[Any],
    targets: Targets,
) -> dict[str, Tensor]:
    """Which way would the first step of full fine-tuning move each of these weights?

    Parameters
    ----------
    model : torch.nn.Module
        Left as it was: mode, flags and ``.grad`` of its parameters. Run in evaluation mode, so
        that dropout adds no noise.
    loss : callable
        ``loss(model, batch)``, the mean over a batch.
    batches : iterable
        A few batches, weighted alike.
    targets : str, type or sequence of them
        See :func:`find_targets`.

    Returns
    -------
    dict of str to Tensor
        The mean gradient over the batches by each target, float32, in the shape of
        :attr:`Target.weight`, by the parameter's name.

    Raises
    ------
    InputError
        No batch, a loss or gradient that is not finite, or a target that the loss does not reach.
    """
    found = {t.name: (t, getattr(t.module, t.tensor)) for t in find_targets(model, targets)}
    before = [(p, p.requires_grad) for p in model.parameters()]
    training = model.training
    model.eval().requires_grad_(False)
    for _, parameter in found.values():
        parameter.requires_grad_(True)
    sums: dict[str, Tensor] = {}
    n = 0
    try:
        for n, batch in enumerate(batches, 1):
            value = loss(model, batch)
            if not bool(torch.isfinite(value)):
                raise InputError(f"the loss of batch {n} is {float(value)}: check the data")
            parts = torch.autograd.grad(value, [p for _, p in found.values()], allow_unused=True)
            for name, part in zip(found, parts, strict=True):
                if part is None:
                    raise InputError(f"the loss does not depend on {name}: leave it out")
                sums[name] = part.float() + sums[name] if name in sums else part.float()
    finally:
        for parameter, trains in before:
            parameter.requires_grad_(trains)
        model.train(training)
    if n == 0:
        raise InputError("no batches: give at least one to take gradients of")
    for name, total in sums.items():
        if not bool(torch.isfinite(total).all()):
            raise InputError(f"the gradient of {name} is not finite: check the data")
    return {
        name: (total.T if found[name][0].transposed else total) / n for name, total in sums.items()
    }
