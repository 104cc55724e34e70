"""A curve and a surface are told apart by their flags; the kernel distance sees bending."""

import math

import pytest
import torch

from lowdim.errors import InputError
from lowdim.structure.flagfolds import Flagfold, flagfold_distance, local_flags
from lowdim.structure.flags import Flag


def union(n=400, bend=0.0, seed=0):
    """A sheet, bent along one side, and a curve through it."""
    g = torch.Generator().manual_seed(seed)
    u = torch.rand(n, 2, generator=g).double() * 2 - 1
    t = torch.rand(n // 2, 1, generator=g).double() * 2 - 1
    sheet = torch.cat([u, bend * u[:, :1] ** 2], 1)
    return torch.cat([sheet, torch.cat([0.3 * t.sin(), 0.2 * t.cos(), 1.5 * t], 1)])


def test_weights_separate_a_curve_from_a_surface():
    found = local_flags(union(), 20)
    assert torch.allclose(found.weights.sum(1), torch.ones(600).double())
    is_curve = torch.arange(600) >= 400
    guess = found.weights[:, 0] > 2 / 3
    assert float((guess == is_curve).double().mean()) > 0.95
    assert float(found.dimension[is_curve].median()) == pytest.approx(1, abs=0.05)


@pytest.mark.parametrize("d", [3, 40])
def test_factors_are_those_of_the_local_covariance(d):
    """Through the d x d moment, and through the Gram matrix where k < d."""
    x = torch.randn(60, d, generator=torch.Generator().manual_seed(0)).double()
    found = local_flags(x, 12)
    for i in (0, 17):
        nearest = torch.cdist(x[i : i + 1], x)[0].argsort()[1:13]
        own = Flag.of_covariance(torch.cov(x[nearest].T))
        assert torch.allclose(found.factors[i] @ found.factors[i].T, own.covariance, atol=1e-12)
        assert torch.allclose(found.values[i], own.values, atol=1e-12)
        assert torch.allclose(found.weights[i], own.weights, atol=1e-10)
    short = local_flags(x, 12, rank=2)
    assert short.factors.shape == (60, d, 2)
    assert torch.allclose(short.values.sum(1), torch.ones(60).double())
    assert torch.allclose(
        short.values[:, 1] / short.values[:, 0], found.values[:, 1] / found.values[:, 0]
    )


def test_distance_is_near_zero_for_another_sample_and_grows_with_bending():
    flat = local_flags(union(700))
    far = [
        flagfold_distance(flat, local_flags(union(700, b, seed=5)), length=0.4).value
        for b in (0.0, 0.2, 0.4, 0.8)
    ]
    assert far == sorted(far)
    assert abs(far[0]) < far[1] / 3


def test_distance_is_that_of_the_kernel_in_full(monkeypatch):
    a, b = local_flags(union(40), 10), local_flags(union(30, 0.5, seed=1), 10, rank=2)
    found = flagfold_distance(a, b)

    def kernel(one, other):
        s, t = (f.factors @ f.factors.mT for f in (one, other))
        apart = (s[:, None] - t).square().sum((2, 3)) / (2 * found.spread**2)
        return torch.exp(
            -(torch.cdist(one.points, other.points) ** 2) / 2 / found.length**2 - apart
        )

    n, m = len(a.points), len(b.points)
    within = [(kernel(f, f).sum() - k) / (k * (k - 1)) for f, k in ((a, n), (b, m))]
    assert found.value == pytest.approx(float(sum(within) - 2 * kernel(a, b).mean()), abs=1e-12)
    monkeypatch.setattr("lowdim.structure.flagfolds.COLUMNS", 7)
    assert flagfold_distance(a, b).value == pytest.approx(found.value, abs=1e-13)
    assert flagfold_distance(b, a).value == pytest.approx(found.value, abs=1e-13)


def test_a_shape_in_another_dimension_is_another_shape_at_the_same_places():
    x = union(100)
    true = local_flags(x, 15)
    solid = torch.eye(3).double().expand(len(x), 3, 3) / math.sqrt(3)
    assert flagfold_distance(true, Flagfold(x, solid)).value > 0.05


def test_bad_input():
    x = union(40)
    for call, says in (
        (lambda: local_flags(x, 2), "at least 3"),
        (lambda: local_flags(x, 10, rank=4), "between 1 and 3"),
        (lambda: local_flags(torch.cat([x, x[:1]]), 10), "equals another row"),
        (lambda: flagfold_distance(local_flags(x), local_flags(x[:, :2])), "one space"),
        (lambda: flagfold_distance(local_flags(x), local_flags(x), spread=0.0), "above zero"),
    ):
        with pytest.raises(InputError, match=says):
            call()
