"""What a comparison of ways to adapt came to: runs, their means and differences, a table."""

from __future__ import annotations

import math
import textwrap
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

import torch
from scipy.special import stdtrit
from torch import Tensor

from lowdim.adapt.task import Z95
from lowdim.core.estimate import to_json

WIDTH = 80


@dataclass(frozen=True)
class Run:
    """One training of one method.

    Attributes
    ----------
    method : str
        Name of the contender.
    seed : int
        Of the head, the order of the data, dropout and the adapter.
    lr : float
        Largest step size.
    trained, head : int
        Numbers that trained outside the modules that train whole, and in them.
    score, low, high : float or None
        On the held-out data, with its interval; None where the run diverged.
    seconds : float
        Of training.
    steps : int
        Optimiser steps.
    peak_bytes : int or None
        Peak memory of the device while training; None on a CPU, where it is not known.
    diverged : str or None
        What went wrong and where.
    per_item : list of float
        See :class:`Score`.
    """

    method: str
    seed: int
    lr: float
    trained: int
    head: int
    score: float | None = None
    low: float | None = None
    high: float | None = None
    seconds: float = 0.0
    steps: int = 0
    peak_bytes: int | None = None
    diverged: str | None = None
    per_item: list[float] = field(default_factory=list, repr=False)


@dataclass(frozen=True)
class Row:
    """What the runs of one method come to.

    Attributes
    ----------
    method : str
        Name.
    options : dict
        With the size that the budget gave.
    lr : float
        Chosen or given.
    trained, head : int
        See :class:`Run`; the mean where runs differ.
    value, half : float or None
        Mean score over the seeds that did not diverge, and half the width of its 95% interval
        (Student's t over seeds: the noise of training, on this held-out data).
    difference, reach : float or None
        Mean paired difference from the baseline and half the width of its 95% interval, over seeds
        and held-out items together; of a perplexity the difference of its logarithm, in nats.
    verdict : str
        ``better``, ``worse``, ``not distinguishable``, ``diverged in 1 of 5``,
        ``one seed: not judged``; empty for the baseline, or where there is none.
    seconds : float
        Mean of a run.
    """

    method: str
    options: dict[str, Any]
    lr: float
    trained: int
    head: int
    value: float | None
    half: float | None
    difference: float | None
    reach: float | None
    verdict: str
    seconds: float


