"""A million embeddings of 384 columns: fit by streaming, resume after a kill, predict.

The points are ``--n`` rows on seven flat pieces with noise in one ``.npy`` file; the mixture of
dictionaries is given three epochs. Prediction is held against this machine's float32 product rate
by the multiplications that the pieces ask for.
"""

from __future__ import annotations

import argparse
import os
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import psutil
import torch

from benchmarks.harness import Row, report
from lowdim.datasets import strata
from lowdim.structure.agreement import accuracy

DIMS = (4, 8, 12, 16, 20, 24, 28)
BLOCK = 2**17
FIT = """
import sys, time, torch
from lowdim.registry import find
name, points, out, resume = sys.argv[1:5]
options = {"epochs": 3} if name == "moe" else {}
model = find(f"structure/{name}").function(n_pieces=7, memory="1GiB", random_state=0, **options)
start = time.perf_counter()
model.fit(points, out=out, resume=resume == "yes")
seconds = time.perf_counter() - start
start = time.perf_counter()
labels = model.predict(points)
torch.save({"labels": labels, "fit": seconds, "predict": time.perf_counter() - start}, out + ".pt")
"""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--n", type=int, default=1_000_000)
    parser.add_argument("--methods", nargs="+", default=["subspaces", "moe"])
    args = parser.parse_args()
    rows = []
    with tempfile.TemporaryDirectory() as work:
        points, truth = generate(Path(work), args.n)
        rate = product_rate()
        rows.append(Row("float32 products", rate / 1e9, "GFLOP/s"))
        for name in args.methods:
            whole, peak = fit(name, points, Path(work) / f"{name}-whole")
            killed = Path(work) / f"{name}-killed"
            kill_halfway(name, points, killed, whole["fit"] / 2)
            again, _ = fit(name, points, killed, resume=True)
            work_done = products(name) * args.n
            rows += [
                Row(f"{name}: fit", whole["fit"], "s"),
                Row("  peak resident memory", peak / 2**30, "GiB", "<= 4"),
                Row("  accuracy on known pieces", accuracy(whole["labels"], truth)),
                Row("  predict", whole["predict"], "s"),
                Row("  of the product rate", work_done / whole["predict"] / rate, "x", ">= 0.1"),
                Row("  resumed after a kill: the rest of the fit", again["fit"], "s"),
                Row(
                    "  resumed: share of equal labels",
                    float((again["labels"] == whole["labels"]).double().mean()),
                    "",
                    ">= 1",
                ),
            ]
    report("strata_scale", rows, n=args.n, columns=384, dims=DIMS)


def products(name: str) -> float:
    """Floating point operations that one point asks of the fitted pieces."""
    if name == "moe":  # 64 columns first; then 7 experts, and the gate of 128
        atoms, layers = 32, 5
        lista = layers * 64 * atoms + (layers - 1) * atoms * atoms + 64 * atoms
        return 2.0 * (384 * 64 + 7 * lista + 64 * 128 + 7 * 128)
    return 2.0 * 384 * sum(DIMS)


def generate(folder: Path, n: int) -> tuple[Path, torch.Tensor]:
    """Points as a .npy file, drawn block by block from one set of pieces."""
    planted = strata(100_000, DIMS, 384, noise=0.1, seed=0)
    path = folder / "points.npy"
    file = np.lib.format.open_memmap(path, "w+", np.float32, (n, 384))
    labels = torch.empty(n, dtype=torch.int64)
    generator = torch.Generator().manual_seed(1)
    for start in range(0, n, BLOCK):
        stop = min(start + BLOCK, n)
        own = torch.randint(len(DIMS), (stop - start,), generator=generator)
        x = planted.noise * torch.randn(stop - start, 384, generator=generator)
        for k, basis in enumerate(planted.bases):
            on = own == k
            z = torch.randn(int(on.sum()), DIMS[k], generator=generator) / DIMS[k] ** 0.5
            x[on] += z @ basis.T.float()
        file[start:stop], labels[start:stop] = x.numpy(), own
    file.flush()
    return path, labels


def fit(name: str, points: Path, out: Path, *, resume: bool = False) -> tuple[dict, int]:
    """Fit and predict in a process of its own; what it found, and its peak memory."""
    process = start(name, points, out, resume)
    peak, seen = 0, psutil.Process(process.pid)
    while process.poll() is None:
        peak = max(peak, seen.memory_info().rss)
        time.sleep(0.05)
    if process.returncode:
        raise SystemExit(f"{name} ended with {process.returncode}")
    return torch.load(f"{out}.pt", weights_only=True), peak


def kill_halfway(name: str, points: Path, out: Path, seconds: float) -> None:
    """Begin a fit and kill it without notice."""
    process = start(name, points, out, False)
    time.sleep(seconds)
    os.kill(process.pid, signal.SIGKILL)
    process.wait()


def start(name: str, points: Path, out: Path, resume: bool) -> subprocess.Popen:
    """A fit in another process."""
    out.mkdir(exist_ok=True)
    command = [sys.executable, "-c", FIT, name, str(points), str(out), "yes" if resume else "no"]
    return subprocess.Popen(command)


def product_rate() -> float:
    """Operations a second of a float32 product of this kind."""
    a, b = torch.randn(2**14, 384), torch.randn(384, 256)
    rates = []
    for _ in range(20):
        begin = time.perf_counter()
        a @ b
        rates.append(2 * a.numel() * 256 / (time.perf_counter() - begin))
    return sorted(rates)[len(rates) // 2]


if __name__ == "__main__":
    main()
