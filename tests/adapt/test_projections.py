import itertools
import math

import pytest
import scipy.linalg
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from lowdim.adapt.projections import (
    PROJECTIONS,
    DenseProjection,
    FastfoodProjection,
    HashedProjection,
    SparseProjection,
    walsh_hadamard,
)
from lowdim.errors import InputError, MemoryBudgetError

KINDS = pytest.mark.parametrize("kind", list(PROJECTIONS))


def matrix(projection):
    """(rows, dim) column by column, in float64."""
    return torch.stack([projection(e) for e in torch.eye(projection.dim).double()], 1)


@pytest.mark.parametrize("length", [1, 2, 16, 64, 2048])
def test_walsh_hadamard_is_the_matrix(length):
    x = torch.randn(3, length, dtype=torch.float64)
    h = torch.from_numpy(scipy.linalg.hadamard(length)).double()
    torch.testing.assert_close(walsh_hadamard(x), x @ h)


@KINDS
def test_products_are_those_of_the_matrix_and_its_transpose(kind):
    projection = PROJECTIONS[kind](517, 37, seed=3)
    p = matrix(projection)
    z, g = torch.randn(37).double(), torch.randn(517).double()
    assert p.shape == (517, 37)
    torch.testing.assert_close(projection(z), p @ z)
    torch.testing.assert_close(projection.transpose(g), g @ p)
    torch.testing.assert_close(projection(z.float()), (p @ z).float(), rtol=1e-5, atol=1e-6)


