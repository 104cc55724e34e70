import numpy as np
import pytest
import torch
from sklearn.linear_model import orthogonal_mp

from lowdim.errors import InputError
from lowdim.structure import SparseSubspaceOMP
from lowdim.structure.ssc_omp import self_codes
from tests.structure.sample import dense, unit


@pytest.mark.parametrize("sparsity", [1, 4, 9])
def test_agrees_with_scikit_learn(sparsity):
    x = unit(80)
    codes = dense(self_codes(x, torch.arange(10), sparsity, 0.0), len(x))
    for j in range(10):
        others = np.delete(np.arange(len(x)), j)
        expected = orthogonal_mp(x[others].numpy().T, x[j].numpy(), n_nonzero_coefs=sparsity)
        assert np.allclose(codes[j, others], expected, atol=1e-10)
        assert codes[j, j] == 0


def test_what_is_left_is_orthogonal_to_the_atoms():
    x = unit(80, seed=1)
    codes = self_codes(x, torch.arange(len(x)), 6, 0.0)
    left = x - dense(codes, len(x)) @ x
    products = torch.einsum("bsd,bd->bs", x[codes["index"]], left)
    assert float(products.abs().max()) < 1e-12
    shorter = self_codes(x, torch.arange(len(x)), 3, 0.0)
    assert torch.equal(shorter["index"], codes["index"][:, :3])  # greedy: one after the other


def test_a_point_of_a_small_subspace_needs_no_more_atoms_than_its_dimension():
    x = unit(80, dims=(2, 3), noise=0.0)
    used = (self_codes(x, torch.arange(len(x)), 8, 1e-10)["values"] != 0).sum(1)
    assert int(used.max()) == 3
    assert int(used.min()) == 2


def test_float32_takes_the_same_points():
    x = unit(80, seed=2)
    rows = torch.arange(len(x))
    double, single = (self_codes(v, rows, 5, 1e-5) for v in (x, x.float()))
    assert (double["index"] == single["index"]).double().mean() > 0.99


def test_more_atoms_than_points_or_none():
    x = torch.eye(4)[:3]
    found = SparseSubspaceOMP(1, sparsity=10).fit(torch.cat([x, x.flip(1)[:2] + x[:2]]))
    assert found.coefficients_.shape == (5, 5)
    for change in ({"sparsity": 0}, {"tolerance": -1.0}):
        with pytest.raises(InputError, match="sparsity"):
            SparseSubspaceOMP(1, **change).fit(torch.eye(3))
    with pytest.raises(InputError, match="no edge"):  # orthogonal points say nothing of each other
        SparseSubspaceOMP(1).fit(torch.eye(3))
