"""Which reduction and which number format keep most of the recall at the same bytes?

The storage study of Huerga-Perez et al. 2025 on real vectors: reductions to 100, 75, 50, 25, 10 and
5% of the columns, each in every number format; recall@10 of held-out queries against exact search
of the float32 vectors. Three claims of the paper are read off: float8 loses below 0.3% at a quarter
of the size and is better than int8 there; PCA is the best reduction; half the columns in float8, an
eighth of the size, lose less than int8 at a quarter.

python -m benchmarks.index_storage
"""

from __future__ import annotations

import argparse

from torch import Tensor

from benchmarks.harness import Row, report
from benchmarks.inputs_vectors import SETS
from lowdim.core.points import unit_rows
from lowdim.retrieval import exact_search
from lowdim.retrieval.configurations import Configuration
from lowdim.retrieval.plan_steps import Trained
from lowdim.retrieval.recall import interval, recall_at_k
from lowdim.retrieval.reduction import Training

SHARES = (1.0, 0.75, 0.5, 0.25, 0.1, 0.05)
REDUCTIONS = ("pca", "random", "truncate", "fft")
FORMATS = (
    "float32", "float16", "bfloat16", "float8", "float8-e5m2", "int8", "int4", "binary",
)  # fmt: skip
QUERIES = 1_000
K = 10


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--sets", nargs="+", default=list(SETS), choices=list(SETS))
    parser.add_argument("--most", type=int, default=10_000, help="vectors of a set")
    args = parser.parse_args()
    rows: list[Row] = []
    for name in args.sets:
        vectors = SETS[name]()[: args.most]
        found = study(vectors[QUERIES:], vectors[:QUERIES])
        rows += [
            Row(f"{name} | {reduction} {share:.0%} | {code} | {what}", value)
            for (reduction, share, code), values in found.items()
            for what, value in zip(("bytes", "recall", "low", "high"), values, strict=True)
        ]
        rows += claims(name, found)
    report("index_storage", rows, sets=args.sets, most=args.most)


Key = tuple[str, float, str]
Found = dict[Key, tuple[float, float, float, float]]


def study(x: Tensor, queries: Tensor) -> Found:
    """Bytes a vector, recall@10 and its interval of every reduction, share and format."""
    truth, _ = exact_search(x, queries, K)
    trained = Trained(Training(unit_rows(x), "cosine"))
    found: Found = {}
    for share in SHARES:
        for reduction in ("none",) if share == 1 else REDUCTIONS:
            for code in FORMATS:
                dims = max(1, round(share * x.shape[1]))
                c = Configuration(code, reduction, dims)
                codec = trained.codec(c)  # a map is fitted once for all formats
                codes = codec.code_.encode(trained.reduced(c)[1])
                ids, _ = codec.search(codes, queries, K)
                recall = interval(recall_at_k(ids, truth))
                found[reduction, share, code] = (codec.bytes_per_vector, *recall)
                print(f"{reduction} {share:.0%} {code}: {recall[0]:.3f}", flush=True)
    return found


def claims(name: str, found: Found) -> list[Row]:
    """What the paper says, as differences of recall that should be above zero."""

    def recall(reduction: str, share: float, code: str) -> float:
        return found[reduction, share, code][1]

    whole = recall("none", 1.0, "float32")
    float8, int8 = recall("none", 1.0, "float8"), recall("none", 1.0, "int8")
    better = [
        recall("pca", share, "float32")
        - max(recall(other, share, "float32") for other in REDUCTIONS[1:])
        for share in SHARES[1:]
    ]
    return [
        Row(f"{name} | claim: loss of float8 below 0.003", whole - float8, bar="<= 0.003"),
        Row(f"{name} | claim: float8 over int8", float8 - int8, bar=">= 0"),
        Row(f"{name} | claim: PCA over other reductions, least", min(better), bar=">= 0"),
        Row(
            f"{name} | claim: PCA 50% in float8 over int8",
            recall("pca", 0.5, "float8") - int8,
            bar=">= 0",
        ),
    ]


if __name__ == "__main__":
    main()
