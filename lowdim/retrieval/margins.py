"""Ranking margins: how far apart are the right row and the next, and how many dimensions is that?

Luan, Eisenstein, Toutanova and Collins 2021, "Sparse, Dense, and Attentional Representations for
Text Retrieval": what a random projection has to keep of a query q and rows d+ and d- is the sign of
<q, d+ - d->, and how hard that is depends on the normalised margin alone,

    mu = <q, d+ - d-> / (|q| |d+ - d-|).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any, TypeAlias

import numpy as np
import torch
from scipy.sparse import csr_array, issparse
from torch import Tensor

from lowdim.core.estimate import format_number, to_json
from lowdim.core.memory import plan
from lowdim.core.points import as_points, check_finite, unit_rows
from lowdim.core.random import integers, normal
from lowdim.errors import InputError
from lowdim.registry import method, queried
from lowdim.retrieval.metric import check_metric, exact_search
from lowdim.retrieval.misordering import (
    dimension_for,
    gaussian_dimension_for,
    misordering,
    misordering_bound,
)

Rows: TypeAlias = "np.ndarray | csr_array"


def ranking_margin(q: Any, positive: Any, negative: Any) -> Tensor:
    """By how much does each query prefer one row to another, as a cosine?

    Parameters
    ----------
    q, positive, negative : array-like or sparse matrix
        (m, d) each, row by row; or any of them (1, d), for all.

    Returns
    -------
    Tensor
        (m,) float64 in [-1, 1]: the cosine of q and positive - negative. NaN where q is zero or
        both rows are equal: there is nothing to order.
    """
    rows = _alike(q=q, positive=positive, negative=negative)
    counts = [r.shape[0] for r in rows]
    if not set(counts) <= {1, max(counts)}:
        raise InputError(
            f"q, positive and negative have {counts} rows: give as many, or one for all"
        )
    asked, right, wrong = (r[np.arange(max(counts)) % r.shape[0]] for r in rows)
    return torch.from_numpy(_cosines(asked, right - wrong))


def multi_vector_score(queries: Any, documents: Any) -> Tensor:
    """How well does each query match the best of several vectors of a document (ME-BERT)?

    Parameters
    ----------
    queries : array-like
        (m, d).
    documents : array-like
        (n, vectors, d): in the paper the encoder's first token vectors of each.

    Returns
    -------
    Tensor
        (m, n) largest dot products. One vector a document is the dual encoder, all tokens with one
        query vector are as far as this goes.
    """
    q, parts = as_points(queries, name="queries"), torch.as_tensor(documents)
    if parts.ndim != 3 or parts.shape[2] != q.shape[1]:
        raise InputError(
            f"documents have shape {tuple(parts.shape)}: give (n, vectors, {q.shape[1]})"
        )
    flat = as_points(parts.flatten(0, 1), name="documents").to(q)
    return (q @ flat.T).unflatten(1, parts.shape[:2]).amax(2)


@dataclass(frozen=True)
class Projected:
    """What a random projection did to the order of pairs.

    Attributes
    ----------
    dims : int
        Dimensions of the projection.
    measured : float
        Share of the pairs that it turned round, mean over the projections.
    expected : float
        The same by :func:`misordering` of each pair's margin.
    bound : float
        By :func:`misordering_bound`.
    """

    dims: int
    measured: float
    expected: float
    bound: float


@dataclass(frozen=True)
class PairMargins:
    """Margins of one kind of pair.

    Attributes
    ----------
    against : str
        ``next``: the (k+1)-th row; ``random``: any row behind the k-th.
    pairs : int
        Looked at; those of equal rows, which have no order, are left out.
    low, median, high : float
        10%, 50% and 90% of the margins lie below.
    margin : float
        That ``share`` of the pairs reach.
    lemma_dims, gaussian_dims : int or None
        Dimensions for that margin by :func:`dimension_for` and :func:`gaussian_dimension_for`; none
        where it is zero.
    projected : tuple of Projected
    """

    against: str
    pairs: int
    low: float
    median: float
    high: float
    margin: float
    lemma_dims: int | None
    gaussian_dims: int | None
    projected: tuple[Projected, ...]


@dataclass(frozen=True)
class RankingMargins:
    """Ranking margins of a set of rows, and what projections of it would cost.

    Attributes
    ----------
    next, random : PairMargins
        The k-th row of each query against the one behind it, and against random ones.
    k, n, queries : int
        What they rest on.
    share, error : float
        Of the pairs, and the chance to be turned round that was asked for.
    repeats, seed : int
        Projections drawn.
    """

    next: PairMargins
    random: PairMargins
    k: int
    n: int
    queries: int
    share: float
    error: float
    repeats: int
    seed: int

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON values."""
        return to_json(asdict(self))

    def __str__(self) -> str:
        lines = [f"row {self.k} of {self.queries:,} queries among {self.n:,} rows"]
        for pairs in (self.next, self.random):
            margins = ", ".join(format_number(m) for m in (pairs.low, pairs.median, pairs.high))
            gaussian, lemma = (
                "no number of" if dims is None else f"{dims:,}"
                for dims in (pairs.gaussian_dims, pairs.lemma_dims)
            )
            lines += [
                f"against {pairs.against} rows: margins {margins} (10%, 50%, 90% of "
                f"{pairs.pairs:,} pairs)",
                f"  {self.share:.0%} of them stay in order but for {self.error:.1%} in {gaussian} "
                f"Gaussian dimensions (lemma: {lemma})",
                "  dims  turned round  expected  lemma",
            ]
            lines += [
                f"{p.dims:6,}  {p.measured:12.4f}  {p.expected:8.4f}  {p.bound:.4f}"
                for p in pairs.projected
            ]
        return "\n".join(lines)


