"""Where work runs: every engine maps a function over shards and merges accumulators in order.

The local engine runs the shards in order on this machine (torch threads fill the cores), Ray on
the cores of a cluster. Both offer the same two verbs, so no method knows where it runs, and the
order of the merges is that of the shards, so a result does not depend on who finished first.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from typing import Any, Protocol, Self, TypeVar

from torch import Tensor

from lowdim.core.progress import Advance
from lowdim.errors import InputError

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

    @property
    def tasks(self) -> int:
        """How many items are worked on at once on one machine, and share its memory."""
        ...

    def map(self, function: Callable[[Item], Result], items: Iterable[Item]) -> Iterator[Result]:
        """Apply ``function`` to each item; results come in the order of the items."""
        ...

    def reduce(self, start: Callable[[], State], chunks: Iterable[Any]) -> State:
        """Feed all chunks (tensors, or sources read where they are needed) and merge."""
        ...


def accumulate(
    start: Callable[[], State], chunk: Any, memory: int | float | str | None = None
) -> State:
    """A new accumulator that has seen one tensor, or every chunk of a source."""
    return LocalEngine(memory).reduce(start, [chunk])


class LocalEngine:
    """One process, items in order, one at a time."""

    tasks = 1

    def __init__(self, memory: int | float | str | None = None) -> None:
        self.memory = memory

    def map(self, function: Callable[[Item], Result], items: Iterable[Item]) -> Iterator[Result]:
        """Apply ``function`` to each item, lazily."""
        return map(function, items)

    def reduce(self, start: Callable[[], State], chunks: Iterable[Any]) -> State:
        """One accumulator sees all of them."""
        state = start()
        for chunk in chunks:
            for part in [chunk] if isinstance(chunk, Tensor) else chunk.chunks(self.memory):
                state.update(part)
        return state


def merged(start: Callable[[], State], states: Iterable[State]) -> State:
    """Merge accumulators in the order they come."""
    total = start()
    for state in states:
        total.merge(state)
    return total


def open_engine(engine: Engine | str | None = None) -> Engine:
    """The engine by its name.

    Parameters
    ----------
    engine : Engine, str or None
        None or ``"local"``: this process. ``"ray"``: the Ray cluster that ``RAY_ADDRESS`` names,
        or one on the cores of this machine. ``"ray://host:10001"``: that cluster. An engine is
        taken as it is.

    Raises
    ------
    InputError
        Another name, or a cluster that does not answer.
    MissingExtraError
        Ray is not installed.
    """
    if engine is None or engine == "local":
        return LocalEngine()
    if not isinstance(engine, str):
        return engine
    if engine != "ray" and not engine.startswith("ray://"):
        raise InputError(f"engine={engine!r}: choose local, ray, or the address of a Ray cluster")
    from lowdim.core.ray_engine import RayEngine

    return RayEngine(None if engine == "ray" else engine)


def watched(results: Iterable[Result], total: int, progress: Advance | None) -> Iterator[Result]:
    """The results as they come, each of them reported."""
    for done, result in enumerate(results, 1):
        if progress is not None:
            progress(done, total)
        yield result
