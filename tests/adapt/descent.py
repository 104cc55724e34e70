"""Plain gradient descent on the zoo, in evaluation mode: the same steps whatever trains."""

from __future__ import annotations

import torch
from torch import nn

from tests.adapt.sample import loss, tokens

INDEX = tokens(6)


def train(model: nn.Module, steps: int = 5, lr: float = 0.05) -> float:
    """The loss after some steps."""
    optimizer = torch.optim.SGD([p for p in model.parameters() if p.requires_grad], lr)
    for _ in range(steps):
        optimizer.zero_grad()
        loss(model, INDEX).backward()
        optimizer.step()
    return loss(model, INDEX).item()
