"""Draw the pictures of docs/dimension.md: ``python docs/make_dimension_images.py``."""

from __future__ import annotations

import shutil
import tempfile
from pathlib import Path

import plotly.graph_objects as go
from playwright.sync_api import sync_playwright

from lowdim import Neighbors, datasets, measure
from lowdim.geometry import dimension, gride
from lowdim.manifolds import BENCHMARK

IMAGES = Path(__file__).parent / "images"
SIZE = {"width": 860, "height": 440}


def against_truth() -> go.Figure:
    """What the estimators read off cubes of 2,000 points, and what ``dimension`` says."""
    truth = [1, 2, 3, 5, 7, 10, 14, 20, 28, 40]
    sets = [datasets.cube(2000, d, d + 5, seed=d) for d in truth]
    found = [measure(x, "two-nn", "mle") for x in sets]
    combined = [dimension(x) for x in sets]
    figure = go.Figure()
    figure.add_scatter(x=truth, y=truth, name="truth", line={"color": "#999", "dash": "dot"})
    for name in ("two-nn", "mle"):
        figure.add_scatter(x=truth, y=[f[name].value for f in found], name=name)
    known = [(d, c) for d, c in zip(truth, combined, strict=True) if c.resolved]
    figure.add_scatter(
        x=[d for d, _ in known],
        y=[c.value for _, c in known],
        error_y={
            "array": [c.high - c.value for _, c in known],
            "arrayminus": [c.value - c.low for _, c in known],
        },
        mode="markers",
        name="dimension(), 90%",
        marker={"color": "black", "size": 8},
    )
    axis = {"type": "log", "tickvals": truth, "ticktext": [str(d) for d in truth]}
    figure.update_xaxes(title="true dimension", **axis)
    figure.update_yaxes(title="estimate", **axis)
    return figure


def across_scale() -> go.Figure:
    """Gride's profile of a Swiss roll in 3 columns with three levels of noise."""
    figure = go.Figure()
    for noise in (0.0, 0.01, 0.05):
        x = BENCHMARK["M7_Roll"].sample(4000, noise=noise, seed=1)
        profile = gride(Neighbors.of_points(x, 256), k=256)
        figure.add_scatter(
            x=list(profile.n1),
            y=list(profile.dimensions),
            name=f"noise {noise:.0%}",
            mode="lines+markers",
        )
    figure.add_hline(y=2, line={"color": "#999", "dash": "dot"})
    figure.update_xaxes(title="rank of the nearer neighbour, n1", type="log", tickvals=profile.n1)
    figure.update_yaxes(title="dimension at this scale", range=[1, 3.2])
    return figure


def main() -> None:
    """Draw both and photograph them in Chromium."""
    IMAGES.mkdir(exist_ok=True)
    chromium = shutil.which("chromium") or shutil.which("google-chrome")
    with sync_playwright() as p, tempfile.TemporaryDirectory() as folder:
        browser = p.chromium.launch(executable_path=chromium, args=["--no-sandbox"])
        page = browser.new_page(viewport=SIZE)
        for name, figure in {
            "dimension-truth": against_truth(),
            "dimension-scale": across_scale(),
        }.items():
            figure.update_layout(
                template="simple_white", margin={"l": 60, "r": 20, "t": 20, "b": 50}, **SIZE
            )
            html = Path(folder) / f"{name}.html"
            figure.write_html(html, include_plotlyjs=True)
            page.goto(html.as_uri())
            page.wait_for_selector(".main-svg")
            page.screenshot(path=IMAGES / f"{name}.png", clip={"x": 8, "y": 8, **SIZE})
        browser.close()


if __name__ == "__main__":
    main()
