"""What a model is adapted for: batches, a loss, and a score on data that it was not trained on."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from typing import Any, Protocol, Self

import torch
from torch import Tensor, nn

from lowdim.adapt.targets import Targets

Z95 = 1.959964


@dataclass(frozen=True)
class Score:
    """How good a model is on held-out data.

    Attributes
    ----------
    value : float
        The score.
    name : str
        ``accuracy``, ``perplexity`` or ``squared error``.
    higher_is_better : bool
        Which way is good.
    low, high : float
        95% interval over the held-out items.
    n : int
        Items, or tokens predicted.
    per_item : Tensor
        (n_items,) float64, its mean is the score, or the logarithm of a perplexity.
    """

    value: float
    name: str
    higher_is_better: bool
    low: float
    high: float
    n: int
    per_item: Tensor = field(repr=False, compare=False)

    def beats(self, other: Score) -> bool:
        """Whether this is the better value."""
        return self.value > other.value if self.higher_is_better else self.value < other.value


class Task(Protocol):
    """A model and data to adapt it to; what :func:`lowdim.adapt.fit` and its callers work on."""

    @property
    def also(self) -> tuple[str, ...]:
        """Modules of the model that train whole, such as a new classifier."""

    @property
    def targets(self) -> Targets:
        """What is adapted where nothing is said."""

    @property
    def key(self) -> str:
        """Digest of the base, the data and the options: a checkpoint of another is refused."""

    def fresh(self, seed: int = 0) -> nn.Module:
        """A copy of the base with its untrained head, the same each time."""

    def batches(self, seed: int, epoch: int) -> Iterator[Any]:
        """Training batches of one epoch, in an order drawn from the seed."""

    def n_batches(self) -> int:
        """Batches in an epoch."""

    def loss(self, model: nn.Module, batch: Any) -> Tensor:
        """Mean loss of a batch."""

    def evaluate(self, model: nn.Module) -> Score:
        """Score on the held-out data; leaves the model in the mode that it was in."""

    def tuning(self) -> Self:
        """The same with a fifth of its training data held out in place of the held-out data."""


def also_modules(model: nn.Module, task: Task) -> list[nn.Module]:
    """The modules that train whole."""
    return [
        module
        for name, module in model.named_modules()
        if any(f".{name}".endswith(f".{want}") for want in task.also)
    ]


def train_head(task: Task, model: nn.Module) -> None:
    """Let only the modules train that the task trains whole."""
    model.requires_grad_(False)
    for module in also_modules(model, task):
        module.requires_grad_(True)


def accuracy(right: Tensor) -> Score:
    """Score of (n,) right answers, with Wilson's interval."""
    n, p = len(right), float(right.double().mean())
    z2 = Z95 * Z95 / n
    centre = (p + z2 / 2) / (1 + z2)
    half = math.sqrt(p * (1 - p) * z2 + z2 * z2 / 4) / (1 + z2)
    low, high = min(p, max(0.0, centre - half)), max(p, min(1.0, centre + half))
    return Score(p, "accuracy", True, low, high, n, right.double())


def squared_error(errors: Tensor) -> Score:
    """Score of (n,) squared errors, with a normal interval of their mean."""
    n, mean = len(errors), float(errors.double().mean())
    half = Z95 * float(errors.double().std()) / math.sqrt(n) if n > 1 else math.inf
    return Score(
        mean, "squared error", False, max(0.0, mean - half), mean + half, n, errors.double()
    )


def held_out(n: int) -> int:
    """How many of n training items :meth:`Task.tuning` holds out: a fifth, at least one."""
    return max(1, n // 5)


def fingerprint(tensors: Iterable[Tensor]) -> str:
    """SHA-256 of tensors: their types, shapes and bytes."""
    digest = hashlib.sha256()
    for x in tensors:
        digest.update(f"{x.dtype} {tuple(x.shape)}".encode())
        held = x.detach().cpu().contiguous().view(-1)
        digest.update(held.view(torch.uint8).numpy().data)
    return digest.hexdigest()
