"""What the layers of a model are given: their inputs, shown as they pass, and a bounded sample."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from lowdim.adapt.targets import Target
from lowdim.core import random
from lowdim.errors import InputError


@torch.no_grad()
def watch_inputs(
    model: nn.Module,
    loss: Callable[[nn.Module, Any], Any],
    batches: Iterable[Any],
    targets: Sequence[Target],
    take: Callable[[str, Tensor], None],
) -> dict[str, str]:
    """Which inputs do these layers get?

    Parameters
    ----------
    model : torch.nn.Module
        Run in evaluation mode and left as it was.
    loss : callable
        ``loss(model, batch)``; all that matters is that it runs the model.
    batches : iterable
        Where the model is given an ``attention_mask``, padding is left out.
    targets : sequence of Target
        Linear layers.
    take : callable
        Called with a name and (rows, in) inputs. Targets that are given the same tensor (queries,
        keys and values) are shown once, under the first of them.

    Returns
    -------
    dict of str to str
        For each target's name the one its inputs are shown under.

    Raises
    ------
    InputError
        No batch, or a target that no batch reaches.
    """
    leaders: dict[str, str] = {}
    seen: dict[int, tuple[str, Tensor]] = {}  # of one pass; held, so that no two share an id
    mask: Tensor | None = None

    def note_mask(module: nn.Module, args: tuple[Any, ...], options: dict[str, Any]) -> None:
        nonlocal mask
        mask = options.get("attention_mask")

    def show(name: str, x: Tensor) -> None:
        leader, _ = seen.setdefault(id(x), (name, x))
        if leaders.setdefault(name, leader) == name:
            if mask is not None and mask.shape == x.shape[:-1]:
                take(name, x[mask.to(x.device).bool()])
            else:
                take(name, x.flatten(0, -2))

    hooks = [
        t.module.register_forward_pre_hook(
            lambda _, args, options, name=t.name: show(name, *args, *options.values()),
            with_kwargs=True,
        )
        for t in targets
    ]
    hooks.append(model.register_forward_pre_hook(note_mask, with_kwargs=True))
    modes = [(module, module.training) for module in model.modules()]
    model.eval()
    n = 0
    try:
        for batch in batches:
            n += 1
            seen.clear()
            loss(model, batch)
    finally:
        for module, mode in modes:
            module.training = mode
        for hook in hooks:
            hook.remove()
    if n == 0:
        raise InputError("no batches: give at least one to see inputs of")
    if missed := [t.name for t in targets if t.name not in leaders]:
        raise InputError(f"no batch reaches {missed[0]}: leave it out")
    return leaders


class Sample:
    """A uniform sample of the rows of a stream, the same however the stream is cut.

    Each row draws a number, and the rows of the smallest numbers are kept.

    Attributes
    ----------
    rows : Tensor
        (at most ``size``, d) what is kept.
    """

    def __init__(self, size: int, seed: int) -> None:
        self.size, self.seed, self.seen = size, seed, 0
        self.rows = torch.empty(0)
        self._keys = torch.empty(0, dtype=torch.float64)

    def take(self, rows: Tensor) -> None:
        """Take in (m, d) rows."""
        keys = random.uniform(len(rows), self.seed, start=self.seen, device=rows.device)
        if self.seen:
            rows, keys = torch.cat([self.rows, rows]), torch.cat([self._keys, keys])
        self.seen += len(rows) - len(self.rows)
        kept = keys.argsort()[: self.size]
        self.rows, self._keys = rows[kept], keys[kept]
