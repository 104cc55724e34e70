"""How far and how evenly does an encoding move as its input is altered more and more?

Van der Merwe et al. 2022 follow each input through copies with growing white noise or growing
adversarial changes, measure the path of its encoding, and find that large, even steps go with good
transfer. Their quality metric's formula was not at hand; ours, under its own name, is the *even
path*: length of the path over (1 + coefficient of variation of its steps). It grows with the
encoder's scale, and equals the path where all steps are equal.

Cost: one forward pass a level (a gradient a step and level for adversarial copies).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn
from torch.func import functional_call, grad

from lowdim.core.estimate import Estimate
from lowdim.core.memory import plan
from lowdim.core.random import normal
from lowdim.errors import InputError
from lowdim.geometry.modules import as_inputs, at_rest, first_tensor, place_of, state_in
from lowdim.registry import method, network


@dataclass(frozen=True, kw_only=True)
class Trajectory(Estimate):
    """Path of encodings; ``value`` is the mean even path, ``per_point`` that of each row.

    Attributes
    ----------
    path : float
        Mean length.
    steps : tuple of float
        Mean length of the step to each level.
    relative_change : float
        Mean of |next step - step| / step, over rows and levels; steps of length zero left out.
    variation : float
        Mean over rows of the steps' standard deviation over their mean.
    paths : Tensor
        (n, levels) steps of every row.
    """

    path: float
    steps: tuple[float, ...]
    relative_change: float
    variation: float
    paths: Tensor = field(repr=False, compare=False)

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON values, without the steps of each row."""
        return {k: v for k, v in super().to_dict().items() if k != "paths"}


@method(
    "geometry/manifold-trajectory",
    needs=network(),
    paper="van der Merwe et al. 2022 (score: ours)",
    arxiv="2205.07477",
    cost="levels + 1 forward passes",
    invariant=(),
)
def manifold_trajectory(
    module: nn.Module, x: Tensor, *, levels: int = 10, size: float = 1.0, seed: int = 0,
    memory: int | float | str | None = None,
) -> Trajectory:  # fmt: skip
    """How far and how evenly do encodings move as noise is added to the input?

    Parameters
    ----------
    module : torch.nn.Module
        Run in eval mode and left as it was.
    x : Tensor
        (n, ...).
    levels : int
        Equal increments of noise; each row keeps its direction, so a linear module takes equal
        steps.
    size : float
        Standard deviation of the noise at the last level.
    seed : int
        Of the noise; every row has its own.
    memory : int, float or str, optional
        Budget for a block of rows and its encodings.

    Raises
    ------
    InputError
        NaN/Inf, or fewer than two levels.

    Notes
    -----
    Trust it as a description of smoothness, between encoders whose outputs have been brought to
    one scale (it is not scale-free), with ``size`` in the units of the inputs. Do not trust it to
    pick the best encoder: over twelve small ones trained for 0 to 500 steps to tell odd digits
    from even it did not follow the accuracy of a linear probe (rank correlation -0.3, p = 0.3).
    Take the adversarial copies of :func:`pgd_copies` beside it.
    """
    x = as_inputs(x)
    if levels < 2 or not size > 0:
        raise InputError(f"levels={levels}, size={size}: at least two levels, size above zero")
    noise = normal(tuple(x.shape), seed).to(x)
    found = trajectory_of(
        module, (x + (size * k / levels) * noise for k in range(levels + 1)), memory=memory
    )
    return Trajectory(**{**vars(found), "seed": seed, "exact": False})


