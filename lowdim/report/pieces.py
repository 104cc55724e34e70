"""Finished pieces of a long job on disk: what was done before a stop is not done again.

Each piece is one file written atomically under ``out/.pieces/<key>/``, where the key is a hash of
the input, the options and the version: a piece made from other data is never picked up.
"""

from __future__ import annotations

import hashlib
import json
import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

from torch import Tensor

from lowdim.core.estimate import to_json
from lowdim.io.write import atomic_write


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
        path = self._path(name, "json")
        if path is not None and path.exists():
            self.reused += 1
            return json.loads(path.read_text(encoding="utf-8"))
        value = to_json(make())
        if path is not None:
            atomic_write(path, json.dumps(value, allow_nan=False))
        return value

    def tensors(self, name: str, make: Callable[[], dict[str, Tensor]]) -> dict[str, Tensor]:
        """The named tensors, read from their safetensors file or made and kept."""
        from safetensors.torch import load_file, save

        path = self._path(name, "safetensors")
        if path is not None and path.exists():
            self.reused += 1
            return load_file(path)
        value = make()
        if path is not None:
            atomic_write(path, save({k: v.contiguous() for k, v in value.items()}))
        return value

    def clear(self) -> None:
        """Remove all pieces: the job is finished, or starts anew."""
        if self.root is not None:
            shutil.rmtree(self.root, ignore_errors=True)

    def _path(self, name: str, suffix: str) -> Path | None:
        if self.folder is None:
            return None
        readable = re.sub(r"[^A-Za-z0-9_.-]+", "_", name)[-80:]
        digest = hashlib.sha256(name.encode()).hexdigest()[:8]  # two names never share a file
        return self.folder / f"{readable}-{digest}.{suffix}"
