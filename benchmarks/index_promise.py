"""Does the recall that a plan promises hold on queries it never saw, in 95 of 100 repeats?

Each repeat draws rows and queries anew, plans, and asks the chosen codec fresh queries.
"""

from __future__ import annotations

import argparse
import statistics

from torch import Tensor

from benchmarks.harness import Row, report
from benchmarks.inputs import minilm_embeddings
from lowdim.core.random import permutation
from lowdim.retrieval import exact_search, plan, recall_at_k


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--n", type=int, default=2_000, help="rows of an index")
    parser.add_argument(
        "--n-index", type=int, default=1_000_000,
        help="rows that share what is stored once: many, so that sizes are fine",
    )  # fmt: skip
    parser.add_argument("--queries", type=int, default=1_000, help="half select, half confirm")
    parser.add_argument("--fresh", type=int, default=4_000, help="queries that no plan has seen")
    parser.add_argument("--repeats", type=int, default=100)
    parser.add_argument("--keep-recall", type=float, default=0.9)
    parser.add_argument("--k", type=int, default=10)
    args = parser.parse_args()
    x = minilm_embeddings(20_000)
    recalls, sizes = [], []
    for seed in range(args.repeats):
        rows, queries, fresh = (
            x[part]
            for part in permutation(len(x), seed)[: args.n + args.queries + args.fresh].split(
                [args.n, args.queries, args.fresh]
            )
        )
        best = plan(
            rows, queries, keep_recall=args.keep_recall, k=args.k, seed=seed, n_index=args.n_index
        ).best
        if best is None:
            continue  # it promises nothing
        codec = best.fit(rows)
        ids, _ = codec.search(codec.encode(rows), fresh, args.k)
        recalls.append(_recall(rows, fresh, ids))
        sizes.append(best.bytes)
        print(f"{seed + 1}/{args.repeats}: {best.configuration}, recall {recalls[-1]:.4f}")
    held = sum(recall >= args.keep_recall for recall in recalls)
    rows_ = [Row("repeats with a choice", len(recalls))]
    if recalls:
        rows_ += [
            Row("promise holds on fresh queries", 100 * held / len(recalls), "%", ">= 95"),
            Row("recall of fresh queries, lowest", min(recalls)),
            Row("recall of fresh queries, median", statistics.median(recalls)),
            Row("bytes a vector, median", statistics.median(sizes), "B"),
        ]
    report("index_promise", rows_, **vars(args))


def _recall(rows: Tensor, queries: Tensor, ids: Tensor) -> float:
    truth, _ = exact_search(rows, queries, ids.shape[1])
    return float(recall_at_k(ids, truth).mean())


if __name__ == "__main__":
    main()
