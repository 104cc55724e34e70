"""Linear maps take exact, even steps; scaling scales; adversarial copies go farther than noise."""

import pytest
import torch
from torch import nn

from lowdim.errors import InputError
from lowdim.geometry import manifold_trajectory, pgd_copies, trajectory_of
from tests.geometry.networks import inputs, mlp


def test_a_linear_map_takes_even_steps_of_the_right_size():
    net, x = mlp(6, 4, activation=nn.Identity), inputs(20, 6)
    step = inputs(20, 6, seed=1)
    found = trajectory_of(net, [x + k * step for k in range(5)])
    size = (step @ net[0].weight.T.detach()).norm(dim=1)
    assert torch.allclose(found.paths, size[:, None].expand(-1, 4))
    assert found.variation == pytest.approx(0, abs=1e-12)
    assert found.relative_change == pytest.approx(0, abs=1e-12)
    assert found.value == pytest.approx(found.path) == pytest.approx(4 * float(size.mean()))
    noise = manifold_trajectory(net, x, levels=6)
    assert noise.variation == pytest.approx(0, abs=1e-6)


def test_scaling_the_encoder_scales_the_path():
    net, x = mlp(6, 20, 4), inputs(15, 6)
    larger = nn.Sequential(*net, nn.Linear(4, 4, bias=False, dtype=torch.float64))
    with torch.no_grad():
        larger[-1].weight.copy_(3 * torch.eye(4))
    a, b = manifold_trajectory(net, x), manifold_trajectory(larger, x)
    assert b.value == pytest.approx(3 * a.value)
    assert b.variation == pytest.approx(a.variation)
    assert a.value <= a.path
    assert manifold_trajectory(net, x, memory="20KiB").value == pytest.approx(a.value)
    assert manifold_trajectory(net, x, seed=1).value != a.value


def test_adversarial_copies_stay_in_budget_and_go_farther_than_noise():
    net, x = mlp(6, 30, 4), inputs(25, 6)
    copies = pgd_copies(net, x, levels=4, size=0.8)
    assert len(copies) == 5
    for k, copy in enumerate(copies):
        assert float((copy - x).norm(dim=1).max()) <= 0.2 * k + 1e-9
    noise = torch.nn.functional.normalize(inputs(25, 6, seed=2), dim=1)
    moved = (net(copies[-1]) - net(x)).norm(dim=1)
    by_chance = (net(x + 0.8 * noise) - net(x)).norm(dim=1)
    assert float((moved > by_chance).double().mean()) > 0.95
    assert net.training
    assert all(p.grad is None for p in net.parameters())


def test_adversarial_step_on_a_linear_map_is_its_first_singular_direction():
    net, x = mlp(5, 3, activation=nn.Identity), inputs(10, 5)
    far = pgd_copies(net, x, levels=1, size=1.0, ascents=200)[-1]
    stretch = (net(far) - net(x)).norm(dim=1)
    top = torch.linalg.svdvals(net[0].weight)[0]
    assert torch.allclose(stretch, top.expand(10), rtol=0.02)


def test_bad_input():
    net, x = mlp(4, 3), inputs(5, 4)
    with pytest.raises(InputError, match="levels=1"):
        manifold_trajectory(net, x, levels=1)
    with pytest.raises(InputError, match="2 copies"):
        trajectory_of(net, [x, x])
    with pytest.raises(InputError, match="rows correspond"):
        trajectory_of(net, [x, x[:-1], x])
