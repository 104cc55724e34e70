"""Points as a source: opened, cut into shards, sent to where they are read.

A source has ``n`` rows of ``dim`` columns of a ``dtype``; ``start`` is the row of the whole that is
its row 0. :class:`lowdim.io.points.PointSource` is one for files; here are those of a tensor and of
some rows of another source. Where a shard is cut does not depend on memory, machine or engine, so
finished pieces stay good when any of them changes.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, Protocol

import numpy as np
import torch
from torch import Tensor

from lowdim.core.engine import Engine
from lowdim.core.memory import budget, format_bytes, plan
from lowdim.core.pieces import Pieces
from lowdim.core.points import as_points, distinct, row_keys
from lowdim.errors import MemoryBudgetError

ROWS = 2**16
"""Rows of a shard: seconds of work, which is what a kill loses."""


class Source(Protocol):
    """Rows that are read where they are needed."""

    @property
    def n(self) -> int:
        """Rows."""
        ...

    @property
    def dim(self) -> int:
        """Columns."""
        ...

    @property
    def dtype(self) -> torch.dtype:
        """float32 or float64."""
        ...

    @property
    def start(self) -> int:
        """Row of the whole that is row 0 here."""
        ...

    @property
    def edges(self) -> Sequence[int] | np.ndarray:
        """Rows before which it is cut at no cost, ascending."""
        ...

    def slice(self, start: int, stop: int) -> Source:
        """Some of the rows, unread."""
        ...

    def chunks(self, memory: int | float | str | None = None) -> Iterator[Tensor]:
        """All rows in order, as (rows, dim) tensors."""
        ...

    def read(self, memory: int | float | str | None = None) -> Tensor:
        """(n, dim) all rows at once."""
        ...

    def take(self, rows: Any, memory: int | float | str | None = None) -> Tensor:
        """(len(rows), dim) the rows with these numbers."""
        ...


@dataclass(frozen=True, eq=False)
class Held:
    """The rows of a tensor."""

    x: Tensor
    start: int = 0
    edges: Sequence[int] = ()

    @property
    def n(self) -> int:
        """Rows."""
        return self.x.shape[0]

    @property
    def dim(self) -> int:
        """Columns."""
        return self.x.shape[1]

    @property
    def dtype(self) -> torch.dtype:
        """Of the tensor."""
        return self.x.dtype

    def slice(self, start: int, stop: int) -> Held:
        """A view of some of the rows."""
        return Held(self.x[start:stop], self.start + start)

    def chunks(self, memory: int | float | str | None = None) -> Iterator[Tensor]:
        """Views, in order."""
        return iter(self.x.split(2**14))

    def read(self, memory: int | float | str | None = None) -> Tensor:
        """The tensor itself."""
        return self.x

    def take(self, rows: Any, memory: int | float | str | None = None) -> Tensor:
        """A copy of some of the rows."""
        return self.x[torch.as_tensor(rows, device=self.x.device)]

    def __reduce__(self) -> tuple[Any, ...]:
        return Held, (self.x.clone(), self.start)  # of a view, torch would send the whole


@dataclass(frozen=True, eq=False)
class Kept:
    """Some rows of a source, by their ascending numbers."""

    source: Source
    rows: Tensor
    start: int = 0
    edges: Sequence[int] = ()

    @property
    def n(self) -> int:
        """Rows kept."""
        return len(self.rows)

    @property
    def dim(self) -> int:
        """Columns."""
        return self.source.dim

    @property
    def dtype(self) -> torch.dtype:
        """Of the source."""
        return self.source.dtype

    def slice(self, start: int, stop: int) -> Kept:
        """Some of the kept rows, and of the source only the range that holds them."""
        rows = self.rows[start:stop]
        low, high = int(rows[0]), int(rows[-1]) + 1
        return Kept(self.source.slice(low, high), rows - low, self.start + start)

    def chunks(self, memory: int | float | str | None = None) -> Iterator[Tensor]:
        """The kept rows of each chunk that has any."""
        first = 0
        for chunk in self.source.chunks(memory):
            low, high = torch.searchsorted(self.rows, torch.tensor([first, first + len(chunk)]))
            if low < high:
                yield chunk[self.rows[low:high] - first]
            first += len(chunk)

    def read(self, memory: int | float | str | None = None) -> Tensor:
        """(n, dim) the kept rows."""
        x = torch.empty(self.n, self.dim, dtype=self.dtype)
        first = 0
        for chunk in self.chunks(memory):
            x[first : first + len(chunk)] = chunk
            first += len(chunk)
        return x

    def take(self, rows: Any, memory: int | float | str | None = None) -> Tensor:
        """Some of them, by their numbers here."""
        return self.source.take(self.rows[torch.as_tensor(rows)], memory)


@dataclass(frozen=True, eq=False)
class Mapped:
    """The rows of a source, each block changed by a function when it is read.

    ``function`` of (rows, dim) points and the number of their first row gives (rows, width) points;
    at module level, or a partial of such, it can be sent to another process.
    """

    source: Source
    function: Callable[[Tensor, int], Tensor]
    width: int

    @property
    def n(self) -> int:
        """Rows of the source."""
        return self.source.n

    @property
    def dim(self) -> int:
        """Columns of what the function gives."""
        return self.width

    @property
    def dtype(self) -> torch.dtype:
        """Of the source."""
        return self.source.dtype

    @property
    def start(self) -> int:
        """As in the source."""
        return self.source.start

    @property
    def edges(self) -> Sequence[int] | np.ndarray:
        """As in the source."""
        return self.source.edges

    def slice(self, start: int, stop: int) -> Mapped:
        """Some of the rows, unread."""
        return Mapped(self.source.slice(start, stop), self.function, self.width)

    def chunks(self, memory: int | float | str | None = None) -> Iterator[Tensor]:
        """What becomes of each chunk."""
        first = self.start
        for chunk in self.source.chunks(memory):
            yield self.function(chunk, first)
            first += len(chunk)

    def read(self, memory: int | float | str | None = None) -> Tensor:
        """(n, width) all of it."""
        return torch.cat(list(self.chunks(memory)))

    def take(self, rows: Any, memory: int | float | str | None = None) -> Tensor:
        """(len(rows), width) what becomes of some rows."""
        taken = self.source.take(rows, memory)
        return torch.cat([self.function(x[None], int(r)) for x, r in zip(taken, rows, strict=True)])


def is_source(x: Any) -> bool:
    """Whether this is opened already, and not numbers."""
    return hasattr(x, "slice") and hasattr(x, "chunks") and hasattr(x, "dim")


def as_source(x: Any, name: str = "x") -> Source:
    """A source as it is, anything else as a checked tensor."""
    return x if is_source(x) else Held(as_points(x, name=name))


def stamp(source: Source) -> str:
    """Changes when the points do: of a file its name, size and time, else a hash of all numbers."""
    known: str | None = getattr(source, "identity", None)
    if known is not None:
        return known
    digest = hashlib.sha256(f"{source.n} {source.dim} {source.dtype}".encode())
    for chunk in source.chunks():
        digest.update(chunk.numpy(force=True).tobytes())
    return digest.hexdigest()


def shards(source: Source, rows: int | None = None) -> list[Source]:
    """Cut a source after ``rows`` rows (65,536), or before that where its files cut it anyway."""
    n, edges, rows = source.n, np.asarray(source.edges), rows or ROWS
    cut, start = [], 0
    while start < n:
        stop = min(start + rows, n)
        before = int(np.searchsorted(edges, stop, "right"))
        if stop < n and before and edges[before - 1] > start + rows // 2:
            stop = int(edges[before - 1])
        cut.append(source.slice(start, stop))
        start = stop
    return cut


def sample(
    source: Source, rows: Tensor, *, engine: Engine, memory: int | float | str | None = None
) -> Tensor:
    """(len(rows), dim) rows by their ascending numbers, each shard's taken where it is read."""
    held = len(rows) * source.dim * source.dtype.itemsize
    plan(f"{len(rows):,} sampled rows", rows=1, bytes_per_row=2 * held, memory=memory)
    parts, wanted, first = shards(source), [], 0
    for part in parts:
        low, high = torch.searchsorted(rows, torch.tensor([first, first + part.n]))
        if low < high:
            wanted.append((part, rows[low:high] - first))
        first += part.n
    return torch.cat(list(engine.map(partial(_taken, memory), wanted)))


