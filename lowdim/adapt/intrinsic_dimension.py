"""How many numbers a task needs: the least d whose random subspace does nearly as well as all.

Li et al. (2018) train theta_0 + P z for a ladder of d and call the least one that reaches 90% of
the score of full training the intrinsic dimension, d90; Aghajanyan et al. (2020) do so for
fine-tuning, without (DID) and with (SAID) a learned scale for each tensor. Such a model is a seed
and d numbers; what that says of its error on new data is in :mod:`lowdim.adapt.generalization`.

Cost: a training run for each d and seed, and one more for each d and step size where several are
tried.
"""

from __future__ import annotations

import dataclasses
import math
import statistics
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lowdim.adapt.attach import attach
from lowdim.adapt.files import save
from lowdim.adapt.fit import fit
from lowdim.adapt.method import check_size
from lowdim.adapt.subspace import RandomSubspace
from lowdim.adapt.task import Task
from lowdim.core import random
from lowdim.core.estimate import Estimate
from lowdim.core.pieces import Pieces
from lowdim.core.progress import Advance, Progress, Silent
from lowdim.errors import InputError
from lowdim.io.write import check_writable

LADDER = (10, 20, 50, 100, 200, 500, 1000, 2000, 5000)
RATES = (3e-5, 3e-4, 3e-3)  # from what a pretrained encoder bears to what a fresh small net needs


@dataclass(frozen=True)
class Rung:
    """Training with so many numbers.

    Attributes
    ----------
    dim : int
        Numbers that trained.
    lr : float
        Step size, in units of full training.
    scores : tuple of float
        One a seed.
    """

    dim: int
    lr: float
    scores: tuple[float, ...]

    @property
    def median(self) -> float:
        """Over the seeds; its interval is from :attr:`low` to :attr:`high`."""
        return statistics.median(self.scores)

    @property
    def low(self) -> float:
        """Smallest score of a seed."""
        return min(self.scores)

    @property
    def high(self) -> float:
        """Largest score of a seed."""
        return max(self.scores)


