"""The runs of ``lowdim index``: plan, build, search and export.

Each opens what the user names, does its work through :mod:`lowdim.retrieval`, and returns what is
shown of it.
"""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from lowdim.core.memory import budget as check_memory
from lowdim.core.progress import Progress, Silent
from lowdim.errors import InputError
from lowdim.io.points import UNNAMED, PointSource, open_points
from lowdim.io.write import check_writable
from lowdim.registry import find
from lowdim.report.index_document import Found, IndexReport, check_ending
from lowdim.report.scan import recorded
from lowdim.retrieval.code import find_code
from lowdim.retrieval.codec import Codec
from lowdim.retrieval.export import Exported
from lowdim.retrieval.export import export as export_index
from lowdim.retrieval.index import build as build_index
from lowdim.retrieval.index_folder import Index
from lowdim.retrieval.plan import plan as make_plan
from lowdim.retrieval.plan_rows import Plan
from lowdim.retrieval.recall import read_qrels

HELD_OUT = 1000
"""Rows that stand in for queries where none are given."""

STRUCTURE = (
    "spectra/effective-rank",
    "geometry/participation-ratio",
    "geometry/rank-90",
    "geometry/rank-99",
    "geometry/two-nn",
    "geometry/mle",
)


def plan(
    vectors: str | Path,
    *,
    queries: str | Path | None = None,
    qrels: str | Path | None = None,
    keep_recall: float | None = None,
    budget: int | None = None,
    metric: str = "cosine",
    k: int = 10,
    n_queries: int | None = None,
    n_index: int | None = None,
    configurations: Sequence[str] = (),
    column: str | None = None,
    out: str | Path,
    resume: bool = False,
    memory: int | float | str | None = None,
    seed: int = 0,
    progress: Progress | None = None,
) -> IndexReport:
    """How small can these vectors be, and do they still find the right rows?

    Parameters
    ----------
    vectors, queries : path
        Files of points; without queries, rows are held out.
    qrels : path, optional
        See :func:`lowdim.retrieval.recall.read_qrels`.
    n_queries : int, optional
        Rows that are held out where no queries are given; 1,000 by default.
    configurations : sequence of str
        Measure these alone, such as ``"pca 128, int8"``; by default all kinds are tried.
    column : str, optional
        Which array or column of the files holds the vectors, where there are several.
    out : path
        Gets ``plan.json`` and, until it is done, what is finished; write the report itself with
        ``report.save(out)``.
    keep_recall, budget, metric, k, n_index, resume, memory, seed, progress
        See :func:`lowdim.retrieval.plan`.

    Raises
    ------
    InputError
        For anything that cannot be used, before the work where that can be known.
    """
    start = time.perf_counter()
    check_memory(memory)
    if not 0 <= seed < 2**64:
        raise InputError(f"seed={seed}: a whole number in [0, 2^64)")
    if queries is not None and n_queries is not None:
        raise InputError("n_queries counts rows that are held out: with queries leave it out")
    source = open_points(vectors, column=column)
    asked = None if queries is None else open_queries(queries, column)
    judged = None if qrels is None else read_qrels(qrels)
    folder = check_writable(out)
    options = {
        "queries": queries, "qrels": qrels, "keep_recall": keep_recall, "budget": budget,
        "metric": metric, "k": k, "n_queries": n_queries, "n_index": n_index,
        "configuration": list(configurations) or None, "column": column, "memory": memory,
        "seed": seed, "out": out,
    }  # fmt: skip
    path, held_out = Path(vectors), HELD_OUT if n_queries is None else n_queries
    report = IndexReport(
        source={"kind": "points", "name": path.name, "path": str(path), "n": source.n},
        options={name: str(x) if isinstance(x, Path) else x for name, x in options.items()},
    )
    try:
        with recorded(report, None, start):
            made = make_plan(
                source, asked, keep_recall=keep_recall, budget=budget, metric=metric, k=k,
                qrels=judged, configurations=configurations or None, n_queries=held_out,
                n_index=n_index, seed=seed, memory=memory, out=folder, resume=resume,
                progress=progress,
            )  # fmt: skip
            report.plan, report.notes = made.to_dict(), list(made.notes)
            report.methods = {id: find(id).to_dict() for id in [*STRUCTURE, *_used(made)]}
    except KeyboardInterrupt:  # a mistake, on the other hand, leaves an older report as it was
        report.save_json(folder)
        raise
    return report


