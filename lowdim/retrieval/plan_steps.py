"""The steps of a plan: maps that are shared, a screen on a sample, a measurement on all rows."""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cached_property, partial
from itertools import pairwise
from statistics import median
from typing import Any, NamedTuple

import torch
from torch import Tensor

from lowdim.core.pieces import Pieces
from lowdim.core.progress import Advance, Progress
from lowdim.core.shards import Source, shards
from lowdim.errors import InputError, MissingExtraError
from lowdim.retrieval.code import find_code
from lowdim.retrieval.codec import Codec
from lowdim.retrieval.configurations import Configuration, default_configurations
from lowdim.retrieval.graph import Graph
from lowdim.retrieval.lists import InvertedLists
from lowdim.retrieval.map import Map
from lowdim.retrieval.metric import exact_search
from lowdim.retrieval.plan_rows import PlanRow
from lowdim.retrieval.recall import Qrels, interval, lower_bound, mrr, ndcg, recall_at_k
from lowdim.retrieval.reduction import Training, find_reduction

NESTED = ("pca",)
"""Reductions of which fewer coordinates are the first of more."""

WIDER = 4
"""Rows listed for each that is wanted: what ranking anew by the full vectors chooses from."""

ALONE = 3
"""Times that a single query is asked for its time."""


SCREENED = 10_000
"""Rows of the sample on which all candidates are tried."""

SCREENING = 250
"""Most queries that they are tried with."""

GAIN = 0.002
"""Recall on the sample that more bytes have to bring, or they are not worth a measurement."""

Ask = Callable[[Tensor, int], tuple[Tensor, Tensor]]
"""(m, d) queries and k to the (m, k) best rows and their scores."""

Scored = tuple[Configuration, float, float]
"""A configuration, its bytes a vector with its part of what is stored once, and its recall."""


@dataclass(frozen=True, eq=False)
class Trained:
    """Rows that maps and codes are fitted to, and what was fitted."""

    training: Training
    memory: int | float | str | None = None
    maps: dict[tuple[str, int], Map] = field(default_factory=dict)
    coordinates: dict[str, Tensor] = field(default_factory=dict)

    def codec(self, c: Configuration) -> Codec:
        """As ``c.codec().fit()`` of these rows, but a map is fitted once for all its codes."""
        map, z = self.reduced(c)
        kind, size = find_code(c.code)
        codec = c.codec(metric=self.training.metric, seed=self.training.seed, memory=self.memory)
        codec.map_, codec.n_features_in_ = map, map.dim
        codec.code_ = kind.fit(z, size=size, seed=self.training.seed)
        return codec

    def reduced(self, c: Configuration) -> tuple[Map, Tensor]:
        """The map of a configuration and the coordinates of the rows."""
        dims = self.training.dim if c.dims is None else c.dims
        most = min(self.training.x.shape) if c.reduction in NESTED else dims
        key = (c.reduction, max(dims, most))
        if key not in self.maps:
            self.maps[key] = find_reduction(c.reduction)(self.training, key[1])
            self.coordinates.pop(c.reduction, None)  # one set of coordinates a reduction is held
        map = self.maps[key]
        if c.reduction not in self.coordinates:
            self.coordinates[c.reduction] = map.reduce(self.training.x)
        z = self.coordinates[c.reduction]
        if dims == map.dims or map.encoder is None or map.decoder is None:
            return map, z
        first = Map(map.encoder[:, :dims].contiguous(), map.center, map.decoder[:dims].contiguous())
        return first, z[:, :dims].contiguous()


