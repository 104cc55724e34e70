"""A graph over the vectors that codes stand for: HNSW, made and searched by faiss.

Malkov and Yashunin 2018. The graph holds coordinates in which the metric is what it was
(:class:`~lowdim.retrieval.isometry.Isometry`), in a number format that faiss can store under a
graph; the recall that graph and format cost is measured whenever one is made.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from lowdim.core.random import choice
from lowdim.errors import InputError, require
from lowdim.retrieval.codec import CELLS, Codec
from lowdim.retrieval.isometry import Isometry
from lowdim.retrieval.metric import as_queries
from lowdim.retrieval.recall import recall_at_k

STORAGES = ("float32", "float16", "bfloat16", "int8")

LANES = 16
"""Coordinates that faiss compares at once; other widths take several times as long."""

SAMPLE = 200
"""Rows asked for to measure the recall, where no queries are given."""

K = 10
"""Recall is of so many rows."""


@dataclass(frozen=True, eq=False)
class Graph:
    """Which rows does a walk along links to near rows find?

    Attributes
    ----------
    codec : Codec
        What made the codes.
    index : faiss.IndexHNSW
        The graph and its vectors.
    storage : str
        Number format of the vectors in the graph.
    recall : float
        Share of the 10 rows found by :meth:`Codec.search` that the graph found.
    recall_n : int
        Queries on which it was measured.

    Notes
    -----
    Trust it as far as ``recall``, and for queries like those that it was measured on. Memory is
    its price: 8 bytes for each of ``links`` on top of the vectors, more than many codes take; where
    bytes are what counts use :class:`~lowdim.retrieval.lists.InvertedLists`.
    """

    codec: Codec
    index: Any
    storage: str
    recall: float
    recall_n: int

    @classmethod
    def of(
        cls, codec: Codec, codes: Tensor, *, queries: Any = None, links: int = 32,
        effort: int = 100, storage: str | None = None, seed: int = 0,
    ) -> Graph:  # fmt: skip
        """Link the rows that (n, bytes) codes stand for, and measure what the graph finds.

        Parameters
        ----------
        codec : Codec
            A fitted one.
        codes : Tensor
            (n, bytes) uint8.
        queries : array-like, optional
            (m, d) on which recall is measured; 200 decoded rows by default, which are easier.
        links : int
            Links of a row, M; twice as many in the lowest layer.
        effort : int
            Candidates kept while linking, efConstruction.
        storage : {"float32", "float16", "bfloat16", "int8"}, optional
            Number format in the graph; that of the code, or float16 where faiss has none.
        seed : int
            Of the layers and of the rows that recall is measured on. The links also depend on how
            many threads make them.

        Raises
        ------
        InputError
            An unknown storage, no rows.
        MissingExtraError
            Without faiss.

        Notes
        -----
        O(n log n) distances to make; memory is what the graph takes.
        """
        faiss = require("faiss", "faiss")
        if storage is None:
            storage = codec.code if codec.code in STORAGES else "float16"
        if storage not in STORAGES:
            raise InputError(f"storage={storage!r}: choose from {', '.join(STORAGES)}")
        if not len(codes):
            raise InputError("there are no codes to link")
        isometry = Isometry.of(codec)
        width = isometry.dims if storage == "float32" else -(-isometry.dims // LANES) * LANES
        y = torch.zeros(len(codes), width)
        step = max(1, 16 * CELLS // isometry.dims)
        for rows, block in zip(y.split(step), codes.split(step), strict=True):
            rows[:, : isometry.dims] = isometry.rows(codec.code_.decode(block))
        measure = faiss.METRIC_L2 if codec.metric == "euclidean" else faiss.METRIC_INNER_PRODUCT
        if storage == "float32":
            index = faiss.IndexHNSWFlat(width, links, measure)
        else:
            kinds = {"float16": "QT_fp16", "bfloat16": "QT_bf16", "int8": "QT_8bit"}
            kind = getattr(faiss.ScalarQuantizer, kinds[storage])
            index = faiss.IndexHNSWSQ(width, kind, links, measure)
        index.hnsw.efConstruction = effort
        index.hnsw.rng = faiss.RandomGenerator(seed)
        faiss.omp_set_num_threads(torch.get_num_threads())
        index.train(y.numpy())
        index.add(y.numpy())
        made = cls(codec, index, storage, 0.0, 0)
        return made._measured(codes, queries, seed)

    @property
    def bytes_per_vector(self) -> int:
        """Bytes of a row in the graph, links included, rounded up."""
        hnsw, n = self.index.hnsw, self.index.ntotal
        links = 4 * hnsw.neighbors.size() + 8 * hnsw.offsets.size() + 4 * hnsw.levels.size()
        stored = self._faiss().downcast_index(self.index.storage)
        return int(stored.code_size) + -(-links // n)

    @property
    def overhead(self) -> int:
        """Bytes that are stored once: the map, and where int8 starts and ends."""
        ranges = 8 * self.index.d if self.storage == "int8" else 0
        return self.codec.map_.overhead + ranges

    def search(self, queries: Any, k: int = 10, *, effort: int = 64) -> tuple[Tensor, Tensor]:
        """Which k rows score best with each query, of those that the walk meets?

        Parameters
        ----------
        queries : array-like
            (m, d).
        k : int
            Rows wanted for each.
        effort : int
            Candidates kept on the walk, efSearch, at least k.

        Returns
        -------
        ids, scores : Tensor
            (m, k) as of :meth:`Codec.search`, of the vectors as the graph stores them; -1 and -inf
            where the walk met fewer rows.
        """
        faiss, codec = self._faiss(), self.codec
        q = as_queries(queries, codec.metric, codec.n_features_in_)
        if not 1 <= k <= self.index.ntotal:
            raise InputError(f"k={k}: there are {self.index.ntotal} rows to find")
        isometry = Isometry.of(codec)
        faiss.omp_set_num_threads(torch.get_num_threads())
        asked = np.zeros((len(q), self.index.d), dtype=np.float32)
        asked[:, : isometry.dims] = isometry.queries(q).numpy()
        parameters = faiss.SearchParametersHNSW(efSearch=max(effort, k))
        values, ids = (torch.from_numpy(a) for a in self.index.search(asked, k, params=parameters))
        if codec.metric == "euclidean":  # of what lies beyond the kept coordinates too
            lengths = codec.compared(q).square().sum(1)
            beyond = (lengths - torch.from_numpy(asked).square().sum(1)).clamp_min(0)
            values = -(values + beyond[:, None]).sqrt()
        return ids, values.masked_fill(ids < 0, -torch.inf)

    def _measured(self, codes: Tensor, queries: Any, seed: int) -> Graph:
        if queries is None:
            if (
                self.codec.map_.dims != self.codec.n_features_in_
                and self.codec.map_.decoder is None
            ):
                raise InputError(
                    "this reduction has no way back: give queries= to measure recall on"
                )
            rows = choice(len(codes), min(SAMPLE, len(codes)), seed)
            queries = self.codec.map_.restore(self.codec.code_.decode(codes[rows]))
        k = min(K, len(codes))
        true = self.codec.search(codes, queries, k)[0]
        recall = float(recall_at_k(self.search(queries, k)[0], true).mean())
        return Graph(self.codec, self.index, self.storage, recall, len(true))

    def _faiss(self) -> Any:
        return require("faiss", "faiss")
