"""At the same bytes, does the plan's choice find more than what the best tools offer?

On real vectors and at each size from 1/32 to 1/2 of float32: the choice of one plan without a goal
(its queries select) against sentence-transformers' ``quantize_embeddings`` and faiss's own
quantisers with and without its PCA and OPQ, all fitted to the same rows. Recall@10 of fresh queries
that neither saw, paired: the difference carries its 95% interval, and the bar is that its upper end
is not below zero.

python -m benchmarks.index_frontier
"""

from __future__ import annotations

import argparse
import math
import re
from collections.abc import Callable, Iterator

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from benchmarks.harness import Row, report
from benchmarks.inputs import cache, finished
from benchmarks.inputs_vectors import SETS
from lowdim.core.points import unit_rows
from lowdim.core.progress import bars
from lowdim.retrieval import exact_search, plan
from lowdim.retrieval.recall import recall_at_k

SHARES = (1 / 2, 1 / 4, 1 / 8, 1 / 16, 1 / 32)
QUERIES = 1_000
INDEX = 1_000_000
"""Vectors that the plan is made for, of which the set is a sample."""

K = 10
WIDEST = 96
"""Most sub-quantisers that faiss is asked to rotate for: beyond, OPQ takes very long to fit."""

Search = Callable[[], tuple[Tensor, int]]
"""The rows that are found, and bytes that are stored once."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--sets", nargs="+", default=list(SETS), choices=list(SETS))
    parser.add_argument("--most", type=int, default=20_000, help="vectors of a set")
    args = parser.parse_args()
    rows: list[Row] = []
    for name in args.sets:
        vectors = unit_rows(SETS[name]()[: args.most])
        rows += compared(name, vectors[2 * QUERIES :], *vectors[: 2 * QUERIES].split(QUERIES))
    report("index_frontier", rows, sets=args.sets, most=args.most)


def compared(name: str, x: Tensor, asked: Tensor, fresh: Tensor) -> Iterator[Row]:
    """Recall of the plan's choice and of every peer at each size."""
    truth, _ = exact_search(x, fresh, K)
    with bars() as progress:
        planned = plan(x, asked, n_index=INDEX, progress=progress)
    print(f"{name}\n{planned}", flush=True)
    for share in SHARES:
        size = round(4 * x.shape[1] * share)
        row = max((r for r in planned.rows if r.code_bytes <= size), key=lambda r: r.selected)
        codec = row.fit(x)
        ours = recall_at_k(codec.search(codec.encode(x), fresh, K)[0], truth)
        where = f"{name} | 1/{round(1 / share)}"
        yield Row(f"{where} | lowdim: {row.configuration} | bytes", row.code_bytes)
        yield Row(f"{where} | lowdim: {row.configuration} | stored once", row.overhead / 1e6, "MB")
        yield Row(f"{where} | lowdim: {row.configuration} | recall", float(ours.mean()))
        for peer, search in peers(x, fresh, size).items():
            found, once = kept(f"{name} {len(x)} {size} {peer}", search)
            theirs = recall_at_k(found, truth)
            gap = (ours - theirs).double()
            reach = 1.96 * float(gap.std()) / math.sqrt(len(gap))
            print(f"{where} | {peer}: {theirs.mean():.3f}, ours {ours.mean():.3f}", flush=True)
            yield Row(f"{where} | {peer} | recall", float(theirs.mean()))
            yield Row(f"{where} | {peer} | stored once", once / 1e6, "MB")
            yield Row(f"{where} | {peer} | lowdim minus it, upper end", float(gap.mean()) + reach,
                      bar=">= 0")  # fmt: skip
            yield Row(f"{where} | {peer} | lowdim minus it", float(gap.mean()))


def kept(name: str, search: Search) -> tuple[Tensor, int]:
    """What a peer found, from the cache if it was asked before: some take minutes to fit."""
    path = cache() / "index-frontier" / f"{re.sub('[^A-Za-z0-9]+', '-', name)}.safetensors"
    if not path.exists():
        ids, once = search()
        with finished(path) as unfinished:
            save_file({"ids": ids.contiguous(), "once": torch.tensor(once)}, unfinished)
    found = load_file(path)
    return found["ids"], int(found["once"])


def peers(x: Tensor, queries: Tensor, size: int) -> dict[str, Search]:
    """What others store in so many bytes a vector, by name."""
    d = x.shape[1]
    found: dict[str, Search] = {}
    if size == d:
        found["sentence-transformers int8"] = lambda: quantized(x, queries, "int8")
    if 8 * size == d:
        found["sentence-transformers binary"] = lambda: quantized(x, queries, "ubinary")
    presets = []
    for bits, code in ((32, "Flat"), (16, "SQfp16"), (8, "SQ8"), (4, "SQ4")):
        m = 8 * size // bits
        if m <= d:
            presets += [code if m == d else f"PCA{m},{code}"]
    m = min(4 * size, d - d % size)  # what faiss's guidelines recommend, or all
    if m > size:
        pq = f"PQ{size}x8np"  # np: without sorting centroids for another kind of search
        presets += [pq] if d % size == 0 else []
        presets += [f"PCA{m},{pq}"] if m < d else []
        presets += [f"OPQ{size}_{m},{pq}"] if size <= WIDEST else []
    return found | {f"faiss {preset}": indexed(x, queries, preset) for preset in presets}


def indexed(x: Tensor, queries: Tensor, preset: str) -> Search:
    """A search of faiss, by the better of its two metrics for rows of length one."""

    def search() -> Tensor:
        import faiss

        faiss.omp_set_num_threads(torch.get_num_threads())
        index = faiss.index_factory(x.shape[1], preset, faiss.METRIC_INNER_PRODUCT)
        index.train(x.numpy())
        index.add(x.numpy())
        inner = faiss.downcast_index(index.index) if "," in preset else index
        truth, found = exact_search(x, queries, K)[0], []
        for metric in (faiss.METRIC_INNER_PRODUCT, faiss.METRIC_L2):
            index.metric_type = inner.metric_type = metric
            found.append(torch.from_numpy(index.search(queries.numpy(), K)[1]))
        once = faiss.serialize_index(index).nbytes - index.ntotal * index.sa_code_size()
        return max(found, key=lambda ids: float(recall_at_k(ids, truth).mean())), once

    return search


def quantized(x: Tensor, queries: Tensor, precision: str) -> tuple[Tensor, int]:
    """A search of sentence-transformers' codes: int8 by dot product, bits by Hamming distance."""
    from sentence_transformers.util.quantization import quantize_embeddings

    rows = quantize_embeddings(x.numpy(), precision, calibration_embeddings=x.numpy())
    if precision == "ubinary":
        asked = quantize_embeddings(queries.numpy(), precision)
        bits = (_bits(torch.from_numpy(codes)) for codes in (rows, asked))
        stored, asked_bits = bits
        return (asked_bits @ stored.T).topk(K, 1).indices, 0
    asked = quantize_embeddings(queries.numpy(), precision, calibration_embeddings=x.numpy())
    products = torch.from_numpy(asked).float() @ torch.from_numpy(rows).float().T
    return products.topk(K, 1).indices, 8 * x.shape[1]  # the range of every column


def _bits(codes: Tensor) -> Tensor:
    """Packed bytes as -1 and 1: their product orders as the Hamming distance does."""
    return ((codes[:, :, None] >> torch.arange(7, -1, -1)) & 1).flatten(1).float() * 2 - 1


if __name__ == "__main__":
    main()
