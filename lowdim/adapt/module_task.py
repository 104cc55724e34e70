"""Any torch module with tensors to train it on: what a task is for images, tables and signals."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from lowdim.adapt.targets import Target, Targets, is_head
from lowdim.adapt.task import Score, accuracy, fingerprint, held_out, squared_error
from lowdim.core.points import check_finite
from lowdim.core.random import permutation
from lowdim.errors import InputError

Pair = tuple[Tensor, Tensor]
"""(n, ...) inputs and (n,) classes, or (n, ...) numbers to predict."""

Loss = Callable[[Tensor, Tensor], Tensor]

SPLIT = 2**31  # a stream of the seed that no epoch uses


@dataclass(frozen=True)
class ModuleTask:
    """A task of tensors; made by :func:`module_task`."""

    module: nn.Module = field(repr=False)
    train: Pair = field(repr=False)
    valid: Pair = field(repr=False)
    loss_function: Loss
    batch_size: int
    also: tuple[str, ...]
    targets: Targets

    @cached_property
    def key(self) -> str:
        """Digest of the module, the data and the batch size."""
        sizes = torch.tensor([self.batch_size])
        state = self.module.state_dict().values()
        return fingerprint([*state, *self.train, *self.valid, sizes])

    def fresh(self, seed: int = 0) -> nn.Module:
        """A copy of the module as it was given; the seed has no part in it."""
        return copy.deepcopy(self.module)

    def n_batches(self) -> int:
        """Batches in an epoch, of sizes that differ by at most one."""
        return -(-len(self.train[0]) // self.batch_size)

    def batches(self, seed: int, epoch: int) -> Iterator[Pair]:
        """Shuffled anew each epoch."""
        x, y = self.train
        for rows in permutation(len(x), seed, epoch).tensor_split(self.n_batches()):
            yield x[rows], y[rows]

    def loss(self, model: nn.Module, batch: Pair) -> Tensor:
        """Mean over the batch."""
        x, y = (part.to(_device(model)) for part in batch)
        return self.loss_function(model(x), y)

    @torch.no_grad()
    def evaluate(self, model: nn.Module) -> Score:
        """Accuracy for classes, mean squared error for numbers."""
        training, device = model.training, _device(model)
        model.eval()
        x, y = self.valid
        parts = zip(x.split(4 * self.batch_size), y.split(4 * self.batch_size), strict=True)
        try:
            items = [_items(model(a.to(device)), b.to(device)).cpu() for a, b in parts]
        finally:
            model.train(training)
        return (squared_error if y.is_floating_point() else accuracy)(torch.cat(items))

    def tuning(self) -> ModuleTask:
        """A fifth of the training data is held out in place of the held-out data."""
        x, y = self.train
        out, kept = permutation(len(x), 0, SPLIT).tensor_split([held_out(len(x))])
        return replace(self, train=(x[kept], y[kept]), valid=(x[out], y[out]))


def module_task(
    module: nn.Module,
    train: Pair,
    valid: Pair,
    *,
    loss: Loss | None = None,
    batch_size: int = 64,
    also: Sequence[str] = (),
    targets: Targets | None = None,
) -> ModuleTask:
    """How well can this module be adapted to these tensors?

    Parameters
    ----------
    module : torch.nn.Module
        ``module(x)`` gives (b, classes) scores, or predictions of the shape of y. Never changed:
        each :meth:`ModuleTask.fresh` is a copy.
    train, valid : tuple of Tensor
        Inputs (n, ...) and, in the same order, whole numbers (n,) for classes or floats for
        anything else. They stay where they are; batches move to the model's device.
    loss : callable, optional
        ``loss(outputs, y)``, a mean over the batch. By default cross entropy for classes and the
        mean squared error for floats.
    batch_size : int
        Items in a training batch.
    also : sequence of str
        Modules that train whole, such as a new head.
    targets : str, type or sequence of them, optional
        What is adapted: see :func:`find_targets`. By default every linear layer and convolution
        but those in ``also`` and those named as heads.

    Raises
    ------
    InputError
        Inputs and targets that differ in number, too few of them, values that are not finite, or
        nothing to adapt.
    """
    if batch_size < 1:
        raise InputError(f"batch_size={batch_size}: give at least 1")
    for name, (x, y) in (("train", train), ("valid", valid)):
        if len(x) != len(y):
            raise InputError(f"{name} has {len(x)} inputs and {len(y)} targets: give as many")
        if len(x) < 2:
            raise InputError(f"{name} has {len(x)} items: give at least two")
        for part, kind in ((x, "inputs"), (y, "targets")):
            if part.is_floating_point():
                check_finite(part.reshape(len(part), -1), f"{name} {kind}")
    if train[1].is_floating_point() != valid[1].is_floating_point():
        raise InputError("train and valid: one has classes and the other numbers")
    usual = _mean_square if train[1].is_floating_point() else cross_entropy
    found = _usual_targets(module, also) if targets is None else targets
    return ModuleTask(module, train, valid, loss or usual, batch_size, tuple(also), found)


def _items(outputs: Tensor, y: Tensor) -> Tensor:
    """(b,) what the score is the mean of."""
    return _squares(outputs, y) if y.is_floating_point() else outputs.argmax(1) == y


def _mean_square(outputs: Tensor, y: Tensor) -> Tensor:
    return _squares(outputs, y).mean()


def _squares(outputs: Tensor, y: Tensor) -> Tensor:
    """(b,) mean squared error of each item."""
    if outputs.shape != y.shape:
        raise InputError(
            f"the module gives {tuple(outputs.shape)} for targets of {tuple(y.shape)}: give "
            "targets of the shape of its outputs, or whole numbers for classes"
        )
    return (outputs - y).square().view(len(y), -1).mean(1)


def _usual_targets(module: nn.Module, also: Sequence[str]) -> tuple[str, ...]:
    inside = [Target(name, part) for name, part in module.named_modules()]
    found = tuple(
        t.module_name
        for t in inside
        if t.kind in ("linear", "convolution")
        and not is_head(t.module_name)
        and not any(f".{name}." in f".{t.module_name}." for name in also)
    )
    if not found:
        raise InputError("the module has no linear layer or convolution to adapt: name targets")
    return found


def _device(model: nn.Module) -> torch.device:
    return next(model.parameters()).device
