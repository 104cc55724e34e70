"""A training run between two epochs, on disk: one file, whole or not at all.

It holds what trains, the stored buffers (batch norms), what AdamW keeps, the losses and the scores.
Random numbers are not in it: they start anew each epoch, from the seed.
"""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save as dump
from torch import Tensor, nn

from lowdim.adapt.task import Score
from lowdim.errors import InputError
from lowdim.io.write import atomic_write

CHECKPOINT = "checkpoint.safetensors"


@dataclass
class State:
    """A run between two epochs."""

    model: nn.Module
    optimizer: torch.optim.Optimizer
    trained: dict[str, nn.Parameter]
    losses: list[float] = field(default_factory=list)
    scores: list[Score] = field(default_factory=list)
    seconds: float = 0.0


def keep(run: State, path: Path, key: str) -> None:
    """Write the checkpoint, in the place of the one before."""
    tensors: dict[str, Tensor] = {f"model:{name}": x for name, x in _moving(run).items()}
    for i, state in run.optimizer.state_dict()["state"].items():
        tensors |= {f"optimizer:{i}:{name}": x for name, x in state.items()}
    tensors["losses"] = torch.tensor(run.losses, dtype=torch.float64)
    scores: list[dict[str, Any]] = []
    for i, score in enumerate(run.scores):
        facts = dict(vars(score))
        tensors[f"items:{i}"] = facts.pop("per_item")
        scores.append(facts)
    facts = {"key": key, "scores": json.dumps(scores), "seconds": str(run.seconds)}
    held = {name: x.detach().cpu().contiguous().clone() for name, x in tensors.items()}
    atomic_write(path, dump(held, metadata=facts))


@torch.no_grad()
def restore(run: State, path: Path, key: str) -> None:
    """Put everything back to where it was when the checkpoint was written.

    Raises
    ------
    InputError
        A file that cannot be read, or whose run had another key.
    """
    try:
        with safe_open(path, framework="pt") as file:
            facts = file.metadata() or {}
            names = file.keys()
            held = {name: file.get_tensor(name) for name in names}
    except (OSError, SafetensorError) as error:
        raise InputError(f"{path} cannot be read ({error}): do not resume") from error
    if facts.get("key") != key:
        raise InputError(
            f"{path} is of another run (other data, options or start): choose another folder, or "
            "do not resume"
        )
    for name, x in _moving(run).items():
        x.copy_(held[f"model:{name}"])
    state: dict[int, dict[str, Tensor]] = {}
    for name, x in held.items():
        if name.startswith("optimizer:"):
            _, i, part = name.split(":")
            state.setdefault(int(i), {})[part] = x
    run.optimizer.load_state_dict(run.optimizer.state_dict() | {"state": state})
    run.losses = held["losses"].tolist()
    run.scores = [
        Score(**score, per_item=held[f"items:{i}"])
        for i, score in enumerate(json.loads(facts["scores"]))
    ]
    run.seconds = float(facts["seconds"])


def _moving(run: State) -> dict[str, Tensor]:
    """What training may move: what trains, and stored buffers (batch norms)."""
    stored = run.model.state_dict(keep_vars=True)
    return {**run.trained, **{n: x for n, x in run.model.named_buffers() if n in stored}}
