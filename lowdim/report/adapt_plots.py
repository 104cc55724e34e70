"""The plots of an adapt report, as plain plotly figures; conventions as in ``plots.py``."""

from __future__ import annotations

import re
from collections.abc import Sequence
from statistics import median
from typing import Any

from lowdim.report.plots import (
    LEGEND,
    Figure,
    error_bars,
    interval_dots,
    line,
    marker,
    rounded,
    safe,
)
from lowdim.report.words import interval, number

LARGEST_READABLE = 14  # layers across whose ranks are written in their cells


def place(name: str) -> tuple[int | None, str]:
    """Layer and kind of a tensor by its name: ``h.3.attn.query.weight`` is 3, ``attn.query``."""
    path = re.sub(r"\.weight$", "", name)
    found = re.search(r"(?:^|\.)(\d+)\.(.+)", path)
    return (int(found[1]), found[2]) if found else (None, path)


def scores(rows: Sequence[dict[str, Any]], axis: str) -> Figure:
    """A dot and an interval each, the first on top."""
    dots, names = interval_dots(rows[::-1])
    layout = {"xaxis": {"title": axis, "nticks": 6}, "yaxis": names | {"automargin": True}}
    return {"data": [dots], "layout": layout}


def losses(curve: Sequence[dict[str, float]]) -> Figure:
    """The training loss by step."""
    trace = {
        "x": [point["step"] for point in curve],
        "y": rounded([point["loss"] for point in curve]),
        "mode": "lines",
        "line": {"color": "var(--c1)", "width": 1.6},
        "hovertemplate": "step %{x}: %{y:.4g}<extra></extra>",
    }
    layout = {"xaxis": {"title": "step"}, "yaxis": {"title": "training loss", "nticks": 6}}
    return {"data": [trace], "layout": layout}


