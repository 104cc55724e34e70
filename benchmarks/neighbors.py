"""Exact neighbour search: against the bare matrix products it is made of, scikit-learn and faiss.

The bar on the search of all points among themselves is below 1 because the product is symmetric:
half of it is enough, and two-level selection has to fit into what is saved.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable
from typing import Any

import torch

from benchmarks.harness import Row, interleaved, peak_memory, report
from lowdim import Neighbors

BLOCK = 2048


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--n", type=int, default=50_000)
    parser.add_argument("--d", type=int, default=384)
    parser.add_argument("--k", type=int, default=20)
    parser.add_argument("--peers-n", type=int, default=20_000)
    parser.add_argument("--repeats", type=int, default=3)
    args = parser.parse_args()
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(args.n, args.d, generator=generator)
    clusters = torch.randn(100, args.d, generator=generator)[torch.arange(args.n) * 100 // args.n]
    clusters += 0.1 * torch.randn(args.n, args.d, generator=generator)
    queries = x + 0.01  # as many, but nothing is symmetric now

    def search(points: torch.Tensor, **options: Any) -> Callable[[], Any]:
        return lambda: Neighbors.of_points(points, args.k, method="exact", **options)

    search(x[:2000])()  # libraries loaded, threads started
    with peak_memory() as peak:
        search(x)()
        extra = peak()
    times = interleaved(
        {
            "products": lambda: products(x, x),
            "self": search(x),
            "clusters": search(clusters),
            "queries": search(x, queries=queries),
        },
        args.repeats,
    )
    small = x[: args.peers_n]
    peers = interleaved(
        {"ours": search(small), "products": lambda: products(small, small)}
        | contenders(small.numpy(), args.k),
        args.repeats,
    )
    rows = [
        Row(
            "self-search over the full n x n products",
            times.ratio("self", "products"),
            "x",
            "<= 0.8",
        ),
        Row(
            "  the same, points in order of 100 tight clusters",
            times.ratio("clusters", "products"),
            "x",
        ),
        Row(
            "n separate queries over the products",
            times.ratio("queries", "products"),
            "x",
            "<= 1.3",
        ),
        Row("self-search: peak extra memory", extra / 2**30, "GiB", "<= 1"),
    ]
    for name in peers:
        if name not in ("ours", "products"):
            rows.append(
                Row(f"ours over {name}, n = {len(small):,}", peers.ratio("ours", name), "x", "<= 1")
            )
            rows.append(Row(f"  {name} over the products", peers.ratio(name, "products"), "x"))
    rows += [
        Row("self-search", times.best("self"), "s"),
        Row("products", times.best("products"), "s"),
        Row("  their rate", 2e-9 * args.n**2 * args.d / times.best("products"), "GFLOP/s"),
    ]
    report("neighbors", rows, n=args.n, d=args.d, k=args.k, peers_n=len(small))


def products(a: torch.Tensor, b: torch.Tensor) -> None:
    """The bare products of all rows of ``a`` and ``b``, a block at a time into one buffer."""
    buffer = torch.empty(BLOCK * BLOCK)
    for rows in a.split(BLOCK):
        for columns in b.split(BLOCK):
            out = buffer[: len(rows) * len(columns)].view(len(rows), len(columns))
            torch.mm(rows, columns.T, out=out)


def contenders(array: Any, k: int) -> dict[str, Callable[[], Any]]:
    """scikit-learn's brute force and faiss' flat index on the same points."""
    import faiss
    from sklearn.neighbors import NearestNeighbors

    def flat() -> Any:
        index = faiss.IndexFlatL2(array.shape[1])
        index.add(array)
        return index.search(array, k + 1)

    def brute() -> Any:
        return NearestNeighbors(n_neighbors=k, algorithm="brute").fit(array).kneighbors()

    return {"scikit-learn brute": brute, "faiss flat": flat}


if __name__ == "__main__":
    main()
