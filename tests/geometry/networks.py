"""Small seeded networks for the tests of measures of networks."""

import itertools

import torch
from torch import nn


def mlp(*widths, seed=0, activation=nn.ReLU, bias=True, dtype=torch.float64):
    """Linear layers with normal weights of variance 2/fan-in and normal biases."""
    g = torch.Generator().manual_seed(seed)
    parts = []
    for fan_in, fan_out in itertools.pairwise(widths):
        layer = nn.Linear(fan_in, fan_out, bias=bias, dtype=dtype)
        with torch.no_grad():
            size = (2 / fan_in) ** 0.5
            layer.weight.copy_(size * torch.randn(fan_out, fan_in, generator=g).to(dtype))
            if bias:
                layer.bias.copy_(torch.randn(fan_out, generator=g).to(dtype))
        parts += [layer, activation()]
    return nn.Sequential(*parts[:-1])


def inputs(n, *shape, seed=0, dtype=torch.float64):
    g = torch.Generator().manual_seed(seed)
    return torch.randn(n, *shape, generator=g, dtype=dtype)
