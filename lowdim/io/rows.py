"""`Rows`: what every file format gives: a shape, blocks in order, and rows by number.

Blocks come as stored (any dtype); :class:`lowdim.io.points.PointSource` promotes and checks them.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from lowdim.errors import InputError

Block = np.ndarray | Tensor
POINT_NAMES = {"embedding", "embeddings", "features", "points", "vectors", "x"}
"""Names that say "these are points" where a file holds several arrays."""


class Rows(ABC):
    """(n, d) numbers that lie in a file and are read by blocks."""

    shape: tuple[int, int]
    dtype: Any  # of numpy or torch, as stored
    edges: Sequence[int] | np.ndarray = ()
    """Rows before which the file may be cut at no cost, ascending: where its parts begin."""

    @abstractmethod
    def blocks(self, rows: int, start: int = 0, stop: int | None = None) -> Iterator[Block]:
        """Rows ``start`` to ``stop`` (the end) in order, at most ``rows`` at a time."""

    def take(self, rows: np.ndarray) -> Block:
        """The rows with these ascending numbers; here by streaming from the first to the last."""
        kept, start = [], int(rows[0])
        for block in self.blocks(max(1, 2**21 // self.shape[1]), start, int(rows[-1]) + 1):
            first, last = np.searchsorted(rows, (start, start + len(block)))
            kept.append(np.asarray(block)[rows[first:last] - start])
            start += len(block)
        return np.concatenate(kept)


class ArrayRows(Rows):
    """Rows of anything that can be sliced without being read: a memory map, an HDF5 data set."""

    def __init__(self, array: Any) -> None:
        self.array = array
        self.shape = (array.shape[0], array.shape[1])
        self.dtype = array.dtype

    def blocks(self, rows: int, start: int = 0, stop: int | None = None) -> Iterator[Block]:
        """Slices in order."""
        stop = self.shape[0] if stop is None else stop
        for first in range(start, stop, rows):
            yield self.array[first : min(first + rows, stop)]

    def take(self, rows: np.ndarray) -> Block:
        """Random access."""
        return self.array[rows]


class Joined(Rows):
    """The rows of several files, one after the other."""

    def __init__(self, path: Path, parts: list[Path], rows: list[Rows]) -> None:
        self.rows = rows
        for part, other in zip(parts, rows, strict=True):
            if (other.shape[1], other.dtype) != (rows[0].shape[1], rows[0].dtype):
                raise InputError(
                    f"{part} holds {other.shape[1]} columns of {other.dtype} and {parts[0]} "
                    f"{rows[0].shape[1]} of {rows[0].dtype}: the parts of {path} must agree"
                )
        self.starts = np.cumsum([0, *(r.shape[0] for r in rows)])
        self.edges = self.starts[1:-1]
        self.shape, self.dtype = (int(self.starts[-1]), rows[0].shape[1]), rows[0].dtype

    def blocks(self, rows: int, start: int = 0, stop: int | None = None) -> Iterator[Block]:
        """The blocks of each part."""
        stop = self.shape[0] if stop is None else stop
        for first, part in zip(self.starts.tolist(), self.rows, strict=False):
            low, high = max(start - first, 0), min(stop - first, part.shape[0])
            if low < high:
                yield from part.blocks(rows, low, high)

    def take(self, rows: np.ndarray) -> Block:
        """From each part those that it holds."""
        cuts = np.searchsorted(rows, self.starts)
        kept = [
            torch.as_tensor(part.take(rows[low:high] - first))
            for first, part, (low, high) in zip(
                self.starts.tolist(), self.rows, pairwise(cuts.tolist()), strict=False
            )
            if low < high
        ]
        return torch.cat(kept)


def says_points(name: str) -> bool:
    """Is this a name for points?"""
    return name.lower() in POINT_NAMES


def likely(names: list[str]) -> str | None:
    """The array that holds the points: the only one, or the only one that is named so."""
    names = names if len(names) == 1 else [name for name in names if says_points(name)]
    return names[0] if len(names) == 1 else None


def pick(path: Path, names: list[str], column: str | None, likely: str | None) -> str:
    """The array that holds the points: ``column``, else the ``likely`` one, else an error."""
    listing = ", ".join(names[:12]) + (f" and {len(names) - 12} more" if len(names) > 12 else "")
    chosen = likely if column is None else column
    if chosen is None:
        raise InputError(f"{path} holds {len(names)} arrays: choose one by column=: {listing}")
    if chosen not in names:
        raise InputError(f"{path} holds no {chosen!r}: choose column= from {listing or 'none'}")
    return chosen


def table_shape(path: Path, shape: tuple[int, ...]) -> tuple[int, int]:
    """(n, d) of a declared shape; (n,) is one column, and anything else is an error."""
    if len(shape) not in (1, 2) or min(shape) < 1:
        raise InputError(f"{path} has shape {tuple(shape)}: give (n points, d columns)")
    return (shape[0], shape[1] if len(shape) == 2 else 1)
