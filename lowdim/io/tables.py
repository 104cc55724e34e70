"""Tables of numbers: .parquet (a file or a folder of parts) and .csv, streamed through arrow."""

from __future__ import annotations

import csv
import gzip
import itertools
import re
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.csv
import pyarrow.parquet as pq

from lowdim.errors import InputError
from lowdim.io.files import brief, parts
from lowdim.io.rows import Rows

LONGEST_LINE = 2**24


class _Arrow(Rows):
    """Record batches turned into matrices."""

    path: Path
    dtype: np.dtype

    def batches(self, rows: int, start: int, stop: int) -> Iterator[tuple[int, pa.RecordBatch]]:
        """Batches that hold at least rows ``start`` to ``stop``, each with its first row."""
        raise NotImplementedError

    def blocks(self, rows: int, start: int = 0, stop: int | None = None) -> Iterator[np.ndarray]:
        stop = self.shape[0] if stop is None else stop
        for first, batch in self.batches(rows, start, stop):
            low, high = max(start - first, 0), min(stop - first, batch.num_rows)
            for cut in range(low, high, rows):  # a csv block may be longer than asked
                yield self.matrix(batch.slice(cut, min(rows, high - cut)), first + cut)

    def matrix(self, batch: pa.RecordBatch, start: int) -> np.ndarray:
        """(rows, d) values of one batch whose first row is row ``start`` of the file."""
        if _is_list(batch.schema.field(0).type):
            return _matrix_of_lists(self.path, batch.column(0), self.shape[1], start)
        x = np.empty((batch.num_rows, self.shape[1]), self.dtype)
        for j, values in enumerate(batch.columns):
            x[:, j] = values.to_numpy(zero_copy_only=False)  # a null becomes NaN: caught later
        return x


def _is_list(kind: pa.DataType) -> bool:
    lists = (pa.types.is_list, pa.types.is_large_list, pa.types.is_fixed_size_list)
    return any(is_list(kind) for is_list in lists) and _is_number(kind.value_type)


def _is_number(kind: pa.DataType) -> bool:
    return pa.types.is_integer(kind) or pa.types.is_floating(kind)


def _matrix_of_lists(path: Path, lists: pa.Array, dim: int, start: int) -> np.ndarray:
    lengths = lists.value_lengths().fill_null(-1).to_numpy(zero_copy_only=False)
    wrong = np.flatnonzero(lengths != dim)
    if len(wrong):
        held = f"{lengths[wrong[0]]} values" if lengths[wrong[0]] >= 0 else "null"
        raise InputError(f"{path} row {start + wrong[0]} holds {held}, and row 0 holds {dim}")
    return lists.flatten().to_numpy(zero_copy_only=False).reshape(-1, dim)


def open_parquet(path: Path, column: str | None = None) -> Rows:
    """One column of lists, or all the columns of numbers, of a file or of all parts in order."""
    return _Parquet(path, column)


class _Parquet(_Arrow):
    def __init__(self, path: Path, column: str | None) -> None:
        self.path, self.parts = path, parts(path)
        kinds = {field.name: field.type for field in pq.read_schema(self.parts[0])}
        self.names = _point_columns(path, kinds, column)
        kinds = {name: kinds[name] for name in self.names}
        self.groups = []  # of each part, the rows before each of its row groups, and after the last
        n = 0
        for part in self.parts:
            footer = pq.read_metadata(part)
            schema = footer.schema.to_arrow_schema()
            if {f.name: f.type for f in schema if f.name in kinds} != kinds:
                raise InputError(f"{part} has other columns than {self.parts[0]}: parts must agree")
            sizes = [footer.row_group(i).num_rows for i in range(footer.num_row_groups)]
            self.groups.append(np.cumsum([n, *sizes]))
            n += footer.num_rows
        self.edges = np.unique(np.concatenate(self.groups))[1:-1]
        values = [k.value_type if _is_list(k) else k for k in kinds.values()]
        self.dtype = np.result_type(*(k.to_pandas_dtype() for k in values))
        self.shape = (n, self._dim(kinds[self.names[0]]) if n else 0)

    def _dim(self, kind: pa.DataType) -> int:
        if not _is_list(kind):
            return len(self.names)
        if pa.types.is_fixed_size_list(kind):
            return kind.list_size
        first = next(self.batches(1, 0, 1))[1].column(0)
        return len(first[0]) if first[0].is_valid else 0

    def batches(self, rows: int, start: int, stop: int) -> Iterator[tuple[int, pa.RecordBatch]]:
        for part, groups in zip(self.parts, self.groups, strict=True):
            wanted = np.flatnonzero((groups[1:] > start) & (groups[:-1] < stop))
            if not len(wanted):
                continue
            first = int(groups[wanted[0]])
            # pre_buffer would hold a whole row group in memory
            with pq.ParquetFile(part, memory_map=True, pre_buffer=False) as file:
                for batch in file.iter_batches(rows, wanted.tolist(), columns=self.names):
                    if batch.num_rows:
                        yield first, batch.select(self.names)
                    first += batch.num_rows


