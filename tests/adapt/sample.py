"""Small models with every kind of layer that can be adapted, and ways to train them a little."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn
from transformers.pytorch_utils import Conv1D

from lowdim import adapt
from lowdim.adapt import Method


class Zoo(nn.Module):
    """Tokens through one layer of each kind, with a batch norm and a head."""

    def __init__(self) -> None:
        super().__init__()
        self.emb = nn.Embedding(24, 16)
        self.query = nn.Linear(16, 12)
        self.c_fc = Conv1D(16, 12)  # its weight is stored as (12, 16)
        nn.init.normal_(self.c_fc.weight, std=0.3)
        self.line = nn.Conv1d(16, 12, 3, padding=1)
        self.norm = nn.BatchNorm1d(12)
        self.plane = nn.Conv2d(12, 8, 3, padding=1)
        self.volume = nn.Conv3d(8, 8, (1, 3, 3), padding=(0, 1, 1))
        self.classifier = nn.Linear(8, 3)

    def forward(self, tokens: Tensor) -> Tensor:
        x = torch.tanh(self.c_fc(torch.tanh(self.query(self.emb(tokens)))))  # (n, length, 16)
        x = torch.tanh(self.norm(self.line(x.mT)))  # (n, 12, length)
        x = torch.tanh(self.plane(x.unflatten(2, (2, -1))))  # (n, 8, 2, length / 2)
        return self.classifier(self.volume(x.unsqueeze(2)).flatten(2).mean(2))


NAMES = {
    "emb": "embedding",
    "query": "linear",
    "c_fc": "linear",
    "line": "convolution",
    "plane": "convolution",
    "volume": "convolution",
}
"""Layers of the zoo, and their kinds."""


def zoo(seed: int = 0) -> nn.Module:
    """The same zoo for a seed, in evaluation mode, its batch norm with statistics of its own."""
    torch.manual_seed(seed)
    model = Zoo().train()
    for _ in range(3):
        model(tokens())
    return model.eval()


def tokens(n: int = 5, seed: int = 0) -> Tensor:
    """(n, 10) tokens."""
    return torch.randint(0, 24, (n, 10), generator=torch.Generator().manual_seed(seed))


def loss(model: nn.Module, batch: Tensor) -> Tensor:
    """A loss that every layer has part in."""
    return nn.functional.cross_entropy(model(batch), batch[:, 0] % 3)


def layers(method: Method) -> list[str]:
    """The layers of the zoo that this method adapts."""
    return [name for name, kind in NAMES.items() if kind in method.kinds]


def attached(
    method: Method,
    model: nn.Module | None = None,
    names: Sequence[str] | None = None,
    *,
    also: Sequence[str] = ("classifier",),
    seed: int = 0,
) -> nn.Module:
    """A zoo with this method on all layers that it can adapt, gradients given where needed."""
    model = zoo() if model is None else model
    names = layers(method) if names is None else list(names)
    found = None
    if method.uses_gradients:
        found = adapt.gradients(model, loss, [tokens(8, 7)], names)
    adapt.attach(model, method, names, also=also, gradients=found, seed=seed)
    return model


def trained(
    model: nn.Module,
    steps: int = 3,
    lr: float = 0.02,
    loss: Callable[[nn.Module, Tensor], Tensor] = loss,
) -> nn.Module:
    """The model after a few steps of Adam in training mode, back in evaluation mode."""
    optimizer = torch.optim.Adam([p for p in model.parameters() if p.requires_grad], lr)
    model.train()
    for step in range(steps):
        optimizer.zero_grad()
        loss(model, tokens(8, step)).backward()
        optimizer.step()
    return model.eval()
