"""What a run of ``lowdim adapt`` is about: a model, texts, and how it is trained; all checked."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import nn

from lowdim.adapt.compare import GRID
from lowdim.adapt.targets import Target, find_targets
from lowdim.adapt.task import held_out
from lowdim.adapt.text_data import Examples, read_examples
from lowdim.adapt.text_tasks import CausalLM, TextClassification, causal_lm, text_classification
from lowdim.core.memory import budget
from lowdim.core.random import permutation
from lowdim.errors import InputError
from lowdim.io.models import load_model

SPLIT = 2**31  # a stream of the seed that no epoch uses
TASKS = ("classification", "causal-lm")
ITEMS = {"classification": "text", "causal-lm": "token"}
"""What a score is counted in."""
MEASURED = "measured"
"""Targets that measurement chooses, of every linear layer."""
FEWEST = 5
"""Texts of which a fifth can be held out."""


@dataclass(frozen=True)
class Setup:
    """A model, texts to adapt it to, and how: what every run of ``lowdim adapt`` shares.

    Attributes
    ----------
    model : path
        Folder of a transformers model.
    train, valid : path
        Texts, with labels for a classification; without ``valid`` a fifth of ``train``, drawn by
        the seed, is held out.
    second : str, optional
        Field of the second text where texts are pairs.
    task : {"classification", "causal-lm"}, optional
        By default the first where the texts have labels.
    targets : str or list of str, optional
        What is adapted, see :func:`lowdim.adapt.find_targets`; by default queries and values.
        ``"measured"``: what measurement chooses of every linear layer.
    epochs : int
        Passes over the texts.
    lr : sequence of float
        Step sizes; of several, that with the best score on a fifth of the training texts, held out
        for it, is chosen.
    batch_size, max_length : int, optional
        By default those of the task: 16 texts of 128 tokens, or 8 of 256.
    seed : int
        Of the split, of heads and starts, and of the order of the texts.
    device : str, optional
        Where it runs, e.g. ``cuda``; the CPU by default.
    memory : int, float or str, optional
        Budget of the gradients that ranks are measured by.
    """

    model: str | Path
    train: str | Path
    valid: str | Path | None = None
    second: str | None = None
    task: str | None = None
    targets: str | Sequence[str] | None = None
    epochs: int = 3
    lr: Sequence[float] = GRID
    batch_size: int | None = None
    max_length: int | None = None
    seed: int = 0
    device: str | None = None
    memory: int | float | str | None = None

    def options(self) -> dict[str, Any]:
        """The options of the command that say the same; the model is its argument."""
        said = {k: v for k, v in vars(self).items() if k not in ("model", "lr")}
        said |= {k: str(v) for k, v in said.items() if isinstance(v, Path)}
        if self.targets is not None and not isinstance(self.targets, str):
            said["targets"] = ",".join(self.targets)
        return said | {"lr": ",".join(f"{rate:g}" for rate in self.lr)}


@dataclass(frozen=True)
class Job:
    """An opened setup.

    Attributes
    ----------
    task : TextClassification or CausalLM
        What is trained.
    kind : str
        Which of :data:`TASKS` it is.
    source : dict
        What was read, for the report.
    notes : list of str
        What a reader must know.
    """

    task: TextClassification | CausalLM
    kind: str
    source: dict[str, Any]
    notes: list[str] = field(default_factory=list)

    def targets(self) -> list[Target]:
        """What is adapted of a fresh model; tied tensors once."""
        model = self.task.fresh()
        found = {id(t.parameter): t for t in find_targets(model, self.task.targets)}
        return list(found.values())


def open_job(setup: Setup) -> Job:
    """Read the texts and the model of a setup.

    Raises
    ------
    InputError
        For anything that cannot be read or used, before anything is trained.
    """
    budget(setup.memory)
    if setup.task is not None and setup.task not in TASKS:
        raise InputError(f"task={setup.task!r}: choose {' or '.join(TASKS)}")
    if not 0 <= setup.seed < 2**64:
        raise InputError(f"seed={setup.seed}: a whole number in [0, 2^64)")
    _check_device(setup.device)
    train = read_examples(setup.train, setup.second)
    notes: list[str] = []
    if setup.valid is None:
        train, valid = _split(train, setup, notes)
    else:
        valid = read_examples(setup.valid, setup.second)
    kind = setup.task or TASKS[train.labels is None]
    task = _task(setup, kind, train, valid)
    job = Job(task, kind, _source(setup, task, kind), [*notes, *task.base.notes])
    job.targets()  # names that are not there are said before anything else
    return job


def _task(
    setup: Setup, kind: str, train: Examples, valid: Examples
) -> TextClassification | CausalLM:
    sizes = {"batch_size": setup.batch_size, "max_length": setup.max_length}
    given: dict[str, Any] = {k: v for k, v in sizes.items() if v is not None}
    given |= {"targets": "linear" if setup.targets == MEASURED else setup.targets}
    given |= {"device": setup.device}
    if kind == "causal-lm":
        return causal_lm(setup.model, train.texts, valid.texts, **given)
    for path, part in ((setup.train, train), (setup.valid or setup.train, valid)):
        if part.labels is None:
            raise InputError(f"{path} has no labels: give each text a field 'label'")
    return text_classification(setup.model, train, valid, **given)


def _check_device(device: str | None) -> None:
    try:
        torch.empty(0, device=device)
    except (RuntimeError, AssertionError) as error:  # what torch raises where it lacks a backend
        reason = str(error).split("\n")[0]
        raise InputError(f"device={device!r} cannot be used here: {reason}") from error


def _split(train: Examples, setup: Setup, notes: list[str]) -> tuple[Examples, Examples]:
    """Hold out a fifth, drawn by the seed."""
    n = len(train)
    if n < FEWEST:
        raise InputError(f"{setup.train} has {n} texts, too few to hold some out: give --valid")
    out, kept = permutation(n, setup.seed, SPLIT).tensor_split([held_out(n)])
    notes.append(
        f"no held-out texts were given: {len(out):,} of the {n:,} of {Path(setup.train).name}, "
        f"drawn by seed {setup.seed}, are held out"
    )
    held, rest = train.of(out), train.of(kept)
    if lost := set(held.labels or ()) - set(rest.labels or ()):
        raise InputError(
            f"the label {min(lost)!r} of {setup.train} is held out with all its texts: give --valid"
        )
    return rest, held


def _source(setup: Setup, task: TextClassification | CausalLM, kind: str) -> dict[str, Any]:
    path = Path(setup.model)
    source: dict[str, Any] = {"kind": "model", "name": path.name or path.resolve().name}
    source["path"] = str(path)
    source |= {"role": task.base.kind, "architecture": task.base.architecture, "task": kind}
    source |= {"n_layers": task.base.n_layers, "dim": task.base.dim}
    source |= {"parameters": task.base.n_parameters, "texts": Path(setup.train).name}
    source |= {"n": len(task.train), "n_valid": len(task.valid)}
    if isinstance(task, TextClassification):
        most = Counter(task.valid.labels).most_common(1)[0]
        source |= {"n_labels": len(task.labels), "labels": list(task.labels)}
        source |= {"majority": {"label": most[0], "share": most[1] / len(task.valid)}}
    return source


def rebuilt(about: Mapping[str, Any], model: str | Path) -> nn.Module:
    """The base that an adapter was trained on, with its untrained head, without the texts.

    Parameters
    ----------
    about : mapping
        What a training wrote into ``adapter.json``.
    model : path
        Folder of the base.
    """
    base, none = load_model(model), Examples([])
    if about["task"] == "causal-lm":
        return CausalLM(base, none, none, 1, 2, ()).fresh()
    return TextClassification(base, none, none, 1, 2, (), tuple(about["labels"])).fresh()
