"""Bias and spread of every dimension estimator by manifold, n and noise, beside scikit-dimension's.

python -m benchmarks.dimension_accuracy            # runs, appends to results/, writes the page
python -m benchmarks.dimension_accuracy --quick    # some minutes, prints and writes nothing
python -m benchmarks.dimension_accuracy --page     # writes the page from the newest run

Both packages see the same samples. An estimator of theirs whose first fit at some n takes longer
than ``--limit`` seconds is left out at that n, and the page says so. The second half is the
coverage of `lowdim.geometry.dimension`, whose calibration has seen none of these manifolds.
"""

from __future__ import annotations

import argparse
import importlib
import json
import math
import re
import statistics
import time
import warnings
from collections import defaultdict
from collections.abc import Callable
from contextlib import suppress
from datetime import UTC, datetime
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import torch

from benchmarks.harness import RESULTS, Row, environment, report
from lowdim.battery import fits_points
from lowdim.errors import InputError
from lowdim.geometry.dimension import dimension
from lowdim.geometry.nearest import Dimension
from lowdim.manifolds import BENCHMARK, Manifold
from lowdim.nouns import Shared
from lowdim.registry import Method, methods

DETAIL = RESULTS / "dimension" / "accuracy.json"
PAGE = Path(__file__).parent.parent / "docs" / "dimension-accuracy.md"
MADE: dict[str, dict[str, Any]] = {
    "geometry/mle-levina-bickel": {"unbiased": True},
    "geometry/mind-ml": {"D": 100},
}
FITTED: dict[str, dict[str, Any]] = {
    "geometry/mle": {"n_neighbors": 20, "comb": "mle"},
    "geometry/mle-levina-bickel": {"n_neighbors": 20, "comb": "mean"},
}
"""How scikit-dimension's are made and fitted where their defaults are not ours."""

WHO = ("ours", "theirs")
FAILURES = (ValueError, IndexError, ArithmeticError)  # of theirs, on odd data
Cell = dict[str, Any]


