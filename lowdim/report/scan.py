"""`scan`: what does my model, or my set of embeddings, look like inside?"""

from __future__ import annotations

import platform
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import psutil
import torch
from torch import Tensor

import lowdim
from lowdim.core.memory import budget
from lowdim.core.pieces import Pieces
from lowdim.core.progress import Progress, Silent
from lowdim.errors import InputError
from lowdim.io.activations import POOLINGS, hidden_states
from lowdim.io.models import Model, load_model
from lowdim.io.text import Texts
from lowdim.io.write import check_writable
from lowdim.registry import methods
from lowdim.report.advice import (
    MOST,
    centering_advice,
    duplicate_advice,
    index_advice,
    layer_advice,
)
from lowdim.report.deep import Deep, deep_points
from lowdim.report.document import Document, Report
from lowdim.report.job import Job, open_job
from lowdim.report.sections import (
    attempt,
    cka_section,
    embedding_section,
    layers_section,
    weights_section,
)
from lowdim.report.truncation import truncation_advice

MAX_POINTS = 20_000
DEEP_METHODS = {
    "positional": "geometry/positional",
    "profile": "geometry/dimension-profile",
    "tokens": "geometry/token-geometry",
    "local_rank": "geometry/local-rank",
}


def scan(
    what: Any = None,
    *,
    text: str | Path | Sequence[str] | Texts | None = None,
    labels: str | Path | Sequence[str] | None = None,
    pooling: str = "mean",
    max_points: int = MAX_POINTS,
    out: str | Path | None = None,
    resume: bool = False,
    deep: bool = False,
    memory: int | float | str | None = None,
    seed: int = 0,
    progress: Progress | None = None,
) -> Report:
    """What does my model, or my set of embeddings, look like inside?

    Parameters
    ----------
    what : path, array-like or None
        A Hugging Face model folder, a file of weights, a file or array of (n, d) points, or None
        for the bundled default (all-MiniLM-L6-v2 on 2,000 WordNet glosses of eight fields).
    text : path or list of str, optional
        What a model is run on; the bundled glosses by default. With points: a text for each row.
    labels : path or list of str, optional
        One label a row; by default those of the text file, where it has them.
    pooling : {"mean", "last", "tokens"}
        What a layer's point is: the masked mean of a text's tokens, its last token, or each token.
    max_points : int
        More rows than this are measured on a uniform sample, and the report says so.
    out : path, optional
        Folder that keeps finished pieces while the scan runs, so that it can be resumed; save the
        report itself with ``report.save(out)``.
    resume : bool
        Use the pieces that a stopped scan of the same input and options left in ``out``.
    deep : bool
        Add what costs minutes: the measures marked deep on a sample of the points, and for a text
        model positions and contexts, the dimension profile and the token clouds, each against the
        same texts with shuffled words and beside what its paper says.
    memory : int, float or str, optional
        Budget, e.g. ``"2GiB"``; a quarter of free RAM by default.
    seed : int
        Seed of samples, splits and every randomised step.
    progress : Progress, optional
        Where bars are drawn, see :func:`lowdim.core.progress.bars`.

    Returns
    -------
    Report
        Prints itself; ``report.save(folder)`` writes ``report.html`` and ``scan.json``.

    Raises
    ------
    InputError
        For input that cannot be read or used, before long work starts where that can be known.
    KeyboardInterrupt
        Passed on after a partial ``scan.json`` was written to ``out``.

    Notes
    -----
    On the default input 30 s and 1 GiB on two cores (``python -m benchmarks.scan``). The pieces of
    an ordinary scan serve a deep one too: stop one, and resume it with the other.
    """
    start = time.perf_counter()
    _check(pooling, max_points, seed, memory)
    folder = check_writable(out) if out is not None else None
    options: dict[str, Any] = {"pooling": pooling, "max_points": max_points, "seed": seed}
    job = open_job(what, text, labels, options)
    key = {"source": job.source, "stamp": job.stamp, "lowdim": lowdim.__version__} | options
    files = {"text": text, "labels": labels}
    options |= {"deep": True} if deep else {}
    options |= {k: str(v) for k, v in files.items() if isinstance(v, (str, Path))}
    report = Report(source=job.source, options=options | {"memory": memory}, notes=job.notes)
    run = _Run(job, report, Pieces(folder, key, resume=resume), progress or Silent(), memory)
    with recorded(report, folder, start):
        try:
            run.all()
        finally:
            report.methods = _methods_used(report)
    if run.pieces.reused:
        report.notes.append(f"resumed: {run.pieces.reused} finished pieces of a stopped scan used")
    run.pieces.clear()
    return report


