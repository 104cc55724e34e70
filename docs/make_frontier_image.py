"""Draw the frontier against peers of vector-index.md anew: ``python -m docs.make_frontier_image``.

The figures are those of the last run of ``python -m benchmarks.index_frontier``.
"""

from __future__ import annotations

import tempfile
from pathlib import Path

import plotly.graph_objects as go
from plotly.subplots import make_subplots

from benchmarks.table import frontier
from docs.make_images import IMAGES, opened

LINES = {
    "lowdim": ("#1f6feb", "solid", 3),
    "faiss OPQ": ("#d1622b", "solid", 1.5),
    "faiss PQ": ("#8a63d2", "dash", 1.5),
    "faiss SQ, PCA": ("#6e7781", "dot", 1.5),
    "sentence-transformers": ("#bf3989", "solid", 0),
}
"""Colour, dash and width of each line; a width of 0 is markers alone."""

COLUMNS, WIDTH, HEIGHT = 3, 1180, 640


def drawn() -> go.Figure:
    """A panel a set: recall by share of float32."""
    found = frontier()
    rows = -(-len(found) // COLUMNS)
    figure = make_subplots(
        rows, COLUMNS, subplot_titles=list(found), horizontal_spacing=0.05, vertical_spacing=0.14
    )
    for place, lines in enumerate(found.values()):
        for name, (colour, dash, width) in LINES.items():
            recalls = sorted((1 / int(s.split("/")[1]), r) for s, r in lines.get(name, {}).items())
            figure.add_scatter(
                x=[share for share, _ in recalls],
                y=[recall for _, recall in recalls],
                name=name, legendgroup=name, showlegend=place == 0,
                mode="lines+markers" if width else "markers",
                line={"color": colour, "dash": dash, "width": width},
                marker={"size": 7 if width != 1.5 else 5, "symbol": "circle" if width else "x"},
                row=place // COLUMNS + 1, col=place % COLUMNS + 1,
            )  # fmt: skip
    ticks = [1 / 32, 1 / 16, 1 / 8, 1 / 4, 1 / 2]
    figure.update_xaxes(
        type="log", tickvals=ticks, ticktext=[f"1/{round(1 / t)}" for t in ticks], title_standoff=4
    )
    figure.update_yaxes(range=[0, 1.03], tickformat=".0%")
    figure.update_layout(
        template="plotly_white", width=WIDTH, height=HEIGHT,
        margin={"l": 50, "r": 20, "t": 60, "b": 40}, font={"family": "sans-serif", "size": 13},
        legend={
            "x": 0.72, "y": 0.36, "yanchor": "top",
            "title": "recall@10, by bytes a vector<br>of float32's",
        },
    )  # fmt: skip
    return figure


def main() -> None:
    """Photograph it."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "frontier.html"
        drawn().write_html(path, config={"displayModeBar": False})
        with opened(str(path), HEIGHT) as page:
            page.wait_for_selector(".plotly .main-svg")
            page.screenshot(path=IMAGES / "index-peers.png")


if __name__ == "__main__":
    main()
