import numpy as np
import pytest
import scipy.sparse as sp
import torch

from lowdim.errors import InputError
from lowdim.structure import doubly_stochastic
from lowdim.structure.sinkhorn import sparse_doubly_stochastic


def logits(n=30, scale=5.0):
    x = torch.randn(n, 4, generator=torch.Generator().manual_seed(0)).double()
    return scale * torch.nn.functional.normalize(x) @ torch.nn.functional.normalize(x).T


def test_rows_and_columns_sum_to_one():
    for scale in (0.1, 5.0, 50.0):
        p = doubly_stochastic(logits(scale=scale))
        assert torch.allclose(p, p.T, atol=1e-15)
        assert float((p.sum(0) - 1).abs().max()) <= 1e-6
        assert float((p.sum(1) - 1).abs().max()) <= 1e-6


def test_it_is_the_matrix_of_largest_similarity_and_entropy():
    def value(p):
        return float((p * logits()).sum() + torch.special.entr(p).sum())

    p = doubly_stochastic(logits(), tolerance=1e-12)
    g = torch.Generator().manual_seed(1)
    for _ in range(20):  # along any direction that keeps the sums it is lower
        d = torch.randn(30, 30, generator=g).double()
        d = d - d.mean(0) - d.mean(1, keepdim=True) + d.mean()
        step = 0.1 * float(p.min()) / float(d.abs().max())
        assert max(value(p + step * d), value(p - step * d)) < value(p)


def test_the_gradient_is_right():
    small = logits(6, 2.0).requires_grad_()
    weight = torch.randn(6, 6, generator=torch.Generator().manual_seed(1)).double()

    def total(x):
        return (doubly_stochastic((x + x.T) / 2, tolerance=1e-12) * weight).sum()

    assert torch.autograd.gradcheck(total, (small,), atol=1e-6)


def test_sparse_is_dense_on_a_full_graph_and_keeps_its_places():
    dense = logits().exp().numpy()
    full = sparse_doubly_stochastic(sp.csr_array(dense), tolerance=1e-12).toarray()
    assert np.allclose(full, doubly_stochastic(logits(), tolerance=1e-12), atol=1e-10)
    holes = dense * ((dense > 2) | np.eye(30, dtype=bool))
    found = sparse_doubly_stochastic(sp.csr_array(holes)).toarray()
    assert ((found > 0) == (holes > 0)).all()
    assert np.abs(found.sum(1) - 1).max() <= 1e-6


def test_mistakes_are_named():
    with pytest.raises(InputError, match="shape"):
        doubly_stochastic(torch.ones(3, 4))
    with pytest.raises(InputError, match="loop"):
        sparse_doubly_stochastic(sp.csr_array(1 - np.eye(3)))
