"""What is to be scanned: opened and checked before any long work starts."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from torch import Tensor

from lowdim.core.points import as_points
from lowdim.core.random import choice
from lowdim.errors import InputError
from lowdim.io.points import PointSource, is_weights, open_points, read_labels
from lowdim.io.text import Texts, read_texts
from lowdim.io.weights import Weights, open_weights


@dataclass
class Job:
    """What is to be scanned, opened and checked, nothing computed yet."""

    source: dict[str, Any]
    stamp: Any  # changes when the input does
    weights: Weights | tuple[()] = ()
    model_path: Path | None = None
    points: Tensor | None = None
    texts: Sequence[str] | None = None
    labels: Sequence[str] | None = None
    notes: list[str] = field(default_factory=list)


def open_job(what: Any, text: Any, labels: Any, options: dict[str, Any]) -> Job:
    """Open what the user names: a model folder, weights, points, or None for the default."""
    name = None
    if what is None:
        from lowdim.datasets import minilm

        what, name = minilm(), "all-MiniLM-L6-v2"
    if not isinstance(what, (str, Path)):
        x = as_points(what)
        stamp = float(x.double().sum()), float(x.double().square().sum())
        return _points_job(x, {"name": "points", "path": None}, stamp, text, labels, options)
    path = Path(what)
    if not path.exists():
        raise InputError(f"{path} does not exist: give a model folder, a weights file or points")
    source = {"name": name or path.resolve().name, "path": None if name else str(path)}
    if path.is_dir() and (path / "config.json").exists():
        return _model_job(path, source, text, labels)
    if is_weights(path):
        if text is not None or labels is not None:
            raise InputError(f"{path} holds weights alone: text and labels need a model or points")
        weights = open_weights(path)
        notes = list(weights.notes)
        return Job({"kind": "weights"} | source, _stamp(path), weights=weights, notes=notes)
    return _points_job(open_points(path), source, _stamp(path), text, labels, options)


def _points_job(
    points: Tensor | PointSource,
    source: dict[str, Any],
    stamp: Any,
    text: Any,
    labels: Any,
    options: dict[str, Any],
) -> Job:
    n = points.shape[0] if isinstance(points, Tensor) else points.n
    most = options["max_points"]
    texts = _texts(text)
    if texts is not None and len(texts.texts) != n:
        raise InputError(f"there are {len(texts.texts)} texts for {n} points: one a row")
    job = Job({"kind": "points"} | source, stamp)
    job.texts = texts.texts if texts is not None else None
    job.labels = _labels(labels, n) or (texts.labels if texts is not None else None)
    if n > most:
        rows = choice(n, most, seed=options["seed"]).sort().values
        job.points = points[rows] if isinstance(points, Tensor) else points.take(rows)
        job.texts, job.labels = (
            [column[i] for i in rows.tolist()] if column else None
            for column in (job.texts, job.labels)
        )
        job.notes.append(f"measured on a uniform sample of {most:,} of {n:,} rows")
    else:
        job.points = points if isinstance(points, Tensor) else points.read()
    job.source |= {"n": n, "dim": job.points.shape[1]}
    return _count_labels(job)


def _model_job(path: Path, source: dict[str, Any], text: Any, labels: Any) -> Job:
    if text is None:
        from lowdim.datasets import glosses

        text, name = glosses(), "bundled WordNet glosses"
    else:
        name = str(text) if isinstance(text, (str, Path)) else "texts given"
    texts = _texts(text)
    assert texts is not None
    job = Job({"kind": "model"} | source | {"texts": name}, [_stamp(path), _digest(texts.texts)])
    job.model_path, job.weights = path, open_weights(path)
    job.notes = list(job.weights.notes)
    job.texts, job.labels = texts.texts, _labels(labels, len(texts.texts)) or texts.labels
    return _count_labels(job)


def _count_labels(job: Job) -> Job:
    if job.labels is not None:
        job.source["n_labels"] = len(set(job.labels))
    return job


def _texts(text: Any) -> Texts | None:
    if text is None or isinstance(text, Texts):
        return text
    if isinstance(text, (str, Path)):
        return read_texts(text)
    return Texts(texts=list(text), labels=None)


def _labels(labels: Any, n: int) -> Sequence[str] | None:
    if labels is None:
        return None
    if isinstance(labels, (str, Path)):
        return read_labels(labels, n)
    if len(labels) != n:
        raise InputError(f"there are {len(labels)} labels for {n} rows: one a row")
    return [str(label) for label in labels]


def _digest(texts: Iterable[str]) -> str:
    digest = hashlib.sha256()
    for line in texts:
        digest.update(line.encode("utf-8", "surrogatepass") + b"\0")
    return digest.hexdigest()


def _stamp(path: Path) -> list[Any]:
    """Changes when a file does: names, sizes and times."""
    files = sorted(path.iterdir()) if path.is_dir() else [path]
    return [(f.name, f.stat().st_size, f.stat().st_mtime_ns) for f in files if f.is_file()]
