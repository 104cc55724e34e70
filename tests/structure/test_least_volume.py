"""Least volume: PCA where linear, the least flat dimension where not, and a bound that holds."""

import math

import numpy as np
import pytest
import torch
from sklearn.base import clone
from sklearn.decomposition import PCA

from lowdim.errors import InputError
from lowdim.registry import find
from lowdim.structure.least_volume import LeastVolumeAE, volume


def sphere(k, n=800, ambient=50, seed=0):
    """The unit (k - 1)-sphere under a random smooth map to many dimensions."""
    g = torch.Generator().manual_seed(seed)
    z = torch.randn(n, k, generator=g)
    z = z / z.norm(dim=1, keepdim=True)
    waves = (z @ torch.randn(k, 16, generator=g) + 6.28 * torch.rand(16, generator=g)).sin() / 4
    return torch.cat([z, waves], 1) @ torch.randn(k + 16, ambient, generator=g) + 3


@pytest.fixture(scope="module")
def circle():
    x = sphere(2)
    return x, LeastVolumeAE(6, epochs=250, learning_rate=5e-3).fit(x)


def rmse(model, x, codes):
    return float((model.inverse_transform(codes) - x).square().sum(1).mean().sqrt())


def unit(x):
    return float((x - x.mean(0)).square().sum(1).mean().sqrt())


def test_a_circle_needs_two_numbers(circle):
    x, model = circle
    assert model.n_needed() == 2
    assert model.scales_[1] > 20 * model.scales_[2]
    assert (model.scales_[:-1] >= model.scales_[1:]).all()
    assert rmse(model, x, model.transform(x)) < 0.1 * unit(x)


def test_a_sphere_needs_three():
    x = sphere(3)
    model = LeastVolumeAE(6, epochs=250, learning_rate=5e-3).fit(x)
    assert model.n_needed() == 3
    assert model.scales_[2] > 20 * model.scales_[3]
    assert rmse(model, x, model.transform(x)[:, :3]) < 0.15 * unit(x)


def test_the_decoder_is_a_contraction(circle):
    _, model = circle
    for layer in model.decoder_[::2]:
        assert float(torch.linalg.matrix_norm(layer.weight.detach().double(), 2)) <= 1
    g = torch.Generator().manual_seed(1)
    a, b = 5 * torch.randn(2, 2_000, 6, generator=g)
    with torch.no_grad():
        moved = (model.decoder_(a) - model.decoder_(b)).norm(dim=1)
    assert (moved <= (a - b).norm(dim=1) * (1 + 1e-5)).all()


def test_pruning_costs_no_more_than_the_scale_of_what_is_pruned(circle):
    x, model = circle
    codes = model.transform(x)
    assert torch.allclose(codes.std(0, correction=0), model.scales_, rtol=1e-3)
    full = rmse(model, x, codes)
    for i in range(6):
        pruned = codes.clone()
        pruned[:, i] = 0  # the mean of every coordinate
        assert rmse(model, x, pruned) <= full + float(model.scales_[i]) * (1 + 1e-3)
    for tol in (0.001, 0.05, 0.9):
        kept = codes[:, : model.n_needed(tol)]
        assert rmse(model, x, kept) <= full + tol * unit(x) * (1 + 1e-3)
    assert model.n_needed(0) == 6
    gram = codes.double().T @ codes.double() / len(codes)
    assert torch.allclose(gram, torch.diag(model.scales_.double() ** 2), atol=1e-3 * unit(x) ** 2)
    assert model.n_needed(2) == 0
    assert torch.allclose(codes.mean(0), torch.zeros(6), atol=1e-3 * unit(x))


def test_without_hidden_layers_it_is_pca():
    g = torch.Generator().manual_seed(2)
    turn = torch.linalg.qr(torch.randn(10, 10, generator=g)).Q
    scale = torch.tensor([4, 3, 2, 1.4, 0.2, 0.2, 0.1, 0.1, 0.1, 0.1])
    x = (torch.randn(1_500, 10, generator=g) * scale) @ turn.T + 1
    model = LeastVolumeAE(
        4, hidden=(), volume=0.05, epochs=400, learning_rate=0.05, batch_size=500
    ).fit(x.numpy())
    pca = PCA(4).fit(x.numpy())
    codes, axes = model.transform(x.numpy()), pca.transform(x.numpy())
    alike = np.abs(np.corrcoef(codes.T, axes.T)[:4, 4:])
    assert np.allclose(alike, np.eye(4), atol=0.08)  # the same axes in the same order
    assert model.scales_ == pytest.approx(np.sqrt(pca.explained_variance_), rel=0.08)
    weight = model.decoder_[0].weight.detach().double().numpy()
    overlap = np.linalg.svd(pca.components_ @ np.linalg.qr(weight)[0], compute_uv=False)
    assert overlap.min() > 0.999


