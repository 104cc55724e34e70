"""`AdaptReport`: what a training, comparison, suggestion or dimension of a task found, as JSON.

The page and the terminal read nothing but these values, so a report can be drawn again from
``adapt.json`` alone.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

from lowdim.report.document import Document

if TYPE_CHECKING:
    from rich.console import RenderableType

SCHEMA = "lowdim.adapt-report/1"


@dataclass(repr=False)
class AdaptReport(Document):
    """What ``lowdim adapt`` found; prints itself in a terminal and in a notebook.

    Attributes
    ----------
    run : str
        Which of the four it is: ``train``, ``compare``, ``suggest`` or ``dimension``.
    training : dict or None
        Method, counts, scores before and after, learning curve, and the update of each target.
    comparison : dict or None
        ``rows``, one a method: count, score of each seed, time; ``pairs``, paired differences.
    suggestion : dict or None
        ``rows``, one a target: rank, count and the spectrum of its gradient; how they were chosen.
    dimension : dict or None
        ``rows``, one a number of trained dimensions: its scores; the d90 that they give.
    """

    command: ClassVar[str] = "adapt"

    run: str = "train"
    training: dict[str, Any] | None = None
    comparison: dict[str, Any] | None = None
    suggestion: dict[str, Any] | None = None
    dimension: dict[str, Any] | None = None
    schema: str = SCHEMA

    def save(self, folder: str | Path) -> Path:
        """Write ``report.html`` and ``adapt.json``, each whole or not at all; the page's path."""
        from lowdim.io.write import atomic_write, check_writable
        from lowdim.report.adapt_parts import render_adapt

        folder = check_writable(folder)
        self.save_json(folder)
        page = folder / "report.html"
        atomic_write(page, render_adapt(self))
        return page

    def __rich__(self) -> RenderableType:
        from lowdim.report.adapt_terminal import summary

        return summary(self)

    def _repr_html_(self) -> str:
        from lowdim.report.adapt_parts import render_fragment

        return render_fragment(self)