@method(
    "retrieval/ranking-margins",
    needs=queried(),
    paper="Luan et al. 2021",
    arxiv="2005.00181",
    cost="an exact search, and repeats x dims x d multiply-adds a pair",
    invariant=(),
)
def ranking_margins(
    x: Any, queries: Any, *, k: int = 10, metric: str = "cosine", share: float = 0.9,
    error: float = 0.01, dims: Sequence[int] = (16, 64, 256), others: int = 10, repeats: int = 3,
    seed: int = 0, memory: int | float | str | None = None,
) -> RankingMargins:  # fmt: skip
    """How many dimensions would a random projection need to keep these rankings?

    Parameters
    ----------
    x : array-like or sparse matrix
        (n, d) rows.
    queries : array-like or sparse matrix
        (m, d), none of them a row.
    k : int
        The row in question is the k-th of each query's exact list.
    metric : {"cosine", "dot", "euclidean"}
        For cosine rows and queries are of length one before they are projected; the distance to two
        rows compares as the product of q minus their middle with their difference.
    share : float
        Of the pairs that shall stay in order.
    error : float
        Chance to be turned round that is borne for each.
    dims : sequence of int
        Dimensions that Gaussian projections are tried at.
    others : int
        Random rows behind the k-th, for each query.
    repeats : int
        Projections drawn.
    seed : int
        Of rows and projections.
    memory : int, float, str or None
        Budget of the exact search, and of a block of pairs.

    Raises
    ------
    InputError
        n of k or less, a zero row or query with cosine, columns that differ, all rows equal.

    Notes
    -----
    Trust it for what it is about: random projections, which any fitted reduction should beat, and
    one pair at a time. A list of k rows is kept only where k (n - k) pairs are. Next rows often
    differ by next to nothing, and no dimension separates them; then read ``random``.
    """
    check_metric(metric)
    rows, q = _alike(x=x, queries=queries)
    if metric == "cosine":
        rows, q = _of_length_one(rows, "x"), _of_length_one(q, "queries")
    n, m = rows.shape[0], q.shape[0]
    if not 1 <= k < n or not 0 < share < 1 or not 0 < error < 1:
        raise InputError(
            f"k={k}, share={share}, error={error}: k is below the {n} rows, the others between 0 "
            "and 1"
        )
    sizes = sorted(set(dims))
    if not sizes or min(*sizes, others, repeats) < 1:
        raise InputError(
            f"dims={tuple(dims)}, others={others}, repeats={repeats}: give 1 or more of each"
        )
    ids = _nearest(rows, q, k + 1, metric, memory)
    every = np.repeat(np.arange(m), others)
    drawn = integers((m * others,), n, seed).numpy()
    behind = (drawn[:, None] != ids[every, :k]).all(1)
    pairs = {"next": (np.arange(m), ids[:, k]), "random": (every[behind], drawn[behind])}
    if not behind.any():
        raise InputError(f"k={k}: no random row fell behind the first {k} of {n}, take fewer")
    found = {}
    for against, (asked, wrong) in pairs.items():
        right = ids[asked, k - 1]
        block = plan(
            "ranking margins", rows=len(asked), memory=memory,
            bytes_per_row=8 * (4 * rows.shape[1] + 3 * sizes[-1]),
            fixed=12 * rows.shape[1] * sizes[-1],
        )  # fmt: skip
        parts = []
        for i in range(0, len(asked), block):
            at = slice(i, i + block)
            one, two, to = rows[right[at]], rows[wrong[at]], q[asked[at]]
            if metric == "euclidean":  # |q - b|^2 - |q - a|^2 = 2 <q - (a + b) / 2, a - b>
                to = to - (one + two) * 0.5
            parts.append(_tried(to, one - two, sizes, repeats, seed))
        mu, turned = (torch.cat(values) for values in zip(*parts, strict=True))
        found[against] = _summary(against, mu, turned, sizes, share, error)
    return RankingMargins(
        **found, k=k, n=n, queries=m, share=share, error=error, repeats=repeats, seed=seed
    )


