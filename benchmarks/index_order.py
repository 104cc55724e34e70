"""Recall of HNSW by order of insertion: faiss, hnswlib and usearch, real and controlled vectors.

Elliott and Clark 2024 order by local intrinsic dimension. Here: MiniLM of WordNet glosses, Gaussian
coefficients of exactly r directions, and those of several r put together, whose labels are r.
"""

from __future__ import annotations

import argparse

import numpy as np
import torch
from torch import Tensor

from benchmarks.harness import Row, report
from benchmarks.inputs import minilm_embeddings
from lowdim.errors import require
from lowdim.retrieval.insertion_order import Search, faiss_graph, recall_by_order

LINKS, EFFORT, SEARCH_EFFORT = 16, 40, 40
"""M, efConstruction and efSearch of all three."""


def hnswlib_graph(x: np.ndarray, order: np.ndarray, metric: str, seed: int) -> Search:
    """hnswlib, on one thread: rows as they come."""
    hnswlib = require("hnswlib", "hnswlib")
    index = hnswlib.Index(space="l2" if metric == "euclidean" else "ip", dim=x.shape[1])
    index.init_index(len(x), M=LINKS, ef_construction=EFFORT, random_seed=seed + 1)
    index.set_num_threads(1)
    index.add_items(x[order], order)
    index.set_ef(SEARCH_EFFORT)
    return lambda q, k: index.knn_query(q, k)[0]


def usearch_graph(x: np.ndarray, order: np.ndarray, metric: str, seed: int) -> Search:
    """usearch, on one thread: rows as they come. Its layers take no seed."""
    usearch = require("usearch.index", "usearch")
    index = usearch.Index(
        ndim=x.shape[1], metric="l2sq" if metric == "euclidean" else "ip", dtype="f32",
        connectivity=LINKS, expansion_add=EFFORT, expansion_search=SEARCH_EFFORT,
    )  # fmt: skip
    index.add(order, x[order], threads=1)
    return lambda q, k: index.search(q, k, threads=1).keys.reshape(len(q), -1)


def of_rank(rank: int, n: int, dim: int = 256) -> Tensor:
    """Random coefficients of ``rank`` orthonormal directions."""
    g = torch.Generator().manual_seed(rank)
    basis = torch.linalg.qr(torch.randn(dim, rank, generator=g))[0]
    return torch.randn(n, rank, generator=g) @ basis.T


def mixture(n: int) -> tuple[Tensor, Tensor]:
    """Three ranks in turn, each in a place of its own, and which is which."""
    ranks = (8, 32, 128)
    parts = [of_rank(r, -(-n // 3)) / r**0.5 + 0.5 * torch.eye(256)[i] for i, r in enumerate(ranks)]
    x = torch.stack(parts, 1).flatten(0, 1)[:n]
    return x, torch.arange(n) % 3


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--n", type=int, default=20_000)
    parser.add_argument("--queries", type=int, default=1_000)
    parser.add_argument("--seeds", type=int, default=5)
    args = parser.parse_args()
    sets: dict[str, tuple[Tensor, Tensor | None]] = {
        "MiniLM glosses": (minilm_embeddings(args.n), None)
    }
    sets |= {f"rank {r}": (of_rank(r, args.n), None) for r in (16, 64)}
    sets |= {"ranks 8, 32 and 128": mixture(args.n)}
    builds = {"faiss": faiss_graph, "hnswlib": hnswlib_graph, "usearch": usearch_graph}
    rows = []
    for name, (x, labels) in sets.items():
        q, x = x[: args.queries], x[args.queries :]
        labels = None if labels is None else labels[args.queries :]
        for library, build in builds.items():
            found = recall_by_order(x, q, build=build, labels=labels, seeds=args.seeds)
            for row in found.rows:
                half = (row.high - row.low) / 2
                rows.append(Row(f"{name}, {library}, {row.order} (+- {half:.4f})", row.recall))
    report("index_order", rows, n=args.n, queries=args.queries, seeds=args.seeds,
           links=LINKS, effort=EFFORT, search_effort=SEARCH_EFFORT)  # fmt: skip


if __name__ == "__main__":
    main()