def _taken(memory: int | float | str | None, item: tuple[Source, Tensor]) -> Tensor:
    return item[0].take(item[1], memory)


def distinct_rows(
    source: Source, *, engine: Engine, memory: int | float | str | None, pieces: Pieces
) -> tuple[Source, Tensor]:
    """As :func:`lowdim.core.points.distinct` for a source that need not fit in memory.

    One pass for a 64-bit hash of each row; rows of one hash are then read and compared for real.
    Memory: 40 bytes a row, and twice the rows that are not unique.
    """
    n = source.n
    available = plan("the hashes of the rows", rows=n, bytes_per_row=40, memory=memory)
    if available < n:
        raise MemoryBudgetError(
            f"telling {n:,} rows apart takes {format_bytes(40 * n)} and may use "
            f"{format_bytes(budget(memory))}: raise memory=, or measure against a sample of the "
            "rows, reference=20_000"
        )
    found = pieces.map("keys", partial(_keys, memory), shards(source), engine)
    keys = torch.cat([piece["keys"] for piece in found])
    order = keys.argsort(stable=True)
    same = keys[order[1:]] == keys[order[:-1]]
    false = same.new_zeros(1)
    suspects = order[torch.cat([false, same]) | torch.cat([same, false])].sort().values
    inverse = torch.arange(n)
    if not len(suspects):
        return source, inverse
    which = distinct(sample(source, suspects, engine=engine, memory=memory))[1]
    first = torch.full((int(which.max()) + 1,), n).scatter_reduce_(0, which, suspects, "amin")
    inverse[suspects] = first[which]
    rows = (inverse == torch.arange(n)).nonzero()[:, 0]
    return Kept(source, rows), torch.searchsorted(rows, inverse)


def _keys(memory: int | float | str | None, shard: Source) -> dict[str, Tensor]:
    return {"keys": torch.cat([row_keys(chunk) for chunk in shard.chunks(memory)])}
