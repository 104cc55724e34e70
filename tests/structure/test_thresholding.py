"""The lasso of many points: scikit-learn's answer, and a gap that is a proof."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.linear_model import Lasso

from lowdim.errors import InputError, MemoryBudgetError
from lowdim.structure.thresholding import ista, lasso, soft_threshold, top_k
from tests.structure.sample import atoms, normal


def objective(x, z, dictionary, penalty):
    return (x - z @ dictionary.T).square().sum(1) / 2 + penalty * z.abs().sum(1)


@pytest.mark.parametrize(("d", "m", "penalty"), [(20, 50, 0.5), (30, 10, 0.1), (20, 50, 2.0)])
def test_equals_scikit_learn(d, m, penalty):
    x, dictionary = normal(30, d, seed=1), atoms(d, m)
    found = lasso(x, dictionary, penalty, tolerance=1e-13, max_iter=50_000)
    oracle = Lasso(alpha=penalty / d, fit_intercept=False, tol=1e-14, max_iter=100_000)
    expected = oracle.fit(dictionary.numpy(), x.T.numpy()).coef_
    assert bool(found.converged.all())
    assert torch.allclose(found.values, torch.from_numpy(expected), atol=1e-6)


@settings(max_examples=25, deadline=None)
@given(st.integers(0, 10**6), st.floats(0.01, 3), st.integers(1, 60))
def test_the_gap_is_a_bound_at_every_step(seed, penalty, steps):
    x, dictionary = normal(8, 12, seed=seed), atoms(12, 25, seed + 1)
    rough = lasso(x, dictionary, penalty, max_iter=steps, tolerance=1e-12)
    best = lasso(x, dictionary, penalty, max_iter=5000, tolerance=1e-10)
    above = objective(x, rough.values, dictionary, penalty) - objective(
        x, best.values, dictionary, penalty
    )
    assert bool((above <= rough.gap + 1e-12).all())
    assert torch.equal(rough.converged, rough.gap <= 1e-12 * x.square().sum(1) / 2)


def test_orthonormal_atoms_are_one_threshold():
    x = normal(10, 9, seed=1)
    basis = torch.linalg.qr(normal(9, 9, seed=5)).Q
    found = lasso(x, basis, 0.4, tolerance=1e-12)
    assert torch.allclose(found.values, soft_threshold(x @ basis, 0.4), atol=1e-5)


def test_zero_points_and_large_penalties_give_no_atom():
    x, dictionary = normal(6, 10, seed=1), atoms(10, 20)
    x[3] = 0
    found = lasso(x, dictionary, float((x @ dictionary).abs().max()))
    assert bool((found.values == 0).all())
    assert bool(found.converged.all())
    assert bool((found.gap == 0).all())


def test_ista_goes_down_and_to_the_same_place():
    x, dictionary = normal(5, 10, seed=1), atoms(10, 20)
    values = torch.stack(
        [objective(x, ista(x, dictionary, 0.3, n_iter=i), dictionary, 0.3) for i in range(30)]
    )
    assert bool((values.diff(dim=0) <= 1e-12).all())
    slow, fast = ista(x, dictionary, 0.3, n_iter=5000), lasso(x, dictionary, 0.3, tolerance=1e-12)
    assert torch.allclose(slow, fast.values, atol=1e-5)


def test_ista_is_differentiable_in_the_dictionary():
    dictionary = atoms(5, 8).requires_grad_()
    assert torch.autograd.gradcheck(
        lambda w: ista(normal(3, 5, seed=1), w, 0.2, n_iter=3), dictionary
    )


def test_float32_and_a_small_budget_agree():
    x, dictionary = normal(300, 16, seed=1), atoms(16, 40)
    double = lasso(x, dictionary, 0.5)
    single = lasso(x.float(), dictionary.float(), 0.5, memory="500kB")
    assert single.values.dtype == torch.float32
    assert torch.allclose(single.values.double(), double.values, atol=2e-2)
    assert bool(single.converged.all())


def test_top_k_keeps_the_largest():
    z = torch.tensor([[1.0, -3, 2, 0], [0, 0, -1, 0]])
    assert top_k(z, 2).dense(4).tolist() == [[0, -3, 2, 0], [0, 0, -1, 0]]
    assert top_k(z, 2, positive=True).dense(4).tolist() == [[1, 0, 2, 0], [0, 0, 0, 0]]
    assert top_k(z, 2).counts.tolist() == [2, 1]


def test_mistakes_are_named():
    x, dictionary = normal(5, 10, seed=1), atoms(10, 20)
    x[2, 1] = math.inf
    with pytest.raises(InputError, match="row 2"):
        lasso(x, dictionary, 1.0)
    for penalty in (0.0, -1.0, math.nan, math.inf):
        with pytest.raises(InputError, match="penalty"):
            lasso(normal(5, 10, seed=1), dictionary, penalty)
    with pytest.raises(InputError, match="from 1 to 20"):
        top_k(normal(5, 20, seed=1), 21)
    with pytest.raises(MemoryBudgetError, match="lasso"):
        lasso(normal(5, 10, seed=1), dictionary, 1.0, memory=1000)
