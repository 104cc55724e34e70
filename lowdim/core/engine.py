"""Where work runs: every engine maps a function over pieces and merges accumulators.

The local engine runs the pieces in order on this machine (torch threads fill the cores). A
distributed engine has to offer the same two verbs, so no method knows where it runs.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from typing import Protocol, Self, TypeVar

from torch import Tensor

Item = TypeVar("Item")
Result = TypeVar("Result")


class Accumulator(Protocol):
    """Streaming state: ``update`` with a chunk, ``merge`` two halves."""

    def update(self, chunk: Tensor) -> Self:
        """Take in the rows of one chunk."""
        ...

    def merge(self, other: Self) -> Self:
        """Take in all that ``other`` has seen."""
        ...


State = TypeVar("State", bound=Accumulator)


class Engine(Protocol):
    """What an engine has to offer."""

    def map(self, function: Callable[[Item], Result], items: Iterable[Item]) -> Iterator[Result]:
        """Apply ``function`` to each item; results come in the order of the items."""
        ...

    def reduce(self, start: Callable[[], State], chunks: Iterable[Tensor]) -> State:
        """Feed all chunks to accumulators made by ``start`` and merge them."""
        ...


class LocalEngine:
    """One process, pieces in order; memory holds one chunk and one accumulator."""

    def map(self, function: Callable[[Item], Result], items: Iterable[Item]) -> Iterator[Result]:
        """Apply ``function`` to each item, lazily."""
        return map(function, items)

    def reduce(self, start: Callable[[], State], chunks: Iterable[Tensor]) -> State:
        """Feed the chunks to one accumulator."""
        state = start()
        for chunk in chunks:
            state.update(chunk)
        return state
