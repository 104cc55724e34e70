"""`strata`: which parts of my embedding space are really different places?"""

from __future__ import annotations

import hashlib
import time
from collections.abc import Sequence
from dataclasses import asdict
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

import lowdim
from lowdim.core.memory import budget
from lowdim.core.pieces import Pieces
from lowdim.core.progress import Progress, Silent
from lowdim.core.strata import Strata
from lowdim.errors import InputError
from lowdim.io.text import Texts
from lowdim.io.write import check_writable
from lowdim.nouns import Shared
from lowdim.registry import Method, find, methods
from lowdim.report.job import Job, open_job
from lowdim.report.scan import MAX_POINTS, recorded
from lowdim.report.sections import attempt, per_point
from lowdim.report.strata_document import StrataReport
from lowdim.report.strata_labels import (
    agreement,
    enriched_labels,
    enriched_words,
    length_share,
    trivial,
)
from lowdim.report.strata_points import open_sample
from lowdim.report.strata_sections import (
    apart,
    between,
    gate,
    margins,
    piece_rows,
    point_map,
    share,
)
from lowdim.report.strata_stability import stability
from lowdim.structure.base import PieceFinder
from lowdim.structure.choose import choose_pieces
from lowdim.structure.save import as_tensors, of_tensors
from lowdim.structure.statistics import strata_statistics
from lowdim.structure.stratification import stratification_test

DIMS = 64
"""Principal directions that pieces are looked for in: what the published experiments used."""
MEASURES = ("geometry/mle", "geometry/two-nn", "structure/stratification-test")


def strata(
    what: Any = None,
    *,
    text: str | Path | Sequence[str] | Texts | None = None,
    labels: str | Path | Sequence[str] | None = None,
    pieces: int | str = "auto",
    method: str = "subspaces",
    layer: int | None = None,
    pooling: str = "mean",
    dims: int = DIMS,
    max_points: int = MAX_POINTS,
    out: str | Path | None = None,
    resume: bool = False,
    memory: int | float | str | None = None,
    seed: int = 0,
    progress: Progress | None = None,
) -> StrataReport:
    """Which parts of my embedding space are really different places?

    Parameters
    ----------
    what : path, array-like or None
        A Hugging Face model folder, a file or array of (n, d) points, or None for the bundled
        default (all-MiniLM-L6-v2 on 2,000 WordNet glosses of eight fields).
    text : path or list of str, optional
        What a model is run on; the bundled glosses by default. With points: a text for each row.
    labels : path or list of str, optional
        One label a row; by default those of the text file, where it has them.
    pieces : int or "auto"
        How many pieces; ``auto`` takes what describes unseen points, see
        :func:`lowdim.structure.choose.choose_pieces`.
    method : str
        A registered finder of pieces, by id or short name: ``lowdim methods --room structure``.
    layer : int, optional
        Which layer of a model, 0 being the embedding output and -1 the last. By default the
        model's own embedding of a text.
    pooling : {"mean", "last"}
        What a layer has of a text: the masked mean of its tokens, or the last token. In a causal
        model without a start token the first word rules the mean: read ``last`` there.
    dims : int
        Pieces are looked for in this many leading principal directions, where there are more
        columns; 0 keeps all. A piece costs about its rank times the columns, so in hundreds of
        columns a few thousand points never pay for two. Dimensions are measured in all columns,
        and ``report.strata`` lie in the space of the points.
    max_points : int
        The pieces are fitted to all rows; what is measured on them is measured on a uniform sample
        of this many, and the report says so. A model is run on no more texts than these.
    out : path, optional
        Folder that keeps finished parts while the work runs, so that it can be resumed; write the
        result with ``report.save(out)``.
    resume : bool
        Use the parts that a stopped run of the same input and options left in ``out``.
    memory : int, float or str, optional
        Budget, e.g. ``"2GiB"``; a quarter of free RAM by default.
    seed : int
        Seed of samples, fits and every randomised step.
    progress : Progress, optional
        Where bars are drawn, see :func:`lowdim.core.progress.bars`.

    Returns
    -------
    StrataReport
        Prints itself; ``report.strata`` are the pieces; ``report.save(folder)`` writes
        ``report.html``, ``strata.json``, ``assignments.parquet`` and the folder ``strata``.

    Raises
    ------
    InputError
        For input that cannot be read or used, before long work starts where that can be known.
    KeyboardInterrupt
        Passed on after a partial ``strata.json`` was written to ``out``.
    """
    start = time.perf_counter()
    finder = _finder(method)
    _check(pieces, pooling, dims, max_points, seed, memory)
    folder = check_writable(out) if out is not None else None
    if resume and folder is None:
        raise InputError("resume continues what out= has kept: give that folder")
    options: dict[str, Any] = {"method": finder.id, "pieces": pieces, "layer": layer}
    options |= {"pooling": pooling, "dims": dims, "max_points": max_points, "seed": seed}
    job = open_job(what, text, labels, options)
    _check_job(job, pieces, layer)
    key = {"source": job.source, "stamp": job.stamp, "lowdim": lowdim.__version__} | options
    key |= {"texts": _digest(job.texts), "labels": _digest(job.labels)}
    files = {"text": text, "labels": labels}
    options |= {k: str(v) for k, v in files.items() if isinstance(v, (str, Path))}
    report = StrataReport(source=job.source, options=options | {"memory": memory}, notes=job.notes)
    report.methods = {id: find(id).to_dict() for id in (*MEASURES, finder.id)}
    kept = Pieces(folder, key, resume=resume)
    run = _Run(job, what, report, finder, kept, folder, progress or Silent(), memory)
    with recorded(report, folder, start):
        run.all()
    if kept.reused:
        report.notes.append(f"resumed: {kept.reused} finished parts of a stopped run used")
    kept.clear()
    return report


