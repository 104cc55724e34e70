import warnings

import numpy as np
import pytest
import torch
from sklearn.linear_model import ElasticNet

from lowdim.datasets import strata
from lowdim.errors import InputError
from lowdim.structure import ElasticNetSubspace
from lowdim.structure.elastic_net import elastic_net_codes, restricted
from tests.structure.sample import dense, unit


@pytest.mark.parametrize(("l1", "alpha"), [(0.9, 20.0), (0.5, 5.0), (0.99, 3.0)])
@pytest.mark.parametrize("start", [4, 64])
def test_agrees_with_scikit_learn(l1, alpha, start):
    x = unit(120)
    n, d = x.shape
    codes = elastic_net_codes(
        x, torch.arange(8), l1=l1, alpha=alpha, tolerance=1e-4, start=start, width=5
    )
    found = dense(codes, n)
    for j in range(8):
        others = np.delete(np.arange(n), j)
        atoms = x[others].numpy()
        gamma = alpha * l1 / np.abs(atoms @ x[j].numpy()).max()
        net = ElasticNet(
            alpha=1 / (gamma * d), l1_ratio=l1, fit_intercept=False, tol=1e-12, max_iter=10**5
        )
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            net.fit(atoms.T, x[j].numpy())
        assert np.allclose(found[j, others], net.coef_, atol=1e-4)
        assert found[j, j] == 0


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_optimality_holds_for_every_pair(dtype):
    x = unit(300, seed=1).to(dtype)
    l1, alpha, tolerance = 0.9, 30.0, 1e-3
    codes = elastic_net_codes(
        x, torch.arange(300), l1=l1, alpha=alpha, tolerance=tolerance, start=8, width=8
    )
    c, x = dense(codes, 300), x.double()
    cosine = (x @ x.T).fill_diagonal_(0)
    gamma = alpha * l1 / cosine.abs().amax(1, keepdim=True)
    products = gamma * (x - c @ x) @ x.T  # <x_i, delta_j>
    wanted = products.sign() * (products.abs() - l1).clamp_min(0)
    off = (wanted - (1 - l1) * c).fill_diagonal_(0).abs().amax(1) / l1
    assert float(off.max()) <= 1.1 * tolerance
    assert torch.allclose(off, codes["violation"].double(), atol=2e-4)
    assert (codes["rounds"] >= 2).all()


def test_the_first_active_set_changes_nothing():
    x = unit(200, seed=2)
    options = {"l1": 0.8, "alpha": 10.0, "tolerance": 1e-4}
    a, b = (
        dense(elastic_net_codes(x, torch.arange(50), start=s, width=w, **options), 200)
        for s, w in ((1, 1), (199, 64))
    )
    assert torch.allclose(a, b, atol=1e-4)


def test_small_problems_are_solved_from_any_start():
    g = torch.Generator().manual_seed(0)
    atoms = torch.nn.functional.normalize(torch.randn(6, 20, 8, generator=g).double(), dim=2)
    target = torch.nn.functional.normalize(torch.randn(6, 8, generator=g).double())
    gram, cosine = atoms @ atoms.mT, (atoms @ target[:, :, None])[:, :, 0]
    gamma = torch.full((6, 1), 40.0).double()
    cold, off = restricted(gram, cosine, torch.zeros(6, 20).double(), gamma, 0.9)
    warm, _ = restricted(gram, cosine, torch.randn(6, 20, generator=g).double(), gamma, 0.9)
    assert float(off.max()) < 1e-10
    assert torch.allclose(cold, warm, atol=1e-10)


def test_the_finder_reports_its_proof():
    x = strata(200, dims=(2, 4), noise=0.1, seed=3).points
    found = ElasticNetSubspace(2, alpha=10.0).fit(x)
    assert 0 <= found.violation_ <= 1e-3
    assert 2 <= found.rounds_ <= 6
    for change in ({"l1": 1.0}, {"alpha": 0.5}, {"tolerance": 0.0}, {"start": 0}):
        with pytest.raises(InputError, match=next(iter(change))):
            ElasticNetSubspace(2, **change).fit(x)


def test_a_point_orthogonal_to_all_others_has_no_code():
    x = torch.zeros(41, 6)
    x[:40, :3] = torch.randn(40, 3, generator=torch.Generator().manual_seed(0))
    x[40, 5] = 1
    found = ElasticNetSubspace(1, alpha=5.0).fit(x)
    assert found.coefficients_[[40]].nnz == 0
    assert found.n_aside_ == 1
