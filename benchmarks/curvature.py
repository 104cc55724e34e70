"""Ollivier-Ricci curvature of a neighbour graph: against GraphRicciCurvature, edge by edge."""

from __future__ import annotations

import argparse
import os

import numpy as np
import torch

from benchmarks.harness import Row, interleaved, report


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--n", type=int, default=2_000)
    parser.add_argument("--k", type=int, default=10)
    args = parser.parse_args()
    import networkx as nx
    from GraphRicciCurvature.OllivierRicci import OllivierRicci

    import lowdim
    from lowdim.geometry import ollivier_ricci, representation_graph

    cores = os.cpu_count() or 1
    rows = []
    for dim in (2, 10):
        x = torch.randn(args.n, dim, generator=torch.Generator().manual_seed(0))
        graph = representation_graph(lowdim.Neighbors.of_points(x, args.k))
        net = nx.from_scipy_sparse_array(graph)

        def peer(net: nx.Graph = net) -> nx.Graph:
            made = OllivierRicci(net, alpha=0.5, method="OTD", exp_power=0, proc=cores)
            made.compute_ricci_curvature()
            return made.G

        theirs, found = peer(), ollivier_ricci(graph)
        values = np.array([theirs[a][b]["ricciCurvature"] for a, b in found.edges.tolist()])
        gap = float(np.abs(values - found.edge_curvature.numpy()).max())
        times = interleaved(
            {"ours": lambda g=graph: ollivier_ricci(g), "GraphRicciCurvature": peer},
            repeats=3,
            warm_up=False,
        )
        name = f"{dim} columns, {len(values):,} edges"
        rows += [
            Row(
                f"{name}: GraphRicciCurvature over ours",
                times.ratio("GraphRicciCurvature", "ours"),
                "x",
                ">= 5",
            ),
            Row(f"{name}: largest difference of an edge", gap, "", "<= 1e-6"),
            Row(f"{name}: our time", times.best("ours"), "s"),
        ]
    report("curvature", rows, n=args.n, k=args.k, processes=cores)


if __name__ == "__main__":
    main()