@dataclass(frozen=True)
class Comparison:
    """Ways of adapting side by side; prints as a table of 80 columns.

    Attributes
    ----------
    score : str
        Name of the score.
    higher_is_better : bool
        Which way is good.
    untrained : float
        Score before anything is trained, the head as it was drawn.
    budget : int
        Numbers that each method may train.
    baseline : str
        What the others are compared with.
    seeds : tuple of int
        Of the runs.
    epochs : int
        Passes over the training data.
    runs : tuple of Run
        Every one, also those that diverged.
    tuning : dict
        Of each method the score of each step size that was tried, on a fifth of the training data
        that was left out of it, None where it diverged; without those where one was given.
    options : dict
        Of each method.
    """

    score: str
    higher_is_better: bool
    untrained: float
    budget: int
    baseline: str
    seeds: tuple[int, ...]
    epochs: int
    runs: tuple[Run, ...] = field(repr=False)
    tuning: dict[str, dict[str, float | None]]
    options: dict[str, dict[str, Any]]

    @property
    def rows(self) -> list[Row]:
        """One a method, in the order they were given."""
        return [self._row(name) for name in self.options]

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON values; the held-out items are left out."""
        facts = {k: v for k, v in vars(self).items() if k != "runs"}
        runs = [{k: v for k, v in asdict(run).items() if k != "per_item"} for run in self.runs]
        return to_json(facts | {"rows": [asdict(row) for row in self.rows], "runs": runs})

    def __str__(self) -> str:
        rows = self.rows
        lines = [_line("method", "trained", self.score, f"minus {self.baseline}"[:17], "verdict")]
        for row in rows:
            score = _with(row.value, row.half)
            difference = _with(row.difference, row.reach, "+")
            lines.append(_line(row.method, f"{row.trained:,}", score, difference, row.verdict))
        return "\n".join([*lines, *(n for note in self._notes(rows) for n in _wrapped(note))])

    def _notes(self, rows: Sequence[Row]) -> list[str]:
        head = max(row.head for row in rows)
        beside = f" beside {head:,} of the head" if head else ""
        nats = " (of the logarithm, in nats)" if self.score == "perplexity" else ""
        given = ", ".join(f"{r.method} {r.lr:g}" for r in rows if r.method not in self.tuning)
        tuned = ", ".join(f"{r.method} {r.lr:g}" for r in rows if r.method in self.tuning)
        return [
            f"At most {self.budget:,} numbers{beside}, {len(self.seeds)} seeds, {self.epochs} "
            f"epochs. Before training: {self.untrained:.4g}.",
            f"± reaches 95%: of a score over seeds, of a difference{nats} over seeds and held-out "
            "items.",
            *([f"Step sizes chosen on a fifth of the training data: {tuned}."] if tuned else []),
            *([f"Step sizes as given: {given}."] if given else []),
            "Seconds a run: " + ", ".join(f"{r.method} {r.seconds:.3g}" for r in rows) + ".",
        ]

    def _row(self, name: str) -> Row:
        runs = [run for run in self.runs if run.method == name]
        scores = torch.tensor([r.score for r in runs if r.score is not None], dtype=torch.float64)
        difference, reach = self._difference(name)
        return Row(
            method=name,
            options=self.options[name],
            lr=runs[0].lr,
            trained=round(sum(run.trained for run in runs) / len(runs)),
            head=runs[0].head,
            value=float(scores.mean()) if len(scores) else None,
            half=_reach(scores),
            difference=difference,
            reach=reach,
            verdict=self._verdict(len(runs) - len(scores), len(runs), difference, reach),
            seconds=sum(run.seconds for run in runs) / len(runs),
        )

    def _verdict(self, lost: int, n: int, difference: float | None, reach: float | None) -> str:
        if lost:
            return f"diverged in {lost} of {n}"
        if difference is None:
            return ""
        if reach is None:
            return "one seed: not judged"
        if abs(difference) <= reach:
            return "not distinguishable"
        return "better" if (difference > 0) == self.higher_is_better else "worse"

    def _difference(self, name: str) -> tuple[float | None, float | None]:
        """Paired difference from the baseline, and how far its interval reaches.

        The variance over seeds and that over held-out items add up; what the two share is counted
        in both, so the interval is on the wide side.
        """
        ours, base = self._finished(name), self._finished(self.baseline)
        pairs = [(ours[seed], base[seed]) for seed in ours if seed in base]
        if name == self.baseline or not pairs:
            return None, None
        a, b = (torch.tensor(side, dtype=torch.float64) for side in zip(*pairs, strict=True))
        apart = a - b  # (seeds, items)
        over_seeds, n = _reach(apart.mean(1)), apart.shape[1]
        if over_seeds is None:
            return float(apart.mean()), None
        over_items = Z95 * float(apart.mean(0).std()) / math.sqrt(n) if n > 1 else math.inf
        return float(apart.mean()), math.hypot(over_seeds, over_items)

    def _finished(self, name: str) -> dict[int, list[float]]:
        """What a method got on each held-out item, by seed."""
        return {r.seed: r.per_item for r in self.runs if r.method == name and r.diverged is None}


def _reach(values: Tensor) -> float | None:
    """Half the width of Student's 95% interval of a mean; None of fewer than two values."""
    n = len(values)
    return float(stdtrit(n - 1, 0.975)) * float(values.std()) / math.sqrt(n) if n > 1 else None


def _with(value: float | None, half: float | None, sign: str = "") -> str:
    if value is None:
        return ""
    return _digits(value, 3 if sign else 4, sign) + (
        "" if half is None else f" ± {_digits(half, 2)}"
    )


def _digits(value: float, n: int, sign: str = "") -> str:
    """A number to n digits, without an exponent unless it is tiny or huge."""
    size = math.floor(math.log10(abs(value))) if value else 0
    if not -4 <= size <= 6:
        return f"{value:{sign}.{n}g}"
    return f"{value:{sign},.{max(0, n - 1 - size)}f}"


def _line(name: str, trained: str, score: str, difference: str, verdict: str) -> str:
    return f"{name[:14]:<14}{trained:>10}{score:>17}{difference:>18}  {verdict}".rstrip()


def _wrapped(note: str) -> list[str]:
    return textwrap.wrap(note, WIDTH)
