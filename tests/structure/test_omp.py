"""Batched matching pursuit: equal to scikit-learn's, exact where a point is a sum of few atoms."""

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.linear_model import orthogonal_mp_gram
from torch.nn.functional import normalize

from lowdim.errors import InputError, MemoryBudgetError
from lowdim.structure import omp
from tests.structure.sample import atoms, normal


@pytest.mark.parametrize(("d", "m", "s"), [(40, 100, 12), (30, 33, 30), (64, 20, 5), (6, 200, 1)])
def test_equals_scikit_learn(d, m, s):
    x, dictionary = normal(600, d, seed=1), atoms(d, m)
    found = omp(x, dictionary, s).dense(m).numpy()
    gram, xy = (dictionary.T @ dictionary).numpy(), (dictionary.T @ x.T).numpy()
    oracle = orthogonal_mp_gram(gram, xy, n_nonzero_coefs=s).T
    assert np.array_equal(found != 0, oracle != 0)
    assert np.abs(found - oracle).max() < 1e-10 * np.abs(oracle).max()


def test_tolerance_is_that_of_scikit_learn():
    x, dictionary = normal(200, 40, seed=1), atoms(40, 100)
    found = omp(x, dictionary, 40, tolerance=0.3)
    gram, xy = (dictionary.T @ dictionary).numpy(), (dictionary.T @ x.T).numpy()
    squares = x.square().sum(1).numpy()
    oracle = np.stack(
        [
            orthogonal_mp_gram(gram, xy[:, [i]], tol=0.09 * squares[i], norms_squared=squares[[i]])
            for i in range(200)
        ]
    )
    assert np.abs(found.dense(100).numpy() - oracle).max() < 1e-10
    assert len(found.counts.unique()) > 3
    left = torch.linalg.vector_norm(x - found.decode(dictionary), dim=1)
    assert bool((left <= 0.3 * torch.linalg.vector_norm(x, dim=1)).all())


@settings(max_examples=30, deadline=None)
@given(st.integers(1, 6), st.integers(0, 10**6), st.sampled_from([torch.float32, torch.float64]))
def test_a_sum_of_few_orthonormal_atoms_is_found_and_nothing_more(k, seed, dtype):
    """The residual is zero after k of 10 atoms: the other slots stay empty."""
    g = torch.Generator().manual_seed(seed)
    basis = torch.linalg.qr(torch.randn(24, 24, generator=g, dtype=torch.float64)).Q
    codes = torch.zeros(7, 24, dtype=torch.float64)
    codes[:, torch.randperm(24, generator=g)[:k]] = torch.rand(7, k, generator=g).double() + 0.5
    found = omp((codes @ basis.T).to(dtype), basis.to(dtype), 10)
    assert bool((found.counts == k).all())
    assert torch.allclose(
        found.dense(24).double(), codes, atol=1e-5 if dtype.itemsize == 4 else 1e-12
    )


def test_incoherent_sums_are_recovered_exactly():
    """Tropp 2004: s below (1 + 1 / coherence) / 2 is enough, whatever the coefficients."""
    hadamard = torch.ones(1, 1, dtype=torch.float64)
    for _ in range(6):
        hadamard = torch.cat(
            [torch.cat([hadamard, hadamard], 1), torch.cat([hadamard, -hadamard], 1)]
        )
    dictionary = torch.cat([torch.eye(64).double(), hadamard / 8], 1)  # coherence 1/8: s <= 4
    g = torch.Generator().manual_seed(3)
    codes = torch.zeros(100, 128, dtype=torch.float64)
    for row in codes:
        row[torch.randperm(128, generator=g)[:4]] = torch.randn(4, generator=g).double()
    found = omp(codes @ dictionary.T, dictionary, 20)
    assert torch.allclose(found.dense(128), codes, atol=1e-12)
    assert bool((found.counts == 4).all())


