"""Private PCA: share of the energy captured, by mechanism, epsilon and n, on real data.

Each figure is the mean over seeds of tr(V^T A V) over the sum of the k largest eigenvalues, with
its 95% interval; ``pca`` is 1 by definition, ``blind`` a random basis.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator

import numpy as np
import torch
from sklearn.datasets import load_breast_cancer, load_digits
from torch import Tensor

from benchmarks.harness import Row, report
from benchmarks.inputs import minilm_embeddings
from lowdim.core.random import choice, normal
from lowdim.core.shards import Held
from lowdim.structure.private_pca import PrivatePCA, clipped_moment
from lowdim.structure.required_n import required_n

DELTA = {"gauss": True, "exponential": False, "exponential-gibbs": False, "mod-sulq": True}
LARGEST_FOR_GIBBS = 100  # columns: a sweep is k eigenproblems


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seeds", type=int, default=30)
    parser.add_argument("--components", type=int, nargs="+", default=[1, 4])
    parser.add_argument("--epsilons", type=float, nargs="+", default=[0.1, 1.0])
    parser.add_argument("--sweeps", type=int, default=100)
    parser.add_argument("--minilm", type=int, default=20_000, help="rows; 0 leaves it out")
    args = parser.parse_args()
    rows = []
    for name, x in inputs(args.minilm):
        for k in args.components:
            for epsilon in args.epsilons:
                rows += compare(f"{name} k={k} eps={epsilon:g}", x, k, epsilon, args)
    rows += [
        Row(f"rows needed, d={d}, gap 0.1, eps=1, {m}", needed(d, m))
        for d in (10, 100, 1000)
        for m in ("gauss", "exponential", "mod-sulq")
    ]
    report("private_pca", rows, **vars(args), delta="1e-2 / n")


def needed(d: int, mechanism: str) -> int:
    delta = 1e-6 if DELTA[mechanism] else None
    return required_n(d, 0.1, epsilon=1.0, delta=delta, mechanism=mechanism)


def inputs(minilm: int) -> Iterator[tuple[str, Tensor]]:
    """Names and points, whole and in part; all are clipped to norm one by the fit."""
    digits = torch.from_numpy(load_digits().data) / 16  # grey levels; nearly all rows are clipped
    cancer = load_breast_cancer().data
    cancer = torch.from_numpy((cancer - cancer.mean(0)) / cancer.std(0)) / cancer.shape[1] ** 0.5
    sets = {"digits": digits, "cancer": cancer}
    if minilm:
        sets["minilm"] = minilm_embeddings(minilm)
    for name, x in sets.items():
        for n in (len(x) // 4, len(x)):
            yield f"{name} n={n}", x[choice(len(x), n, seed=0)]


def compare(what: str, x: Tensor, k: int, epsilon: float, args: argparse.Namespace) -> list[Row]:
    """A row of the table for each mechanism, and whether the published order holds."""
    moment = clipped_moment(Held(x), 1.0)
    best = float(torch.linalg.eigvalsh(moment)[-k:].sum())

    def share(basis: Tensor) -> float:
        return float((basis * (moment @ basis)).sum()) / best

    means, rows = {}, []
    for mechanism, has_delta in DELTA.items():
        if mechanism == "exponential-gibbs" and (k == 1 or x.shape[1] > LARGEST_FOR_GIBBS):
            continue  # the same as the exponential mechanism, or hours
        model = PrivatePCA(
            k, epsilon=epsilon, delta=0.01 / len(x) if has_delta else None, mechanism=mechanism,
            sweeps=args.sweeps,
        )  # fmt: skip
        shares = [
            share(model.set_params(random_state=seed).fit(x).subspace_.basis)
            for seed in range(args.seeds)
        ]
        means[mechanism] = float(np.mean(shares))
        rows.append(Row(f"{what} {mechanism} {interval(shares)}", means[mechanism]))
    blind = [
        share(torch.linalg.qr(normal((x.shape[1], k), seed, dtype=torch.float64)).Q)
        for seed in range(args.seeds)
    ]
    rows.append(Row(f"{what} blind {interval(blind)}", float(np.mean(blind))))
    gain = means["exponential"] - means["mod-sulq"]
    rows.append(Row(f"{what} exponential less mod-sulq", gain, "", ">= 0"))
    return rows


def interval(shares: list[float]) -> str:
    half = 1.96 * np.std(shares, ddof=1) / len(shares) ** 0.5
    return f"[{np.mean(shares) - half:.3f}, {np.mean(shares) + half:.3f}]"


if __name__ == "__main__":
    main()
