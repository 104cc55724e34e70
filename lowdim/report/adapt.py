"""The four runs of ``lowdim adapt``: train an adapter, compare methods, suggest ranks, find d90.

Each opens a :class:`Setup`, does its work through :mod:`lowdim.adapt`, and returns a report.
"""

from __future__ import annotations

import math
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from torch import Tensor

from lowdim.adapt.allocation import allocate
from lowdim.adapt.compare import compare
from lowdim.adapt.files import NUMBERS, save
from lowdim.adapt.gains import Gains
from lowdim.adapt.intrinsic_dimension import LADDER, intrinsic_dimension
from lowdim.adapt.method import adaptation_methods, make_method
from lowdim.adapt.record import attached
from lowdim.adapt.svfit import SVFit
from lowdim.adapt.task import Z95, Score
from lowdim.core.progress import Progress, Silent
from lowdim.errors import InputError
from lowdim.io.write import check_writable
from lowdim.registry import find
from lowdim.report.adapt_document import AdaptReport
from lowdim.report.adapt_setup import ITEMS, MEASURED, Job, Setup, open_job
from lowdim.report.adapt_training import (
    BUDGET,
    MEASURED_BATCHES,
    Plan,
    Trained,
    Trainer,
    make_plan,
    measure,
)
from lowdim.report.adapt_updates import update_rows
from lowdim.report.adapt_words import again
from lowdim.report.scan import recorded

BINS = 300
"""Most points of a curve of losses: each is the mean of as many steps."""
WHAT = {
    "classification": {"what": "a classifier on the frozen model", "short": "classifier alone"},
    "causal-lm": {"what": "the model as it was", "short": "as it was"},
}
"""What an adapter has to beat."""


def train(
    setup: Setup,
    *,
    out: str | Path,
    method: str = "lsr",
    options: Mapping[str, Any] | None = None,
    budget: int | None = None,
    size: int | None = None,
    resume: bool = False,
    progress: Progress | None = None,
) -> AdaptReport:
    """What does an adapter of this size win, and what does it do to the model?

    Parameters
    ----------
    setup : Setup
        The model, the texts and how it is trained; ``targets="measured"`` lets gradients choose
        ranks and tensors, see :func:`lowdim.adapt.suggest`.
    out : path
        Gets the adapter (``adapter.safetensors``, ``adapter.json``); write the report itself with
        ``report.save(out)``.
    method, options : str, mapping
        A registered method and its options.
    budget : int, optional
        Numbers that may train at most, the head not counted; 50,000 where no size is given.
    size : int, optional
        The option that its count grows with, instead of a budget.
    resume : bool
        Go on where a stopped run of the same setup was.
    progress : Progress, optional
        Where bars are drawn.

    Raises
    ------
    InputError
        For anything that cannot be used, before training where that can be known; or a loss that
        is not finite.

    Notes
    -----
    Cost: a training of the adapter for each step size and one more, and as many of a classifier on
    the frozen model, which is what a classification has to beat.
    """
    said = {"method": method, "option": _said(options), "budget": budget, "size": size}
    watch = progress or Silent()
    with _running("train", setup, out, said) as (report, job, folder):
        plan = make_plan(job, setup, method, options or {}, budget, size, watch)
        trainer = Trainer(job.task, setup, folder, resume, watch)
        done, before = trainer.adapter(plan), trainer.base()
        about = {"task": job.kind, "model": str(setup.model), "labels": job.source.get("labels")}
        about |= {"score": facts(done.fit.score), "before": facts(before)}
        save(done.model, folder, about=about | {"command": again(report)})
        stored = {"method": method, "bytes": (folder / NUMBERS).stat().st_size}
        report.training = stored | _training(job, plan, before, done)
        report.methods = _methods(method, "spectra/effective-rank")
    trainer.clear()
    return report


