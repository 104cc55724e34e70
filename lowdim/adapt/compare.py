"""Which way of adapting is best at a budget? The same data, order, seeds and targets for each.

Ours are sized by :func:`at_budget` and peft's by their rank; full fine-tuning and the head alone
are the two ends. Every run is a piece on disk: a comparison that was stopped goes on where it was,
and one that gains a method or a seed makes only what is new.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import nn

from lowdim.adapt.comparison import Comparison, Run
from lowdim.adapt.fit import Diverged, fit
from lowdim.adapt.method import Method, at_budget, make_method
from lowdim.adapt.peft_methods import PEFT, attach_peft, check_kinds, peft_rank
from lowdim.adapt.start import start
from lowdim.adapt.targets import Targets, find_targets
from lowdim.adapt.task import Task, also_modules, train_head
from lowdim.core.estimate import to_json
from lowdim.core.pieces import Pieces
from lowdim.core.progress import Progress, Silent, Titled
from lowdim.errors import InputError, require
from lowdim.io.write import atomic_write, check_writable

Rates = float | Sequence[float]
"""One step size, or several to choose from."""

FULL, HEAD = "full", "head"
RESULT = "comparison.json"
GRID = (3e-4, 1e-3, 3e-3, 1e-2)


@dataclass(frozen=True)
class Contender:
    """One way to adapt that takes part in a comparison.

    Attributes
    ----------
    method : Method or str
        A method, the name of one of ours with its usual options, one of peft's (``lora``,
        ``dora``, ``pissa``, ``olora``, ``rslora``, ``vera``, ``eva``), ``full`` or ``head``.
    name : str
        What it is called in the table; its method's name where empty.
    budget : int, optional
        Another budget than that of the comparison.
    targets : str, type or sequence of them, optional
        Other targets than those of the comparison.
    """

    method: Method | str
    name: str = ""
    budget: int | None = None
    targets: Targets | None = None

    @property
    def label(self) -> str:
        """Its name."""
        return self.name or (self.method if isinstance(self.method, str) else self.method.id)


Prepare = Callable[[Task, nn.Module, int], object]
"""Makes a fresh model of a task train by one method, given a seed."""


@dataclass(frozen=True)
class _Entry:
    """A contender whose size is settled."""

    label: str
    options: dict[str, Any]
    prepare: Prepare


def compare(
    task: Task,
    methods: Sequence[Contender | Method | str],
    *,
    budget: int,
    seeds: Sequence[int] = (0, 1, 2, 3, 4),
    epochs: int = 3,
    lr: Rates | Mapping[str, Rates] = GRID,
    targets: Targets | None = None,
    baseline: str = "lora",
    out: str | Path | None = None,
    resume: bool = False,
    progress: Progress | None = None,
) -> Comparison:
    """Which of these ways of adapting is best when each trains at most ``budget`` numbers?

    Parameters
    ----------
    task : Task
        See :func:`text_classification`, :func:`causal_lm` and :func:`module_task`.
    methods : sequence of Contender, Method or str
        See :class:`Contender`.
    budget : int
        Numbers that may train, the task's head not counted. ``full`` and ``head`` ignore it.
    seeds : sequence of int
        One run of each method for each: of its head, its order of the data, its dropout, its
        adapter.
    epochs : int
        Passes over the training data.
    lr : float, sequence of float, or mapping of str to them
        Largest step size; of several, that with the best score on a fifth of the training data,
        held out of the training with the first seed, is chosen for each method by itself.
    targets : str, type or sequence of them, optional
        What is adapted; the task's own by default.
    baseline : str
        Method that the others are compared with, if it takes part.
    out : path, optional
        Folder that gets ``comparison.json``, and each run as it is finished.
    resume : bool
        Use the finished runs that are there.
    progress : Progress, optional
        Where to show the steps.

    Returns
    -------
    Comparison
        Prints as a table; a run that diverged is in it as such.

    Raises
    ------
    InputError
        Unknown methods, two of one name, a budget too small for one of them (named before anything
        is trained), or options out of range.
    MissingExtraError
        A method of peft, and peft is not installed.

    Notes
    -----
    Cost: (step sizes + seeds) trainings a method. The intervals hold for the step sizes that were
    chosen, not for the choice. Several verdicts are read off one table: at 95% one in twenty of
    those that are equal to the baseline will seem better or worse.
    """
    chosen = [m if isinstance(m, Contender) else Contender(m) for m in methods]
    labels = [c.label for c in chosen]
    if not labels or not seeds:
        raise InputError("methods and seeds: give at least one of each")
    if twice := {str(x) for part in (labels, seeds) for x in part if list(part).count(x) > 1}:
        raise InputError(f"{min(twice)} is there twice: give methods names, and each seed once")
    rates = {label: _rates(lr, label) for label in labels}
    usual = task.targets if targets is None else targets
    entries = _entries(task, chosen, budget, usual)
    folder = check_writable(out) if out is not None else None
    pieces = Pieces(folder, {"task": task.key, "epochs": epochs}, resume=resume)
    facts = pieces.json(f"untrained {seeds[0]}", lambda: _facts(task, seeds[0]))

    def train(kind: str, data: Task, entry: _Entry, rate: float, seed: int) -> Run:
        name = json.dumps(to_json([kind, entry.label, entry.options, rate, seed]))
        watch = Titled(progress or Silent(), f"{entry.label}, lr {rate:g}, seed {seed}")
        return Run(
            **pieces.json(name, lambda: asdict(_run(data, entry, rate, seed, epochs, watch)))
        )

    runs: list[Run] = []
    tuning: dict[str, dict[str, float | None]] = {}
    for entry in entries:
        rate, *others = rates[entry.label]
        if others:
            inner = task.tuning()
            tried = [train("tune", inner, entry, r, seeds[0]) for r in (rate, *others)]
            tuning[entry.label] = {f"{run.lr:g}": run.score for run in tried}
            rate = _best(tried, facts["higher_is_better"])
        runs += [train("run", task, entry, rate, seed) for seed in seeds]
    result = Comparison(
        **facts,
        budget=budget,
        baseline=baseline,
        seeds=tuple(seeds),
        epochs=epochs,
        runs=tuple(runs),
        tuning=tuning,
        options={entry.label: entry.options for entry in entries},
    )
    if folder is not None:
        atomic_write(folder / RESULT, json.dumps(result.to_dict(), indent=1) + "\n")
    return result


def _entries(
    task: Task, contenders: Sequence[Contender], budget: int, targets: Targets
) -> list[_Entry]:
    model = task.fresh()
    return [_entry(task, contender, model, budget, targets) for contender in contenders]


def _entry(
    task: Task, contender: Contender, model: nn.Module, budget: int, targets: Targets
) -> _Entry:
    """Settle the size of a contender on a model, which stays as it is."""
    method, label = contender.method, contender.label
    if method == FULL:
        return _Entry(label, {}, lambda data, model, seed: model.requires_grad_(True))
    if method == HEAD:
        if not task.also:
            raise InputError("the task has no head of its own: leave 'head' out")
        return _Entry(label, {}, lambda data, model, seed: train_head(data, model))
    targets = targets if contender.targets is None else contender.targets
    found = find_targets(model, targets)
    names, shapes = [t.name for t in found], [t.shape for t in found]
    most = budget if contender.budget is None else contender.budget
    if isinstance(method, str) and method in PEFT:
        require("peft", "peft")
        check_kinds(method, found)
        rank = peft_rank(method, shapes, most)

        def put(data: Task, model: nn.Module, seed: int) -> None:
            attach_peft(model, method, targets, task=data, rank=rank, seed=seed)

        return _Entry(label, {"peft": method, "rank": rank, "targets": names}, put)
    known = make_method(method, {}) if isinstance(method, str) else method
    once = list({id(t.parameter): t for t in found}.values())  # tied tensors share an adapter
    sized = at_budget(known, [t.shape for t in once], most)
    sized.build(once, 0)  # sizes that cannot be are an error now, and not in the middle
    options = {"method": sized.id, **sized.options(), "targets": names}

    def attach(data: Task, model: nn.Module, seed: int) -> None:
        start(data, model, sized, targets, seed=seed)

    return _Entry(label, options, attach)


def _run(data: Task, entry: _Entry, rate: float, seed: int, epochs: int, watch: Progress) -> Run:
    """Train and score a fresh model once."""
    model = data.fresh(seed)
    entry.prepare(data, model, seed)
    head = _count(also_modules(model, data))
    trained = _count([model]) - head
    run = Run(entry.label, seed, rate, trained, head)
    device = next(model.parameters()).device
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
    try:
        found = fit(model, data, epochs=epochs, lr=rate, seed=seed, progress=watch)
    except Diverged as error:
        return replace(run, diverged=str(error))
    score = found.score
    return replace(
        run,
        score=score.value,
        low=score.low,
        high=score.high,
        seconds=found.seconds,
        steps=found.steps,
        peak_bytes=torch.cuda.max_memory_allocated(device) if device.type == "cuda" else None,
        diverged=None if math.isfinite(score.value) else f"the score is {score.value}",
        per_item=score.per_item.tolist(),
    )


def _count(modules: Sequence[nn.Module]) -> int:
    """Numbers that train, shared ones once."""
    found = {id(p): p for module in modules for p in module.parameters() if p.requires_grad}
    return sum(p.numel() for p in found.values())


def _facts(task: Task, seed: int) -> dict[str, Any]:
    """What the score is, and what it is before training."""
    score = task.evaluate(task.fresh(seed))
    return {
        "score": score.name,
        "higher_is_better": score.higher_is_better,
        "untrained": score.value,
    }


def _rates(lr: Rates | Mapping[str, Rates], label: str) -> tuple[float, ...]:
    if isinstance(lr, Mapping):
        if label not in lr:
            raise InputError(f"lr names no step size for {label}: give one or several")
        lr = lr[label]
    rates = (float(lr),) if isinstance(lr, (int, float)) else tuple(lr)
    if not rates:
        raise InputError(f"lr is empty for {label}: give at least one step size")
    return rates


def _best(tried: Sequence[Run], higher_is_better: bool) -> float:
    """The step size of the best run; the smaller of equal ones, the smallest if all diverged."""
    sign = -1 if higher_is_better else 1
    ranked = [(run.diverged is not None, sign * (run.score or 0.0), run.lr) for run in tried]
    return min(ranked)[2]
