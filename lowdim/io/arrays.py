"""Array files: .npy, .npz, .safetensors, .fvecs, .bvecs and .h5 are opened, not read.

Files come from strangers. Every size that a header declares is compared with what the file holds
before anything is allocated, and nothing that could run code (a pickle) is ever decoded.
"""

from __future__ import annotations

import json
import math
import tokenize
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import IO

import numpy as np
from numpy.lib import format as npy
from safetensors import safe_open

from lowdim.core.memory import format_bytes, plan
from lowdim.errors import InputError, require
from lowdim.io.files import brief
from lowdim.io.rows import ArrayRows, Joined, Rows, likely, pick, says_points, table_shape

Header = tuple[tuple[int, int], np.dtype, str, int]


def open_npy(path: Path, column: str | None = None) -> Rows:
    """A memory map of one .npy array, in C or Fortran order, of either byte order."""
    with path.open("rb") as file:
        shape, dtype, order, offset = _npy_header(path, file, path.stat().st_size)
    return _map(path, shape, dtype, order, offset)


def _map(path: Path, shape: tuple[int, int], dtype: np.dtype, order: str, offset: int) -> Rows:
    return ArrayRows(np.memmap(path, dtype, "r", offset, shape, order))  # type: ignore[call-overload]


def _npy_header(path: Path, file: IO[bytes], size: int) -> Header:
    """Shape, dtype, order and start of the data of an .npy of ``size`` bytes."""
    try:
        read = {1: npy.read_array_header_1_0, 2: npy.read_array_header_2_0}
        version = npy.read_magic(file)[0]
        declared, fortran, dtype = read[version](file)
    except (ValueError, KeyError, TypeError, SyntaxError, tokenize.TokenError) as error:
        raise InputError(f"{path} is not an .npy file that can be read: {brief(error)}") from error
    if dtype.hasobject:
        raise InputError(
            f"{path} holds Python objects (a pickle), which are not read: "
            "export it as numbers with np.save, or as .safetensors"
        )
    shape = table_shape(path, declared)
    needs, holds = math.prod(shape) * dtype.itemsize, size - file.tell()
    if needs != holds:
        raise InputError(
            f"{path} declares {shape[0]} x {shape[1]} {dtype} ({format_bytes(needs)}) but holds "
            f"{format_bytes(holds)} of data: it is truncated or was written wrongly"
        )
    return shape, dtype, "F" if fortran and len(declared) == 2 else "C", file.tell()


def open_npz(path: Path, column: str | None = None) -> Rows:
    """One array of an .npz: mapped where it is stored plainly, streamed where compressed."""
    with zipfile.ZipFile(path) as archive:
        members = {info.filename: info for info in archive.infolist()}
        names = [name.removesuffix(".npy") for name in members if name.endswith(".npy")]
        member = members[pick(path, names, column, likely(names)) + ".npy"]
        if member.flag_bits & 1:
            raise InputError(f"{path} is encrypted: unpack it and give the .npy")
        with archive.open(member) as file:
            shape, dtype, order, offset = _npy_header(path, file, member.file_size)
            if member.compress_type != zipfile.ZIP_STORED and order == "F":
                # columns cannot be cut into rows on the way: the array is decoded whole
                whole = math.prod(shape) * dtype.itemsize
                plan(f"unpacking {path}", rows=1, bytes_per_row=2 * whole)
                return ArrayRows(np.frombuffer(file.read(whole), dtype).reshape(shape[::-1]).T)
    if member.compress_type != zipfile.ZIP_STORED:
        return _Compressed(path, member, shape, dtype, offset)
    with path.open("rb") as raw:  # the data follow a local header with lengths of its own
        raw.seek(member.header_offset + 26)
        lengths = np.frombuffer(raw.read(4), "<u2")
    offset += member.header_offset + 30 + int(lengths.sum())
    if offset + math.prod(shape) * dtype.itemsize > path.stat().st_size:
        raise InputError(f"{path} declares more data than it holds: it is truncated")
    return _map(path, shape, dtype, order, offset)


class _Compressed(Rows):
    """Rows of a compressed .npz member, decoded block by block: a zip bomb costs time, not RAM."""

    def __init__(
        self,
        path: Path,
        member: zipfile.ZipInfo,
        shape: tuple[int, int],
        dtype: np.dtype,
        offset: int,
    ) -> None:
        self.path, self.member, self.offset = path, member, offset
        self.shape, self.dtype = shape, dtype

    def blocks(self, rows: int, start: int = 0, stop: int | None = None) -> Iterator[np.ndarray]:
        row = self.shape[1] * self.dtype.itemsize
        stop = self.shape[0] if stop is None else stop
        with zipfile.ZipFile(self.path) as archive, archive.open(self.member) as file:
            file.seek(self.offset + start * row)  # decodes all before it
            for first in range(start, stop, rows):
                data = file.read(min(rows, stop - first) * row)
                if not data:
                    return
                if len(data) % row:
                    raise InputError(f"{self.path} ends in the middle of a row: it is truncated")
                yield np.frombuffer(data, self.dtype).reshape(-1, self.shape[1])