def _tried(
    q: Rows, difference: Rows, dims: list[int], repeats: int, seed: int
) -> tuple[Tensor, Tensor]:
    """(pairs,) margins and (pairs, dims) shares of projections that turn them round.

    A projection to fewer dimensions is the first columns of one to more; its scale moves no sign.
    """
    turned = np.zeros((q.shape[0], len(dims)))
    for repeat in range(repeats):
        matrix = normal((q.shape[1], dims[-1]), seed, stream=repeat + 1).numpy()
        products = np.cumsum((q @ matrix) * (difference @ matrix), axis=1, dtype=np.float64)
        turned += products[:, np.asarray(dims) - 1] <= 0
    return torch.from_numpy(_cosines(q, difference)), torch.from_numpy(turned / repeats)


def _summary(
    against: str, mu: Tensor, turned: Tensor, dims: list[int], share: float, error: float
) -> PairMargins:
    ordered = ~mu.isnan()
    mu, turned = mu[ordered], turned[ordered]
    if not len(mu):
        raise InputError(
            f"against {against} rows all pairs are of equal rows, or of zero queries: there is no "
            "order to keep, merge equal rows first"
        )
    low, median, high = mu.quantile(torch.tensor([0.1, 0.5, 0.9]).double()).tolist()
    reached = float(mu.quantile(1 - share, interpolation="lower"))
    projected = tuple(
        Projected(
            size, float(turned[:, i].mean()), float(misordering(mu, size).mean()),
            float(misordering_bound(mu, size).mean()),
        )
        for i, size in enumerate(dims)
    )  # fmt: skip
    return PairMargins(
        against, len(mu), low, median, high, reached,
        dimension_for(reached, error) if reached > 0 else None,
        gaussian_dimension_for(reached, error) if reached > 0 else None, projected,
    )  # fmt: skip


def _cosines(q: Rows, difference: Rows) -> np.ndarray:
    """(m,) float64 cosines row by row, NaN where one of the two is zero."""
    q, difference = q.astype(np.float64), difference.astype(np.float64)
    lengths = np.sqrt((q * q).sum(axis=1)) * np.sqrt((difference * difference).sum(axis=1))
    with np.errstate(invalid="ignore"):
        return np.clip((q * difference).sum(axis=1) / lengths, -1, 1)


def _nearest(
    rows: Rows, q: Rows, k: int, metric: str, memory: int | float | str | None
) -> np.ndarray:
    """(m, k) rows in the order of an exact search."""
    if not isinstance(rows, csr_array):
        return exact_search(rows, q, k, metric=metric, memory=memory)[0].numpy()
    half = (rows * rows).sum(axis=1) / 2 if metric == "euclidean" else 0
    block = plan("search", rows=q.shape[0], bytes_per_row=32 * rows.shape[0], memory=memory)
    found = [
        np.argsort(half - (q[i : i + block] @ rows.T).toarray(), axis=1, kind="stable")[:, :k]
        for i in range(0, q.shape[0], block)
    ]
    return np.concatenate(found)


def _alike(**given: Any) -> list[Rows]:
    """Checked arrays of as many columns, all sparse if one is."""
    rows = [_rows(x, name) for name, x in given.items()]
    if len({r.shape[1] for r in rows}) > 1:
        columns = ", ".join(f"{name} {r.shape[1]}" for name, r in zip(given, rows, strict=True))
        raise InputError(f"the columns differ: {columns}")
    sparse = any(isinstance(r, csr_array) for r in rows)
    return [csr_array(r) for r in rows] if sparse else rows


def _rows(x: Any, name: str) -> Rows:
    if not issparse(x):
        return as_points(x, name=name).numpy(force=True)
    if min(x.shape) == 0:
        raise InputError(f"{name} has shape {x.shape}: it is empty")
    rows = csr_array(x, dtype=np.float64)
    if rows.nnz:
        check_finite(torch.from_numpy(rows.data)[:, None], f"the stored values of {name}")
    return rows


def _of_length_one(rows: Rows, name: str) -> Rows:
    if not isinstance(rows, csr_array):
        return unit_rows(torch.from_numpy(rows), name).numpy()
    lengths = np.sqrt((rows * rows).sum(axis=1))
    if not lengths.all():
        raise InputError(
            f"{name} row {int(np.argmin(lengths))} is all zeros: it has no direction, remove it "
            "first"
        )
    return csr_array(rows * (1 / lengths)[:, None])
