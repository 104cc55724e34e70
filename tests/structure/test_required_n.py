"""Enough rows, by simulation: exactly so for the exponential mechanism."""

import pytest
import torch

from lowdim.errors import InputError
from lowdim.structure.bingham import Noise, bingham
from lowdim.structure.private_pca import gaussian_matrix, noise_sd, upper_triangle_matrix
from lowdim.structure.required_n import required_n

DELTA = {"gauss": 1e-6, "mod-sulq": 1e-6, "exponential": None, "exponential-gibbs": None}


def test_the_worst_spectrum_meets_the_required_n_exactly_for_the_exponential_mechanism():
    d, gap, options = 6, 0.3, {"correlation": 0.8, "failure": 0.1}
    n = required_n(d, gap, epsilon=1.0, mechanism="exponential", **options)
    worst = torch.diag(torch.tensor([0.4] + [0.1] * 5)).double()
    kinder = torch.diag(torch.tensor([0.4, 0.1, 0.05, 0, 0, 0])).double()
    failures = []
    for mean in (worst, kinder):
        v = bingham(0.5 * n * mean, 20_000, Noise(1))
        failures.append(float((v[:, 0].abs() < 0.8).double().mean()))
    assert failures[0] == pytest.approx(0.1, abs=0.009)
    assert failures[1] < failures[0] - 0.01
    hidden = required_n(
        d, gap, epsilon=1.0, mechanism="exponential", neighbors="add-remove", **options
    )
    assert n / hidden == pytest.approx(2, rel=0.02)


@pytest.mark.parametrize("mechanism", ["gauss", "mod-sulq"])
@pytest.mark.parametrize("d", [2, 12])
def test_required_n_is_enough_and_not_far_too_much_under_noise(d, mechanism):
    options = {"epsilon": 1.0, "delta": 1e-6, "mechanism": mechanism}
    n = required_n(d, 0.3, **options, correlation=0.9, failure=0.1)
    mean = torch.diag(torch.tensor([0.4] + [0.1] * (d - 1))).double()
    add = gaussian_matrix if mechanism == "gauss" else upper_triangle_matrix
    sd, e = noise_sd(d, 1.0, 1e-6, mechanism), add(Noise(2).normal(1_000, d, d))

    def failures(n):
        first = torch.linalg.eigh(n * mean + sd * e).eigenvectors[:, 0, -1]
        return float((first.abs() < 0.9).double().mean())

    assert failures(n) <= 0.1
    assert failures(n // 4) > 0.1


def test_required_n_has_its_leading_term_in_many_dimensions():
    """(d - 1) / (2 eta gap (1 - correlation^2)), eta = epsilon / 2 where rows are replaced."""
    for d in (300, 3_000):
        n = required_n(d, 0.1, epsilon=1.0, mechanism="exponential")
        assert n == pytest.approx((d - 1) / (0.1 * (1 - 0.9**2)), rel=0.25)


def test_required_n_grows_with_dimension_and_falls_with_epsilon_and_gap():
    for name, delta in DELTA.items():
        base = required_n(20, 0.2, epsilon=1.0, delta=delta, mechanism=name)
        assert required_n(40, 0.2, epsilon=1.0, delta=delta, mechanism=name) > base
        assert required_n(20, 0.2, epsilon=2.0, delta=delta, mechanism=name) < base
        assert required_n(20, 0.4, epsilon=1.0, delta=delta, mechanism=name) == pytest.approx(
            base / 2, abs=1
        )
        assert required_n(1, 0.2, epsilon=1.0, delta=delta, mechanism=name) == 1


def test_mistakes_are_named():
    for options in ({"gap": 0.0}, {"gap": 2.0}, {"dim": 0}):
        with pytest.raises(InputError, match="gap"):
            required_n(**{"dim": 3, "gap": 0.1, "epsilon": 1.0, "delta": 0.1} | options)
    with pytest.raises(InputError, match="correlation=1"):
        required_n(3, 0.1, epsilon=1.0, delta=0.1, correlation=1)
    with pytest.raises(InputError, match="needs a delta"):
        required_n(3, 0.1, epsilon=1.0)
