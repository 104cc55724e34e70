"""How small can the vectors of an index be, and what recall does that cost?

Every combination of a dimension (PCA) and a number format is tried on queries that were held out
when PCA and codes were fitted, against exact full-dimensional float32 search.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from itertools import product
from typing import Any

import torch

from lowdim.core.estimate import to_json
from lowdim.core.points import as_points
from lowdim.core.random import permutation
from lowdim.errors import InputError
from lowdim.retrieval.configurations import Configuration
from lowdim.retrieval.metric import exact_search, placed
from lowdim.retrieval.plan_steps import Trained
from lowdim.retrieval.recall import interval, recall_at_k
from lowdim.retrieval.reduction import Training

LADDER = (16, 32, 64, 96, 128, 192, 256, 384, 512, 768, 1024)
FORMATS = ("float32", "float16", "int8", "binary")
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
        Per vector. The map and the scales are stored once, and not counted.
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
        Of the choice of queries, and of what is drawn in a fit.
    memory : int, float or str, optional
        Budget of each search.

    Raises
    ------
    InputError
        Too few rows for k, a dimension that PCA cannot give, or an unknown format.

    Notes
    -----
    Rows of length one are compared by cosine, others by the Euclidean distance, and scores are
    those of the vectors that the codes stand for, as a :class:`Codec` has them: queries keep all
    their bits. It tries the plain formats only; :func:`lowdim.retrieval.plan` tries all codes.
    Queries are rows of ``x``: where real queries are shorter or of another kind than the
    documents, give those to a test of your own. Picking the best of many rows is a little
    optimistic, so compare a target with the lower end of the interval, as :func:`smallest` does.
    """
    x = as_points(x, min_rows=5).float()
    n, d = x.shape
    unit = bool(((torch.linalg.vector_norm(x, dim=1) - 1).abs() < UNIT).all())
    metric = "cosine" if unit else "euclidean"
    x = placed(x, metric)
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

    truth, _ = exact_search(rows, queries, k, metric=metric, memory=memory)
    trained = Trained(Training(rows, metric, seed=seed), memory)
    found = []
    for m, name in product(reversed(ladder), formats):
        c = Configuration(name) if m == d else Configuration(name, "pca", m)
        codec = trained.codec(c)
        codes = codec.code_.encode(trained.reduced(c)[1])
        recalls = recall_at_k(codec.search(codes, queries, k)[0], truth)
        recall, low, high = interval(recalls)
        size = codec.bytes_per_vector
        found.append(
            SizeRecallRow(
                dims=m, format=name, bytes=size, ratio=4 * d / size, recall=recall, low=low,
                high=high,
            )
        )  # fmt: skip
    return SizeRecall(
        rows=tuple(sorted(found, key=lambda r: (-r.bytes, -r.dims))), k=k, n_queries=n_queries,
        n_reference=len(rows), metric=metric, seed=seed,
    )  # fmt: skip


def smallest(rows: Iterable[SizeRecallRow], recall: float = 0.95) -> SizeRecallRow | None:
    """Which is the smallest vector that keeps this recall, by the lower end of its interval?

    Returns None where none does; among equal sizes the one of higher recall.
    """
    good = [row for row in rows if row.low >= recall]
    return min(good, key=lambda row: (row.bytes, -row.recall), default=None)