def epochs(found: Sequence[dict[str, Any]], before: dict[str, Any], axis: str) -> Figure:
    """The held-out score after each epoch; dotted, what there was before."""
    trace = {
        "x": list(range(1, len(found) + 1)),
        "y": rounded([score["value"] for score in found]),
        "error_y": error_bars(found, "value"),
        "mode": "lines+markers",
        "marker": {"color": "var(--c1)", "size": 8},
        "line": {"color": "var(--c1)", "width": 1.5},
        "text": [f"{number(score['value'])} {interval(score)}" for score in found],
        "hovertemplate": "epoch %{x}: %{text}<extra></extra>",
    }
    layout = {
        "xaxis": {"title": "epoch", "dtick": max(1, -(-len(found) // 8)), "zeroline": False},
        "yaxis": {"title": axis, "nticks": 6},
        "shapes": [line("y", before["value"], "var(--muted)", "dot")],
    }
    return {"data": [trace], "layout": layout}


def by_layer(rows: Sequence[dict[str, Any]], key: str, axis: str) -> Figure:
    """One number a tensor: by layer, a line a kind; tensors outside of layers stand at -1."""
    kinds: dict[str, list[tuple[int, float, str]]] = {}
    for row in rows:
        layer, kind = place(row["name"])
        if row[key] is not None:
            kinds.setdefault(kind, []).append(
                (-1 if layer is None else layer, row[key], row["name"])
            )
    data = [
        {
            "x": [layer for layer, _, _ in sorted(points)],
            "y": rounded([value for _, value, _ in sorted(points)]),
            "text": [f"{safe(name)}<br>{number(value)}" for _, value, name in sorted(points)],
            "name": safe(kind, 30),
            "mode": "lines+markers",
            "marker": marker(i, size=7) | {"opacity": 1},
            "line": {"width": 1.4},
            "hovertemplate": "%{text}<extra></extra>",
        }
        for i, (kind, points) in enumerate(sorted(kinds.items()))
    ]
    layout = {
        "xaxis": {"title": "layer", "zeroline": False, "nticks": 9},
        "yaxis": {"title": axis, "rangemode": "tozero", "nticks": 6},
        "legend": LEGEND,
        "showlegend": len(data) > 1,
    }
    return {"data": data, "layout": layout}


def by_count(rows: Sequence[dict[str, Any]], axis: str) -> Figure:
    """Quality against how much trains: one dot a method, with its interval over seeds."""
    data = [
        {
            "x": [row["trained"]],
            "y": rounded([row["value"]]),
            "error_y": {"array": [row["half"] or 0.0], "thickness": 1.4, "width": 3},
            "name": safe(row["method"]),
            "mode": "markers",
            "marker": marker(i, size=10) | {"opacity": 1},
            "text": [f"{row['trained']:,} numbers: {number(row['value'])}"],
            "hovertemplate": "%{text}<extra>%{fullData.name}</extra>",
        }
        for i, row in enumerate(rows)
    ]
    layout = {
        "xaxis": {"title": "numbers that train", "type": "log", "nticks": 5},
        "yaxis": {"title": axis, "nticks": 6},
        "legend": LEGEND,
    }
    return {"data": data, "layout": layout}


def differences(rows: Sequence[dict[str, Any]], axis: str) -> Figure:
    """How far each method is from the baseline, which stands at zero."""
    figure = scores(rows, axis)
    figure["layout"]["shapes"] = [line("x", 0, "var(--muted)", "dot")]
    return figure


def ranks(rows: Sequence[dict[str, Any]]) -> Figure:
    """Rank of each tensor: kinds down, layers across."""
    cells = {place(row["name"]): row for row in rows}
    kinds = sorted({kind for _, kind in cells})
    layers = sorted({-1 if layer is None else layer for layer, _ in cells})
    found = [[cells.get((None if x < 0 else x, kind)) for x in layers] for kind in kinds]
    heat = {
        "type": "heatmap",
        "x": [str(x) if x >= 0 else "none" for x in layers],
        "y": [safe(kind, 26) for kind in kinds],
        "z": [[None if row is None else row["rank"] for row in line] for line in found],
        "zmin": 0,
        "colorscale": [[0, "var(--sunken)"], [1, "var(--c1)"]],
        "texttemplate": "%{z}" if len(layers) <= LARGEST_READABLE else "",
        "xgap": 1,
        "ygap": 1,
        "colorbar": {"thickness": 10, "outlinewidth": 0, "title": "rank"},
        "customdata": [
            ["" if row is None else f"{safe(row['name'])}<br>rank {row['rank']}" for row in line]
            for line in found
        ],
        "hovertemplate": "%{customdata}<extra></extra>",
    }
    layout = {
        "xaxis": {"title": "layer", "type": "category", "showgrid": False},
        "yaxis": {"automargin": True, "autorange": "reversed", "showgrid": False},
    }
    return {"data": [heat], "layout": layout}


def worth(rows: Sequence[dict[str, Any]]) -> Figure:
    """Which share of what a tensor can gain do its first ranks get? A dot where its rank is."""
    data = []
    for i, row in enumerate(rows):
        curve = [0.0, *row["curve"]]
        data.append(
            {
                "x": list(range(len(curve))),
                "y": rounded(curve),
                "mode": "lines",
                "line": {"color": marker(i, size=1)["color"], "width": 1.6},
                "name": safe(row["name"], 40),
                "hovertemplate": "rank %{x}: %{y:.0%}<extra>%{fullData.name}</extra>",
                "legendgroup": str(i),
            }
        )
        data.append(
            {
                "x": [row["rank"]],
                "y": rounded([curve[row["rank"]]]),
                "mode": "markers",
                "marker": marker(i, size=8) | {"opacity": 1},
                "hoverinfo": "skip",
                "showlegend": False,
                "legendgroup": str(i),
            }
        )
    layout = {
        "xaxis": {"title": "rank", "range": [0, 1.05 * max(map(_knee, rows), default=1)]},
        "yaxis": {"title": "share of its gain", "tickformat": ".0%", "nticks": 6},
        "legend": {"orientation": "h", "y": -0.25, "x": 0, "yanchor": "top"},
    }
    return {"data": data, "layout": layout}


def _knee(row: dict[str, Any]) -> int:
    """The first rank that gets 95% of what there is to gain, or all that are known."""
    return next((r for r, share in enumerate(row["curve"], 1) if share >= 0.95), len(row["curve"]))


def ladder(found: dict[str, Any]) -> Figure:
    """Score by trained dimensions: median and range over the seeds, and the target."""
    rungs = [rung for rung in found["curve"] if rung["dim"]]
    middle = [median(rung["scores"]) for rung in rungs]
    every = [(rung["dim"], value) for rung in rungs for value in rung["scores"]]
    data = [
        {
            "x": [rung["dim"] for rung in rungs],
            "y": rounded(middle),
            "mode": "lines+markers",
            "marker": {"color": "var(--c1)", "size": 8},
            "line": {"color": "var(--c1)", "width": 1.6},
            "name": "median",
            "hovertemplate": "d = %{x}: %{y:.4g}<extra></extra>",
        },
        {
            "x": [dim for dim, _ in every],
            "y": rounded([value for _, value in every]),
            "mode": "markers",
            "marker": {"color": "var(--c1)", "size": 5, "opacity": 0.5},
            "name": "one seed",
            "hovertemplate": "d = %{x}: %{y:.4g}<extra></extra>",
        },
    ]
    full = median(found["full"]["scores"])
    shapes = [line("y", full, "var(--muted)", "dot"), line("y", found["target"])]
    if found["value"] is not None:
        shapes.append(line("x", found["value"]))
    layout = {
        "xaxis": {
            "title": "trained dimensions d",
            "type": "log",
            "tickvals": [rung["dim"] for rung in rungs],
            "ticktext": [f"{rung['dim']:,}" for rung in rungs],
        },
        "yaxis": {"title": found["score"], "nticks": 6},
        "legend": LEGEND,
        "shapes": shapes,
    }
    return {"data": data, "layout": layout}
