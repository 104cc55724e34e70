import math

import numpy as np
import pytest
import torch
from scipy.stats import multivariate_t

from lowdim.core.strata import Strata
from lowdim.core.subspace import Subspace
from lowdim.datasets import strata
from lowdim.errors import InputError
from lowdim.structure.held_out import (
    _scale,
    _student,
    held_out,
    noise_floor,
    piece_parameters,
    strata_logs,
    strata_nats,
)


def normal(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed)).double()


def two_pieces(n=60, seed=0):
    """A line and a plane in three dimensions, with noise."""
    labels = torch.arange(n) % 2
    x = normal(n, 3, seed=seed) * torch.tensor([[2.0, 0.3, 0.3], [0.2, 1.5, 1.0]])[labels]
    x = x + 3 * labels[:, None]
    return x, Strata.of_labels(x, labels, rank=lambda s: 1 if s.values[0] > 2.5 else 2)


def as_distribution(piece, x):
    """The normal distribution that a piece stands for, from the points on it, written out."""
    centred = x - piece.center
    inside, n, d, r = piece.basis @ piece.basis.T, len(x), piece.dim, piece.rank
    outside = torch.eye(d).double() - inside
    noise = (centred @ outside).square().sum() / ((n - r - 1) * (d - r)) if r < d else 0.0
    covariance = inside @ (centred.T @ centred / (n - 1)) @ inside + noise * outside
    return torch.distributions.MultivariateNormal(piece.center, covariance)


def test_pieces_are_a_mixture_of_normal_distributions():
    x, found = two_pieces()
    new = 2 * normal(40, 3, seed=5) + 1
    logs = torch.stack(
        [
            as_distribution(piece, x[found.labels == k]).log_prob(new) + math.log(0.5)
            for k, piece in enumerate(found.pieces)
        ],
        1,
    )
    assert torch.allclose(strata_logs(found, x, new, floor=1e-9), logs)
    # and once in n + 1 points a round Student's t
    wide = multivariate_t(x.mean(0).numpy(), float((x - x.mean(0)).square().mean()) * np.eye(3), 3)
    density = (60 * logs.exp().sum(1) + torch.from_numpy(wide.pdf(new.numpy()))) / 61
    assert torch.allclose(strata_nats(found, x, new, floor=1e-9), -density.log())


def test_a_basis_that_is_not_principal_gives_the_same_density():
    x, found = two_pieces()
    turn = torch.linalg.qr(normal(2, 2, seed=1)).Q
    turned = Strata(
        tuple(
            Subspace(p.basis @ turn, p.center) if p.rank == 2 else Subspace(-p.basis, p.center)
            for p in found.pieces
        ),
        found.weights,
    )
    ours, theirs = (strata_nats(s, x, x, floor=1e-9) for s in (found, turned))
    assert torch.allclose(ours, theirs)


def test_a_piece_without_points_has_no_density():
    x, found = two_pieces()
    empty = Subspace(torch.zeros(3, 0).double(), torch.zeros(3).double())
    more = Strata((*found.pieces, empty), torch.cat([found.weights, torch.zeros(60, 1)], 1))
    logs = strata_logs(more, x, x, floor=1e-9)
    assert bool((logs[:, 2] == -math.inf).all())
    assert torch.equal(logs[:, :2], strata_logs(found, x, x, floor=1e-9))
    assert bool(torch.isfinite(strata_nats(more, x, x, floor=1e-9)).all())
    assert piece_parameters(more) == piece_parameters(found)


def test_every_code_is_one_that_can_be_read_back():
    """Densities integrate to one; the two-part code of the dictionary to no more than one."""
    x = normal(40, 2) @ torch.tensor([[1.0, 0.4], [0.0, 0.5]]).double()
    found = Strata.of_labels(x, (x[:, 0] > 0).long(), rank=1)
    axis = torch.linspace(-40, 40, 401).double()
    grid = torch.cartesian_prod(axis, axis)
    for name, code in held_out(found, x, grid).codes.items():
        mass = float((-code.nats).exp().sum()) * 0.2**2
        if name == "one dictionary":
            assert 0.05 < mass <= 1.001
        else:
            assert mass == pytest.approx(1, abs=5e-3), name


