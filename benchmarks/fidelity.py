"""Two samples and two representations compared: against prdc, POT and dcor, values equal."""

from __future__ import annotations

import argparse
import contextlib
import io
from collections.abc import Callable
from typing import Any

import torch

from benchmarks.harness import Row, interleaved, peak_memory, report
from lowdim.compare import distance_correlation
from lowdim.diversity import precision_recall, sliced_wasserstein
from lowdim.diversity.sliced_wasserstein import directions

K = 5


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--n", type=int, default=10_000)
    parser.add_argument("--dim", type=int, default=64)
    parser.add_argument("--projections", type=int, default=256)
    parser.add_argument("--pairs-n", type=int, default=2_000)
    parser.add_argument("--line-n", type=int, default=200_000)
    parser.add_argument("--repeats", type=int, default=3)
    args = parser.parse_args()
    generator = torch.Generator().manual_seed(0)
    real = torch.randn(args.n, args.dim, generator=generator)
    fake = 0.95 * torch.randn(args.n, args.dim, generator=generator) + 0.02
    threads = torch.get_num_threads()
    rows = [
        *balls(real, fake, args.repeats),
        *slices(real, fake, args.projections, args.repeats),
        *correlations(args.pairs_n, args.dim, args.line_n, args.repeats, threads),
    ]
    report("fidelity", rows, n=args.n, dim=args.dim, k=K, pairs_n=args.pairs_n, line_n=args.line_n)


def balls(real: torch.Tensor, fake: torch.Tensor, repeats: int) -> list[Row]:
    """Precision, recall, density and coverage."""
    from prdc import compute_prdc

    def peer() -> dict[str, float]:
        with contextlib.redirect_stdout(io.StringIO()):
            return compute_prdc(real.numpy(), fake.numpy(), K)

    def ours() -> Any:
        return precision_recall(real, fake, k=K)

    found, theirs = ours(), peer()
    gap = max(abs(float(getattr(found, name)) - float(value)) for name, value in theirs.items())
    peaks = {}
    for name, run in (("ours", ours), ("prdc", peer)):
        with peak_memory() as peak:
            run()
            peaks[name] = peak() / 2**30
    times = interleaved({"ours": ours, "prdc": peer}, repeats)
    return [
        Row("prdc over our seven numbers: time", times.ratio("prdc", "ours"), "x", ">= 5"),
        Row("  our time", times.best("ours"), "s"),
        Row("  our peak extra memory", peaks["ours"], "GiB", "<= 0.5"),
        Row("  prdc's peak extra memory", peaks["prdc"], "GiB"),
        Row("  largest difference of its four numbers", gap, "", "<= 1e-9"),
    ]


def slices(x: torch.Tensor, y: torch.Tensor, count: int, repeats: int) -> list[Row]:
    """Sliced Wasserstein on the same directions, and what the control variates save."""
    import ot

    theta = directions(x.shape[1], count, 0).to(x).T.contiguous().numpy()

    def peer(dtype: str = "float32") -> float:
        a, b, projections = (v.astype(dtype, copy=False) for v in (x.numpy(), y.numpy(), theta))
        return float(ot.sliced_wasserstein_distance(a, b, projections=projections))

    def ours(control: str) -> Callable[[], Any]:
        return lambda: sliced_wasserstein(x, y, n_projections=count, control=control)

    plain, controlled = ours("none")(), ours("both")()
    times = interleaved({"none": ours("none"), "both": ours("both"), "POT": peer}, repeats)
    return [
        Row("POT over our sliced Wasserstein: time", times.ratio("POT", "none"), "x"),
        Row("  the same with control variates", times.ratio("POT", "both"), "x", ">= 1"),
        Row("  our time", times.best("both"), "s"),
        Row(
            "  relative difference of the value",
            abs(plain.value / peer("float64") - 1),
            "",
            "<= 1e-6",
        ),
        Row("  variance without over with control variates", controlled.variance_ratio, "x"),
    ]


def correlations(n: int, d: int, line: int, repeats: int, threads: int) -> list[Row]:
    """Distance correlation of wide rows and of single columns."""
    import dcor

    torch.set_num_threads(threads)  # numba, which dcor imports, sets OpenMP's for everybody
    generator = torch.Generator().manual_seed(1)
    rows: list[Row] = []
    for what, count, width in (("rows", n, d), ("columns", line, 1)):
        x = torch.randn(count, width, generator=generator).double()
        y = x.tanh() + torch.randn(count, width, generator=generator)
        a, b = (v.numpy() if width > 1 else v[:, 0].numpy() for v in (x, y))

        def ours(x: torch.Tensor = x, y: torch.Tensor = y) -> float:
            return distance_correlation(x, y).value

        def peer(a: Any = a, b: Any = b) -> float:
            return float(dcor.distance_correlation(a, b))

        gap = abs(ours() - peer())
        times = interleaved({"ours": ours, "dcor": peer}, repeats)
        rows += [
            Row(f"dcor over our distance correlation of {count:,} {what}: time",
                times.ratio("dcor", "ours"), "x"),
            Row("  our time", times.best("ours"), "s"),
            Row("  difference of the value", gap, "", "<= 1e-9"),
        ]  # fmt: skip
    return rows


if __name__ == "__main__":
    main()
