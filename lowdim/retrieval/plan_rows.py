"""What a plan found: a row for each configuration, and the choice among them."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, field
from pathlib import Path
from textwrap import fill
from typing import Any

import lowdim
from lowdim.core.estimate import to_json
from lowdim.core.memory import format_bytes
from lowdim.errors import InputError
from lowdim.io.write import atomic_write
from lowdim.retrieval.codec import Codec
from lowdim.retrieval.configurations import Configuration

SCHEMA = "lowdim.plan/1"


@dataclass(frozen=True, kw_only=True)
class PlanRow:
    """One configuration, measured on all rows.

    Attributes
    ----------
    configuration : Configuration
        What was measured.
    bytes : int
        Of a vector, its part of what is stored once included, rounded.
    code_bytes : int
        Of its code alone.
    overhead : int
        Bytes that are stored once: the map and the codebooks.
    stored : int
        Bytes of all of it: codes of every row of the index, and what is stored once.
    ratio : float
        Bytes of a float32 vector over ``bytes``.
    recall, low, high : float
        Mean recall of the queries that confirm, and its 95% interval.
    bound : float
        What that recall exceeds with 95% confidence, one-sided: held against ``keep_recall``.
    selected : float
        Recall of the queries that select: it decided which rows are on the frontier.
    rescored : float
        Recall where the best 4 k rows are ranked anew by their full vectors.
    ndcg, mrr : float or None
        By ``qrels``.
    query_ms, batch_ms : float
        Time of a query that comes alone, and of one in a batch of all queries.
    build_s : float
        Seconds to fit and to encode all rows.
    frontier : bool
        Whether no row with as few bytes has a better ``selected`` recall.
    metric : str
        cosine, dot or euclidean.
    seed : int
        Of what is drawn in the fit.
    """

    configuration: Configuration
    bytes: int
    code_bytes: int
    overhead: int
    stored: int
    ratio: float
    recall: float
    low: float
    high: float
    bound: float
    selected: float
    rescored: float
    ndcg: float | None = None
    mrr: float | None = None
    query_ms: float
    batch_ms: float
    build_s: float
    frontier: bool = False
    metric: str = "cosine"
    seed: int = 0

    def fit(self, x: Any, **options: Any) -> Codec:
        """A codec of this configuration fitted to ``x``; options as of :meth:`Codec.fit`."""
        return self.configuration.codec(metric=self.metric, seed=self.seed).fit(x, **options)


@dataclass(frozen=True, kw_only=True)
class Plan:
    """How small can the vectors be, and what does it cost?

    Attributes
    ----------
    rows : tuple of PlanRow
        Largest vectors first.
    best : PlanRow or None
        The choice; None where nothing keeps the recall or fits the budget, or neither was asked.
    metric : str
        cosine, dot or euclidean.
    k : int
        Recall is of the true ``k`` best.
    n, dim, n_queries : int
        Rows that were searched, their columns, and the queries, half of which confirm.
    n_index : int
        Rows that the index will hold, over which what is stored once is spread.
    keep_recall, budget : float, int or None
        What was asked.
    exact : dict
        ``query_ms``, ``bytes`` and, with qrels, ``ndcg`` and ``mrr`` of exact float32 search.
    structure : dict
        Spectrum, effective rank, intrinsic and local dimension of the vectors.
    growth : dict or None
        Recall of the choice as the index grows, see :class:`lowdim.retrieval.growth.Growth`.
    fit_gap : dict or None
        Where ``n_index`` is larger than n: recall of the choice among ``rows`` that it is fitted
        to, ``own``, and among as many ``others``.
    screened : tuple of dict
        ``configuration``, ``bytes`` and ``recall`` of what was tried on a sample of rows.
    notes : tuple of str
        What a careful reader must know.
    seed : int
        Of all that is drawn.
    seconds : float
        Of the whole plan.
    """

    rows: tuple[PlanRow, ...]
    best: PlanRow | None
    metric: str
    k: int
    n: int
    dim: int
    n_queries: int
    n_index: int
    keep_recall: float | None = None
    budget: int | None = None
    exact: dict[str, float] = field(default_factory=dict)
    structure: dict[str, Any] = field(default_factory=dict)
    growth: dict[str, Any] | None = None
    fit_gap: dict[str, Any] | None = None
    screened: tuple[dict[str, Any], ...] = ()
    notes: tuple[str, ...] = ()
    seed: int = 0
    seconds: float = 0.0

    @property
    def frontier(self) -> tuple[PlanRow, ...]:
        """The rows that no other beats, largest vectors first."""
        return tuple(row for row in self.rows if row.frontier)

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON values."""
        return to_json({"schema": SCHEMA, "lowdim": lowdim.__version__} | asdict(self))

    def save(self, path: str | Path) -> Path:
        """Write it as JSON; a folder gets ``plan.json``."""
        path = Path(path)
        path = path / "plan.json" if path.is_dir() else path
        atomic_write(path, json.dumps(self.to_dict(), indent=1, allow_nan=False))
        return path

    @classmethod
    def load(cls, path: str | Path) -> Plan:
        """Read what :meth:`save` wrote.

        Raises
        ------
        InputError
            Not there, truncated, of another kind or version, or with a value that can't be.
        """
        path = Path(path)
        path = path / "plan.json" if path.is_dir() else path
        try:
            values = json.loads(path.read_text(encoding="utf-8"))
        except (OSError, ValueError) as error:
            raise InputError(f"{path} cannot be read as a plan: {error}") from error
        if not isinstance(values, dict) or values.pop("schema", None) != SCHEMA:
            raise InputError(f"{path} is no plan of this version ({SCHEMA}): make it again")
        values.pop("lowdim", None)
        try:
            rows = tuple(_row(row) for row in values.pop("rows"))
            best = values.pop("best")
            values |= {name: tuple(values[name]) for name in ("screened", "notes")}
            return cls(rows=rows, best=None if best is None else _row(best), **values)
        except (KeyError, TypeError, AttributeError) as error:
            raise InputError(f"{path} is damaged ({error}): make it again") from error

    def __str__(self) -> str:
        found = f"{self.n:,} x {self.dim}, {self.metric}, {self.n_queries} queries"
        judged = any(row.ndcg is not None for row in self.rows)
        wide = 19 if judged else 24
        head = f"  {'bytes':>5} {'smaller':>7}  {'configuration':{wide}}"
        head += f" {f'recall@{self.k}':20} {'rescored':>9} {'ms':>6}"
        lines = [found, *self._said(), "", head + (f" {'nDCG':>5}" if judged else "")]
        for row in self.rows:
            mark = "*" if row == self.best else " " if row.frontier else "-"
            line = f"{mark} {row.bytes:5} {row.ratio:6.1f}x  {row.configuration!s:{wide}.{wide}}"
            line += f" {row.recall:.3f} [{row.low:.3f}, {row.high:.3f}] {row.rescored:9.3f}"
            line += f" {row.query_ms:6.2f}" + (f" {row.ndcg:5.3f}" if row.ndcg is not None else "")
            lines.append(line)
        lines.append("  * the choice; - beaten by a row with as few bytes")
        return "\n".join(lines + [fill(f"note: {note}", 80) for note in self.notes])

    def _said(self) -> list[str]:
        """The choice, what happens as the index grows, and on rows that are not fitted to."""
        said = []
        if self.best is not None:
            size = f"{self.best.bytes} bytes a vector, {format_bytes(self.best.stored)} in all"
            said.append(f"choice: {self.best.configuration}: {size}")
            said.append(
                f"  recall {self.best.recall:.3f}, with 95% confidence above {self.best.bound:.3f}"
            )
        if self.growth is not None:
            ahead = ", ".join(f"{r:.3f} at {size:,}" for size, r in self.growth["forecast"])
            said.append(f"  forecast: {ahead} rows")
        if (gap := self.fit_gap) is not None:
            both = f"{gap['own']:.3f} among these, {gap['others']:.3f} among others"
            said.append(f"  fitted to {gap['rows']:,} rows: {both}")
        return said


def _row(values: dict[str, Any]) -> PlanRow:
    return PlanRow(**{**values, "configuration": Configuration(**values["configuration"])})
