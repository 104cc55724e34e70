"""Finished pieces of a long job on disk: what was done before a stop is not done again.

Each piece is one file written atomically under ``out/.pieces/<key>/``, where the key is a hash of
the input, the options and the version: a piece made from other data is never picked up. A piece
that cannot be read (a disk that lost its end) is made again.
"""

from __future__ import annotations

import hashlib
import json
import re
import shutil
from collections.abc import Callable, Iterable, Iterator
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import Any

from safetensors import SafetensorError
from safetensors.torch import load_file, save
from torch import Tensor

from lowdim.core.engine import Engine
from lowdim.core.estimate import to_json
from lowdim.io.write import atomic_write

Tensors = dict[str, Tensor]


class Pieces:
    """A folder of finished pieces; without a folder every piece is simply made.

    Parameters
    ----------
    folder : Path or None
        The job's output folder.
    key : dict
        All that the pieces depend on; JSON values.
    resume : bool
        Keep and use the pieces that an earlier run with the same key finished.
    """

    def __init__(self, folder: Path | None, key: dict[str, Any], *, resume: bool = False) -> None:
        text = json.dumps(to_json(key), sort_keys=True, default=str)
        self.root = folder / ".pieces" if folder is not None else None
        self.folder = (
            self.root / hashlib.sha256(text.encode()).hexdigest()[:16] if self.root else None
        )
        self.reused = 0
        if self.folder is not None:
            if not resume:
                self.clear()
            self.folder.mkdir(parents=True, exist_ok=True)

    def json(self, name: str, make: Callable[[], Any]) -> Any:
        """The JSON value of this name, read from its file or made and kept."""
        value, found = self._kept(name, "json", _from_json, _to_json, lambda: to_json(make()))
        self.reused += found
        return value

    def tensors(self, name: str, make: Callable[[], Tensors]) -> Tensors:
        """The named tensors, read from their safetensors file or made and kept."""
        value, found = self._kept(name, "safetensors", load_file, _to_safetensors, make)
        self.reused += found
        return value

    def map(
        self,
        name: str,
        function: Callable[[Any], Tensors],
        items: Iterable[Any],
        engine: Engine,
        *,
        select: Callable[[Tensors, Any], Tensors] | None = None,
    ) -> Iterator[Tensors]:
        """``function`` of each item, in order, each a piece that its worker keeps or finds.

        Where workers are on other machines, the folder has to be one that all of them see.
        ``select`` of a piece and its item, at the worker, is what comes back; all of it by default.
        """
        numbered = ((f"{name} {i}", item) for i, item in enumerate(items))
        for value, found in engine.map(partial(_piece, self, function, select), numbered):
            self.reused += found
            yield value

    def clear(self) -> None:
        """Remove all pieces: the job is finished, or starts anew."""
        if self.root is not None:
            shutil.rmtree(self.root, ignore_errors=True)

    def _kept(
        self,
        name: str,
        suffix: str,
        load: Callable[[Path], Any],
        dump: Callable[[Any], bytes],
        make: Callable[[], Any],
    ) -> tuple[Any, bool]:
        """The value, and whether it was there."""
        if self.folder is None:
            return make(), False
        readable = re.sub(r"[^A-Za-z0-9_.-]+", "_", name)[-80:]
        digest = hashlib.sha256(name.encode()).hexdigest()[:8]  # two names never share a file
        path = self.folder / f"{readable}-{digest}.{suffix}"
        if path.exists():
            with suppress(SafetensorError, ValueError):  # truncated: made again below
                return load(path), True
        value = make()
        atomic_write(path, dump(value))
        return value, False


def _piece(
    pieces: Pieces,
    function: Callable[[Any], Tensors],
    select: Callable[[Tensors, Any], Tensors] | None,
    named: tuple[str, Any],
) -> tuple[Tensors, bool]:
    name, item = named
    make = partial(function, item)
    value, found = pieces._kept(name, "safetensors", load_file, _to_safetensors, make)
    return (value if select is None else select(value, item)), found


def _from_json(path: Path) -> Any:
    return json.loads(path.read_text(encoding="utf-8"))


def _to_json(value: Any) -> bytes:
    return json.dumps(value, allow_nan=False).encode()


def _to_safetensors(value: Tensors) -> bytes:
    return save({name: x.contiguous() for name, x in value.items()})
