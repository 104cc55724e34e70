import math

import pytest
import torch
from torch import nn

from lowdim.core.strata import Strata
from lowdim.core.subspace import Subspace
from lowdim.datasets import strata
from lowdim.errors import InputError
from lowdim.structure.denoiser import denoiser_rank, denoiser_spectrum, mixture_denoiser
from lowdim.structure.k_subspaces import KSubspaces
from lowdim.structure.low_rank_gaussians import LowRankGaussians

S, SIGMA = 0.8, 0.05


def planted_pieces(dims=(2, 5, 9), ambient=30):
    planted = strata(600, dims, ambient, seed=3)
    zero = torch.zeros(ambient).double()
    weights = nn.functional.one_hot(planted.labels).double()
    return planted, Strata(tuple(Subspace(b, zero) for b in planted.bases), weights)


def a_mixture(dim=6):
    g = torch.Generator().manual_seed(1)
    pieces = tuple(
        Subspace(
            torch.linalg.qr(torch.randn(dim, r, generator=g).double()).Q,
            torch.randn(dim, generator=g).double(),
            torch.rand(r, generator=g).double() + 0.5,
        )
        for r in (1, 3, 6)
    )
    noise, shares = torch.tensor([0.3, 0.01, 0.2]), torch.tensor([0.5, 0.2, 0.3])
    return LowRankGaussians(pieces, noise.double(), shares.double())


def test_closed_form_is_the_posterior_mean():
    """Tweedie: s E[x_0 | x_t] = x_t + sigma^2 grad log p(x_t), the density written out densely."""
    mixture, s, sigma = a_mixture(), 0.7, 0.4
    normals = []
    for piece, v in zip(mixture.pieces, mixture.noise, strict=True):
        inside = piece.basis @ torch.diag(piece.values) @ piece.basis.T
        dense = inside + v * (torch.eye(6).double() - piece.basis @ piece.basis.T)
        noisy = s * s * dense + sigma**2 * torch.eye(6).double()
        normals.append(torch.distributions.MultivariateNormal(s * piece.center, noisy))
    x = torch.randn(40, 6, generator=torch.Generator().manual_seed(2)).double().requires_grad_()
    joint = torch.stack([p.log_prob(x) for p in normals], 1) + mixture.shares.log()
    (score,) = torch.autograd.grad(joint.logsumexp(1).sum(), x)
    expected = (x + sigma**2 * score) / s
    torch.testing.assert_close(mixture_denoiser(mixture, x, s=s, sigma=sigma), expected)


def test_linear_pieces_give_the_formula_of_the_paper():
    _, pieces = planted_pieces((4, 4), 10)
    x = torch.randn(7, 10, generator=torch.Generator().manual_seed(0)).double()
    projected = torch.stack([x @ p.basis @ p.basis.T for p in pieces.pieces], 1)
    phi = S * S / (2 * SIGMA**2 * (S * S + SIGMA**2))
    w = (phi * projected.square().sum(2)).softmax(1)
    expected = S / (S * S + SIGMA**2) * (w[..., None] * projected).sum(1)
    torch.testing.assert_close(mixture_denoiser(pieces, x, s=S, sigma=SIGMA), expected)


@pytest.mark.parametrize("k", [0, 1, 2])
def test_the_jacobian_near_a_piece_has_its_dimension_and_its_directions(k):
    planted, pieces = planted_pieces()
    g = torch.Generator().manual_seed(k)
    x = S * planted.points[planted.labels == k][:5]
    x = x + SIGMA / 3 * torch.randn(x.shape, generator=g).double()

    def denoise(rows):
        return mixture_denoiser(pieces, rows, s=S, sigma=SIGMA)

    found = denoiser_rank(denoise, x)
    assert found.per_point.tolist() == [planted.dims[k]] * 5
    assert found.width == 30
    spectrum = denoiser_spectrum(denoise, x[:1])
    directions = Subspace.of_vectors(spectrum.vectors[:, : planted.dims[k]])
    assert directions.distance(pieces.pieces[k], kind="projection") < 0.05
    dense = torch.autograd.functional.jacobian(lambda row: denoise(row[None])[0], x[0])
    torch.testing.assert_close(
        spectrum.values, torch.linalg.svdvals(dense).square(), atol=1e-10, rtol=1e-8
    )


