"""Every dimension estimator against scikit-dimension's own on the same points, search included.

Both sides get the same rows. A peer that would take longer than ``--cap`` seconds, or would hold
more than half of the free memory, is run on fewer rows, ours with it, and the row's label says on
how many; what is quadratic in n favours ours the less the fewer rows there are.
"""

from __future__ import annotations

import argparse
import math
import statistics
import sys
import time
import warnings
from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np
import psutil
import torch

from benchmarks.harness import Row, interleaved, report
from benchmarks.neighbors import products

PROBE = 500  # rows on which a peer's time is taken first
MATRIX = 24  # bytes a pair of points that hold a matrix of distances, its mask and its sort


def peers(skdim: Any) -> dict[str, tuple[Callable[[np.ndarray], Any], int]]:
    """Their estimator with our arguments, and the bytes it holds for each pair of points."""
    id = skdim.id

    def graph(x: np.ndarray) -> Any:
        return id.KNN(k=4, gamma=1, ps=np.array([len(x) >> i for i in range(4)])).fit(x)

    return {
        "two-nn": (lambda x: id.TwoNN().fit(x), 0),
        "mle": (lambda x: id.MLE().fit(x, n_neighbors=20, comb="mle"), 0),
        "mle-levina-bickel": (
            lambda x: id.MLE(unbiased=True).fit(x, n_neighbors=20, comb="mean"), 0,
        ),
        "gride": (lambda x: id.GRIDE(multiscale=True, range_max=32).fit(x), 0),
        "mom": (lambda x: id.MOM().fit(x, n_neighbors=20), 0),
        "mind-ml": (lambda x: id.MiND_ML(k=20, D=x.shape[1]).fit(x), 0),
        "correlation-integral": (lambda x: id.CorrInt(k1=10, k2=20).fit(x), 0),
        "mada": (lambda x: id.MADA().fit(x, n_neighbors=20), MATRIX),
        "knn-graph": (graph, MATRIX),
        "tle": (lambda x: id.TLE().fit(x, n_neighbors=20), 0),
        "ess": (lambda x: id.ESS(ver="a").fit(x, n_neighbors=30), 0),
        "ess-cosine": (lambda x: id.ESS(ver="b").fit(x, n_neighbors=30), 0),
        "local-pca": (lambda x: id.lPCA(ver="FO", verbose=False).fit_pw(x, n_neighbors=30), 0),
        "danco": (lambda x: id.DANCo(k=10).fit(x), 0),
        "fisher-separability": (lambda x: id.FisherS().fit(x), MATRIX),
    }  # fmt: skip


def embedding(n: int, d: int) -> np.ndarray:
    """(n, d) float32: ten uniform coordinates through sines, with noise of one percent."""
    g = torch.Generator().manual_seed(0)
    z = torch.rand(n, 10, generator=g)
    mix, phase = torch.randn(10, d, generator=g), 2 * math.pi * torch.rand(d, generator=g)
    return ((z @ mix + phase).sin() + 0.01 * torch.randn(n, d, generator=g)).numpy()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--n", type=int, default=20_000)
    parser.add_argument("--dims", type=int, nargs="+", default=[10, 50, 384])
    parser.add_argument("--cap", type=float, default=5, help="seconds one run of a peer may take")
    parser.add_argument("--repeats", type=int, default=1)
    parser.add_argument("--only", nargs="+", help="short names of the methods to run")
    args = parser.parse_args()
    import skdim

    import lowdim
    from lowdim.registry import methods

    warnings.filterwarnings("ignore")
    table = peers(skdim)
    ours = {m.name: m for m in methods("geometry") if (m.oracle or "").startswith("skdim.id")}
    if missing := sorted(set(ours) - set(table)):
        parser.error(f"no peer for {', '.join(missing)}: add it to peers()")
    rows, ratios = [], []
    for d in args.dims:
        x = embedding(args.n, d)
        for name in args.only or ours:
            run, pair_bytes = table[name]
            n = rows_within(run, x, pair_bytes, args.cap)
            part = x[:n]
            k = max((q.options["k"] for q in ours[name].needs if q.noun == "neighbors"), default=0)
            contenders: dict[str, Callable[[], Any]] = {
                "ours": partial(lowdim.measure, part, f"geometry/{name}"),
                "theirs": partial(run, part),
            }
            if k:
                contenders["search"] = partial(lowdim.Neighbors.of_points, part, k)
            times = interleaved(contenders, args.repeats, warm_up=False)
            print(name, d, n, file=sys.stderr, flush=True)
            ratios.append(times.ratio("ours", "theirs"))
            label = f"{name}, {n:,} x {d}" + ("" if n == args.n else f" (of {args.n:,})")
            rows.append(Row(f"{label}: ours over skdim's", ratios[-1], "x", "<= 1"))
            rows.append(Row("  ours", times.best("ours"), "s"))
            if k:
                share = times.ratio("search", "ours")
                rows.append(Row(f"  of it the search, k = {k}", share, "share"))
        points = torch.from_numpy(x)
        times = interleaved(
            {
                "search": partial(lowdim.Neighbors.of_points, points, 32),
                "products": partial(products, points, points),
            },
            args.repeats,
        )
        ratio = times.ratio("search", "products")
        rows.append(Row(f"search of 32, {args.n:,} x {d}, over the bare products", ratio, "x"))
    rows.append(Row("median ratio, ours over skdim's", statistics.median(ratios), "x", "<= 0.1"))
    report("dimension_speed", rows, n=args.n, dims=args.dims, cap=args.cap)


def rows_within(run: Callable[[np.ndarray], Any], x: np.ndarray, pair: int, cap: float) -> int:
    """On how many rows the peer takes about ``cap`` seconds, and fits into half the memory."""
    run(x[:PROBE])  # libraries loaded, functions compiled
    few, seconds = min(PROBE, len(x)), seconds_on(run, x[:PROBE])
    more = min(4 * PROBE, len(x), int(few * math.sqrt(cap / seconds)))
    power = 2.0
    if more > 2 * few:
        before, seconds = seconds, seconds_on(run, x[:more])
        # what is quadratic in the end may look linear at first
        power = max(1.5, math.log(seconds / before) / math.log(more / few))
        few = more
    n = int(few * (cap / seconds) ** (1 / power))
    if pair:
        n = min(n, int(math.sqrt(psutil.virtual_memory().available / 2 / pair)))
    return max(min(n, len(x)), min(PROBE, len(x)))


def seconds_on(run: Callable[[np.ndarray], Any], x: np.ndarray) -> float:
    """Wall time of one run."""
    start = time.perf_counter()
    run(x)
    return time.perf_counter() - start


if __name__ == "__main__":
    main()
