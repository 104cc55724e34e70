"""Linear maps exactly, fresh networks by theory and simulation, refinement from below."""

import itertools
import math

import pytest
import torch
from torch import nn

from lowdim.errors import InputError
from lowdim.geometry import expected_length_distortion, length_distortion, volume_distortion
from tests.geometry.networks import inputs, mlp


def test_a_linear_network_stretches_each_chord_by_its_matrix():
    net, x = mlp(6, 9, 4, activation=nn.Identity), inputs(12, 6)
    step = x.diff(dim=0)
    image = step @ (net[2].weight @ net[0].weight).T.detach()
    found = length_distortion(net, x, samples=3)
    assert found.value == pytest.approx(float(image.norm(dim=1).sum() / step.norm(dim=1).sum()))
    ratio = image.norm(dim=1) / step.norm(dim=1)
    assert torch.allclose(found.per_point[:-1], ratio)
    assert found.per_point[-1] == 0
    first = (step @ net[0].weight.T).norm(dim=1).sum() / step.norm(dim=1).sum()
    assert found.ratios == pytest.approx((float(first), found.value))
    assert found.at_initialisation is None


def test_refining_never_shortens_and_converges():
    net, x = mlp(3, 30, 30, 2), inputs(5, 3)
    lengths = [length_distortion(net, x, samples=2**i).value for i in range(0, 9, 2)]
    assert lengths == sorted(lengths)
    assert lengths[-1] == pytest.approx(length_distortion(net, x, samples=2048).value, rel=1e-3)
    small = length_distortion(net, x, samples=256, memory="1MiB").value
    assert small == pytest.approx(lengths[-1], rel=1e-12)


def test_expected_value_is_that_of_simulated_networks():
    """The law: hidden layers multiply by (2/n) chi^2 with Binomial(n, 1/2) degrees of freedom."""
    widths = [3, 5, 4, 2]
    g = torch.Generator().manual_seed(0)
    m, v, h = 40_000, torch.eye(3)[:1].double(), torch.tensor([[0.3, -1.0, 0.5]]).double()
    v, h = v.expand(m, 3), h.expand(m, 3)
    for fan_in, fan_out in itertools.pairwise(widths):
        last = fan_out == widths[-1]
        w = torch.randn(m, fan_out, fan_in, generator=g).double()
        w *= math.sqrt((1 if last else 2) / fan_in)
        v, h = (w @ v[..., None])[..., 0], (w @ h[..., None])[..., 0]
        if not last:
            v, h = v * (h > 0), h.relu()
    lengths = v.norm(dim=1)
    error = float(lengths.std()) / math.sqrt(m)
    assert expected_length_distortion(widths) == pytest.approx(float(lengths.mean()), abs=4 * error)


def test_expected_value_at_large_widths_is_the_papers():
    widths = [400] * 11
    chi = math.exp(math.lgamma(200.5) - math.lgamma(200)) * math.sqrt(2 / 400)
    assert expected_length_distortion(widths) == pytest.approx(
        chi * math.exp(-5 / 8 * 9 / 400), rel=1e-4
    )
    net = mlp(400, *[400] * 10, dtype=torch.float32)
    found = length_distortion(net, inputs(2, 400, dtype=torch.float32), samples=1)
    assert found.at_initialisation == pytest.approx(expected_length_distortion(widths))


def test_volumes_of_a_linear_map():
    net, x = mlp(4, 4, activation=nn.Identity), inputs(5, 4)
    full = volume_distortion(net, x, 4)
    assert full.value == pytest.approx(float(torch.linalg.det(net[0].weight).abs()))
    assert volume_distortion(mlp(4, 2), x, 3).value == 0
    a, b = (volume_distortion(net, x, 1, seed=s) for s in (0, 1))
    s = torch.linalg.svdvals(net[0].weight)
    assert all(s[-1] <= v <= s[0] for e in (a, b) for v in e.per_point.tolist())
    assert a.value != b.value


def test_bad_input():
    net = mlp(4, 3)
    with pytest.raises(InputError, match="no length"):
        length_distortion(net, torch.ones(3, 4))
    with pytest.raises(InputError, match="samples=0"):
        length_distortion(net, inputs(3, 4), samples=0)
    with pytest.raises(InputError, match="d=5"):
        volume_distortion(net, inputs(3, 4), 5)
