"""Per-point scores in Parquet: a part for each shard of the points, a column for each method."""

from __future__ import annotations

import shutil
from collections.abc import Mapping
from functools import partial
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from torch import Tensor

from lowdim.core.engine import watched
from lowdim.core.estimate import Estimate
from lowdim.core.neighbors import Neighbors
from lowdim.core.pieces import Pieces
from lowdim.core.shards import Source, shards
from lowdim.core.streamed import Nearest
from lowdim.io.write import atomic_open
from lowdim.nouns import Shared
from lowdim.registry import find

FOLDER = "scores"


def write_scores(shared: Shared, estimates: Mapping[str, Estimate], out: Path) -> Path | None:
    """Write ``out/scores/part-00000.parquet``, ...: the number of each row, and its scores.

    A column is a method that gives one value a row. Where neighbours were searched for among
    sampled references each shard is scored by its worker, from the neighbours it has kept.

    Returns
    -------
    Path or None
        The folder; None where no method was local.
    """
    folder = out / FOLDER
    shutil.rmtree(folder, ignore_errors=True)
    parts = list(enumerate(shards(shared.source)))
    if shared.reference is None:
        columns = {id: e.per_point for id, e in estimates.items() if e.per_point is not None}
        if not columns:
            return None
        folder.mkdir(parents=True)
        first = 0
        for i, part in parts:
            rows = slice(first, first + part.n)
            _write(folder, i, part, {id: values[rows] for id, values in columns.items()})
            first = rows.stop
        return folder
    local = [id for id in estimates if any(n.noun == "neighbors" for n in find(id).needs)]
    if not local:
        return None
    folder.mkdir(parents=True)
    score = partial(_score, shared.pieces, shared.nearest_name, shared.nearest, local, folder)
    report = shared.progress.task("scores")
    for _ in watched(shared.engine.map(score, parts), len(parts), report):
        pass
    return folder


def _score(
    pieces: Pieces,
    name: str,
    nearest: Nearest,
    ids: list[str],
    folder: Path,
    numbered: tuple[int, Source],
) -> None:
    i, part = numbered
    piece = pieces.tensors(f"{name} {i}", partial(nearest, part))
    references = nearest.references
    neighbors = Neighbors(piece["distances"], piece["indices"], references.n, references.dim)
    found = {id: find(id)(neighbors).per_point for id in ids}
    columns = {id: v for id, v in found.items() if v is not None and len(v) == part.n}
    _write(folder, i, part, columns)


def _write(folder: Path, i: int, part: Source, columns: dict[str, Tensor]) -> None:
    values = {id: value.numpy(force=True) for id, value in columns.items()}
    table = pa.table({"row": np.arange(part.start, part.start + part.n)} | values)
    with atomic_open(folder / f"part-{i:05d}.parquet") as file:
        pq.write_table(table, file)
