"""Points from a file of any size: opened without being read, then streamed, read or sampled.

==================  ================================================================
``.npy``            one array, C or Fortran order, either byte order; memory map
``.npz``            one array, or ``column=`` its name
``.safetensors``    a file or a folder of parts: one tensor, or ``column=`` its
                    name; memory map
``.parquet``        a file or a folder of parts: one column of lists, or all columns
                    of numbers
``.csv .csv.gz``    numbers, with or without a line of names
``.fvecs .bvecs``   the formats of the public nearest-neighbour benchmarks; memory map
``.h5 .hdf5``       one two-dimensional data set (extra ``hdf5``)
==================  ================================================================

Where a file holds several arrays, the one named ``embeddings``, ``points``, ``vectors``,
``features`` or ``x`` is taken; otherwise ``column=`` chooses. Pickles are never opened.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from lowdim.core.memory import plan
from lowdim.core.points import as_points, check_finite
from lowdim.errors import InputError
from lowdim.io import arrays, tables
from lowdim.io.files import checked_suffix, reading
from lowdim.io.rows import Block, Rows
from lowdim.io.text import read_column

CHUNK_BYTES = 2**24
"""Larger chunks gain nothing: parquet reads as fast at four times this, a memory map slower."""

FORMATS: dict[str, Callable[[Path, str | None], Rows]] = {
    ".npy": arrays.open_npy,
    ".npz": arrays.open_npz,
    ".safetensors": arrays.open_safetensors,
    ".parquet": tables.open_parquet,
    ".csv": tables.open_csv,
    ".csv.gz": tables.open_csv,
    ".fvecs": arrays.open_vecs,
    ".bvecs": arrays.open_vecs,
    ".h5": arrays.open_hdf5,
    ".hdf5": arrays.open_hdf5,
}
UNNAMED = {".npy", ".fvecs", ".bvecs"}


@dataclass(frozen=True)
class PointSource:
    """(n, dim) points in a file, or a range of its rows.

    Sent to another process it is its path, column and range: a worker opens the file itself.

    Attributes
    ----------
    path : Path
        The file or folder.
    n, dim : int
        Number of points and of their coordinates.
    dtype : torch.dtype
        float32 or float64: what half precision and integers are promoted to.
    column : str or None
        What it was opened with.
    start : int
        Row of the file that is row 0 here.
    stamp : str
        A digest of names, sizes and times of the files as they were opened.
    """

    path: Path
    n: int
    dim: int
    dtype: torch.dtype
    rows: Rows = field(repr=False)
    column: str | None = None
    start: int = 0
    stamp: str = field(default="", repr=False)

    def slice(self, start: int, stop: int) -> PointSource:
        """Rows ``start`` to ``stop`` only; nothing is read."""
        if not 0 <= start < stop <= self.n:
            raise InputError(f"{self.path} has rows 0 to {self.n - 1}, not {start} to {stop - 1}")
        return replace(self, start=self.start + start, n=stop - start)

    @property
    def identity(self) -> str:
        """Changes when the points do: where they are, and the stamp."""
        return f"{self.path.resolve()} {self.column} {self.start} {self.n} {self.stamp}"

    @property
    def edges(self) -> np.ndarray:
        """Rows before which it may be cut at no cost: where parts and row groups begin."""
        edges = np.asarray(self.rows.edges, dtype=np.int64) - self.start
        return edges[(edges > 0) & (edges < self.n)]

    def __reduce__(self) -> tuple[Any, ...]:
        return _reopened, (self.path, self.column, self.stamp, self.start, self.n)

    def chunks(self, memory: int | float | str | None = None) -> Iterator[Tensor]:
        """All points in order, as (rows, dim) tensors that fit the budget together with their copy.

        Raises
        ------
        InputError
            NaN or Inf: the error names the row in the file.
        MemoryBudgetError
            Not even one row fits.
        """
        return self._checked(self._chunk_rows(memory))

    def read(self, memory: int | float | str | None = None) -> Tensor:
        """(n, dim) all points at once; an error before it starts where they cannot fit."""
        rows = self._chunk_rows(memory, held=self.n)
        x = torch.empty(self.n, self.dim, dtype=self.dtype)
        start = 0
        for chunk in self._checked(rows):
            x[start : start + len(chunk)] = chunk
            start += len(chunk)
        return x

    def take(
        self, rows: Sequence[int] | np.ndarray | Tensor, memory: int | float | str | None = None
    ) -> Tensor:
        """(len(rows), dim) the points with these numbers, in the order given; repeats are allowed.

        Reads only those rows from .npy, .safetensors, .fvecs, .bvecs and .hdf5; streams past the
        others elsewhere.
        """
        index = np.asarray(rows)
        if index.ndim != 1 or not len(index) or index.dtype.kind not in "iu":
            raise InputError(
                f"{self.path}: give row numbers as a list of integers that is not empty"
            )
        if index.min() < 0 or index.max() >= self.n:
            raise InputError(
                f"{self.path} has rows 0 to {self.n - 1}, not {index.min()} to {index.max()}"
            )
        self._chunk_rows(memory, held=2 * len(index))
        ascending, inverse = np.unique(index, return_inverse=True)
        with reading(self.path):
            x = _floats(self.rows.take(ascending + self.start), self.dtype)
        for bad in (~torch.isfinite(x).all(1)).nonzero()[:1, 0]:
            check_finite(x[bad, None], str(self.path), offset=int(ascending[bad]) + self.start)
        return x[torch.from_numpy(inverse)]

    def _chunk_rows(self, memory: int | float | str | None, held: int = 0) -> int:
        row = self.dim * self.dtype.itemsize
        return plan(
            f"reading {self.path}",
            rows=self.n,
            bytes_per_row=8 * row,  # decoded (arrow takes five times the values), then promoted
            fixed=held * row,
            memory=memory,
            largest=max(1, CHUNK_BYTES // row),
        )

    def _checked(self, rows: int) -> Iterator[Tensor]:
        start, stop = self.start, self.start + self.n
        with reading(self.path):
            for block in self.rows.blocks(rows, start, stop):
                x = _floats(block, self.dtype)
                check_finite(x, str(self.path), offset=start)
                start += len(x)
                if start > stop:
                    break
                yield x
        if start != stop:
            n = self.rows.shape[0]
            raise InputError(f"{self.path} held {n} rows when it was opened and has changed")


def _floats(block: Block, dtype: torch.dtype) -> Tensor:
    """A copy in native float order: nothing downstream holds on to the mapped file."""
    if isinstance(block, Tensor):
        return block.to(dtype, copy=True)
    native = np.float64 if dtype == torch.float64 else np.float32
    return torch.from_numpy(np.array(block, dtype=native, order="C"))


def open_points(path: str | Path, *, column: str | None = None) -> PointSource:
    """How many points does this file hold, of what dimension? Opens it without reading it.

    Parameters
    ----------
    path : str or Path
        A file of one of the formats above, or a folder of .parquet or .safetensors parts.
    column : str, optional
        Which array, tensor, data set or column holds the points, where there are several.

    Returns
    -------
    PointSource
        With ``n``, ``dim``, ``dtype`` and the means to stream, read or sample.

    Raises
    ------
    InputError
        Missing, empty, damaged, of another format, or a pickle: one sentence naming the file.

    Notes
    -----
    Costs one read of the header; a csv is parsed once to count its rows.
    """
    path = Path(path)
    suffix = checked_suffix(path, FORMATS, "points")
    if column is not None and suffix in UNNAMED:
        raise InputError(f"{path}: a {suffix} file holds one array without a name, drop column=")
    with reading(path):
        rows = FORMATS[suffix](path, column)
    n, dim = rows.shape
    if n < 1 or dim < 1:
        raise InputError(f"{path} has {n} rows and {dim} columns: there is no point in it")
    # the door's own rule for what is a number and to what it is promoted, asked with one value
    zeros = np.zeros if isinstance(rows.dtype, np.dtype) else torch.zeros
    probe = as_points(zeros((1, 1), dtype=rows.dtype), name=str(path))
    return PointSource(path, n, dim, probe.dtype, rows, column, stamp=_stamp(path))


@lru_cache(maxsize=64)
def _opened(path: Path, column: str | None, stamp: str) -> PointSource:
    """A source that comes to this process in many ranges is opened once."""
    source = open_points(path, column=column)
    if source.stamp != stamp:
        raise InputError(f"{path} has changed since it was opened, or differs on this machine")
    return source


def _reopened(path: Path, column: str | None, stamp: str, start: int, n: int) -> PointSource:
    return _opened(path, column, stamp).slice(start, start + n)


def _stamp(path: Path) -> str:
    digest = hashlib.sha256()
    for file in sorted(f for f in path.rglob("*") if f.is_file()) if path.is_dir() else [path]:
        facts = file.stat()
        digest.update(f"{file.name}\0{facts.st_size}\0{facts.st_mtime_ns}\0".encode())
    return digest.hexdigest()


def read_points(
    path: str | Path, *, column: str | None = None, memory: int | float | str | None = None
) -> Tensor:
    """(n, d) all points of a file; see :func:`open_points` for the formats and errors."""
    return open_points(path, column=column).read(memory)


def is_weights(path: str | Path) -> bool:
    """Is this a file of a network's weights, or one of points?

    A ``.safetensors`` file is points where it holds a single tensor, or exactly one 2-D tensor
    named ``embeddings``, ``points``, ``vectors``, ``features`` or ``x``; otherwise it is weights.
    No other format holds weights.
    """
    path = Path(path)
    if path.suffix.lower() != ".safetensors":
        return False
    checked_suffix(path, FORMATS, "weights or points")
    with reading(path):
        return arrays.point_tensor(arrays.tensor_shapes(path)) is None


def read_labels(path: str | Path, n: int, *, column: str | None = None) -> list[str]:
    """One label for each of ``n`` points, in their order.

    Parameters
    ----------
    path : str or Path
        ``.txt`` (one a line), ``.csv`` or ``.parquet`` (one column, or one named ``label``),
        ``.json`` (a list), ``.jsonl`` (field ``label``), or a ``.npy`` of integers or strings.
    n : int
        How many points there are.
    column : str, optional
        Another name than ``label``.

    Raises
    ------
    InputError
        Another number of labels than of points (both are named), a missing or blank label.
    """
    path = Path(path)
    labels = read_column(path, column, default="label")
    if len(labels) == n + 1 and path.suffix.lower() == ".csv" and labels[0] not in labels[1:]:
        labels = labels[1:]  # one column under a name other than "label", which is no label itself
    if len(labels) != n:
        raise InputError(f"{path} holds {len(labels)} labels and there are {n} points")
    return labels
