"""Can a new encoder search the old one's store? Two real pairs, each both ways.

MiniLM and its fine-tune on site-reliability texts, on definitions of WordNet; word vectors of 50
columns (GloVe) and of 100 (skip-gram), on the frequent words that both have. The truth is what the
new encoder finds with a store of its own.

python -m benchmarks.index_compatible
"""

from __future__ import annotations

import argparse

import numpy as np
import torch
from torch import Tensor

from benchmarks.harness import Row, report
from benchmarks.inputs import cache, finished, glosses, minilm_embeddings, sre_minilm
from benchmarks.inputs_vectors import glove_words, wink_words
from lowdim.io.activations import embed
from lowdim.io.models import load_model
from lowdim.retrieval import Codec, compatible
from lowdim.retrieval.recall import interval, recall_at_k

STORE = "float16"
"""Code of the store that was there before."""


def fine_tune(n: int) -> tuple[Tensor, Tensor]:
    """(n, 384) of MiniLM and of its fine-tune: the same n definitions."""
    path = cache() / "sre-minilm-glosses-10000.npy"
    if not path.exists():
        vectors = embed(load_model(sre_minilm()), glosses(10_000))
        with finished(path) as unfinished, unfinished.open("wb") as file:
            np.save(file, vectors.numpy())
    return minilm_embeddings(10_000)[:n], torch.from_numpy(np.load(path))[:n]


def two_words(n: int) -> tuple[Tensor, Tensor]:
    """(n, 50) and (n, 100) of the n most frequent words that both lists have."""
    (small, small_vectors), (large, large_vectors) = glove_words(), wink_words()
    place = {word: i for i, word in enumerate(large)}
    both = [(i, place[word]) for i, word in enumerate(small[: 4 * n]) if word in place]
    rows = torch.tensor(both[: 2 * n])
    a, b = small_vectors[rows[:, 0]], large_vectors[rows[:, 1]]
    kept = (a.norm(dim=1) > 0) & (b.norm(dim=1) > 0)
    return a[kept][:n], b[kept][:n]


def through_a_codec(old: Tensor, new: Tensor) -> tuple[float, float]:
    """Recall of the new encoder's results from a coded store of old rows, which was there before.

    The mean without an upgrade (old queries) and with it. Pairs to fit, rows and queries are
    disjoint.
    """
    pairs, rows, queries = slice(0, len(old) // 2), slice(len(old) // 2, -500), slice(-500, None)
    codec = Codec(STORE).fit(old[rows])
    codes = codec.encode(old[rows])
    truth = Codec("float32").fit(new[rows])
    wanted = truth.search(truth.encode(new[rows]), new[queries], 10)[0]
    upgrade = compatible(old[pairs], new[pairs])
    found = [codec.search(codes, q, 10)[0] for q in (old[queries], upgrade.transform(new[queries]))]
    before, after = (interval(recall_at_k(f, wanted))[0] for f in found)
    return before, after


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--n", type=int, default=6_000)
    args = parser.parse_args()
    pairs = {
        "MiniLM -> its fine-tune": fine_tune(args.n),
        "GloVe 50 -> skip-gram 100": two_words(args.n),
    }
    pairs |= {"fine-tune -> MiniLM": pairs["MiniLM -> its fine-tune"][::-1]}
    pairs |= {"skip-gram 100 -> GloVe 50": pairs["GloVe 50 -> skip-gram 100"][::-1]}
    rows = []
    for name, (old, new) in pairs.items():
        found = compatible(old, new).report_
        print(f"{name}\n{found}\n")
        rows += [
            Row(f"{name}: old/old", found.old_old.mean),
            Row(f"{name}: new/old, {found.way}", found.new_old.mean),
            Row(f"{name}: gain, lower end", found.gain.low, "", ">= 0"),
            Row(f"{name}: new/moved, {found.way_back}", found.new_moved.mean),
            Row(f"{name}: old results that stay", found.agreement.mean),
            Row(f"{name}: pairs that are enough", found.enough),
        ]
        rows += [Row(f"{name}:   {way}", figure.mean) for way, figure in found.ways.items()]
        before, after = through_a_codec(old, new)
        rows += [
            Row(f"{name}: {STORE} store, old queries", before),
            Row(f"{name}: {STORE} store, upgraded", after, "", f">= {before:.4f}"),
        ]
    report("index_compatible", rows, n=args.n)


if __name__ == "__main__":
    main()
