"""Orthogonal matching pursuit: against scikit-learn's, and against the product that it rests on."""

from __future__ import annotations

import argparse

import numpy as np

from benchmarks.harness import Row, interleaved, peak_memory, report


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--n", type=int, default=20_000)
    parser.add_argument("--dim", type=int, default=384)
    parser.add_argument("--atoms", type=int, default=1_024)
    parser.add_argument("--sparsity", type=int, default=16)
    args = parser.parse_args()
    import torch
    from sklearn.linear_model import orthogonal_mp_gram

    from lowdim.structure import omp

    n, d, m, s = args.n, args.dim, args.atoms, args.sparsity
    g = torch.Generator().manual_seed(0)
    x = torch.randn(n, d, generator=g, dtype=torch.float64)
    atoms = torch.nn.functional.normalize(
        torch.randn(d, m, generator=g, dtype=torch.float64), dim=0
    )
    single, single_atoms = x.float(), atoms.float()

    def theirs() -> np.ndarray:
        gram, products = (atoms.T @ atoms).numpy(), (atoms.T @ x.T).numpy()
        return orthogonal_mp_gram(gram, products, n_nonzero_coefs=s)

    oracle = torch.from_numpy(theirs()).T
    found = omp(x, atoms, s).dense(m)
    rough = omp(single, single_atoms, s)
    lost = [float((x - y).square().sum()) for y in (found @ atoms.T, rough.decode(single_atoms))]
    times = interleaved(
        {
            "ours": lambda: omp(x, atoms, s),
            "ours float32": lambda: omp(single, single_atoms, s),
            "scikit-learn": theirs,
            "product": lambda: x @ atoms,
            "product float32": lambda: single @ single_atoms,
        },
        repeats=3,
        warm_up=False,  # each has run once already
    )
    with peak_memory() as peak:
        omp(x, atoms, s)
        used = peak()
    rows = [
        Row("scikit-learn over ours", times.ratio("scikit-learn", "ours"), "x", ">= 5"),
        Row("scikit-learn over ours in float32", times.ratio("scikit-learn", "ours float32"), "x"),
        Row("ours over the product of points and atoms", times.ratio("ours", "product"), "x"),
        Row("  the same in float32", times.ratio("ours float32", "product float32"), "x"),
        Row("rows with another support", float(((found != 0) != (oracle != 0)).any(1).sum()), "",
            "<= 0"),
        Row("largest difference of a coefficient", float((found - oracle).abs().max()), "",
            "<= 1e-10"),
        Row("squared error in float32 over that in float64", lost[1] / lost[0], "", "<= 1.001"),
        Row("our time", times.best("ours"), "s"),
        Row("our time in float32", times.best("ours float32"), "s"),
        Row("extra memory", used / 2**20, "MiB"),
    ]  # fmt: skip
    report("omp", rows, n=n, dim=d, atoms=m, sparsity=s)


if __name__ == "__main__":
    main()