@dataclass(frozen=True, kw_only=True)
class IntrinsicDimension(Estimate):
    """The least d of a ladder that reaches the target; infinite where none does.

    ``value`` is the median over the seeds of the first rung that reaches it. d90 lies above
    ``low``, the rung below the smallest of them, and at most at ``high``, the largest: the range of
    s seeds holds their true median with probability ``level`` = 1 - 2^(1 - s), whatever their
    distribution. ``n`` counts the held-out items.

    Attributes
    ----------
    score : str
        What is measured.
    target : float
        The score to reach.
    full : Rung
        Training of all D parameters.
    curve : tuple of Rung
        From d = 0, the model as it is, up the ladder.
    """

    score: str
    target: float
    full: Rung
    curve: tuple[Rung, ...]

    @property
    def compressed_bytes(self) -> float:
        """Of the seed and d float32 numbers: all that has to be kept beside the base."""
        return 8 + 4 * self.value

    def __str__(self) -> str:
        return super().__str__() if math.isfinite(self.value) else f"> {self.curve[-1].dim}"

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON values; a value that the ladder does not reach is None."""
        rungs = {
            "full": dataclasses.asdict(self.full),
            "curve": [dataclasses.asdict(rung) for rung in self.curve],
        }
        return super().to_dict() | rungs


def intrinsic_dimension(
    task: Task,
    dims: Sequence[int] = LADDER,
    *,
    threshold: float = 0.9,
    projection: str = "fastfood",
    scales: bool = False,
    lr: float | Sequence[float] = RATES,
    epochs: int = 3,
    seeds: Sequence[int] = (0, 1, 2),
    out: str | Path | None = None,
    resume: bool = False,
    progress: Progress | None = None,
) -> IntrinsicDimension:
    """How many numbers does it take to learn this task nearly as well as with all parameters?

    Parameters
    ----------
    task : Task
        Every parameter of its model moves, heads included.
    dims : sequence of int
        The ladder: ascending.
    threshold : float
        Share of the median score of full training to reach, in (0, 1]; where lower scores are
        better, at most that score over ``threshold``.
    projection, scales
        See :class:`RandomSubspace`.
    lr : float or sequence of float
        Step size of full training (AdamW); d numbers take steps larger by sqrt(D / d), as long in
        the weights. Of several, full training and each rung take the one that is best on a fifth of
        the training data held out for it, with the first seed: a run more for each. A single one
        that is wrong for full training makes the target too low, and d90 with it.
    epochs : int
        Passes over the training data.
    seeds : sequence of int
        Of P, of the order of the batches, and of the head where the task draws one.
    out : path, optional
        Folder for the finished runs, and for every adapter (``d200-seed0/``, see
        :func:`lowdim.adapt.load`).
    resume : bool
        Take up the finished runs in ``out``; a longer ladder or more seeds reuse them as well.
    progress : Progress, optional
        Where to show the runs.

    Returns
    -------
    IntrinsicDimension
        Never extrapolated: where no rung reaches the target it says ``> largest``.

    Raises
    ------
    InputError
        A ladder that does not ascend or is longer than the model, other options out of range, or a
        run that diverges.

    Notes
    -----
    Trust it for comparing models or tasks under one ladder, threshold and training length: d90
    falls with longer training and a better step size, and 90% of an accuracy can lie close to what
    always guessing the most frequent class gives (compare ``curve[0]`` and the first rungs).
    """
    began = time.perf_counter()
    rates = (lr,) if isinstance(lr, (int, float)) else tuple(lr)
    _check(dims, threshold, rates, seeds)
    parameters = list(task.fresh(seeds[0]).parameters())
    size = sum(p.numel() for p in parameters)
    check_size("dim", dims[-1], size)
    method = RandomSubspace(dims[0], projection, scales)
    method.directions(len(parameters))  # raises before anything is trained
    folder = None if out is None else check_writable(out)
    key = {
        "job": "intrinsic dimension",
        "task": task.key,
        "options": [projection, scales, epochs],
        "random": random.VERSION,
    }
    start = [task.evaluate(task.fresh(seed)) for seed in seeds]
    higher = start[0].higher_is_better
    ladder = _Ladder(
        task,
        method,
        rates,
        seeds,
        epochs,
        size,
        higher,
        folder,
        Pieces(folder, key, resume=resume),
        (progress or Silent()).task("training in subspaces"),
        (len(dims) + 1) * (len(seeds) + (len(rates) if len(rates) > 1 else 0)),
    )
    full = ladder.rung(size)
    untrained = Rung(0, 0.0, tuple(score.value for score in start))
    curve = (untrained, *(ladder.rung(dim) for dim in dims))
    target = full.median * threshold if higher else full.median / threshold
    first = [_first(curve, i, target, higher) for i in range(len(seeds))]
    below = [rung.dim for rung in curve if rung.dim < min(first)]
    value = statistics.median_high(first)
    notes = [f"step sizes chosen among {rates} on held-out training data"] * (len(rates) > 1)
    if value == 0:
        notes.append("the model reaches the target as it is")
    if value == math.inf:
        notes.append(f"the target is not reached up to {dims[-1]}")
    if any((r.median > full.median) if higher else (r.median < full.median) for r in curve):
        notes.append("full training is not the best: try other step sizes or more epochs")
    return IntrinsicDimension(
        value=value,
        low=below[-1] if below else 0,
        high=max(first),
        level=1 - 2.0 ** (1 - len(seeds)),
        n=start[0].n,
        exact=False,
        seconds=time.perf_counter() - began,
        notes=tuple(notes),
        score=start[0].name,
        target=target,
        full=full,
        curve=curve,
    )


@dataclass
class _Ladder:
    """Training runs, each of which is kept once it is finished."""

    task: Task
    method: RandomSubspace
    rates: Sequence[float]
    seeds: Sequence[int]
    epochs: int
    size: int
    higher: bool
    folder: Path | None
    pieces: Pieces
    report: Advance
    n_runs: int
    done: int = 0

    def rung(self, dim: int) -> Rung:
        """All seeds, with the best of the step sizes."""
        lr = self.rates[0] if len(self.rates) == 1 else self._best(dim)
        scores = tuple(self._score("train", self.task, dim, lr, seed) for seed in self.seeds)
        return Rung(dim, lr, scores)

    def _best(self, dim: int) -> float:
        """The step size that does best on held-out training data."""
        tuning = self.task.tuning()
        scores = {lr: self._score("tune", tuning, dim, lr, self.seeds[0]) for lr in self.rates}
        return (max if self.higher else min)(scores, key=scores.__getitem__)

    def _score(self, what: str, task: Task, dim: int, lr: float, seed: int) -> float:
        name = f"{what} d{dim} lr{lr} seed{seed}"
        score = self.pieces.json(name, lambda: self._train(what, task, dim, lr, seed))
        self.done += 1
        self.report(self.done, self.n_runs)
        return float(score)

    def _train(self, what: str, task: Task, dim: int, lr: float, seed: int) -> float:
        model = task.fresh(seed)
        if dim == self.size:
            model.requires_grad_(True)
        else:
            attach(model, self.method.resized(dim), "all", seed=seed)
        rate = lr * math.sqrt(self.size / dim)
        score = fit(model, task, epochs=self.epochs, lr=rate, seed=seed).score
        if self.folder is not None and what == "train" and dim < self.size:
            save(model, self.folder / f"d{dim}-seed{seed}", about={score.name: score.value})
        return score.value


def _first(curve: Sequence[Rung], seed: int, target: float, higher: bool) -> float:
    """The least d whose score with this seed reaches the target."""
    for rung in curve:
        score = rung.scores[seed]
        if score >= target if higher else score <= target:
            return rung.dim
    return math.inf


def _check(
    dims: Sequence[int], threshold: float, rates: Sequence[float], seeds: Sequence[int]
) -> None:
    for dim in dims:
        check_size("dim", dim)
    if not dims or list(dims) != sorted(set(dims)):
        raise InputError(f"dims={tuple(dims)}: give whole numbers that ascend")
    if not 0 < threshold <= 1:
        raise InputError(f"threshold={threshold}: give a share above 0 and at most 1")
    if not rates or not seeds or len(set(seeds)) < len(seeds):
        raise InputError("give at least one step size and one seed, each seed once")
