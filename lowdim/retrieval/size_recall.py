"""How small can the vectors of an index be, and what recall does that cost?

Every combination of a dimension (PCA) and a number format is tried on queries that were held out
when PCA, scales and signs were fitted, against exact full-dimensional float32 search.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import torch
from torch import Tensor

from lowdim.core.estimate import to_json
from lowdim.core.neighbors import Neighbors
from lowdim.core.points import as_points
from lowdim.core.random import normal, permutation
from lowdim.core.subspace import Subspace
from lowdim.errors import InputError
from lowdim.retrieval.recall import interval, recall_at_k

LADDER = (16, 32, 64, 96, 128, 192, 256, 384, 512, 768, 1024)
FORMATS = ("float32", "float16", "int8", "binary")
BITS = {"float32": 32, "float16": 16, "int8": 8, "binary": 1}
UNIT = 1e-3  # rows whose lengths differ from 1 by less are compared by cosine


@dataclass(frozen=True, kw_only=True)
class SizeRecallRow:
    """One way to store a vector, and the recall it reached.

    Attributes
    ----------
    dims : int
        Principal directions kept; the full dimension is stored as it is, without PCA.
    format : str
        float32, float16, int8 or binary.
    bytes : int
        Per vector. The basis and the scales are stored once, and not counted.
    ratio : float
        Bytes of the full float32 vector over these.
    recall, low, high : float
        Mean share of the true k nearest among the k found, and its 95% interval.
    """

    dims: int
    format: str
    bytes: int
    ratio: float
    recall: float
    low: float
    high: float


@dataclass(frozen=True, kw_only=True)
class SizeRecall:
    """Recall of every size tried, largest vectors first.

    Attributes
    ----------
    rows : tuple of SizeRecallRow
    k : int
        Recall is of the true ``k`` nearest.
    n_queries, n_reference : int
        Held-out rows, and rows that were searched.
    metric : str
        "cosine" where all rows have length one, else "euclidean".
    seed : int
        Of the choice of queries.
    """

    rows: tuple[SizeRecallRow, ...]
    k: int
    n_queries: int
    n_reference: int
    metric: str
    seed: int

    def __str__(self) -> str:
        head = f"{'dims':>5} {'format':8} {'bytes':>6} {'smaller':>8}  recall@{self.k}"
        return "\n".join(
            [head]
            + [
                f"{r.dims:5} {r.format:8} {r.bytes:6} {r.ratio:7.1f}x  "
                f"{r.recall:.3f} [{r.low:.3f}, {r.high:.3f}]"
                for r in self.rows
            ]
        )

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON values."""
        return to_json(asdict(self))