def test_fitted_pieces_denoise():
    planted = strata(1500, (2, 5), 20, seed=1)
    model = KSubspaces(2, n_restarts=3).fit(planted.points).model_
    noise = 0.1 * torch.randn(planted.points.shape, generator=torch.Generator().manual_seed(0))
    noisy = planted.points + noise.double()
    left = mixture_denoiser(model, noisy, s=1, sigma=0.1) - planted.points
    expected = 0.01 * sum(planted.dims) / 2  # noise that lies along the piece cannot be told
    assert float(left.square().sum(1).mean()) < 1.2 * expected


def test_a_trained_linear_denoiser_is_the_projector_of_pca():
    x = strata(200, (6,), 24, seed=5).points
    torch.manual_seed(0)
    net = nn.Linear(24, 24, bias=False).double()
    optimizer = torch.optim.LBFGS(net.parameters(), max_iter=200, line_search_fn="strong_wolfe")

    def loss():  # E |net(S x + 0.02 e) - x|^2 over the noise e, exactly
        optimizer.zero_grad()
        value = (net(S * x) - x).square().sum(1).mean() + 0.02**2 * net.weight.square().sum()
        value.backward()
        return value

    optimizer.step(loss)
    assert denoiser_rank(net, x[:3]).value == 6
    pca = Subspace.of_points(x, rank=6, center=False)
    learnt = denoiser_spectrum(net, x[:1]).vectors[:, :6]
    assert Subspace.of_vectors(learnt).distance(pca, kind="projection") < 0.05
    projector = pca.basis @ pca.basis.T
    assert float((S * net.weight.detach() - projector).norm() / projector.norm()) < 0.1


def test_wide_networks_take_as_many_directions_as_hold_the_energy():
    g = torch.Generator().manual_seed(0)
    left = torch.linalg.qr(torch.randn(150, 150, generator=g).double()).Q
    right = torch.linalg.qr(torch.randn(120, 120, generator=g).double()).Q
    s = torch.cat([torch.ones(50), torch.full((70,), 0.01)]).double()  # 50 of 120 hold 99.9%
    jacobian = left[:, :120] @ torch.diag(s) @ right.T
    x = torch.zeros(1, 120).double()
    assert denoiser_rank(lambda rows: rows @ jacobian.T, x).value == 50
    spectrum = denoiser_spectrum(lambda rows: rows @ jacobian.T, x)
    assert len(spectrum.values) == 64
    assert spectrum.total == pytest.approx(float(s.square().sum()), rel=1e-3)


def test_images_constants_and_mistakes():
    flat = nn.Sequential(nn.Flatten(), nn.Linear(12, 12), nn.Unflatten(1, (3, 2, 2)))
    x = torch.randn(2, 3, 2, 2, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        flat[1].weight.copy_(torch.eye(12) * (torch.arange(12) < 5)[:, None])
    assert denoiser_rank(flat, x).per_point.tolist() == [5, 5]
    assert denoiser_rank(lambda rows: rows * 0, x.double()).value == 0
    _, pieces = planted_pieces()
    for call in (
        lambda: mixture_denoiser(pieces, torch.zeros(3, 30).double(), s=0, sigma=1),
        lambda: mixture_denoiser(pieces, torch.zeros(3, 29).double(), s=1, sigma=1),
        lambda: mixture_denoiser(pieces, torch.zeros(3, 30), s=1, sigma=1),
        lambda: denoiser_rank(flat, x, energy=0),
        lambda: denoiser_rank(flat, x * math.nan),
        lambda: denoiser_spectrum(flat, x),
    ):
        with pytest.raises(InputError):
            call()
