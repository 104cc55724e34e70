import numpy as np
import pytest
import scipy.sparse.linalg
import torch

from lowdim.core import linalg
from lowdim.core.random import normal
from lowdim.errors import InputError


def orthonormal(n: int, k: int, seed: int) -> torch.Tensor:
    return torch.linalg.qr(normal((n, k), seed, dtype=torch.float64)).Q


def with_singular_values(s: torch.Tensor, m: int, n: int) -> torch.Tensor:
    return orthonormal(m, len(s), 1) * s @ orthonormal(n, len(s), 2).T


DECAYS = {
    "fast": 0.7 ** torch.arange(60, dtype=torch.float64),
    "slow": 1 / torch.arange(1, 61, dtype=torch.float64),
    "flat": torch.ones(60, dtype=torch.float64),
    "low rank": torch.tensor([5.0, 4, 3, 2, 1], dtype=torch.float64),
}


@pytest.mark.parametrize("decay", DECAYS)
@pytest.mark.parametrize("seed", range(3))
def test_randomized_svd_and_its_bound(decay, seed):
    s = DECAYS[decay]
    a = with_singular_values(s, 150, 90)
    found = linalg.randomized_svd(a, 5, seed=seed)
    for basis in (found.U, found.V):
        torch.testing.assert_close(basis.T @ basis, torch.eye(5).double(), rtol=0, atol=1e-12)
    # the bound holds: the sketched energies are low by at most error^2
    gap = s[:5] ** 2 - found.S**2
    assert float(gap.min()) > -1e-12
    assert float(gap.max()) <= found.error**2 + 1e-12
    q = linalg.range_finder(a, 15, seed=seed)
    outside = torch.linalg.matrix_norm(a - q @ (q.T @ a), 2)
    assert float(outside) <= found.error + 1e-14
    assert found.error <= 5 * float(outside) + 1e-12  # and it is not idle
    # Kahan: the residual bounds the distance to some eigenvalues; here to the right ones
    assert float(gap.max()) <= found.residual + 1e-12
    if decay in ("fast", "low rank"):
        torch.testing.assert_close(found.S, s[:5], rtol=1e-6, atol=0)
        approximation = found.U * found.S @ found.V.T
        best = torch.linalg.matrix_norm(a - with_singular_values(s[:5], 150, 90))
        assert float(torch.linalg.matrix_norm(a - approximation)) <= float(best) * 1.001 + 1e-12


def test_randomized_svd_is_exact_where_the_sketch_is_full():
    a = normal((30, 12), 0, dtype=torch.float64)
    found = linalg.randomized_svd(a, 8)
    torch.testing.assert_close(found.S, torch.linalg.svdvals(a)[:8])
    assert found.error < 1e-13


def test_randomized_svd_of_sparse_float32_and_zero():
    dense = normal((80, 50), 0) * (normal((80, 50), 1) > 1.5)
    sparse = linalg.randomized_svd(dense.to_sparse(), 3, seed=4)
    torch.testing.assert_close(sparse.S, linalg.randomized_svd(dense, 3, seed=4).S)
    assert sparse.S.dtype == torch.float32
    zero = linalg.randomized_svd(torch.zeros(20, 10), 2)
    assert zero.S.tolist() == [0, 0]
    assert zero.error == 0


def test_same_seed_same_answer():
    a = normal((60, 40), 0)
    one, two, other = (linalg.randomized_svd(a, 4, seed=seed) for seed in (0, 0, 1))
    assert torch.equal(one.S, two.S)
    assert not torch.equal(one.U, other.U)


def symmetric(values: list[float]) -> torch.Tensor:
    v = torch.tensor(values, dtype=torch.float64)
    q = orthonormal(len(v), len(v), 3)
    return q * v @ q.T


@pytest.mark.parametrize(
    "values",
    [
        [1 / (i + 1) for i in range(120)],
        [9.0, 9, 9, 7, 7, 1] + [0.0] * 60,  # repeated: one Krylov space shows one copy
        [1.0] * 40,
        [5.0, 4, 3] + [0.0] * 50,
        [3.0, -8, 2, 1, -1] + [0.1 * i for i in range(20)],  # indefinite: largest, not in size
        [0.0] * 12,
        [-1.0 - i for i in range(30)],
    ],
)
def test_lanczos_finds_the_largest(values):
    a = symmetric(values)
    found = linalg.lanczos(lambda v: a @ v, len(values), 5)
    expected = torch.tensor(sorted(values, reverse=True)[:5], dtype=torch.float64)
    torch.testing.assert_close(found.values, expected, rtol=1e-10, atol=1e-10)
    torch.testing.assert_close(
        found.vectors.T @ found.vectors, torch.eye(5).double(), rtol=0, atol=1e-7
    )
    true_residuals = (a @ found.vectors - found.vectors * found.values).norm(dim=0)
    assert float(true_residuals.max()) < 1e-6


