"""`Report`: all that a scan found, as plain JSON values with a version.

The page, the terminal summary and the diff read nothing but this document, so a report can be
drawn again from ``scan.json`` alone. The schema is described in ``docs/scan-json.md``.
"""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

from lowdim.core.estimate import to_json
from lowdim.errors import InputError

if TYPE_CHECKING:
    from rich.console import RenderableType

SCHEMA = "lowdim.scan/1"
SECTIONS = ("weights", "layers", "cka", "embedding", "advice")


@dataclass
class Document:
    """What every command's report says of its run; a command adds what it found.

    Attributes
    ----------
    source, options, environment : dict
        What was read, with which options, on what machine.
    methods : dict
        Question, paper, link and cost of each method id that appears.
    """

    command: ClassVar[str]  # made it, and names its JSON file

    source: dict[str, Any]
    options: dict[str, Any] = field(default_factory=dict)
    environment: dict[str, Any] = field(default_factory=dict)
    methods: dict[str, Any] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)
    created: str = ""
    seconds: float = 0.0
    peak_bytes: int = 0
    complete: bool = False
    lowdim: str = ""
    schema: str = ""

    def to_dict(self) -> dict[str, Any]:
        """Strict JSON values, the schema version first."""
        return {"schema": self.schema} | to_json(self.values())

    def values(self) -> dict[str, Any]:
        """The fields that are JSON; all of them, unless a command holds more."""
        return vars(self)

    def save_json(self, folder: str | Path) -> Path:
        """Write the JSON document alone, atomically."""
        from lowdim.io.write import atomic_write

        path = Path(folder) / f"{self.command}.json"
        atomic_write(path, json.dumps(self.to_dict(), indent=1, allow_nan=False) + "\n")
        return path

    def __repr__(self) -> str:
        from rich.console import Console

        console = Console(width=80)
        with console.capture() as captured:
            console.print(self)
        return captured.get()


@dataclass(repr=False)
class Report(Document):
    """What `lowdim.scan` found; prints itself in a terminal and in a notebook.

    Attributes
    ----------
    weights, layers : list of dict
        One entry a matrix, one entry a layer, each with its ``estimates``.
    cka : list of list of float, or None
        Debiased linear CKA between layers.
    embedding : dict or None
        The points themselves: estimates, histograms, near-duplicates, labels, size and recall.
    advice : list of dict
        At most seven recommendations, each tried in the run with its figure.
    deep : dict or None
        What ``deep=True`` adds: positions, profile, token clouds, compression, local rank, deep
        measures of the points, and the claims of papers beside the figures.
    """

    command: ClassVar[str] = "scan"

    weights: list[dict[str, Any]] = field(default_factory=list)
    layers: list[dict[str, Any]] = field(default_factory=list)
    cka: list[list[float]] | None = None
    embedding: dict[str, Any] | None = None
    advice: list[dict[str, Any]] = field(default_factory=list)
    deep: dict[str, Any] | None = None
    schema: str = SCHEMA

    def save(self, folder: str | Path) -> Path:
        """Write ``scan.json`` and ``report.html`` into ``folder``; returns the page's path.

        Both are written whole or not at all: a failure leaves an older file as it was.
        """
        from lowdim.io.write import atomic_write, check_writable
        from lowdim.report.page import render

        folder = check_writable(folder)
        self.save_json(folder)
        page = folder / "report.html"
        atomic_write(page, render(self))
        return page

    def __rich__(self) -> RenderableType:
        from lowdim.report.terminal import summary

        return summary(self)

    def _repr_html_(self) -> str:
        from lowdim.report.page import render_summary

        return render_summary(self)


def load_scan(path: str | Path) -> Report:
    """Read back a ``scan.json`` (or the folder that holds one).

    Raises
    ------
    InputError
        Where the file is missing, not JSON, or of a schema this version does not know.
    """
    path = Path(path)
    path = path / "scan.json" if path.is_dir() else path
    try:
        data = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise InputError(f"{path} does not exist: give a scan.json or the folder of one") from None
    except (OSError, UnicodeDecodeError, json.JSONDecodeError) as error:
        raise InputError(f"{path} cannot be read as a scan: {error}") from error
    if not isinstance(data, dict) or data.get("schema") != SCHEMA:
        found = data.get("schema") if isinstance(data, dict) else None
        raise InputError(f"{path} has schema {found!r}, this version of lowdim reads {SCHEMA!r}")
    known = {k: data[k] for k in Report.__dataclass_fields__ if k in data}
    if not isinstance(known.get("source"), dict):
        raise InputError(f"{path} has no 'source' object: it is not a whole scan.json")
    return Report(**known)
