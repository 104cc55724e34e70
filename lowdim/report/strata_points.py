"""The points of a strata report: all of them for the fit, and the sample that is measured."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from lowdim.core.memory import plan
from lowdim.core.pieces import Pieces
from lowdim.core.progress import Progress
from lowdim.core.random import choice
from lowdim.core.shards import Held, Source
from lowdim.core.spectrum import Spectrum
from lowdim.core.strata import Strata
from lowdim.core.subspace import Subspace
from lowdim.errors import InputError
from lowdim.io.activations import embed, hidden_states
from lowdim.io.models import load_model
from lowdim.report.job import Job
from lowdim.structure.estimator import open_source


@dataclass(frozen=True, eq=False)
class Sample:
    """What pieces are fitted to, and what is measured.

    Attributes
    ----------
    source : Source
        All n points, in their leading principal directions where these were asked for.
    x : Tensor
        (m, d) the points measured.
    z : Tensor
        (m, r) the same as in ``source``.
    rows : Tensor
        (m,) their numbers in ``source``.
    plane : Subspace or None
        The leading principal directions, where there are more columns.
    """

    source: Source
    x: Tensor
    z: Tensor
    rows: Tensor
    plane: Subspace | None

    def lift(self, strata: Strata) -> Strata:
        """The pieces in the space of the points; a point is as far outside all of them as ever."""
        if self.plane is None:
            return strata
        pieces = [
            replace(
                piece,
                basis=self.plane.basis @ piece.basis.to(self.plane.basis),  # (d, r)
                center=self.plane.reconstruct(piece.center[None])[0],
            )
            for piece in strata.pieces
        ]
        return Strata(tuple(pieces), strata.weights)


def open_sample(
    job: Job, what: Any, options: Mapping[str, Any], kept: Pieces, progress: Progress, memory: Any
) -> Sample:
    """Run the model where there is one; then reduce, and hold no more than the sample."""
    if job.model_path is not None:
        x = _embedded(job, options, kept, progress, memory)
        job.source |= {"n": len(x), "dim": x.shape[1]}
        source: Source = Held(x)
    else:
        assert job.points is not None
        x = job.points
        source = Held(x) if len(x) == job.source["n"] else open_source(what)
    rows = torch.arange(source.n)
    if len(x) < source.n:  # as open_job drew them
        rows = choice(source.n, len(x), seed=options["seed"]).sort().values
    if not 0 < options["dims"] < x.shape[1]:
        return Sample(source, x, x, rows, None)
    spectrum = Spectrum.of_points(x, vectors=True, memory=memory)
    rank = min(options["dims"], len(spectrum.values))
    plane = Subspace.of_spectrum(spectrum, rank=rank).to(x.dtype)
    z = plane.project(x)  # (m, d) @ (d, r)
    if len(x) == source.n:
        return Sample(Held(z), x, z, rows, plane)
    plan(
        f"{source.n:,} points of {rank} columns", rows=1, memory=memory,
        bytes_per_row=2 * source.n * rank * x.element_size(),
    )  # fmt: skip
    reduced = torch.cat([plane.project(block) for block in source.chunks(memory)])
    return Sample(Held(reduced), x, z, rows, plane)


def _embedded(
    job: Job, options: Mapping[str, Any], kept: Pieces, progress: Progress, memory: Any
) -> Tensor:
    """What the model makes of the texts: its own embedding, or one layer."""
    layer = options["layer"]
    assert job.model_path is not None
    assert job.texts is not None
    model = load_model(job.model_path)
    n = model.n_layers
    if layer is not None and not -n - 1 <= layer <= n:
        raise InputError(f"layer={layer}: this model has 0 to {n}, or -{n + 1} to -1 from last")
    job.source |= {"architecture": model.architecture, "role": model.kind, "n_layers": n}
    job.source |= {"parameters": model.n_parameters}
    most = options["max_points"]
    if len(job.texts) > most:
        job.notes.append(f"a uniform sample of {most:,} of {len(job.texts):,} texts was used")
        at = choice(len(job.texts), most, seed=options["seed"]).sort().values.tolist()
        job.texts, job.labels = (
            [column[i] for i in at] if column is not None else None
            for column in (job.texts, job.labels)
        )
    texts, advance = job.texts, progress.task("embeddings")
    assert texts is not None

    def make() -> dict[str, Tensor]:
        if layer is None:
            return {"x": embed(model, texts, memory=memory, progress=advance)}
        found = hidden_states(
            model, texts, pooling=options["pooling"], memory=memory, progress=advance
        )
        return {"x": found.layers[layer].clone()}

    return kept.tensors("points", make)["x"]
