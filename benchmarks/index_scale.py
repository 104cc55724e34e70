"""Ten million vectors of 384 columns made an index by streaming, killed on the way and resumed.

The vectors are normal, with energies that fall along directions of their own, written as one
memory-mapped .npy (15.4 GB for ten million). For each n one build runs in a process of its own from
start to end and reports its peak memory; another is killed when half of the shards are there, and
resumed; both have to end with the same bytes. Rates are held against what this machine's matrix
products do in the same run. A build of an n has one pass over the file for the sample that the
codec is fitted to and one for the codes.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import resource
import shutil
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path

import numpy as np
import psutil
import torch

from benchmarks.harness import Row, report
from benchmarks.scale import product_rate
from lowdim.core.shards import ROWS
from lowdim.io.points import open_points
from lowdim.retrieval import Codec, Index, build

COLUMNS = 384
BLOCK = 2**16
QUERIES = 100


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--n", type=int, nargs="+", default=[100_000, 1_000_000, 10_000_000])
    parser.add_argument("--code", default="int8")
    parser.add_argument("--reduction", default="pca")
    parser.add_argument("--dims", type=int, default=96)
    parser.add_argument("--memory", default="2GiB")
    parser.add_argument("--folder", type=Path, default=Path(tempfile.gettempdir()) / "lowdim-index")
    parser.add_argument("--keep", action="store_true", help="leave the vectors for another run")
    for ours in ("--vectors", "--build"):  # what a process of our own is told
        parser.add_argument(ours, type=Path, help=argparse.SUPPRESS)
    args = parser.parse_args()
    path = args.vectors or args.folder / f"vectors-{max(args.n)}.npy"
    if args.build is not None:
        built(path, args)
        return
    start = time.perf_counter()
    generate(path, max(args.n))
    made = time.perf_counter() - start
    products = product_rate(torch.float32)
    rows: list[Row] = []
    for n in sorted(args.n):
        rows += measured(path, n, args, products)
    rows += [
        Row("float32 products", products / 1e9, "GFLOP/s"),
        Row("the vectors made and written, or found", made, "s"),
    ]
    report(
        "index_scale", rows, n=args.n, columns=COLUMNS, code=args.code, reduction=args.reduction,
        dims=args.dims, memory=args.memory,
    )  # fmt: skip
    if not args.keep:
        shutil.rmtree(args.folder)


def generate(path: Path, n: int) -> None:
    """(n, COLUMNS) float32, each block from its own seed; a file that is there is kept."""
    if path.exists():
        return
    path.parent.mkdir(parents=True, exist_ok=True)
    turn = torch.randn(COLUMNS, COLUMNS, generator=torch.Generator().manual_seed(0))
    spread = torch.linalg.qr(turn).Q / torch.arange(1, COLUMNS + 1).sqrt()  # energies as 1 / i
    temporary = path.with_suffix(".tmp")
    x = np.lib.format.open_memmap(temporary, "w+", np.float32, (n, COLUMNS))
    for i, start in enumerate(range(0, n, BLOCK)):
        size = min(BLOCK, n - start)
        latent = torch.randn(size, COLUMNS, generator=torch.Generator().manual_seed(i))
        x[start : start + size] = (latent @ spread.T).numpy()
    x.flush()
    temporary.rename(path)


def built(path: Path, args: argparse.Namespace) -> None:
    """Build or resume in this process; print its seconds, and its peaks in bytes.

    ``own`` leaves out pages of the file itself, which the system takes back when it needs them.
    """
    source = open_points(path).slice(0, args.n[0])
    codec = Codec(args.code, reduction=args.reduction, dims=args.dims)
    process, own, stop = psutil.Process(), [0], threading.Event()

    def watch() -> None:
        while not stop.wait(0.02):
            used = process.memory_info()
            own[0] = max(own[0], used.rss - used.shared)

    threading.Thread(target=watch, daemon=True).start()
    start = time.perf_counter()
    build(source, codec, args.build, resume=True, memory=args.memory)
    seconds = time.perf_counter() - start
    stop.set()
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    print(json.dumps({"seconds": seconds, "peak": peak, "own": own[0]}))


def measured(path: Path, n: int, args: argparse.Namespace, products: float) -> list[Row]:
    whole, killed = args.folder / f"whole-{n}", args.folder / f"killed-{n}"
    for folder in (whole, killed):
        shutil.rmtree(folder, ignore_errors=True)
    once = result(started(path, n, whole, args))
    stopped = kill_at_half(path, n, killed, args)
    again = result(started(path, n, killed, args))
    index = Index.open(whole)
    q = open_points(path).take(torch.arange(min(QUERIES, n)))
    times = []
    for _ in range(2):
        start = time.perf_counter()
        ids = index.search(q, min(10, n))[0]
        times.append(time.perf_counter() - start)
    work = 2 * n * COLUMNS * args.dims
    shards = len(index.codes)
    return [
        Row(f"n = {n:,}: build", once["seconds"], "s"),
        Row("  a vector", 1e6 * once["seconds"] / n, "us"),
        Row("  of the float32 product rate, fit and all", work / once["seconds"] / products, "x"),
        Row("  peak memory of its own", once["own"] / 2**30, "GiB", "<= 4"),
        Row("  peak resident memory, pages of the file too", once["peak"] / 2**30, "GiB"),
        Row("  the index", index.nbytes / 2**30, "GiB"),
        Row(f"  killed after shards, of {shards}", stopped),
        Row("  resumed", again["seconds"], "s"),
        Row("  resumed to the same bytes", float(checksum(whole) == checksum(killed)), "", ">= 1"),
        Row(f"  first search of {len(q)}, checksums and all", times[0], "s"),
        Row(f"  second search of {len(q)}", times[1], "s"),
        Row("  queries that find themselves", found_themselves(ids), ""),
    ]


def started(path: Path, n: int, out: Path, args: argparse.Namespace) -> subprocess.Popen[str]:
    command = [
        sys.executable, "-m", "benchmarks.index_scale", "--n", str(n), "--code", args.code,
        "--reduction", args.reduction, "--dims", str(args.dims), "--memory", args.memory,
        "--vectors", str(path), "--build", str(out),
    ]  # fmt: skip
    return subprocess.Popen(command, stdout=subprocess.PIPE, text=True)


def result(job: subprocess.Popen[str]) -> dict[str, float]:
    said, _ = job.communicate()
    if job.returncode:
        raise SystemExit(f"a build ended with {job.returncode}")
    return json.loads(said)


def kill_at_half(path: Path, n: int, out: Path, args: argparse.Namespace) -> int:
    """Start a build, kill it when half of the shards are there; how many there were."""
    job = started(path, n, out, args)
    half = -(-n // ROWS) // 2
    while len(list(out.glob("codes/*.safetensors"))) < half and job.poll() is None:
        time.sleep(0.002)
    job.kill()
    job.wait()
    return len(list(out.glob("codes/*.safetensors")))


def checksum(folder: Path) -> str:
    """Of all codes and of the codec."""
    digest = hashlib.sha256()
    for path in sorted(folder.glob("*/*")):
        with path.open("rb") as file:
            digest.update(hashlib.file_digest(file, "sha256").digest())
    return digest.hexdigest()


def found_themselves(ids: torch.Tensor) -> float:
    return float((ids == torch.arange(len(ids))[:, None]).any(1).double().mean())


if __name__ == "__main__":
    main()
