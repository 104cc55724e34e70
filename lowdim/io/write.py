"""Files appear whole or not at all: a full disk or Ctrl-C leaves the old file as it was."""

from __future__ import annotations

import errno
import os
import secrets
import shutil
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO

from lowdim.core.memory import format_bytes
from lowdim.errors import InputError


@contextmanager
def atomic_open(path: str | Path, *, size: int | None = None) -> Iterator[IO[bytes]]:
    """Open a file for writing that takes the place of ``path`` only when all went well.

    Parameters
    ----------
    path : str or Path
        Its folder must exist; a link is followed.
    size : int, optional
        How many bytes will be written, where known, for the error message.

    Raises
    ------
    InputError
        The folder is missing or unwritable, or the disk is full (with both figures).
    """
    path = Path(path).resolve()
    if os.path.exists(path) and not os.path.isfile(path):
        raise InputError(f"{path} is not a regular file: choose another path to write to")
    temporary = path.with_name(f".lowdim-{secrets.token_hex(8)}.tmp")
    try:
        with temporary.open("xb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        if os.path.exists(path):
            shutil.copymode(path, temporary)
        os.replace(temporary, path)
    except BaseException as error:
        with suppress(OSError):  # the folder may not even let us clean up
            temporary.unlink(missing_ok=True)
        if isinstance(error, OSError) and error.filename in (None, str(temporary)):
            raise InputError(_explain(path, error, size)) from error
        raise  # Ctrl-C, or the caller's own trouble


def _explain(path: Path, error: OSError, size: int | None) -> str:
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        needs = f"needs {format_bytes(size)}, " if size is not None else ""
        free = format_bytes(shutil.disk_usage(path.parent).free)
        return f"disk full while writing {path}: {needs}{free} free; make room and run it again"
    reason = error.strerror or str(error)
    return f"{path} cannot be written ({reason}): choose a folder that exists and is writable"


def atomic_write(path: str | Path, data: bytes | str) -> None:
    """Write all of ``data`` (a str as UTF-8) to ``path``, or leave it as it was; see above."""
    if isinstance(data, str):
        data = data.encode("utf-8")
    with atomic_open(path, size=len(data)) as file:
        file.write(data)


def check_writable(folder: str | Path) -> Path:
    """Make the folder where it is missing, and fail before the work where it cannot be written.

    Raises
    ------
    InputError
        Naming the folder and the reason.
    """
    folder = Path(folder)
    probe = folder / f".lowdim-{secrets.token_hex(8)}.tmp"
    try:
        folder.mkdir(parents=True, exist_ok=True)
        probe.touch(exist_ok=False)
        probe.unlink()
    except OSError as error:
        raise InputError(
            f"cannot write to the folder {folder} ({error.strerror}): choose another"
        ) from error
    return folder
