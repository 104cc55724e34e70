"""Adapters: time and peak memory of a training step of one layer, over peft's LoRA of equal count.

A step is forward and backward through a frozen linear layer with an adapter, for inputs that want a
gradient, as in the middle of a network. Memory is what the allocator holds at the worst moment of
the step beyond what it held before, exact and not sampled. Then Fastfood against a dense random
projection, by the dimension d of the subspace.
"""

from __future__ import annotations

import argparse
import copy
import json
import math
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from benchmarks.harness import Row, interleaved, report
from lowdim import adapt
from lowdim.adapt.projections import PROJECTIONS
from lowdim.core.random import integers, normal

LSR = ((2, 16), (2, 128), (4, 64))  # rank, terms
STRATA = ((2, 4), (4, 8))  # rank, pieces


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--size", type=int, default=4096, help="inputs and outputs of the layer")
    parser.add_argument("--batch", type=int, default=8)
    parser.add_argument("--tokens", type=int, default=512)
    parser.add_argument("--turns", type=int, default=5)
    parser.add_argument("--numbers", type=int, default=2**18, help="D, moved by a projection")
    parser.add_argument("--dims", type=int, nargs="+", default=[64, 256, 1024, 4096, 16384])
    parser.add_argument("--largest-dense", type=int, default=2**28, help="entries of a dense P")
    parser.add_argument("--device", default="cpu")
    args = parser.parse_args()
    rows = []
    for rank, terms in LSR:
        rows += layers(f"LSR r={rank} t={terms}", adapt.LSR(rank, terms), 1.3, 1.0, args)
    for rank, pieces in STRATA:
        rows += layers(
            f"strata r={rank} K={pieces}", adapt.StrataLoRA(rank, pieces), 1.2, None, args
        )
    rows += projections(args)
    report("adapt_speed", rows, **vars(args))


def layers(
    name: str, method: adapt.Method, slowest: float, largest: float | None, args: argparse.Namespace
) -> list[Row]:
    """One method against peft's LoRA and the bare layer."""
    base = nn.Sequential(nn.Linear(args.size, args.size, bias=False)).requires_grad_(False)
    count = method.count([(args.size, args.size)])
    rank = max(1, round(count / (2 * args.size)))
    x = in_pieces(args)
    models = {
        "ours": attached(copy.deepcopy(base).to(args.device), method, x),
        "LoRA": lora(copy.deepcopy(base), rank).to(args.device),
        "bare": base.to(args.device),
    }
    steps = {key: step(model, x) for key, model in models.items()}
    times = interleaved(steps, args.turns)
    peaks = {key: peak_allocated(run, args.device) for key, run in steps.items()}
    trained = sum(p.numel() for p in models["LoRA"].parameters() if p.requires_grad)
    memory_bar = "" if largest is None else f"<= {largest}"
    return [
        Row(f"{name}: trained over LoRA r={rank}'s {trained:,}", count / trained, "x"),
        Row(f"{name}: time over LoRA's", times.ratio("ours", "LoRA"), "x", f"<= {slowest}"),
        Row(f"{name}: memory over LoRA's", peaks["ours"] / peaks["LoRA"], "x", memory_bar),
        Row(f"{name}: time over the bare layer's", times.ratio("ours", "bare"), "x"),
        Row(f"{name}: LoRA's time over the bare layer's", times.ratio("LoRA", "bare"), "x"),
        Row(f"{name}: a step", times.best("ours"), "s"),
        Row(f"{name}: its memory", peaks["ours"] / 2**20, "MiB"),
    ]


def in_pieces(args: argparse.Namespace) -> Tensor:
    """(batch, tokens, size) inputs near eight pieces, which want a gradient."""
    shape = (args.batch, args.tokens)
    centers = 4 * normal((8, args.size), 0, 1)
    x = centers[integers(shape, 8, 0)] + normal((*shape, args.size), 0, 2)
    return x.to(args.device).requires_grad_()


def attached(model: nn.Module, method: adapt.Method, x: Tensor) -> nn.Module:
    """With our adapter, its gate fitted where it has one."""
    adapt.attach(model, method, nn.Linear)
    if isinstance(method, adapt.StrataLoRA):
        adapt.fit_gates(model, lambda model, batch: model(batch), [x.detach()])
    return model


def lora(model: nn.Module, rank: int) -> nn.Module:
    """With peft's LoRA."""
    import peft

    config = peft.LoraConfig(r=rank, lora_alpha=rank, target_modules=["0"])
    return peft.inject_adapter_in_model(config, model)


def step(model: nn.Module, x: Tensor) -> Callable[[], None]:
    """Forward and backward; gradients are let go of, as an optimiser's zero_grad does."""
    leaves = [x, *(p for p in model.parameters() if p.requires_grad)]
    gradient = torch.ones_like(x)

    def run() -> None:
        fresh = x.view_as(x)  # a gate may remember the shares of a tensor
        torch.autograd.backward(model(fresh), gradient, inputs=leaves)
        for leaf in leaves:
            leaf.grad = None
        if x.is_cuda:
            torch.cuda.synchronize()

    return run


def peak_allocated(run: Callable[[], Any], device: str) -> int:
    """Bytes that the allocator held at the worst moment of a run, beyond those before it."""
    if device != "cpu":
        before = torch.cuda.memory_allocated()
        torch.cuda.reset_peak_memory_stats()
        run()
        return torch.cuda.max_memory_allocated() - before
    with torch.profiler.profile(
        activities=[torch.profiler.ProfilerActivity.CPU], profile_memory=True
    ) as profile:
        run()
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "trace.json"
        profile.export_chrome_trace(str(path))
        events = json.loads(path.read_text())["traceEvents"]
    moves = sorted((e["ts"], e["args"]["Bytes"]) for e in events if e["name"] == "[memory]")
    held = peak = 0
    for _, change in moves:
        held += change
        peak = max(peak, held)
    return peak


def projections(args: argparse.Namespace) -> list[Row]:
    """A product with P and one with its transpose, by d."""
    rows = []
    for dim in args.dims:
        kinds = ["fastfood"]
        if args.numbers * dim <= args.largest_dense:
            kinds.append("dense")
        runs = {kind: products(kind, dim, args) for kind in kinds}
        times = interleaved(runs, args.turns)
        what, fastest = f"D={args.numbers:,} d={dim}", times.best("fastfood")
        held = peak_allocated(runs["fastfood"], args.device)
        if "dense" in kinds:
            rows.append(Row(f"{what}: dense over Fastfood", times.ratio("dense", "fastfood"), "x"))
        unit = args.numbers * math.log2(dim)
        rows += [
            Row(f"{what}: Fastfood", 1e3 * fastest, "ms"),
            Row(f"{what}: Fastfood over D log2 d", 1e9 * fastest / unit, "ns"),
            Row(f"{what}: bytes of a step over D + d", held / (args.numbers + dim), "", "<= 32"),
        ]
    return rows


def products(kind: str, dim: int, args: argparse.Namespace) -> Callable[[], None]:
    """P z, and the gradient of z."""
    projection = PROJECTIONS[kind](args.numbers, dim, seed=0).to(args.device)
    z = normal(dim, 0, device=args.device).requires_grad_()
    gradient = normal(args.numbers, 1, device=args.device)

    def run() -> None:
        projection(z).backward(gradient)
        z.grad = None
        if z.is_cuda:
            torch.cuda.synchronize()

    return run


if __name__ == "__main__":
    main()
