"""Say the cost first: a byte budget for each heavy call, and the block size that it allows."""

from __future__ import annotations

import re
from contextlib import suppress
from pathlib import Path

import psutil

from lowdim.errors import InputError, MemoryBudgetError

UNITS = {"": 1, "k": 10**3, "m": 10**6, "g": 10**9, "t": 10**12}
UNITS |= {f"{u}i": 1024**i for i, u in enumerate("kmgt", start=1)}

LEAST = 2**28
"""Bytes that are taken to be free whatever the system says."""


def budget(memory: int | float | str | None = None) -> int:
    """How many bytes may a call use? A number, ``"2GiB"``, or None for a quarter of free RAM.

    Free RAM honours the limit of a container (cgroup v2), which the system's own figure ignores.
    """
    if memory is None:
        return _free() // 4
    if isinstance(memory, str):
        match = re.fullmatch(r"\s*([0-9]*\.?[0-9]+)\s*([kmgt]?i?)b?\s*", memory.lower())
        if match is None or match[2] == "i":
            raise InputError(f"memory={memory!r}: write it as '2GiB', '800MB' or a byte count")
        memory = float(match[1]) * UNITS[match[2]]
    if not memory > 0:
        raise InputError(f"memory={memory!r}: must be above zero")
    return int(memory)


def _free() -> int:
    free = psutil.virtual_memory().available
    limit, used = (Path("/sys/fs/cgroup") / f"memory.{name}" for name in ("max", "current"))
    with suppress(OSError, ValueError):  # no cgroup, or its limit reads "max"
        free = min(free, int(limit.read_text()) - int(used.read_text()))
    return max(free, LEAST)


def format_bytes(count: float) -> str:
    """``1536`` -> ``1.5 KiB``."""
    for unit in ("B", "KiB", "MiB", "GiB"):
        if abs(count) < 1024:
            return f"{count:.0f} B" if unit == "B" else f"{count:.1f} {unit}"
        count /= 1024
    return f"{count:.1f} TiB"


def plan(
    what: str,
    *,
    rows: int,
    bytes_per_row: int,
    fixed: int = 0,
    memory: int | float | str | None = None,
    largest: int | None = None,
) -> int:
    """How many rows fit in one block of a call that also needs ``fixed`` bytes throughout?

    Parameters
    ----------
    what : str
        Name of the call, for the error message.
    rows : int
        How many rows there are in all; the answer never exceeds it.
    bytes_per_row : int
        Working memory that one row of a block takes.
    fixed : int
        Bytes that the call holds whatever the block size.
    memory : int, float, str or None
        The budget, see :func:`budget`.
    largest : int, optional
        The block size beyond which nothing is gained.

    Returns
    -------
    int
        A block size of at least one row.

    Raises
    ------
    MemoryBudgetError
        Before anything is allocated, with both figures.
    """
    if memory is None and fixed + rows * bytes_per_row <= LEAST // 4:
        return max(1, min(rows, largest or rows))  # fits, however little is free
    available = budget(memory)
    block = (available - fixed) // max(bytes_per_row, 1)
    if block < 1:
        raise MemoryBudgetError(
            f"{what} needs at least {format_bytes(fixed + bytes_per_row)} and may use "
            f"{format_bytes(available)}: raise memory=, or use fewer rows or columns"
        )
    return max(1, min(rows, block, largest or rows))
