"""What a model is adapted for: batches, a loss, and a score on data that it was not trained on."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any, Protocol

from torch import Tensor, nn


@dataclass(frozen=True)
class Score:
    """How good a model is on held-out data.

    Attributes
    ----------
    value : float
        The score.
    name : str
        ``accuracy`` or ``perplexity``.
    higher_is_better : bool
        Which way is good.
    low, high : float
        95% interval over the held-out items.
    n : int
        Items, or tokens predicted.
    per_item : Tensor
        (n_items,) what the score is the mean of: 0 or 1 an item, nats a text.
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

    also: tuple[str, ...]
    """Modules of the model that train whole, such as a new classifier."""

    targets: tuple[str, ...]
    """What is adapted where nothing is said."""

    def fresh(self) -> nn.Module:
        """A copy of the base with its untrained head, the same each time."""

    def batches(self, seed: int, epoch: int) -> Iterator[Any]:
        """Training batches of one epoch, in an order drawn from the seed."""

    def n_batches(self) -> int:
        """Batches in an epoch."""

    def loss(self, model: nn.Module, batch: Any) -> Tensor:
        """Mean loss of a batch."""

    def evaluate(self, model: nn.Module) -> Score:
        """Score on the held-out data; leaves the model in the mode that it was in."""
