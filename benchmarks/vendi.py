"""Vendi score: against vendi-score's general (n x n) path, and a million rows from disk."""

from __future__ import annotations

import argparse
import tempfile
from pathlib import Path

import numpy as np

from benchmarks.harness import Row, interleaved, peak_memory, report


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--n", type=int, default=5_000)
    parser.add_argument("--stream", type=int, default=1_000_000)
    parser.add_argument("--dim", type=int, default=384)
    args = parser.parse_args()
    from vendi_score import vendi as peer

    import lowdim

    rng = np.random.default_rng(0)
    scale = np.logspace(0, -1.5, args.dim)
    x = (rng.standard_normal((args.n, args.dim)) * scale + 0.1).astype(np.float32)
    ours = lowdim.measure(x, "vendi")["vendi"].value
    theirs = float(peer.score_X(x.astype(np.float64)))
    double = x.astype(np.float64)  # ours sums in float64 as well
    times = interleaved(
        {
            "ours": lambda: lowdim.measure(x, "vendi"),
            "vendi-score n x n": lambda: peer.score_X(double),
            "vendi-score dual": lambda: peer.score_dual(x),
        },
        repeats=3,
    )
    rows = [
        Row(
            "vendi-score general path (n x n) over ours",
            times.ratio("vendi-score n x n", "ours"),
            "x",
            ">= 100",
        ),
        Row("vendi-score dual path over ours", times.ratio("vendi-score dual", "ours"), "x"),
        Row("relative difference of the value", abs(ours - theirs) / theirs, "", "<= 1e-6"),
        Row("our time", times.best("ours"), "s"),
    ]
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "points.npy"
        shape = (args.stream, args.dim)
        file = np.lib.format.open_memmap(path, mode="w+", dtype=np.float32, shape=shape)
        for start in range(0, args.stream, 50_000):
            block = rng.standard_normal((min(50_000, args.stream - start), args.dim)) * scale + 0.1
            file[start : start + len(block)] = block
        file.flush()
        del file

        def stream() -> None:
            lowdim.measure(path, "vendi", memory="1GiB")

        with peak_memory() as peak:
            taken = interleaved({"stream": stream}, 1, warm_up=False)
            rows.append(
                Row(f"{args.stream:,} rows from disk: extra memory", peak() / 2**30, "GiB", "<= 2")
            )
        flops = 2 * args.stream * args.dim**2
        rows.append(Row(f"{args.stream:,} rows from disk", taken.best("stream"), "s"))
        rows.append(
            Row("  of which the float64 product needs at least", flops / _rate(args.dim), "s")
        )
    report("vendi", rows, n=args.n, dim=args.dim)


def _rate(dim: int) -> float:
    """Measured float64 matrix-product rate in flop/s."""
    import torch

    block = torch.randn(16_384, dim, dtype=torch.float64)
    seconds = interleaved({"mm": lambda: block.T @ block}, 5).best("mm")
    return 2 * len(block) * dim**2 / seconds


if __name__ == "__main__":
    main()