def finders() -> list[Method]:
    """Every registered finder of pieces."""
    return [m for m in methods() if [need.noun for need in m.needs] == ["pieces"]]


def _finder(name: str) -> Method:
    known = finders()
    try:
        return find(name, known)
    except InputError as error:
        choices = ", ".join(m.name for m in known)
        raise InputError(f"{name!r} is no finder of pieces: choose from {choices}") from error


def _check(
    pieces: int | str,
    pooling: str,
    dims: int,
    max_points: int,
    seed: int,
    memory: int | float | str | None,
) -> None:
    """Options that would fail late fail now."""
    budget(memory)
    if pieces != "auto" and (not isinstance(pieces, int) or pieces < 1):
        raise InputError(f"pieces={pieces!r}: give a whole number from 1, or auto")
    if pooling not in ("mean", "last"):
        raise InputError(f"pooling={pooling!r}: choose mean or last")
    if not isinstance(dims, int) or dims < 0:
        raise InputError(f"dims={dims!r}: give a whole number, 0 for all columns")
    if max_points < 8:
        raise InputError(f"max_points={max_points}: at least 8 points are needed")
    if not 0 <= seed < 2**64:
        raise InputError(f"seed={seed}: a whole number in [0, 2^64)")


def _check_job(job: Job, pieces: int | str, layer: int | None) -> None:
    if job.source["kind"] == "weights":
        raise InputError(f"{job.source['path']} holds weights: strata are of points or of a model")
    if job.source["kind"] == "points" and layer is not None:
        raise InputError(f"layer={layer}: points have no layers, a model has")
    n = job.source.get("n", len(job.texts or ()))
    if n < 8:
        raise InputError(f"{n} points: too few to have pieces, at least 8 are needed")
    if isinstance(pieces, int) and pieces > n:
        raise InputError(f"pieces={pieces} for {n} points: give at most {n}")


def _digest(lines: Sequence[str] | None) -> str | None:
    if lines is None:
        return None
    text = "\0".join(lines).encode("utf-8", "surrogatepass")
    return hashlib.sha256(text).hexdigest()


