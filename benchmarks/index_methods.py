"""What does each reduction keep in few coordinates, and each code in few bytes?

MiniLM of WordNet's definitions, asked with other definitions and with single words (the longest of
a definition), which are another kind of text: recall@10 against exact search. Reductions are held
in float32, so nothing but the reduction is lost; those that learn from queries get others of the
same kind. Codes come after PCA to as many coordinates as fill the bytes, or to eight a byte.

python -m benchmarks.index_methods
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator

import numpy as np
import torch
from torch import Tensor

from benchmarks.harness import Row, report
from benchmarks.inputs import cache, finished, glosses, minilm_embeddings
from lowdim.datasets import minilm
from lowdim.errors import InputError
from lowdim.io.activations import embed
from lowdim.io.models import load_model
from lowdim.retrieval import Codec, exact_search, recall_at_k

DIMS = (24, 48, 96, 192)
REDUCTIONS = (
    "pca", "pca-whitened", "band", "random", "sparse", "fft", "truncate", "autoencoder", "tldr",
    "query-aware",
)  # fmt: skip
LEARNED = ("autoencoder", "query-aware")
"""Reductions that read queries."""

BYTES = (12, 24, 48, 96, 192)
COORDINATES = {"float8": 1, "int8": 1, "int4": 2, "int4-rotated": 2, "binary": 8}
"""Coordinates a byte of codes that have as many as fit."""

SIZED = ("bits", "strata", "pq", "opq", "rq")
DEEPEST = 96
"""Most bytes of ``rq``, whose codebooks are 38 MB then."""

"""Codes of any number of bytes; after PCA to 8 coordinates a byte, at most all."""

ASKED = 1_000
K = 10


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--n", type=int, default=20_000, help="definitions, with 3,500 as queries")
    args = parser.parse_args()
    x = minilm_embeddings(args.n)
    others, x = x.split([ASKED + 2_500, len(x) - ASKED - 2_500])
    kinds = {"definitions": others, "words": words(ASKED + 2_500)}
    rows = list(reductions(x, kinds))
    rows += codes(x, kinds["definitions"][:ASKED])
    report("index_methods", rows, n=args.n)


def words(n: int) -> Tensor:
    """(n, 384) MiniLM of single words: the first of as many definitions."""
    path = cache() / f"minilm-words-{n}.npy"
    if not path.exists():
        longest = dict.fromkeys(max(text.split(), key=len).strip("();,") for text in glosses())
        vectors = embed(load_model(minilm()), list(longest)[:n])
        with finished(path) as unfinished, unfinished.open("wb") as file:
            np.save(file, vectors.numpy())
    return torch.from_numpy(np.load(path))


def reductions(x: Tensor, kinds: dict[str, Tensor]) -> Iterator[Row]:
    """Recall of every reduction in every number of coordinates, for both kinds of queries."""
    for kind, queries in kinds.items():
        asked, seen = queries[:ASKED], queries[ASKED:]
        truth, _ = exact_search(x, asked, K)
        for name in REDUCTIONS:
            for dims in DIMS:
                codec = Codec("float32", reduction=name, dims=dims)
                codec.fit(x, queries=seen if name in LEARNED else None)
                recall = recall_at_k(codec.search(codec.encode(x), asked, K)[0], truth).mean()
                print(f"{kind}, {name} {dims}: {recall:.3f}", flush=True)
                yield Row(f"{name} | {dims} | recall, {kind}", float(recall))


def codes(x: Tensor, asked: Tensor) -> Iterator[Row]:
    """Recall and bytes stored once, of every code at every size."""
    truth, _ = exact_search(x, asked, K)
    for size in BYTES:
        wide = min(8 * size, x.shape[1])
        tried = {f"{name}{size}": wide for name in SIZED if name != "rq" or size <= DEEPEST}
        tried |= {
            name: size * each for name, each in COORDINATES.items() if size * each <= x.shape[1]
        }
        for name, dims in tried.items():
            try:
                codec = Codec(name, reduction="pca", dims=dims).fit(x)
            except InputError as error:
                print(f"{name}: {error}", flush=True)
                continue
            recall = recall_at_k(codec.search(codec.encode(x), asked, K)[0], truth).mean()
            print(f"{name} of {dims}: {recall:.3f}", flush=True)
            family = name.removesuffix(str(size))
            yield Row(f"{family} | {size} | recall", float(recall))
            yield Row(f"{family} | {size} | stored once", codec.overhead / 1e6, "MB")


if __name__ == "__main__":
    main()
