"""A strata report as a screenful of text."""

from __future__ import annotations

import textwrap

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from lowdim.report import strata_words as said
from lowdim.report import words
from lowdim.report.strata_document import StrataReport

MOST_PIECES = 20


def summary(report: StrataReport) -> RenderableType:
    """Show what was found in about thirty lines of eighty columns; nothing is read as markup."""
    parts: list[RenderableType] = [
        Text(words.short(report.source.get("name") or "points"), style="bold"),
        Text(", ".join(words.scanned(report))),
        Text(", ".join(words.ran(report)), "dim"),
    ]
    if not report.complete:
        parts.append(Text("Incomplete: the run was stopped before it ended.", style="bold yellow"))
    parts += [Text(), *(Text(sentence) for sentence in said.sentences(report))]
    if report.pieces:
        parts += [Text("\nPieces", style="bold"), _pieces(report)]
    if report.notes:
        more = f" (and {len(report.notes) - 1} more)" if len(report.notes) > 1 else ""
        first = textwrap.shorten(report.notes[0], 140, placeholder=" …")
        parts.append(Text(f"\nNote: {first}{more}", style="dim"))
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
    table.add_row(*(Text(head, style="dim") for head in heads))
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
