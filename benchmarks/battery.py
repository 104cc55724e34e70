"""The dimension battery on 20,000 real sentence embeddings, against scikit-dimension."""

from __future__ import annotations

import argparse
import warnings

import numpy as np

from benchmarks.harness import Row, interleaved, report
from benchmarks.inputs import minilm_embeddings


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--n", type=int, default=20_000)
    parser.add_argument("--repeats", type=int, default=3)
    args = parser.parse_args()
    import skdim

    import lowdim
    from lowdim.battery import fits_points
    from lowdim.registry import methods

    warnings.filterwarnings("ignore")
    x = np.unique(np.asarray(minilm_embeddings(args.n), dtype=np.float32), axis=0)
    everything = [m.id for m in methods() if fits_points(m) and not m.deep]
    times = interleaved(
        {
            "all": lambda: lowdim.measure(x, *everything),
            "two-nn": lambda: lowdim.measure(x, "two-nn"),
            "mle": lambda: lowdim.measure(x, "mle"),
            "participation-ratio": lambda: lowdim.measure(x, "participation-ratio"),
            "skdim TwoNN": lambda: skdim.id.TwoNN().fit(x),
            "skdim MLE": lambda: skdim.id.MLE(K=20).fit(x),
            "skdim lPCA": lambda: skdim.id.lPCA(ver="participation_ratio").fit(x),
        },
        args.repeats,
    )
    theirs = skdim.id.TwoNN().fit(x).dimension_
    ours = lowdim.measure(x, "two-nn")["two-nn"].value
    rows = [
        Row(
            f"all {len(everything)} of ours over skdim's TwoNN alone",
            times.ratio("all", "skdim TwoNN"),
            "x",
            "<= 1",
        ),
        Row("two-nn over skdim's TwoNN", times.ratio("two-nn", "skdim TwoNN"), "x", "<= 1"),
        Row("mle over skdim's MLE", times.ratio("mle", "skdim MLE"), "x", "<= 1"),
        Row(
            "participation-ratio over skdim's lPCA",
            times.ratio("participation-ratio", "skdim lPCA"),
            "x",
            "<= 1",
        ),
        Row("two-nn: relative difference of the value", abs(ours - theirs) / theirs, "", "<= 1e-3"),
        Row("our battery", times.best("all"), "s"),
        Row("skdim's TwoNN", times.best("skdim TwoNN"), "s"),
    ]
    for m in lowdim.measure(x, *everything).items():
        rows.append(Row(f"  {m[0]} on the shared nouns", m[1].seconds, "s"))
    report("battery", rows, n=len(x), dim=x.shape[1])


if __name__ == "__main__":
    main()
