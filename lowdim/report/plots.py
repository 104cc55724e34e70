"""The plots of points, as plain plotly figures: ``{"data": [...], "layout": {...}}``.

Colours are names of the page's CSS variables (``var(--c1)``), so that one figure serves the light
and the dark page; the page's script looks them up when it draws. Plotly reads a little HTML in
every text it draws, so each text that comes from the scan goes through :func:`safe`.
"""

from __future__ import annotations

import html
import math
from collections.abc import Callable, Sequence
from itertools import pairwise
from typing import Any

import numpy as np

from lowdim.report.words import count, interval, number, short

Figure = dict[str, Any]

COLOURS = [f"var(--c{i})" for i in range(1, 9)] + ["#228833", "#ee3377", "#9c6b4e", "#999933"]
"""The page's eight, then Paul Tol's green, magenta and olive and Observable's brown, which are
about as far from the eight as those from each other, on light and on dark."""
SYMBOLS = ["circle", "diamond", "square", "triangle-up", "cross", "star", "triangle-down", "x"]
LEGEND = {"orientation": "h", "x": 0, "y": 1.02, "xanchor": "left", "yanchor": "bottom"}
LONGEST_LEGEND = 24


def safe(text: Any, longest: int = 60) -> str:
    """Text that plotly draws as it stands, shortened in the middle."""
    # between dollars it would read TeX
    return html.escape(short(text, longest), quote=False).replace("$", "&#36;")


def rounded(values: Sequence[float | None]) -> list[float | None]:
    """Five significant digits: what a screen can show, in half the bytes."""
    return [None if v is None else float(f"{v:.5g}") for v in values]


def marker(place: int, *, size: int) -> dict[str, Any]:
    """The look of a group: its colour, and after each eight the next symbol, so that who sees few
    colours can tell groups apart too.
    """
    colour, symbol = place % len(COLOURS), place // 8 % len(SYMBOLS)
    return {"size": size, "opacity": 0.8, "color": COLOURS[colour], "symbol": SYMBOLS[symbol]}


def error_bars(rows: Sequence[dict[str, Any]], key: str) -> dict[str, Any]:
    """Error bars from ``low`` and ``high``; none where a row has no interval."""

    def reach(row: dict[str, Any], end: str) -> float:
        return 0.0 if row.get(end) is None else abs(row[end] - row[key])

    return {
        "symmetric": False,
        "array": rounded([reach(row, "high") for row in rows]),
        "arrayminus": rounded([reach(row, "low") for row in rows]),
        "thickness": 1.4,
        "width": 3,
    }


def line(axis: str, at: float, colour: str = "var(--c2)", dash: str = "dash") -> dict[str, Any]:
    """A straight line across the plot at one value of an axis."""
    across = "x" if axis == "y" else "y"
    ends = {f"{axis}0": at, f"{axis}1": at, f"{across}0": 0, f"{across}1": 1}
    style = {"color": colour, "width": 1.5, "dash": dash}
    return {"type": "line", f"{across}ref": "paper", "line": style} | ends


def cumulative_energy(spectra: Sequence[dict[str, Any]], names: Sequence[str]) -> Figure:
    """Which share of the variance do the first so many directions hold? One curve a spectrum."""
    data = []
    for place, (spectrum, name) in enumerate(zip(spectra, names, strict=True)):
        index, share = held(spectrum)
        depth = (place + 1) / len(spectra)
        data.append(
            {
                "x": [0, *index],
                "y": [0.0, *rounded(share)],
                "name": safe(name),
                "line": {"color": f"color-mix(in srgb, var(--c1) {depth:.0%}, var(--pale))"},
                "hovertemplate": "%{x} directions hold %{y:.1%}<extra>%{fullData.name}</extra>"
                if len(spectra) > 1
                else "%{x} directions hold %{y:.1%}<extra></extra>",
            }
        )
    layout = {
        "xaxis": {"title": "leading directions", "rangemode": "tozero"},
        "yaxis": {"title": "share of variance", "tickformat": ".0%", "range": [0, 1.03]},
        "shapes": [line("y", share, "var(--muted)", "dot") for share in (0.9, 0.99)],
        "showlegend": False,
    }
    return {"data": data, "layout": layout}


