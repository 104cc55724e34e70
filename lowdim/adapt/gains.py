"""What is a rank worth? Gains of each further rank of each weight, measured before anything trains.

A step along the best rank-r part of a gradient, D = -eta G_r, lowers the loss by
eta <G_r, G> = eta (s_1^2 + ... + s_r^2) to first order, so what a rank is worth is read off the
spectrum of the gradient. A gradient over few batches is mostly noise, and noise has a spectrum too:
so the directions are taken from one half of the batches and their worth from the other,

    gain_i = s_i u_i^T G' v_i,   G = U S V^T the gradient of one half, G' that of the other,

which is the decrease on data that the directions were not made from, and zero on average where
there is nothing to learn. Both ways round are averaged.

Without labels, what a rank reaches of a layer's output W x is read off the singular values of
W C^(1/2), C = E[x x^T]: the weight as its inputs use it.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from lowdim.adapt.adapter import as_matrix, leading_svd
from lowdim.adapt.gradients import gradients
from lowdim.adapt.inputs import watch_inputs
from lowdim.adapt.method import check_size
from lowdim.adapt.targets import Target, Targets, find_targets
from lowdim.core.memory import plan
from lowdim.core.moments import Moments
from lowdim.core.progress import Advance
from lowdim.errors import InputError


@dataclass(frozen=True)
class Gains:
    """What each further rank of one tensor is worth.

    Attributes
    ----------
    name : str
        Of the module.
    shape : tuple of int
        Of its weight.
    each : Tensor
        (R,) float64, of the first rank, the second, ...
    total : float
        Of all ranks together, also of those not in ``each``.
    noise : float or None
        Share of the squared norm of a half's gradient that the other half does not repeat.
    """

    name: str
    shape: tuple[int, ...]
    each: Tensor = field(repr=False)
    total: float
    noise: float | None = None


def gradient_gains(
    model: nn.Module,
    loss: Callable[[nn.Module, Any], Tensor],
    batches: Iterable[Any],
    targets: Targets,
    *,
    max_rank: int = 64,
    memory: int | float | str | None = None,
    progress: Advance | None = None,
) -> list[Gains]:
    """How much does the loss fall with each further rank of each target, on held-out batches?"""
    found, batches = _weights(model, targets, max_rank), list(batches)
    if len(batches) < 2:
        raise InputError(f"{len(batches)} batches: give two, to tell gradient from noise")
    size = sum(t.weight.numel() for t in found)
    plan("gradients of the targets", rows=1, bytes_per_row=1, fixed=8 * size, memory=memory)
    done = itertools.count(1)
    report = progress and (lambda *_: progress(next(done), len(batches)))
    halves = [
        gradients(model, loss, batches[start::2], targets, progress=report) for start in (0, 1)
    ]
    gains = []
    for target in found:
        first, second = (as_matrix(half.pop(target.name)) for half in halves)
        each = (_worth(first, second, max_rank) + _worth(second, first, max_rank)) / 2
        total = float(torch.vdot(first.double().flatten(), second.double().flatten()))
        norm = float(first.double().square().sum() + second.double().square().sum()) / 2
        noise = 1 - min(max(total / norm, 0.0), 1.0) if norm else 0.0
        gains.append(Gains(target.module_name, target.shape, each.cpu(), total, noise))
    return gains


def input_gains(
    model: nn.Module,
    loss: Callable[[nn.Module, Any], Any],
    batches: Iterable[Any],
    targets: Targets,
    *,
    max_rank: int = 64,
    memory: int | float | str | None = None,
) -> list[Gains]:
    """Which share of each layer's mean squared output does each further direction hold?"""
    found = _weights(model, targets, max_rank)
    if odd := [t.name for t in found if t.kind != "linear"]:
        raise InputError(f"{odd[0]} is no linear layer: its inputs are not vectors, leave it out")
    moments: dict[str, Moments] = {}
    widths = {t.name: t.shape[1] for t in found}
    fixed = 8 * sum(width**2 for width in widths.values())
    plan("moments of the inputs", rows=1, bytes_per_row=1, fixed=fixed, memory=memory)

    def take(name: str, x: Tensor) -> None:
        moments.setdefault(name, Moments(widths[name], device=x.device)).update(x)

    leaders = watch_inputs(model, loss, batches, found, take)
    gains = []
    for target in found:
        second = moments[leaders[target.name]].second_moment(center=False)  # C
        weight = target.weight.double()
        if len(weight) > weight.shape[1]:  # R of W = Q R does the same to the smaller side
            weight = torch.linalg.qr(weight, mode="r").R
        energy = weight @ second @ weight.T  # its eigenvalues: the squares of W C^(1/2)
        total = float(energy.trace())
        if not total > 0:
            raise InputError(f"the output of {target.module_name} is zero: leave it out")
        each = leading_svd(energy, max_rank)[1][: min(target.shape)] / total
        gains.append(Gains(target.module_name, target.shape, each.cpu(), 1.0))
    return gains


def _weights(model: nn.Module, targets: Targets, max_rank: int) -> list[Target]:
    check_size("max_rank", max_rank)
    found = find_targets(model, targets)
    for target in found:
        if target.tensor != "weight" or len(target.shape) < 2:
            raise InputError(f"{target.name} is no weight of a layer: ranks are for matrices")
    return found


def _worth(directions: Tensor, gradient: Tensor, rank: int) -> Tensor:
    """(R,) float64, s_i u_i^T G' v_i with the triplets of the first, G' the second."""
    u, s, vt = leading_svd(directions, rank)
    return s * ((u.T @ gradient.to(u)) * vt).sum(1)
