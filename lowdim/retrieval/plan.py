"""`plan`: the smallest way to store vectors that still finds the right rows, with confidence.

Queries are cut in two. One half *selects*: it decides which configurations are measured on all
rows and which of them no other beats. The other half *confirms*: its recall is what the plan
reports and holds against the recall asked for. Configurations on the frontier are tested from the
largest down, each at level 5%, until the first that fails; the last that passed is the choice. The
chance that a choice's true recall is below the target is then at most 5%: to get to such a
configuration, the first of them in the sequence has to pass, which is one test at 5%, and the
sequence was fixed by the other queries (fixed sequence testing, as in Angelopoulos, Bates, Candes,
Jordan and Lei 2021, "Learn then Test", arXiv 2110.01052).
"""

from __future__ import annotations

import time
from collections.abc import Iterable
from dataclasses import replace
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

import lowdim
from lowdim.core.pieces import Pieces
from lowdim.core.progress import Progress, Silent
from lowdim.core.random import choice
from lowdim.core.shards import Held, Kept, Source, stamp
from lowdim.errors import InputError
from lowdim.io.write import check_writable
from lowdim.retrieval.configurations import Configuration, default_sizes
from lowdim.retrieval.growth import PARTS, recall_growth
from lowdim.retrieval.metric import as_queries, check_metric, exact_search, placed
from lowdim.retrieval.plan_gap import fit_gap
from lowdim.retrieval.plan_rows import Plan, PlanRow
from lowdim.retrieval.plan_steps import (
    Bench,
    Trained,
    between,
    judged,
    survivors,
)
from lowdim.retrieval.plan_structure import structure
from lowdim.retrieval.recall import Qrels, highest_bound, queries_for
from lowdim.retrieval.reduction import Training
from lowdim.structure.estimator import open_source

MEASURED = 12
"""Most configurations that are measured on all rows."""

TRAINED = 100_000
"""Rows that codecs are fitted to, as :class:`lowdim.retrieval.Codec` has it."""

INDEXED, GRAPHED = 10_000, 200_000
"""Rows from which lists are tried on top of the choice, and up to which a graph is (minutes)."""

GROWN = 250
"""Most queries that the growth of the index is measured with."""


