"""Draws against closed forms of the Bingham law."""

import math

import pytest
import torch
from scipy.special import hyp1f1, iv

from lowdim.structure.bingham import Noise, bingham, complement, gibbs, sequential


def mean_and_error(values):
    return float(values.mean()), float(values.std()) / math.sqrt(len(values))


@pytest.mark.parametrize(
    ("n", "epsilon", "values"), [(200, 0.5, (0.9, 0.1)), (50, 0.1, (0.6, 0.4))]
)
def test_on_the_circle_the_doubled_angle_is_von_mises(n, epsilon, values):
    """E cos 2 theta = I1(kappa) / I0(kappa), kappa = n epsilon (l1 - l2) / 4."""
    turn = torch.tensor([[0.6, -0.8], [0.8, 0.6]]).double()
    moment = n * turn @ torch.diag(torch.tensor(values).double()) @ turn.T
    v = bingham(epsilon / 2 * moment, 40_000, Noise(1)) @ turn
    mean, error = mean_and_error(2 * v[:, 0] ** 2 - 1)
    kappa = n * epsilon * (values[0] - values[1]) / 4
    assert mean == pytest.approx(iv(1, kappa) / iv(0, kappa), abs=4 * error)
    odd, odd_error = mean_and_error(v[:, 0] * v[:, 1])
    assert odd == pytest.approx(0, abs=4 * odd_error)


@pytest.mark.parametrize("kappa", [-30.0, 0.0, 3.0, 400.0])
@pytest.mark.parametrize("d", [1, 3, 20])
def test_one_axis_has_the_mean_of_watsons_law(d, kappa):
    matrix = torch.zeros(d, d).double()
    matrix[0, 0] = kappa
    mean, error = mean_and_error(bingham(matrix, 20_000, Noise(2))[:, 0] ** 2)
    expected = hyp1f1(1.5, d / 2 + 1, kappa) / hyp1f1(0.5, d / 2, kappa) / d
    assert mean == pytest.approx(expected, abs=4 * error + 1e-12)


def test_general_axes_agree_with_weighted_uniform_draws():
    """Importance sampling from the sphere, an independent way to the same moments."""
    g = torch.Generator().manual_seed(0)
    a = torch.randn(4, 4, generator=g).double()
    matrix = a + a.T
    v = bingham(matrix, 40_000, Noise(3))
    assert torch.allclose(v.norm(dim=1), torch.ones(len(v)).double())
    u = torch.randn(400_000, 4, generator=g).double()
    u = u / u.norm(dim=1, keepdim=True)
    weights = ((u @ matrix) * u).sum(1).softmax(0)
    assert torch.allclose(v.T @ v / len(v), (weights[:, None] * u).T @ u, atol=0.01)


def test_the_complement_of_two_of_three_columns_is_a_bingham_draw():
    """In three dimensions exp(tr V^T M V) = exp(tr M - w^T M w), w the third direction."""
    matrix = torch.diag(torch.tensor([3.0, 1.0, -1.0])).double()
    noise = Noise(4)
    w = torch.cat([complement(gibbs(matrix, 2, 6, noise)) for _ in range(150)], 1)
    mean, error = mean_and_error(w[2] ** 2)
    assert mean == pytest.approx(float((bingham(-matrix, 20_000, noise)[:, 2] ** 2).mean()),
                                 abs=4 * error)  # fmt: skip


def test_sequential_draws_are_orthonormal_and_find_the_axes_where_the_data_are_many():
    matrix = torch.diag(torch.tensor([3e6, 2e6, 1e6, 0, 0])).double()
    for basis in (sequential(matrix, 3, Noise(5)), sequential(matrix, 5, Noise(6))):
        assert torch.allclose(basis.T @ basis, torch.eye(basis.shape[1]).double(), atol=1e-12)
        assert torch.allclose(basis[:3, :3].abs(), torch.eye(3).double(), atol=0.01)
    found = gibbs(matrix, 3, 20, Noise(7))
    assert float((found[:3] ** 2).sum()) == pytest.approx(3, abs=1e-4)


def test_noise_is_fresh_from_the_system_and_repeats_from_a_seed():
    assert not torch.equal(Noise().uniform(8), Noise().uniform(8))
    seeded = Noise(3)
    first, second = seeded.normal(2, 3), seeded.normal(2, 3)
    assert not torch.equal(first, second)
    assert torch.equal(first, Noise(3).normal(2, 3))
    u = Noise().uniform(100_000)
    assert 0 < float(u.min()) < 1e-3 < 1 - 1e-3 < float(u.max()) < 1
    assert float(u.mean()) == pytest.approx(0.5, abs=0.005)
    z = Noise().normal(100_000)
    assert float(z.std()) == pytest.approx(1, abs=0.015)
