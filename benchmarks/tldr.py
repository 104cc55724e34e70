"""TLDR against PCA and whitened PCA on MiniLM embeddings: neighbour recall on held-out points.

Fitted on one part, measured on the other: of the k nearest in the full embedding, how many are
among the k nearest in the reduced one. Everything is measured twice, by distance and by angle
(rows scaled to length one after the reduction), since for embeddings the second is what is used.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable

from torch import Tensor

from benchmarks.harness import Row, report
from benchmarks.inputs import minilm_embeddings
from lowdim.core.neighbors import Neighbors
from lowdim.core.points import unit_rows
from lowdim.core.spectrum import Spectrum
from lowdim.structure.tldr import ENCODERS, TLDR


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--n", type=int, default=20_000)
    parser.add_argument("--held", type=int, default=5_000)
    parser.add_argument("--dims", type=int, nargs="+", default=[16, 32, 64, 128])
    parser.add_argument("--k", type=int, default=10)
    parser.add_argument("--epochs", type=int, default=50)
    parser.add_argument("--projector", type=int, default=512)
    parser.add_argument("--encoders", nargs="+", default=list(ENCODERS))
    args = parser.parse_args()
    x = minilm_embeddings(args.n)
    seen, held = x[: -args.held], x[-args.held :]
    truth = Neighbors.of_points(held, args.k).indices
    spectrum = Spectrum.of_points(seen, vectors=True)
    rows = []
    for d in args.dims:
        pca, whitened = principal(spectrum, d)
        best: dict[str, float] = {}
        for name, reduce in {"pca": pca, "whitened pca": whitened}.items():
            rows += both(f"d={d} {name}", reduce(held), truth, best, "pca")
        for encoder in args.encoders:
            model = TLDR(d, encoder=encoder, epochs=args.epochs, projector=args.projector)
            start = time.perf_counter()
            model.fit(seen)
            seconds = time.perf_counter() - start
            rows += both(f"d={d} tldr {encoder}", model.transform(held), truth, best, "tldr")
            rows.append(Row(f"d={d} tldr {encoder}, the fit", seconds, "s"))
        gain = best["tldr"] - best["pca"]
        rows.append(Row(f"d={d} best tldr less best pca", gain, "", ">= 0"))
    report("tldr", rows, **vars(args))


def principal(spectrum: Spectrum, d: int) -> tuple[Callable[[Tensor], Tensor], ...]:
    """PCA, and PCA with every coordinate scaled to unit variance."""
    assert spectrum.vectors is not None
    assert spectrum.mean is not None
    mean, basis, scale = spectrum.mean, spectrum.vectors[:, :d], spectrum.values[:d].sqrt()
    return lambda x: (x - mean) @ basis, lambda x: (x - mean) @ basis / scale


def both(what: str, z: Tensor, truth: Tensor, best: dict[str, float], family: str) -> list[Row]:
    """Recall by distance and by angle; ``best`` keeps the higher of each family."""
    by_distance, by_angle = recall(z, truth), recall(unit_rows(z), truth)
    best[family] = max(best.get(family, 0.0), by_distance, by_angle)
    return [Row(f"{what}, by distance", by_distance), Row(f"{what}, by angle", by_angle)]


def recall(z: Tensor, truth: Tensor) -> float:
    found = Neighbors.of_points(z.float(), truth.shape[1]).indices
    return float((found[:, :, None] == truth[:, None, :]).any(2).double().mean())


if __name__ == "__main__":
    main()
