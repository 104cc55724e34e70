"""What ``lowdim index`` found: `IndexReport`, a plan as JSON, and `Found`, the answer of a search.

The page and the terminal read nothing but the values of a report, so it can be drawn again from
``index-plan.json`` alone.
"""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np

from lowdim.core.estimate import to_json
from lowdim.errors import InputError
from lowdim.report.document import Document

if TYPE_CHECKING:
    from rich.console import RenderableType

SCHEMA = "lowdim.index-report/1"
ENDINGS = (".npz", ".tsv", ".jsonl")
"""Formats that what was found is written in."""


@dataclass(repr=False)
class IndexReport(Document):
    """What ``lowdim index plan`` found; prints itself in a terminal and in a notebook.

    Attributes
    ----------
    plan : dict or None
        The plan itself, as in ``plan.json``: ``rows``, one a configuration with its bytes, recall
        and times, the ``best`` of them, the ``structure`` of the vectors, and ``growth``.
    """

    command: ClassVar[str] = "index-plan"

    plan: dict[str, Any] | None = None
    schema: str = SCHEMA

    def save(self, folder: str | Path) -> Path:
        """Write ``report.html`` and ``index-plan.json``, each whole; returns the page's path."""
        from lowdim.io.write import atomic_write, check_writable
        from lowdim.report.index_parts import render_index

        folder = check_writable(folder)
        self.save_json(folder)
        page = folder / "report.html"
        atomic_write(page, render_index(self))
        return page

    def __rich__(self) -> RenderableType:
        from lowdim.report.index_terminal import summary

        return summary(self)

    def _repr_html_(self) -> str:
        from lowdim.report.index_parts import render_fragment

        return render_fragment(self)


@dataclass(frozen=True, eq=False)
class Found:
    """The rows that a search found.

    Attributes
    ----------
    ids : ndarray
        (m, k) row numbers, or the names that the index gives its rows; best first.
    scores : ndarray
        (m, k) cosines, dot products or negative distances.
    metric : str
        Which of the three.
    seconds : float
        Of the search, the checksums of the index not counted.
    """

    ids: np.ndarray
    scores: np.ndarray
    metric: str
    seconds: float

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON values."""
        facts = {"metric": self.metric, "seconds": self.seconds}
        return to_json(facts | {"ids": self.ids.tolist(), "scores": self.scores.tolist()})

    def save(self, path: str | Path) -> Path:
        """Write it: ``.npz`` holds both arrays, ``.tsv`` a line a row, ``.jsonl`` one a query."""
        from lowdim.io.write import atomic_write

        path = check_ending(path)
        written: dict[str, Callable[[], bytes | str]] = {
            ".npz": self._npz,
            ".tsv": self._tsv,
            ".jsonl": self._jsonl,
        }
        atomic_write(path, written[path.suffix]())
        return path

    def _npz(self) -> bytes:
        file = io.BytesIO()
        np.savez(file, ids=self.ids, scores=self.scores)
        return file.getvalue()

    def _tsv(self) -> str:
        file = io.StringIO()
        lines = csv.writer(file, delimiter="\t", lineterminator="\n")
        lines.writerow(("query", "rank", "id", "score"))
        for query, (ids, scores) in enumerate(self._pairs()):
            for rank, (id, score) in enumerate(zip(ids, scores, strict=True), start=1):
                lines.writerow((query, rank, id, f"{score:.7g}"))
        return file.getvalue()

    def _jsonl(self) -> str:
        lines = [
            json.dumps(to_json({"query": query, "ids": ids, "scores": scores}))
            for query, (ids, scores) in enumerate(self._pairs())
        ]
        return "".join(f"{line}\n" for line in lines)

    def _pairs(self) -> zip[tuple[list[Any], list[float]]]:
        return zip(self.ids.tolist(), self.scores.tolist(), strict=True)

    def __rich__(self) -> RenderableType:
        from lowdim.report.index_terminal import first_found

        return first_found(self)


def check_ending(path: str | Path) -> Path:
    """A path whose ending says how it is written."""
    path = Path(path)
    if path.suffix not in ENDINGS:
        raise InputError(f"{path} has no ending that can be written: {', '.join(ENDINGS)}")
    return path
