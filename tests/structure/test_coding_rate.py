"""Closed forms, inequalities, gradients, and what the rates say of planted pieces."""

import math
import sys

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from lowdim.core.points import unit_rows
from lowdim.errors import InputError
from lowdim.structure.coding_rate import (
    coding_rate,
    compressed_rate,
    label_rate,
    rate_reduction_loss,
    sparse_rate_reduction_loss,
    subspace_rate,
)
from tests.structure.sample import normal

EPS = 0.5


def orthonormal(n, d, seed=0):
    return torch.linalg.qr(normal(max(n, d), min(n, d), seed=seed)).Q[:n, :d]


@pytest.mark.parametrize(("n", "d"), [(30, 7), (7, 7)])
def test_rate_of_orthonormal_columns_has_a_closed_form(n, d):
    expected = d / 2 * math.log1p(d / (n * EPS**2))
    assert float(coding_rate(orthonormal(n, d))) == pytest.approx(expected, rel=1e-12)


@settings(max_examples=30, deadline=None)
@given(n=st.integers(1, 20), d=st.integers(1, 20), seed=st.integers(0, 1000))
def test_rate_is_the_logdet_of_either_gram_whatever_the_rotation(n, d, seed):
    z = normal(n, d, seed=seed)
    a = d / (n * EPS**2)
    for gram in (z @ z.T, z.T @ z):
        expected = torch.linalg.slogdet(torch.eye(len(gram)).double() + a * gram).logabsdet / 2
        assert float(coding_rate(z)) == pytest.approx(float(expected), rel=1e-10, abs=1e-12)
    turned = orthonormal(n, n, seed) @ z @ orthonormal(d, d, seed + 1)
    assert float(coding_rate(turned)) == pytest.approx(float(coding_rate(z)), rel=1e-10)


@settings(max_examples=30, deadline=None)
@given(n=st.integers(2, 15), d=st.integers(1, 15), seed=st.integers(0, 1000))
def test_parts_never_cost_more_than_the_whole(n, d, seed):
    """Concavity in Z^T Z, for soft memberships and hard ones."""
    z = normal(n, d, seed=seed)
    soft = torch.softmax(normal(n, 3, seed=seed + 1), 1)
    assert float(rate_reduction_loss(z, soft)) <= 1e-10
    assert float(label_rate(z, soft.argmax(1))) <= float(coding_rate(z)) + 1e-10


@pytest.mark.parametrize(("n", "d"), [(40, 6), (10, 30)])
def test_one_hot_weights_are_labels(n, d):
    z, code = normal(n, d), torch.arange(n) % 3
    weights = torch.nn.functional.one_hot(code, 5).double()  # two parts hold nothing
    assert float(compressed_rate(z, weights)) == pytest.approx(float(label_rate(z, code)))
    one = torch.ones(n, 1)
    assert float(compressed_rate(z, one)) == pytest.approx(float(coding_rate(z)))


def test_weights_are_worked_off_in_blocks_of_parts(monkeypatch):
    z, weights = normal(12, 4), torch.softmax(normal(12, 9, seed=1), 1)
    whole = float(compressed_rate(z, weights))
    monkeypatch.setattr(sys.modules["lowdim.structure.coding_rate"], "BLOCK", 100)
    assert float(compressed_rate(z, weights)) == pytest.approx(whole, rel=1e-12)


@pytest.mark.parametrize(("n", "d"), [(9, 4), (9, 2), (4, 9)])
def test_gradients(n, d):
    z = normal(n, d).requires_grad_()
    weights = torch.softmax(normal(n, 3, seed=1), 1)
    weights[0] = torch.tensor([1.0, 0, 0])  # the gradient at a zero weight is finite
    weights.requires_grad_()
    bases = torch.stack([orthonormal(d, 2, seed) for seed in (2, 3)])
    assert torch.autograd.gradcheck(coding_rate, z)
    grad = torch.autograd.grad(compressed_rate(z, weights), weights)[0]
    assert bool(torch.isfinite(grad).all())
    inside = (weights.detach() + 0.1).requires_grad_()
    assert torch.autograd.gradcheck(compressed_rate, (z, inside))
    assert torch.autograd.gradcheck(lambda a: label_rate(a, torch.arange(n) % 2), z)
    assert torch.autograd.gradcheck(lambda a: sparse_rate_reduction_loss(a, bases, penalty=0.1), z)


def test_rate_in_subspaces_is_that_of_the_coordinates():
    z = normal(50, 6)
    bases = torch.stack([orthonormal(6, 2, seed) for seed in range(3)])
    expected = sum(float(coding_rate(z @ u)) for u in bases)
    assert float(subspace_rate(z, bases)) == pytest.approx(expected, rel=1e-12)
    loss = sparse_rate_reduction_loss(z, bases, penalty=0.01)
    by_hand = expected - float(coding_rate(z)) + 0.01 * float(z.abs().sum())
    assert float(loss) == pytest.approx(by_hand)


@pytest.mark.parametrize("seed", range(5))
def test_reduction_is_largest_for_orthogonal_subspaces(seed):
    """Theorem of Yu et al. 2020, against turned copies of the same classes."""
    code = torch.arange(90) % 3
    own = unit_rows(normal(90, 2, seed=seed))
    frame = orthonormal(12, 6, seed)
    apart = torch.stack([own[i] @ frame[:, 2 * c : 2 * c + 2].T for i, c in enumerate(code)])
    bases = [orthonormal(12, 2, seed + 10 * c) for c in range(1, 4)]
    turned = torch.stack([own[i] @ bases[c].T for i, c in enumerate(code)])
    best = coding_rate(apart) - label_rate(apart, code)
    assert float(best) > float(coding_rate(turned) - label_rate(turned, code)) + 1e-3
    assert float(label_rate(apart, code)) == pytest.approx(float(label_rate(turned, code)))


def test_gradient_steps_part_the_classes():
    code = torch.arange(60) % 3
    weights = torch.nn.functional.one_hot(code).double()
    z = unit_rows(normal(60, 9)).requires_grad_()
    optimizer = torch.optim.Adam([z], lr=0.05)
    for _ in range(150):
        optimizer.zero_grad()
        rate_reduction_loss(torch.nn.functional.normalize(z), weights).backward()
        optimizer.step()
    final = torch.nn.functional.normalize(z.detach())
    means = [final[code == k] for k in range(3)]
    across = max(float((means[i] @ means[j].T).abs().mean()) for i, j in ((0, 1), (0, 2), (1, 2)))
    assert across < 0.02


def test_bad_input():
    z = normal(5, 3)
    for call, says in (
        (lambda: coding_rate(z, 0.0), "eps=0.0"),
        (lambda: coding_rate(z[0]), "shape"),
        (lambda: coding_rate(z * math.nan), "NaN"),
        (lambda: coding_rate(z.flip(0)[:1].expand(5, 3) * 1e12), "eps some eight"),
        (lambda: compressed_rate(z, -torch.ones(5, 2)), "none below zero"),
        (lambda: compressed_rate(z, torch.ones(4, 2)), "memberships"),
        (lambda: label_rate(z, torch.arange(4)), "one a point"),
        (lambda: subspace_rate(z, torch.ones(2, 4, 1)), r"\(K, 3, p\)"),
    ):
        with pytest.raises(InputError, match=says):
            call()
