"""What `scan --deep` adds: the inside of a language model seen through its tokens and its layers.

Each part is one finished piece in JSON. Prompts are texts of one label put one after the other and
cut to one length; their first token is left out, since in many models its state is longer than all
others together. The control everywhere is the same texts with the words of each shuffled.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import torch
from torch import Tensor

from lowdim.battery import Shared, fits_points
from lowdim.core.memory import plan
from lowdim.core.pieces import Pieces
from lowdim.core.progress import Progress
from lowdim.core.random import choice
from lowdim.core.spectrum import Spectrum
from lowdim.errors import InputError
from lowdim.geometry.compositionality import shuffled_words
from lowdim.geometry.compression_report import FEWEST_CORPORA, relate
from lowdim.geometry.dimension_profile import DimensionProfile, dimension_profile
from lowdim.geometry.linear import anisotropy
from lowdim.geometry.local_rank import local_rank_of, token_function
from lowdim.geometry.positional import positional_decomposition
from lowdim.geometry.token_geometry import TokenGeometry, loss_correlation, token_geometry
from lowdim.io.activations import hidden_states, perplexity
from lowdim.io.batches import tokenize
from lowdim.io.models import Model
from lowdim.registry import methods
from lowdim.report.claims import claims
from lowdim.report.sections import attempt, measured

PARTS = ("positional", "profile", "tokens", "compression", "local_rank")
CONTEXTS, CONTEXT_TOKENS = 300, 64
PROMPTS, PROMPT_TOKENS = 40, 256
FEWEST_PROMPTS, FEWEST_TOKENS = 6, 16
PROFILE_ROWS = 3_000
POINTS = 1_000
CORPUS_ROWS = 50
RANK_CONTEXTS, RANK_TOKENS = 3, 24
WIDEST, SKETCH, EPS = 512, 128, 0.1


@dataclass
class Deep:
    """All that the deep parts are made from.

    Attributes
    ----------
    model : Model
    texts, labels : sequence of str
        What was given to the model, before any sampling.
    rows, row_labels : sequence of str
        The text and the label of each row of ``layers``.
    layers, names : list
        Every layer's points and name.
    pooling : str
        What a row is.
    """

    model: Model
    texts: Sequence[str]
    labels: Sequence[str] | None
    rows: Sequence[str]
    row_labels: Sequence[str] | None
    layers: list[Tensor]
    names: list[str]
    pooling: str
    progress: Progress
    memory: int | float | str | None
    seed: int

    def all(self, pieces: Pieces, notes: list[str], into: dict[str, Any]) -> None:
        """Every part that this model and these texts allow, and what the papers say of each."""
        for name in PARTS:
            missed: list[str] = []

            def part(name: str = name, missed: list[str] = missed) -> dict[str, Any]:
                what = f"deep: {name.replace('_', ' ')}"
                return {"found": attempt(getattr(self, name), missed, what), "missed": missed}

            piece = pieces.json(f"deep/{name}", part)
            into |= piece["found"] or {}
            notes += piece["missed"]
        into["claims"] = claims(into, self.model.kind)

    def positional(self) -> dict[str, Any]:
        """Position and context in each layer: many short contexts, since it averages over them."""
        made, labels, length = self._prompts(CONTEXTS, CONTEXT_TOKENS)
        rows = []
        for index, h in enumerate(self._states(made, length, "contexts")):  # (C, T, d)
            found = positional_decomposition(h, labels=labels, seed=self.seed).to_dict()
            share = anisotropy(Spectrum.of_points(h.flatten(0, 1), memory=self.memory))
            found |= {"anisotropy": share.value, "anisotropy_null": share.null}
            found |= {"contexts": len(h), "length": h.shape[1], "directions": min(h[0].shape)}
            rows.append({"name": self.names[index], "index": index} | found)
        return {"positional": rows}

    def tokens(self) -> dict[str, Any]:
        """The cloud of each prompt's tokens, and whether it goes with the loss."""
        made, _, length = self._prompts(PROMPTS, PROMPT_TOKENS)
        real = self._clouds(self._states(made, length, "prompts"))
        control = self._states(shuffled_words(made, seed=self.seed), length, "control")
        shuffled = self._clouds(control)
        correlation: list[Any] = [None] * len(self.names)
        losses = None
        if self.model.kind == "causal":
            of = perplexity(self.model, made, max_length=length, memory=self.memory).per_point
            assert of is not None
            losses = of.log().tolist()
            correlation = [c and c.to_dict() for c in loss_correlation(real, losses)]
        rows = [
            {
                "name": name,
                "index": i,
                "dimension": mean_of([p.dimension[i].value for p in real]),
                "shuffled": mean_of([p.dimension[i].value for p in shuffled]),
                "cosine": mean_of([p.cosine[i] for p in real]),
                "cosine_shuffled": mean_of([p.cosine[i] for p in shuffled]),
                "overlap": mean_of([p.overlap[i - 1] for p in real]) if i else None,
                "overlap_shuffled": mean_of([p.overlap[i - 1] for p in shuffled]) if i else None,
                "correlation": correlation[i],
            }
            for i, name in enumerate(self.names)
        ]
        loss = mean_of(losses) if losses else None
        found = {"prompts": len(real), "length": real[0].n, "loss": loss, "rows": rows}
        return {"tokens": found}

    def _prompts(self, most: int, longest: int) -> tuple[list[str], list[str] | None, int]:
        """At most so many prompts of one length, texts of one label put one after the other."""
        found = tokenize(self.model, self.texts)
        sizes = torch.zeros(len(self.texts), dtype=torch.int64)
        sizes.index_add_(0, found.texts, found.kept.long())
        limit = min(self.model.max_length, longest, int(sizes.sum()) // (2 * FEWEST_PROMPTS))
        if limit < FEWEST_TOKENS:
            raise InputError(
                f"{int(sizes.sum())} tokens make no {FEWEST_PROMPTS} prompts of "
                f"{FEWEST_TOKENS}: give more text"
            )
        labels = self.labels or [""] * len(self.texts)
        groups: dict[str, list[str]] = {label: [] for label in sorted(set(labels))}
        for label, prompts in groups.items():
            parts: list[str] = []
            size = 0
            for text, own, count in zip(self.texts, labels, sizes.tolist(), strict=True):
                if own == label:
                    parts, size = [*parts, text], size + count
                if size > 1.1 * limit:  # two texts joined may make fewer tokens than both
                    prompts.append(" ".join(parts))
                    parts, size = [], 0
        turns = max(map(len, groups.values()), default=0)
        made = [(p[i], label) for i in range(turns) for label, p in groups.items() if i < len(p)]
        if len(made) < FEWEST_PROMPTS:
            raise InputError(
                f"the texts make {len(made)} prompts of {limit} tokens: "
                f"{FEWEST_PROMPTS} are needed, give more text"
            )
        states = self.model.n_layers + 1
        most = plan(
            "states of the prompts", rows=min(most, len(made)),
            bytes_per_row=8 * limit * states * self.model.dim, memory=self.memory,
        )  # fmt: skip
        made = made[: max(most, FEWEST_PROMPTS)]
        return [p for p, _ in made], [own for _, own in made] if self.labels else None, limit

    def _states(self, prompts: list[str], length: int, what: str) -> list[Tensor]:
        """(C, T, d) of every layer, the first token left out."""
        found = hidden_states(
            self.model, prompts, pooling="tokens", max_length=length, memory=self.memory,
            seed=self.seed, progress=self.progress.task(what),
        )  # fmt: skip
        counts = found.rows.bincount(minlength=len(prompts))
        t = int(counts.min())  # a shuffled prompt may come out a token shorter
        place = torch.arange(len(found.rows)) - (counts.cumsum(0) - counts)[found.rows]
        kept = (place > 0) & (place < t)
        return [x[kept].unflatten(0, (len(prompts), t - 1)) for x in found.layers]

    def _clouds(self, states: list[Tensor]) -> list[TokenGeometry]:
        advance = self.progress.task("token clouds")
        found = []
        for c in range(len(states[0])):
            advance(c, len(states[0]))
            found.append(token_geometry([h[c] for h in states], memory=self.memory, seed=self.seed))
        return found

    @property
    def seen(self) -> str:
        """What a text's point is here: of a causal model the last token, as in the papers.

        The mean over its tokens holds the first one, whose state can outweigh all others: in some
        models the texts then lie on a line for layers on end.
        """
        return "last" if self.model.kind == "causal" and self.pooling == "mean" else self.pooling

    @property
    def start(self) -> int:
        """The first layer looked at: of last tokens the embedding output only says which word."""
        return 1 if self.seen == "last" else 0

    @cached_property
    def points(self) -> list[Tensor]:
        """(n, d) of every layer from ``start`` on, a row for each of ``rows``."""
        if self.seen == self.pooling:
            return self.layers[self.start :]
        return hidden_states(
            self.model, self.rows, pooling=self.seen, memory=self.memory, seed=self.seed,
            progress=self.progress.task("last tokens"),
        ).layers[self.start :]  # fmt: skip

    def profile(self) -> dict[str, Any]:
        """Dimensions through the layers, of the texts and of the same with shuffled words."""
        n = len(self.rows)
        rows = choice(n, min(n, PROFILE_ROWS), seed=self.seed).sort().values
        self.progress.task("dimension profile")
        real = dimension_profile([x[rows] for x in self.points], memory=self.memory, seed=self.seed)
        found = self._profile(real)
        if self.pooling == "tokens":
            return {"profile": found | {"shuffled": None}}
        control = hidden_states(
            self.model, shuffled_words([self.rows[i] for i in rows.tolist()], seed=self.seed),
            pooling=self.seen, memory=self.memory, seed=self.seed,
            progress=self.progress.task("control"),
        )  # fmt: skip
        self.progress.task("dimension profile of the control")
        shuffled = dimension_profile(
            control.layers[self.start :], memory=self.memory, seed=self.seed
        )
        return {"profile": found | {"shuffled": self._profile(shuffled)}}

    def _profile(self, found: DimensionProfile) -> dict[str, Any]:
        columns = ("to_first", "from_first", "to_last", "from_last")
        rows = [
            {
                "name": self.names[i + self.start],
                "index": i + self.start,
                "estimates": {id: e.to_dict() for id, e in layer.items()},
                "overlap": found.overlap[i - 1] if i else None,
            }
            | {column: getattr(found, column)[i] for column in columns}
            for i, layer in enumerate(found.layers)
        ]
        where = vars(found.phase) | {
            name: getattr(found.phase, name) + self.start for name in ("peak", "onset", "end")
        }
        return {
            "pooling": self.seen, "n": found.n, "n_compared": found.n_compared, "by": found.by,
            "phase": where, "rows": rows,
        }  # fmt: skip

    def compression(self) -> dict[str, Any]:
        """Dimension against bits per token over the labels as corpora; causal models only."""
        if self.model.kind != "causal" or self.row_labels is None or self.pooling == "tokens":
            return {}
        places: dict[str, list[int]] = {}
        for i, label in enumerate(self.row_labels):
            places.setdefault(label, []).append(i)
        places = {label: rows for label, rows in places.items() if len(rows) >= CORPUS_ROWS}
        if len(places) < FEWEST_CORPORA:
            raise InputError(
                f"{len(places)} labels have {CORPUS_ROWS} texts or more: "
                f"{FEWEST_CORPORA} are compared"
            )
        advance, bits, clouds = self.progress.task("bits per token"), [], {}
        for done, (label, rows) in enumerate(sorted(places.items())):
            advance(done, len(places))
            texts = [self.rows[i] for i in rows]
            bits.append(math.log2(perplexity(self.model, texts, memory=self.memory).value))
            clouds[label] = [x[rows] for x in self.points]
        self.progress.task("compression")
        found = relate(clouds, bits, memory=self.memory, seed=self.seed)
        return {"compression": found.to_dict()}

    def local_rank(self) -> dict[str, Any]:
        """How many directions of one token's embedding does each layer still see?"""
        found = tokenize(self.model, self.texts, RANK_TOKENS)
        starts = found.lengths.cumsum(0) - found.lengths
        chosen = found.lengths.argsort(descending=True, stable=True)[:RANK_CONTEXTS].tolist()
        advance, ranks = self.progress.task("local rank"), []
        sketch = None if self.model.dim <= WIDEST else SKETCH
        for done, i in enumerate(chosen):
            advance(done, len(chosen))
            start, stop = int(starts[i]), int(starts[i] + found.lengths[i])
            ids = found.ids[start:stop][None].to(self.model.device)
            position = int(found.kept[start:stop].nonzero()[-1])
            function, x = token_function(self.model.body, ids, position=position)
            ranks.append(
                local_rank_of(
                    function, x, eps=EPS, sketch=sketch, seed=self.seed, memory=self.memory
                )
            )
        columns = zip(*(r.ranks for r in ranks), strict=True)
        rows = [
            {"name": name, "index": i, "rank": sum(column) / len(ranks)}
            for i, (name, column) in enumerate(zip(self.names[1:], columns, strict=True), start=1)
        ]
        tried = {"contexts": len(chosen), "tried": sketch or self.model.dim, "dim": self.model.dim}
        return {"local_rank": tried | {"eps": EPS, "rows": rows}}


def deep_points(
    x: Tensor, pieces: Pieces, progress: Progress, notes: list[str], memory: Any, seed: int
) -> dict[str, Any]:
    """Every measure too dear for the ordinary scan, on a sample of the points."""
    chosen = [m for m in methods() if fits_points(m) and m.deep]
    rows = choice(len(x), min(len(x), POINTS), seed=seed).sort().values
    shared = Shared(x[rows], chosen, memory=memory, seed=seed)
    advance = progress.task("deep measures")
    estimates: dict[str, Any] = {}
    for done, m in enumerate(chosen):
        advance(done, len(chosen))

        def make(m: Any = m) -> dict[str, Any]:
            missed: list[str] = []
            found = measured([m], shared.run, missed, "deep points")
            return {"estimates": found, "missed": missed}

        piece = pieces.json(f"deep/points/{m.id}", make)
        estimates |= piece["estimates"]
        notes += piece["missed"]
    return {"n": len(rows), "estimates": estimates}


def mean_of(values: Sequence[float]) -> dict[str, Any]:
    """A mean over prompts with its 95% interval."""
    x = torch.tensor(values, dtype=torch.float64)
    mean = float(x.mean())
    half = 1.96 * float(x.std()) / math.sqrt(len(x)) if len(x) > 1 else 0.0
    return {"value": mean, "low": mean - half, "high": mean + half, "n": len(x)}
