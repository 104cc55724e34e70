"""`Strata` to a folder and back, so that compression, search and adaptation can take them on.

``strata.safetensors`` holds the numbers, ``strata.json`` says what they are: no code, and nothing
that runs when it is read. Loading checks all that a `Strata` promises (shapes, orthonormal bases,
shares that sum to one), so a file from elsewhere is an error and never a wrong result.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from safetensors import SafetensorError
from safetensors.torch import load, save
from torch import Tensor

import lowdim
from lowdim.core.estimate import to_json
from lowdim.core.points import check_finite
from lowdim.core.strata import Strata
from lowdim.core.subspace import Subspace
from lowdim.errors import InputError
from lowdim.io.write import atomic_write, check_writable

SCHEMA = "lowdim.strata/1"
NUMBERS, FACTS = "strata.safetensors", "strata.json"


def save_strata(
    strata: Strata, folder: str | Path, *, about: Mapping[str, Any] | None = None
) -> Path:
    """Write the pieces and the shares of the points in them to a folder.

    Parameters
    ----------
    strata : Strata
        Pieces and shares.
    folder : path
        Gets ``strata.safetensors`` and ``strata.json``; made where it is missing.
    about : mapping, optional
        What else a reader should know (the method, the source): JSON values, kept under ``about``.

    Returns
    -------
    Path
        The folder.

    Raises
    ------
    InputError
        It cannot be written, or the disk is full.
    """
    folder = check_writable(folder)
    facts = {
        "schema": SCHEMA,
        "lowdim": lowdim.__version__,
        "n": len(strata.weights),
        "dim": strata.pieces[0].dim,
        "dims": strata.dims,
        "totals": [piece.total for piece in strata.pieces],
        "about": dict(about or {}),
    }
    atomic_write(folder / NUMBERS, save(as_tensors(strata)))
    atomic_write(folder / FACTS, json.dumps(to_json(facts), indent=1, allow_nan=False) + "\n")
    return folder


def load_strata(folder: str | Path) -> Strata:
    """Read what :func:`save_strata` wrote, checked.

    Raises
    ------
    InputError
        Missing, damaged, of another schema, or with numbers that make no pieces.
    """
    folder = Path(folder)
    facts = _read(folder / FACTS, lambda data: json.loads(data.decode("utf-8")))
    if not isinstance(facts, dict) or facts.get("schema") != SCHEMA:
        found = facts.get("schema") if isinstance(facts, dict) else None
        raise InputError(f"{folder / FACTS} has schema {found!r}: this lowdim reads {SCHEMA!r}")
    tensors = _read(folder / NUMBERS, load)
    dims, totals = facts.get("dims"), facts.get("totals")
    if not isinstance(dims, list) or not isinstance(totals, list) or len(totals) != len(dims):
        raise InputError(f"{folder / FACTS} has no dims and totals, one a piece")
    try:
        strata = of_tensors(tensors, totals)
    except (KeyError, InputError) as error:
        raise InputError(f"{folder / NUMBERS} holds no strata: {error}") from error
    if list(strata.dims) != dims or len(strata.weights) != facts.get("n"):
        raise InputError(
            f"{folder}: {NUMBERS} and {FACTS} are not of the same strata, save them together"
        )
    return strata


def as_tensors(strata: Strata) -> dict[str, Tensor]:
    """Every number of the pieces by name, each in memory of its own."""
    tensors = {"weights": strata.weights}
    for k, piece in enumerate(strata.pieces):
        tensors |= {f"{k}/basis": piece.basis, f"{k}/center": piece.center}
        tensors |= {f"{k}/values": piece.values} if piece.values is not None else {}
    return {name: x.detach().cpu().contiguous().clone() for name, x in tensors.items()}


def of_tensors(tensors: Mapping[str, Tensor], totals: list[float | None]) -> Strata:
    """The pieces that :func:`as_tensors` took apart; ``totals`` are those of its pieces.

    Raises
    ------
    KeyError
        A tensor is missing.
    InputError
        NaN or Inf, or numbers that make no pieces.
    """
    for name, x in tensors.items():
        if x.numel():
            check_finite(x.reshape(1, -1), name)
    pieces = tuple(
        Subspace(tensors[f"{k}/basis"], tensors[f"{k}/center"], tensors.get(f"{k}/values"), total)
        for k, total in enumerate(totals)
    )
    return Strata(pieces, tensors["weights"])


def _read(path: Path, parse: Callable[[bytes], Any]) -> Any:
    try:
        return parse(path.read_bytes())
    except FileNotFoundError:
        raise InputError(f"{path} does not exist: give a folder of save_strata") from None
    except (OSError, ValueError, SafetensorError) as error:
        raise InputError(f"{path} cannot be read: {error}") from error
