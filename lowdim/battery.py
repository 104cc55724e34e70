"""`measure`: many numbers from the same points, each noun made once and read many times."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import lowdim
from lowdim.core import shards
from lowdim.core.engine import Engine
from lowdim.core.estimate import Estimate
from lowdim.core.pieces import Pieces
from lowdim.core.progress import Progress
from lowdim.core.shards import Source, as_source
from lowdim.errors import InputError, MemoryBudgetError
from lowdim.io.points import open_points
from lowdim.io.write import atomic_write, check_writable
from lowdim.nouns import NOUNS, Shared, k_of, merges_duplicates
from lowdim.registry import Method, find, methods
from lowdim.scores import write_scores

if TYPE_CHECKING:
    from rich.console import RenderableType

__all__ = ["NOUNS", "Measurement", "Shared", "fits_points", "measure", "merges_duplicates"]


def measure(
    x: Any,
    *names: str,
    memory: int | float | str | None = None,
    seed: int = 0,
    engine: Engine | str | None = None,
    out: str | Path | None = None,
    resume: bool = False,
    reference: int | None = None,
    progress: Progress | None = None,
) -> Measurement:
    """Measure points by name: one neighbour search and one spectrum, shared by all.

    Parameters
    ----------
    x : array-like, path or PointSource
        (n, d) points. A path or source larger than memory is streamed: one pass for the spectral
        methods, n^2 d multiply-adds for those that read neighbours, unless ``reference`` is given.
    *names : str
        Method ids (``"geometry/two-nn"``) or short names (``"two-nn"``); when none is given,
        all that fit points, are not ``deep``, can be had within ``memory`` and have an answer;
        those left out are in ``skipped``.
    memory : int, float or str, optional
        Budget, e.g. ``"2GiB"``; a quarter of free RAM by default.
    seed : int
        Seed of everything random.
    engine : Engine, str or None
        ``"ray"``, or the address of a cluster; see :func:`lowdim.core.engine.open_engine`.
    out : path, optional
        Folder that keeps finished pieces (sums and neighbours of each shard), and gets
        ``measure.json`` and the per-point scores, ``scores/*.parquet``: row number, one column
        a method.
    resume : bool
        Use the pieces in ``out`` that an earlier run on the same points finished.
    reference : int, optional
        Look for the neighbours of every row among this many sampled rows, O(n reference d)
        instead of O(n^2 d); a note on each estimate says so.

    Returns
    -------
    Measurement
        A mapping from id (or short name) to :class:`~lowdim.Estimate`.

    Raises
    ------
    InputError
        Unknown name, NaN/Inf (row named), or too few points for a method that was asked for.
    MemoryBudgetError
        Before anything is allocated, with the figure.

    Notes
    -----
    Exact duplicates are merged before the neighbour search, since two equal points say nothing of
    the space between points; each affected estimate says how many. Spectra count every row.

    Examples
    --------
    >>> import torch, lowdim
    >>> x = torch.randn(500, 3, generator=torch.Generator().manual_seed(0)) @ torch.eye(3, 10)
    >>> round(lowdim.measure(x, "participation-ratio")["participation-ratio"].value)
    3
    """
    fitting = [m for m in methods() if fits_points(m)]
    chosen = [_fitting(name, fitting) for name in names] or [m for m in fitting if not m.deep]
    if resume and out is None:
        raise InputError("resume continues what out= has kept: give that folder")
    source: Source = open_points(x) if isinstance(x, (str, Path)) else as_source(x)
    folder = check_writable(out) if out is not None else None
    key = {
        "points": shards.stamp(source) if folder is not None else None,
        "rows": shards.ROWS,
        "reference": reference,
        "seed": seed,
        "lowdim": lowdim.__version__,
    }
    pieces = Pieces(folder, key, resume=resume)
    shared = Shared(
        source, chosen, memory=memory, seed=seed, engine=engine, progress=progress,
        reference=reference, pieces=pieces,
    )  # fmt: skip
    skipped: dict[str, str] = {}
    for m in chosen:
        try:
            shared.check(m)
        except (InputError, MemoryBudgetError) as error:
            if names:
                raise
            skipped[m.id] = str(error)
    chosen = [m for m in chosen if m.id not in skipped]
    shared.k = k_of(chosen)
    estimates: dict[str, Estimate] = {}
    for m in chosen:
        for need in m.needs:
            shared.noun(need)  # what is wrong with the points themselves stops the run
        try:
            estimates[m.id] = shared.run(m)
        except InputError as error:
            if names:
                raise
            skipped[m.id] = str(error)  # these points give no answer to this one question
    found = Measurement(estimates, skipped, pieces.reused)
    if folder is not None:
        write_scores(shared, estimates, folder)
        atomic_write(folder / "measure.json", json.dumps(found.to_dict(), indent=1))
    return found


def fits_points(chosen: Method) -> bool:
    """Whether the method can be read off one set of points."""
    return all(need.noun in NOUNS for need in chosen.needs)


def _fitting(name: str, fitting: list[Method]) -> Method:
    try:
        return find(name, fitting)
    except InputError:
        other = find(name)  # an unknown name raises again, with the names close to it
    needs = ", ".join(map(str, other.needs))
    raise InputError(f"{other.id} reads {needs}, which one set of points is not")


class Measurement(Mapping[str, Estimate]):
    """A mapping from method id to :class:`Estimate`; short names work where they are unique.

    Attributes
    ----------
    skipped : dict
        By method id, why it was left out; only where no method was asked for by name.
    reused : int
        Finished pieces of an earlier run that were used.
    """

    def __init__(
        self, estimates: dict[str, Estimate], skipped: dict[str, str] | None = None, reused: int = 0
    ) -> None:
        self._estimates = estimates
        self.skipped = skipped or {}
        self.reused = reused

    def __getitem__(self, name: str) -> Estimate:
        if name in self._estimates:
            return self._estimates[name]
        hits = [id for id in self._estimates if id.split("/")[1] == name]
        if len(hits) != 1:
            raise KeyError(f"{name!r}: measured were {', '.join(self._estimates)}")
        return self._estimates[hits[0]]

    def __iter__(self) -> Iterator[str]:
        return iter(self._estimates)

    def __len__(self) -> int:
        return len(self._estimates)

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON values by method id."""
        return {id: estimate.to_dict() for id, estimate in self._estimates.items()}

    def __rich__(self) -> RenderableType:
        from rich.console import Group
        from rich.table import Table

        table = Table(box=None, pad_edge=False, header_style="bold")
        table.add_column("method", no_wrap=True)
        table.add_column("value", justify="right", no_wrap=True)
        table.add_column("interval", no_wrap=True)
        table.add_column("n", justify="right", no_wrap=True)
        table.add_column("notes")
        for id, e in self._estimates.items():
            notes = "; ".join((*(() if e.exact else ("approximate",)), *e.notes))
            table.add_row(id, str(e.replace(low=None, high=None)), e.interval, str(e.n), notes)
        left_out = (f"[dim]left out: {id}: {why}[/dim]" for id, why in self.skipped.items())
        return Group(table, *left_out)

    def __repr__(self) -> str:
        from rich.console import Console

        console = Console(width=80)
        with console.capture() as captured:
            console.print(self)
        return captured.get()

    def _repr_html_(self) -> str:
        rows = "".join(
            f"<tr><th>{id}</th><td>{e.replace(low=None, high=None)}</td><td>{e.interval}</td>"
            f"<td>{e.n}</td><td>{'; '.join(e.notes)}</td></tr>"
            for id, e in self._estimates.items()
        )
        head = "<tr><th>method</th><th>value</th><th>interval</th><th>n</th><th>notes</th></tr>"
        left_out = "".join(f"<p>left out: {id}: {why}</p>" for id, why in self.skipped.items())
        return f"<table>{head}{rows}</table>{left_out}"
