"""Do pieces of real embeddings follow the domain of the text? Ten domains, three networks.

300 sentences of each of ten domains through MiniLM, MPNet and every layer of SmolLM2-135M.
Printed: how far pieces agree with domains (normalised mutual information) beside KMeans and
scikit-learn's Gaussian mixture; by how much the local dimension differs between domains; whether
the gate's entropy is higher where neighbours are of another domain. All on the 64 leading principal
components, ten pieces, as the paper of the mixture of dictionaries did with its sets. Of the causal
model the last token is read, behind each layer (its embedding is that of a full stop).
"""

from __future__ import annotations

import argparse
import time

import numpy as np
import torch
from scipy.stats import spearmanr
from sklearn.cluster import KMeans
from sklearn.metrics import normalized_mutual_info_score
from sklearn.mixture import GaussianMixture
from torch import Tensor

import lowdim
from benchmarks.harness import Row, report
from benchmarks.inputs_text import domain_embeddings
from lowdim.core.neighbors import Neighbors
from lowdim.registry import find

PIECES, COLUMNS = 10, 64


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--models", nargs="+", default=["minilm", "mpnet", "smollm2"])
    parser.add_argument("--each", type=int, default=300, help="sentences of a domain")
    parser.add_argument("--methods", nargs="+", default=["subspaces", "mixture", "ssc-omp", "moe"])
    parser.add_argument(
        "--every", type=int, default=1, help="of SmolLM2 only every so many layers, and the last"
    )
    args = parser.parse_args()
    rows = []
    for name in args.models:
        layers, domains = domain_embeddings(name, args.each)
        names = sorted(layers, key=lambda layer: int(layer.split()[-1]) if " " in layer else 0)
        names = names[1:] if name == "smollm2" else names
        for layer in [*names[: -1 : args.every], names[-1]]:
            rows += one(f"{name} {layer}", layers[layer], np.array(domains), args.methods)
    report("strata_domains", rows, each=args.each, pieces=PIECES, columns=COLUMNS)


def one(name: str, x: Tensor, domains: np.ndarray, methods: list[str]) -> list[Row]:
    """All figures of one layer."""
    x = lowdim.Subspace.of_points(x, rank=COLUMNS).project(x).float()
    rows, start = [], time.perf_counter()
    nearest = Neighbors.of_points(x, 20)
    mixed = torch.from_numpy(domains[nearest.indices.numpy()] != domains[:, None])
    mixed = mixed.double().mean(1)  # (n,) share of the neighbours that are of another domain
    for method in methods:
        model = find(f"structure/{method}").function(n_pieces=PIECES, random_state=0).fit(x)
        rows.append(Row(f"{name} | {method} | NMI", agreement(model.labels_, domains)))
        if method in ("moe", "mixture"):
            entropy = torch.special.entr(model.gates(x)).sum(1)
            rank = spearmanr(entropy.numpy(), mixed.numpy()).statistic
            rows.append(Row(f"{name} | {method} | entropy and mixed neighbours, Spearman", rank))
    kmeans = KMeans(PIECES, n_init=10, random_state=0).fit_predict(x.numpy())
    rows.append(Row(f"{name} | sklearn KMeans | NMI", agreement(kmeans, domains)))
    try:
        gmm = GaussianMixture(PIECES, n_init=10, random_state=0).fit_predict(x.double().numpy())
        rows.append(Row(f"{name} | sklearn GaussianMixture | NMI", agreement(gmm, domains)))
    except ValueError as error:  # its covariances are singular in some layers
        print(f"{name}: scikit-learn's mixture fails: {error}")
    dims = {}
    for domain in np.unique(domains):
        own = x[torch.from_numpy(domains == domain)]
        dims[domain] = lowdim.measure(own, "gride")["gride"]
    lowest, highest = (pick(dims, key=lambda d: dims[d].value) for pick in (min, max))
    for which, domain in (("lowest", lowest), ("highest", highest)):
        found = dims[domain]
        rows.append(Row(f"{name} | {domain} | {which} dimension of a domain", found.value))
        if found.low is not None and found.high is not None:
            rows.append(
                Row(f"{name} | {domain} | its interval, half", (found.high - found.low) / 2)
            )
    print(name, f"{time.perf_counter() - start:.0f} s", flush=True)
    for row in rows:
        print("   ", row.what, round(row.figure, 3), flush=True)
    return rows


def agreement(labels: Tensor, domains: np.ndarray) -> float:
    """Normalised mutual information of pieces and domains."""
    return float(normalized_mutual_info_score(domains, np.asarray(labels)))


if __name__ == "__main__":
    main()