def test_equal_opposite_and_nearly_equal_atoms():
    one, x = atoms(10, 6), normal(50, 10, seed=1)
    copies = torch.cat([one, one, -one], 1)
    plain, found = omp(x, one, 6), omp(x, copies, 12)
    assert torch.allclose(found.decode(copies), plain.decode(one), atol=1e-10)
    assert bool((found.counts == 6).all())  # the span is used up: no copy is taken as well
    near = normalize(one + 1e-12 * normal(6, 10, seed=1).T, dim=0)
    found = omp(x, torch.cat([one, near], 1), 12)
    assert bool(torch.isfinite(found.values).all())
    worse = (x - plain.decode(one)).norm(dim=1) * (1 + 1e-6)
    assert bool(((x - found.decode(torch.cat([one, near], 1))).norm(dim=1) <= worse).all())


def test_more_atoms_than_columns_rebuild_the_point():
    x, dictionary = normal(40, 5, seed=1), atoms(5, 30)
    found = omp(x, dictionary, 30)
    assert bool((found.counts <= 5).all())
    assert torch.allclose(found.decode(dictionary), x, atol=1e-10)


@pytest.mark.parametrize("scale", [1e-200, 1e200])
def test_zero_tiny_and_huge_rows(scale):
    x, dictionary = normal(5, 20, seed=1), atoms(20, 40)
    x[2] = 0
    plain, found = omp(x, dictionary, 4), omp(x * scale, dictionary, 4)
    assert torch.equal(found.index, plain.index)
    assert torch.allclose(found.values / scale, plain.values, rtol=1e-12)
    assert bool((found.values[2] == 0).all())


def test_neither_the_budget_nor_the_company_of_a_row_matters():
    x, dictionary = normal(700, 16, seed=1), atoms(16, 50)
    whole, alone = omp(x, dictionary, 6), omp(x[333:334], dictionary, 6)
    small = omp(x, dictionary, 6, memory="1MB")
    assert torch.equal(whole.index, small.index)
    assert torch.allclose(whole.values, small.values, rtol=1e-12)
    assert torch.equal(whole.index[333], alone.index[0])
    assert torch.allclose(whole.values[333], alone.values[0], rtol=1e-12)


def test_what_is_left_is_orthogonal_to_the_atoms_taken():
    x, dictionary = normal(100, 32, seed=1), atoms(32, 64)
    found = omp(x, dictionary, 9)
    taken = dictionary.T[found.index]  # (n, s, d)
    inner = torch.einsum("nsd,nd->ns", taken, x - found.decode(dictionary))
    assert float(inner.abs().max()) < 1e-12


def test_decode_is_differentiable_and_dense_is_the_same_code():
    x, dictionary = normal(9, 8, seed=1), atoms(8, 12)
    found = omp(x, dictionary, 3)
    assert torch.allclose(found.decode(dictionary), found.dense(12) @ dictionary.T)
    dictionary.requires_grad_()
    (found.decode(dictionary) - x).square().sum().backward()
    residual = found.dense(12) @ dictionary.detach().T - x
    assert torch.allclose(dictionary.grad, 2 * residual.T @ found.dense(12))


def test_half_precision_and_mixed_types_are_promoted():
    x, dictionary = normal(20, 16, seed=1), atoms(16, 30)
    assert omp(x.half(), dictionary.float(), 3).values.dtype == torch.float32
    assert omp(x.float(), dictionary, 3).values.dtype == torch.float64


def test_mistakes_are_named():
    x, dictionary = normal(20, 16, seed=1), atoms(16, 30)
    bad = x.clone()
    bad[7, 2] = math.nan
    for call, words in (
        (lambda: omp(bad, dictionary, 3), "row 7"),
        (lambda: omp(x, dictionary * 2, 3), "column 0 has length 2"),
        (lambda: omp(x, torch.zeros(16, 30), 3), "length 0"),
        (lambda: omp(x, dictionary[:9], 3), "9 rows"),
        (lambda: omp(x, dictionary, 31), "from 1 to 30"),
        (lambda: omp(x, dictionary, 0), "from 1 to 30"),
        (lambda: omp(x, dictionary, 3, tolerance=1.0), "tolerance"),
    ):
        with pytest.raises(InputError, match=words):
            call()
    with pytest.raises(MemoryBudgetError, match="matching pursuit"):
        omp(x, dictionary, 3, memory=1000)
