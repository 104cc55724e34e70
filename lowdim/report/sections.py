"""The measured sections of a scan: weights, layers, embedding; each a function to JSON values."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from typing import Any

import torch
from torch import Tensor

from lowdim.battery import Shared, fits_points
from lowdim.compare.cka import cka_matrix
from lowdim.compare.information_imbalance import Imbalance, imbalances
from lowdim.compare.neighborhood_overlap import neighborhood_overlap
from lowdim.core.estimate import Estimate
from lowdim.core.pieces import Pieces
from lowdim.core.progress import Progress
from lowdim.core.random import choice
from lowdim.core.spectrum import Spectrum
from lowdim.core.subspace import Subspace
from lowdim.errors import InputError
from lowdim.geometry.label_dimension import dimension_by_label
from lowdim.io.weights import WeightMatrix
from lowdim.registry import Method, find, methods
from lowdim.retrieval.size_recall import size_recall

LAYER_METHODS = (
    "geometry/two-nn",
    "geometry/mle",
    "geometry/participation-ratio",
    "geometry/rank-99",
    "geometry/anisotropy",
    "geometry/mean-cosine",
    "geometry/isoscore",
    "geometry/early-enrichment",
    "geometry/uniformity",
    "geometry/outlier-dimensions",
    "diversity/von-neumann-entropy",
)
CURVE_POINTS = 128
MOVED_ROWS = 1_000
MAP_POINTS = 2_000
HISTOGRAM_BINS = 40


def weights_section(
    matrices: Sequence[WeightMatrix],
    pieces: Pieces,
    progress: Progress,
    notes: list[str],
    memory: int | float | str | None = None,
    deep: bool = False,
) -> list[dict[str, Any]]:
    """Every spectral measure of every weight matrix, one piece a matrix; dear ones if ``deep``."""
    chosen = [
        m
        for m in methods()
        if all(need.noun == "matrix" for need in m.needs) and (deep or not m.deep)
    ]
    report, rows = progress.task("weights"), []
    for done, matrix in enumerate(matrices):
        report(done, len(matrices))

        def make(matrix: WeightMatrix = matrix) -> dict[str, Any]:
            missed: list[str] = []
            spectrum = Spectrum.of_matrix(matrix.load(), memory=memory)
            estimates = measured(chosen, lambda m: m(spectrum), missed, matrix.name)
            rows, cols = matrix.shape
            row = {"name": matrix.name, "kind": matrix.kind, "rows": rows, "cols": cols}
            return row | {"estimates": estimates, "spectrum": curve(spectrum), "missed": missed}

        row = pieces.json(f"{'deep/' if deep else ''}weights/{matrix.name}", make)
        notes += row.pop("missed")
        rows.append(row)
    report(len(matrices), len(matrices))
    return rows


def layers_section(
    layers: Sequence[Tensor],
    names: Sequence[str],
    pieces: Pieces,
    progress: Progress,
    notes: list[str],
    memory: int | float | str | None = None,
    seed: int = 0,
) -> list[dict[str, Any]]:
    """The measures of every layer's points, one piece a layer."""
    chosen = [find(id) for id in LAYER_METHODS]
    report, rows = progress.task("layers"), []
    for index, (name, x) in enumerate(zip(names, layers, strict=True)):
        report(index, len(layers))

        def make(index: int = index, name: str = name, x: Tensor = x) -> dict[str, Any]:
            missed: list[str] = []
            shared = Shared(x, chosen, memory=memory, seed=seed)
            row: dict[str, Any] = {"name": name, "index": index, "n": len(x), "dim": x.shape[1]}
            row["estimates"] = measured(chosen, shared.run, missed, name)
            row["spectrum"] = curve(shared.spectrum(center=True, unit=False))
            return row | {"missed": missed}

        row = pieces.json(f"layers/{index}", make)
        notes += row.pop("missed")
        rows.append(row)
    report(len(layers), len(layers))
    if len(layers) > 1:
        moved = pieces.json("layers/moved", lambda: _moved(layers, memory, seed))
        for row, more in zip(rows, moved["estimates"], strict=True):
            row["estimates"] |= more
        notes += moved["missed"]
    return rows


def _moved(layers: Sequence[Tensor], memory: int | float | str | None, seed: int) -> dict[str, Any]:
    """What each layer keeps of the one before, and how well it predicts the last one.

    On at most 1,000 rows, the same in all layers: overlap and imbalance depend on their number.
    """
    rows = choice(len(layers[0]), min(len(layers[0]), MOVED_ROWS), seed=seed).sort().values
    xs = [x[rows] for x in layers]
    missed: list[str] = []

    def make() -> list[dict[str, Any]]:
        to_last, from_last = (z.mean(0) for z in imbalances(xs, xs[-1], memory=memory))
        found: list[dict[str, Any]] = []
        for i, x in enumerate(xs):
            back = Imbalance(value=float(to_last[i]), reverse=float(from_last[i]), n=len(x))
            found.append({"compare/information-imbalance": back.to_dict()})
            if i:
                overlap = neighborhood_overlap(xs[i - 1], x, memory=memory)
                found[i]["compare/neighborhood-overlap"] = overlap.to_dict()
        return found

    estimates = attempt(make, missed, "overlap and imbalance of layers") or [{} for _ in xs]
    return {"estimates": estimates, "missed": missed}


def cka_section(layers: Sequence[Tensor]) -> list[list[float]] | None:
    """Debiased linear CKA between all layers."""
    if len(layers) < 2 or len(layers[0]) < 4:
        return None
    matrix: list[list[float]] = cka_matrix(list(layers)).tolist()
    return matrix