def plan(
    x: Any, queries: Any = None, *, keep_recall: float | None = None, budget: int | None = None,
    metric: str = "cosine", k: int = 10, qrels: Qrels | None = None,
    configurations: Iterable[Configuration | str] | None = None, n_queries: int = 1000,
    n_index: int | None = None, seed: int = 0, memory: int | float | str | None = None,
    out: str | Path | None = None, resume: bool = False, progress: Progress | None = None,
) -> Plan:  # fmt: skip
    """How small can my vectors be, and do they still find the right rows?

    Parameters
    ----------
    x : array-like, path or source
        (n, d) vectors as the index would hold them; a source is streamed.
    queries : array-like, path or source, optional
        (m, d) queries like those to come. Without them, rows drawn at random are held out of ``x``:
        an honest stand-in only where queries are of the same kind as the rows.
    keep_recall : float, optional
        The choice is the smallest configuration whose recall exceeds this with 95% confidence.
    budget : int, optional
        The choice is the best that takes at most so many bytes a vector, its part of what is stored
        once (map and codebooks) included. Give one of the two, or neither for the frontier alone.
    metric : {"cosine", "dot", "euclidean"}
        What near means.
    k : int
        Length of the lists; recall is the share of the exact ``k`` best that are found.
    qrels : mapping, optional
        Row of a query -> {row: gain}, see :func:`lowdim.retrieval.recall.read_qrels`; adds nDCG and
        MRR.
    configurations : iterable of Configuration or str, optional
        What to measure, all of it, such as ``"pca 128, int8"``. By default each code at sizes from
        1/32 to 1/2 of float32 is tried on a sample and the best of each size are measured.
    n_queries : int
        Rows held out where no queries are given, at most a fifth of all.
    n_index : int, optional
        Vectors that the index will hold, where ``x`` is a sample of them: what is stored once is
        shared by so many, and ``fit_gap`` says what the choice loses on rows that it is not fitted
        to. The rows that are searched by default.
    seed : int
        Of all that is drawn.
    memory : int, float, str or None
        Budget of each search, see :func:`lowdim.core.memory.budget`.
    out : path, optional
        Folder for ``plan.json``, and while it runs for the configurations that are done.
    resume : bool
        Go on from those.
    progress : Progress, optional
        Where it is reported to, e.g. within ``lowdim.core.progress.bars()``.

    Returns
    -------
    Plan
        Rows, largest vectors first; ``plan.best.fit(x)`` is the codec.

    Raises
    ------
    InputError
        Both goals, or one that so few queries cannot show; k out of range; all rows equal; NaN, Inf
        or, with cosine, a zero vector.

    Notes
    -----
    m n d multiply-adds for the exact search and at most as many again for each of the dozen
    configurations measured; memory of 100,000 rows and their coordinates, and of the codes of
    65,536 rows. Trust the choice for queries like those given, and for about as many rows:
    ``plan.growth`` says what more rows do.
    """
    start = time.perf_counter()
    check_metric(metric)
    progress = progress or Silent()
    if resume and out is None:
        raise InputError("resume continues what out= has kept: give that folder")
    source = open_source(x)
    rows, q = _set_aside(source, queries, metric, n_queries, seed, qrels)
    _check(rows, q, k, keep_recall, budget)
    n_index = rows.n if n_index is None else n_index
    if n_index < rows.n:
        raise InputError(
            f"n_index={n_index}: {rows.n} rows of x are searched, give as many or more"
        )
    order = choice(len(q), len(q), seed, stream=1)
    select, confirm = order[: len(q) // 2], order[len(q) // 2 :]

    folder = check_writable(out) if out is not None else None
    key = {
        "points": stamp(source) if folder is not None else None,
        "queries": stamp(Held(q)) if folder is not None else None,
        "options": [metric, k, n_index, seed], "lowdim": lowdim.__version__,
    }  # fmt: skip
    kept = Pieces(folder, key, resume=resume)

    def exactly() -> dict[str, Tensor]:
        began, advance = time.perf_counter(), progress.task("exact search")
        ids, _ = exact_search(rows, q, k, metric=metric, memory=memory, progress=advance)
        return {"ids": ids, "seconds": torch.tensor(time.perf_counter() - began)}

    exact = kept.tensors("exact", exactly)
    truth = exact["ids"]
    trained = Trained(_sample(rows, TRAINED, metric, seed, memory), memory)
    found, notes = structure(trained.training.x, seed=seed, memory=memory)

    bench = Bench(rows, n_index, q, k, truth, select, confirm, qrels, trained, kept, progress)
    if configurations is None:
        chosen = survivors(bench.screened(default_sizes(rows.dim, budget)), MEASURED)
    else:
        chosen = [Configuration.parse(c) if isinstance(c, str) else c for c in configurations]
    if not chosen:
        raise InputError("no configuration is left to measure: give some, configurations=")
    table = mark([bench.row(c) for c in dict.fromkeys(chosen)])
    if configurations is None and keep_recall is not None:
        steps = between([(r.code_bytes, r.selected) for r in table if r.frontier], keep_recall)
        finer = survivors(bench.screened(steps), MEASURED)
        table = mark([*table, *(bench.row(c) for c in finer)])
    best, said = choose(table, keep_recall, budget)
    notes += said
    gap = None
    if n_index > rows.n and best is not None:
        try:
            gap = fit_gap(best.configuration, trained.training, q[confirm], k, memory=memory)
        except InputError as error:
            notes.append(f"not known is what the choice loses on rows it is not fitted to: {error}")
    if best is not None and best.configuration.index == "flat" and rows.n >= INDEXED:
        faster = [replace(best.configuration, index=index) for index in ("ivf", "hnsw")]
        if rows.n > GRAPHED or find_spec("faiss") is None:
            faster.pop()
        table = [*table, *(bench.row(c) for c in faster)]
    growth = None
    if rows.n >= 2 * PARTS * k:
        codec = trained.codec((best or max(table, key=lambda r: r.bound)).configuration)
        advance = progress.task("growth")
        some = q[order[:GROWN]]
        growth = recall_growth(
            rows, codec, some, k=k, seed=seed, memory=memory, progress=advance
        ).to_dict()
    made = Plan(
        rows=tuple(table), best=best, metric=metric, k=k, n=rows.n, n_index=n_index, dim=rows.dim,
        n_queries=len(q), keep_recall=keep_recall, budget=budget,
        exact={
            "query_ms": 1e3 * float(exact["seconds"]) / len(q), "bytes": 4 * rows.dim,
            **judged(truth, qrels, k),
        },
        structure=found, growth=growth, fit_gap=gap,
        screened=tuple(
            {"configuration": c.to_dict(), "bytes": round(size), "recall": recall}
            for c, size, recall in bench.tried
        ),
        notes=(*notes, *bench.notes), seed=seed, seconds=time.perf_counter() - start,
    )  # fmt: skip
    if folder is not None:
        made.save(folder / "plan.json")
        kept.clear()
    return made


def mark(rows: list[PlanRow]) -> list[PlanRow]:
    """The rows, largest vectors first, those on the frontier marked."""
    best, marked = -1.0, []
    for row in sorted(rows, key=lambda r: (r.bytes, -r.selected)):
        marked.append(replace(row, frontier=row.selected > best))
        best = max(best, row.selected)
    return marked[::-1]


def choose(
    rows: list[PlanRow], keep_recall: float | None, budget: int | None
) -> tuple[PlanRow | None, list[str]]:
    """The choice among marked rows, and what is to be said where there is none."""
    frontier = [row for row in rows if row.frontier]
    if budget is not None:
        fitting = [row for row in frontier if row.bytes <= budget]
        if fitting:
            return fitting[0], []
        least = frontier[-1]
        return None, [
            f"nothing fits {budget} bytes: the smallest takes {least.bytes}, {least.configuration}"
        ]
    if keep_recall is None:
        return None, []
    best = None
    for row in frontier:  # the first failure ends the sequence: see the top of this file
        if row.bound < keep_recall:
            break
        best = row
    if best is None:
        nearest = max(rows, key=lambda row: row.bound)
        return None, [
            f"nothing keeps recall {keep_recall:g} with 95% confidence: nearest comes "
            f"{nearest.configuration}, {nearest.bytes} bytes, recall {nearest.recall:.3f}, "
            f"above {nearest.bound:.3f}"
        ]
    return best, []


def _set_aside(
    source: Source, queries: Any, metric: str, n_queries: int, seed: int, qrels: Qrels | None
) -> tuple[Source, Tensor]:
    """What is searched, and placed queries; without any, rows that are then not searched."""
    if queries is not None:
        q = open_source(queries)
        return source, as_queries(q.read(), metric, source.dim)
    if qrels is not None:
        raise InputError("qrels judge given queries: give queries= as well")
    count = min(n_queries, source.n // 5)
    if count < 2:
        raise InputError(
            f"x has {source.n} rows, n_queries={n_queries}: too few to hold out two queries"
        )
    held_out = choice(source.n, count, seed).sort().values
    left = torch.ones(source.n, dtype=torch.bool)
    left[held_out] = False
    rows: Source = Kept(source, left.nonzero()[:, 0])
    if isinstance(source, Held):
        rows = Held(rows.read())
    return rows, as_queries(source.take(held_out), metric, source.dim)


def _check(rows: Source, q: Tensor, k: int, keep_recall: float | None, budget: int | None) -> None:
    if not 1 <= k < rows.n:
        raise InputError(f"k={k}: from 1 to {rows.n - 1}, one less than the rows that are searched")
    if keep_recall is not None and budget is not None:
        raise InputError("keep_recall and budget: give one of the two, the other is the answer")
    if len(q) < 2:
        raise InputError("one query cannot both select and confirm: give at least two")
    if budget is not None and budget < 1:
        raise InputError(f"budget={budget}: bytes a vector, at least 1")
    if keep_recall is None:
        return
    if not 0 < keep_recall < 1:
        raise InputError(f"keep_recall={keep_recall}: a share above 0 and below 1")
    confirm = len(q) - len(q) // 2
    if highest_bound(confirm) < keep_recall:
        raise InputError(
            f"keep_recall={keep_recall}: {len(q)} queries, half of which confirm, can show "
            f"{highest_bound(confirm):.4f} at most; give {2 * queries_for(keep_recall)} or more"
        )


def _sample(
    rows: Source, most: int, metric: str, seed: int, memory: int | float | str | None
) -> Training:
    """Rows in random order, as the metric compares them."""
    drawn = choice(rows.n, min(rows.n, most), seed, stream=2)
    order = drawn.argsort()
    x = torch.empty(len(drawn), rows.dim)
    x[order] = placed(rows.take(drawn[order], memory), metric)
    if bool((x == x[0]).all()):
        raise InputError("all rows are equal: there is nothing to tell apart")
    return Training(x, metric, seed=seed)
