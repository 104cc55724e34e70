"""A plain training loop for adapters: AdamW, a warm start, a checkpoint an epoch, a score an epoch.

Whatever requires a gradient trains, so the same loop serves adapters, peft's and full fine-tuning.
Random numbers (dropout) start anew each epoch from the seed, so a run that was stopped between two
epochs goes on with the same numbers. Cost: one forward and backward pass a batch; memory: AdamW's
two numbers for each one that trains.
"""

from __future__ import annotations

import hashlib
import json
import math
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import torch
from torch import Tensor, nn

from lowdim.adapt.checkpoint import CHECKPOINT, State, keep, restore
from lowdim.adapt.task import Score, Task, fingerprint
from lowdim.core.progress import Progress, Silent
from lowdim.core.random import integers
from lowdim.errors import InputError
from lowdim.io.write import check_writable

LARGEST_LR = 1e30  # beyond it AdamW's own arithmetic overflows


class Diverged(InputError):
    """A loss or gradient that is not finite: names the step."""


@dataclass(frozen=True)
class Fit:
    """What a training run came to.

    Attributes
    ----------
    score : Score
        After the last epoch; not the best one, which would flatter.
    scores : tuple of Score
        One an epoch.
    losses : Tensor
        (steps,) float64, one a step.
    seconds : float
        Wall time of training, without the scores.
    steps : int
        Optimiser steps.
    """

    score: Score
    scores: tuple[Score, ...] = field(repr=False)
    losses: Tensor = field(repr=False)
    seconds: float
    steps: int


def fit(
    model: nn.Module,
    task: Task,
    *,
    epochs: int = 3,
    lr: float = 1e-3,
    weight_decay: float = 0.0,
    warmup: float = 0.06,
    clip: float = 1.0,
    seed: int = 0,
    out: str | Path | None = None,
    resume: bool = False,
    progress: Progress | None = None,
) -> Fit:
    """How good does a model get at a task when what requires a gradient trains?

    Parameters
    ----------
    model : torch.nn.Module
        Trained in place, left in evaluation mode; from ``task.fresh()``, with adapters attached.
    task : Task
        Batches, loss and score.
    epochs : int
        Passes over the training data.
    lr : float
        Largest step size: it rises linearly over the first ``warmup`` of the steps and falls
        linearly to zero over the rest.
    weight_decay : float
        Of AdamW, on matrices alone: biases and scales (one dimension) do not decay.
    warmup : float
        Share of the steps, in [0, 1).
    clip : float
        Largest norm of a step's gradient; infinity for none.
    seed : int
        Of the order of the batches and of dropout.
    out : path, optional
        Folder that gets ``checkpoint.safetensors`` after each epoch.
    resume : bool
        Go on from that checkpoint, where there is one.
    progress : Progress, optional
        Where to show the steps.

    Raises
    ------
    InputError
        Nothing trains, or something in half precision; options out of range; a checkpoint of
        another run; a folder that cannot be written, or a full disk.
    Diverged
        A loss or gradient that is not finite: the step is named, and the model goes back to the
        last checkpoint, where there is one.
    """
    trained = _trained(model)
    _check_options(epochs, lr, warmup, clip, weight_decay)
    options = [epochs, lr, weight_decay, warmup, clip, seed]
    run = State(model, _optimizer(trained, lr, weight_decay), trained)
    path, key = None, ""
    if out is not None:
        path, key = check_writable(out) / CHECKPOINT, _key(task, options, trained)
        if resume and path.exists():
            restore(run, path, key)
    total = epochs * task.n_batches()
    report = (progress or Silent()).task("training")
    for epoch in range(len(run.scores), epochs):
        start = time.perf_counter()
        model.train()
        with _seeded(seed, epoch, next(iter(trained.values())).device):
            for batch in task.batches(seed, epoch):
                step = len(run.losses)
                for group in run.optimizer.param_groups:
                    group["lr"] = lr * _share(step, total, warmup)
                loss = task.loss(model, batch)
                loss.backward()
                norm = nn.utils.clip_grad_norm_(trained.values(), clip)
                if not math.isfinite(value := float(loss.detach())) or not bool(norm.isfinite()):
                    raise _diverged(run, path, key, step, total, value)
                run.optimizer.step()
                run.optimizer.zero_grad()
                run.losses.append(value)
                report(step + 1, total)
        run.seconds += time.perf_counter() - start
        model.eval()
        run.scores.append(task.evaluate(model))
        if path is not None:
            keep(run, path, key)
    losses = torch.tensor(run.losses, dtype=torch.float64)
    return Fit(run.scores[-1], tuple(run.scores), losses, run.seconds, len(losses))


def _share(step: int, total: int, warmup: float) -> float:
    """Share of the largest step size: up over the warmup, then down to zero."""
    rise = math.ceil(warmup * total)
    return (step + 1) / (rise + 1) if step < rise else (total - step) / (total - rise)


def _trained(model: nn.Module) -> dict[str, nn.Parameter]:
    trained = {name: p for name, p in model.named_parameters() if p.requires_grad}
    if not trained:
        raise InputError("nothing of the model trains: attach adapters, or set requires_grad")
    for name, p in trained.items():
        if p.dtype not in (torch.float32, torch.float64):
            raise InputError(f"{name} would train in {p.dtype}, which loses small steps: float it")
    return trained


def _check_options(epochs: int, lr: float, warmup: float, clip: float, weight_decay: float) -> None:
    if epochs < 1:
        raise InputError(f"epochs={epochs}: give at least 1")
    if not (0 < lr <= LARGEST_LR and clip > 0 and 0 <= weight_decay < math.inf):
        raise InputError(
            f"lr={lr}, clip={clip}, weight_decay={weight_decay}: give an lr and a clip above zero, "
            f"the lr at most {LARGEST_LR:g}, and a finite weight decay of at least zero"
        )
    if not 0 <= warmup < 1:
        raise InputError(f"warmup={warmup}: give a share of the steps, at least 0 and below 1")


def _optimizer(
    trained: dict[str, nn.Parameter], lr: float, weight_decay: float
) -> torch.optim.AdamW:
    """Matrices decay; biases and scales, which have one dimension, do not."""
    matrices = [p for p in trained.values() if p.ndim > 1]
    vectors = [p for p in trained.values() if p.ndim <= 1]
    return torch.optim.AdamW(
        [
            {"params": matrices, "weight_decay": weight_decay},
            {"params": vectors, "weight_decay": 0.0},
        ],
        lr=lr,
    )


@contextmanager
def _seeded(seed: int, epoch: int, device: torch.device) -> Iterator[None]:
    """Dropout of an epoch is drawn from the seed; the caller's generators stay as they were."""
    with torch.random.fork_rng([device] if device.type == "cuda" else []):
        torch.manual_seed(int(integers(1, 2**31, seed, epoch)))
        yield


def _diverged(
    run: State, path: Path | None, key: str, step: int, total: int, value: float
) -> Diverged:
    what = f"the loss is {value}" if not math.isfinite(value) else "the gradient is not finite"
    run.optimizer.zero_grad()
    kept = ""
    if path is not None and run.scores:
        restore(run, path, key)
        kept = f"; the last good checkpoint, of epoch {len(run.scores)}, is in {path.parent}"
    return Diverged(f"{what} at step {step + 1} of {total}: lower lr, or check the data{kept}")


def _key(task: Task, options: list[float], trained: dict[str, nn.Parameter]) -> str:
    """What a run depends on: the task, the options, and where it starts."""
    facts = [task.key, options, list(trained), fingerprint(trained.values())]
    return hashlib.sha256(json.dumps(facts).encode()).hexdigest()
