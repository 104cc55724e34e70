"""Search time: `Codec.search` against faiss's flat indexes on the very same codes.

faiss's index is given our grids or codebooks and our bytes, both search by dot products on as many
threads, in turn, and must find the same rows before they are timed. Its ``binary`` is Hamming
distances of coded queries, which is less than what is done here; of ``bits`` and ``float8`` there
is none. Cosines, which take the length of every decoded row as well, are timed against the same.
Vectors are MiniLM glosses, each several times with noise, about its length 1.
"""

from __future__ import annotations

import argparse
from functools import partial
from typing import Any

import numpy as np
import torch

from benchmarks.harness import Row, interleaved, report

CODES = ("float32", "float16", "int8", "int4", "pq48", "binary", "bits48", "float8")
NOISE = 0.01


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--n", type=int, default=100_000)
    parser.add_argument("--k", type=int, default=10)
    parser.add_argument("--queries", type=int, nargs="+", default=[1, 200])
    parser.add_argument("--codes", nargs="+", default=CODES)
    parser.add_argument("--repeats", type=int, default=5)
    args = parser.parse_args()
    import faiss

    from lowdim.retrieval import Codec

    faiss.omp_set_num_threads(torch.get_num_threads())
    x, q = vectors(args.n, max(args.queries))
    rows = []
    for name in args.codes:
        dot, cosine = (
            Codec(name, metric=metric, n_train=20_000).fit(x) for metric in ("dot", "cosine")
        )
        codes, unit = dot.encode(x), cosine.encode(x)
        search = peer(faiss, name, dot, codes)
        same = search is not None and name != "binary"
        if same:
            check(search(q, args.k)[1], dot.search(codes, q, args.k)[0].numpy())
        for m in args.queries:
            some = q[:m]
            contenders = {
                "dot": partial(dot.search, codes, some, args.k),
                "cosine": partial(cosine.search, unit, some, args.k),
            }
            if search is not None:
                contenders["faiss"] = partial(search, some, args.k)
            times = interleaved(contenders, args.repeats)
            for metric in ("dot", "cosine"):
                what = f"{name}, {m:,} {'query' if m == 1 else 'queries'}, {metric}"
                rows.append(Row(f"{what}: ours", 1000 * times.best(metric), "ms"))
                if search is not None:
                    bar = "<= 1" if metric == "dot" and same else ""
                    rows.append(Row(f"{what}: over faiss", times.ratio(metric, "faiss"), "x", bar))
    report("index_search", rows, n=args.n, dim=x.shape[1], k=args.k)


def vectors(n: int, queries: int) -> tuple[np.ndarray, np.ndarray]:
    """(n, d) and (queries, d): glosses with noise of their own each time, and others."""
    from benchmarks.inputs import minilm_embeddings

    base = minilm_embeddings().numpy()
    rng = np.random.default_rng(0)
    asked, kept = base[:queries], base[queries:]
    rows = kept[np.arange(n) % len(kept)]
    return rows + rng.normal(0, NOISE, rows.shape).astype(np.float32), asked


def peer(faiss: Any, name: str, codec: Any, codes: torch.Tensor) -> Any:
    """The search of faiss's flat index that holds these codes; None where it has none."""
    code, dim, dot = codec.code_, codec.n_features_in_, faiss.METRIC_INNER_PRODUCT
    kinds, stored = faiss.ScalarQuantizer, codes.numpy()
    scalar = {"float16": kinds.QT_fp16, "int8": kinds.QT_8bit, "int4": kinds.QT_4bit}
    if name == "binary":
        index = faiss.IndexBinaryFlat(8 * codes.shape[1])
        index.add(stored)
        return lambda q, k: index.search(codec.encode(q).numpy(), k)
    if name == "float32":
        index = faiss.IndexFlat(dim, dot)
    elif name in scalar:
        index = faiss.IndexScalarQuantizer(dim, scalar[name], dot)
        if name != "float16":
            trained = torch.cat([code.low, code.width]).numpy()
            faiss.copy_array_to_vector(trained, index.sq.trained)
    elif name.startswith("pq"):
        index = faiss.IndexPQ(dim, codes.shape[1], 8, dot)
        faiss.copy_array_to_vector(code.codebooks.numpy().ravel(), index.pq.centroids)
    else:
        return None
    index.is_trained = True
    index.add_sa_codes(stored)
    return index.search


def check(theirs: np.ndarray, ours: np.ndarray) -> None:
    """Raise where more than rows of equal scores differ."""
    same = np.mean([len(set(a) & set(b)) / len(a) for a, b in zip(theirs, ours, strict=True)])
    if same < 0.99:
        raise RuntimeError(f"faiss finds {1 - same:.1%} other rows in the same codes")


if __name__ == "__main__":
    main()
