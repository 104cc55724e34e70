"""Crossings solved by hand, dense sampling, and linear growth with neurons."""

import itertools
import math

import pytest
import torch
from torch import nn

from lowdim.errors import InputError
from lowdim.geometry import boundaries_along, boundary_distance, linear_regions
from tests.geometry.networks import inputs, mlp


def test_one_hidden_layer_crosses_where_each_unit_changes_sign():
    net, x = mlp(3, 50, 1), 2 * inputs(2, 3)
    z = net[0](x).detach()
    t = (z[0] / (z[0] - z[1]))[z[0] * z[1] < 0].sort().values
    found = linear_regions(net, x)
    assert torch.allclose(found.crossings[:, 1], t)
    assert found.boundaries == len(t)
    assert found.value == pytest.approx(len(t) / float((x[1] - x[0]).norm()))
    assert found.neurons == 50


class Functional(nn.Module):
    """Activations called as functions, and a skip."""

    def __init__(self):
        super().__init__()
        self.inner = mlp(3, 15, 15, seed=1)

    def forward(self, x):
        h = self.inner[0](x).relu()
        h = h + nn.functional.hardtanh(self.inner[2](h), -0.5, 0.5)
        return nn.functional.leaky_relu(h).abs()


def dense_count(net, x, m=100_001):
    """Brute force: sign changes of every pre-activation between fine samples."""
    t = torch.linspace(0, 1, m).double()[:, None]
    total = 0
    for a, b in itertools.pairwise(x):
        h, found = a + t * (b - a), []
        for part in net:
            if isinstance(part, nn.ReLU):
                found.append(h > 0)
            h = part(h)
        on = torch.cat(found, 1)
        total += int((on[1:] != on[:-1]).sum())
    return total


@pytest.mark.parametrize("seed", [0, 1])
def test_deep_networks_agree_with_dense_sampling(seed):
    net, x = mlp(3, 20, 20, 10, 1, seed=seed), inputs(4, 3, seed=seed)
    found = linear_regions(net, x)
    assert found.boundaries == dense_count(net, x)
    assert int(found.per_point.sum()) == found.boundaries
    assert linear_regions(net, x, memory="20KiB").boundaries == found.boundaries


def test_bisection_finds_the_same_places_on_a_chord():
    net, x = Functional(), 6 * inputs(2, 3)
    exact = linear_regions(net, x).crossings[:, 1]
    bisected = boundaries_along(net, lambda t: x[0] + t[:, None] * (x[1] - x[0]), samples=4000)
    assert len(bisected) > 8
    distinct = bisected[torch.cat([torch.ones(1), bisected.diff()]) > 1e-8]
    assert torch.allclose(distinct, exact, atol=1e-8)


def circle(t):
    return torch.stack([(2 * math.pi * t).cos(), (2 * math.pi * t).sin()], 1)


def test_boundaries_grow_linearly_with_neurons():
    mean = {
        n: sum(len(boundaries_along(mlp(2, n, 1, seed=s), circle)) for s in range(8)) / 8
        for n in (50, 200)
    }
    assert mean[200] / mean[50] == pytest.approx(4, rel=0.2)


def test_distance_of_one_layer_is_to_the_nearest_plane():
    net, x = mlp(4, 30, 1), inputs(20, 4)
    planes = net[0](x).abs() / net[0].weight.norm(dim=1)
    found = boundary_distance(net, x)
    assert torch.allclose(found.per_point, planes.amin(1))
    flat = torch.eye(4).double()[:2].expand(20, 2, 4)
    within = net[0](x).abs() / net[0].weight[:, :2].norm(dim=1)
    assert torch.allclose(boundary_distance(net, x, tangents=flat).per_point, within.amin(1))
    assert (boundary_distance(net, x, tangents=flat).per_point >= found.per_point - 1e-12).all()


def test_distance_in_a_deep_network_is_that_of_the_nearest_crossing_on_any_ray():
    net, x = mlp(2, 20, 20, 1), inputs(1, 2)
    distance = boundary_distance(net, x).value
    angle = torch.arange(720) * (math.pi / 360)
    tips = x + 2 * distance * torch.stack([angle.cos(), angle.sin()], 1)
    there_and_back = torch.stack([x.expand_as(tips), tips], 1).flatten(0, 1)
    chord, t = linear_regions(net, there_and_back).crossings.T
    nearest = 2 * distance * float(t[chord % 2 == 0].min())
    assert nearest >= distance * (1 - 1e-6)
    assert nearest == pytest.approx(distance, rel=1e-3)


def test_what_is_not_piecewise_linear_is_refused():
    bent = nn.Sequential(*mlp(3, 20, activation=nn.Tanh), nn.Tanh(), *mlp(20, 9, 1))
    with pytest.raises(InputError, match="bends"):
        linear_regions(bent, inputs(5, 3))
    with pytest.raises(InputError, match="no ReLU-like"):
        linear_regions(mlp(3, 4, 1, activation=nn.Tanh), inputs(5, 3))
    with pytest.raises(InputError, match="no length"):
        linear_regions(mlp(3, 4, 1), torch.ones(3, 3))