def test_lanczos_agrees_with_arpack():
    b = normal((200, 300), 5, dtype=torch.float64)
    a = b @ b.T
    expected = scipy.sparse.linalg.eigsh(a.numpy(), 6, return_eigenvectors=False)[::-1].copy()
    found = linalg.lanczos(lambda v: a @ v, 200, 6)
    torch.testing.assert_close(found.values, torch.from_numpy(expected), rtol=1e-10, atol=0)
    assert found.products < 200


def test_lanczos_residual_tells_when_it_stopped_early():
    a = symmetric([1 / (i + 1) ** 0.2 for i in range(150)])
    early = linalg.lanczos(lambda v: a @ v, 150, 4, steps=8)
    residuals = (a @ early.vectors - early.vectors * early.values).norm(dim=0)
    torch.testing.assert_close(early.residuals, residuals)
    assert float(early.residuals.max()) > 1e-4
    exact = torch.linalg.eigvalsh(a)
    nearest = (early.values[:, None] - exact).abs().min(1).values
    assert bool((nearest <= early.residuals + 1e-12).all())


def test_lanczos_whole_spectrum_and_float32():
    a = symmetric([float(i) for i in range(12)])
    full = linalg.lanczos(lambda v: a @ v, 12, 12)
    torch.testing.assert_close(full.values, torch.arange(11.0, -1, -1).double())
    single = a.float()
    found = linalg.lanczos(lambda v: single @ v, 12, 3, dtype=torch.float32)
    assert found.values.dtype == torch.float32
    torch.testing.assert_close(found.values, torch.tensor([11.0, 10, 9]), rtol=1e-5, atol=0)
    one = linalg.lanczos(lambda v: 4 * v, 1, 1)
    assert one.values.tolist() == [4]


def test_eigh_psd():
    a = symmetric([3.0, 2, 1] + [0.0] * 7)
    values, vectors = linalg.eigh_psd(a)
    torch.testing.assert_close(values, torch.tensor([3.0, 2, 1] + [0.0] * 7).double())
    torch.testing.assert_close(a @ vectors, vectors * values)
    assert bool((values >= 0).all())
    torch.testing.assert_close(linalg.eigvalsh_psd(a), values)
    with pytest.raises(InputError, match="not positive semi-definite"):
        linalg.eigvalsh_psd(symmetric([1.0, -0.01]))


def test_trace_and_its_standard_error():
    a = symmetric([1 / (i + 1) for i in range(80)])
    none = torch.empty(80, 0, dtype=torch.float64)
    estimate, error = linalg.trace(lambda v: a @ v, none, probes=200)
    assert abs(estimate - float(a.trace())) < 4 * error
    found = linalg.lanczos(lambda v: a @ v, 80, 10)
    rest, smaller = linalg.trace(lambda v: a @ v, found.vectors, probes=200)
    assert abs(rest + float(found.values.sum()) - float(a.trace())) < 4 * smaller
    assert smaller < error / 2
    assert linalg.trace(lambda v: a @ v, torch.eye(80).double()) == (0, 0)
    diagonal = torch.diag(torch.arange(5.0))  # signs see a diagonal without error
    assert linalg.trace(lambda v: diagonal @ v, torch.empty(5, 0)) == (10, 0)


@pytest.mark.parametrize("rank", [0, 11, -1])
def test_rank_out_of_range(rank):
    with pytest.raises(InputError, match="between 1 and 10"):
        linalg.randomized_svd(torch.ones(10, 20), rank)
    with pytest.raises(InputError, match="between 1 and 10"):
        linalg.lanczos(lambda v: v, 10, rank)


def test_operator_that_returns_nan():
    with pytest.raises(InputError, match="NaN or Inf at product 1"):
        linalg.lanczos(lambda v: v * float("nan"), 10, 2)


def test_inputs_are_left_alone():
    a = normal((20, 10), 0)
    before = a.clone()
    linalg.randomized_svd(a, 3)
    linalg.eigvalsh_psd(a.T @ a)
    np.testing.assert_array_equal(a.numpy(), before.numpy())
