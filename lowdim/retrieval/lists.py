"""Inverted lists over any codec: a query looks only at the lists whose centres are near to it.

Jegou, Douze and Schmid 2011 (IVFADC), without coding of residuals: the codes are those of the codec
to the bit, so scores are those of :meth:`Codec.search`, of the rows that were looked at.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import normalize

from lowdim.core.blocked import on_threads
from lowdim.core.memory import plan
from lowdim.core.random import choice
from lowdim.errors import InputError
from lowdim.retrieval.codec import CELLS, Codec
from lowdim.retrieval.isometry import Isometry
from lowdim.retrieval.k_means import k_means, nearest
from lowdim.retrieval.metric import as_queries

ROUNDS = 10
"""Rounds of Lloyd's algorithm; more hardly change what is found."""

PER_LIST = 64
"""Rows of the sample for each centre."""

PROBES = 16
"""Lists that a query looks at unless told."""

SHARED = 2
"""Queries a list from which on it pays to score them together."""


@dataclass(frozen=True, eq=False)
class InvertedLists:
    """Which rows can a search leave unread?

    Made in memory by :meth:`of`. An index on disk is made of the same steps, a shard of codes at a
    time, and opened with the stored tensors, which may be memory-mapped:

        centroids = fit_centroids(codec, sample_of_codes, n_lists, seed=seed)
        lists = nearest_list(codec, centroids, codes)      # of each shard
        order, starts = by_list(lists, n_lists)            # of all shards together
        InvertedLists(codec, centroids, starts, order, codes[order])

    Attributes
    ----------
    codec : Codec
        What made the codes.
    centroids : Tensor
        (lists, r) float32 centres of the lists.
    starts : Tensor
        (lists + 1,) int64; list i holds ``codes[starts[i]:starts[i + 1]]``.
    rows : Tensor
        (n,) int32 or int64 number of each row, ascending within a list.
    codes : Tensor
        (n, bytes) uint8 list by list.

    Notes
    -----
    Trust it where n is large enough that reading everything is slow, beyond some 100,000 rows: it
    saves time, never bytes, and misses rows whose list was not looked at. Measure the recall of
    ``probes`` on queries of your own: queries of another kind than the rows need more.
    """

    codec: Codec
    centroids: Tensor
    starts: Tensor
    rows: Tensor
    codes: Tensor

    @classmethod
    def of(
        cls, codec: Codec, codes: Tensor, n_lists: int | None = None, *, seed: int = 0
    ) -> InvertedLists:
        """Cluster the rows that (n, bytes) codes stand for; sqrt(n) lists by default.

        Costs 10 rounds of k-means on 64 rows a list, and n x lists x r multiply-adds to assign.
        """
        n_lists = max(1, round(math.sqrt(len(codes)))) if n_lists is None else n_lists
        centroids = fit_centroids(codec, codes, n_lists, seed=seed)
        rows, starts = by_list(nearest_list(codec, centroids, codes), n_lists)
        return cls(codec, centroids, starts, rows, codes[rows.long()])

    @property
    def n_lists(self) -> int:
        """How many lists there are."""
        return len(self.centroids)

    @property
    def bytes_per_vector(self) -> int:
        """Bytes of a code and of its row number."""
        return self.codec.bytes_per_vector + self.rows.element_size()

    @property
    def overhead(self) -> int:
        """Bytes that are stored once: the codec's, the centres and where each list starts."""
        return self.codec.overhead + self.centroids.nbytes + self.starts.nbytes

    def search(
        self, queries: Any, k: int = 10, *, probes: int = PROBES, rescore: Any = None,
        candidates: int = 0,
    ) -> tuple[Tensor, Tensor]:  # fmt: skip
        """Which k rows of the ``probes`` nearest lists score best with each query?

        Parameters
        ----------
        queries : array-like
            (m, d).
        k : int
            Rows wanted for each.
        probes : int
            Lists that are looked at; with all of them the answer is :meth:`Codec.search`'s.
        rescore, candidates
            As in :meth:`Codec.search`.

        Returns
        -------
        ids, scores : Tensor
            (m, k) as of :meth:`Codec.search`; -1 and -inf where the lists hold fewer rows.

        Notes
        -----
        All queries that look at a list are scored in one product with it.
        """
        codec, n = self.codec, len(self.rows)
        q = as_queries(queries, codec.metric, codec.n_features_in_)
        if not 1 <= k <= n:
            raise InputError(f"k={k}: there are {n} rows to find")
        if not 1 <= probes <= self.n_lists:
            raise InputError(f"probes={probes}: there are {self.n_lists} lists to look at")
        wanted = k if rescore is None else min(n, max(k, candidates or 4 * k))
        longest = int(self.starts.diff().max())
        block = plan(
            "search of inverted lists", rows=len(q),
            bytes_per_row=24 * probes * (wanted + 1) + 16 * longest + 16 * self.n_lists,
            fixed=16 * longest * codec.map_.dims, memory=codec.memory,
        )  # fmt: skip
        parts = [self._searched(part, wanted, probes) for part in q.split(block)]
        ids, values = torch.cat([p[0] for p in parts]), torch.cat([p[1] for p in parts])
        if rescore is not None:
            return codec.rescored(ids, q, rescore, k)
        return ids, codec.as_scores(values, q)

    @cached_property
    def _isometry(self) -> Isometry:
        return Isometry.of(self.codec)

    def _searched(self, q: Tensor, k: int, probes: int) -> tuple[Tensor, Tensor]:
        near = self._isometry.queries(q) @ self.centroids.T
        if self.codec.metric == "euclidean":
            near -= self.centroids.square().sum(1) / 2
        chosen = near.topk(probes, dim=1).indices  # (m, probes)

        def of_group(group: tuple[Tensor, list[int]]) -> tuple[Tensor, Tensor]:
            asking, lists = group
            rows, codes = self._read(lists)
            return _top(self.codec.scorer(q[asking])(codes), rows, k)

        groups = list(_groups(chosen))
        found = list(on_threads(of_group, groups, q.device))
        back = torch.cat([asking for asking, _ in groups]).argsort(stable=True)
        ids, values = (torch.cat(part)[back].view(len(q), -1) for part in zip(*found, strict=True))
        return _in_order(ids, values, k)

    def _read(self, lists: list[int]) -> tuple[Tensor, Tensor]:
        """Row numbers and codes of some lists."""
        at = [slice(*self.starts[i : i + 2].tolist()) for i in lists]
        if len(at) == 1:
            return self.rows[at[0]], self.codes[at[0]]
        return torch.cat([self.rows[a] for a in at]), torch.cat([self.codes[a] for a in at])


