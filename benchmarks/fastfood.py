"""Random maps for subspace training: Fastfood against a dense matrix by d, time and memory.

The bar for the n log n: from the smallest d to the largest, Fastfood's time may grow by as much as
log d does, with half as much again for the caches, while a dense product grows as d. The bandwidth
limit is the time of one pass over what a product has to read and write: 8 bytes of random parts and
4 of result a row. One block as long as the weights is how published code applies Fastfood.
"""

from __future__ import annotations

import argparse
import math
import time
from collections.abc import Callable

import torch
from torch import Tensor

from benchmarks.harness import Row, interleaved, peak_memory, report
from lowdim.adapt.projections import DenseProjection, FastfoodProjection, Projection


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rows", type=int, default=2**22)
    parser.add_argument("--dense-rows", type=int, default=2**14)
    parser.add_argument("--dims", type=int, nargs="+", default=[64, 256, 1024, 4096, 16384])
    parser.add_argument("--repeats", type=int, default=5)
    args = parser.parse_args()

    maps: dict[str, Projection] = {"one block": _fastfood(args.rows, args.rows // 2 + 1)}
    drawing: dict[int, float] = {}
    for dim in args.dims:
        start = time.perf_counter()
        maps[f"dense {dim}"] = DenseProjection(args.dense_rows, dim, seed=0, memory="64GiB")
        drawing[dim] = time.perf_counter() - start
        maps[f"fastfood {dim}"] = _fastfood(args.rows, dim)
    times = interleaved(
        {name: _step(x) for name, x in maps.items()} | {"pass": _pass(args.rows)}, args.repeats
    )
    share = args.rows / args.dense_rows  # dense products are linear in the rows
    limit = 2 * times.best("pass")
    rows = [Row("one pass over what P z and P^T g have to read and write", limit * 1e3, "ms")]
    for dim in args.dims:
        ours, dense = f"fastfood {dim}", f"dense {dim}"
        memory = share * _bytes(maps[dense]) / _bytes(maps[ours])
        bar = ">= 1" if dim >= 256 else ""
        rows += [
            Row(f"d = {dim}: Fastfood, P z and P^T g", times.best(ours) * 1e3, "ms"),
            Row(f"d = {dim}:   over that one pass", times.ratio(ours, "pass") / 2, "x"),
            Row(f"d = {dim}:   one block over it, time", times.ratio("one block", ours), "x"),
            Row(f"d = {dim}:   dense over it, time", share * times.ratio(dense, ours), "x", bar),
            Row(f"d = {dim}:   dense over it, memory", memory, "x"),
            Row(f"d = {dim}:   dense to draw", share * drawing[dim], "s"),
        ]
    low, high = min(args.dims), max(args.dims)
    growth = math.log2(high) / math.log2(low)
    taken = times.ratio(f"fastfood {high}", f"fastfood {low}")
    rows += [
        Row(f"Fastfood, d = {high} over d = {low}, time", taken, "x", f"<= {1.5 * growth:.3g}"),
        Row("  log d over log d", growth, "x"),
    ]

    projection = _fastfood(args.rows, 1024)
    z = torch.randn(1024, requires_grad=True)
    with peak_memory() as peak:
        for _ in range(20):
            projection(z).sum().backward()
        extra = peak() / (4 * args.rows)
    # the product, its gradient, and pieces that fit the cache
    rows.append(Row("memory of a step over that of the weights", extra, "x", "<= 6"))
    report("fastfood", rows, total=args.rows, dense_rows=args.dense_rows, dims=args.dims)


def _fastfood(rows: int, dim: int) -> FastfoodProjection:
    return FastfoodProjection(rows, dim, seed=0)


def _step(projection: Projection) -> Callable[[], None]:
    """P z and P^T g."""
    z, g = torch.randn(projection.dim), torch.randn(projection.rows)

    def run() -> None:
        projection.multiply(z)
        projection.multiply_transposed(g)

    return run


def _pass(rows: int) -> Callable[[], Tensor]:
    """Read 8 bytes and write 4 for each row, half of what the two products have to."""
    a, b, out = torch.randn(rows), torch.randn(rows), torch.empty(rows)
    return lambda: torch.add(a, b, out=out)


def _bytes(projection: Projection) -> int:
    return sum(x.numel() * x.element_size() for x in projection.buffers())


if __name__ == "__main__":
    main()
