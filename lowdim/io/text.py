"""Texts, with labels where the file has them: .txt .jsonl .json .csv .parquet.

UTF-8 only. Every entry is a text: a blank one is an error that names its line, except at the end
of the file.
"""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq

from lowdim.core.memory import plan
from lowdim.errors import InputError
from lowdim.io.arrays import open_npy
from lowdim.io.files import brief, checked_suffix, parts, reading

Record = tuple[str, Any]
"""Where it stands ("line 3"), and a value; a dict where its fields have names."""


@dataclass(frozen=True)
class Texts:
    """Texts and, where every one has its own, labels."""

    texts: list[str] = field(repr=False)
    labels: list[str] | None = field(default=None, repr=False)

    def __len__(self) -> int:
        return len(self.texts)


def read_texts(
    path: str | Path, *, column: str | None = None, memory: int | float | str | None = None
) -> Texts:
    """Read the texts of a file, and their labels.

    Parameters
    ----------
    path : str or Path
        ``.txt`` (one a line), ``.jsonl`` and ``.json`` (strings, or objects with a field
        ``text``), ``.csv`` and ``.parquet`` (a column ``text``; a csv of a single column needs no
        name). A field or column ``label`` is read with it.
    column : str, optional
        Another name than ``text``.
    memory : int, float, str or None
        Budget; the file and its texts are held at once.

    Raises
    ------
    InputError
        Missing, empty, not UTF-8 (the byte is named), a blank or malformed entry (the line is
        named), labels on some texts only.
    """
    path = Path(path)
    texts: list[str] = []
    labels: list[str] = []
    name = column or "text"
    for where, value in _records(path, name, memory):
        texts.append(_text(path, where, _field(path, where, value, name)))
        if isinstance(value, dict) and value.get("label") is not None:
            labels.append(_label(path, where, value["label"]))
        if labels and len(labels) != len(texts):
            raise InputError(f"{path} has labels on some texts only: {where} differs from others")
    if not texts:
        raise InputError(f"{path} holds no texts: give at least one")
    return Texts(texts, labels or None)


def read_column(path: Path, column: str | None, *, default: str) -> list[str]:
    """One label for each entry: numbers and truth values are written out, blanks are errors."""
    name = column or default
    return [
        _label(path, where, _field(path, where, value, name))
        for where, value in _records(path, name)
    ]


def _field(path: Path, where: str, value: Any, name: str) -> Any:
    if not isinstance(value, dict):
        return value
    if name not in value:
        held = ", ".join(map(str, list(value)[:12])) or "nothing"
        raise InputError(f"{path} {where} has no field {name!r}: choose column= from {held}")
    return value[name]


def _text(path: Path, where: str, value: Any) -> str:
    if not isinstance(value, str):
        raise InputError(f"{path} {where} holds {type(value).__name__}, not text")
    if not value.strip():
        raise InputError(f"{path} {where} is blank: remove it, and its label with it")
    if any("\ud800" <= c <= "\udfff" for c in value):
        raise InputError(f"{path} {where} holds half a surrogate pair, which is not text")
    return value


def _label(path: Path, where: str, value: Any) -> str:
    if isinstance(value, bool | int | float) and value == value:
        return str(value)
    return _text(path, where, value)


def _records(path: Path, name: str, memory: int | float | str | None = None) -> Iterator[Record]:
    suffix = checked_suffix(path, READERS, "texts or labels")
    size = sum(part.stat().st_size for part in parts(path))
    plan(f"reading {path}", rows=1, bytes_per_row=4 * size, memory=memory)
    with reading(path):
        yield from READERS[suffix](path, name)


def _decode(path: Path) -> str:
    data = path.read_bytes()
    try:
        return data.decode("utf-8").removeprefix("\ufeff")
    except UnicodeDecodeError as error:
        raise InputError(
            f"{path} is not UTF-8 at byte {error.start}: save it in that encoding"
        ) from error


def _lines(path: Path, name: str) -> Iterator[Record]:
    lines = _decode(path).split("\n")  # not splitlines: it also cuts at U+2028
    while lines and not lines[-1].strip():
        lines.pop()
    for number, line in enumerate(lines, 1):
        yield f"line {number}", line.removesuffix("\r")


def _json_lines(path: Path, name: str) -> Iterator[Record]:
    for where, line in _lines(path, name):
        yield where, _json(path, where, line)


def _json_list(path: Path, name: str) -> Iterator[Record]:
    values = _json(path, "as a whole", _decode(path))
    if not isinstance(values, list):
        raise InputError(f"{path} holds a JSON {type(values).__name__}: give a list")
    for number, value in enumerate(values, 1):
        yield f"item {number}", value


def _json(path: Path, where: str, text: str) -> Any:
    try:
        return json.loads(text)
    except (ValueError, RecursionError) as error:
        raise InputError(f"{path} {where} is not JSON: {brief(error)}") from error


def _csv(path: Path, name: str) -> Iterator[Record]:
    """Rows under a line of names; a single column whose first line is not ``name`` has none."""
    reader = csv.reader(io.StringIO(_decode(path).rstrip("\r\n"), newline=""), strict=True)
    names: list[str] | None = None
    while True:
        where = f"line {reader.line_num + 1}"
        try:
            row = next(reader) or [""]
        except StopIteration:
            return
        except csv.Error as error:
            raise InputError(f"{path} {where} is not csv: {brief(error)}") from error
        if names is None:
            names = row
            if len(set(names)) < len(names):
                raise InputError(f"{path} names two columns alike on line 1: rename one")
            if name in names or len(names) > 1:
                continue
        if len(row) != len(names):
            raise InputError(f"{path} {where} has {len(row)} fields where line 1 has {len(names)}")
        alone = len(names) == 1 and names[0] != name
        yield where, row[0] if alone else dict(zip(names, row, strict=True))


def _parquet(path: Path, name: str) -> Iterator[Record]:
    row = 0
    for part in parts(path):
        with pq.ParquetFile(part) as file:
            names = file.schema_arrow.names
            kept = [field for field in names if field in (name, "label")]
            for batch in file.iter_batches(columns=kept if name in names else None):
                for value in batch.to_pylist():
                    yield f"row {row}", value
                    row += 1


def _npy(path: Path, name: str) -> Iterator[Record]:
    values = open_npy(path)
    if values.shape[1] > 1:
        raise InputError(f"{path} has {values.shape[1]} columns: give one label for each point")
    for block in values.blocks(2**16):
        for row, value in enumerate(block[:, 0].tolist()):
            yield f"row {row}", value


READERS: dict[str, Callable[[Path, str], Iterator[Record]]] = {
    ".txt": _lines,
    ".jsonl": _json_lines,
    ".json": _json_list,
    ".csv": _csv,
    ".parquet": _parquet,
    ".npy": _npy,
}
