"""The plots of an index report, as plain plotly figures; conventions as in ``plots.py``."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from lowdim.report.index_words import family, named, promised, share
from lowdim.report.plots import LEGEND, Figure, error_bars, line, marker, rounded, safe
from lowdim.report.words import number

AXES = {
    "bytes": ("bytes per vector", "bytes"),
    "query_ms": ("milliseconds a query", "ms a query"),
    "build_s": ("seconds to build", "s to build"),
}
"""What recall is drawn against: its axis and its unit."""


def against(plan: dict[str, Any], key: str) -> Figure:
    """What does recall cost? A dot a configuration, with its interval; a ring about the chosen."""
    rows, best, small = plan["rows"], plan["best"], key == "bytes"
    data = [_screened(plan["screened"])] if small and plan["screened"] else []
    data.append(
        _joined([row for row in rows if row["frontier"]] if small else _least(rows, key), key)
    )
    for place, name in enumerate(sorted({family(row) for row in rows})):
        data.append(_dots([row for row in rows if family(row) == name], key, place, name))
    if best is not None:
        data.append(_ring(best[key], best["recall"]))
    title, wanted = AXES[key][0], plan["keep_recall"]
    shapes = [line("y", wanted)] if wanted is not None else []
    shapes += [line("x", plan["budget"])] if small and plan["budget"] is not None else []
    every = [row["recall"] for row in [*rows, *(plan["screened"] if small else ())]]
    layout = {
        "xaxis": {"title": title, "type": "log"} | _ticks([row[key] for row in rows], small),
        "yaxis": {
            "title": f"recall@{plan['k']}",
            "range": [max(0.0, min(every) - 0.05), 1.02],
            "tickformat": ".0%",
            "nticks": 8,
        },
        "legend": LEGEND,
        "shapes": shapes,
    }
    return {"data": data, "layout": layout}


def _dots(rows: Sequence[dict[str, Any]], key: str, place: int, name: str) -> dict[str, Any]:
    return {
        "x": rounded([row[key] for row in rows]),
        "y": rounded([row["recall"] for row in rows]),
        "error_y": error_bars(rows, "recall"),
        "name": safe(name),
        "mode": "markers",
        "marker": marker(place, size=9) | {"opacity": 1},
        "text": [
            f"<b>{safe(named(row))}</b><br>{number(row[key])} {AXES[key][1]}, "
            f"{number(row['ratio'])}× smaller<br>recall {promised(row)}"
            for row in rows
        ],
        "hovertemplate": "%{text}<extra></extra>",
    }


def _screened(rows: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """What was tried on a sample alone."""
    return {
        "x": rounded([row["bytes"] for row in rows]),
        "y": rounded([row["recall"] for row in rows]),
        "name": "on a sample",
        "mode": "markers",
        "marker": {"color": "var(--muted)", "size": 4, "opacity": 0.45},
        "text": [
            f"{safe(named(row))}<br>{row['bytes']:,} bytes<br>recall {share(row['recall'])} on a "
            "sample of rows"
            for row in rows
        ],
        "hovertemplate": "%{text}<extra></extra>",
    }


def _least(rows: Sequence[dict[str, Any]], key: str) -> list[dict[str, Any]]:
    """Those that nothing as cheap beats, cheapest first."""
    found: list[dict[str, Any]] = []
    for row in sorted(rows, key=lambda row: (row[key], -row["recall"])):
        if not found or row["recall"] > found[-1]["recall"]:
            found.append(row)
    return found


def _joined(rows: Sequence[dict[str, Any]], key: str) -> dict[str, Any]:
    return {
        "x": rounded([row[key] for row in rows]),
        "y": rounded([row["recall"] for row in rows]),
        "mode": "lines",
        "line": {"color": "var(--muted)", "width": 1.4},
        "hoverinfo": "skip",
        "showlegend": False,
    }


def _ring(x: float, y: float) -> dict[str, Any]:
    ring = {"symbol": "circle-open", "size": 20, "color": "var(--ink)", "line": {"width": 2.5}}
    return {
        "x": [x],
        "y": [y],
        "name": "chosen",
        "mode": "markers",
        "marker": ring,
        "hoverinfo": "skip",
    }


def _ticks(values: Sequence[float], small: bool) -> dict[str, Any]:
    """Sizes are read in powers of two; times as plotly writes them."""
    if not small:
        return {"nticks": 6}
    first, last = int(min(values)).bit_length() - 1, int(max(values)).bit_length()
    powers = [2**p for p in range(first, last + 1, 2 if last - first > 6 else 1)]
    return {"tickvals": powers, "ticktext": [f"{p:,}" for p in powers]}


def growth(found: dict[str, Any]) -> Figure:
    """Recall among more and more rows: measured, foretold from fewer, and forecast for more."""
    sizes, measured = found["sizes"], found["measured"]
    known = [(n, r) for n, r in zip(sizes, found["predicted"], strict=True) if r is not None]
    ahead = [(sizes[-1], measured[-1]), *found["forecast"]]

    def trace(name: str, points: Sequence[tuple[float, float]], **look: Any) -> dict[str, Any]:
        return {
            "x": [n for n, _ in points],
            "y": rounded([r for _, r in points]),
            "name": name,
            "hovertemplate": f"{name} among %{{x:,}}: %{{y:.1%}}<extra></extra>",
        } | look

    every = [r for _, r in [*known, *ahead]] + measured
    open_dot = {"symbol": "circle-open", "size": 12, "color": "var(--c2)", "line": {"width": 2}}
    data = [
        trace(
            "forecast", ahead, mode="lines+markers", marker={"color": "var(--c1)", "size": 6},
            line={"color": "var(--c1)", "width": 1.6, "dash": "dash"},
        ),
        trace("foretold from fewer rows", known, mode="markers", marker=open_dot),
        trace(
            "measured", list(zip(sizes, measured, strict=True)), mode="lines+markers",
            marker={"color": "var(--c1)", "size": 8}, line={"color": "var(--c1)", "width": 1.6},
        ),
    ]  # fmt: skip
    layout = {
        "xaxis": {"title": "vectors in the index", "type": "log", "nticks": 6},
        "yaxis": {
            "title": f"recall@{found['k']}",
            "tickformat": ".0%",
            "nticks": 6,
            "range": [max(0.0, min(every) - 0.05), min(1.005, max(every) + 0.05)],
        },
        "legend": LEGEND | {"traceorder": "reversed"},
    }
    return {"data": data, "layout": layout}