def size_recall(
    x: Any, *, dims: Iterable[int] | None = None, k: int = 10, n_queries: int = 500,
    formats: Sequence[str] = FORMATS, seed: int = 0, memory: int | float | str | None = None,
) -> SizeRecall:  # fmt: skip
    """How small can my vectors be at which recall?

    Parameters
    ----------
    x : array-like
        (n, d) vectors as the index would hold them.
    dims : iterable of int, optional
        Dimensions to try; 16, 32, 64, 96, 128, ... below d, and d, by default.
    k : int
        Length of the result lists.
    n_queries : int
        Rows held out as queries, at most a fifth of all.
    formats : sequence of str
        Some of float32, float16, int8, binary.
    seed : int
        Of the choice of queries.
    memory : int, float or str, optional
        Budget of each search.

    Raises
    ------
    InputError
        Too few rows for k, a dimension that PCA cannot give, or an unknown format.

    Notes
    -----
    Rows of length one are compared by cosine, which orders as the Euclidean distance does, else by
    that distance; after PCA by the distance of the coordinates. Queries are coded like the rows.
    int8 rounds to a symmetric grid a dimension, scaled by the largest value among the rows
    searched, and saturates. binary turns the centred vectors by a fixed random rotation, so that
    every bit weighs alike (on MiniLM it lifts 128 bits from 0.38 to 0.52), and keeps the signs,
    searched by Hamming distance.
    Queries are rows of ``x``: where real queries are shorter or of another kind than the
    documents, give those to a test of your own. Picking the best of many rows is a little
    optimistic, so compare a target with the lower end of the interval, as :func:`smallest` does.
    """
    x = as_points(x, min_rows=5).float()
    n, d = x.shape
    order = permutation(n, seed, device=x.device)
    n_queries = max(1, min(n_queries, n // 5))
    queries, rows = x[order[:n_queries]], x[order[n_queries:]]
    if not 1 <= k < len(rows):
        raise InputError(f"k={k}: between 1 and {len(rows) - 1}, the rows left to search")
    if unknown := set(formats) - set(FORMATS):
        raise InputError(f"format {min(unknown)!r} is not known: {', '.join(FORMATS)}")
    most = min(len(rows), d)  # directions that PCA can find
    ladder = sorted({*(m for m in LADDER if m < min(most, d)), d} if dims is None else set(dims))
    if bad := [m for m in ladder if m != d and not 1 <= m <= most]:
        raise InputError(f"dims={bad[0]}: PCA of {len(rows)} x {d} gives 1 to {most}, or d={d}")

    truth = _search(rows, queries, k, memory)
    subspace = Subspace.of_points(rows, rank=most, memory=memory)
    coordinates = (subspace.project(rows).float(), subspace.project(queries).float())
    found = []
    for m in reversed(ladder):
        kept = (rows, queries) if m == d else tuple(c[:, :m] for c in coordinates)
        for name in formats:
            code = CODES[name](kept[0])
            hits = _search(code(kept[0]), code(kept[1]), k, memory)
            size = math.ceil(m * BITS[name] / 8)
            recall, low, high = interval(recall_at_k(hits, truth))
            found.append(
                SizeRecallRow(
                    dims=m, format=name, bytes=size, ratio=4 * d / size, recall=recall, low=low,
                    high=high,
                )
            )  # fmt: skip
    unit = bool(((torch.linalg.vector_norm(x, dim=1) - 1).abs() < UNIT).all())
    return SizeRecall(
        rows=tuple(sorted(found, key=lambda r: (-r.bytes, -r.dims))), k=k, n_queries=n_queries,
        n_reference=len(rows), metric="cosine" if unit else "euclidean", seed=seed,
    )  # fmt: skip


def smallest(rows: Iterable[SizeRecallRow], recall: float = 0.95) -> SizeRecallRow | None:
    """Which is the smallest vector that keeps this recall, by the lower end of its interval?

    Returns None where none does; among equal sizes the one of higher recall.
    """
    good = [row for row in rows if row.low >= recall]
    return min(good, key=lambda row: (row.bytes, -row.recall), default=None)


def _search(rows: Tensor, queries: Tensor, k: int, memory: int | float | str | None) -> Tensor:
    """(n_queries, k) indices of the nearest rows."""
    return Neighbors.of_points(rows, k, queries=queries, memory=memory).indices


Code = Callable[[Tensor], Tensor]


def _float32(rows: Tensor) -> Code:
    return lambda x: x


def _float16(rows: Tensor) -> Code:
    largest = torch.finfo(torch.float16).max
    return lambda x: x.clamp(-largest, largest).half().float()


def _int8(rows: Tensor) -> Code:
    scale = rows.abs().amax(0) / 127  # (m,)
    scale = torch.where(scale > 0, scale, torch.ones_like(scale))
    return lambda x: (x / scale).round().clamp(-127, 127).to(torch.int8) * scale


def _binary(rows: Tensor) -> Code:
    mean, m = rows.mean(0), rows.shape[1]
    turn = torch.linalg.qr(normal((m, m), seed=0, device=rows.device))[0]
    return lambda x: torch.where((x - mean) @ turn > 0, 1.0, -1.0)  # |a - b|^2 is 4 x Hamming


CODES: dict[str, Callable[[Tensor], Code]] = {
    "float32": _float32,
    "float16": _float16,
    "int8": _int8,
    "binary": _binary,
}