@dataclass(frozen=True, eq=False)
class Bench:
    """Where configurations are tried and measured: rows, queries, and what should be found.

    Attributes
    ----------
    rows : Source
        What is searched.
    n_index : int
        Rows that share what is stored once.
    queries, truth : Tensor
        (m, d) placed queries and the (m, k) rows that are best for them.
    select, confirm : Tensor
        The two halves of the queries.
    kept : Pieces
        Keeps what is done.
    """

    rows: Source
    n_index: int
    queries: Tensor
    k: int
    truth: Tensor
    select: Tensor
    confirm: Tensor
    qrels: Qrels | None
    trained: Trained
    kept: Pieces
    progress: Progress
    tried: list[Scored] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)

    def screened(self, sizes: list[int]) -> list[Scored]:
        """Bytes and recall of each code at these sizes, among a sample of the rows."""
        advance = self.progress.task("screening")
        found = self.kept.json(f"screen {sizes}", lambda: self._screen(sizes, advance))
        scored = [(Configuration.parse(c), size, recall) for c, size, recall in found["scored"]]
        self.tried.extend(scored)
        self.notes.extend(found["left out"])
        return scored

    def _screen(self, sizes: list[int], advance: Advance) -> dict[str, Any]:
        trained, x, metric = self._small, self._searched, self.trained.training.metric
        queries = self.queries[self.select[:SCREENING]]
        candidates = default_configurations(x.shape[1], len(trained.training.x), sizes)
        truth, _ = exact_search(x, queries, self.k, metric=metric, memory=trained.memory)
        scored, left_out = [], []
        for done, c in enumerate(candidates, start=1):
            try:
                codec = trained.codec(c)
            except (InputError, MissingExtraError) as error:  # too few rows for a codebook, say
                left_out.append(f"{c} was left out: {error}")
                continue
            codes = codec.code_.encode(codec.map_.reduce(x))
            recalls = recall_at_k(codec.search(codes, queries, self.k)[0], truth)
            size = codec.bytes_per_vector + codec.overhead / self.n_index
            scored.append((str(c), size, float(recalls.mean())))
            advance(done, len(candidates))
        return {"scored": scored, "left out": left_out}

    @cached_property
    def _small(self) -> Trained:
        whole = self.trained.training
        if len(whole.x) <= SCREENED:
            return self.trained
        part = Training(whole.x[:SCREENED], whole.metric, seed=whole.seed)
        return Trained(part, self.trained.memory)

    @property
    def _searched(self) -> Tensor:
        """Rows of the sample that are searched: others than are fitted to, if most rows are."""
        x = self.trained.training.x
        others = x[SCREENED : 2 * SCREENED]
        return others if len(others) and self.rows.n >= 2 * len(x) else x[:SCREENED]

    def row(self, c: Configuration) -> PlanRow:
        """A configuration, measured on all rows: not yet whether it is on the frontier."""
        advance = self.progress.task(str(c))
        got = self.kept.tensors(
            str(c), lambda: measure(self.trained, c, self.rows, self.queries, self.k, advance)
        )
        (size, overhead), found = got["sizes"].tolist(), got["found"]
        build, alone, together = got["seconds"].tolist()
        recalls = recall_at_k(found[:, : self.k], self.truth)
        mean, low, high = interval(recalls[self.confirm])
        stored = size * self.n_index + overhead
        each = round(stored / self.n_index)
        return PlanRow(
            configuration=c, bytes=each, code_bytes=size, overhead=overhead, stored=stored,
            ratio=4 * self.rows.dim / each, recall=mean, low=low, high=high,
            bound=lower_bound(recalls[self.confirm]), selected=float(recalls[self.select].mean()),
            rescored=float(recall_at_k(found, self.truth)[self.confirm].mean()),
            **judged(found, self.qrels, self.k), query_ms=1e3 * alone,
            batch_ms=1e3 * together / len(self.queries), build_s=build,
            metric=self.trained.training.metric, seed=self.trained.training.seed,
        )  # fmt: skip


def judged(ids: Tensor, qrels: Qrels | None, k: int) -> dict[str, Any]:
    """Mean nDCG and MRR, where there are judgements."""
    if qrels is None:
        return {}
    return {"ndcg": float(ndcg(ids, qrels, k).mean()), "mrr": float(mrr(ids, qrels, k).mean())}


