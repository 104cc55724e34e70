"""What becomes of recall as an index grows?

More rows crowd the neighbourhood of each query, so what a code blurs is confused more often.
Reimers and Gurevych 2021 give the chance of a random row above the right one on the sphere; how a
given set of vectors will behave is measured here on parts of it, and extrapolated.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import torch
from scipy.special import betainc
from torch import Tensor

from lowdim.core.estimate import to_json
from lowdim.core.progress import Advance
from lowdim.core.random import integers
from lowdim.errors import InputError
from lowdim.registry import method, similarities
from lowdim.retrieval.codec import CELLS, Codec
from lowdim.retrieval.metric import as_queries, placed
from lowdim.retrieval.recall import recall_at_k
from lowdim.structure.estimator import open_source

PARTS = 16
"""Random parts that the rows are cut into; their unions are the smaller indexes."""

AHEAD = (2, 4, 10)
"""Growths that are forecast."""


@dataclass(frozen=True, kw_only=True)
class FalsePositives:
    """What random rows do to queries whose right row has a known similarity.

    Attributes
    ----------
    sizes : tuple of int
        Rows of the index.
    count : tuple of float
        Mean number of random rows above the right one.
    share : tuple of float
        Share of queries with any.
    mrr : tuple of float
        Mean of one over the place of the right row.
    """

    sizes: tuple[int, ...]
    count: tuple[float, ...]
    share: tuple[float, ...]
    mrr: tuple[float, ...]


@method(
    "retrieval/false-positive-curve",
    needs=similarities(),
    paper="Reimers and Gurevych 2021",
    arxiv="2012.14210",
    cost="O(queries x sizes)",
    oracle="Monte Carlo on the sphere",
    invariant=("permutation",),
)
def false_positive_curve(
    similarities: Any, *, dim: float, sizes: Sequence[int] = (10**4, 10**5, 10**6, 10**7)
) -> FalsePositives:
    """How often does a random row beat the right one as the index grows?

    Parameters
    ----------
    similarities : array-like
        (m,) cosine of each query with the row that it should find.
    dim : float
        Dimension of the sphere's space, at least 2; an effective one
        (:func:`effective_dimension`) where rows do not fill it.
    sizes : sequence of int
        Rows of the index.

    Raises
    ------
    InputError
        A similarity beyond [-1, 1], dim below 2, a size below 1.

    Notes
    -----
    A uniform random row scores at least s >= 0 with chance p = I_{1-s^2}((d-1)/2, 1/2) / 2. Of n
    independent rows at least one does with chance 1 - (1-p)^n, and the mean of one over the place
    is (1 - (1-p)^(n+1)) / ((n+1) p), the mean of 1/(1+F) for a binomial F. Trust it for the shape:
    real rows are not uniform and are far from independent, so with the number of columns for
    ``dim`` it is far too hopeful.
    """
    s = torch.as_tensor(similarities, dtype=torch.float64).flatten()
    if not len(s) or not bool((s.abs() <= 1 + 1e-6).all()):
        raise InputError("similarities must be cosines, between -1 and 1, and at least one")
    if not dim >= 2 or not sizes or min(sizes) < 1:
        raise InputError(f"dim={dim}, sizes={tuple(sizes)}: dim is at least 2, sizes at least 1")
    p = torch.from_numpy(_tail(s.clamp(-1, 1).numpy(), dim)).clamp_min(1e-300)
    count, share, mrr = [], [], []
    for n in sizes:
        count.append(float((n * p).mean()))
        share.append(float(-torch.expm1(n * torch.log1p(-p)).mean()))
        mrr.append(float((-torch.expm1((n + 1) * torch.log1p(-p)) / ((n + 1) * p)).mean()))
    return FalsePositives(
        sizes=tuple(sizes), count=tuple(count), share=tuple(share), mrr=tuple(mrr)
    )


def effective_dimension(similarities: Any, above: Any, n: int) -> float:
    """On the sphere of which dimension would random rows be above the right ones as often?

    Parameters
    ----------
    similarities : array-like
        (m,) cosine of each query with the row that it should find.
    above : array-like
        (m,) how many of ``n`` other rows were above it.
    n : int
        Rows.

    Returns
    -------
    float
        From 2 to 4,096: the dimension whose mean count over the queries is the measured one.

    Notes
    -----
    The mean count falls with the dimension where similarities are above zero, so bisection finds
    it; it stops at the ends.
    """
    s = torch.as_tensor(similarities, dtype=torch.float64).clamp(-1, 1).numpy()
    wanted = float(torch.as_tensor(above, dtype=torch.float64).mean()) / n
    low, high = 2.0, 4096.0
    for _ in range(60):
        middle = math.sqrt(low * high)
        if float(_tail(s, middle).mean()) > wanted:
            low = middle
        else:
            high = middle
    return low


def _tail(s: np.ndarray, dim: float) -> np.ndarray:
    """Chance that a uniform random direction has cosine s or more with a given one."""
    half = betainc((dim - 1) / 2, 0.5, 1 - s * s) / 2
    return np.where(s >= 0, half, 1 - half)


@dataclass(frozen=True, kw_only=True)
class Growth:
    """Recall of a codec among more and more of the rows, and what is to be expected of more.

    Attributes
    ----------
    sizes : tuple of int
        Rows: a sixteenth of all, an eighth, ..., all.
    measured : tuple of float
        Recall among so many, averaged over as many parts as there are of that size.
    predicted : tuple of float or None
        What the two or more smaller sizes foretold.
    error : float
        Largest difference of the two.
    forecast : tuple of (int, float)
        Rows, and recall expected.
    k, queries : int
        Length of the lists, and queries that it rests on.
    """

    sizes: tuple[int, ...]
    measured: tuple[float, ...]
    predicted: tuple[float | None, ...]
    error: float
    forecast: tuple[tuple[int, float], ...]
    k: int
    queries: int

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON values."""
        return to_json(asdict(self))


