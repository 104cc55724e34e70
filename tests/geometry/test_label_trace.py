"""A great circle covers sin(eps), equal spacing is the least energy, and losses have gradients."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from lowdim.errors import InputError
from lowdim.geometry import enveloping_loss, homogeneity_loss, label_trace, surrogates
from lowdim.geometry.label_trace import arc_angle
from tests.geometry.networks import inputs


def circle(t, d=3):
    return torch.cat([t.cos()[:, None], t.sin()[:, None], torch.zeros(len(t), d - 2)], 1).double()


@pytest.mark.parametrize("eps", [0.1, 0.4, 1.0])
def test_great_circle_covers_the_sine_of_the_angle(eps):
    t = torch.linspace(0, 2 * math.pi, 41).double()
    found = label_trace(circle(t), t, eps=eps)
    assert found.value == pytest.approx(math.sin(eps), abs=4 * found.standard_error)


def test_arcs_and_not_only_their_ends_count():
    """Five points of the circle make the same curve as fifty."""
    few, many = (torch.linspace(0, 2 * math.pi, k).double() for k in (6, 50))
    a, b = label_trace(circle(few), few), label_trace(circle(many), many)
    assert a.value == pytest.approx(b.value, abs=1e-9)


def test_angle_to_an_arc():
    quarter = torch.eye(3).double()[:2]
    points = torch.tensor([[1.0, 1, 0], [0, 0, 1], [-1, 0, 0], [1, 1, 2**0.5], [1, -1, 0]]).double()
    points = points / points.norm(dim=1, keepdim=True)
    expected = torch.tensor([0, 2, 2, 1, 1]) * math.pi / 4
    assert arc_angle(points, quarter).tolist() == pytest.approx(expected.tolist(), abs=1e-5)


def test_homogeneity_is_least_for_equal_spacing():
    y = torch.linspace(0, 1, 12).double()
    even = homogeneity_loss(circle(y), y)
    length = 11 * 2 * math.sin(1 / 22)
    assert float(even) == pytest.approx(length**2, rel=1e-12)
    for seed in range(20):
        t = torch.rand(12, generator=torch.Generator().manual_seed(seed)).double().sort().values
        t = (t - t[0]) / (t[-1] - t[0])
        assert homogeneity_loss(circle(t), y) > even
    found = label_trace(circle(y), y)
    assert found.evenness == pytest.approx(1, abs=1e-12)
    assert label_trace(circle(y**3), y).evenness < 0.8


@given(st.integers(0, 10**6), st.integers(3, 20), st.integers(2, 6))
@settings(max_examples=25, deadline=None)
def test_energy_is_at_least_length_squared_over_range(seed, n, d):
    g = torch.Generator().manual_seed(seed)
    z = torch.nn.functional.normalize(torch.randn(n, d, generator=g).double(), dim=1)
    y = torch.rand(n, generator=g).double().sort().values + torch.arange(n)
    length = z.diff(dim=0).norm(dim=1).sum()
    assert homogeneity_loss(z, y) >= length**2 / (y[-1] - y[0]) * (1 - 1e-12)


def test_soft_loss_tends_to_the_share_and_its_gradient_is_right():
    t = torch.linspace(0, 2 * math.pi, 30).double()
    hard = label_trace(circle(t), t, eps=0.5, points=4096)
    soft = enveloping_loss(circle(t), eps=0.5, softness=1e-4, points=4096)
    assert 1 - float(soft) == pytest.approx(hard.value, abs=2e-3)
    z = torch.nn.functional.normalize(inputs(5, 3), dim=1).requires_grad_()
    assert torch.autograd.gradcheck(lambda z: enveloping_loss(z, points=64), z)
    assert torch.autograd.gradcheck(lambda z: homogeneity_loss(z, torch.arange(5).double()), z)


def test_gradients_are_finite_where_points_coincide():
    z = torch.tensor([[1.0, 0, 0], [1, 0, 0], [-1, 0, 0]]).double().requires_grad_()
    (enveloping_loss(z) + homogeneity_loss(z, torch.arange(3).double())).backward()
    assert torch.isfinite(z.grad).all()


def test_training_on_the_losses_spreads_a_bunched_curve():
    y = torch.arange(10).double()
    raw = (circle(0.02 * y) + 0.01 * inputs(10, 3)).requires_grad_()
    optimizer = torch.optim.Adam([raw], lr=0.05)

    def shape():
        return torch.nn.functional.normalize(raw, dim=1)

    start = float(enveloping_loss(shape()).detach())
    for _ in range(40):
        optimizer.zero_grad()
        (enveloping_loss(shape(), points=256) + 0.05 * homogeneity_loss(shape(), y)).backward()
        optimizer.step()
    assert float(enveloping_loss(shape()).detach()) < start - 0.15


def test_surrogates_are_bin_means():
    z = circle(torch.tensor([0.0, 0.2, 1.0, 1.2]))
    means, centres = surrogates(z, torch.tensor([1.0, 1, 4, 4]).double())
    assert torch.allclose(means, circle(torch.tensor([0.1, 1.1])))
    assert centres.tolist() == [1, 4]
    y = torch.linspace(0, 1, 100).double()
    assert len(surrogates(circle(y), y, bins=7)[0]) == 7


def test_neither_order_nor_length_of_rows_matters():
    x, y = inputs(200, 4), torch.arange(200).double()
    found, order = label_trace(x, y), torch.arange(200).flip(0)
    assert label_trace(x[order], y[order]).value == found.value
    assert label_trace(5 * x, y).energy == pytest.approx(found.energy)


def test_bad_input():
    y = torch.arange(4).double()
    with pytest.raises(InputError, match="one value only"):
        label_trace(circle(y), torch.ones(4))
    with pytest.raises(InputError, match="cancel"):
        label_trace(torch.tensor([[1.0, 0], [-1, 0], [0, 1]]), [1, 1, 2])
    with pytest.raises(InputError, match="columns"):
        label_trace(circle(y), torch.ones(4, 2))
