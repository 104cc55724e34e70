"""Subspace clustering of Fashion-MNIST: 60,000 images to labels, time, memory and accuracy.

The pixels are used as they are, each image scaled to length one; no convolutional features, no
principal components. Published accuracies for this kind of method are mostly of scattering
features, so they are not those printed here. scikit-learn's SpectralClustering is run on the first
``--peer`` images, since its time grows faster than n, and each of ours on the same images too.
Accuracy is the share of images in the cluster that their kind of clothes is matched with.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable
from typing import Any

import torch
from sklearn.cluster import MiniBatchKMeans, SpectralClustering
from sklearn.metrics import normalized_mutual_info_score
from torch import Tensor

from benchmarks.harness import Row, interleaved, peak_memory, report
from benchmarks.inputs_images import fashion_mnist
from lowdim.core.progress import bars
from lowdim.structure import (
    ElasticNetSubspace,
    LeastSquaresRepresentation,
    LowRankRepresentation,
    SparseSubspaceOMP,
    accuracy,
)

PIECES = 10
LIMIT_S, LIMIT_GIB = 900, 4


def finders(sparsity: int, alpha: float) -> dict[str, Any]:
    """Ours, by name."""
    return {
        "SSC-OMP": SparseSubspaceOMP(PIECES, sparsity=sparsity),
        "elastic net": ElasticNetSubspace(PIECES, alpha=alpha),
        "least squares": LeastSquaresRepresentation(PIECES),
        "low rank": LowRankRepresentation(PIECES),
    }


def measured(
    name: str, run: Callable[[], Any], truth: Tensor, *, held_to_limits: bool = False
) -> list[Row]:
    """Time, memory and agreement with the classes of one contender."""
    found: list[Any] = []
    with peak_memory() as peak:
        times = interleaved({name: lambda: found.append(run())}, 1, warm_up=False)
        memory = peak() / 2**30
    n, labels = len(truth), found[-1]
    bars_ = (f"<= {LIMIT_S}", f"<= {LIMIT_GIB}") if held_to_limits else ("", "")
    return [
        Row(f"{name}, {n:,}: time", times.best(name), "s", bars_[0]),
        Row(f"{name}, {n:,}: added memory", memory, "GiB", bars_[1]),
        Row(f"{name}, {n:,}: accuracy", accuracy(labels, truth)),
        Row(f"{name}, {n:,}: NMI", float(normalized_mutual_info_score(truth, labels))),
    ]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--n", type=int, default=60_000)
    parser.add_argument("--with-test", action="store_true", help="70,000 images")
    parser.add_argument("--peer", type=int, default=5_000, help="images that scikit-learn is given")
    parser.add_argument("--sparsity", type=int, default=5, help="atoms of SSC-OMP")
    parser.add_argument("--alpha", type=float, default=20.0, help="data weight of the elastic net")
    args = parser.parse_args()
    x, truth = fashion_mnist(test=args.with_test)
    n = len(x) if args.with_test else args.n
    x, truth = x[:n], truth[:n]
    unit = torch.nn.functional.normalize(x).numpy()
    few = min(args.peer, n)
    rows: list[Row] = []
    with bars() as progress:
        for name, finder in finders(args.sparsity, args.alpha).items():

            def fit(finder: Any = finder) -> Any:
                return finder.fit(x, progress=progress).labels_

            rows += measured(name, fit, truth, held_to_limits=True)
            rows.append(Row(f"{name}: components of the graph", finder.n_components_))
            if name == "elastic net":
                rows.append(Row(f"{name}: largest violation", finder.violation_, "", "<= 0.001"))
                rows.append(Row(f"{name}: products of all with all", finder.rounds_))
    kmeans = MiniBatchKMeans(PIECES, n_init=10, random_state=0)
    rows += measured("MiniBatchKMeans", lambda: kmeans.fit_predict(unit), truth)
    peer = SpectralClustering(PIECES, affinity="nearest_neighbors", random_state=0)
    rows += measured("SpectralClustering", lambda: peer.fit_predict(unit[:few]), truth[:few])
    for name, finder in finders(args.sparsity, args.alpha).items():
        rows += measured(name, lambda f=finder: f.fit(x[:few]).labels_, truth[:few])
    report("subspace_clustering", rows, n=n, peer=few, sparsity=args.sparsity, alpha=args.alpha)


if __name__ == "__main__":
    main()
