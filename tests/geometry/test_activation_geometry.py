"""The paper's finding on its own kind of task, and its measures on codes with known answers."""

import itertools

import pytest
import torch

from lowdim.errors import InputError
from lowdim.geometry import activation_geometry, cluster_task
from lowdim.geometry.activation_geometry import parallelism, separability


def test_tanh_takes_on_the_targets_and_relu_keeps_the_inputs():
    x, y, clusters = cluster_task(0.3, rows=3, dim=16)
    found = activation_geometry(x, y, conditions=clusters, hidden=40, steps=200, seeds=3)
    tanh, relu = found.layers["tanh"], found.layers["relu"]
    assert max(tanh.loss, relu.loss) < 0.05
    assert found.low > 0
    assert found.value == pytest.approx(tanh.targets - relu.targets)
    assert relu.inputs > tanh.inputs
    assert tanh.parallelism > relu.parallelism


def test_task_alignment_is_the_knob():
    from lowdim.compare import cka

    values = []
    for alignment in (0.0, 0.3, 0.7, 1.0):
        x, y, clusters = cluster_task(alignment, noise=0.0)
        assert clusters.unique().tolist() == list(range(8))
        values.append(cka(x, y, debiased=False).value)
    assert values[0] == pytest.approx(0, abs=1e-12)
    assert values[-1] == pytest.approx(1)
    assert values == sorted(values)


def test_parallelism_of_a_cube_and_of_a_random_code():
    """Across the diagonal of a square the two steps are opposite, however they are paired."""
    corners = torch.tensor(list(itertools.product([0.0, 1.0], repeat=2))).double()
    code = torch.arange(4)
    assert parallelism(corners, code) == pytest.approx((1 + 1 - 1) / 3, abs=1e-9)
    assert parallelism(torch.eye(4).double(), code) == pytest.approx(0, abs=1e-9)


def test_separability_of_a_square_and_of_a_simplex():
    """XOR is the one dichotomy of a square that no line reads; a simplex has none such."""
    corners = torch.tensor(list(itertools.product([-1.0, 1.0], repeat=2))).double()
    g = torch.Generator().manual_seed(0)
    code = torch.arange(400) % 4
    noise = 0.05 * torch.randn(400, 4, generator=g).double()
    assert separability(torch.eye(4).double()[code] + noise, code) > 0.99
    square = separability(corners[code] + noise[:, :2], code)
    assert square == pytest.approx((1 + 1 + 0.5) / 3, abs=0.1)


def test_bad_input():
    x, y, _ = cluster_task(0.5, rows=2)
    with pytest.raises(InputError, match="activation 'gelu'"):
        activation_geometry(x, y, activations=("tanh", "gelu"))
    with pytest.raises(InputError, match="nothing to learn"):
        activation_geometry(x, torch.ones(16))
    with pytest.raises(InputError, match="two or more"):
        activation_geometry(x, y, seeds=1)
    with pytest.raises(InputError, match="alignment"):
        cluster_task(2.0)
