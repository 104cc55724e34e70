"""One set of points and the nouns made of it, each made once: in memory, or by shards.

Points that fit in memory are held. Others, and all where an engine or a folder for pieces is
given, are cut into shards: second moments add up, and each shard meets either all points or
``reference`` sampled ones.
"""

from __future__ import annotations

import inspect
import time
from collections.abc import Iterable
from functools import cached_property, partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from lowdim.core.engine import Engine, LocalEngine, open_engine, watched
from lowdim.core.estimate import Estimate
from lowdim.core.memory import budget, format_bytes
from lowdim.core.moments import Moments
from lowdim.core.neighbors import Neighbors
from lowdim.core.pieces import Pieces
from lowdim.core.points import distinct
from lowdim.core.progress import Progress, Silent
from lowdim.core.random import choice
from lowdim.core.shards import Held, Kept, Source, as_source, distinct_rows, sample, shards
from lowdim.core.spectrum import Spectrum
from lowdim.core.streamed import Nearest, twin
from lowdim.errors import InputError, MemoryBudgetError
from lowdim.io.points import open_points
from lowdim.registry import Method, Need

NOUNS = ("points", "spectrum", "neighbors")
"""What can be made from one set of points."""

ENTRY_BYTES = 256
"""What an estimator takes for one neighbour of one row, its standard error included."""


def k_of(chosen: Iterable[Method]) -> int:
    """Most neighbours that any of the methods reads; 0 where none does."""
    needs = [need for m in chosen for need in m.needs]
    return max((need.options["k"] for need in needs if need.noun == "neighbors"), default=0)


def merges_duplicates(chosen: Method) -> bool:
    """Whether the method looks at distinct rows only."""
    return any(need.noun == "neighbors" or "distinct" in need.options for need in chosen.needs)


