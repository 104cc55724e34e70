"""Is the exact neighbour search cheaper than the bare matrix products it is made of?

    python benchmarks/neighbors.py [--n 50000 --d 384 --k 20 --repeats 5 --data gaussian]

Every repetition runs all contestants in turn, so that a machine shared with others slows all of
them. The headline, to which the bar applies, is the median over repetitions of the ratio within
one repetition; beside it stand the ratio of the fastest runs and the median ratio of processor
time. Peers run on the first ``--peers-n`` points, and ours with them on the same.
"""

from __future__ import annotations

import argparse
import json
import platform
import statistics
import threading
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import psutil
import torch

from lowdim.core.neighbors import Neighbors

BARS = {
    "self / products": 0.8,
    "queries / products": 1.3,
    "self / sklearn brute": 1.0,
    "self / faiss flat": 1.0,
}
MEMORY_BAR = 2**30


def data(kind: str, n: int, d: int) -> torch.Tensor:
    """Points to search: a file, Gaussian noise, or 100 tight clusters in order of cluster."""
    if kind.endswith(".npy"):
        return torch.from_numpy(np.load(kind)[:n].astype(np.float32))
    generator = torch.Generator().manual_seed(0)
    noise = torch.randn(n, d, generator=generator)
    if kind == "gaussian":
        return noise
    centers = torch.randn(100, d, generator=generator)
    return centers[torch.arange(n) * 100 // n] + 0.1 * noise


def products(a: torch.Tensor, b: torch.Tensor, block: int = 2048) -> None:
    """The bare products of all rows of ``a`` and ``b``, a block at a time into one buffer."""
    buffer = torch.empty(block * block)
    for rows in a.split(block):
        for columns in b.split(block):
            out = buffer[: len(rows) * len(columns)].view(len(rows), len(columns))
            torch.mm(rows, columns.T, out=out)


def peak(function: Callable[[], object]) -> int:
    """Most bytes of resident memory beyond those at the start."""
    process, done = psutil.Process(), threading.Event()
    start = highest = process.memory_info().rss

    def watch() -> None:
        nonlocal highest
        while not done.wait(0.005):
            highest = max(highest, process.memory_info().rss)

    watcher = threading.Thread(target=watch)
    watcher.start()
    function()
    done.set()
    watcher.join()
    return highest - start


def contestants(x: torch.Tensor, k: int, peers_n: int) -> dict[str, Callable[[], object]]:
    from sklearn.neighbors import NearestNeighbors

    queries, small = x[: len(x) // 5] + 0.01, x[:peers_n]
    array = small.numpy()
    runs: dict[str, Callable[[], object]] = {
        "products": lambda: products(x, x),
        "self": lambda: Neighbors.of_points(x, k, method="exact"),
        "query products": lambda: products(queries, x),
        "queries": lambda: Neighbors.of_points(x, k, queries=queries, method="exact"),
        "self (peers n)": lambda: Neighbors.of_points(small, k, method="exact"),
        "sklearn brute": lambda: (
            NearestNeighbors(n_neighbors=k, algorithm="brute").fit(array).kneighbors()
        ),
    }
    try:
        import faiss
    except ModuleNotFoundError:
        return runs

    def flat() -> object:
        index = faiss.IndexFlatL2(array.shape[1])
        index.add(array)
        return index.search(array, k + 1)

    return {**runs, "faiss flat": flat}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--n", type=int, default=50_000)
    parser.add_argument("--d", type=int, default=384)
    parser.add_argument("--k", type=int, default=20)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--peers-n", type=int, default=20_000)
    parser.add_argument("--data", default="gaussian", help="gaussian, clusters, or a .npy file")
    parser.add_argument("--out", type=Path, default=Path(__file__).parent / "results")
    args = parser.parse_args()
    x = data(args.data, args.n, args.d)
    Neighbors.of_points(x[:2000], args.k, method="exact")  # libraries loaded, threads started
    extra = peak(lambda: Neighbors.of_points(x, args.k, method="exact"))
    runs = contestants(x, args.k, min(args.peers_n, len(x)))
    seconds: dict[str, list[float]] = {name: [] for name in runs}
    processor: dict[str, list[float]] = {name: [] for name in runs}
    load = [psutil.getloadavg()[0]]
    for _ in range(args.repeats):
        for name, run in runs.items():
            start, busy = time.perf_counter(), time.process_time()
            run()
            seconds[name].append(time.perf_counter() - start)
            processor[name].append(time.process_time() - busy)
        load.append(psutil.getloadavg()[0])

    pairs = {
        "self / products": ("self", "products"),
        "queries / products": ("queries", "query products"),
        "self / sklearn brute": ("self (peers n)", "sklearn brute"),
        "self / faiss flat": ("self (peers n)", "faiss flat"),
    }
    ratios = {}
    print(f"{args.data} {tuple(x.shape)}, k={args.k}, {torch.get_num_threads()} threads")
    print(f"{'ratio':<24}{'median':>8}{'fastest':>9}{'cpu':>8}{'bar':>7}")
    for name, (ours, theirs) in pairs.items():
        if theirs not in seconds:
            print(f"{name:<24}{'not installed':>17}")
            continue
        median, cpu = (
            statistics.median(a / b for a, b in zip(times[ours], times[theirs], strict=True))
            for times in (seconds, processor)
        )
        fastest, bar = min(seconds[ours]) / min(seconds[theirs]), BARS[name]
        met = median <= bar
        ratios[name] = {"median": median, "fastest": fastest, "cpu": cpu, "bar": bar, "met": met}
        verdict = "" if met else "MISSED"
        print(f"{name:<24}{median:>8.3f}{fastest:>9.3f}{cpu:>8.3f}{bar:>7} {verdict}")
    print(f"peak extra memory {extra / 2**20:.0f} MiB, bar {MEMORY_BAR / 2**20:.0f} MiB")

    args.out.mkdir(exist_ok=True)
    result = {
        "n": len(x),
        "d": x.shape[1],
        "k": args.k,
        "data": Path(args.data).name,
        "peers_n": min(args.peers_n, len(x)),
        "ratios": ratios,
        "seconds": seconds,
        "processor_seconds": processor,
        "peak_extra_bytes": extra,
        "peak_extra_bar": MEMORY_BAR,
        "load_average": load,
        "environment": {
            "cpu": platform.processor() or platform.machine(),
            "cores": psutil.cpu_count(),
            "threads": torch.get_num_threads(),
            "torch": torch.__version__,
            "python": platform.python_version(),
        },
    }
    path = args.out / ("neighbors.json" if args.data == "gaussian" else "neighbors-data.json")
    path.write_text(json.dumps(result, indent=1) + "\n")
    print(path)


if __name__ == "__main__":
    main()
