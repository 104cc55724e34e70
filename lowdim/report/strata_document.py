"""`StrataReport`: all that `lowdim.strata` found, as plain JSON values, with the pieces themselves.

The page and the terminal read nothing but the JSON values, so a report can be drawn again from
``strata.json`` alone.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

import pyarrow as pa
import pyarrow.parquet as pq
from torch import Tensor

from lowdim.core.strata import Strata
from lowdim.report.document import Document

if TYPE_CHECKING:
    from rich.console import RenderableType

HELD = ("strata", "assignments")
"""Fields that are not JSON: they are written to files of their own."""


@dataclass(repr=False)
class StrataReport(Document):
    """What `lowdim.strata` found; prints itself in a terminal and in a notebook.

    Attributes
    ----------
    fit : dict or None
        Method, number of pieces and how it was chosen.
    pieces : dict or None
        ``rows``, one a piece: size, dimensions, texts, what it is rich in; ``equal``, the test that
        their dimensions are one.
    gate : dict or None
        How far points are shared among pieces, over all and by label.
    between : dict or None
        Distances and angles between pieces.
    labels : dict or None
        Contingency of pieces and labels, and how far it is beyond chance.
    stability : dict or None
        Agreement of refits with other seeds and on halves of the points.
    verdict : dict or None
        The test whether one piece would do.
    map : dict or None
        A plane for at most 3,000 points.
    strata : Strata or None
        The pieces themselves; :func:`lowdim.structure.save_strata` keeps them.
    assignments : dict of Tensor
        ``piece``, ``gate_entropy``, ``margin``, ``local_dimension``, ``distance``: (n,) each.
    """

    command: ClassVar[str] = "strata"

    fit: dict[str, Any] | None = None
    pieces: dict[str, Any] | None = None
    gate: dict[str, Any] | None = None
    between: dict[str, Any] | None = None
    labels: dict[str, Any] | None = None
    stability: dict[str, Any] | None = None
    verdict: dict[str, Any] | None = None
    map: dict[str, Any] | None = None
    schema: str = "lowdim.strata-report/1"
    strata: Strata | None = None
    assignments: dict[str, Tensor] = field(default_factory=dict)

    def values(self) -> dict[str, Any]:
        """The fields that are JSON."""
        return {name: v for name, v in vars(self).items() if name not in HELD}

    def save(self, folder: str | Path) -> Path:
        """Write ``report.html``, ``strata.json``, ``assignments.parquet`` and the folder
        ``strata``; returns the page's path. Each is written whole or not at all.
        """
        from lowdim.io.write import atomic_open, atomic_write, check_writable
        from lowdim.report.strata_parts import render_strata
        from lowdim.structure.save import save_strata

        folder = check_writable(folder)
        self.save_json(folder)
        if self.assignments:
            columns = {name: x.numpy(force=True) for name, x in self.assignments.items()}
            with atomic_open(folder / "assignments.parquet") as file:
                pq.write_table(pa.table(columns), file)
        if self.strata is not None:
            about = {"source": self.source, "options": self.options, "fit": self.fit}
            save_strata(self.strata, folder / "strata", about=about)
        page = folder / "report.html"
        atomic_write(page, render_strata(self))
        return page

    def __rich__(self) -> RenderableType:
        from lowdim.report.strata_terminal import summary

        return summary(self)

    def _repr_html_(self) -> str:
        from lowdim.report.strata_parts import render_fragment

        return render_fragment(self)
