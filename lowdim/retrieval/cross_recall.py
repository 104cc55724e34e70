"""What does one encoder's query find among the other's rows? On texts that fitted nothing."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field
from functools import cached_property
from typing import Any, NamedTuple

from torch import Tensor

from lowdim.core.estimate import to_json
from lowdim.retrieval.metric import exact_search
from lowdim.retrieval.pair_maps import Affine, Pairs
from lowdim.retrieval.recall import TWO_SIDED, interval, recall_at_k


class Figure(NamedTuple):
    """A mean over queries, with its 95 % interval."""

    mean: float
    low: float
    high: float

    def __str__(self) -> str:
        return f"{self.mean:.3f} [{self.low:.3f}, {self.high:.3f}]"


@dataclass(frozen=True, eq=False)
class Trial:
    """Paired vectors, and which of them fit, are searched, choose and measure: disjoint sets.

    Attributes
    ----------
    new, old : Tensor
        (n, d_new) and (n, d_old) placed vectors, in random order.
    classes : Tensor or None
        (n,) what judges; the new encoder's own neighbours where it is None.
    n_queries : int
        First so many choose, so many more measure; of the rest one half is searched, and one fits.
    """

    new: Tensor
    old: Tensor
    classes: Tensor | None
    n_queries: int
    k: int
    metric: str
    memory: int | float | str | None = None

    @property
    def choosing(self) -> slice:
        """Queries that choose."""
        return slice(0, self.n_queries)

    @property
    def measuring(self) -> slice:
        """Queries that measure."""
        return slice(self.n_queries, 2 * self.n_queries)

    @property
    def searched(self) -> slice:
        """Rows of the store."""
        return slice(2 * self.n_queries, len(self.new) - self.n_fit)

    @property
    def n_rows(self) -> int:
        """How many rows the store has."""
        return len(self.new) - 2 * self.n_queries - self.n_fit

    @property
    def n_fit(self) -> int:
        """How many pairs there are to fit to, at the end."""
        return (len(self.new) - 2 * self.n_queries) // 2

    def pairs(self, n: int) -> Pairs:
        """Moments of ``n`` of the pairs to fit to."""
        first = len(self.new) - self.n_fit
        rows = slice(first, first + n)
        return Pairs.of(self.new[rows], self.old[rows])

    def on_old(self, queries: slice, affine: Affine) -> Tensor:
        """(m,) new queries, mapped, among old rows."""
        return self.judge(queries, self.search(affine(self.new[queries]), self.old))

    def on_moved(self, queries: slice, affine: Affine) -> Tensor:
        """(m,) new queries among old rows that are mapped."""
        return self.judge(queries, self.search(self.new[queries], affine(self.old)))

    def best(
        self, score: Callable[[slice, Affine], Tensor], tried: Mapping[str, Affine]
    ) -> list[str]:
        """The best map of each kind by the choosing queries, the best of all first."""
        scores = {
            name: float(score(self.choosing, affine).mean()) for name, affine in tried.items()
        }
        ranked = sorted(scores, key=lambda name: -scores[name])
        kinds = [name.split()[0] for name in ranked]
        return [name for i, name in enumerate(ranked) if kinds[i] not in kinds[:i]]

    def search(self, queries: Tensor, vectors: Tensor) -> Tensor:
        """(m, k) rows of the store that are nearest, ``vectors`` being those of all texts."""
        rows = vectors[self.searched]
        return exact_search(rows, queries, self.k, metric=self.metric, memory=self.memory)[0]

    @cached_property
    def truth(self) -> Tensor:
        """(2 n_queries, k) rows that the new encoder finds, for all queries."""
        return self.search(self.new[: 2 * self.n_queries], self.new)

    def judge(self, queries: slice, found: Tensor) -> Tensor:
        """(m,) what the rows found are worth, from 0 to 1."""
        if self.classes is None:
            return recall_at_k(found, self.truth[queries])
        wanted = self.classes[queries][:, None]
        return (self.classes[self.searched][found] == wanted).double().mean(1)


@dataclass(frozen=True)
class Compatibility:
    """What new queries find on the old store.

    Attributes
    ----------
    judge : str
        ``labels``: share of the k found rows that are of the query's class. ``new``: share of what
        the new encoder finds in a store of its own, so that ``new_new`` is 1.
    old_old : Figure
        The old system: old queries, old store.
    new_old : Figure
        The upgrade: new queries, mapped; the store untouched.
    new_moved : Figure
        New queries as they are, old rows mapped into the new space, without their texts.
    new_new : Figure
        What encoding everything again would give.
    agreement : Figure
        Share of the old system's own k results that mapped queries still find.
    gain : Figure
        ``new_old`` less ``old_old``, query by query.
    way, way_back : str
        The maps of queries and of rows that were chosen, each with its strength or rank.
    ways : dict
        ``new_old`` of the best map of each kind.
    curve : tuple of (int, Figure)
        ``new_old`` when so many pairs choose the strength and fit.
    n_queries, n_rows, n_pairs : int
        Queries that measured, rows that were searched, pairs that fitted.
    """

    judge: str
    metric: str
    k: int
    old_old: Figure
    new_old: Figure
    new_moved: Figure
    new_new: Figure
    agreement: Figure
    gain: Figure
    way: str
    way_back: str
    ways: dict[str, Figure] = field(repr=False)
    curve: tuple[tuple[int, Figure], ...] = field(repr=False)
    n_queries: int
    n_rows: int
    n_pairs: int
    seed: int

    @property
    def holds(self) -> bool:
        """The criterion: new queries do at least as well on the old store as old ones."""
        return self.gain.mean >= 0

    @property
    def verdict(self) -> str:
        """``holds`` or ``fails`` where all of the gain's interval says so, else ``undecided``."""
        return "holds" if self.gain.low >= 0 else "fails" if self.gain.high < 0 else "undecided"

    @property
    def enough(self) -> int:
        """Fewest pairs tried whose interval reaches what all of them give."""
        return next(n for n, figure in self.curve if figure.high >= self.new_old.mean)

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON values."""
        said = {"holds": self.holds, "verdict": self.verdict, "enough": self.enough}
        return to_json(asdict(self) | said)

    def __str__(self) -> str:
        of = "of the query's class" if self.judge == "labels" else "that the new encoder finds"
        rows = [
            ("old queries, old store", self.old_old),
            (f"new queries, old store: {self.way}", self.new_old),
            (f"new queries, moved store: {self.way_back}", self.new_moved),
            ("new queries, new store", self.new_new),
            ("old results that stay", self.agreement),
            ("gain over the old system", self.gain),
        ]
        return "\n".join(
            [f"share of the first {self.k} {of}; {self.n_queries} queries, {self.n_rows:,} rows"]
            + [f"  {name:44} {figure}" for name, figure in rows]
            + [f"  {f'by {name}':>44} {figure}" for name, figure in self.ways.items()]
            + [f"  {f'with {n:,} pairs to fit':>44} {figure}" for n, figure in self.curve]
            + [f"compatibility: {self.verdict}; {self.enough:,} pairs are enough"]
        )


def share(values: Tensor) -> Figure:
    """Mean of (m,) shares."""
    return Figure(*interval(values))


def difference(values: Tensor) -> Figure:
    """Mean of (m,) differences, with the normal interval."""
    mean = float(values.mean())
    half = TWO_SIDED * math.sqrt(float(values.var()) / len(values))
    return Figure(mean, mean - half, mean + half)
