"""The plots of a strata report, as plain plotly figures; conventions as in ``plots.py``."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from lowdim.report.plots import (
    LEGEND,
    LONGEST_LEGEND,
    Figure,
    error_bars,
    groups,
    histogram,
    interval_dots,
    line,
    local_scale,
    marker,
    rounded,
    safe,
    scatter,
)
from lowdim.report.words import interval, number

LONGEST_HOVER = 110
MOST_LABELS = 30
LARGEST_READABLE = 14  # cells a side of a matrix whose numbers are written in it
SHARING = {
    "entropy": "gate entropy (nats)",
    "margin": "margin to the nearest other piece",
    "distance": "distance to the piece",
}


def piece_map(points: dict[str, Any]) -> dict[str, Figure]:
    """The plane, coloured by piece, by label and by local dimension."""
    axis = {"showticklabels": False, "showgrid": False, "zeroline": False, "showline": False}
    names = ("first principal direction", "second") if points["method"] == "PCA" else ("", "")
    layout: Figure = {
        "xaxis": axis | {"title": names[0]},
        "yaxis": axis | {"title": names[1], "scaleanchor": "x"},
        "margin": {"l": 8, "r": 8, "t": 8, "b": 8},
        "legend": LEGEND | {"itemsizing": "constant"},
    }
    x, y = rounded(points["x"]), rounded(points["y"])
    columns = {name: points.get(name) for name in ("label", "text", "local_dimension")}
    hover = []
    for i in range(len(x)):
        said = [f"row {points['row'][i]}, piece {points['piece'][i]}"]
        if columns["label"]:
            said.append(safe(columns["label"][i]))
        if columns["local_dimension"] and columns["local_dimension"][i] is not None:
            said.append(f"local dimension {number(columns['local_dimension'][i])}")
        if columns["text"]:
            said.append(wrapped(columns["text"][i]))
        hover.append("<br>".join(said))
    figures = {}
    by_piece = [f"piece {k}" for k in points["piece"]]
    for what, column in (("piece", by_piece), ("label", columns["label"])):
        if column:
            traces = groups(column, x, y, hover, natural)
            legend = {"showlegend": len(traces) <= LONGEST_LEGEND}
            figures[what] = {"data": traces, "layout": layout | legend}
    local = columns["local_dimension"] or []
    if any(v is not None for v in local):
        shaded = scatter(x, y, hover) | {"marker": local_scale(local)}
        figures["local dimension"] = {"data": [shaded], "layout": layout}
    return figures


def wrapped(text: str, width: int = 55) -> str:
    """The start of a text for a hover label, in lines."""
    words, lines = safe(text[:400], LONGEST_HOVER).split(" "), [""]
    for word in words:
        if lines[-1] and len(lines[-1]) + len(word) >= width:
            lines.append("")
        lines[-1] = f"{lines[-1]} {word}".lstrip()
    return "<br>".join(lines)


def natural(name: str) -> tuple[str, int, str]:
    """Piece 10 after piece 9."""
    digits = len(name) - len(name.rstrip("0123456789"))
    head, tail = (name[:-digits], name[-digits:]) if digits else (name, "")
    return head, int(tail) if tail.isascii() and tail else 0, name


def dimensions(rows: Sequence[dict[str, Any]]) -> Figure:
    """Dimension of every piece by three rules, with intervals where they have one."""
    rules = (("MLE", "geometry/mle"), ("TwoNN", "geometry/two-nn"))
    places = [row["piece"] for row in rows]
    data = []
    for place, (name, id) in enumerate(rules):
        known = [(r["piece"], e) for r in rows if (e := r["estimates"].get(id))]
        known = [(k, e) for k, e in known if e.get("value") is not None]
        data.append(
            {
                "x": rounded([e["value"] for _, e in known]),
                "y": [k + 0.14 * (place - 1) for k, _ in known],
                "error_x": error_bars([e for _, e in known], "value"),
                "text": [f"piece {k}: {number(e['value'])} {interval(e)}" for k, e in known],
                "name": name,
            }
        )
    for place, (name, key) in enumerate((("PCA 75%", "pca"), ("BIC rank", "bic")), start=2):
        known = [(r["piece"], r[key]) for r in rows if r[key] is not None]
        data.append(
            {
                "x": [v for _, v in known],
                "y": [k + 0.14 * (place - 1) for k, _ in known],
                "text": [f"piece {k}: {v}" for k, v in known],
                "name": name,
            }
        )
    for place, trace in enumerate(data):
        trace |= {"mode": "markers", "marker": marker(place, size=8) | {"opacity": 1}}
        trace["hovertemplate"] = "%{text}<extra>%{fullData.name}</extra>"
    layout = {
        "xaxis": {"title": "dimension", "rangemode": "tozero"},
        "yaxis": {
            "tickvals": places,
            "ticktext": [f"piece {k}" for k in places],
            "range": [len(rows) - 0.5, -0.6],
            "automargin": True,
        },
        "legend": LEGEND,
    }
    return {"data": data, "layout": layout}


def sharing(gate: dict[str, Any]) -> dict[str, Figure]:
    """How the doubt is spread, over all points and for each label."""
    title = SHARING[gate["kind"]]
    return {
        entry["label"] if place else "all points": histogram(
            entry["histogram"], title, marks={"mean": entry["value"]}
        )
        for place, entry in enumerate([gate["all"], *gate["labels"]])
        if entry["histogram"]
    }


def sharing_by_label(gate: dict[str, Any]) -> Figure:
    """Mean of the doubt and its interval, label by label; the dashed line is that of all."""
    rows = sorted(gate["labels"], key=lambda row: row["value"], reverse=True)
    dots, names = interval_dots(rows)
    layout = {
        "xaxis": {"title": SHARING[gate["kind"]], "nticks": 5, "automargin": False},
        "yaxis": names | {"automargin": False},
        "shapes": [line("x", gate["all"]["value"])],
        "margin": names_margin([row["label"] for row in rows]),
    }
    return {"data": [dots], "layout": layout}


def heat(
    z: Sequence[Sequence[float | None]],
    x: Sequence[str],
    y: Sequence[str],
    *,
    digits: int = 2,
    unit: str = "",
    top: float | None = None,
    text: Sequence[Sequence[str]] | None = None,
    square: bool = True,
) -> Figure:
    """A matrix with named rows and columns; ``text`` is shown on hover beside the value."""
    across, down = list(range(len(x))), list(range(len(y)))
    named = [
        [[safe(a), safe(b), text[i][j] if text else ""] for j, b in enumerate(x)]
        for i, a in enumerate(y)
    ]
    readable = max(len(x), len(y)) <= LARGEST_READABLE
    cells = {
        "type": "heatmap",
        "x": across,
        "y": down,
        "z": [rounded(row) for row in z],
        "zmin": 0,
        "colorscale": [[0, "var(--sunken)"], [1, "var(--c1)"]],
        "texttemplate": f"%{{z:.{digits}f}}" if readable else "",
        "showscale": not readable,
        "xgap": 1,
        "ygap": 1,
        "colorbar": {"thickness": 10, "outlinewidth": 0},
        "customdata": named,
        "hovertemplate": f"%{{customdata[0]}}<br>%{{customdata[1]}}<br>%{{z:.{digits}f}}{unit}"
        "%{customdata[2]}<extra></extra>",
    } | ({"zmax": top} if top is not None else {})
    bare: dict[str, Any] = {"showgrid": False, "zeroline": False, "automargin": False}
    layout: Figure = {
        "xaxis": bare | {"tickvals": across, "ticktext": [safe(name, 22) for name in x]},
        "yaxis": bare
        | {"tickvals": down, "ticktext": [safe(name, 22) for name in y], "autorange": "reversed"},
        "margin": names_margin(y),
    }
    if square:
        layout["xaxis"] |= {"constrain": "domain"}
        layout["yaxis"] |= {"scaleanchor": "x", "constrain": "domain"}
    return {"data": [cells], "layout": layout}


def names_margin(names: Sequence[str]) -> dict[str, int]:
    """Room for names at the left. Fixed, since plotly's own search for it may not settle where the
    ticks or the shape of the plot follow the margin.
    """
    return {"l": 14 + 7 * min(22, max(map(len, names))), "r": 20, "t": 12, "b": 56}


def angles(found: dict[str, Any]) -> dict[str, Figure]:
    """How each two pieces are turned against each other."""
    names = [f"piece {k}" for k in range(len(found["angles"]))]
    return {
        "smallest angle": heat(found["angles"], names, names, digits=0, unit="°", top=90),
        "chordal distance": heat(found["directions"], names, names),
    } | (
        {"dictionaries": heat(found["dictionaries"], names, names)}
        if found.get("dictionaries")
        else {}
    )


def centers(found: dict[str, Any]) -> Figure:
    """How far the middles of each two pieces are apart."""
    names = [f"piece {k}" for k in range(len(found["centers"]))]
    return heat(found["centers"], names, names)


def contingency(section: dict[str, Any]) -> dict[str, Figure]:
    """Which share of a label is on each piece, and which share of a piece each label is."""
    order = sorted(range(len(section["labels"])), key=lambda i: -sum(section["table"][i]))
    table = [section["table"][i] for i in sorted(order[:MOST_LABELS])]
    names = [section["labels"][i] for i in sorted(order[:MOST_LABELS])]
    pieces = [f"piece {k}" for k in section["pieces"]]
    totals = [sum(row[j] for row in section["table"]) for j in range(len(pieces))]
    counts = [[f"<br>{c:,} points" for c in row] for row in table]
    rows = [[c / max(sum(row), 1) for c in row] for row in table]
    columns = [[c / max(t, 1) for c, t in zip(row, totals, strict=True)] for row in table]
    return {
        "share of the label": heat(rows, pieces, names, top=1, text=counts, square=False),
        "share of the piece": heat(columns, pieces, names, top=1, text=counts, square=False),
    }


def refits(stability: dict[str, Any]) -> dict[str, Figure]:
    """Agreement of every two fits."""

    def figure(matrix: list[list[float | None]], one: str) -> Figure:
        names = ["this fit", *(f"{one} {i}" for i in range(1, len(matrix)))]
        return heat(matrix, names, names, top=1, unit=" adjusted Rand index")

    return {
        "other seeds": figure(stability["seeds"], "seed"),
        "halves of the points": figure(stability["halves"], "half"),
    }


def returns(stability: dict[str, Any], stable: float, pattern: float) -> Figure:
    """How well each piece comes back from half of the points."""
    known = [(k, v) for k, v in enumerate(stability["jaccard"]) if v is not None]
    bars = {
        "type": "bar",
        "x": [f"piece {k}" for k, _ in known],
        "y": rounded([v for _, v in known]),
        "marker": {"color": "var(--c1)"},
        "hovertemplate": "%{x}: %{y:.2f}<extra></extra>",
    }
    layout = {
        "yaxis": {"title": "mean Jaccard index", "range": [0, 1.04]},
        "xaxis": {},
        "shapes": [line("y", stable, "var(--c3)"), line("y", pattern, "var(--c2)", "dot")],
    }
    return {"data": [bars], "layout": layout}
