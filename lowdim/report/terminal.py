"""The report as a screenful of text: what was scanned, what was found, what to do about it."""

from __future__ import annotations

import textwrap
from collections.abc import Sequence
from typing import Any

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from lowdim.report import words
from lowdim.report.document import Document, Report

BARS = "▁▂▃▄▅▆▇█"
CURVE = 24
NAME = 34
MOST_SENTENCES = 3
MOST_ESTIMATES = 6
MOST_CURVES = 3
MOST_ADVICE = 5

NOTABLE = (
    ("spectra/rank-99", "leanest", lambda v, full: -v / full, "99% energy in {value} of {full}"),
    ("spectra/marchenko-pastur", "most outliers", lambda v, _: v, "{value} beyond the noise bulk"),
    ("spectra/tail-exponent", "heaviest tail", lambda v, _: -v, "exponent {value}"),
    ("spectra/init-distance", "most trained", lambda v, _: v, "{value} from a fresh matrix"),
)
"""By which measure a matrix stands out, its title, what is largest for it, what to say of it."""


def summary(report: Report) -> RenderableType:
    """Show what a report says in about forty lines of eighty columns.

    Every text of the scan is shown as it is: nothing in it is read as markup.
    """
    said = words.sentences(report)[:MOST_SENTENCES]
    parts: list[RenderableType] = head(report, said, run="scan")
    if report.embedding:
        parts.append(_embedding(report.embedding))
    if len(report.layers) > 1:
        parts.append(_layers(report.layers))
    if verdicts := words.verdicts(report.deep):
        parts.append(Text(f"\n{verdicts}."))
    if report.weights:
        parts.append(_weights(report.weights))
    if report.advice:
        parts.append(_advice(report.advice))
    if report.notes:
        parts.append(first_note(report.notes))
    return Group(*parts)


def head(report: Document, sentences: Sequence[str], *, run: str) -> list[RenderableType]:
    """Name, facts, and the sentences that matter most; ``run`` is what a command calls its own."""
    lines = [
        Text(words.short(report.source.get("name") or "points"), style="bold"),
        Text(", ".join(words.scanned(report))),
        Text(", ".join(words.ran(report)), "dim"),
    ]
    if not report.complete:
        stopped = f"Incomplete: the {run} was stopped before it ended."
        lines.append(Text(stopped, style="bold yellow"))
    return [*lines, Text(), *(Text(sentence) for sentence in sentences)]


def first_note(notes: Sequence[str]) -> Text:
    """The start of the first, and how many more there are."""
    more = f" (and {len(notes) - 1} more)" if len(notes) > 1 else ""
    first = textwrap.shorten(notes[0], 140, placeholder=" …")
    return Text(f"Note: {first}{more}", style="dim")


def _title(text: str) -> Text:
    return Text(f"\n{text}", style="bold")


def _grid(*justify: str) -> Table:
    """Columns without lines; only the last may fold, so no number is ever cut."""
    table = Table.grid(padding=(0, 2))
    for place, side in enumerate(justify):
        last = place == len(justify) - 1
        table.add_column(justify=side, no_wrap=not last, overflow="fold")  # type: ignore[arg-type]
    return table


def _embedding(points: dict[str, Any]) -> Group:
    """The first few measures, each with its interval."""
    ids = words.ordered(points["estimates"])
    table = _grid("left", "right", "left")
    for id in ids[:MOST_ESTIMATES]:
        estimate = points["estimates"][id]
        table.add_row(
            f"  {words.label(id)}",
            Text(words.number(estimate.get("value")), style="cyan"),
            Text(words.interval(estimate), style="dim"),
        )
    size = f"{words.count(points['n'], 'row')} of {words.count(points['dim'], 'dimension')}"
    more = f"; {len(ids) - MOST_ESTIMATES} more measures in the report"
    return Group(_title(f"Embedding ({size}{more if len(ids) > MOST_ESTIMATES else ''})"), table)


def sparkline(values: Sequence[float | None], width: int = CURVE) -> str:
    """Block characters between the extremes, at most ``width``; a gap where one is missing."""
    if len(values) > width:  # evenly spaced, both ends kept
        values = [values[round(i * (len(values) - 1) / (width - 1))] for i in range(width)]
    known = [v for v in values if v is not None]
    if not known:
        return ""
    low, span = min(known), (max(known) - min(known)) or 1.0
    return "".join(" " if v is None else BARS[round((v - low) / span * 7)] for v in values)


def _layers(layers: list[dict[str, Any]]) -> Group:
    """A sparkline each measure: from the first to the last layer, and between which values."""
    ids = words.ordered(id for layer in layers for id in layer["estimates"])
    table = _grid("left", "right", "left", "left")
    for id in ids[:MOST_CURVES]:
        values = [words.value(layer, id) for layer in layers]
        known = [v for v in values if v is not None]
        table.add_row(
            f"  {words.label(id)}",
            Text(words.number(values[0]), style="cyan"),
            Text(sparkline(values)),
            Text.assemble(
                (words.number(values[-1]), "cyan"),
                (f"  ({words.number(min(known))} to {words.number(max(known))})", "dim"),
            )
            if known
            else "",
        )
    return Group(_title(f"Layers (first to last of {len(layers)})"), table)


def _weights(weights: list[dict[str, Any]]) -> Group:
    """The matrices that stand out, one line each."""
    table = _grid("left", "left", "left")
    for id, role, size, saying in NOTABLE:
        found = [
            (size(value, full), value, full, w["name"])
            for w in weights
            if (value := words.value(w, id)) is not None and (full := min(w["rows"], w["cols"]))
        ]
        if found:
            _, value, full, name = max(found)
            said = saying.format(value=words.number(value), full=full)
            table.add_row(f"  {role}", Text(words.short(name, NAME), style="cyan"), Text(said))
    return Group(_title(f"Weights ({words.count(len(weights), 'matrix', 'matrices')})"), table)


def _advice(advice: list[dict[str, Any]]) -> Group:
    table = _grid("right", "left")
    for place, entry in enumerate(advice[:MOST_ADVICE], start=1):
        table.add_row(f"  {place}.", Text(words.short(entry["title"], 140)))
    more = (
        f" (and {len(advice) - MOST_ADVICE} more in the report)"
        if len(advice) > MOST_ADVICE
        else ""
    )
    return Group(_title(f"What you can do{more}"), table)
