import math

import numpy as np
import pytest
import torch
from scipy.special import logsumexp
from sklearn.decomposition import PCA
from sklearn.metrics import adjusted_rand_score
from sklearn.mixture import GaussianMixture

from lowdim.core.subspace import Subspace
from lowdim.datasets import strata
from lowdim.errors import InputError
from lowdim.structure.low_rank_gaussians import LowRankGaussians, Scatter
from lowdim.structure.low_rank_mixture import LowRankMixture


def overlapping(n=600, dim=4, dtype=torch.float64):
    """Two wide normal clouds that run into each other."""
    g = torch.Generator().manual_seed(0)
    shapes = torch.randn(2, dim, dim, generator=g).double()
    z = torch.randn(n, dim, generator=g).double()
    own = torch.arange(n) % 3 == 0
    x = torch.where(own[:, None], z @ shapes[0], z @ shapes[1] + 2.5)
    return x.to(dtype)


def test_one_piece_is_probabilistic_pca():
    x = strata(400, (3,), 9, noise=0.5, separation=2, seed=1).points
    found = LowRankMixture(1, ranks=3).fit(x)
    oracle = PCA(3).fit(x.numpy())
    # scikit-learn divides the covariance by n - 1, maximum likelihood by n
    n, dim = x.shape
    oracle.explained_variance_ *= (n - 1) / n
    oracle.noise_variance_ *= (n - 1) / n
    assert found.log_likelihood(x) == pytest.approx(oracle.score(x.numpy()), rel=1e-9)
    assert float(found.model_.noise) == pytest.approx(oracle.noise_variance_, rel=1e-9)
    values = np.linalg.eigvalsh(np.cov(x.numpy().T, bias=True))[::-1]  # the closed form
    noise = values[3:].mean()
    closed = (
        np.log(values[:3]).sum() + (dim - 3) * np.log(noise) + dim * (1 + math.log(2 * math.pi))
    )
    assert -2 * found.log_likelihood(x) == pytest.approx(closed, rel=1e-9)


def test_full_rank_is_the_gaussian_mixture_of_scikit_learn():
    x = overlapping()
    found = LowRankMixture(2, ranks=3, tol=1e-10, max_iter=500, n_restarts=3).fit(x)
    oracle = GaussianMixture(2, tol=1e-10, max_iter=2000, reg_covar=0, n_init=5, random_state=0)
    oracle.fit(x.numpy())
    assert found.log_likelihood(x) == pytest.approx(oracle.score(x.numpy()), abs=1e-6)
    shares = np.sort(found.model_.shares.numpy())
    np.testing.assert_allclose(shares, np.sort(oracle.weights_), atol=1e-3)
    order = oracle.weights_.argsort()[np.argsort(found.model_.shares.argsort().numpy())]
    np.testing.assert_allclose(found.gates(x), oracle.predict_proba(x.numpy())[:, order], atol=1e-3)


def test_deviance_is_that_of_the_dense_covariance():
    g = torch.Generator().manual_seed(3)
    pieces, normals = [], []
    noise, shares = torch.tensor([0.3, 0.01, 2.0]).double(), torch.tensor([0.5, 0.2, 0.3]).double()
    for rank, v in zip((0, 2, 5), noise, strict=True):
        basis = torch.linalg.qr(torch.randn(5, rank, generator=g).double()).Q
        values = torch.rand(rank, generator=g).double().add(1).sort(descending=True).values
        center = torch.randn(5, generator=g).double()
        pieces.append(Subspace(basis, center, values))
        dense = basis @ torch.diag(values) @ basis.T
        dense += v * (torch.eye(5).double() - basis @ basis.T)
        normals.append(torch.distributions.MultivariateNormal(center, dense))
    x = torch.randn(50, 5, generator=g).double()
    expected = torch.stack([-2 * p.log_prob(x) for p in normals], 1) - 2 * shares.log()
    model = LowRankGaussians(tuple(pieces), noise, shares)
    torch.testing.assert_close(model.deviance(x), expected)
    again = LowRankGaussians.of_tensors(model.tensors())
    assert torch.equal(again.deviance(x), model.deviance(x))


def test_scatter_of_weighted_rows_in_chunks():
    g = torch.Generator().manual_seed(0)
    x, w = torch.randn(90, 4, generator=g) + 100, torch.rand(90, generator=g)
    scatter = Scatter(4)
    for part in torch.arange(90).split(40):
        scatter.update(x[part], w[part])
    expected = np.cov(x.double().numpy().T, aweights=w.numpy(), ddof=0)
    values, vectors, middle = scatter.energies(True)
    torch.testing.assert_close(vectors @ torch.diag(values) @ vectors.T, torch.tensor(expected))
    values, vectors, origin = scatter.energies(False)
    torch.testing.assert_close(middle, (w.double() @ x.double()) / w.double().sum())
    assert not bool(origin.any())
    second = (x.double().T * w.double()) @ x.double() / w.double().sum()
    torch.testing.assert_close(vectors @ torch.diag(values) @ vectors.T, second)


