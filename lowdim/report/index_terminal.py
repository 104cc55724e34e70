"""An index report as a screenful of text."""

from __future__ import annotations

from typing import Any

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from lowdim.report import index_words as said
from lowdim.report.index_document import Found, IndexReport
from lowdim.report.terminal import first_note, head
from lowdim.report.words import count, short

MOST_QUERIES, MOST_IDS = 5, 3


def summary(report: IndexReport) -> RenderableType:
    """Show what was found in at most forty lines of eighty columns; nothing is read as markup."""
    parts = head(report, said.sentences(report), run="plan")
    if report.plan:
        parts += [Text(f"\nFrontier: {said.asked(report.plan)}", style="bold")]
        parts.append(_frontier(report.plan))
    if commands := said.next_commands(report):
        parts += [Text("\nNext", style="bold"), *(Text(said.typed(words)) for words in commands)]
    if report.notes:
        parts += [Text(), first_note(report.notes)]
    return Group(*parts)


def _frontier(plan: dict[str, Any]) -> Table:
    """The rows of the frontier, the most bytes first, the chosen one in bold."""
    rows = sorted((row for row in plan["rows"] if row["frontier"]), key=lambda r: -r["bytes"])
    table = Table.grid(padding=(0, 2))
    heads = ("  configuration", "bytes", "smaller", f"recall@{plan['k']}", "ms", "build s")
    for place, _ in enumerate(heads):
        table.add_column(justify="right" if place else "left", no_wrap=True)
    table.add_row(*(Text(name, style="dim") for name in heads))
    for row in rows:
        chosen = row == plan["best"]
        table.add_row(
            Text(f"{'>' if chosen else ' '} {short(said.named(row), 24)}"),
            f"{row['bytes']:,}",
            f"{row['ratio']:.3g}x",
            Text(said.promised(row), "cyan"),
            said.brief(row["query_ms"]),
            said.brief(row["build_s"]),
            style="bold" if chosen else "",
        )
    return table


def first_found(found: Found) -> RenderableType:
    """The first rows of the first queries, and how long a query took."""
    ids, scores = found.ids[:MOST_QUERIES], found.scores[:MOST_QUERIES]
    score = "-distance" if found.metric == "euclidean" else found.metric
    table = Table.grid(padding=(0, 2))
    table.add_column(justify="right")
    table.add_row(Text("query", "dim"), Text(f"row ({score})", "dim"))
    for query, (names, values) in enumerate(zip(ids.tolist(), scores.tolist(), strict=True)):
        best = zip(names[:MOST_IDS], values[:MOST_IDS], strict=True)
        line = "  ".join(f"{short(name, 16)} ({value:.4f})" for name, value in best)
        table.add_row(str(query), Text(f"{line}{'  …' if len(names) > MOST_IDS else ''}"))
    m, k = found.ids.shape
    took = said.brief(1e3 * found.seconds / m)
    facts = f"{count(m, 'query', 'queries')}, {count(k, 'row')} of each, {took} ms a query"
    return Group(table, Text(f"{facts}; --out writes all of it.", "dim"))