def embedding_section(
    x: Tensor,
    name: str,
    *,
    labels: Sequence[str] | None = None,
    texts: Sequence[str] | None = None,
    progress: Progress,
    notes: list[str],
    memory: int | float | str | None = None,
    seed: int = 0,
) -> dict[str, Any]:
    """All measures of points, with what is seen point by point and what a smaller index costs."""
    chosen = [m for m in methods() if fits_points(m) and not m.deep]
    shared = Shared(x, chosen, memory=memory, seed=seed, progress=progress)
    found: dict[str, Estimate] = {}

    def run(m: Method) -> Estimate:
        found[m.id] = shared.run(m)
        return found[m.id]

    section: dict[str, Any] = {"name": name, "n": len(x), "dim": x.shape[1]}
    section["duplicates"] = shared.n_duplicates
    section["estimates"] = measured(chosen, run, notes, name)
    section["spectrum"] = curve(shared.spectrum(center=True, unit=False))
    local = per_point(found.get("geometry/mle"))
    section["local_dimension"] = histogram(local)
    section["hubness"] = histogram(per_point(found.get("geometry/hubness")))
    section["near_duplicates"] = _pairs(found.get("geometry/near-duplicates"), shared, texts)
    section["labels"] = None
    if labels is not None:
        progress.task("labels")
        section["labels"] = attempt(
            lambda: dimension_by_label(x, labels, memory=memory).to_dict(), notes, "labels"
        )
    progress.task("size and recall")
    section["size_recall"] = attempt(
        lambda: size_recall(x, seed=seed, memory=memory).to_dict(), notes, "size and recall"
    )
    section["map"] = attempt(lambda: _map(x, labels, local, seed), notes, "map")
    return section


def measured(
    chosen: Iterable[Method], run: Any, notes: list[str], place: str
) -> dict[str, dict[str, Any]]:
    """Run each method; one that cannot answer here becomes a note, not the end of the scan."""
    estimates = {}
    for m in chosen:
        value = attempt(lambda m=m: run(m).to_dict(), notes, f"{place}: {m.id}")
        if value is not None:
            estimates[m.id] = value
    return estimates


def attempt(make: Any, notes: list[str], what: str) -> Any:
    """The value, or None and a note that says why there is none."""
    try:
        return make()
    except InputError as error:
        notes.append(f"{what} not measured: {error}")
        return None


def curve(spectrum: Spectrum) -> dict[str, Any]:
    """At most 128 energies at log-spaced ranks: enough to draw, small enough to keep."""
    size = len(spectrum.values)
    steps = torch.logspace(0, torch.log10(torch.tensor(float(size))).item(), CURVE_POINTS)
    index = steps.round().long().clamp(1, size).unique()
    values = spectrum.values[index - 1].tolist()
    return {"index": index.tolist(), "values": values, "total": spectrum.total}


def histogram(values: Tensor | None) -> dict[str, Any] | None:
    """Counts in equal bins over the range of the finite values; whole bins for whole numbers."""
    if values is None:
        return None
    values = values[torch.isfinite(values)].double().cpu()
    if len(values) == 0:
        return None
    low, high = float(values.min()), float(values.max())
    width = (high - low) / HISTOGRAM_BINS or 1.0
    if torch.equal(values, values.round()):  # else some bins hold two of them and some one
        low, width = low - 0.5, float(math.ceil((high - low + 1) / HISTOGRAM_BINS))
    bins = max(1, math.ceil((high - low) / width - 1e-9))
    edges = low + width * torch.arange(bins + 1, dtype=torch.float64)
    edges[-1] = max(float(edges[-1]), high)
    counts, edges = torch.histogram(values, edges)
    return {"edges": edges.tolist(), "counts": counts.long().tolist()}


def per_point(estimate: Estimate | None) -> Tensor | None:
    """One value a row, where the method ran and is local."""
    return None if estimate is None else estimate.per_point


def _pairs(estimate: Any, shared: Shared, texts: Sequence[str] | None) -> list[dict[str, Any]]:
    """Near-duplicate pairs as rows of the points given, exact duplicates first."""
    kept, inverse = shared.distinct
    first = torch.full((len(kept),), len(inverse)).scatter_reduce(
        0, inverse.cpu(), torch.arange(len(inverse)), "amin"
    )
    later = (first[inverse.cpu()] != torch.arange(len(inverse))).nonzero()[:100, 0].tolist()
    pairs = [(int(first[inverse[b]]), b, 0.0) for b in later]
    if estimate is not None:
        pairs += list(estimate.pairs)
    rows = []
    for a, b, distance in pairs[:100]:
        row: dict[str, Any] = {"a": a, "b": b, "distance": distance}
        rows.append(row | ({"text_a": texts[a], "text_b": texts[b]} if texts else {}))
    return rows


def _map(
    x: Tensor, labels: Sequence[str] | None, local: Tensor | None, seed: int
) -> dict[str, Any]:
    """Points on the two leading principal directions, with the variance that these show."""
    rows = choice(len(x), min(len(x), MAP_POINTS), seed=seed).sort().values
    plane = Subspace.of_points(x, rank=min(2, x.shape[1]))
    z = plane.project(x[rows])  # (n, d) @ (d, 2)
    z = torch.nn.functional.pad(z, (0, 2 - z.shape[1]))  # a line is drawn as a flat map
    section: dict[str, Any] = {"x": z[:, 0].tolist(), "y": z[:, 1].tolist(), "row": rows.tolist()}
    section["label"] = [labels[i] for i in rows.tolist()] if labels is not None else None
    section["local_dimension"] = local[rows].tolist() if local is not None else None
    return section | {"energy": plane.energy_held}