def test_volume_is_the_geometric_mean_of_the_sides():
    z = torch.tensor([[1.0, 2, 0], [-1, -2, 0]]).double().requires_grad_()
    assert float(volume(z.detach(), 0.5)) == pytest.approx((1.5 * 2.5 * 0.5) ** (1 / 3))
    z = torch.randn(6, 3, generator=torch.Generator().manual_seed(0)).double().requires_grad_()
    assert torch.autograd.gradcheck(lambda z: volume(z, 0.1), z)
    flat = torch.zeros(4, 2, requires_grad=True)
    volume(flat, 0.1).backward()
    assert torch.equal(flat.grad, torch.zeros(4, 2))


def test_same_seed_same_codes_and_the_kind_of_array_given(circle):
    x, _ = circle
    before = x.clone()
    state = torch.random.get_rng_state()
    model = LeastVolumeAE(3, hidden=(8,), epochs=2, random_state=4)
    tensor, array = clone(model).fit(x), clone(model).fit(x.double().numpy())
    assert torch.equal(torch.random.get_rng_state(), state)
    assert torch.equal(x, before)
    assert torch.equal(tensor.transform(x), clone(model).fit(x).transform(x))
    codes = array.transform(x.double().numpy())
    assert isinstance(codes, np.ndarray)
    assert codes.dtype == np.float64
    assert np.allclose(codes, tensor.transform(x).numpy(), atol=1e-3)
    assert isinstance(array.scales_, np.ndarray)
    assert array.inverse_transform(codes).shape == (800, 50)


def test_scale_and_place_of_the_points_do_not_matter(circle):
    x, _ = circle
    model = LeastVolumeAE(3, hidden=(8,), epochs=3)
    here, there = clone(model).fit(x.double()), clone(model).fit(1e4 * x.double() - 7)
    assert torch.allclose(1e4 * here.scales_, there.scales_, rtol=1e-3)
    assert here.n_needed() == there.n_needed()


def test_poor_data_and_mistakes():
    twice = torch.tensor([[0.0, 1], [2, 3]]).repeat(4, 1)
    for x in (torch.eye(3), torch.randn(2, 1), torch.randn(9, 4).half(), twice):
        model = LeastVolumeAE(2, hidden=(4,), epochs=4, batch_size=2).fit(x)
        assert torch.isfinite(model.transform(x)).all()
    x = torch.randn(20, 3)
    for options, message in (
        ({"n_components": 0}, "n_components=0"),
        ({"n_components": 2, "hidden": (0,)}, r"hidden\[0\]=0"),
        ({"n_components": 2, "epochs": 0}, "epochs=0"),
        ({"n_components": 2, "batch_size": 1}, "batch_size=1"),
        ({"n_components": 2, "volume": -1}, "volume=-1"),
        ({"n_components": 2, "floor": 0}, "floor=0"),
        ({"n_components": 2, "learning_rate": math.nan}, "learning_rate=nan"),
    ):
        with pytest.raises(InputError, match=message):
            LeastVolumeAE(**options).fit(x)
    with pytest.raises(InputError, match="all rows are equal"):
        LeastVolumeAE(2).fit(torch.ones(5, 3))
    with pytest.raises(InputError, match="row 1"):
        LeastVolumeAE(2).fit(torch.tensor([[1.0], [math.inf], [2]]))
    with pytest.raises(InputError, match="not fitted"):
        LeastVolumeAE(2).n_needed()
    fitted = LeastVolumeAE(2, epochs=1).fit(x)
    with pytest.raises(InputError, match="3 columns and the code 2"):
        fitted.inverse_transform(x)
    with pytest.raises(InputError, match="tol=-1"):
        fitted.n_needed(-1)


def test_registered():
    assert find("structure/least-volume").function is LeastVolumeAE