def build(
    vectors: str | Path,
    out: str | Path,
    *,
    plan: str | Path | None = None,
    codec: Mapping[str, Any] | None = None,
    lists: int | None = None,
    ids: str | Path | None = None,
    column: str | None = None,
    resume: bool = False,
    memory: int | float | str | None = None,
    progress: Progress | None = None,
) -> Index:
    """An index of these vectors in a folder.

    Parameters
    ----------
    vectors : path
        A file of points.
    plan, codec : path, mapping
        One of them: a ``plan.json`` whose choice is built, or the parameters of a
        :class:`lowdim.retrieval.Codec`.
    out, lists, ids, resume, memory, progress
        See :func:`lowdim.retrieval.build`.
    """
    check_memory(memory)
    if plan is not None and codec:
        raise InputError("give a plan, or a code with its reduction and dims, and not both")
    if plan is None and not codec:
        raise InputError("give a plan, or a code such as int8, to build the index by")
    if codec and "code" not in codec:
        raise InputError(f"{min(codec)} alone is no codec: name the code as well")
    source = open_points(vectors, column=column)
    chosen: Codec | str | Path = Codec(**codec) if plan is None and codec else str(plan)
    advance = (progress or Silent()).task("shards")
    return build_index(
        source, chosen, out, ids=ids, lists=lists, resume=resume, memory=memory, progress=advance
    )


def search(
    index: str | Path,
    queries: str | Path,
    *,
    k: int = 10,
    rescore: bool = False,
    candidates: int | None = None,
    probes: int | None = None,
    column: str | None = None,
    out: str | Path | None = None,
) -> Found:
    """The rows of an index that are nearest to each query.

    Parameters
    ----------
    index, queries : path
        A folder that :func:`build` wrote, a file of points.
    out : path, optional
        All that is found is written there, see :meth:`Found.save`.
    k, rescore, candidates, probes
        See :meth:`lowdim.retrieval.Index.search`.
    """
    if out is not None:
        check_ending(out)
    opened = Index.open(index)
    q = open_queries(queries, column).read()
    if candidates is not None and not rescore:
        raise InputError("candidates are ranked anew by --rescore: give it as well")
    if probes is not None and opened.n_lists is None:
        raise InputError(f"{index} has no inverted lists to probe: leave probes out")
    options = {"candidates": candidates, "probes": probes}
    opened.check()
    start = time.perf_counter()
    ids, scores = opened.search(
        q, k, rescore=rescore, **{name: n for name, n in options.items() if n is not None}
    )
    seconds = time.perf_counter() - start
    found = Found(np.asarray(ids), scores.numpy(), opened.codec.metric, seconds)
    if out is not None:
        found.save(out)
    return found


def export(
    index: str | Path,
    to: str,
    out: str | Path,
    *,
    dtype: str | None = None,
    queries: str | Path | None = None,
    column: str | None = None,
) -> Exported:
    """An index as another program opens it.

    Parameters
    ----------
    index : path
        A folder that :func:`build` wrote.
    queries : path, optional
        A file of points that what was written is tried with.
    to, out, dtype
        See :func:`lowdim.retrieval.export.export`.
    """
    opened = Index.open(index)
    q = None if queries is None else open_queries(queries, column).read()
    return export_index(opened, to, out, dtype=dtype, queries=q)


def open_queries(path: str | Path, column: str | None) -> PointSource:
    """A file of queries; ``column`` names them too, where its format has names."""
    named = Path(path).suffix.lower() not in UNNAMED
    return open_points(path, column=column if named else None)


def _used(made: Plan) -> list[str]:
    """Ids of the codes and reductions that were measured."""
    ids = dict.fromkeys(f"retrieval/{row.configuration.reduction}" for row in made.rows)
    for row in made.rows:
        code, size = row.configuration.code, find_code(row.configuration.code)[1]
        ids[f"retrieval/{code if size is None else code.removesuffix(str(size))}"] = None
    return list(ids)
