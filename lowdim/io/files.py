"""The door for files: which format a path holds, and one sentence for whatever is wrong with it."""

from __future__ import annotations

import csv
import os
import zipfile
import zlib
from collections.abc import Collection, Iterator
from contextlib import contextmanager
from pathlib import Path

import pyarrow as pa
from safetensors import SafetensorError

from lowdim.errors import InputError

PICKLES = {".bin", ".ckpt", ".joblib", ".pickle", ".pkl", ".pt", ".pth"}


def checked_suffix(path: Path, formats: Collection[str], what: str) -> str:
    """The suffix of a file that exists, is not empty and is of one of these formats.

    ``what`` it should hold is for the messages. A folder has the suffix of its parts.
    """
    if not os.path.exists(path):  # unlike Path.exists, False also for names too long
        raise InputError(f"{path} does not exist: check the path")
    if path.is_dir():
        if ".parquet" in formats and parts(path):
            return ".parquet"
        if ".parquet" in formats and any(path.glob("*.safetensors")):
            return ".safetensors"
        raise InputError(
            f"{path} is a folder without .parquet or .safetensors parts: give a file of {what}"
        )
    if not path.is_file():
        raise InputError(f"{path} is not a regular file: save the {what} to one")
    ends = path.suffixes[-2:] if path.suffix.lower() == ".gz" else [path.suffix]
    suffix = "".join(ends).lower()
    if suffix in PICKLES:
        raise InputError(
            f"{path} may be a pickle, which can run code when it is opened: "
            f"export the {what} as {next(iter(formats))}"
        )
    if suffix not in formats:
        raise InputError(f"{path} is of no format that {what} are read from: {' '.join(formats)}")
    if not path.stat().st_size:
        raise InputError(f"{path} is empty: it holds no {what}")
    return suffix


def parts(path: Path) -> list[Path]:
    """The .parquet parts of a folder in order of their names; a file is its own only part."""
    return sorted(path.rglob("*.parquet")) if path.is_dir() else [path]


@contextmanager
def reading(path: Path) -> Iterator[None]:
    """Whatever a library says of a file that it cannot read becomes one sentence with its name."""
    try:
        yield
    except PermissionError as error:
        raise InputError(f"{path} may not be read: check its permissions") from error
    except (
        OSError,
        EOFError,
        NotImplementedError,  # compression methods that zipfile does not know
        zipfile.BadZipFile,
        zlib.error,
        csv.Error,
        UnicodeDecodeError,  # names of columns
        pa.ArrowException,
        SafetensorError,
    ) as error:
        raise InputError(
            f"{path} is damaged, truncated or not of the format its name says: {brief(error)}"
        ) from error


def brief(error: Exception) -> str:
    """What a library says, on one line of at most 160 printable characters."""
    line = str(error).split("\n")[0][:160]
    return "".join(c if c.isprintable() else "?" for c in line)