def trajectory_of(
    module: nn.Module, copies: Any, *, memory: int | float | str | None = None
) -> Trajectory:
    """How far and how evenly do encodings move through copies that differ more and more?

    Parameters
    ----------
    module : torch.nn.Module
        Run in eval mode.
    copies : iterable of Tensor
        Three or more of shape (n, ...), the unaltered inputs first.
    memory : int, float or str, optional
        Budget for a block of rows and its encodings.
    """
    before: Tensor | None = None
    steps = []
    for copy in copies:
        after = _encode(module, as_inputs(copy, name="a copy"), memory)
        if before is not None:
            if before.shape != after.shape:
                raise InputError(f"copies of {len(before)} and {len(after)} rows: rows correspond")
            steps.append(torch.linalg.vector_norm(after - before, dim=1))
        before = after
    if len(steps) < 2:
        raise InputError(f"{len(steps) + 1} copies: at least three make two steps")
    table = torch.stack(steps, 1)  # (n, levels)
    path = table.sum(1)
    mean = table.mean(1)
    variation = torch.where(mean > 0, table.std(1, correction=0) / mean.clamp_min(1e-300), 0)
    change = table.diff(dim=1).abs() / table[:, :-1]
    change = change[torch.isfinite(change)]
    even = path / (1 + variation)
    return Trajectory(
        value=float(even.mean()), n=len(table), per_point=even, path=float(path.mean()),
        steps=tuple(table.mean(0).tolist()), variation=float(variation.mean()),
        relative_change=float(change.mean()) if len(change) else 0.0, paths=table,
    )  # fmt: skip


def pgd_copies(
    module: nn.Module, x: Tensor, *, levels: int = 10, size: float = 1.0, ascents: int = 10,
    seed: int = 0,
) -> Sequence[Tensor]:  # fmt: skip
    """Alter inputs so that their encodings move as far as a growing budget allows.

    Projected gradient ascent on |f(x + delta) - f(x)| with |delta| at most size * k / levels per
    row at level k, each level going on from the one before.

    Returns
    -------
    list of Tensor
        ``levels + 1`` copies, the unaltered inputs first.
    """
    x = as_inputs(x)
    device, dtype = place_of(module, x)
    x = x.to(device, dtype)
    state, shape = state_in(module, dtype), (-1, *[1] * (x.ndim - 1))

    def moved(delta: Tensor, home: Tensor) -> Tensor:
        return (first_tensor(functional_call(module, state, (x + delta,))) - home).square().sum()

    with at_rest(module):
        home = first_tensor(functional_call(module, state, (x,)))
        delta, copies = normal(tuple(x.shape), seed).to(x), [x]
        for level in range(1, levels + 1):
            budget = size * level / levels
            delta = delta * (budget / _norms(delta)).reshape(shape)
            best, farthest = delta, _distance(module, state, x + delta, home)
            for _ in range(ascents):
                uphill = grad(moved)(delta, home)
                rate = (budget / 4 / _norms(uphill)).reshape(shape)
                delta = delta + rate * uphill
                delta = delta * (budget / _norms(delta)).clamp_max(1).reshape(shape)
                distance = _distance(module, state, x + delta, home)
                better = (distance > farthest).reshape(shape)
                best = torch.where(better, delta, best)
                farthest = torch.maximum(distance, farthest)
            delta = best
            copies.append(x + delta)
    return copies


def _distance(module: nn.Module, state: dict[str, Tensor], x: Tensor, home: Tensor) -> Tensor:
    return _norms(first_tensor(functional_call(module, state, (x,))) - home)


def _norms(x: Tensor) -> Tensor:
    return torch.linalg.vector_norm(x.flatten(1), dim=1).clamp_min(torch.finfo(x.dtype).tiny)


def _encode(module: nn.Module, x: Tensor, memory: int | float | str | None) -> Tensor:
    """(n, width) float64 encodings, a block of rows at a time."""
    device, dtype = place_of(module, x)
    state = state_in(module, dtype)

    def encode(rows: Tensor) -> Tensor:
        return first_tensor(functional_call(module, state, (rows.to(device, dtype),))).flatten(1)

    with at_rest(module):
        width = encode(x[:1]).shape[1] + x[0].numel()
        block = plan(
            "manifold_trajectory", rows=len(x), bytes_per_row=64 * width, memory=memory,
            largest=4096,
        )  # fmt: skip
        return torch.cat([encode(rows).double() for rows in x.split(block)]).cpu()