@KINDS
def test_gradient_is_the_transpose(kind):
    projection = PROJECTIONS[kind](100, 12, seed=0)
    z = torch.randn(12, requires_grad=True)
    target = torch.randn(100)
    theta = projection(z)
    (theta - target).square().sum().backward()
    expected = matrix(projection).T @ (2 * (theta - target).detach()).double()
    torch.testing.assert_close(z.grad, expected.float(), rtol=1e-6, atol=1e-6)
    z = torch.randn(12, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(projection, z)
    assert torch.autograd.gradgradcheck(projection, z)


@KINDS
def test_lengths_are_kept_on_average(kind):
    z = torch.randn(40, dtype=torch.float64)
    lengths = [PROJECTIONS[kind](1000, 40, seed=s)(z).square().sum() for s in range(100)]
    ratio = torch.stack(lengths) / z.square().sum()
    assert abs(float(ratio.mean()) - 1) < 4 * float(ratio.std()) / 10 + 1e-12


def test_columns_have_length_one():
    for projection in (
        SparseProjection(1000, 40, seed=1),
        HashedProjection(1000, 40, seed=1),
        FastfoodProjection(1024, 40, seed=1),  # whole blocks of 64
    ):
        lengths = matrix(projection).square().sum(0)
        torch.testing.assert_close(lengths, torch.ones_like(lengths), rtol=1e-6, atol=0)
    lengths = matrix(DenseProjection(10_000, 40, seed=1)).square().sum(0)
    assert float((lengths - 1).abs().max()) < 5 * math.sqrt(2 / 10_000)


@pytest.mark.parametrize("n_blocks", [1, 8])
def test_fastfood_columns_are_nearly_orthogonal(n_blocks):
    dim = 256
    p = matrix(FastfoodProjection(n_blocks * dim, dim, seed=0))
    gram = p.T @ p - torch.eye(dim).double()
    expected = math.sqrt(2 / (n_blocks * dim))  # sqrt(2 / D): O(1 / sqrt(d))
    assert 0.7 * expected < float(gram.square().sum().div(dim * (dim - 1)).sqrt()) < 1.3 * expected
    assert float(gram.abs().max()) < 6 * expected


def test_fastfood_entries_are_nearly_normal():
    p = matrix(FastfoodProjection(2048, 64, seed=5)) * math.sqrt(2048)
    assert abs(float(p.mean())) < 0.02
    assert float((p**4).mean()) == pytest.approx(3, abs=0.25)


def test_hashed_columns_are_orthogonal_and_balanced():
    projection = HashedProjection(1003, 50, seed=2)
    p = matrix(projection)
    torch.testing.assert_close(p.T @ p, torch.eye(50).double(), rtol=0, atol=1e-6)
    load = projection.columns().bincount(minlength=50)
    assert int(load.max() - load.min()) <= 1
    assert torch.equal(load, projection.load)
    assert torch.equal(p.abs().argmax(1), projection.columns())
    square = matrix(HashedProjection(60, 60, seed=0))
    torch.testing.assert_close(square @ square.T, torch.eye(60).double())


def test_sparse_density_is_one_over_root_of_the_rows():
    p = matrix(SparseProjection(10_000, 30, seed=0))
    assert (p != 0).sum(0).tolist() == [100] * 30
    torch.testing.assert_close(p[p != 0].abs(), torch.full((3000,), 0.1).double())
    assert abs(float(p.sign().sum())) < 4 * math.sqrt(3000)


PINNED = {
    "dense": (0.083811, -0.087781, 0.009339),
    "sparse": (0.0, 0.072154, 0.0),
    "fastfood": (-0.081955, -0.023347, -0.037990),
    "hashed": (0.205353, 0.013690, 0.168846),
}
"""Rows 0, 499 and 999 of P z: files hold z alone, so a map may never change."""


@KINDS
def test_maps_are_those_that_files_were_written_with(kind):
    theta = PROJECTIONS[kind](1000, 50, seed=1, stream=2)(torch.linspace(-1, 1, 50))
    assert theta[[0, 499, 999]].tolist() == pytest.approx(PINNED[kind], abs=2e-6)


@KINDS
def test_rows_are_the_same_however_they_are_cut(kind):
    make = PROJECTIONS[kind]
    z = torch.randn(20, dtype=torch.float64)
    whole = make(300, 20, seed=7, stream=4)(z)
    cuts = [0, 1, 70, 71, 290, 300]
    parts = [
        make(300, 20, seed=7, stream=4, first=a, rows=b - a) for a, b in itertools.pairwise(cuts)
    ]
    torch.testing.assert_close(torch.cat([p(z) for p in parts]), whole)
    g = torch.randn(300, dtype=torch.float64)
    summed = sum(p.transpose(g[p.first : p.first + p.rows]) for p in parts)
    torch.testing.assert_close(summed, make(300, 20, seed=7, stream=4).transpose(g))
    assert not torch.equal(make(300, 20, seed=8, stream=4)(z), whole)
    assert not torch.equal(make(300, 20, seed=7, stream=5)(z), whole)


def test_fastfood_does_not_depend_on_how_many_blocks_it_works_on_at_once(monkeypatch):
    projection = FastfoodProjection(1000, 20, seed=0)
    z, g = torch.randn(20).double(), torch.randn(1000).double()
    forward, back = projection(z), projection.transpose(g)
    monkeypatch.setattr("lowdim.adapt.projections.IN_CACHE", 100)
    assert torch.equal(projection(z), forward)
    torch.testing.assert_close(projection.transpose(g), back)


@KINDS
def test_half_precision_works_in_float32(kind):
    projection = PROJECTIONS[kind](2**14, 300, seed=0)
    z = torch.randn(300)
    whole = projection(z)
    halved = projection.half()(z.half())
    assert halved.dtype == torch.float16
    assert float((halved.float() - whole).norm() / whole.norm()) < 2e-3
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert projection.float()(z).dtype == torch.float32


def test_dense_rows_that_are_remade_are_those_that_are_kept(monkeypatch):
    monkeypatch.setattr("lowdim.adapt.projections.BLOCK", 80)
    kept, remade = (DenseProjection(100, 8, seed=0, memory=m) for m in ("1MB", 400))
    assert kept.matrix is not None
    assert remade.matrix is None
    z, g = torch.randn(8), torch.randn(100)
    torch.testing.assert_close(kept(z), remade(z))
    torch.testing.assert_close(kept.transpose(g), remade.transpose(g))
    with pytest.raises(MemoryBudgetError, match="dense projection"):
        DenseProjection(100, 8, seed=0, memory=16)


class Largest(TorchDispatchMode):
    """Bytes of the largest tensor that an operation returns."""

    size = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        out = func(*args, **(kwargs or {}))
        for x in out if isinstance(out, (tuple, list)) else (out,):
            if isinstance(x, torch.Tensor):
                self.size = max(self.size, x.untyped_storage().nbytes())
        return out


@KINDS
def test_a_step_allocates_nothing_like_the_matrix(kind):
    rows, dim = 20_000, 250
    projection = PROJECTIONS[kind](rows, dim, seed=0, memory="1MB")  # dense: remade
    assert projection.state_dict() == {}
    held = sum(b.numel() * b.element_size() for b in projection.buffers() if b is not None)
    assert held < 4 * rows * dim / 15
    z = torch.zeros(dim, requires_grad=True)
    with Largest() as largest:
        projection(z).square().sum().backward()
    limit = {"dense": 2 * 2**20, "sparse": 8 * 141 * dim}.get(kind, 8 * (rows + dim))
    assert 4 * rows <= largest.size <= limit


@KINDS
def test_known_intrinsic_dimension_of_ten_groups(kind):
    """1000 parameters in ten groups whose sums are to be 1 ... 10: ten directions, no fewer."""
    groups = torch.arange(10).double().repeat_interleave(100)
    sums = (groups == torch.arange(10)[:, None]).double()  # (10, 1000)
    wanted = torch.arange(1, 11).double()
    for dim, solvable in ((9, False), (10, True), (11, True)):
        a = sums @ matrix(PROJECTIONS[kind](1000, dim, seed=0))
        z = torch.linalg.lstsq(a, wanted, driver="gelsd").solution
        left = float((a @ z - wanted).square().sum())
        assert (left < 1e-16) == solvable, (dim, left)
        assert solvable or left > 1e-2


def test_bad_sizes_are_named():
    with pytest.raises(InputError, match="dim=11: at most 10"):
        FastfoodProjection(10, 11, seed=0)
    with pytest.raises(InputError, match="dim=0"):
        FastfoodProjection(10, 0, seed=0)
    with pytest.raises(InputError, match="10 rows"):
        FastfoodProjection(10, 4, seed=0, first=8, rows=3)
