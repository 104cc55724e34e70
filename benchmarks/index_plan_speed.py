"""How long does a plan take, and in how much memory, as the rows grow to a million on disk?"""

from __future__ import annotations

import argparse
import tempfile
import time
from pathlib import Path

import numpy as np

from benchmarks.harness import Row, peak_memory, report
from lowdim.core.progress import bars
from lowdim.retrieval import plan


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--n", type=int, nargs="+", default=[20_000, 100_000, 1_000_000])
    parser.add_argument("--dim", type=int, default=384)
    parser.add_argument("--keep-recall", type=float, default=0.95)
    parser.add_argument("--memory", default="1GiB")
    args = parser.parse_args()
    rows = []
    with tempfile.TemporaryDirectory() as folder:
        for n in args.n:
            path = Path(folder) / f"{n}.npy"
            write(path, n, args.dim)
            with peak_memory() as peak, bars() as progress:
                start = time.perf_counter()
                made = plan(
                    path, keep_recall=args.keep_recall, memory=args.memory, progress=progress
                )
                seconds, added = time.perf_counter() - start, peak()
            print(made)
            path.unlink()
            rows += [
                Row(f"{n:,} rows: plan", seconds, "s", "<= 120" if n <= 20_000 else ""),
                Row(f"{n:,} rows: memory added", added / 2**30, "GiB", "<= 4"),
                Row(f"{n:,} rows: configurations measured", len(made.rows)),
                Row(f"{n:,} rows: bytes of the choice", made.best.bytes if made.best else 0, "B"),
            ]
    report("index_plan_speed", rows, **vars(args))


def write(path: Path, n: int, dim: int) -> None:
    """Rows around 1,000 centres with a spectrum that falls, as embeddings of texts have it."""
    rng = np.random.default_rng(0)
    scale = np.arange(1, dim + 1, dtype=np.float32) ** -0.5
    centres = rng.standard_normal((1_000, dim), dtype=np.float32) * scale
    file = np.lib.format.open_memmap(path, mode="w+", dtype=np.float32, shape=(n, dim))
    for start in range(0, n, 50_000):
        size = min(50_000, n - start)
        noise = rng.standard_normal((size, dim), dtype=np.float32) * scale
        file[start : start + size] = centres[rng.integers(0, 1_000, size)] + noise
    file.flush()


if __name__ == "__main__":
    main()