def recall_growth(
    x: Any, codec: Codec, queries: Any, *, k: int = 10, seed: int = 0,
    memory: int | float | str | None = None, progress: Advance | None = None,
) -> Growth:  # fmt: skip
    """How will recall move as the index grows?

    Parameters
    ----------
    x : array-like, path or source
        (n, d) rows, at least 16 (k + 1).
    codec : Codec
        Fitted.
    queries : array-like
        (m, d), none of them a row.
    k : int
        Length of the lists.
    seed : int
        Of the parts.
    memory, progress
        As elsewhere.

    Notes
    -----
    One pass: each part's best k rows by the vectors and by the codes are kept, and those of a union
    of parts are the best of its parts' lists. The log odds of recall are taken to be a line in
    log n, which is how they looked on text embeddings; each size is foretold from the smaller ones
    alone, and ``error`` says how wrong that was. Trust the forecast no further than a few times
    ``error``, and only for more rows of the same kind.
    """
    source = open_source(x)
    q = as_queries(queries, codec.metric, source.dim)
    if source.n < PARTS * 2 * k:
        raise InputError(f"{source.n} rows: growth at k={k} needs at least {PARTS * 2 * k}")
    lists = _lists(source, codec, q, k, seed, memory, progress)
    sizes, measured = [], []
    for level in range(PARTS.bit_length()):
        sizes.append(source.n * 2**level // PARTS)
        measured.append(float(recall_at_k(*_rows_of(lists)).mean()))
        lists = [_paired(parts, k) for parts in lists] if level < PARTS.bit_length() - 1 else lists
    predicted: list[float | None] = [None, None]
    predicted += [_line(sizes[:i], measured[:i], sizes[i]) for i in range(2, len(sizes))]
    ahead = tuple((source.n * more, _line(sizes, measured, source.n * more)) for more in AHEAD)
    return Growth(
        sizes=tuple(sizes), measured=tuple(measured), predicted=tuple(predicted),
        error=max(abs(p - r) for p, r in zip(predicted, measured, strict=True) if p is not None),
        forecast=ahead, k=k, queries=len(q),
    )  # fmt: skip


Lists = tuple[Tensor, Tensor]
"""(parts, m, k) row numbers and scores, best first."""


def _lists(
    source: Any, codec: Codec, q: Tensor, k: int, seed: int, memory: int | float | str | None,
    progress: Advance | None,
) -> list[Lists]:  # fmt: skip
    """The best of each part by its codes, and by its vectors."""
    coded = codec.scorer(q)
    shape, first = (PARTS, len(q), k), 0
    lists = [(torch.full(shape, -1), torch.full(shape, -math.inf)) for _ in range(2)]
    for chunk in source.chunks(memory):
        for block in chunk.split(max(PARTS * k, 8 * CELLS // source.dim)):
            x = placed(block, codec.metric, offset=first)
            part = integers(len(x), PARTS, seed, start=first)
            exact = q @ x.T
            if codec.metric == "euclidean":
                exact -= x.square().sum(1) / 2
            scores = (coded(codec.code_.encode(codec.map_.reduce(x))), exact)
            for i in range(PARTS):
                rows = (part == i).nonzero()[:, 0]
                for (ids, values), found in zip(lists, scores, strict=True):
                    best = found[:, rows].topk(min(k, len(rows)), 1)
                    both = torch.cat([values[i], best.values], 1)
                    names = torch.cat([ids[i], rows[best.indices] + first], 1)
                    values[i], order = both.topk(k, 1)
                    ids[i] = names.gather(1, order)
            first += len(x)
            if progress is not None:
                progress(first, source.n)
    return lists


def _paired(lists: Lists, k: int) -> Lists:
    """The best of each two parts together."""
    ids, values = (torch.cat([a[0::2], a[1::2]], 2) for a in lists)
    values, order = values.topk(k, 2)
    return ids.gather(2, order), values


def _rows_of(lists: list[Lists]) -> tuple[Tensor, Tensor]:
    return lists[0][0].flatten(0, 1), lists[1][0].flatten(0, 1)


def _line(sizes: Sequence[int], recalls: Sequence[float], size: int) -> float:
    """Recall at another size by a line through the log odds over log n."""
    r = np.clip(np.asarray(recalls), 1e-4, 1 - 1e-4)
    slope, level = np.polyfit(np.log(sizes), np.log(r / (1 - r)), 1)
    return float(1 / (1 + np.exp(-(level + slope * np.log(size)))))