class Shared:
    """One set of points and the nouns made of it, each made when first needed and kept.

    Parameters
    ----------
    x : array-like, path or source
    chosen : iterable of Method
        What will be run: the search is made once, for the largest ``k`` among them.
    memory : int, float or str, optional
        Budget of this machine, shared by the tasks of an engine.
    seed : int
        Of the sampled references and rows.
    engine : Engine, str or None
        Where shards are worked on, see :func:`lowdim.core.engine.open_engine`.
    progress : Progress, optional
        Where bars are drawn.
    reference : int, optional
        Search among this many sampled rows; as many as there are rows, or more, means all.
    pieces : Pieces, optional
        Keeps the sums and the neighbours of each shard.
    """

    def __init__(
        self,
        x: Any,
        chosen: Iterable[Method],
        *,
        memory: int | float | str | None = None,
        seed: int = 0,
        engine: Engine | str | None = None,
        progress: Progress | None = None,
        reference: int | None = None,
        pieces: Pieces | None = None,
    ) -> None:
        self.source: Source = open_points(x) if isinstance(x, (str, Path)) else as_source(x)
        self.memory, self.seed = memory, seed
        self.engine = open_engine(engine)
        self.progress = progress or Silent()
        self.pieces = pieces or Pieces(None, {})
        chosen = list(chosen)
        needs = [need for m in chosen for need in m.needs]
        self.k = k_of(chosen)
        self.reference = reference if reference is None or reference < self.source.n else None
        if self.reference is not None and self.reference < self.k + 2:
            raise InputError(
                f"reference={reference}: {self.k} neighbours need {self.k + 2} or more"
            )
        spectra = [need.options for need in needs if need.noun == "spectrum"]
        self._with_vectors = {(o["center"], o["unit"]) for o in spectra if o.get("vectors")}
        self._units = {o["unit"] for o in spectra}
        self._moments: dict[bool, Moments] = {}
        self._spectra: dict[tuple[bool, bool], Spectrum] = {}

    @cached_property
    def points(self) -> Tensor:
        """All rows in memory."""
        return self.source.read(self.memory)

    @cached_property
    def distinct(self) -> tuple[Tensor, Tensor]:
        """The distinct rows, and for each row which of them it is."""
        return distinct(self.points)

    @cached_property
    def held(self) -> bool:
        """Whether the search holds all points, and is not made by shards."""
        n, dim, size = self.source.n, self.source.dim, self.source.dtype.itemsize
        if not isinstance(self.engine, LocalEngine) or self.pieces.folder is not None:
            return False
        if isinstance(self.source, Held):
            return True
        return n * (dim * (size + 4) + self.k * ENTRY_BYTES) <= budget(self.memory)

    @cached_property
    def _merged(self) -> tuple[Source, Tensor]:
        """As ``distinct``, of a source that need not be held."""
        if self.held:
            points, inverse = self.distinct
            return Held(points), inverse
        return distinct_rows(
            self.source, engine=self.engine, memory=self.memory, pieces=self.pieces
        )

    @cached_property
    def n_duplicates(self) -> int:
        """How many rows equal an earlier row exactly."""
        return self.source.n - self._merged[0].n

    @cached_property
    def neighbors(self) -> Neighbors:
        """The ``k`` nearest distinct points of each distinct point, or references of each row."""
        if self.reference is not None:
            return self._among_references()
        if self.n_reference <= self.k:
            raise InputError(self._too_few(self.k))
        return Neighbors.of_points(
            self._merged[0],
            self.k,
            memory=self.memory,
            seed=self.seed,
            engine=None if self.held else self.engine,
            pieces=None if self.held else self.pieces,
            progress=self.progress.task("neighbours"),
        )

    @cached_property
    def references(self) -> Tensor:
        """(m, d) the distinct ones among ``reference`` sampled rows."""
        rows = choice(self.source.n, self.reference or 0, self.seed).sort().values

        def make() -> dict[str, Tensor]:
            return {"x": sample(self.source, rows, engine=self.engine, memory=self.memory)}

        return distinct(self.pieces.tensors("references", make)["x"])[0]

    @cached_property
    def rows(self) -> Tensor:
        """The rows whose neighbours among the references are held: all, or a sample that fits."""
        n = self.source.n
        most = max(budget(self.memory) // (2 * self.k * ENTRY_BYTES), 1000)
        return torch.arange(n) if n <= most else choice(n, most, self.seed, 1).sort().values

    @cached_property
    def nearest(self) -> Nearest:
        """The search of a shard among the references; a row that equals one is that one."""
        if len(self.references) < self.k + 1:
            raise InputError(
                f"{self.k} neighbours need {self.k + 1} distinct references, and of "
                f"{self.reference:,} sampled rows {len(self.references)} differ: raise reference="
            )
        share = budget(self.memory) // self.engine.tasks
        return Nearest(Held(self.references), self.k, twin, share)

    @property
    def n_reference(self) -> int:
        """Distinct points among which neighbours are searched for."""
        return self._merged[0].n if self.reference is None else len(self.references)

    def _too_few(self, k: int) -> str:
        copies = self.reference is None and self.n_duplicates
        merged = f" ({self.n_duplicates} exact duplicates merged)" if copies else ""
        have = f"x has {self.n_reference}{merged}"
        return f"{k} neighbours need at least {k + 1} distinct points, {have}"

    @property
    def nearest_name(self) -> str:
        """What the pieces of that search are called."""
        return f"nearest k={self.k}"

    def _among_references(self) -> Neighbors:
        """Neighbours of ``rows``; where pieces are kept, all rows are searched for."""
        every = self.pieces.folder is not None or len(self.rows) == self.source.n
        queries = self.source if every else Kept(self.source, self.rows)
        wanted = self.rows if every else torch.arange(queries.n)
        parts = shards(queries)
        edges = torch.tensor([part.start - queries.start for part in parts] + [queries.n])
        cuts = torch.searchsorted(wanted, edges).tolist()
        items = [
            (part, wanted[low:high] - first)
            for part, first, low, high in zip(parts, edges[:-1], cuts[:-1], cuts[1:], strict=True)
        ]
        found = self.pieces.map(
            self.nearest_name, partial(_search, self.nearest), items, self.engine, select=_wanted
        )
        kept = list(watched(found, len(parts), self.progress.task("neighbours")))
        m, d = self.references.shape
        return Neighbors(
            torch.cat([piece["distances"] for piece in kept]),
            torch.cat([piece["indices"] for piece in kept]),
            m,
            d,
        )

    def spectrum(self, *, center: bool, unit: bool) -> Spectrum:
        """Spectrum of the (unit-row) second moment; one pass over the data serves both centres."""
        key = (center, unit)
        vectors = key in self._with_vectors
        if key not in self._spectra:
            if self.source.n < self.source.dim:  # the Gram side is the smaller one
                self._spectra[key] = Spectrum.of_points(
                    self.points, center=center, unit=unit, vectors=vectors, memory=self.memory
                )
            else:
                moments = self.moments(unit)
                self._spectra[key] = Spectrum.of_moments(moments, center=center, vectors=vectors)
        return self._spectra[key]

    def moments(self, unit: bool) -> Moments:
        """Mean and scatter of all rows, streamed in float64; a file is read once for both."""
        if unit not in self._moments:
            units = [unit] if isinstance(self.source, Held) else sorted(self._units | {unit})
            memory = budget(self.memory) // self.engine.tasks
            parts = shards(self.source)
            found = self.pieces.map(
                f"moments {units}", partial(_sums, units, memory), parts, self.engine
            )
            totals = {u: Moments(self.source.dim, unit=u) for u in units}
            for piece in watched(found, len(parts), self.progress.task("second moments")):
                for u, total in totals.items():
                    state = Moments(self.source.dim, unit=u)
                    state.count = int(piece[f"count {u}"])
                    state.mean, state.scatter = piece[f"mean {u}"], piece[f"scatter {u}"]
                    total.merge(state)
            self._moments |= totals
        return self._moments[unit]

    def noun(self, need: Need) -> Any:
        """The noun that a method asks for."""
        if need.noun == "points":
            return self.distinct[0] if need.options.get("distinct") else self.points
        if need.noun == "neighbors":
            return self.neighbors
        return self.spectrum(center=need.options["center"], unit=need.options["unit"])

    def check(self, chosen: Method) -> None:
        """Say before any work that a method needs what these points cannot give.

        Raises
        ------
        MemoryBudgetError
            It needs all points in memory, and they do not fit.
        InputError
            It needs the points beside their neighbours, and those are of sampled references; or
            more neighbours than there are distinct points.
        """
        nouns = {need.noun for need in chosen.needs}
        if "neighbors" in nouns and k_of([chosen]) >= self.n_reference:
            raise InputError(self._too_few(k_of([chosen])))
        if "points" not in nouns:
            return
        if self.reference is not None and "neighbors" in nouns:
            raise InputError(
                f"{chosen.id} compares the points with their own neighbours, and reference= finds "
                "those among sampled rows only: leave one of the two out"
            )
        source = self.source
        takes = 2 * source.n * source.dim * source.dtype.itemsize
        if not isinstance(source, Held) and takes > budget(self.memory):
            raise MemoryBudgetError(
                f"{chosen.id} needs all {source.n:,} points in memory, {format_bytes(takes)} with "
                f"a copy, and may use {format_bytes(budget(self.memory))}: raise memory=, or "
                "measure a sample of the rows"
            )

    def run(self, chosen: Method) -> Estimate:
        """Run one method on the shared nouns, and time it alone."""
        nouns = [self.noun(need) for need in chosen.needs]
        accepted = inspect.signature(chosen.function).parameters
        settings = {"memory": self.memory, "seed": self.seed}
        start = time.perf_counter()
        estimate: Estimate = chosen(*nouns, **{k: v for k, v in settings.items() if k in accepted})
        estimate = estimate.replace(seconds=time.perf_counter() - start)
        if not merges_duplicates(chosen):
            return estimate
        searched = any(need.noun == "neighbors" for need in chosen.needs)
        if searched and self.reference is not None:
            return self._against_references(estimate)
        changes: dict[str, Any] = {}
        if searched:
            changes["exact"] = estimate.exact and self.neighbors.exact
        if self.n_duplicates:
            changes["notes"] = (*estimate.notes, f"{self.n_duplicates} exact duplicates merged")
            if estimate.per_point is not None:  # one value a row that was given
                changes["per_point"] = estimate.per_point[self._merged[1]]
        return estimate.replace(**changes)

    def _against_references(self, estimate: Estimate) -> Estimate:
        n, read = self.source.n, len(self.rows)
        notes = [f"neighbours among {len(self.references):,} of {n:,} rows"]
        notes += [f"read off {read:,} of them"] if read < n else []
        equal = (self.reference or 0) - len(self.references)
        notes += [f"{equal} equal references merged"] if equal else []
        per_point = estimate.per_point
        if per_point is not None and len(per_point) != n:
            per_point = None
        return estimate.replace(
            exact=False, seed=self.seed, notes=(*estimate.notes, *notes), per_point=per_point
        )


def _search(nearest: Nearest, item: tuple[Source, Tensor]) -> dict[str, Tensor]:
    return nearest(item[0])


def _wanted(piece: dict[str, Tensor], item: tuple[Source, Tensor]) -> dict[str, Tensor]:
    return {name: values[item[1]] for name, values in piece.items()}


def _sums(units: list[bool], memory: int, shard: Source) -> dict[str, Tensor]:
    """Moments of one shard as plain tensors."""
    states = {unit: Moments(shard.dim, unit=unit, offset=shard.start) for unit in units}
    for chunk in shard.chunks(memory):
        for state in states.values():
            state.update(chunk)
    return {
        f"{name} {unit}": torch.as_tensor(getattr(state, name))
        for unit, state in states.items()
        for name in ("count", "mean", "scatter")
    }