def compare_methods(
    setup: Setup,
    methods: Sequence[str],
    *,
    budget: int | None = None,
    seeds: int = 3,
    out: str | Path,
    resume: bool = False,
    progress: Progress | None = None,
) -> AdaptReport:
    """Which of these methods is best where each trains at most ``budget`` numbers?

    Parameters
    ----------
    setup : Setup
        Shared by all.
    methods : sequence of str
        Registered ones, those of peft (``lora``, ...), ``head`` and ``full``; the others are
        compared with ``lora`` where it is among them, with the first otherwise.
    budget, seeds : int
        Numbers that train (50,000 by default), and runs a method: seeds from that of the setup.
    out : path
        Gets ``comparison.json``, and every finished run.
    resume : bool
        Use the finished runs; a comparison with more methods or seeds makes only what is new.

    Notes
    -----
    See :func:`lowdim.adapt.compare`.
    """
    most = BUDGET if budget is None else budget
    said = {"compare": ",".join(methods), "budget": most, "seeds": seeds}
    if seeds < 1 or not methods:
        raise InputError(f"methods={list(methods)}, seeds={seeds}: give at least one of each")
    if setup.targets == MEASURED:
        raise InputError("a comparison adapts the same targets by each method: name them")
    with _running("compare", setup, out, said) as (report, job, folder):
        found = compare(
            job.task,
            list(methods),
            budget=most,
            seeds=tuple(range(setup.seed, setup.seed + seeds)),
            epochs=setup.epochs,
            lr=tuple(setup.lr),
            baseline="lora" if "lora" in methods else methods[0],
            out=folder,
            resume=resume,
            progress=progress,
        )
        report.comparison = found.to_dict() | {"n": len(job.task.valid), "item": ITEMS[job.kind]}
        report.methods = _methods(*methods)
    return report


def suggest(
    setup: Setup,
    *,
    out: str | Path,
    method: str = "lora-ga",
    options: Mapping[str, Any] | None = None,
    budget: int | None = None,
    progress: Progress | None = None,
) -> AdaptReport:
    """Which tensors should be adapted, at which ranks? From measured gradients; nothing trains.

    Parameters
    ----------
    setup : Setup
        Its targets are what is chosen among; ``"measured"``, every linear layer, is the usual.
    method, options, budget
        What a rank costs, and how much may train: 50,000 numbers by default.

    Notes
    -----
    Cost: a forward and backward pass of 32 batches. ``svfit`` is measured by the inputs of each
    layer instead; see :func:`lowdim.adapt.suggest` and :func:`lowdim.adapt.suggest_by_inputs`.
    """
    most = BUDGET if budget is None else budget
    said = {"suggest": True, "method": method, "option": _said(options), "budget": most}
    with _running("suggest", setup, out, said) as (report, job, _):
        sizes = make_method(method, options or {})
        gains = measure(job, setup, sizes, most, progress or Silent())
        found = allocate(gains, sizes, most).to_dict()
        curves = {g.name: worth(g) for g in gains}
        rows = [row | {"curve": curves[row["name"]]} for row in found["rows"]]
        by = "inputs" if isinstance(sizes, SVFit) else "gradients"
        batches = min(MEASURED_BATCHES, job.task.n_batches())
        report.suggestion = found | {"rows": rows, "batches": batches, "by": by}
        report.methods = _methods(method)
    return report


def dimension(
    setup: Setup,
    *,
    out: str | Path,
    dims: Sequence[int] = LADDER,
    threshold: float = 0.9,
    projection: str = "fastfood",
    scales: bool = False,
    seeds: int = 3,
    resume: bool = False,
    progress: Progress | None = None,
) -> AdaptReport:
    """How many numbers does it take to learn this task nearly as well as with all parameters?

    Parameters
    ----------
    setup : Setup
        Its targets have no part in it: every parameter moves.
    out : path
        Gets the finished runs and their adapters.
    dims, threshold, projection, scales, resume
        See :func:`lowdim.adapt.intrinsic_dimension`.
    seeds : int
        Runs a rung: seeds from that of the setup.
    """
    said = {"dims": ",".join(map(str, dims)), "threshold": threshold, "projection": projection}
    said |= {"scales": scales, "seeds": seeds}
    with _running("dimension", setup, out, said) as (report, job, folder):
        found = intrinsic_dimension(
            job.task,
            dims,
            threshold=threshold,
            projection=projection,
            scales=scales,
            lr=tuple(setup.lr),
            epochs=setup.epochs,
            seeds=tuple(range(setup.seed, setup.seed + seeds)),
            out=folder,
            resume=resume,
            progress=progress,
        )
        report.dimension = found.to_dict() | {"item": ITEMS[job.kind]}
        report.methods = _methods("random-subspace")
    return report


