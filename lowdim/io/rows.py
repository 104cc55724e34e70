"""`Rows`: what every file format gives: a shape, blocks in order, and rows by number.

Blocks come as stored (any dtype); :class:`lowdim.io.points.PointSource` promotes and checks them.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from torch import Tensor

from lowdim.errors import InputError

Block = np.ndarray | Tensor
POINT_NAMES = {"embedding", "embeddings", "features", "points", "vectors", "x"}
"""Names that say "these are points" where a file holds several arrays."""


class Rows(ABC):
    """(n, d) numbers that lie in a file and are read by blocks."""

    shape: tuple[int, int]
    dtype: Any  # of numpy or torch, as stored

    @abstractmethod
    def blocks(self, rows: int) -> Iterator[Block]:
        """All rows in order, at most ``rows`` at a time."""

    def take(self, rows: np.ndarray) -> Block:
        """The rows with these ascending numbers; here by streaming past all the others."""
        kept, start = [], 0
        for block in self.blocks(max(1, 2**21 // self.shape[1])):
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

    def blocks(self, rows: int) -> Iterator[Block]:
        """Slices in order."""
        for start in range(0, self.shape[0], rows):
            yield self.array[start : start + rows]

    def take(self, rows: np.ndarray) -> Block:
        """Random access."""
        return self.array[rows]


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