class _Run:
    """The parts of one run, in order; each finished part is in the report at once."""

    def __init__(
        self,
        job: Job,
        what: Any,
        report: StrataReport,
        finder: Method,
        kept: Pieces,
        folder: Path | None,
        progress: Progress,
        memory: Any,
    ) -> None:
        self.job, self.what, self.report, self.finder = job, what, report, finder
        self.kept, self.folder, self.progress, self.memory = kept, folder, progress, memory
        self.seed = report.options["seed"]

    def all(self) -> None:
        """Points, pieces, and then all that is read off them."""
        self.points = points = open_sample(
            self.job, self.what, self.report.options, self.kept, self.progress, self.memory
        )
        self.x, self.z, self.rows, self.source = points.x, points.z, points.rows, points.source
        self.n_pieces = self.choose()
        self.strata = self.fit()
        self.report.strata = self.points.lift(self.strata)
        self.dictionaries = self.kept.json("dictionaries", self.of_dictionaries)
        self.sharing = share(self.strata, self.z, self.rows)
        self.report.assignments = self.assign()
        self.describe()
        self.follow_labels()
        self.report.stability = self.stable()
        self.report.verdict = self.test()
        self.report.map = self.draw()

    def of_dictionaries(self) -> dict[str, Any] | None:
        """What only pieces with dictionaries have: atoms in use, and how far these are apart."""
        if not hasattr(self.model, "dictionaries_"):
            return None
        found = strata_statistics(self.z, self.model, memory=self.memory).to_dict()
        return {name: found[name] for name in ("weighted_sparsity", "matched_distances")}

    def make(self, seed: int) -> PieceFinder:
        """The finder that was asked for, with a seed and the budget where it takes them."""
        found: PieceFinder = self.finder.function(n_pieces=getattr(self, "n_pieces", 1))
        settings = {"random_state": seed % 2**32, "memory": self.memory}
        accepted = found.get_params()
        return found.set_params(**{k: v for k, v in settings.items() if k in accepted})

    def choose(self) -> int:
        """The number of pieces asked for, or that which describes unseen points."""
        wanted = self.report.options["pieces"]
        self.report.fit = {"method": self.finder.id, "n_pieces": wanted, "choice": None}
        if (plane := self.points.plane) is not None:
            held = plane.energy_held if plane.total else None
            self.report.fit |= {"dims": plane.rank, "energy": held}
        if wanted == "auto":

            def make() -> dict[str, Any]:
                return asdict(
                    choose_pieces(
                        self.make(self.seed), self.source, random_state=self.seed,
                        memory=self.memory, progress=self.progress,
                    )
                )  # fmt: skip

            found = self.kept.json("number of pieces", make)
            self.report.fit |= {"n_pieces": found["n_pieces"], "choice": found["table"]}
        n_pieces: int = self.report.fit["n_pieces"]
        return n_pieces

    @cached_property
    def model(self) -> PieceFinder:
        """The finder, fitted to all points."""
        made = self.make(self.seed)
        # its finished pieces lie beside ours: clearing an older run's is ours alone
        kept = self.folder is not None
        return made.fit(self.source, progress=self.progress, out=self.folder, resume=kept)

    def fit(self) -> Strata:
        """The pieces, kept as tensors."""
        tensors = self.kept.tensors("pieces", lambda: as_tensors(self.model.strata_))
        totals = self.kept.json("totals", lambda: [p.total for p in self.model.strata_.pieces])
        return of_tensors(tensors, totals)

    def assign(self) -> dict[str, Tensor]:
        """Piece, sharing and local dimension of every row."""
        mle = find("geometry/mle")

        def local() -> dict[str, Tensor]:
            shared = Shared(self.x, [mle], memory=self.memory, seed=self.seed)
            found = attempt(lambda: shared.run(mle), self.report.notes, "local dimension")
            values = per_point(found)
            return {"local": values} if values is not None else {}

        def distances() -> dict[str, Tensor]:
            report, parts, done = self.progress.task("distances"), [], 0
            for block in self.source.chunks(self.memory):
                labels = self.strata.labels[done : done + len(block)]
                own, nearest, _ = apart(self.strata, block, labels)
                parts.append(torch.stack([own, margins(own, nearest)], 1).float())
                report(done := done + len(block), self.source.n)
            return {"distances": torch.cat(parts)}  # (n, 2)

        self.progress.task("local dimension")
        self.local = self.kept.tensors("local dimension", local).get("local")
        columns: dict[str, Tensor] = {"row": torch.arange(self.source.n)}
        columns["piece"] = self.strata.labels.to(torch.int32)
        columns["gate_entropy"] = self.strata.gate_entropy().float()
        distance, margin = self.kept.tensors("distances", distances)["distances"].unbind(1)
        columns["distance"] = distance
        if self.sharing.kind == "margin":
            columns["margin"] = margin
        if self.local is not None:
            dimension = torch.full((self.source.n,), torch.nan)
            dimension[self.rows] = self.local.float()
            columns["local_dimension"] = dimension
        return columns

    @property
    def labels(self) -> Tensor:
        """The piece of each row that is measured."""
        return self.strata.labels[self.rows]

    def describe(self) -> None:
        """The pieces one by one, what is between them, and how points are shared."""
        job, report = self.job, self.report
        self.progress.task("pieces")
        notes: list[str] = []

        def make() -> dict[str, Any]:
            found = piece_rows(
                self.x, self.labels, self.strata, self.sharing, job.texts, job.labels, self.rows,
                notes, self.memory, self.seed,
            )  # fmt: skip
            return found | {"notes": notes}

        report.pieces = self.kept.json("description", make)
        report.notes += report.pieces.pop("notes")
        report.between = self.kept.json("between", lambda: between(self.strata))
        if self.dictionaries is not None:
            used = self.dictionaries["weighted_sparsity"]
            for row, atoms in zip(report.pieces["rows"], used, strict=True):
                row["sparsity"] = atoms
            if report.between is not None:
                report.between["dictionaries"] = self.dictionaries["matched_distances"]
        report.gate = self.kept.json("gate", lambda: gate(self.sharing, job.labels))

    def follow_labels(self) -> None:
        """Whether pieces follow labels, and what each is rich in."""
        job, report, pieces = self.job, self.report, self.labels.tolist()
        assert report.pieces is not None
        k = len(self.strata.pieces)
        if job.texts is not None:
            texts = job.texts
            self.progress.task("words")
            words, tried = self.kept.json("words", lambda: enriched_words(pieces, texts, k))
            report.pieces["words_tried"] = tried
            for row, found in zip(report.pieces["rows"], words, strict=True):
                row["words"] = found
        if job.labels is not None:
            names = job.labels
            self.progress.task("labels")

            def make() -> dict[str, Any]:
                found = agreement(self.z, pieces, names, k, self.seed)
                length = length_share(pieces, job.texts) if job.texts is not None else None
                found |= {"length_share": length, "trivial": trivial(found, length)}
                return found | {"enriched": enriched_labels(pieces, names, k)}

            report.labels = self.kept.json("labels", make)
            for row, found in zip(
                report.pieces["rows"], report.labels.pop("enriched"), strict=True
            ):
                row["labels"] = found

    def stable(self) -> dict[str, Any] | None:
        """Refits with other seeds, and on halves of the points."""
        if len(self.strata.pieces) < 2:
            return None
        return stability(
            self.make, self.z, self.labels, self.n_pieces, self.kept, self.progress, self.seed
        )

    def test(self) -> dict[str, Any] | None:
        """Whether one piece would do; with a single piece against two or more of the same kind."""
        notes: list[str] = []
        self.progress.task("test")

        def make() -> dict[str, Any]:
            found = attempt(
                lambda: stratification_test(
                    self.z, n_pieces=self.n_pieces if self.n_pieces > 1 else "auto",
                    finder=self.make(self.seed), random_state=self.seed % 2**32,
                    memory=self.memory,
                ),
                notes,
                "one piece or several",
            )  # fmt: skip
            return {"found": found.to_dict() if found is not None else None, "notes": notes}

        made = self.kept.json("test", make)
        self.report.notes += made["notes"]
        found: dict[str, Any] | None = made["found"]
        return found

    def draw(self) -> dict[str, Any]:
        """The map."""
        self.progress.task("map")
        job = self.job
        found: dict[str, Any] = self.kept.json(
            "map",
            lambda: point_map(
                self.x, self.labels, job.labels, job.texts, self.local, self.rows, self.seed
            ),
        )
        return found
