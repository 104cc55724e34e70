"""`measure`: many numbers from the same points, each noun made once and read many times."""

from __future__ import annotations

import inspect
import time
from collections.abc import Iterable, Iterator, Mapping
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from torch import Tensor

from lowdim.core.engine import Engine, LocalEngine
from lowdim.core.estimate import Estimate
from lowdim.core.moments import Moments
from lowdim.core.neighbors import Neighbors
from lowdim.core.points import as_points, distinct
from lowdim.core.progress import Progress, Silent
from lowdim.core.spectrum import Spectrum
from lowdim.errors import InputError
from lowdim.io.points import PointSource, open_points
from lowdim.registry import Method, Need, find, methods

if TYPE_CHECKING:
    from rich.console import RenderableType

NOUNS = ("points", "spectrum", "neighbors")
"""What can be made from one set of points."""


def measure(
    x: Any,
    *names: str,
    memory: int | float | str | None = None,
    seed: int = 0,
    progress: Progress | None = None,
) -> Measurement:
    """Measure points by name: one neighbour search and one spectrum, shared by all.

    Parameters
    ----------
    x : array-like, path or PointSource
        (n, d) points. A path or source larger than memory is streamed by the spectral methods.
    *names : str
        Method ids (``"geometry/two-nn"``) or short names (``"two-nn"``); when none is given,
        all that fit points and are not ``deep``.
    memory : int, float or str, optional
        Budget, e.g. ``"2GiB"``; a quarter of free RAM by default.
    seed : int
        Seed of everything random.

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
    shared = Shared(x, chosen, memory=memory, seed=seed, progress=progress)
    return Measurement({m.id: shared.run(m) for m in chosen})


def fits_points(chosen: Method) -> bool:
    """Whether the method can be read off one set of points."""
    return all(need.noun in NOUNS for need in chosen.needs)


def merges_duplicates(chosen: Method) -> bool:
    """Whether the method looks at distinct rows only."""
    return any(need.noun == "neighbors" or "distinct" in need.options for need in chosen.needs)


def _fitting(name: str, fitting: list[Method]) -> Method:
    try:
        return find(name, fitting)
    except InputError:
        other = find(name)  # an unknown name raises again, with the names close to it
    needs = ", ".join(map(str, other.needs))
    raise InputError(f"{other.id} reads {needs}, which one set of points is not")


class Shared:
    """One set of points and the nouns made of it, each made when first needed and kept.

    Parameters
    ----------
    x : array-like, path or PointSource
    chosen : iterable of Method
        What will be run: the search is made once, for the largest ``k`` among them.
    """

    def __init__(
        self,
        x: Any,
        chosen: Iterable[Method],
        *,
        memory: int | float | str | None = None,
        seed: int = 0,
        engine: Engine | None = None,
        progress: Progress | None = None,
    ) -> None:
        self.source = open_points(x) if isinstance(x, (str, Path)) else x
        if not isinstance(self.source, PointSource):
            self.source = as_points(self.source)
        self.memory, self.seed = memory, seed
        self.engine = engine or LocalEngine()
        self.progress = progress or Silent()
        needs = [need for m in chosen for need in m.needs]
        self.k = max((need.options["k"] for need in needs if need.noun == "neighbors"), default=0)
        self._with_vectors = {
            (need.options["center"], need.options["unit"])
            for need in needs
            if need.options.get("vectors")
        }
        self._moments: dict[bool, Moments] = {}
        self._spectra: dict[tuple[bool, bool], Spectrum] = {}

    @cached_property
    def points(self) -> Tensor:
        """All rows in memory."""
        if isinstance(self.source, PointSource):
            return self.source.read(self.memory)
        return self.source

    @cached_property
    def distinct(self) -> tuple[Tensor, Tensor]:
        """The distinct rows, and for each row which of them it is."""
        return distinct(self.points)

    @cached_property
    def n_duplicates(self) -> int:
        """How many rows equal an earlier row exactly."""
        return len(self.points) - len(self.distinct[0])

    @cached_property
    def neighbors(self) -> Neighbors:
        """The ``k`` nearest distinct points of each distinct point."""
        points = self.distinct[0]
        if len(points) <= self.k:
            merged = f" ({self.n_duplicates} exact duplicates merged)" if self.n_duplicates else ""
            raise InputError(
                f"{self.k} neighbours need at least {self.k + 1} distinct points, "
                f"x has {len(points)}{merged}"
            )
        report = self.progress.task("neighbours")
        return Neighbors.of_points(
            points, self.k, memory=self.memory, seed=self.seed, progress=report
        )

    def spectrum(self, *, center: bool, unit: bool) -> Spectrum:
        """Spectrum of the (unit-row) second moment; one pass over the data serves both centres."""
        key = (center, unit)
        vectors = key in self._with_vectors
        if key not in self._spectra:
            n, dim = _shape(self.source)
            if n < dim:  # the Gram side is the smaller one
                self._spectra[key] = Spectrum.of_points(
                    self.points, center=center, unit=unit, vectors=vectors, memory=self.memory
                )
            else:
                moments = self.moments(unit)
                self._spectra[key] = Spectrum.of_moments(moments, center=center, vectors=vectors)
        return self._spectra[key]

    def moments(self, unit: bool) -> Moments:
        """Mean and scatter of all rows, streamed in float64."""
        if unit not in self._moments:
            chunks: Iterable[Tensor]
            if isinstance(self.source, PointSource):
                chunks = self.source.chunks(self.memory)
            else:
                chunks = self.source.split(16_384)
            dim = _shape(self.source)[1]
            self._moments[unit] = self.engine.reduce(lambda: Moments(dim, unit=unit), chunks)
        return self._moments[unit]

    def noun(self, need: Need) -> Any:
        """The noun that a method asks for."""
        if need.noun == "points":
            return self.distinct[0] if need.options.get("distinct") else self.points
        if need.noun == "neighbors":
            return self.neighbors
        return self.spectrum(center=need.options["center"], unit=need.options["unit"])

    def run(self, chosen: Method) -> Estimate:
        """Run one method on the shared nouns, and time it alone."""
        nouns = [self.noun(need) for need in chosen.needs]
        accepted = inspect.signature(chosen.function).parameters
        settings = {"memory": self.memory, "seed": self.seed}
        start = time.perf_counter()
        estimate: Estimate = chosen(*nouns, **{k: v for k, v in settings.items() if k in accepted})
        changes: dict[str, Any] = {"seconds": time.perf_counter() - start}
        if merges_duplicates(chosen):
            if any(need.noun == "neighbors" for need in chosen.needs):
                changes["exact"] = estimate.exact and self.neighbors.exact
            if self.n_duplicates:
                note = f"{self.n_duplicates} exact duplicates merged"
                changes["notes"] = (*estimate.notes, note)
                if estimate.per_point is not None:  # one value a row that was given
                    changes["per_point"] = estimate.per_point[self.distinct[1]]
        return estimate.replace(**changes)


def _shape(source: Tensor | PointSource) -> tuple[int, int]:
    if isinstance(source, PointSource):
        return source.n, source.dim
    return source.shape[0], source.shape[1]


class Measurement(Mapping[str, Estimate]):
    """A mapping from method id to :class:`Estimate`; short names work where they are unique."""

    def __init__(self, estimates: dict[str, Estimate]) -> None:
        self._estimates = estimates

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
        return table

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
        return f"<table>{head}{rows}</table>"