def held(spectrum: dict[str, Any]) -> tuple[list[int], list[float]]:
    """Cumulative share of energy at the kept ranks; values between them follow the power law
    through their neighbours, so that the curve is close to the true one but never above one.
    """
    index, values = np.array(spectrum["index"]), np.array(spectrum["values"], dtype=float)
    floor = max(values.max(), 0.0) * 1e-15 + 1e-300  # the logarithm of zero
    ranks = np.arange(1, index[-1] + 1)
    curve = np.exp(np.interp(np.log(ranks), np.log(index), np.log(values.clip(floor))))
    total = spectrum["total"] or 1.0
    share = (curve.cumsum() / total)[index - 1]
    return index.tolist(), (share / max(1.0, share[-1])).tolist()


def histogram(counts: dict[str, Any], x_title: str, *, marks: dict[str, float | None]) -> Figure:
    """How the value is spread over the points; ``marks`` are named vertical lines."""
    edges = counts["edges"]
    low, high = np.array(edges[:-1]), np.array(edges[1:])
    bars = {
        "type": "bar",
        "x": rounded(((low + high) / 2).tolist()),
        "y": counts["counts"],
        "width": rounded((high - low).tolist()),
        "marker": {"color": "var(--c1)", "line": {"color": "var(--page)", "width": 1}},
        "customdata": [[number(a), number(b)] for a, b in pairwise(edges)],
        "hovertemplate": "%{customdata[0]} to %{customdata[1]}: %{y} points<extra></extra>",
    }
    drawn = sorted((x, name) for name, x in marks.items() if x is not None)
    layout = {
        "xaxis": {"title": x_title},
        "yaxis": {"title": "points"},
        "bargap": 0,
        "margin": {"l": 52, "r": 12, "t": 26, "b": 44},
        "shapes": [line("x", x) for x, _ in drawn],
        "annotations": [
            {
                "x": x,
                "y": 1,
                "yref": "paper",
                "text": f"{name} {number(x)}",
                "showarrow": False,
                "xanchor": "left" if x == drawn[-1][0] else "right",
                "yanchor": "bottom",
            }
            for x, name in drawn
        ],
    }
    return {"data": [bars], "layout": layout}


def size_recall(table: dict[str, Any]) -> Figure:
    """What does a smaller vector cost in recall? One curve a number format."""
    data = []
    for place, name in enumerate(dict.fromkeys(row["format"] for row in table["rows"])):
        rows = sorted((r for r in table["rows"] if r["format"] == name), key=lambda r: r["bytes"])
        data.append(
            {
                "x": [r["bytes"] for r in rows],
                "y": rounded([r["recall"] for r in rows]),
                "error_y": error_bars(rows, "recall"),
                "name": safe(name),
                "mode": "lines+markers",
                "marker": marker(place, size=8),
                "line": {"width": 1.5},
                "customdata": [[r["dims"], number(r["ratio"])] for r in rows],
                "hovertemplate": "%{customdata[0]} dimensions: %{x} bytes, "
                "%{customdata[1]}× smaller<br>recall %{y:.3f}<extra>%{fullData.name}</extra>",
            }
        )
    sizes = [row["bytes"] for row in table["rows"]] or [1]
    first, last = int(math.log2(max(min(sizes), 1))), math.ceil(math.log2(max(sizes)))
    powers = range(first, last + 1, 2 if last - first > 6 else 1)
    layout = {
        "xaxis": {
            "title": "bytes per vector",
            "type": "log",
            "tickvals": [2**p for p in powers],
            "ticktext": [f"{2**p:,}" for p in powers],
        },
        "yaxis": {"title": f"recall@{table['k']}", "range": [0, 1.04]},
        "legend": LEGEND,
    }
    return {"data": data, "layout": layout}