def _point_columns(path: Path, kinds: dict[str, pa.DataType], column: str | None) -> list[str]:
    """The only column of lists; where there is none, all columns of numbers but pandas' index."""
    lists = [name for name, kind in kinds.items() if _is_list(kind)]
    numbers = [name for name, kind in kinds.items() if _is_number(kind)]
    listing = ", ".join(f"{name} ({kind})" for name, kind in list(kinds.items())[:12])
    if column is not None:
        if column not in lists + numbers:
            raise InputError(f"{path} has no column {column!r} of numbers: it holds {listing}")
        return [column]
    if len(lists) > 1:
        raise InputError(f"{path} has {len(lists)} columns of lists: choose one by column=")
    names = lists or [name for name in numbers if not name.startswith("__index_level_")]
    if not names:
        raise InputError(f"{path} has no column of numbers or of lists of them: it holds {listing}")
    return names


def open_csv(path: Path, column: str | None = None) -> Rows:
    """Comma separated numbers, with or without a line of names; one pass counts the rows."""
    return _Csv(path, column)


class _Csv(_Arrow):
    dtype = np.dtype(np.float64)

    def __init__(self, path: Path, column: str | None) -> None:
        self.path = path
        lines = (line.decode("utf-8-sig", "replace") for _, line in self._lines())
        fields = next(csv.reader(lines), None)
        if fields is None:
            raise InputError(f"{path} is empty: give a line of numbers for each point")
        self.line_bytes = max(len(next(lines, "")), len(",".join(fields)))
        self.has_names = _are_names(path, fields)
        self.fields = fields if self.has_names else [str(j) for j in range(len(fields))]
        self.names = self._columns(column)
        n = sum(batch.num_rows for batch in self._parsed(1))
        self.shape = (n, len(self.names))

    def _lines(self) -> Iterator[tuple[int, bytes]]:
        """Lines that are not empty, with their numbers from 1."""
        opened = gzip.open if self.path.suffix == ".gz" else open
        with opened(self.path, "rb") as file:
            for number, line in enumerate(iter(lambda: file.readline(LONGEST_LINE), b""), 1):
                if line.strip(b"\r\n"):
                    yield number, line

    def _columns(self, column: str | None) -> list[str]:
        if len(set(self.fields)) < len(self.fields):
            raise InputError(f"{self.path} names two columns alike: rename one")
        if column is None:
            return self.fields[1:] if self.fields[0] == "" else self.fields
        if column not in self.fields or not self.has_names:
            names = ", ".join(self.fields[:12]) if self.has_names else "no names"
            raise InputError(f"{self.path} has no column {column!r}: its first line holds {names}")
        return [column]

    def batches(self, rows: int, start: int, stop: int) -> Iterator[tuple[int, pa.RecordBatch]]:
        first = 0
        for batch in self._parsed(rows):
            if first >= stop < self.shape[0]:
                return
            if first + batch.num_rows > start:
                yield first, batch
            first += batch.num_rows
        if first > self.shape[0]:
            raise InputError(
                f"{self.path} held {self.shape[0]} rows when it was opened and has changed"
            )

    def _parsed(self, rows: int) -> Iterator[pa.RecordBatch]:
        size = max(min(rows * self.line_bytes, 2**24), 2**20, 4 * self.line_bytes)
        try:
            yield from pa.csv.open_csv(
                self.path,
                pa.csv.ReadOptions(
                    use_threads=False,  # else errors do not name the row
                    block_size=size,
                    column_names=self.fields,
                    skip_rows=int(self.has_names),
                ),
                convert_options=pa.csv.ConvertOptions(
                    column_types=dict.fromkeys(self.names, pa.float64()),
                    include_columns=self.names,
                ),
            )
        except pa.ArrowInvalid as error:
            raise InputError(self._explain(error)) from error

    def _explain(self, error: pa.ArrowInvalid) -> str:
        message = str(error)
        row = re.search(r"Row #(\d+)", message)
        where = f"{self.path} line {self._line(int(row[1]))}" if row else str(self.path)
        if text := re.search(r"CSV column #(\d+).*invalid value '(.*)'", message, re.DOTALL):
            name = self.fields[int(text[1])]
            return f"{where} holds {text[2][:40]!r} in column {name}: give numbers only"
        if ragged := re.search(r"Expected (\d+) columns, got (\d+)", message):
            return f"{where} has {ragged[2]} values where the first line has {ragged[1]}"
        return f"{where} cannot be read as csv: {brief(error)}"

    def _line(self, row: int) -> int:
        """The line that holds row ``row``, both from 1: arrow does not count empty lines."""
        return next(itertools.islice(self._lines(), row - 1, None), (row, b""))[0]


def _are_names(path: Path, fields: list[str]) -> bool:
    """Is the first line one of names? Also where pandas has numbered the columns 0, 1, 2...

    A first name that is empty is pandas' too: it stands over the index, which is no coordinate.
    """
    names = fields[1:] if fields[0] == "" else fields
    if len(names) > 1 and names == [str(j) for j in range(len(names))]:
        return True
    numbers = [_is_float(field) for field in fields]
    if any(numbers) and not all(numbers):
        text = fields[numbers.index(False)]
        raise InputError(
            f"{path} line 1 mixes numbers and text ({text[:40]!r}): "
            "give a line of names, or numbers only"
        )
    return not any(numbers)


def _is_float(field: str) -> bool:
    try:
        float(field)
    except ValueError:
        return False
    return True
