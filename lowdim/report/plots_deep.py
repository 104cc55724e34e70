"""The plots of a deep scan: several curves over the layers; conventions as in ``plots.py``."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from lowdim.report.plots import LEGEND, Figure, line, marker, rounded, safe
from lowdim.report.plots_model import band
from lowdim.report.words import interval, number

Value = dict[str, Any] | float | None


def curves(
    rows: Sequence[dict[str, Any]],
    series: Mapping[str, Sequence[Value]],
    *,
    title: str = "",
    percent: bool = False,
    span: tuple[int, int] | None = None,
    zero: bool = False,
) -> Figure:
    """Several measures over the layers, each an estimate with an interval or a plain number.

    Parameters
    ----------
    rows : sequence of dict
        ``name`` and ``index`` of each layer.
    series : mapping of str to sequence
        Name of each curve, and its value in each layer; None leaves a gap. Curves whose name
        starts with ``control`` or ``chance`` are dotted and grey.
    percent : bool
        Values are shares.
    span : (int, int), optional
        First and last layer of a stretch to shade.
    zero : bool
        Draw a line at zero.
    """
    x = [row["index"] for row in rows]
    data: list[dict[str, Any]] = []
    place = 0
    for name, values in series.items():
        found = [v if isinstance(v, dict) else {"value": v} for v in values]
        aside = name.startswith(("control", "chance"))
        colour = "var(--muted)" if aside else marker(place, size=6)["color"]
        sure = [(i, e) for i, e in zip(x, found, strict=True) if interval(e)]
        if len(sure) > 1 and not aside:
            ends = ([e[end] for _, e in sure] for end in ("low", "high"))
            fill = f"color-mix(in srgb, {colour} 16%, transparent)"
            data.append(band([i for i, _ in sure], *ends) | {"fillcolor": fill})
        data.append(
            {
                "x": x,
                "y": rounded([e.get("value") for e in found]),
                "name": safe(name),
                "mode": "lines" if aside else "lines+markers",
                "marker": {"color": colour, "size": 6 if len(x) < 20 else 4},
                "line": {"color": colour, "width": 2, "dash": "dot" if aside else "solid"},
                "connectgaps": False,
                "text": [
                    f"{safe(row['name'])}<br>{safe(name)} {number(e.get('value'))} {interval(e)}"
                    for row, e in zip(rows, found, strict=True)
                ],
                "hovertemplate": "%{text}<extra></extra>",
            }
        )
        place += not aside
    layout: Figure = {
        "xaxis": {"title": "layer", "dtick": max(1, -(-len(x) // 8)), "zeroline": False},
        "yaxis": {"title": title, "nticks": 6} | ({"tickformat": ".0%"} if percent else {}),
        "legend": LEGEND,
        "showlegend": len(series) > 1,
        "margin": {"l": 52, "r": 12, "t": 44 if len(series) > 1 else 12, "b": 44},
    }
    shapes = [line("y", 0, "var(--muted)", "dot")] if zero else []
    if span is not None:
        corners = {"x0": span[0] - 0.4, "x1": span[1] + 0.4, "y0": 0, "y1": 1, "yref": "paper"}
        look = {"fillcolor": "var(--band)", "line": {"width": 0}, "layer": "below"}
        shapes.append({"type": "rect"} | corners | look)
    return {"data": data, "layout": layout | ({"shapes": shapes} if shapes else {})}


def corpora(found: dict[str, Any], id: str) -> Figure:
    """Bits per token of each corpus against its dimension, averaged over layers."""
    by_layer = found["dimensions"][id]
    values = [sum(column) / len(by_layer) for column in zip(*by_layer, strict=True)]
    dots = {
        "x": rounded(found["bits"]),
        "y": rounded(values),
        "mode": "markers+text",
        "marker": marker(0, size=9),
        "text": [safe(name, 18) for name in found["corpora"]],
        "textposition": "top center",
        "textfont": {"size": 10},
        "cliponaxis": False,
        "hovertemplate": "%{text}<br>%{x:.3f} bits a token, dimension %{y:.3f}<extra></extra>",
    }
    low, high = min(found["bits"]), max(found["bits"])
    room = 0.12 * (high - low or 1.0)  # for the names of the outermost
    layout = {
        "xaxis": {"title": "bits per token", "range": [low - room, high + room]},
        "yaxis": {"title": "dimension, mean over layers", "nticks": 6},
        "showlegend": False,
    }
    return {"data": [dots], "layout": layout}
