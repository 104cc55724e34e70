"""Multiplicative updates: exact relations are found, the error falls, one diagonal slice is NMF."""

import itertools

import pytest
import torch

from lowdim.errors import InputError
from lowdim.structure.rescal import rescal


def relations(n=20, k=3, t=3, seed=0):
    g = torch.Generator().manual_seed(seed)
    a = 0.02 * torch.rand(n, k, generator=g).double()
    a[torch.arange(n), torch.arange(n) % k] += 0.5 + torch.rand(n, generator=g).double()
    return a, torch.rand(t, k, k, generator=g).double()


def test_exact_relations_are_found():
    a, r = relations()
    found = rescal(a @ r @ a.T, 3, max_iter=2000)
    assert found.error < 5e-3
    assert torch.allclose(found.communities.norm(dim=0), torch.ones(3).double())
    cosine = (a / a.norm(dim=0)).T @ found.communities
    assert float(cosine.amax(0).min()) > 0.999
    rebuilt = found.communities @ found.relations @ found.communities.T
    x = a @ r @ a.T
    assert float((x - rebuilt).norm() / x.norm()) == pytest.approx(found.error)
    assert bool((found.communities >= 0).all() and (found.relations >= 0).all())


@pytest.mark.parametrize("seed", range(4))
def test_error_falls_with_every_iteration(seed):
    x = torch.rand(2, 8, 8, generator=torch.Generator().manual_seed(seed)).double()
    errors = [rescal(x, 3, max_iter=i, tol=0.0, random_state=seed).error for i in range(1, 25)]
    assert all(b <= a + 1e-9 for a, b in itertools.pairwise(errors))


def test_one_symmetric_slice_is_symmetric_nmf():
    """Orthogonal communities: scikit-learn's NMF of A D A^T has the same columns."""
    from sklearn.decomposition import NMF

    a, _ = relations()
    x = a @ torch.diag(torch.tensor([3.0, 2.0, 1.0]).double()) @ a.T
    ours = rescal(x, 3, max_iter=3000)
    w = torch.from_numpy(NMF(3, init="nndsvda", max_iter=3000, tol=1e-8).fit_transform(x.numpy()))
    cosine = (w / w.norm(dim=0)).T @ ours.communities
    assert float(cosine.amax(0).min()) > 0.99
    assert ours.relations.shape == (1, 3, 3)


def test_bad_input():
    x = torch.rand(2, 5, 5)
    for call, says in (
        (lambda: rescal(x[:, :4], 2), "shape"),
        (lambda: rescal(-x, 2), "at least zero"),
        (lambda: rescal(x * 0, 2), "not all zero"),
        (lambda: rescal(x, 6), "rank=6"),
        (lambda: rescal(x * float("inf"), 2), "row"),
    ):
        with pytest.raises(InputError, match=says):
            call()
