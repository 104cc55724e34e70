"""Peers that need an older numpy: one lasting process of their own, which times itself.

    with Peer(code) as peer:  # code defines a function "magnitude"
        value, seconds = peer.call("magnitude", x, rate=1.0)

Arrays travel as .npy files, outside the time that the peer takes of its own call. ``make peers``
makes its environment in ``.peers``; where that is missing, :class:`Unavailable` says so.
"""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np

PYTHON = Path(__file__).parent.parent / ".peers" / "bin" / "python"


class Unavailable(Exception):
    """The peer cannot run here: says why."""


class Peer:
    """A Python that has run ``code`` and waits for calls of the functions defined there."""

    def __init__(self, code: str, python: Path | str = PYTHON) -> None:
        if not Path(python).exists():
            raise Unavailable(f"{python} is missing: run `make peers`")
        self.folder = tempfile.TemporaryDirectory()
        self.process = subprocess.Popen(
            [str(python), __file__], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )
        try:
            self._ask({"code": code})
        except Unavailable:
            self.close()
            raise

    def call(self, function: str, *arrays: Any, **options: Any) -> tuple[np.ndarray, float]:
        """Call a function of the peer; what it returns, and the seconds that it took."""
        paths = [f"{self.folder.name}/{i}.npy" for i in range(len(arrays))]
        for path, array in zip(paths, arrays, strict=True):
            np.save(path, np.asarray(array))
        out = f"{self.folder.name}/out.npy"
        answer = self._ask({"call": function, "arrays": paths, "options": options, "out": out})
        return np.load(out), answer["seconds"]

    def _ask(self, request: dict[str, Any]) -> dict[str, Any]:
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        print(json.dumps(request), file=self.process.stdin, flush=True)
        line = self.process.stdout.readline()
        answer: dict[str, Any] = json.loads(line) if line else {"error": "the peer has ended"}
        if "error" in answer:
            raise Unavailable(answer["error"])
        return answer

    def close(self) -> None:
        """End the process and remove its files."""
        self.process.kill()
        self.process.communicate()
        self.folder.cleanup()

    def __enter__(self) -> Peer:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def serve() -> None:
    """Answer requests, one JSON a line; what a library prints goes to standard error."""
    answers, sys.stdout = sys.stdout, sys.stderr
    space: dict[str, Any] = {}
    for line in sys.stdin:
        request = json.loads(line)
        answer: dict[str, Any] = {}
        try:
            if "code" in request:
                exec(request["code"], space)
            else:
                arrays = [np.load(path) for path in request["arrays"]]
                start = time.perf_counter()
                result = space[request["call"]](*arrays, **request["options"])
                answer["seconds"] = time.perf_counter() - start
                np.save(request["out"], np.asarray(result))
        except Exception as error:  # whatever the peer raises is the answer
            answer = {"error": f"{type(error).__name__}: {error}"}
        print(json.dumps(answer), file=answers, flush=True)


if __name__ == "__main__":
    serve()