def _check(pooling: str, max_points: int, seed: int, memory: int | float | str | None) -> None:
    """Options that would fail late fail now."""
    budget(memory)
    if pooling not in POOLINGS:
        raise InputError(f"pooling={pooling!r}: choose from {', '.join(POOLINGS)}")
    if max_points < 1:
        raise InputError(f"max_points={max_points}: at least one point is needed")
    if not 0 <= seed < 2**64:
        raise InputError(f"seed={seed}: a whole number in [0, 2^64)")


class _Run:
    """The parts of one scan, in order; each finished part is in the report at once."""

    def __init__(
        self, job: Job, report: Report, pieces: Pieces, progress: Progress, memory: Any
    ) -> None:
        self.job, self.report, self.pieces = job, report, pieces
        self.progress, self.memory = progress, memory
        self.seed, self.deep = report.options["seed"], report.options.get("deep", False)

    def all(self) -> None:
        """Weights, then layers, then the embedding, then what can be done about it."""
        job, report = self.job, self.report
        if job.weights:
            report.weights = weights_section(
                job.weights, self.pieces, self.progress, report.notes, self.memory, self.deep
            )
        points, model = job.points, None
        layers: list[Tensor] = []
        names: list[str] = []
        if job.model_path is not None:
            model = load_model(job.model_path)
            report.source |= {
                "architecture": model.architecture,
                "role": model.kind,
                "n_layers": model.n_layers,
                "dim": model.dim,
                "parameters": model.n_parameters,
                "n": len(job.texts or ()),
            }
            texts, labels = job.texts or (), job.labels
            layers, names, points = self.activations(model)
            report.layers = layers_section(
                layers, names, self.pieces, self.progress, report.notes, self.memory, self.seed
            )
            report.cka = self.pieces.json("cka", lambda: cka_section(layers))
        if points is not None:
            self.embedding(points, model)
            self.advice(points, model, layers, names)
        if self.deep:
            report.deep = {}
            if model is not None:
                Deep(
                    model=model, texts=texts, labels=labels, rows=job.texts or (),
                    row_labels=job.labels, layers=layers, names=names,
                    pooling=report.options["pooling"], progress=self.progress,
                    memory=self.memory, seed=self.seed,
                ).all(self.pieces, report.notes, report.deep)  # fmt: skip
            if points is not None:
                report.deep["points"] = deep_points(
                    points, self.pieces, self.progress, report.notes, self.memory, self.seed
                )

    def activations(self, model: Model) -> tuple[list[Tensor], list[str], Tensor]:
        """Every layer's points and the final embedding."""
        options, job = self.report.options, self.job
        report = self.progress.task("activations")
        notes: list[str] = []

        def make() -> dict[str, Tensor]:
            found = hidden_states(
                model,
                job.texts or (),
                pooling=options["pooling"],
                max_points=options["max_points"],
                memory=self.memory,
                seed=self.seed,
                progress=report,
            )
            notes.extend(found.notes)
            layers = {
                f"{i:03d} {name}": x
                for i, (name, x) in enumerate(zip(found.names, found.layers, strict=True))
            }
            # a causal model's embedding is its last layer: a file holds no tensor twice
            return layers | {"rows": found.rows, "embedding": found.embedding.clone()}

        found = self.pieces.tensors("activations", make)
        self.report.notes += self.pieces.json("activations/notes", lambda: notes)
        rows, embedding = found.pop("rows"), found.pop("embedding")
        keys = sorted(found)
        index = rows.tolist()
        if job.texts is not None and index != list(range(len(job.texts))):  # one row a token
            job.texts = [job.texts[i] for i in index]
            job.labels = [job.labels[i] for i in index] if job.labels is not None else None
        return [found[k] for k in keys], [k.split(" ", 1)[1] for k in keys], embedding

    def embedding(self, points: Tensor, model: Model | None) -> None:
        """The section on the points themselves."""
        job = self.job
        notes: list[str] = []
        name = "points" if model is None else "final embedding"

        def make() -> dict[str, Any]:
            section = embedding_section(
                points,
                name,
                labels=job.labels,
                texts=job.texts,
                progress=self.progress,
                notes=notes,
                memory=self.memory,
                seed=self.seed,
            )
            return {"section": section, "notes": notes}

        piece = self.pieces.json("embedding", make)
        self.report.embedding = piece["section"]
        self.report.notes += piece["notes"]

    def advice(
        self, points: Tensor, model: Model | None, layers: list[Tensor], names: list[str]
    ) -> None:
        """What helped when it was tried, at most seven."""
        job, section, seed = self.job, self.report.embedding, self.seed
        assert section is not None
        trials: list[Callable[[], list[dict[str, Any]]]] = [lambda: index_advice(section)]
        labels = job.labels
        if labels is not None and len(set(labels)) > 1:
            self.progress.task("labels")
            trials.append(lambda: centering_advice(points, labels, seed))
            if layers:
                trials.append(lambda: layer_advice(layers, names, labels, seed))
        texts = job.texts
        if model is not None and texts is not None and self.report.options["pooling"] != "tokens":
            trials.append(
                lambda: truncation_advice(model, texts, seed=seed, progress=self.progress)
            )
        trials.append(lambda: duplicate_advice(section))
        for trial in trials:
            self.report.advice += attempt(trial, self.report.notes, "advice") or []
        self.report.advice = self.report.advice[:MOST]


