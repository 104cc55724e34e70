"""`lowdim scan` on the default input, and the import of lowdim: whole processes, timed outside."""

from __future__ import annotations

import subprocess
import sys
import tempfile
import time
from pathlib import Path

from benchmarks.harness import Row, report

IMPORT = """
import sys, time
start = time.perf_counter()
import lowdim
print(time.perf_counter() - start, 'torch' in sys.modules)
"""


def main() -> None:
    from lowdim import load_scan

    taken = []
    for _ in range(5):
        done = subprocess.run(
            [sys.executable, "-c", IMPORT], capture_output=True, text=True, check=True
        )
        seconds, torch_there = done.stdout.split()
        taken.append(float(seconds))
    with tempfile.TemporaryDirectory() as out:
        command = [sys.executable, "-m", "lowdim", "scan", "--out", out]
        start = time.perf_counter()
        subprocess.run(command, check=True, capture_output=True)
        wall = time.perf_counter() - start
        scan = load_scan(out)
        page = (Path(out) / "report.html").stat().st_size
    rows = [
        Row("lowdim scan on the default input, whole process", wall, "s", "<= 60"),
        Row("  its peak resident memory", scan.peak_bytes / 2**30, "GiB", "<= 3"),
        Row("  size of report.html", page / 2**20, "MiB"),
        Row("import lowdim, median of 5", sorted(taken)[2], "s", "<= 0.3"),
        Row("  torch imported by it (1 = yes)", float(torch_there == "True"), "", "<= 0"),
    ]
    report("scan", rows)


if __name__ == "__main__":
    main()