def test_student_is_that_of_scipy():
    shape = torch.tensor([2.0, 0.5, 1.0]).double()
    x = normal(30, 3, seed=3)
    lengths = (x.square() / shape).sum(1)
    ours = _student(lengths, 3, 4.0, 1.7) + shape.log().sum() / 2
    theirs = -multivariate_t(shape=(1.7 * shape).diag().numpy(), df=4).logpdf(x.numpy())
    assert torch.allclose(ours, torch.from_numpy(theirs))
    best = _scale(lengths, 3, 4.0)
    means = [float(_student(lengths, 3, 4.0, best * f).mean()) for f in (0.99, 1, 1.01)]
    assert means[1] < min(means[0], means[2])


def test_unit_and_rotation_change_no_gain():
    x, found = two_pieces(200)
    test = two_pieces(100, seed=9)[0]
    turn = torch.linalg.qr(normal(3, 3, seed=2)).Q
    moved = Strata(
        tuple(Subspace(turn @ p.basis, 5 * p.center @ turn.T) for p in found.pieces),
        found.weights,
    )
    ours, theirs = held_out(found, x, test), held_out(moved, 5 * x @ turn.T, 5 * test @ turn.T)
    for name in ours.codes:
        longer = theirs.codes[name].nats - ours.codes[name].nats
        assert torch.allclose(longer, torch.full((100,), 3 * math.log(5)).double())


def test_parameter_counts_are_as_near_as_ranks_allow():
    planted = strata(600, (2, 3), 40, noise=0.1, separation=2, seed=1)
    found = Strata.of_labels(planted.points, planted.labels, rank=lambda s: 3)
    codes = held_out(found, planted.points, planted.points).codes
    count = codes["pieces"].parameters
    assert count == 2 * (40 + 3 * 40 - 3 + 1) + 1
    assert 0 <= count - codes["one subspace"].parameters <= 40
    assert 0 <= count - codes["one dictionary"].parameters <= 40


def test_one_point_off_a_constant_column_does_not_outweigh_the_others():
    x = torch.cat([normal(200, 3), torch.zeros(200, 1)], 1)
    test = x.clone()
    test[7, 3] = 50.0
    found = Strata.of_labels(x, (x[:, 0] > 0).long(), rank=3)
    for code in held_out(found, x, test).codes.values():
        assert 0 < float(code.nats[7] - code.nats.median()) < 60


@pytest.mark.parametrize("separation", [0.0, 2.0])
def test_pieces_win_where_there_are_pieces(separation):
    planted = strata(800, (1, 4, 8), 20, noise=0.1, separation=separation, seed=3)
    x, labels = planted.points, planted.labels
    dims = torch.tensor(planted.dims)
    found = Strata.of_labels(x[:400], labels[:400], rank=8)
    assert found.dims == (8, 8, 8)
    found = Strata(
        tuple(
            Subspace(p.basis[:, :r], p.center)
            for p, r in zip(found.pieces, dims.tolist(), strict=True)
        ),
        found.weights,
    )
    codes = held_out(found, x[:400], x[400:])
    for name in codes.codes:
        gain, error = codes.gain(name)
        assert name == "pieces" or gain > 5 * error


def test_pieces_lose_on_one_normal_distribution():
    x = normal(600, 12) * torch.arange(1, 13).double() ** -0.7
    found = Strata.of_labels(x[:300], (x[:300, 0] > 0).long(), rank=5)
    gain, error = held_out(found, x[:300], x[300:]).gain("one Gaussian")
    assert gain < -3 * error


def test_mistakes_are_named():
    x, found = two_pieces()
    with pytest.raises(InputError, match="rows are the same"):
        noise_floor(torch.ones(9, 2))
    with pytest.raises(InputError, match="resolution"):
        held_out(found, x, x, resolution=0.0)
    with pytest.raises(InputError, match="60 rows of weights for 59"):
        held_out(found, x[:59], x)
    with pytest.raises(InputError, match="2 columns"):
        held_out(found, x, x[:, :2])