@pytest.mark.parametrize("ranks", [1, (0, 1, 3), 3])
def test_the_likelihood_rises_at_fixed_ranks(ranks):
    x = overlapping(900)
    found = LowRankMixture(3, ranks=ranks, n_restarts=1, sample=40, tol=0, max_iter=60).fit(x)
    assert len(found.trace_) > 20
    assert bool((found.trace_.diff() <= 1e-10).all())
    assert -2 * found.log_likelihood(x) == pytest.approx(float(found.trace_.min()), abs=1e-3)


@pytest.mark.parametrize("options", [{}, {"shared": 1}, {"separation": 2.0}])
def test_planted_pieces_and_their_dimensions_are_found(options):
    planted = strata(2000, noise=0.1, **options)
    found = LowRankMixture(4, n_restarts=4, max_iter=40).fit(planted.points)
    assert adjusted_rand_score(planted.labels, found.labels_) > 0.95
    assert all(
        abs(a - b) <= 1 for a, b in zip(sorted(found.strata_.dims), planted.dims, strict=True)
    )


def test_one_more_piece_takes_the_outliers():
    planted = strata(2000, (2, 5), 30, noise=0.1, outliers=0.1, seed=2)
    found = LowRankMixture(3, n_restarts=4).fit(planted.points)
    assert adjusted_rand_score(planted.labels, found.labels_) > 0.98
    assert sorted(found.strata_.dims) == [0, 2, 5]


def test_pieces_may_differ_in_noise():
    quiet, loud = (
        strata(900, (2,), 8, noise=0.05).points,
        strata(900, (2,), 8, noise=2, seed=1).points,
    )
    found = LowRankMixture(2, ranks=2, n_restarts=4).fit(torch.cat([quiet, loud]))
    noise = found.model_.noise.sqrt().sort().values * math.sqrt(8)
    torch.testing.assert_close(noise, torch.tensor([0.05, 2.0]).double(), rtol=0.1, atol=0)


def test_gates_are_responsibilities_and_reconstruct_with_them():
    x = overlapping()
    found = LowRankMixture(2, ranks=1, n_restarts=2).fit(x)
    joint = -found.model_.deviance(x).numpy() / 2
    expected = np.exp(joint - logsumexp(joint, axis=1, keepdims=True))
    gates = found.gates(x)
    np.testing.assert_allclose(gates, expected, atol=1e-12)
    torch.testing.assert_close(gates, found.strata_.weights)
    rebuilt = sum(
        gates[:, k, None] * piece.reconstruct(piece.project(x))
        for k, piece in enumerate(found.strata_.pieces)
    )
    torch.testing.assert_close(found.reconstruct(x), rebuilt)


def test_float32_agrees_with_float64_and_scale_only_shifts_the_likelihood():
    single, double = overlapping(dtype=torch.float32), overlapping(dtype=torch.float32).double()
    a, b = (LowRankMixture(2, ranks=1, n_restarts=2).fit(x) for x in (single, double))
    assert a.log_likelihood(single) == pytest.approx(b.log_likelihood(double), abs=1e-4)
    big = LowRankMixture(2, ranks=1, n_restarts=2).fit(1000 * double)
    expected = b.log_likelihood(double) - 4 * math.log(1000)
    assert big.log_likelihood(1000 * double) == pytest.approx(expected, abs=1e-6)


def test_it_streams_from_a_file(tmp_path):
    x = strata(20_000, (2, 4), 10, noise=0.1, dtype=torch.float32).points
    np.save(tmp_path / "x.npy", x.numpy())
    options = {"n_restarts": 2, "sample": 500, "max_iter": 20}
    whole = LowRankMixture(2, **options).fit(x)
    streamed = LowRankMixture(2, **options, memory="8MB").fit(tmp_path / "x.npy")
    torch.testing.assert_close(whole.trace_, streamed.trace_, rtol=1e-6, atol=1e-6)


def test_near_equal_points_do_not_break_it():
    g = torch.Generator().manual_seed(0)
    x = torch.cat([torch.randn(200, 5, generator=g), torch.zeros(20, 5), torch.ones(20, 5)])
    found = LowRankMixture(3, n_restarts=3, max_iter=50).fit(x)
    assert math.isfinite(found.log_likelihood(x))
    assert found.predict(torch.zeros(1, 5)) != found.predict(torch.ones(1, 5))
    with pytest.raises(InputError, match="not fitted"):
        LowRankMixture(2).log_likelihood(x)
