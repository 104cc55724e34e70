"""`Codec`: vectors to codes of a few bytes, and search among the codes.

A codec is a reduction (a linear map to fewer coordinates) and a code (coordinates to bytes). The
score of a row is the metric between the query, which stays as it is, and the vector that the row's
code stands for, worked out in the few coordinates: never in the many.
"""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any, Self

import numpy as np
import torch
from sklearn.base import BaseEstimator
from torch import Tensor
from torch.nn.functional import normalize

from lowdim.core.memory import plan
from lowdim.core.random import choice
from lowdim.core.shards import Source
from lowdim.errors import InputError
from lowdim.retrieval.code import Code, find_code
from lowdim.retrieval.drift import Fingerprint
from lowdim.retrieval.map import Map
from lowdim.retrieval.metric import as_queries, check_metric, placed
from lowdim.retrieval.reduction import Training, find_reduction
from lowdim.retrieval.scan import CELLS, LISTED, Scores, best, in_cache
from lowdim.structure.estimator import open_source


class Codec(BaseEstimator):
    """How do I store and search vectors in fewer bytes?

    Parameters
    ----------
    code : str
        A number format or quantiser: ``float16``, ``int8``, ``binary``, ``pq48`` (48 bytes a
        vector) ...; ``lowdim methods --room retrieval`` lists all.
    reduction : str
        What brings vectors to ``dims`` coordinates first: ``none``, ``pca``, ...
    dims : int, optional
        Coordinates kept; all by default.
    metric : {"cosine", "dot", "euclidean"}
        What near means.
    n_train : int
        Rows, drawn at random, that reduction and code are fitted to.
    seed : int
        Of all that is drawn.
    memory : int, float, str or None
        Budget of working memory, see :func:`lowdim.core.memory.budget`.

    Attributes
    ----------
    map_ : Map
        The reduction.
    code_ : Code
        The code of its coordinates.
    n_features_in_ : int
        d, columns of the vectors.
    fingerprint_ : Fingerprint or None
        What tells vectors of the same model; none where there are few, or nothing tells.

    Notes
    -----
    Rows are coded, queries are not. Scores are exact for the decoded vectors, so
    ``codec.search(codes, q)`` and an exact search of ``codec.decode(codes)`` rank alike. For cosine
    a row's score is divided by the length of its decoded vector, which costs nothing to store and
    finds more than the distance of the coordinates, which is what PCA before an L2 index ranks by.
    """

    map_: Map
    code_: Code
    n_features_in_: int
    fingerprint_: Fingerprint | None = None

    def __init__(
        self, code: str = "int8", *, reduction: str = "none", dims: int | None = None,
        metric: str = "cosine", n_train: int = 100_000, seed: int = 0,
        memory: int | float | str | None = None,
    ) -> None:  # fmt: skip
        self.code = code
        self.reduction = reduction
        self.dims = dims
        self.metric = metric
        self.n_train = n_train
        self.seed = seed
        self.memory = memory

    def fit(self, x: Any, y: Any = None, *, queries: Any = None) -> Self:
        """Fit reduction and code.

        Parameters
        ----------
        x : array-like, path or source
            (n, d) vectors.
        y : array-like, optional
            (n,) class of each, for reductions that read it.
        queries : array-like, optional
            (m, d) queries like those to come, for reductions that read them; not those on which
            recall is measured afterwards.

        Raises
        ------
        InputError
            An unknown name, dims or bytes that can't be, too few vectors, NaN or Inf, a zero vector
            with cosine.
        """
        check_metric(self.metric)
        kind, size = find_code(self.code)
        reduce = find_reduction(self.reduction)
        source = open_source(x)
        training = self._training(source, y, queries)
        self.map_ = reduce(training, source.dim if self.dims is None else self.dims)
        self.code_ = kind.fit(self.map_.reduce(training.x), size=size, seed=self.seed)
        self.fingerprint_ = Fingerprint.of(training.x)
        self.n_features_in_ = source.dim
        return self

    @property
    def bytes_per_vector(self) -> int:
        """Bytes that a vector takes."""
        self._check_fitted()
        return self.code_.bytes_per_vector

    @property
    def overhead(self) -> int:
        """Bytes that are stored once: the map and the codebooks."""
        self._check_fitted()
        return self.map_.overhead + self.code_.overhead

    def encode(self, x: Any) -> Tensor:
        """(n, bytes_per_vector) uint8 codes of (n, d) vectors.

        Warns with a :class:`lowdim.errors.DriftWarning` where they look like another model's.
        """
        source = self._source(x)
        codes = torch.empty(source.n, self.bytes_per_vector, dtype=torch.uint8)
        first = 0
        for chunk in source.chunks(self.memory):
            for block in chunk.split(max(1, 16 * CELLS // source.dim)):
                x = placed(block, self.metric, offset=source.start + first)
                if first == 0 and self.fingerprint_ is not None:
                    self.fingerprint_.check(x)
                codes[first : first + len(block)] = self.code_.encode(self.map_.reduce(x))
                first += len(block)
        return codes

    def decode(self, codes: Tensor) -> Tensor:
        """(n, d) vectors that codes stand for; (n, m) coordinates where the map has no way back."""
        self._check_codes(codes)
        return self.map_.restore(self.code_.decode(codes))

    def search(
        self, codes: Any, queries: Any, k: int = 10, *, rescore: Any = None, candidates: int = 0
    ) -> tuple[Tensor, Tensor]:
        """Which k rows score best with each query?

        Parameters
        ----------
        codes : Tensor or sequence of Tensor
            (n, bytes_per_vector) uint8, or parts of it in order.
        queries : array-like
            (m, d).
        k : int
            Rows wanted for each.
        rescore : array-like, path or source, optional
            The (n, d) vectors themselves: the best ``candidates`` are ranked anew by them.
        candidates : int, optional
            How many; 4 k by default.

        Returns
        -------
        ids, scores : Tensor
            (m, k) row numbers, and scores in descending order: cosines, dot products or negative
            distances; of equal scores the smaller row first.

        Notes
        -----
        Each code is read once. Up to `lowdim.retrieval.code.FEW` queries are scored in one pass
        over its bytes where numba is installed (``pip install 'lowdim[fast]'``), which compiles
        that pass at the first call there ever is, for about a second, and loads it at the first of
        a process; more queries, or all without numba, by products of matrices. Scores of the two
        differ by rounding.
        """
        parts = [codes] if isinstance(codes, Tensor) else list(codes)
        for part in parts:
            self._check_codes(part)
        n = sum(len(part) for part in parts)
        if not 1 <= k <= n:
            raise InputError(f"k={k}: there are {n} rows to find")
        q = as_queries(queries, self.metric, self.n_features_in_)
        wanted = k if rescore is None else min(n, max(k, candidates or 4 * k))
        scores = self.scorer(q)
        block = plan(
            "search", rows=max(self.code_.grain, LISTED // len(q)), bytes_per_row=16 * (len(q) + 1),
            fixed=24 * len(q) * wanted + 16 * max(CELLS, self.map_.dims), memory=self.memory,
        )  # fmt: skip
        ids, values = best(parts, scores, len(q), wanted, block, q.device)
        if rescore is not None:
            return self.rescored(ids, q, rescore, k)
        return ids, self.as_scores(values, q)

    def save(self, folder: str | Path) -> Path:
        """Write it to a folder: ``codec.safetensors`` and ``codec.json``."""
        from lowdim.retrieval.files import save_codec

        return save_codec(self, folder)

    @classmethod
    def load(cls, folder: str | Path) -> Codec:
        """Read what :meth:`save` wrote, checked: an InputError says what is wrong with it."""
        from lowdim.retrieval.files import load_codec

        return load_codec(folder)

    def scorer(self, q: Tensor) -> Scores:
        """Codes to the (m, rows) scores of placed queries.

        The cosine and the dot product of q and x^ = center + z @ decoder, and for Euclidean
        distances, which no shift changes, <q - center, z @ decoder> - |z @ decoder|^2 / 2, which
        orders as they do and does not cancel far from the origin.
        """
        back, center = self.map_.decoder, self.map_.center
        gram = None if back is None or self.map_.orthonormal else back @ back.T
        inner = self.compared(q) if back is None else self.compared(q) @ back.T  # (m, dims)
        constant, shift, square = q.new_zeros(len(q)), torch.zeros_like(inner[0]), q.new_zeros(())
        if back is not None and self.metric != "euclidean":
            constant, shift = q @ center, back @ center
            square = center @ center - shift @ shift
        if self.metric == "dot":
            products = self.code_.products(inner)
        elif gram is None:
            products = self.code_.products(inner, shift)
        else:
            products = _stretched(self.code_, inner, shift, gram)

        def scores(codes: Tensor) -> Tensor:
            found = products(codes)
            if self.metric == "dot":
                return found.add_(constant[:, None])
            found, squares = found[:-1].add_(constant[:, None]), found[-1].add_(square)  # |x^|^2
            if self.metric == "cosine":
                return found.mul_(squares.clamp_min_(1e-12).rsqrt_())
            return found.sub_(squares / 2)

        return scores

    def as_scores(self, values: Tensor, q: Tensor) -> Tensor:
        """What a search gives out for (m, k) values of :meth:`scorer` of these placed queries."""
        if self.metric != "euclidean":
            return values
        lengths = self.compared(q).square().sum(1, keepdim=True)
        return -(lengths - 2 * values).clamp_min(0).sqrt()

    def compared(self, q: Tensor) -> Tensor:
        """Placed queries where rows are compared with them: in a space of its own, or in theirs."""
        if self.map_.decoder is None:
            reduced = self.map_.reduce(q)
            return normalize(reduced) if self.metric == "cosine" else reduced
        return q - self.map_.center if self.metric == "euclidean" else q

    def rescored(self, ids: Tensor, q: Tensor, rescore: Any, k: int) -> tuple[Tensor, Tensor]:
        """The best k of (m, candidates) rows by the vectors themselves; -1 is no row."""
        source = self._source(rescore)
        rows, where = ids.unique(return_inverse=True)
        kept = placed(source.take(rows.clamp_min(0)), self.metric)  # candidates of all queries
        found = torch.empty_like(ids[:, :k])
        values = q.new_empty(found.shape)
        for i, query in enumerate(q):
            x = kept[where[i]]
            score = -(x - query).norm(dim=1) if self.metric == "euclidean" else x @ query
            score = score.masked_fill(ids[i] < 0, -math.inf)
            order = score.sort(descending=True, stable=True).indices[:k]
            found[i], values[i] = ids[i, order], score[order]
        return found, values

    def _training(self, source: Source, y: Any, queries: Any) -> Training:
        n = min(source.n, self.n_train)
        rows = choice(source.n, n, self.seed).sort().values
        x = placed(source.read(self.memory) if n == source.n else source.take(rows), self.metric)
        q = None if queries is None else as_queries(queries, self.metric, source.dim)
        return Training(x, self.metric, q, _labels(y, source.n, rows), self.seed)

    def _source(self, x: Any) -> Source:
        self._check_fitted()
        source = open_source(x)
        if source.dim != self.n_features_in_:
            raise InputError(
                f"x has {source.dim} columns and the codec was fitted to {self.n_features_in_}"
            )
        return source

    def _check_codes(self, codes: Tensor) -> None:
        self._check_fitted()
        size = self.bytes_per_vector
        if codes.dtype != torch.uint8 or codes.ndim != 2 or codes.shape[1] != size:
            raise InputError(
                f"codes have shape {tuple(codes.shape)} of {codes.dtype}: this codec makes "
                f"(n, {size}) uint8"
            )

    def _check_fitted(self) -> None:
        if not hasattr(self, "n_features_in_"):
            raise InputError("this Codec is not fitted: call fit first")


def _labels(y: Any, n: int, rows: Tensor) -> Tensor | None:
    """(len(rows),) numbers of the classes of some of n rows."""
    if y is None:
        return None
    named = np.asarray(y)
    if named.shape != (n,):
        raise InputError(f"y has shape {named.shape}: give the class of each of {n} rows")
    return torch.from_numpy(np.unique(named, return_inverse=True)[1])[rows]


def _stretched(code: Code, queries: Tensor, shift: Tensor, gram: Tensor) -> Scores:
    """As :meth:`Code.products`, where lengths of z are not those of what it stands for."""
    asked = torch.cat([queries, 2 * shift[None]])

    def of_rows(codes: Tensor) -> Tensor:
        z = code.decode(codes)
        found = asked @ z.T
        found[-1] += (z * (z @ gram)).sum(1) + shift @ shift
        return found

    return in_cache(of_rows, code.dims)
