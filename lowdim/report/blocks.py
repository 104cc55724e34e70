"""What a page is made of: tables and plots as plain data, with no markup in them."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import ClassVar

from lowdim.report import words
from lowdim.report.plots import Figure

LONGEST_TEXT = 280


@dataclass(frozen=True)
class Column:
    """A column's title; ``method`` names the measure whose tooltip explains it."""

    title: str
    method: str | None = None
    numeric: bool = True


@dataclass(frozen=True)
class Cell:
    """What a cell shows, the number it sorts by, a second line, the measure that explains it and
    the figure that it opens.
    """

    text: str
    sort: float | None = None
    small: str = ""
    method: str | None = None
    opens: str | None = None


@dataclass(frozen=True)
class Table:
    """A sortable table; ``find`` adds a box that filters its rows."""

    id: str
    title: str
    columns: Sequence[Column]
    rows: Sequence[Sequence[Cell]]
    note: str = ""
    find: str = ""
    kind: ClassVar[str] = "table"


@dataclass(frozen=True)
class Plot:
    """One drawing area; with several figures the reader chooses among them by name, from a list
    or, where they are few, by ``buttons``.
    """

    id: str
    title: str
    figures: dict[str, Figure]
    note: str = ""
    method: str | None = None
    choose: str = ""
    height: int = 320
    buttons: bool = False
    kind: ClassVar[str] = "plot"

    @property
    def keys(self) -> dict[str, str]:
        """Name of each figure, and the key under which the page's data hold it."""
        return {name: f"{self.id}/{place}" for place, name in enumerate(self.figures)}

    def keyed(self) -> Iterable[tuple[str, Figure]]:
        """The figures under their keys."""
        return zip(self.keys.values(), self.figures.values(), strict=True)


@dataclass(frozen=True)
class Grid:
    """Plots side by side where the screen is wide enough; ``size`` is the narrowest of them."""

    cells: Sequence[Plot]
    size: int = 420
    kind: ClassVar[str] = "grid"


@dataclass(frozen=True)
class Claim:
    """What a paper says, what was found here, and whether the two agree (None: cannot be told)."""

    paper: str
    link: str | None
    claim: str
    found: str
    agrees: bool | None

    @property
    def verdict(self) -> str:
        """In words."""
        if self.agrees is None:
            return "cannot be told"
        return "agrees" if self.agrees else "does not agree"


@dataclass(frozen=True)
class Finding:
    """Plots, and beside them the claims that they bear on."""

    cells: Sequence[Plot]
    claims: Sequence[Claim]
    kind: ClassVar[str] = "finding"


Block = Table | Plot | Grid | Finding


@dataclass(frozen=True)
class Section:
    """A part of the page with an entry in its contents."""

    id: str
    title: str
    lede: str
    blocks: list[Block] = field(default_factory=list)

    def all_plots(self) -> Iterable[Plot]:
        """Every plot of the section, in order."""
        for block in self.blocks:
            if isinstance(block, Plot):
                yield block
            elif isinstance(block, (Grid, Finding)):
                yield from block.cells


def number_cell(value: float | None, small: str = "") -> Cell:
    """A cell that shows a number and sorts by it."""
    return Cell(words.number(value), value, small)


def excerpt(text: str) -> str:
    """The start of a long text, and how long it is."""
    if len(text) <= LONGEST_TEXT:
        return text
    return f"{text[:LONGEST_TEXT]}… ({len(text):,} characters)"
