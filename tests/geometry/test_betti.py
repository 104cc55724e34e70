"""Shapes of known Betti numbers, the diagrams left to ripser, and what networks can tell apart."""

import math

import numpy as np
import pytest
import torch

from lowdim.errors import InputError
from lowdim.geometry.betti import (
    betti,
    betti_by_label,
    long_bars,
    planted_shapes,
    spread_out,
    topological_capacity,
)
from tests.geometry.manifolds import cube, normal

pytest.importorskip("ripser")


def circle(n, seed=0):
    angle = 2 * math.pi * cube(n, 1, seed)
    return torch.cat([angle.cos(), angle.sin()], 1)


def disc(n, seed=0):
    return circle(n, seed) * cube(n, 1, seed + 1).sqrt()


def test_circle_and_noisy_circle():
    found = betti(circle(400))
    assert found.numbers == (1, 1)
    assert found.agreement == 1
    assert (found.value, found.size) == (2, 200)
    assert betti(circle(400) + 0.05 * normal(400, 2)).numbers == (1, 1)


def test_two_discs_and_one_blob():
    two = torch.cat([disc(200), disc(200, 7) + torch.tensor([5.0, 0])])
    assert betti(two).numbers == (2, 0)
    assert betti(disc(300)).numbers == (1, 0)


def test_torus():
    a, b = (2 * math.pi * cube(2000, 2)).unbind(1)
    ring = 2 + b.cos()
    torus = torch.stack([ring * a.cos(), ring * a.sin(), b.sin()], 1)
    found = betti(torus, max_dim=2, size=150, subsamples=1)
    assert found.numbers == (1, 2, 1)


def test_each_class_has_its_own():
    x = torch.cat([circle(200), disc(200, 3) + 4])
    found = betti_by_label(x, ["ring"] * 200 + ["disc"] * 200)
    assert found["ring"].numbers == (1, 1)
    assert found["disc"].numbers == (1, 0)
    with pytest.raises(InputError, match="one a row"):
        betti_by_label(x, [0, 1])


def test_long_bars_are_those_above_the_widest_gap():
    bars = np.array([[1, 10], [1, 8], [1, 1.5], [1, 1.3], [1.0, np.inf]])
    assert long_bars(bars, 0.0, 2.0) == 3
    assert long_bars(bars[2:4], 0.0, 2.0) == 0
    assert long_bars(np.empty((0, 2)), 1.0, 2.0) == 0


def test_spread_out_points_cover_twice_as_well_as_any():
    """Gonzalez: the farthest point is at most twice as far as from the best choice."""
    x = torch.arange(33).double()[:, None]
    chosen = spread_out(x, 3)
    assert (x - chosen.T).abs().min(1).values.max() <= 2 * 5.5
    assert len(spread_out(x, 99)) == 33


def test_planted_shapes_have_their_numbers():
    for rings, numbers in ((False, (2, 0)), (True, (2, 2))):
        x, y = planted_shapes(3000, 2, rings)
        assert betti(x[y == 1], subsamples=3).numbers == numbers


def test_wider_networks_learn_more_pieces():
    learned = topological_capacity((1, 16), (1,), runs=2, n=300, steps=300)
    assert learned.shape == (2, 1)
    assert learned[0] == 0
    assert learned[1] == 1


def test_bad_settings():
    for options in ({"max_dim": 9}, {"size": 2}, {"subsamples": 0}):
        with pytest.raises(InputError, match="max_dim"):
            betti(circle(50), **options)
    with pytest.raises(InputError, match="at least 4"):
        betti(circle(3))