def survivors(found: list[Scored], most: int) -> list[Configuration]:
    """The configurations that none of as few bytes beats, thinned where sizes are closest.

    What gains less than noise is left out, but for the one that finds most.
    """
    kept: list[Scored] = []
    most_found = max((recall for _, _, recall in found), default=0.0)
    for c, size, recall in sorted(found, key=lambda item: (item[1], -item[2])):
        best = kept[-1][2] if kept else -1.0
        if recall > best + GAIN or (best < recall == most_found):
            kept.append((c, size, recall))
    while len(kept) > most:  # of the two sizes that are closest, the smaller finds less
        gaps = [math.log(b[1] / a[1]) for a, b in pairwise(kept)]
        kept.pop(gaps.index(min(gaps)))
    return [c for c, _, _ in kept]


def between(found: list[tuple[int, float]], target: float) -> list[int]:
    """Sizes around the smallest that reaches a recall, from (bytes, recall), largest first."""
    sizes = [size for size, _ in found]
    reached = [i for i, (_, recall) in enumerate(found) if recall >= target]
    at = max(reached, default=0)
    steps = [(at - 1, at, 2), (at, at + 1, 3)]
    fresh = {
        round(sizes[a] * (sizes[b] / sizes[a]) ** (i / parts))
        for a, b, parts in steps
        if a >= 0 and b < len(sizes)
        for i in range(1, parts)
    }
    return sorted(fresh - set(sizes), reverse=True)


def measure(
    trained: Trained, c: Configuration, rows: Source, queries: Tensor, k: int, advance: Advance
) -> dict[str, Tensor]:
    """The best rows for each query, what they took, and their size.

    A flat index is coded and searched a shard at a time, so no more codes are held than those of a
    shard; lists and graphs are made of all codes.

    Returns
    -------
    dict
        ``found`` (m, 4 k) int64, ``seconds`` (3,) float64 of the build, of a query alone and of all
        queries together, ``sizes`` (2,) int64 bytes a vector and stored once.
    """
    start = time.perf_counter()
    codec = trained.codec(c)
    build, alone, together = time.perf_counter() - start, 0.0, 0.0
    codec.search(codec.encode(rows.slice(0, 1)), queries[:1], 1)  # what is compiled once, not timed
    index: Codec | InvertedLists | Graph = codec
    wanted, first, held = min(WIDER * k, rows.n), 0, []
    ids = torch.empty(len(queries), 0, dtype=torch.int64)
    scores = torch.empty(len(queries), 0)
    parts = shards(rows)
    for done, part in enumerate(parts, start=1):
        start = time.perf_counter()
        codes = codec.encode(part)
        build += time.perf_counter() - start
        if c.index == "flat":
            ask = partial(codec.search, codes)
            some = _timed(ask, queries, min(wanted, part.n), min(k, part.n))
            alone, together = alone + some.alone, together + some.together
            ids, scores = torch.cat([ids, some.ids + first], 1), torch.cat([scores, some.scores], 1)
            scores, order = scores.sort(dim=1, descending=True, stable=True)
            ids, scores = ids.gather(1, order)[:, :wanted], scores[:, :wanted]
            first += part.n
        else:
            held.append(codes)
        advance(done, len(parts))
    if c.index != "flat":
        start = time.perf_counter()
        codes = torch.cat(held)
        if c.index == "ivf":
            index = InvertedLists.of(codec, codes, seed=trained.training.seed)
        else:
            index = Graph.of(codec, codes, queries=queries[:ALONE], seed=trained.training.seed)
        build += time.perf_counter() - start
        some = _timed(index.search, queries, wanted, k)
        ids, alone, together = some.ids, some.alone, some.together
    return {
        "found": ids,
        "seconds": torch.tensor([build, alone, together], dtype=torch.float64),
        "sizes": torch.tensor([index.bytes_per_vector, index.overhead]),
    }


class _Timed(NamedTuple):
    ids: Tensor
    scores: Tensor
    alone: float
    together: float


def _timed(
    ask: Callable[..., tuple[Tensor, Tensor]], queries: Tensor, wanted: int, k: int
) -> _Timed:
    """The lists of all queries together, and the seconds for them and for one that comes alone."""
    start = time.perf_counter()
    ids, scores = ask(queries, wanted)
    together, each = time.perf_counter() - start, []
    for query in queries[:ALONE].split(1):
        start = time.perf_counter()
        ask(query, k)
        each.append(time.perf_counter() - start)
    return _Timed(ids, scores, median(each), together)