def _training(job: Job, plan: Plan, before: Score, done: Trained) -> dict[str, Any]:
    """What there is to say of a training."""
    record = attached(done.model)
    also = [done.model.get_submodule(name) for name in record.also]
    head = sum(p.numel() for module in also for p in module.parameters())
    every = sum(p.numel() for p in done.model.parameters())
    return {
        "chosen": plan.said,
        "lr": done.lr,
        "tuning": {f"{rate:g}": value for rate, value in done.tuning.items()},
        "trainable": record.n_trainable,
        "head": head,
        "also": ", ".join(record.also),
        "base": every - record.n_trainable - head,
        "item": ITEMS[job.kind],
        "before": facts(before) | WHAT[job.kind],
        "after": facts(done.fit.score),
        "difference": gain(done.fit.score, before),
        "scores": [facts(score) for score in done.fit.scores],
        "losses": binned(done.fit.losses),
        "steps": done.fit.steps,
        "seconds": done.fit.seconds,
        "rows": update_rows(record),
    }


def facts(score: Score) -> dict[str, Any]:
    """A score without its items."""
    return {name: v for name, v in vars(score).items() if name != "per_item"}


def gain(after: Score, before: Score) -> dict[str, Any]:
    """How much better than before, item by item, with a 95% interval over the items.

    Above zero is better: accuracy that is won, or nats that the logarithm of a perplexity falls by.
    """
    apart = (after.per_item - before.per_item) * (1 if after.higher_is_better else -1)
    n, mean = len(apart), float(apart.mean())
    half = Z95 * float(apart.std()) / math.sqrt(n) if n > 1 else math.inf
    return {"value": mean, "low": mean - half, "high": mean + half}


def binned(losses: Tensor) -> list[dict[str, float]]:
    """At most 300 means of successive losses, and the steps at which they end."""
    ends, curve = 0, []
    for part in losses.tensor_split(min(BINS, len(losses))):
        ends += len(part)
        curve.append({"step": ends, "loss": float(part.mean())})
    return curve


def worth(gains: Gains) -> list[float]:
    """Share of what all ranks of a tensor are worth that the first so many get."""
    return (gains.each.cumsum(0) / gains.total).tolist() if gains.total > 0 else []


@contextmanager
def _running(
    run: str, setup: Setup, out: str | Path, said: Mapping[str, Any]
) -> Iterator[tuple[AdaptReport, Job, Path]]:
    """A report that is recorded while it is made, the opened setup, and the folder."""
    start = time.perf_counter()
    folder = check_writable(out)
    job = open_job(setup)
    options = setup.options() | dict(said) | {"out": str(out)}
    if run == "suggest":
        del options["epochs"], options["lr"]  # nothing trains
    report = AdaptReport(source=job.source, options=options, notes=job.notes, run=run)
    try:
        with recorded(report, None, start):
            yield report, job, folder
    except KeyboardInterrupt:  # a mistake, on the other hand, leaves an older report as it was
        report.save_json(folder)
        raise


def _methods(*names: str) -> dict[str, Any]:
    """What the registry knows of these methods of the room, or of any by full id."""
    ours = adaptation_methods()
    ids = [
        name if "/" in name else f"adapt/{name}" for name in names if "/" in name or name in ours
    ]
    return {id: find(id).to_dict() for id in ids}


def _said(options: Mapping[str, Any] | None) -> list[str] | None:
    return [f"{name}={value}" for name, value in (options or {}).items()] or None
