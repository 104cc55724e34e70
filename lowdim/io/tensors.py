"""Named tensors in files, one in memory at a time: safetensors, and torch checkpoints as data.

A torch checkpoint is a pickle; it is read only by torch's restricted unpickler
(``weights_only=True``), which runs no code of the file, and refused where that does not do.
"""

from __future__ import annotations

import pickle
import zipfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import torch
from safetensors import safe_open
from torch import Tensor

from lowdim.errors import InputError
from lowdim.io.config import read_object
from lowdim.io.files import reading

FLOATS = frozenset(["F64", "F32", "F16", "BF16", "float64", "float32", "float16", "bfloat16"])
"""Number formats that are read as they stand; others are packed, scaled or no weights."""

WHOLE = slice(None)


@dataclass(frozen=True)
class Stored:
    """What the header of a file says of one tensor."""

    dtype: str
    shape: tuple[int, ...]


class TensorFile(Protocol):
    """A file of named tensors."""

    path: Path
    entries: Mapping[str, Stored]

    def read(self, name: str, rows: slice = WHOLE) -> Tensor:
        """One tensor as it is stored, or some of its rows."""
        ...


class SafetensorsFile:
    """A ``.safetensors`` file; the library checks its header against its size."""

    def __init__(self, path: Path) -> None:
        self.path = path
        with reading(path), safe_open(path, "pt") as file:
            slices = {name: file.get_slice(name) for name in file.keys()}  # noqa: SIM118
            self.entries: Mapping[str, Stored] = {
                name: Stored(s.get_dtype(), tuple(s.get_shape())) for name, s in slices.items()
            }

    def read(self, name: str, rows: slice = WHOLE) -> Tensor:
        """One tensor as it is stored, or some of its rows."""
        with reading(self.path), safe_open(self.path, "pt") as file:
            return file.get_slice(name)[rows]


class CheckpointFile:
    """A torch checkpoint: a dict of tensors, or one under ``state_dict`` or ``model``."""

    def __init__(self, path: Path) -> None:
        self.path = path
        found = _load_checkpoint(path)
        for name in ("state_dict", "model"):
            if isinstance(found, dict) and isinstance(found.get(name), dict):
                found = found[name]
        if not isinstance(found, dict):
            raise InputError(f"{path} holds a {type(found).__name__}, not named tensors")
        self.tensors = {str(k): v for k, v in found.items() if isinstance(v, Tensor)}
        self.entries: Mapping[str, Stored] = {
            name: Stored(str(t.dtype).removeprefix("torch."), tuple(t.shape))
            for name, t in self.tensors.items()
        }

    def read(self, name: str, rows: slice = WHOLE) -> Tensor:
        """One tensor as it is stored, or some of its rows."""
        return self.tensors[name].detach()[rows]


def _load_checkpoint(path: Path) -> Any:
    try:
        with reading(path):  # mapped, not read, where the format allows it
            return torch.load(
                path, map_location="cpu", weights_only=True, mmap=zipfile.is_zipfile(path)
            )
    except (pickle.UnpicklingError, RuntimeError) as error:
        raise InputError(
            f"{path} cannot be read without running code of the file, or is damaged: "
            "save the weights as .safetensors"
        ) from error


def open_tensors(path: Path) -> list[TensorFile]:
    """The tensor files that a path stands for: a file, or a model folder with all its shards.

    Raises
    ------
    InputError
        Nothing there, shards missing (named), several files without an index, or a damaged file.
    """
    if not path.exists():
        raise InputError(f"{path} does not exist: give a model folder or a .safetensors file")
    if path.is_dir():
        return [_open_file(p) for p in _weight_files(path)]
    return [_open_file(path)]


def _open_file(path: Path) -> TensorFile:
    if path.suffix == ".safetensors":
        return SafetensorsFile(path)
    if path.suffix in (".bin", ".pt", ".pth", ".ckpt"):
        return CheckpointFile(path)
    raise InputError(f"{path} is no weights file: give .safetensors or a torch checkpoint")


def _weight_files(folder: Path) -> list[Path]:
    for name in ("model.safetensors", "pytorch_model.bin"):
        whole, index = folder / name, folder / f"{name}.index.json"
        if whole.is_file():
            return [whole]
        if index.is_file():
            return _shards(index)
        if name.endswith(".safetensors"):
            others = sorted(folder.glob("*.safetensors"))
            if len(others) == 1:
                return others
            if others:
                names = ", ".join(p.name for p in others[:4])
                raise InputError(
                    f"{folder} holds {len(others)} weight files ({names}...) and no {index.name}: "
                    "add the index, or give one file"
                )
    raise InputError(
        f"{folder} holds no weights: looked for model.safetensors, its index, another "
        ".safetensors file and pytorch_model.bin"
    )


def _shards(index: Path) -> list[Path]:
    weight_map = read_object(index).get("weight_map")
    if not isinstance(weight_map, dict) or not weight_map:
        raise InputError(f"{index} has no weight_map: fetch the index again")
    names = sorted({str(shard) for shard in weight_map.values()})
    for name in names:
        if Path(name).name != name:  # an index may not point outside its folder
            raise InputError(f"{index} names the shard {name!r}: a plain file name is needed")
    missing = [name for name in names if not (index.parent / name).is_file()]
    if missing:
        raise InputError(
            f"{index.parent} lacks {len(missing)} of {len(names)} shards: {', '.join(missing)}"
        )
    return [index.parent / name for name in names]
