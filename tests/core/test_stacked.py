import pytest
import torch

from lowdim.core.stacked import ROUNDING, Stacked
from lowdim.core.strata import Strata
from lowdim.core.subspace import Subspace
from lowdim.errors import InputError


def some_pieces(dim, ranks, *, far=1.0, dtype=torch.float64):
    g = torch.Generator().manual_seed(0)
    return [
        Subspace(
            torch.linalg.qr(torch.randn(dim, r, generator=g, dtype=dtype)).Q,
            far * torch.randn(dim, generator=g, dtype=dtype),
        )
        for r in ranks
    ]


def points(n, dim, *, seed=1, dtype=torch.float64):
    return torch.randn(n, dim, generator=torch.Generator().manual_seed(seed), dtype=dtype)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("far", [0.0, 1.0, 1e4])
def test_distances_are_those_of_each_piece(dtype, far):
    pieces = some_pieces(20, (0, 1, 7, 20), far=far, dtype=dtype)
    x = torch.cat([points(300, 20, dtype=dtype), pieces[2].center + 1e-3 * points(9, 20).to(dtype)])
    exact = torch.stack([p.residual(x) for p in pieces], 1)
    found = Stacked(pieces).squared_distances(x)
    half = torch.finfo(dtype).eps ** 0.5
    full = torch.tensor([p.rank < 20 for p in pieces])  # to the whole space the distance is zero
    torch.testing.assert_close(found[:, full], exact[:, full], rtol=half, atol=0)
    assert torch.equal(found[:, ~full], exact[:, ~full])


def test_tiny_distances_beside_large_coordinates_are_exact():
    pieces = some_pieces(30, (3, 5))
    z = 1e6 * points(50, 3)
    off = 1e-5 * points(50, 30, seed=2)
    x = z @ pieces[0].basis.T + pieces[0].center + off
    found = Stacked(pieces).squared_distances(x)
    torch.testing.assert_close(found[:, 0], pieces[0].residual(x), rtol=1e-12, atol=0)
    assert bool((found[:, 0] < 1e-8).all())


def test_near_ties_are_decided_by_the_exact_distances():
    first = some_pieces(40, (4,), dtype=torch.float32)[0]
    turned = torch.linalg.qr(first.basis + 1e-5 * points(40, 4, seed=5).float()).Q
    pieces = [first, Subspace(turned, first.center), first]
    x = points(2000, 40).float()
    exact = torch.stack([p.residual(x) for p in pieces], 1)
    stacked = Stacked(pieces)
    assert torch.equal(stacked.nearest(x), exact.argmin(1))
    assert not bool((stacked.nearest(x) == 2).any())  # equal to piece 0, which comes first
    raw = stacked._differences(x)[0]
    assert bool((raw.argmin(1) != exact.argmin(1)).any())  # the product alone gets some wrong


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_the_slack_bounds_what_rounding_does(dtype):
    for dim, rank in ((2, 1), (60, 9), (700, 100)):
        pieces = some_pieces(dim, (rank, rank), dtype=dtype)
        x = points(500, dim).to(dtype)
        squared, _, slack = Stacked(pieces)._differences(x)
        exact = torch.stack([p.residual(x) for p in pieces], 1)
        assert bool(((squared - exact).abs() <= slack).all())
        size = slack / (ROUNDING * torch.finfo(dtype).eps)
        assert bool((exact <= 2 * size * (1 + 1e-5)).all())  # |a - b|^2 <= 2 (|a|^2 + |b|^2)


def test_strata_measure_as_their_pieces_do():
    pieces = some_pieces(12, (1, 3, 5))
    strata = Strata(tuple(pieces), torch.eye(3))
    x = points(3000, 12)
    exact = torch.stack([p.residual(x) for p in pieces], 1)
    torch.testing.assert_close(strata.squared_distances(x), exact)
    assert torch.equal(strata.assign(x), exact.argmin(1))
    assert torch.equal(strata.assign(x.numpy()), strata.assign(x))
    with pytest.raises(InputError, match="11 columns"):
        strata.squared_distances(x[:, :11])


def test_many_points_and_pieces_of_no_dimension():
    centers = points(5, 3)
    pieces = [Subspace(c.new_zeros(3, 0), c) for c in centers]
    x = points(200_000, 3)
    torch.testing.assert_close(
        Stacked(pieces).squared_distances(x),
        torch.cdist(x, centers).square(),
        rtol=1e-7,
        atol=1e-12,
    )