def tensor_shapes(path: Path) -> dict[str, tuple[int, ...]]:
    """Name and shape of every tensor of a .safetensors file; only its header is read."""
    with safe_open(path, "pt") as file:
        names = file.keys()
        return {name: tuple(file.get_slice(name).get_shape()) for name in names}


def point_tensor(shapes: dict[str, tuple[int, ...]]) -> str | None:
    """The tensor that is a point set: the only one there is, or the only 2-D one so named."""
    if len(shapes) == 1:
        return next(iter(shapes))
    return likely([name for name, s in shapes.items() if len(s) == 2 and says_points(name)])


def open_safetensors(path: Path, column: str | None = None) -> Rows:
    """A memory map of one tensor, or of one in each file of a folder, in order of their names.

    The library checks the header against the file, and an index lists the files there must be.
    """
    if path.is_dir():
        parts = sorted(path.glob("*.safetensors"))
        for index in path.glob("*.safetensors.index.json"):
            listed = set(json.loads(index.read_text(encoding="utf-8"))["weight_map"].values())
            if missing := listed - {part.name for part in parts}:
                raise InputError(f"{path} lacks {min(missing)}, which {index.name} lists: copy it")
            parts = [part for part in parts if part.name in listed]
        return Joined(path, parts, [open_safetensors(part, column) for part in parts])
    shapes = tensor_shapes(path)
    name = pick(path, list(shapes), column, point_tensor(shapes))
    shape = table_shape(path, shapes[name])
    with safe_open(path, "pt") as file:
        return ArrayRows(file.get_tensor(name).reshape(shape))  # pages are read when touched


def open_vecs(path: Path, column: str | None = None) -> Rows:
    """.fvecs or .bvecs: each row is its length as int32, then float32 or uint8 values."""
    with path.open("rb") as file:
        dim = int.from_bytes(file.read(4), "little", signed=True)
    values = np.dtype("<f4" if path.suffix.lower() == ".fvecs" else "u1")
    size = path.stat().st_size
    if not 1 <= dim <= size or size % (4 + dim * values.itemsize):
        raise InputError(
            f"{path} starts with dimension {dim}, which does not divide its {size} bytes into "
            f"rows: it is truncated or not a {path.suffix} file"
        )
    return _Vecs(path, np.dtype([("dim", "<i4"), ("values", values, (dim,))]))


class _Vecs(ArrayRows):
    def __init__(self, path: Path, record: np.dtype) -> None:
        self.path, self.records = path, np.memmap(path, record, "r")
        super().__init__(self.records["values"])

    def blocks(self, rows: int, start: int = 0, stop: int | None = None) -> Iterator[np.ndarray]:
        stop = self.shape[0] if stop is None else stop
        for first in range(start, stop, rows):
            yield self.take(np.arange(first, min(first + rows, stop)))

    def take(self, rows: np.ndarray) -> np.ndarray:
        records = self.records[rows]
        wrong = np.flatnonzero(records["dim"] != self.shape[1])
        if len(wrong):
            raise InputError(
                f"{self.path} row {rows[wrong[0]]} declares {records['dim'][wrong[0]]} values "
                f"where row 0 declares {self.shape[1]}: rows must be of one length"
            )
        return records["values"]


def open_hdf5(path: Path, column: str | None = None) -> Rows:
    """One two-dimensional data set of an HDF5 file, read slice by slice."""
    h5py = require("h5py", "hdf5")
    file = h5py.File(path, "r")
    names: list[str] = []

    def note(name: str, item: object) -> None:  # links are not followed out of the file
        if isinstance(item, h5py.Dataset) and item.ndim == 2 and item.dtype.kind in "fiub":
            names.append(name)

    try:
        file.visititems(note)
        dataset = file[pick(path, names, column, likely(names))]
    except InputError:
        raise
    except (RuntimeError, KeyError, TypeError, ValueError) as error:  # h5py's of damaged headers
        raise InputError(f"{path} is damaged: {brief(error)}") from error
    table_shape(path, dataset.shape)
    filters = dataset.id.get_create_plist().get_nfilters()
    if dataset.external or dataset.is_virtual:
        raise InputError(f"{path} keeps its data in other files: copy them into one data set")
    if not filters and dataset.id.get_storage_size() < dataset.nbytes:
        raise InputError(
            f"{path} declares {format_bytes(dataset.nbytes)} but holds "
            f"{format_bytes(dataset.id.get_storage_size())}: it was not written to the end"
        )
    return ArrayRows(dataset)