def estimators() -> list[Method]:
    """Registered methods that return a Dimension, found by asking each once."""
    x = torch.randn(200, 5, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    fitting = [m for m in methods("geometry") if fits_points(m)]
    shared = Shared(x, fitting)
    return [m for m in fitting if isinstance(shared.run(m), Dimension)]


def theirs(method: Method) -> Callable[[np.ndarray], float] | None:
    """scikit-dimension's estimator that the method names as its oracle, if it does."""
    named = re.fullmatch(r"skdim\.id\.(\w+)(?:\((\w+)='(\w+)'\))?", method.oracle or "")
    if named is None:
        return None
    kind = getattr(importlib.import_module("skdim.id"), named[1])
    settings = ({named[2]: named[3]} if named[2] else {}) | MADE.get(method.id, {})
    fitted = FITTED.get(method.id, {})
    return lambda x: float(kind(**settings).fit(x, **fitted).dimension_)


def accuracy(
    manifolds: list[Manifold], ns: list[int], noises: list[float], repeats: int, limit: float
) -> list[Cell]:
    """One cell for each estimator, manifold, n and noise: the estimates of both packages.

    What an estimator refuses, or cannot put a finite number to, is missing from its list.
    """
    chosen = estimators()
    others = {m.id: fit for m in chosen if (fit := theirs(m)) is not None}
    slow: dict[str, tuple[int, float]] = {}  # the n at which a fit took too long, and how long
    cells: list[Cell] = []
    small = torch.randn(60, 3, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    for fit in others.values():  # what they compile and load is no part of a fit
        with suppress(*FAILURES):
            fit(small.numpy())
    for n, noise, manifold in product(sorted(ns), noises, manifolds):
        found: dict[str, dict[str, list[float]]] = {
            m.id: {"ours": [], "theirs": []} for m in chosen
        }
        for seed in range(repeats):
            x = manifold.sample(n, noise=noise, seed=seed)
            shared = Shared(x, chosen, seed=seed)
            for m in chosen:
                with suppress(InputError):
                    found[m.id]["ours"].append(shared.run(m).value)
            for id, fit in others.items():
                if id in slow:
                    continue
                start = time.perf_counter()
                with suppress(*FAILURES):
                    found[id]["theirs"].append(fit(x.numpy()))
                if (taken := time.perf_counter() - start) > limit:
                    slow[id] = n, taken
        where: Cell = {"manifold": manifold.name, "dim": manifold.dim, "n": n, "noise": noise}
        for id, both in found.items():
            finite = {who: [v for v in values if math.isfinite(v)] for who, values in both.items()}
            cells.append(where | {"id": id} | finite)
        print(f"n={n} noise={noise} {manifold.name}", flush=True)
    for cell in cells:  # a fit or two before the limit was reached are no sample
        if cell["id"] in slow and cell["n"] >= slow[cell["id"]][0]:
            cell["theirs"], cell["left_out"] = [], slow[cell["id"]]
    return cells


def coverage(
    manifolds: list[Manifold], ns: list[int], noises: list[float], repeats: int
) -> list[Cell]:
    """One cell for each call of ``dimension``: its 90% interval, or None."""
    cells = []
    for n, noise, m in product(ns, noises, manifolds):
        for seed in range(repeats):
            found = dimension(m.sample(n, noise=noise, seed=100 + seed), seed=seed)
            cells.append(
                {"manifold": m.name, "dim": m.dim, "n": n, "noise": noise, "value": found.value}
                | {"low": found.low, "high": found.high}
            )
        print(f"dimension: n={n} noise={noise} {m.name}", flush=True)
    return cells


def bias(cell: Cell, whose: str) -> float:
    """Relative, of the mean estimate."""
    return statistics.fmean(cell[whose]) / cell["dim"] - 1


def spread(cell: Cell, whose: str) -> float:
    """Standard deviation over the repeats, relative to the truth."""
    return statistics.stdev(cell[whose]) / cell["dim"]


def medians(cells: list[Cell], whose: str) -> str:
    """Median size of the bias, and of the spread, as two columns of a table."""
    known = [c for c in cells if c[whose]]
    if not known:
        return "– | –"
    size = statistics.median(abs(bias(c, whose)) for c in known)
    spreads = [spread(c, whose) for c in known if len(c[whose]) > 1]
    return f"{size:.0%} | {statistics.median(spreads):.1%}" if spreads else f"{size:.0%} | –"


def covered(cells: list[Cell]) -> tuple[float, float, float]:
    """Share of resolved cases; of those, share that hold the truth; median relative width."""
    resolved = [c for c in cells if c["low"] is not None]
    if not resolved:
        return 0.0, math.nan, math.nan
    hits = statistics.fmean(c["low"] <= c["dim"] <= c["high"] for c in resolved)
    width = statistics.median((c["high"] - c["low"]) / c["value"] for c in resolved)
    return len(resolved) / len(cells), hits, width


def summary(cells: list[Cell]) -> str:
    """Bias and spread of each estimator over the manifolds, ours and theirs."""
    lines = [
        "| estimator | n | noise | bias, d <= 10 | spread | skdim's | spread "
        "| bias, d > 10 | spread | skdim's | spread |",
        "|---|---:|---:" + "|---:" * 8 + "|",
    ]
    groups: dict[tuple[str, int, float], list[Cell]] = defaultdict(list)
    for cell in cells:
        groups[cell["id"], cell["n"], cell["noise"]].append(cell)
    for (id, n, noise), group in sorted(groups.items()):
        low, high = ([c for c in group if (c["dim"] > 10) == above] for above in (False, True))
        columns = [medians(part, whose) for part in (low, high) for whose in WHO]
        lines.append(f"| {id.split('/')[1]} | {n} | {noise:.0%} | " + " | ".join(columns) + " |")
    return "\n".join(lines)


def by_manifold(cells: list[Cell], n: int, noise: float) -> str:
    """Mean estimate of each method on each manifold, scikit-dimension's in brackets."""
    here = {(c["manifold"], c["id"]): c for c in cells if (c["n"], c["noise"]) == (n, noise)}
    ids = sorted({id for _, id in here})
    lines = [
        "| manifold | d | " + " | ".join(id.split("/")[1] for id in ids) + " |",
        "|---|---:" + "|---:" * len(ids) + "|",
    ]

    def shown(cell: Cell) -> str:
        mean = {who: f"{statistics.fmean(cell[who]):.3g}" for who in WHO if cell[who]}
        other = f" ({mean['theirs']})" if "theirs" in mean else ""
        return mean.get("ours", "–") + other

    for name in dict.fromkeys(manifold for manifold, _ in here):
        row = " | ".join(shown(here[name, id]) for id in ids)
        lines.append(f"| {name} | {BENCHMARK[name].dim} | {row} |")
    return "\n".join(lines)


def coverage_table(cells: list[Cell]) -> str:
    """Resolved share, coverage and width by n and noise, for low and high dimensions."""
    lines = [
        "| n | noise | d <= 10: resolved | hold the truth | median width "
        "| d > 10: resolved | hold the truth | median width |",
        "|---:|---:" + "|---:" * 6 + "|",
    ]
    for n, noise in product(sorted({c["n"] for c in cells}), sorted({c["noise"] for c in cells})):
        here = [c for c in cells if (c["n"], c["noise"]) == (n, noise)]
        columns = []
        for above in (False, True):
            share, hits, width = covered([c for c in here if (c["dim"] > 10) == above])
            columns.append(f"{share:.0%} | {hits:.0%} | {width:.2f}" if share else "0% | – | –")
        lines.append(f"| {n} | {noise:.0%} | " + " | ".join(columns) + " |")
    return "\n".join(lines)


def misses_table(cells: list[Cell]) -> str:
    """Manifolds whose resolved intervals miss the truth in more than 15% of cases."""
    lines = ["| manifold | d | resolved | hold the truth |", "|---|---:|---:|---:|"]
    for name, m in BENCHMARK.items():
        share, hits, _ = covered([c for c in cells if c["manifold"] == name])
        if share < 0.5 or hits < 0.85:
            lines.append(f"| {name} | {m.dim} | {share:.0%} | {f'{hits:.0%}' if share else '–'} |")
    return "\n".join(lines)


def headline(cells: list[Cell]) -> list[Row]:
    """The rows that carry a bar."""
    share, hits, width = covered(cells)
    plain = [c for c in cells if c["dim"] <= 10 and c["n"] >= 1000]
    core = [c for c in cells if c["manifold"][1:2].isdigit()]
    return [
        Row("dimension(): resolved 90% intervals that hold the truth", hits, "", ">= 0.85"),
        Row("  on M1 to M13 alone", covered(core)[1], "", ">= 0.85"),
        Row("  share of cases resolved", share),
        Row("  share resolved, d <= 10 and n >= 1000", covered(plain)[0]),
        Row("  median relative width of the resolved", width),
    ]


def page(record: dict[str, Any]) -> str:
    """The generated page."""
    cells, intervals, settings = record["accuracy"], record["coverage"], record["settings"]
    left = {c["id"]: c["left_out"] for c in cells if "left_out" in c}
    left_out = "; ".join(
        f"{id.split('/')[1]} from n = {n} on ({seconds:.1f} s a fit)"
        for id, (n, seconds) in sorted(left.items())
    )
    rows = "\n".join(f"- {row.what.strip()}: **{row.figure:.3g}**" for row in headline(intervals))
    n, noises = max(c["n"] for c in cells), sorted({c["noise"] for c in cells})
    tables = "\n\n".join(
        f"### n = {n}, noise {noise:.0%}\n\n{by_manifold(cells, n, noise)}" for noise in noises
    )
    return f"""# How right are the dimension estimators?

Written by `{record["command"]}` on {record["date"][:10]}; [Dimension](dimension.md) says what to
make of it. {settings["repeats"]} samples a cell, the same ones for both packages. Noise is normal
in every column, its length in per cent of the rms distance from the mean. Bias is the median over
manifolds of |mean estimate / truth - 1|, spread the median standard deviation over samples divided
by the truth. Of scikit-dimension's, too slow and left out: {left_out or "none"}.

## All estimators

{summary(cells)}

## Coverage of `dimension()`

{len(intervals)} calls on the benchmark manifolds. Its calibration has seen none of them, though
some settings were chosen with their results in view ([which](dimension.md#how-it-was-calibrated)).
The intervals are at 90%.

{rows}

{coverage_table(intervals)}

Manifolds with under 85% coverage or under half of the cases resolved:

{misses_table(intervals)}

## By manifold

Mean estimate, scikit-dimension's same estimator in brackets.

{tables}
"""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--n", type=int, nargs="+", default=[500, 2000])
    parser.add_argument("--noise", type=float, nargs="+", default=[0.0, 0.05])
    parser.add_argument("--repeats", type=int, default=2)
    parser.add_argument("--limit", type=float, default=1.0, help="seconds a fit of theirs may take")
    parser.add_argument("--quick", action="store_true", help="n = 250 once; writes nothing")
    parser.add_argument("--page", action="store_true", help="from the newest run")
    args = parser.parse_args()
    warnings.filterwarnings("ignore")
    if args.page:
        PAGE.write_text(page(json.loads(DETAIL.read_text())[-1]), "utf-8")
        return
    settings = {"repeats": args.repeats, "limit": args.limit}
    if args.quick:
        settings = {"repeats": 2, "limit": 0.1}
        manifolds = list(BENCHMARK.values())[:8]
        cells = accuracy(manifolds, [250], [0.0], 2, 0.1)
        intervals = coverage(list(BENCHMARK.values()), [250, 500], [0.0], 1)
    else:
        manifolds = list(BENCHMARK.values())
        cells = accuracy(manifolds, args.n, args.noise, args.repeats, args.limit)
        intervals = coverage(manifolds, [250, 500, 1000, 2500], [0.0, 0.01, 0.05], args.repeats)
    record = {
        "name": "dimension_accuracy",
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
        "command": "python -m benchmarks.dimension_accuracy",
        "environment": environment(),
        "settings": settings,
        "accuracy": cells,
        "coverage": intervals,
    }
    if args.quick:
        print(page(record))
        return
    DETAIL.parent.mkdir(parents=True, exist_ok=True)
    history = json.loads(DETAIL.read_text()) if DETAIL.exists() else []
    DETAIL.write_text(json.dumps([*history, record]) + "\n")
    PAGE.write_text(page(record), "utf-8")
    report("dimension_accuracy", headline(intervals), manifolds=len(BENCHMARK), **settings)


if __name__ == "__main__":
    main()
