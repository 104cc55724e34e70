"""A strata report as a screenful of text."""

from __future__ import annotations

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from lowdim.report import strata_words as said
from lowdim.report import words
from lowdim.report.strata_document import StrataReport
from lowdim.report.terminal import first_note, head

MOST_PIECES = 20


def summary(report: StrataReport) -> RenderableType:
    """Show what was found in about thirty lines of eighty columns; nothing is read as markup."""
    parts = head(report, said.sentences(report), run="run")
    if report.pieces:
        parts += [Text("\nPieces", style="bold"), _pieces(report)]
    if report.notes:
        parts += [Text(), first_note(report.notes)]
    return Group(*parts)


def _pieces(report: StrataReport) -> Group:
    rows = report.pieces["rows"] if report.pieces else []
    jaccard = (report.stability or {}).get("jaccard")
    rich_in = "words" if any(row.get("words") for row in rows) else "labels"
    table = Table.grid(padding=(0, 2), expand=True)
    for width in (7, 7, 9, 4, 7):
        table.add_column(justify="right", no_wrap=True, min_width=width)
    table.add_column(overflow="ellipsis", no_wrap=True, ratio=1)
    heads = ("  piece", "points", "dimension", "rank", "returns" if jaccard else "", rich_in)
    table.add_row(*(Text(name, style="dim") for name in heads))
    for row in rows[:MOST_PIECES]:
        found = (
            row["estimates"].get("geometry/mle") or row["estimates"].get("geometry/two-nn") or {}
        )
        back = jaccard[row["piece"]] if jaccard else None
        table.add_row(
            str(row["piece"]),
            f"{row['n']:,}",
            Text(words.number(found.get("value")), style="cyan"),
            str(row["rank"]),
            "" if back is None else f"{back:.2f}",
            Text(said.named(row.get(rich_in))),
        )
    more = len(rows) - MOST_PIECES
    return Group(table, *([Text(f"  and {more} more in the report", "dim")] if more > 0 else []))