def _methods_used(report: Report) -> dict[str, Any]:
    places = [*report.weights, *report.layers, report.embedding or {}]
    used = {id for place in places for id in place.get("estimates", {})}
    used |= {"compare/cka"} if report.cka is not None else set()
    if deep := report.deep:
        used |= set((deep.get("points") or {}).get("estimates", {}))
        used |= {id for part, id in DEEP_METHODS.items() if deep.get(part)}
        profile = (deep.get("profile") or {}).get("rows", ())
        used |= {id for row in profile for id in row["estimates"]}
    return {m.id: m.to_dict() for m in methods() if m.id in used}


@contextmanager
def recorded(report: Document, folder: Path | None, start: float) -> Iterator[None]:
    """Write when, where and at what cost a run was made into its report; ``start`` is when the
    clock began. A run that ends before its time leaves its JSON in the folder.
    """
    report.created = datetime.now(UTC).isoformat(timespec="seconds")
    report.lowdim, report.environment = lowdim.__version__, environment()
    try:
        yield
        report.complete = True
    finally:
        report.seconds = time.perf_counter() - start
        report.peak_bytes = peak_bytes()
        if folder is not None and not report.complete:
            report.save_json(folder)


def environment() -> dict[str, Any]:
    """On what the run was made."""
    return {
        "python": platform.python_version(),
        "torch": torch.__version__,
        "platform": platform.platform(terse=True),
        "threads": torch.get_num_threads(),
    }


def peak_bytes() -> int:
    """Peak resident memory of this process."""
    try:
        import resource

        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        return peak if platform.system() == "Darwin" else peak * 1024
    except ImportError:  # Windows
        return int(psutil.Process().memory_info().peak_wset)
