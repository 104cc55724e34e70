"""Search time: `Codec.search` against faiss on the same codes, for one query and for many.

The ratio of 1 is parity; faiss keeps hand-written kernels for one query, products of matrices for
many are the processor's best. Dot products, so that both do the same work.
"""

from __future__ import annotations

import argparse
from functools import partial
from typing import Any

import numpy as np
import torch

from benchmarks.harness import Row, interleaved, report

BARS = {1: "", 1000: "<= 1"}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--n", type=int, default=200_000)
    parser.add_argument("--dim", type=int, default=384)
    parser.add_argument("--k", type=int, default=10)
    parser.add_argument("--queries", type=int, nargs="+", default=[1, 1000])
    parser.add_argument("--repeats", type=int, default=3)
    args = parser.parse_args()
    import faiss

    from lowdim.retrieval import Codec

    faiss.omp_set_num_threads(torch.get_num_threads())
    rng = np.random.default_rng(0)
    scale = np.logspace(0, -1.5, args.dim)
    x = (rng.standard_normal((args.n, args.dim)) * scale).astype(np.float32)
    q = (rng.standard_normal((max(args.queries), args.dim)) * scale).astype(np.float32)
    rows = []
    for name, peer in peers(faiss, args.dim).items():
        codec = Codec(name, metric="dot", n_train=10_000).fit(x)
        codes = codec.encode(x)
        peer.train(x[:10_000])
        peer.add(x)
        for m in args.queries:
            times = interleaved(
                {
                    "ours": partial(codec.search, codes, q[:m], args.k),
                    "faiss": partial(peer.search, q[:m], args.k),
                },
                args.repeats,
            )
            what = f"{name}, {m:,} queries: ours over faiss"
            rows.append(Row(what, times.ratio("ours", "faiss"), "x", BARS.get(m, "")))
            rows.append(Row("  our time", 1000 * times.best("ours"), "ms"))
    report("index_search", rows, n=args.n, dim=args.dim, k=args.k)


def peers(faiss: Any, dim: int) -> dict[str, Any]:
    """The flat index of faiss for each code."""
    dot = faiss.METRIC_INNER_PRODUCT
    scalar, kinds = partial(faiss.IndexScalarQuantizer, dim), faiss.ScalarQuantizer
    return {
        "float32": faiss.IndexFlat(dim, dot),
        "int8": scalar(kinds.QT_8bit, dot),
        "int4": scalar(kinds.QT_4bit, dot),
        f"pq{dim // 8}": faiss.IndexPQ(dim, dim // 8, 8, dot),
    }


if __name__ == "__main__":
    main()
