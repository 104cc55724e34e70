"""The plots of a model's inside, layers and weight matrices; conventions as in ``plots.py``."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

from lowdim.report.plots import (
    LEGEND,
    LONGEST_LEGEND,
    SYMBOLS,
    Figure,
    line,
    marker,
    rounded,
    safe,
)
from lowdim.report.words import interval, label, number, value

RANKS = {"stable-rank", "entropy-rank", "effective-rank", "rank-90", "rank-99"}
"""Weight measures that are shown as a share of the full rank, so that shapes compare."""


def layer_curve(layers: Sequence[dict[str, Any]], id: str) -> Figure:
    """One measure through the layers, with its interval as a band where it has one."""
    x = [layer["index"] for layer in layers]
    found = [layer["estimates"].get(id, {}) for layer in layers]
    curve = {
        "x": x,
        "y": rounded([e.get("value") for e in found]),
        "mode": "lines+markers",
        "marker": {"color": "var(--c1)", "size": 6 if len(x) < 20 else 4},
        "line": {"color": "var(--c1)", "width": 2},
        "text": [
            f"{safe(layer['name'])}<br>{number(e.get('value'))} {interval(e)}"
            for layer, e in zip(layers, found, strict=True)
        ],
        "hovertemplate": "%{text}<extra></extra>",
    }
    sure = [(i, e) for i, e in zip(x, found, strict=True) if interval(e)]
    shade = band([i for i, _ in sure], [e["low"] for _, e in sure], [e["high"] for _, e in sure])
    layout = {
        "xaxis": {"dtick": max(1, -(-len(x) // 8)), "zeroline": False},
        "yaxis": {"nticks": 5},
        "showlegend": False,
    }
    return {"data": [shade, curve] if len(sure) > 1 else [curve], "layout": layout}


def cka(matrix: list[list[float]], layers: Sequence[dict[str, Any]]) -> Figure:
    """Which layers hold the same information? 1 is the same up to rotation and scale."""
    names = [safe(layer["name"]) for layer in layers] or [str(i) for i in range(len(matrix))]
    places = list(range(len(matrix)))
    lowest = min((v for row in matrix for v in row if v is not None), default=0.0)
    heat = {
        "type": "heatmap",
        "x": places,
        "y": places,
        "z": [rounded(row) for row in matrix],
        "zmin": min(0.9, math.floor(10 * lowest) / 10),
        "zmax": 1,
        "colorscale": [[0, "var(--sunken)"], [1, "var(--c1)"]],
        "texttemplate": "%{z:.2f}" if len(matrix) <= 13 else "",
        "xgap": 1,
        "ygap": 1,
        "colorbar": {"thickness": 10, "outlinewidth": 0},
        "customdata": [[[a, b] for b in names] for a in names],
        "hovertemplate": "%{customdata[0]}<br>%{customdata[1]}<br>CKA %{z:.3f}<extra></extra>",
    }
    step = {"dtick": max(1, -(-len(matrix) // 12)), "showgrid": False, "zeroline": False}
    layout = {
        "xaxis": {"title": "layer", "constrain": "domain"} | step,
        "yaxis": {"title": "layer", "scaleanchor": "x", "constrain": "domain"}
        | step
        | {"autorange": "reversed"},
    }
    return {"data": [heat], "layout": layout}


def weight_scatter(weights: Sequence[dict[str, Any]], id: str) -> Figure:
    """One measure of every matrix in the model's order, a colour and symbol a kind."""
    share = id.startswith("spectra/") and id.split("/")[1] in RANKS
    data = []
    for place, kind in enumerate(dict.fromkeys(w.get("kind") or "matrix" for w in weights)):
        rows = [
            (i, w, v)
            for i, w in enumerate(weights)
            if (w.get("kind") or "matrix") == kind and (v := value(w, id)) is not None
        ]
        data.append(
            {
                "x": [i + 1 for i, _, _ in rows],
                "y": rounded([v / min(w["rows"], w["cols"]) if share else v for _, w, v in rows]),
                "text": [
                    f"{safe(w['name'])}<br>{w['rows']} × {w['cols']}<br>{label(id)} {number(v)}"
                    for _, w, v in rows
                ],
                "name": safe(kind, 22),
                "mode": "markers",
                "marker": marker(place, size=8) | {"symbol": SYMBOLS[place % len(SYMBOLS)]},
                "hovertemplate": "%{text}<extra></extra>",
            }
        )
    axis = (
        {"title": f"{label(id)}, share of full rank", "tickformat": ".0%"}
        if share
        else {"title": label(id)}
    )
    layout = {
        "xaxis": {"title": "matrix, in the model's order"},
        "yaxis": axis | {"rangemode": "tozero"},
        "legend": LEGEND,
        "showlegend": len(data) <= LONGEST_LEGEND,
    }
    return {"data": data, "layout": layout}


def weight_spectrum(weight: dict[str, Any]) -> Figure:
    """Energies of one matrix on logarithmic axes, with the edge of its noise bulk."""
    index, values = weight["spectrum"]["index"], weight["spectrum"]["values"]
    curve = {
        "x": index,
        "y": rounded(values),
        "mode": "lines+markers",
        "marker": {"size": 4, "color": "var(--c1)"},
        "line": {"width": 1.5, "color": "var(--c1)"},
        "hovertemplate": "rank %{x}: energy %{y:.4g}<extra></extra>",
    }
    layout: dict[str, Any] = {
        "xaxis": {"title": "rank", "type": "log", "dtick": 1},
        "yaxis": {
            "title": "energy (squared singular value)",
            "type": "log",
            "exponentformat": "power",
            "dtick": 1,
        },
        "showlegend": False,
    }
    edge = value(weight, "spectra/marchenko-pastur", "edge")
    outliers = value(weight, "spectra/marchenko-pastur")
    # drawn only where the line does separate that many energies from the rest
    if (
        edge
        and outliers is not None
        and all((v > edge) == (i <= outliers) for i, v in zip(index, values, strict=True))
    ):
        layout["shapes"] = [line("y", edge)]
        layout["annotations"] = [
            {
                "x": 1,
                "y": math.log10(edge),
                "xref": "paper",
                "text": f"edge of the noise bulk: {number(int(outliers))} beyond it",
                "showarrow": False,
                "xanchor": "right",
                "yanchor": "bottom",
            }
        ]
    return {"data": [curve], "layout": layout}


def band(x: list[Any], low: list[Any], high: list[Any]) -> dict[str, Any]:
    """An interval as a shaded band behind a curve."""
    return {
        "x": [*x, *reversed(x)],
        "y": rounded([*high, *reversed(low)]),
        "fill": "toself",
        "fillcolor": "var(--band)",
        "line": {"width": 0},
        "mode": "lines",
        "hoverinfo": "skip",
        "showlegend": False,
    }
