"""What every benchmark needs: interleaved timing, peak memory, a table with bars, a JSON file.

Machines are shared and noisy, so contenders run in turn within one process, and what is quoted is
the median over the turns of the ratio within one turn; the times are there to be read, not to be
compared across runs.
"""

from __future__ import annotations

import json
import os
import platform
import shlex
import statistics
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import psutil
import torch

SHORTEST_TURN = 0.3
RESULTS = Path(__file__).parent / "results"


@dataclass
class Row:
    """One line of a table: a figure, and the bar it is held against."""

    what: str
    figure: float
    unit: str = ""
    bar: str = ""  # e.g. "<= 0.8"; empty where nothing was promised

    @property
    def met(self) -> bool | None:
        """Whether the figure meets its bar."""
        if not self.bar:
            return None
        sign, limit = self.bar.split()
        return bool(self.figure <= float(limit) if sign == "<=" else self.figure >= float(limit))


class Times(dict[str, list[float]]):
    """Wall times of each contender, turn by turn."""

    def ratio(self, ours: str, theirs: str) -> float:
        """Median over the turns of one contender's time over another's."""
        return statistics.median(a / b for a, b in zip(self[ours], self[theirs], strict=True))

    def best(self, name: str) -> float:
        """Smallest time of a contender."""
        return min(self[name])


def interleaved(
    contenders: Mapping[str, Callable[[], Any]], repeats: int = 3, *, warm_up: bool = True
) -> Times:
    """Time contenders in turn, A B C A B C, after one warm-up each.

    A turn of a short contender is the median of its runs in 0.3 s: for some milliseconds after one
    library's work its idle threads still spin on the cores, which is not the next one's time.
    """
    times = Times({name: [] for name in contenders})
    for turn in range(repeats + warm_up):
        for name, run in contenders.items():
            taken: list[float] = []
            while sum(taken) < SHORTEST_TURN:
                start = time.perf_counter()
                run()
                taken.append(time.perf_counter() - start)
            if turn >= warm_up:
                times[name].append(statistics.median(taken))
    return times


@contextmanager
def peak_memory() -> Iterator[Callable[[], int]]:
    """Resident bytes added at the worst moment inside the block, sampled every 5 ms."""
    process = psutil.Process()
    before = peak = process.memory_info().rss
    stop = threading.Event()

    def watch() -> None:
        nonlocal peak
        while not stop.wait(0.005):
            peak = max(peak, process.memory_info().rss)

    thread = threading.Thread(target=watch, daemon=True)
    thread.start()
    try:
        yield lambda: peak - before
    finally:
        stop.set()
        thread.join()


def report(name: str, rows: list[Row], **settings: Any) -> None:
    """Print the table and append the run to ``results/NAME.json``; old runs are never edited."""
    from rich.console import Console
    from rich.table import Table

    table = Table(title=f"{name}  {settings}", title_justify="left", box=None, pad_edge=False)
    for column in ("what", "figure", "bar", "met"):
        table.add_column(column, justify="left" if column == "what" else "right", no_wrap=True)
    for row in rows:
        met = {True: "yes", False: "NO", None: ""}[row.met]
        table.add_row(row.what, f"{row.figure:.4g} {row.unit}".strip(), row.bar, met)
    Console().print(table)
    RESULTS.mkdir(exist_ok=True)
    record = {
        "name": name,
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
        "command": shlex.join(["python", "-m", f"benchmarks.{name}", *sys.argv[1:]]),
        "environment": environment(),
        "settings": settings,
        "rows": [asdict(row) | {"met": row.met} for row in rows],
    }
    path = RESULTS / f"{name}.json"
    history = json.loads(path.read_text()) if path.exists() else []
    path.write_text(json.dumps([*history, record], indent=1) + "\n")  # never edited, only added to


def environment() -> dict[str, Any]:
    """Where the figures come from."""
    model = platform.processor()
    cpuinfo = Path("/proc/cpuinfo")
    if cpuinfo.exists():
        lines = cpuinfo.read_text().splitlines()
        model = next(
            (line.split(": ")[1] for line in lines if line.startswith("model name")), model
        )
    return {
        "cpu": model,
        "cores": os.cpu_count(),
        "threads": torch.get_num_threads(),
        "ram": psutil.virtual_memory().total,
        "python": platform.python_version(),
        "torch": torch.__version__,
    }
