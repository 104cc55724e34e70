"""Trainings of one setup: what the head alone can do, which step size, and the adapter itself."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import reduce
from itertools import islice
from pathlib import Path
from typing import Any

from torch import nn

from lowdim.adapt.allocation import allocate, check_allocation
from lowdim.adapt.check import fitting
from lowdim.adapt.fit import Diverged, Fit, fit
from lowdim.adapt.gains import Gains, gradient_gains, input_gains
from lowdim.adapt.method import Method, at_budget, make_method
from lowdim.adapt.peft_methods import PEFT
from lowdim.adapt.start import start
from lowdim.adapt.svfit import SVFit
from lowdim.adapt.targets import Targets, find_targets
from lowdim.adapt.task import Score, Task, train_head
from lowdim.core.progress import Progress, Titled
from lowdim.errors import InputError
from lowdim.report.adapt_setup import MEASURED, Job, Setup

BUDGET = 50_000
"""Numbers that train where nothing is said."""
MEASURED_BATCHES = 32
WORK = ".adapt"


@dataclass(frozen=True)
class Plan:
    """What is adapted and how.

    Attributes
    ----------
    method : Method or mapping of str to Method
        One for all targets, or one each.
    targets : str, type or sequence of them, optional
        Not with a mapping.
    said : str
        How that came about.
    """

    method: Method | Mapping[str, Method]
    targets: Targets | None
    said: str


def make_plan(
    job: Job,
    setup: Setup,
    name: str,
    options: Mapping[str, Any],
    budget: int | None,
    size: int | None,
    progress: Progress,
) -> Plan:
    """The method at its size, on the targets that were named or that are measured to matter.

    Raises
    ------
    InputError
        An unknown method or option, both a size and a budget, or a budget too small.
    """
    if size is not None and budget is not None:
        raise InputError(f"size={size} and budget={budget}: give one of them")
    if name in PEFT:
        raise InputError(f"{name} is a method of peft: train it there, or name it in a comparison")
    method = make_method(name, options)
    if size is not None:
        method = method.resized(size)
    sized = size is not None or (budget is None and method.size in options)
    most = BUDGET if budget is None else budget
    if setup.targets == MEASURED:
        if sized:
            raise InputError("targets=measured shares out a budget: give that, and no size")
        found = allocate(measure(job, setup, method, most, progress), method, most)
        ranks = found.ranks.values()
        said = (
            f"Chosen by measurement: {len(ranks)} of {len(found.rows)} tensors, at ranks from "
            f"{min(ranks)} to {max(ranks)}."
        )
        return Plan(found.mapping, None, said)
    targets = fitting(method, job.targets())
    if not sized:
        method = at_budget(method, [target.shape for target in targets], most)
    named = job.task.targets
    listed = ", ".join(map(str, [named] if isinstance(named, (str, type)) else named))
    how = "Chosen by name" if setup.targets else "The usual targets"
    return Plan(method, named, f"{how}: {listed}.")


def measure(job: Job, setup: Setup, method: Method, most: int, progress: Progress) -> list[Gains]:
    """What further ranks of each target are worth to a method, on the first training batches.

    By gradients; by the inputs of each layer for what trains a weight's own directions.
    """
    model = job.task.fresh(setup.seed)
    targets = fitting(method, find_targets(model, job.task.targets))
    check_allocation(method, [target.shape for target in targets], most)
    batches = list(islice(job.task.batches(setup.seed, 0), MEASURED_BATCHES))
    advance = progress.task("measuring")
    if isinstance(method, SVFit):
        return input_gains(model, job.task.loss, batches, job.task.targets, memory=setup.memory)
    return gradient_gains(
        model, job.task.loss, batches, job.task.targets, memory=setup.memory, progress=advance
    )


@dataclass(frozen=True)
class Trained:
    """A trained model, and how its training went.

    Attributes
    ----------
    lr : float
        Its step size.
    tuning : dict of float to float or None
        Score of each step size that was tried; None where it diverged.
    """

    model: nn.Module
    fit: Fit
    lr: float
    tuning: dict[float, float | None]


class Trainer:
    """Trainings with checkpoints in a folder, so that a stopped run goes on.

    Parameters
    ----------
    task : Task
        What is learned.
    setup : Setup
        How.
    folder : Path
        Checkpoints are in its ``.adapt``.
    resume : bool
        Go on from them.
    progress : Progress
        Where bars are drawn.
    """

    def __init__(
        self, task: Task, setup: Setup, folder: Path, resume: bool, progress: Progress
    ) -> None:
        self.task, self.setup, self.progress = task, setup, progress
        self.resume, self.folder = resume, folder / WORK
        if not resume:
            self.clear()

    def clear(self) -> None:
        """Remove the checkpoints."""
        shutil.rmtree(self.folder, ignore_errors=True)

    def base(self) -> Score:
        """What there is to beat: the head alone where there is one, the model as it was if not."""
        if self.task.also:
            return self._train("head alone", train_head).fit.score
        return self.task.evaluate(self.task.fresh(self.setup.seed))

    def adapter(self, plan: Plan) -> Trained:
        """The adapter, at the best of the step sizes."""
        seed = self.setup.seed
        return self._train(
            "adapter",
            lambda task, model: start(task, model, plan.method, plan.targets, seed=seed),
        )

    def _train(self, what: str, prepare: Prepare) -> Trained:
        rates = self.setup.lr
        tried = self._tried(what, prepare) if len(rates) > 1 else {}
        known = [(score, rate) for rate, score in tried.items() if score is not None]
        if tried and not known:
            raise InputError(f"{what} diverges at every step size: lower lr, or check the data")
        best = reduce(lambda a, b: b if b[0].beats(a[0]) else a, known)[1] if known else rates[0]
        tuning = {rate: None if x is None else x.value for rate, x in tried.items()}
        return Trained(*self._fit(self.task, what, prepare, best), best, tuning)

    def _tried(self, what: str, prepare: Prepare) -> dict[float, Score | None]:
        """Score of each step size on a fifth of the training data; None where it diverged."""
        inner = self.task.tuning()
        tried: dict[float, Score | None] = {}
        for rate in self.setup.lr:
            try:
                _, found = self._fit(inner, f"{what} at step size {rate:g}", prepare, rate)
                tried[rate] = found.score
            except Diverged:
                tried[rate] = None
        return tried

    def _fit(self, task: Task, what: str, prepare: Prepare, rate: float) -> tuple[nn.Module, Fit]:
        model = task.fresh(self.setup.seed)
        prepare(task, model)
        found = fit(
            model,
            task,
            epochs=self.setup.epochs,
            lr=rate,
            seed=self.setup.seed,
            out=self.folder / what.replace(" ", "-"),
            resume=self.resume,
            progress=Titled(self.progress, what),
        )
        return model, found


Prepare = Callable[[Task, nn.Module], object]
"""Makes a fresh model ready: says what of it trains."""