def _groups(chosen: Tensor) -> Iterator[tuple[Tensor, list[int]]]:
    """Queries and the lists that they are scored with in one product.

    A list with all queries that chose it; or, where few share one, a query with all its lists.
    """
    m, probes = chosen.shape
    order = chosen.flatten().argsort(stable=True)  # pairs of query and list, by list
    lists, counts = chosen.flatten()[order].unique_consecutive(return_counts=True)
    if m * probes < SHARED * len(lists):
        yield from zip(torch.arange(m).split(1), chosen.tolist(), strict=True)
    else:
        asking = (order // probes).split(counts.tolist())
        yield from zip(asking, lists[:, None].tolist(), strict=True)


def _top(scores: Tensor, rows: Tensor, k: int) -> tuple[Tensor, Tensor]:
    """(m, k) rows of the best of (m, rows) scores in any order; of equals the smaller rows."""
    ids = torch.full((len(scores), k), -1)
    values = scores.new_full((len(scores), k), -math.inf)
    size = min(k, len(rows))
    best, at = scores.topk(min(k + 1, len(rows)), dim=1)
    if len(rows) > k and bool((best[:, k - 1] == best[:, k]).any()):
        rows, ascending = rows.sort()
        best, at = scores[:, ascending].sort(dim=1, descending=True, stable=True)
    values[:, :size], ids[:, :size] = best[:, :size], rows[at[:, :size]].long()
    return ids, values


def _in_order(ids: Tensor, values: Tensor, k: int) -> tuple[Tensor, Tensor]:
    """The k best, descending; equals in the order of their rows."""
    by_row = ids.argsort(dim=1)
    ids, values = ids.gather(1, by_row), values.gather(1, by_row)
    values, by_score = values.sort(dim=1, descending=True, stable=True)
    return ids.gather(1, by_score[:, :k]), values[:, :k]


def fit_centroids(codec: Codec, codes: Tensor, n_lists: int, *, seed: int = 0) -> Tensor:
    """(n_lists, r) centres of what codes stand for, by k-means; of length one for cosine.

    Parameters
    ----------
    codec : Codec
        A fitted one.
    codes : Tensor
        (n, bytes) uint8; 64 rows a list are drawn from them.
    n_lists : int
        How many centres.
    seed : int
        Of the rows that are drawn and of those that are the first centres.

    Raises
    ------
    InputError
        Fewer rows than lists.
    """
    if not 1 <= n_lists <= len(codes):
        raise InputError(f"n_lists={n_lists}: {len(codes)} vectors fill 1 to {len(codes)} lists")
    isometry = Isometry.of(codec)
    sample = choice(len(codes), min(len(codes), PER_LIST * n_lists), seed)
    y = torch.cat([isometry.rows(z) for z in _decoded(codec, codes[sample])])
    centroids = k_means(y, n_lists, iterations=ROUNDS, seed=seed)
    return normalize(centroids) if isometry.unit else centroids


def nearest_list(codec: Codec, centroids: Tensor, codes: Tensor) -> Tensor:
    """(n,) number of the list that each of (n, bytes) codes belongs to."""
    isometry = Isometry.of(codec)
    return torch.cat([nearest(isometry.rows(z), centroids)[0] for z in _decoded(codec, codes)])


def by_list(lists: Tensor, n_lists: int) -> tuple[Tensor, Tensor]:
    """Row numbers list by list, ascending within each, and the (n_lists + 1,) starts of the lists.

    Row numbers take 4 bytes, 8 where there are more than 2^31 rows.
    """
    starts = torch.zeros(n_lists + 1, dtype=torch.int64)
    starts[1:] = torch.bincount(lists, minlength=n_lists).cumsum(0)
    return lists.argsort(stable=True).to(torch.int32 if len(lists) < 2**31 else torch.int64), starts


def _decoded(codec: Codec, codes: Tensor) -> Iterator[Tensor]:
    """(rows, m) coordinates, block by block."""
    return (
        codec.code_.decode(block) for block in codes.split(max(1, 16 * CELLS // codec.map_.dims))
    )
