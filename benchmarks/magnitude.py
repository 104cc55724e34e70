"""Magnitude of 10,000 points: against magnipy, in its own environment, value by value."""

from __future__ import annotations

import argparse
import statistics
import time

import torch

from benchmarks.harness import Row, peak_memory, report
from benchmarks.peers import Peer, Unavailable

MAGNIPY = """
import torch
torch.set_num_threads({threads})
from magnipy.magnitude.compute import compute_magnitude

def magnitude(x, rate):
    return compute_magnitude(x, ts=[rate], method="cholesky")[0]
"""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--n", type=int, default=10_000)
    parser.add_argument("--repeats", type=int, default=3)
    args = parser.parse_args()
    from lowdim.geometry import magnitude

    rows = []
    for dim in (3, 128):
        x = torch.randn(args.n, dim, generator=torch.Generator().manual_seed(0)).double()
        with peak_memory() as peak:
            found = magnitude(x)
            extra = peak()
        name = f"{dim} columns"
        ours, theirs = [], []
        try:
            with Peer(MAGNIPY.format(threads=torch.get_num_threads())) as peer:
                for _ in range(args.repeats):
                    value, seconds = peer.call("magnitude", x.numpy(), rate=found.rate)
                    theirs.append(seconds)
                    start = time.perf_counter()
                    magnitude(x)
                    ours.append(time.perf_counter() - start)
        except Unavailable as reason:
            print(f"magnipy skipped: {reason}")
        else:
            ratio = statistics.median(a / b for a, b in zip(theirs, ours, strict=True))
            difference = abs(float(value.reshape(-1)[0]) - found.value) / found.value
            rows += [
                Row(f"{name}: magnipy over ours", ratio, "x", ">= 1"),
                Row(f"{name}: relative difference of the value", difference, "", "<= 1e-7"),
                Row(f"{name}: our time", min(ours), "s"),
                Row(f"{name}: time of magnipy", min(theirs), "s"),
            ]
        rows += [
            Row(f"{name}: our extra memory", extra / 2**30, "GiB"),
            Row(f"{name}: bound of the error of the value", found.error, "", "<= 1e-6"),
        ]
    report("magnitude", rows, n=args.n)


if __name__ == "__main__":
    main()
