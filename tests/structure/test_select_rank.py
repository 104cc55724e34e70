"""Planted ranks come back, and stability collapses one beyond."""

import numpy as np
import pytest
import torch
from sklearn.decomposition import NMF, PCA
from sklearn.metrics import silhouette_samples

from lowdim.core.points import unit_rows
from lowdim.errors import InputError
from lowdim.structure.rescal import rescal
from lowdim.structure.select_rank import select_rank, silhouettes


def nmf(x, rank, seed):
    return NMF(rank, init="random", random_state=seed, max_iter=600).fit(x).components_


def communities(x, rank, seed):
    found = rescal(x, rank, random_state=seed, max_iter=400, tol=1e-6)
    return found.communities, found.error


def planted(rank, seed, noise=0.02):
    rng = np.random.default_rng(seed)
    factors = rng.gamma(0.5, size=(rank, 25))
    x = rng.gamma(0.5, size=(80, rank)) @ factors
    return x * (1 + noise * rng.uniform(-1, 1, x.shape)), factors


@pytest.mark.filterwarnings("ignore:Maximum number of iterations")
def test_planted_rank_of_nmf_is_exact_in_most_seeds():
    hits = 0
    for seed, rank in enumerate((3, 4, 5, 6)):
        x, factors = planted(rank, seed)
        found = select_rank(x, (rank - 1, rank, rank + 1), nmf, n_perturb=6)
        hits += found.rank == rank
        if found.rank == rank:
            true, beyond = found.fits[1:]
            assert beyond.stability < true.stability - 0.4
            assert true.error < 0.03
            assert abs(beyond.error - true.error) < 0.01
            cosine = unit_rows(torch.from_numpy(factors)) @ found.factors.T
            assert float(cosine.amax(1).min()) > 0.99
    assert hits >= 3


def test_planted_rank_of_relations_and_collapse_beyond():
    g = torch.Generator().manual_seed(2)
    own = torch.arange(24) % 3
    a = 0.05 * torch.rand(24, 3, generator=g).double()
    a[torch.arange(24), own] += 0.5 + torch.rand(24, generator=g).double()
    x = a @ torch.rand(4, 3, 3, generator=g).double().square() @ a.T
    found = select_rank(x, (2, 3, 4), communities, n_perturb=4)
    assert found.rank == 3
    assert found.fits[1].stability > 0.95
    assert found.fits[2].stability < 0.5
    cosine = (a / a.norm(dim=0)).T @ found.factors.T
    assert float(cosine.amax(1).min()) > 0.99


def test_factors_may_come_as_columns_in_any_order_and_sign():
    truth = torch.linalg.qr(torch.randn(9, 3, generator=torch.Generator().manual_seed(0)))[0].T
    x = torch.randn(40, 3, generator=torch.Generator().manual_seed(1)) @ truth

    def shuffled(x, rank, seed):
        g = torch.Generator().manual_seed(seed)
        sign = torch.randint(0, 2, (rank, 1), generator=g) * 2 - 1
        return (sign * truth[torch.randperm(3, generator=g)][:rank]).T  # (d, rank)

    found = select_rank(x, [3], shuffled)
    assert found.fits[0].silhouettes.tolist() == pytest.approx([1, 1, 1])
    assert found.fits[0].error < 0.03
    assert torch.allclose((found.factors @ truth.double().T).abs().amax(1), torch.ones(3).double())


def test_silhouettes_are_scikit_learns():
    runs = unit_rows(torch.randn(20, 6, generator=torch.Generator().manual_seed(0)).double())
    clusters = runs.view(5, 4, 6)
    distance = (1 - (runs @ runs.T).abs()).clamp_min(0).fill_diagonal_(0).numpy()
    expected = silhouette_samples(distance, np.arange(20) % 4, metric="precomputed")
    assert silhouettes(clusters).tolist() == pytest.approx(expected.reshape(5, 4).mean(0).tolist())
    one = silhouettes(runs[:5].view(5, 1, 6))
    among = (runs[:5] @ runs[:5].T).abs().sum() - 5
    assert float(one) == pytest.approx(float(among) / 20)


def test_principal_components_are_stable_beyond_their_rank_where_the_spectrum_has_gaps():
    """What the notes warn of: nothing in the factoriser can vary."""
    x = np.random.default_rng(0).normal(size=(200, 6)) * [9, 7, 5, 3, 2, 1]
    found = select_rank(x, (2, 6), lambda x, k, seed: PCA(k).fit(x).components_, noise=0.0)
    assert found.rank == 6
    assert found.fits[1].error < 1e-6


def test_the_data_are_shaken_as_said_and_left_as_they_were():
    x, seen = torch.rand(30, 4, generator=torch.Generator().manual_seed(0)), []
    before = x.clone()

    def spy(copy, rank, seed):
        seen.append((seed, copy))
        return copy[:rank]

    select_rank(x, [1, 2], spy, n_perturb=3, noise=0.1, random_state=5)
    assert torch.equal(x, before)
    assert [seed for seed, _ in seen] == [5, 5, 6, 6, 7, 7]
    assert all(isinstance(copy, torch.Tensor) and copy.dtype == x.dtype for _, copy in seen)
    ratio = torch.stack([copy / x for _, copy in seen])
    assert float((ratio - 1).abs().max()) <= 0.1 + 1e-6
    assert float((ratio - 1).abs().max()) > 0.09
    assert torch.equal(ratio[0], ratio[1])
    assert not torch.equal(ratio[0], ratio[2])


def test_nothing_stable_is_said():
    x = torch.rand(30, 8, generator=torch.Generator().manual_seed(0))

    def noise(x, rank, seed):
        return torch.randn(rank, 8, generator=torch.Generator().manual_seed(seed))

    found = select_rank(x, [2, 3], noise)
    assert found.rank is None
    with pytest.raises(InputError, match="no rank is stable"):
        _ = found.factors


def test_bad_input():
    x = torch.rand(10, 4)
    for call, says in (
        (lambda: select_rank(x * float("nan"), [1], nmf), "row 0"),
        (lambda: select_rank(x * 0, [1], nmf), "nothing to factor"),
        (lambda: select_rank(x, [], nmf), "ranks from 1"),
        (lambda: select_rank(x, [1], nmf, n_perturb=1), "two fits"),
        (lambda: select_rank(x, [2], lambda x, k, s: x), r"shape \(10, 4\) for rank 2"),
        (lambda: select_rank(x, [2], lambda x, k, s: x[:2] * 0), "all zeros"),
        (lambda: select_rank(x, [2], lambda x, k, s: x[:2, :3]), "return"),
    ):
        with pytest.raises(InputError, match=says):
            call()