def label_dimension(labels: dict[str, Any]) -> Figure:
    """Is some label more complex than another? A dot and an interval each, smallest first."""
    rows = [row for row in labels["rows"] if row.get("value") is not None]
    rows.sort(key=lambda row: row["value"], reverse=True)  # plotly draws from the bottom up
    dots, names = interval_dots(rows)
    dots["text"] = [
        f"{text}<br>{count(row['n'], 'row')}" for text, row in zip(dots["text"], rows, strict=True)
    ]
    layout = {
        "xaxis": {"title": "dimension", "rangemode": "tozero"},
        "yaxis": names | {"automargin": True},
    }
    return {"data": [dots], "layout": layout}


def interval_dots(rows: Sequence[dict[str, Any]]) -> tuple[dict[str, Any], dict[str, Any]]:
    """A dot and an interval a label, and the axis that names them."""
    places = list(range(len(rows)))
    dots = {
        "x": rounded([row["value"] for row in rows]),
        "y": places,
        "error_x": error_bars(rows, "value"),
        "mode": "markers",
        "marker": {"color": "var(--c1)", "size": 9},
        "text": [f"{safe(r['label'])}<br>{number(r['value'])} {interval(r)}" for r in rows],
        "hovertemplate": "%{text}<extra></extra>",
    }
    ticks = {"tickvals": places, "ticktext": [safe(row["label"], 22) for row in rows]}
    return dots, ticks | {"range": [-0.6, len(rows) - 0.4]}


def point_map(points: dict[str, Any]) -> dict[str, Figure]:
    """The two leading principal directions, coloured by label and by local dimension."""
    layout: Figure = {
        "xaxis": {"title": "first principal direction", "zeroline": False},
        "yaxis": {"title": "second principal direction", "scaleanchor": "x", "zeroline": False},
    }
    x, y = rounded(points["x"]), rounded(points["y"])
    local, names = points.get("local_dimension"), points.get("label")
    hover = [
        f"row {row}"
        + (f"<br>{safe(names[i])}" if names else "")
        + (f"<br>local dimension {number(local[i])}" if local and local[i] is not None else "")
        for i, row in enumerate(points["row"])
    ]
    figures = {}
    if names:
        traces = groups(names, x, y, hover)
        legend = {"legend": LEGEND, "showlegend": len(traces) <= LONGEST_LEGEND}
        figures["label"] = {"data": traces, "layout": layout | legend}
    if local:
        figures["local dimension"] = {
            "data": [scatter(x, y, hover) | {"marker": local_scale(local)}],
            "layout": layout,
        }
    if not figures:
        alike = scatter(x, y, hover) | {"marker": marker(0, size=5)}
        figures["points"] = {"data": [alike], "layout": layout}
    return figures


def groups(
    names: Sequence[str],
    x: Sequence[Any],
    y: Sequence[Any],
    hover: Sequence[str],
    key: Callable[[str], Any] | None = None,
) -> list[dict[str, Any]]:
    """Points by name: a trace and a look for each, sorted by ``key``."""
    rows: dict[str, list[int]] = {}
    for i, name in enumerate(names):
        rows.setdefault(name, []).append(i)
    return [
        scatter(*([column[i] for i in rows[name]] for column in (x, y, hover)))
        | {"name": safe(name, 22), "marker": marker(place, size=5)}
        for place, name in enumerate(sorted(rows, key=key))
    ]


def local_scale(local: Sequence[float | None]) -> dict[str, Any]:
    """Colours of local dimensions, but for the lowest and highest fiftieth."""
    known = sorted(v for v in local if v is not None)
    ends = (known[len(known) // 50], known[-len(known) // 50 - 1]) if known else (0, 1)
    return {
        "size": 5,
        "color": rounded(local),
        "colorscale": "Cividis",
        "cmin": ends[0],
        "cmax": ends[1],
        "colorbar": {"title": "local<br>dimension", "thickness": 10, "outlinewidth": 0},
    }


def scatter(x: list[Any], y: list[Any], hover: list[str]) -> dict[str, Any]:
    """Points that tell their text when pointed at."""
    return {
        "x": x,
        "y": y,
        "text": hover,
        "mode": "markers",
        "hovertemplate": "%{text}<extra></extra>",
    }
