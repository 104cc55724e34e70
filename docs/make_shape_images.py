"""Draw the picture of docs/shape.md anew: ``python docs/make_shape_images.py``."""

from __future__ import annotations

from pathlib import Path

import matplotlib.pyplot as plt
import torch
from matplotlib.collections import LineCollection
from scipy.sparse import block_diag

import lowdim
from lowdim.geometry import magnitude, ollivier_ricci, representation_graph

IMAGES = Path(__file__).parent / "images"


def main() -> None:
    """Weights of a cloud on the left, curvature of a neighbour graph on the right."""
    generator = torch.Generator().manual_seed(0)
    angle = 6.2832 * torch.rand(700, generator=generator)
    radius = (0.35**2 + (1 - 0.35**2) * torch.rand(700, generator=generator)).sqrt()
    ring = torch.stack([radius * angle.cos(), radius * angle.sin()], 1)
    groups = [
        0.5 * torch.randn(60, 2, generator=generator) + torch.tensor([c, 0]) for c in (0, 3.2)
    ]
    cloud = torch.cat(groups)
    halves = [representation_graph(lowdim.Neighbors.of_points(group, 12)) for group in groups]
    graph = block_diag(halves, format="lil").astype(bool)
    gaps = torch.cdist(*groups)
    nearest = gaps.flatten().topk(4, largest=False).indices
    for row, column in zip(nearest // 60, nearest % 60, strict=True):
        graph[row, 60 + column] = graph[60 + column, row] = True
    curved = ollivier_ricci(graph)

    figure, (left, right) = plt.subplots(1, 2, figsize=(10, 4.4), layout="constrained")
    weights = magnitude(ring, t=0.15).per_point
    order = weights.argsort()
    colours = {"c": weights[order], "cmap": "viridis_r", "vmin": 0, "vmax": 0.25}
    shown = left.scatter(*ring[order].T, s=16, **colours)
    figure.colorbar(shown, ax=left, shrink=0.8, label="weight (t = 0.15)", extend="both")
    left.set_title("Magnitude: the boundary of a ring weighs most")
    lines = LineCollection(cloud[curved.edges].numpy(), cmap="RdBu", linewidths=1.4)
    lines.set_array(curved.edge_curvature.numpy())
    lines.set_clim(-0.5, 0.5)
    right.add_collection(lines)
    right.scatter(*cloud.T, s=5, c="black", zorder=2)
    figure.colorbar(lines, ax=right, shrink=0.8, label="curvature of the edge")
    right.set_title("Ollivier-Ricci: four bridges between two groups")
    for axes in (left, right):
        axes.set_aspect("equal")
        axes.axis("off")
    IMAGES.mkdir(exist_ok=True)
    figure.savefig(IMAGES / "shape.png", dpi=110)


if __name__ == "__main__":
    main()
