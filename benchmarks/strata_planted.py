"""Pieces that are known: does each method find them, with their dimensions, and how fast?

Four flat pieces of dimension 2, 5, 9 and 14 in 64 columns, through the origin and of equal spread,
so that neither place nor length tells them apart, in eight settings: noise of 10% or 40% of a
point's length, no direction or one shared by all, sizes even or down to a fifth. Every method of
lowdim with its defaults and only the number of pieces given, beside scikit-learn's with ten starts
where it has starts; for those the dimension of a piece is found afterwards by the same rule (BIC).
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable, Iterator
from functools import partial
from itertools import product
from typing import Any

import numpy as np
from sklearn.cluster import KMeans, SpectralClustering
from sklearn.mixture import GaussianMixture

from benchmarks.harness import Row, report
from lowdim.core.spectrum import Spectrum
from lowdim.core.strata import Strata
from lowdim.datasets import PlantedStrata, strata
from lowdim.registry import methods
from lowdim.structure.agreement import matched
from lowdim.structure.ranks import bic_rank

Finder = Callable[[PlantedStrata, int], tuple[Any, Strata]]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--n", type=int, default=4_000)
    parser.add_argument("--repeats", type=int, default=1, help="draws of each setting")
    parser.add_argument("--methods", nargs="+", help="only these")
    args = parser.parse_args()
    rows = []
    for name, find in contenders(args.methods):
        for setting, options in settings():
            found = [one(find, options, args.n, seed) for seed in range(args.repeats)]
            for figure, values in zip(
                ("accuracy", "dimension error", "seconds"), zip(*found, strict=True), strict=True
            ):
                bar = ">= 0.95" if (name, setting, figure) == BARRED else ""
                rows.append(Row(f"{name} | {setting} | {figure}", float(np.mean(values)), "", bar))
            print(name, setting, np.mean(found, axis=0).round(3).tolist(), flush=True)
    report("strata_planted", rows, n=args.n, repeats=args.repeats)


BARRED = ("moe", "noise 0.1, even", "accuracy")


def settings() -> Iterator[tuple[str, dict[str, Any]]]:
    """The eight, by name."""
    for noise, shared, balance in product((0.1, 0.4), (0, 1), (1.0, 0.2)):
        name = f"noise {noise}{', shared' * shared}, {'even' if balance == 1 else 'uneven'}"
        yield name, {"noise": noise, "shared": shared, "balance": balance}


def contenders(only: list[str] | None) -> Iterator[tuple[str, Finder]]:
    """Every finder of lowdim, then scikit-learn's."""
    for method in methods("structure"):
        cuts = any(need.noun == "pieces" for need in method.needs)
        if cuts and (only is None or method.name in only):
            yield method.name, partial(ours, method.function)
    theirs: dict[str, Callable[[int, int], Any]] = {
        "sklearn KMeans": lambda k, seed: KMeans(k, n_init=10, random_state=seed),
        "sklearn GaussianMixture": lambda k, seed: GaussianMixture(k, n_init=10, random_state=seed),
        "sklearn SpectralClustering": lambda k, seed: SpectralClustering(
            k, affinity="nearest_neighbors", random_state=seed
        ),
    }
    for name, make in theirs.items():
        if only is None or name in only:
            yield name, partial(other, make)


def ours(make: Callable[..., Any], planted: PlantedStrata, seed: int) -> tuple[Any, Strata]:
    """Labels and pieces of a finder."""
    found = make(n_pieces=len(planted.dims), random_state=seed).fit(planted.points)
    return found.labels_, found.strata_


def other(make: Callable[[int, int], Any], planted: PlantedStrata, seed: int) -> tuple[Any, Strata]:
    """Labels of scikit-learn, and the principal subspaces of its clusters."""
    labels = make(len(planted.dims), seed).fit_predict(planted.points.numpy())

    def rank(spectrum: Spectrum) -> int:
        return bic_rank(spectrum.values, *spectrum.shape)

    return labels, Strata.of_labels(planted.points, labels, rank=rank)


def one(find: Finder, options: dict[str, Any], n: int, seed: int) -> tuple[float, float, float]:
    """Accuracy, mean error of the dimension over matched pieces, and seconds."""
    planted = strata(n, seed=seed, **options)
    start = time.perf_counter()
    labels, found = find(planted, seed)
    seconds = time.perf_counter() - start
    pieces, classes, accuracy = matched(labels, planted.labels)
    present = np.unique(np.asarray(labels))  # positions in it are what `matched` gives
    errors = [
        abs(found.dims[int(present[p])] - planted.dims[int(c)])
        for p, c in zip(pieces, classes, strict=True)
    ]
    return accuracy, float(np.mean(errors)), seconds


if __name__ == "__main__":
    main()
