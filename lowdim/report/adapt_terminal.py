"""An adapt report as a screenful of text."""

from __future__ import annotations

from statistics import median
from typing import Any

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from lowdim.report import adapt_words as said
from lowdim.report.adapt_document import AdaptReport
from lowdim.report.terminal import first_note, head, sparkline
from lowdim.report.words import number, short

MOST_ROWS = 16


def summary(report: AdaptReport) -> RenderableType:
    """Show what was found in at most forty lines of eighty columns; nothing is read as markup."""
    parts = head(report, said.sentences(report), run="run")
    if report.training:
        curve = [point["loss"] for point in report.training["losses"]]
        parts.append(Text.assemble("\nLoss ", (sparkline(curve, 60), "cyan")))
    if report.comparison:
        parts += [Text(), _methods(report.comparison["rows"])]
    if report.suggestion:
        parts += [Text(), _ranks(report.suggestion["rows"])]
    if report.dimension:
        parts += [Text(), _rungs(report.dimension)]
    if report.notes:
        parts += [Text(), first_note(report.notes)]
    return Group(*parts)


def _table(*heads: str) -> Table:
    """Columns without lines; the first holds names, and only it is shortened."""
    table = Table.grid(padding=(0, 2))
    for place, _ in enumerate(heads):
        table.add_column(justify="right" if place else "left", no_wrap=True)
    table.add_row(*(Text(name, style="dim") for name in heads))
    return table


def _methods(rows: list[dict[str, Any]]) -> Table:
    table = _table("method", "trained", "score", "difference", "verdict")
    for row in rows:
        table.add_row(
            Text(short(row["method"], 20)),
            f"{row['trained']:,}",
            Text(said.spread(row["value"], row["half"]), "cyan"),
            said.spread(row["difference"], row["reach"], "+.3g"),
            row["verdict"],
        )
    return table


def _ranks(rows: list[dict[str, Any]]) -> Group:
    """The tensors that gain most."""
    chosen = sorted((row for row in rows if row["rank"]), key=lambda row: -row["gain"])
    table = _table("tensor", "rank", "trained")
    for row in chosen[:MOST_ROWS]:
        rank = Text(str(row["rank"]), "cyan")
        table.add_row(Text(short(row["name"], 56)), rank, f"{row['n_trainable']:,}")
    more = len(chosen) - MOST_ROWS
    return Group(table, *([Text(f"and {more} more in the report", "dim")] if more > 0 else []))


def _rungs(found: dict[str, Any]) -> Table:
    table = _table("d", "median", "lowest", "highest")
    for rung in [*found["curve"], found["full"]]:
        scores = rung["scores"]
        table.add_row(f"{rung['dim']:,}", Text(number(median(scores)), "cyan"),
                      number(min(scores)), number(max(scores)))  # fmt: skip
    return table
