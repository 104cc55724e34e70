"""Ten million points of 384 columns in bounded memory: spectra, dimension and per-point scores.

The points are normal in ``--dim`` dimensions, turned into 384 columns by an orthonormal map: the
intrinsic dimension is ``dim`` and so is the participation ratio. They are written as Parquet parts
(15.4 GB for ten million) and read from a cold cache, as far as the system lets go of it, or with
``--warm`` as they were left in memory by whoever wrote or read them last. Every step
is held against what this machine's matrix products and its disk can do, measured in the same run.
The stated error of a dimension covers sampling; what it is off beyond that is bias, of a few
thousand references in so many dimensions.
"""

from __future__ import annotations

import argparse
import math
import os
import resource
import shutil
import tempfile
import time
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import torch

import lowdim
from benchmarks.harness import Row, report
from lowdim.battery import Measurement, fits_points
from lowdim.io.points import PointSource, open_points
from lowdim.registry import methods

COLUMNS = 384
PART = 2**17
GROUP = 2**14
READ = 2**31  # bytes read to find the disk's rate


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--n", type=int, nargs="+", default=[100_000, 1_000_000, 10_000_000])
    parser.add_argument("--dim", type=int, default=8)
    parser.add_argument("--reference", type=int, default=4_000)
    parser.add_argument("--memory", default="2GiB")
    parser.add_argument("--folder", type=Path, default=Path(tempfile.gettempdir()) / "lowdim-scale")
    parser.add_argument(
        "--warm", action="store_true", help="read from the system's cache, where the disk is slow"
    )
    parser.add_argument("--keep", action="store_true", help="leave the points for another run")
    args = parser.parse_args()
    start = time.perf_counter()
    generate(args.folder, max(args.n), args.dim)
    made = time.perf_counter() - start
    whole = open_points(args.folder)
    single, double = product_rate(torch.float32), product_rate(torch.float64)
    disk = read_rate(args.folder, args.warm)
    rows: list[Row] = []
    a_point: dict[str, list[float]] = {"spectra": [], "dimension": []}
    for n in sorted(args.n):
        source = whole.slice(0, n)
        found, took = spectra(source, args.memory, args.warm)
        a_point["spectra"].append(1e6 * took / n)
        ratio = found["participation-ratio"].value / args.dim
        rows += [
            Row(f"n = {n:,}: {len(found)} spectral measures", took, "s"),
            Row("  a point", a_point["spectra"][-1], "us"),
            Row("  of the float64 product rate", 4 * n * COLUMNS**2 / took / double, "x"),
            Row("  of the rate of reading alone", 4 * n * COLUMNS / took / disk, "x"),
            Row("  participation ratio over the true one", ratio),
        ]
        found, took = dimension(source, args.memory, args.reference, args.folder.parent, args.warm)
        a_point["dimension"].append(1e6 * took / n)
        work = 2 * n * args.reference * COLUMNS
        rows += [
            Row(f"n = {n:,}: two-nn, mle, the score of every row", took, "s"),
            Row("  a point", a_point["dimension"][-1], "us"),
            Row("  of the float32 product rate", work / took / single, "x"),
        ]
        for name in ("two-nn", "mle"):
            error = getattr(found[name], "standard_error", None)
            rows.append(Row(f"  {name}, true value {args.dim}", found[name].value))
            rows.append(Row("    its standard error", math.nan if error is None else error))
    for what, figures in a_point.items():
        growth = figures[-1] / figures[0]
        rows.append(Row(f"{what}: time a point, largest n over smallest", growth, "x", "<= 1.25"))
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
    rows += [
        Row("peak resident memory of the whole process", peak, "GiB", "<= 3"),
        Row("float32 products", single / 1e9, "GFLOP/s"),
        Row("float64 products", double / 1e9, "GFLOP/s"),
        Row("cache" if args.warm else "disk, cold", disk / 1e9, "GB/s"),
        Row("the points made and written, or found", made, "s"),
    ]
    report(
        "scale", rows, n=max(args.n), columns=COLUMNS, dim=args.dim, reference=args.reference,
        memory=args.memory, warm=args.warm,
    )  # fmt: skip
    if not args.keep:
        shutil.rmtree(args.folder)


def generate(folder: Path, n: int, dim: int) -> None:
    """Parquet parts of normal points, each from its own seed; parts that are there are kept."""
    folder.mkdir(parents=True, exist_ok=True)
    turn = torch.randn(COLUMNS, dim, generator=torch.Generator().manual_seed(dim))
    basis = torch.linalg.qr(turn).Q.T.contiguous()  # (dim, COLUMNS)
    for i, start in enumerate(range(0, n, PART)):
        rows = min(PART, n - start)
        path = folder / f"part-{i:05d}-{rows}-{dim}.parquet"
        if path.exists():
            continue
        latent = torch.randn(rows, dim, generator=torch.Generator().manual_seed(i))
        x = latent @ basis  # (rows, COLUMNS)
        lists = pa.FixedSizeListArray.from_arrays(pa.array(x.numpy().ravel()), COLUMNS)
        temporary = path.with_suffix(".tmp")
        pq.write_table(
            pa.table({"x": lists}), temporary, row_group_size=GROUP, compression="none",
            use_dictionary=False, write_statistics=False,
        )  # fmt: skip
        temporary.rename(path)
    wanted = {
        f"part-{i:05d}-{min(PART, n - s)}-{dim}.parquet" for i, s in enumerate(range(0, n, PART))
    }
    for path in folder.iterdir():
        if path.name not in wanted:  # of another size or dimension
            path.unlink()


def spectra(source: PointSource, memory: str, warm: bool) -> tuple[Measurement, float]:
    """All measures that read a spectrum alone, and the seconds they took."""
    names = [m.id for m in methods() if fits_points(m) and nouns(m) == {"spectrum"}]
    if not warm:
        forget(source.path)
    start = time.perf_counter()
    return lowdim.measure(source, *names, memory=memory), time.perf_counter() - start


def nouns(method: lowdim.registry.Method) -> set[str]:
    return {need.noun for need in method.needs}


def dimension(
    source: PointSource, memory: str, reference: int, near: Path, warm: bool
) -> tuple[Measurement, float]:
    """Two estimates of the dimension, the scores of every row written, and the seconds."""
    if not warm:
        forget(source.path)
    with tempfile.TemporaryDirectory(dir=near) as out:
        start = time.perf_counter()
        found = lowdim.measure(source, "two-nn", "mle", memory=memory, reference=reference, out=out)
        return found, time.perf_counter() - start


def forget(folder: Path) -> None:
    """Ask the system to drop the files from its cache."""
    for path in folder.iterdir():
        with path.open("rb") as file:
            os.fsync(file.fileno())
            os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)


def read_rate(folder: Path, warm: bool) -> float:
    """Bytes a second of plain reading."""
    if not warm:
        forget(folder)
    done, start = 0, time.perf_counter()
    for path in sorted(folder.iterdir()):
        with path.open("rb", buffering=0) as file:
            while (chunk := file.read(2**23)) and done < READ:
                done += len(chunk)
    return done / (time.perf_counter() - start)


def product_rate(dtype: torch.dtype) -> float:
    """Multiplications and additions a second of a product of two 2048 x 2048 matrices."""
    a = torch.randn(2048, 2048, dtype=dtype)
    best = math.inf
    for _ in range(10):
        start = time.perf_counter()
        a @ a
        best = min(best, time.perf_counter() - start)
    return 2 * 2048**3 / best


if __name__ == "__main__":
    main()
