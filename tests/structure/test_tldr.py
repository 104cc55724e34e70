"""TLDR: the loss, what an encoder becomes, and neighbours kept on points that were held out."""

import math

import numpy as np
import pytest
import torch
from sklearn.base import clone
from sklearn.datasets import load_digits

from lowdim.core.neighbors import Neighbors
from lowdim.core.spectrum import Spectrum
from lowdim.errors import InputError
from lowdim.registry import find
from lowdim.structure.tldr import ENCODERS, TLDR, barlow_twins


def whitened(n=64, m=5, seed=0):
    """Columns with mean zero, variance one and no correlation, exactly."""
    x = torch.randn(n, m, generator=torch.Generator().manual_seed(seed)).double()
    return torch.linalg.qr(x - x.mean(0)).Q * n**0.5


def recall(x, z, k=5):
    true, found = (Neighbors.of_points(p, k).indices for p in (x, z))
    return float((found[:, :, None] == true[:, None, :]).any(2).double().mean())


def test_loss_is_zero_where_the_correlations_are_the_identity():
    a = whitened()
    assert float(barlow_twins(a, a, 0.1)) == pytest.approx(0, abs=1e-12)
    assert float(barlow_twins(a, 3 * a - 2, 0.1)) == pytest.approx(0, abs=1e-12)
    assert float(barlow_twins(a, -a, 0.1)) == pytest.approx(4 * 5)
    assert float(barlow_twins(a, a.roll(1, 1), 0.1)) == pytest.approx(5 + 0.1 * 5)
    assert float(barlow_twins(a, torch.zeros_like(a), 0.1)) == pytest.approx(5)


def test_loss_is_that_of_the_correlation_matrix():
    g = torch.Generator().manual_seed(1)
    a, b = torch.randn(2, 40, 4, generator=g).double()
    c = torch.from_numpy(np.corrcoef(a.T, b.T)[:4, 4:])
    off = c - torch.diag(c.diagonal())
    expected = (c.diagonal() - 1).square().sum() + 0.3 * off.square().sum()
    assert float(barlow_twins(a, b, 0.3)) == pytest.approx(float(expected))
    a, b = a[:6].requires_grad_(), b[:6].requires_grad_()
    assert torch.autograd.gradcheck(lambda a, b: barlow_twins(a, b, 0.3), (a, b))
    flat = torch.zeros(4, 2, requires_grad=True)
    barlow_twins(flat, flat, 0.3).backward()
    assert torch.isfinite(flat.grad).all()


@pytest.mark.parametrize("encoder", ["linear", "factorized"])
def test_without_training_it_is_whitened_pca(encoder):
    """A rate of next to nothing leaves the start as it was."""
    g = torch.Generator().manual_seed(2)
    x = torch.randn(500, 6, generator=g) * torch.tensor([5, 4, 3, 2, 1, 0.5]) + 3
    model = TLDR(
        2, encoder=encoder, hidden=8, projector=8, epochs=60, batch_size=500, learning_rate=1e-12
    )
    z = model.fit_transform(x)
    spectrum = Spectrum.of_points(x, vectors=True)
    principal = (x - x.mean(0)).double() @ spectrum.vectors[:, :2] / spectrum.values[:2].sqrt()
    alike = np.corrcoef(z.T, principal.T)[:2, 2:]
    assert np.allclose(alike, np.eye(2), atol=1e-4)
    assert torch.allclose(z.std(0), torch.ones(2), atol=0.1)


@pytest.mark.parametrize("encoder", ["linear", "factorized"])
def test_linear_and_factorized_encoders_are_one_matrix_after_the_fit(encoder):
    x = torch.from_numpy(load_digits().data).float()[:400]
    model = TLDR(4, encoder=encoder, hidden=16, projector=16, epochs=3, batch_size=100).fit(x)
    assert model.components_.shape == (4, 64)
    with torch.no_grad():
        network = model.encoder_(((x - model._mean) / model._unit).float())
    assert torch.allclose(model.transform(x), network, atol=1e-3)


def test_keeps_neighbours_of_points_that_were_held_out():
    x = torch.from_numpy(load_digits().data).float()
    seen, held = x[:1_300], x[1_300:]
    model = TLDR(8, projector=64, epochs=20, batch_size=256).fit(seen)
    kept = recall(held, model.transform(held))
    blind = torch.randn(64, 8, generator=torch.Generator().manual_seed(0))
    assert kept > recall(held, held @ blind) + 0.1
    untrained = clone(model).set_params(learning_rate=1e-12).fit(seen)
    assert model.loss_ < untrained.loss_
    assert kept > recall(held, untrained.transform(held))  # which is whitened PCA


@pytest.mark.parametrize("encoder", ENCODERS)
def test_same_seed_same_result_and_the_kind_of_array_given(encoder, tmp_path):
    x = torch.randn(120, 7, generator=torch.Generator().manual_seed(4))
    before, state = x.clone(), torch.random.get_rng_state()
    model = TLDR(3, encoder=encoder, hidden=8, projector=8, epochs=2, batch_size=50)
    tensor, array = clone(model).fit(x), clone(model).fit(x.numpy())
    assert torch.equal(torch.random.get_rng_state(), state)
    assert torch.equal(x, before)
    codes = array.transform(x.numpy())
    assert isinstance(codes, np.ndarray)
    assert np.array_equal(codes, tensor.transform(x).numpy())
    assert torch.equal(tensor.transform(x), clone(model).fit(x).transform(x))
    assert tensor.transform(x.double()).dtype == torch.float64
    np.save(tmp_path / "x.npy", x.numpy())
    from_file = clone(model).fit(tmp_path / "x.npy").transform(tmp_path / "x.npy")
    assert torch.allclose(from_file, tensor.transform(x), atol=1e-4)


def test_scale_and_place_of_the_points_do_not_matter():
    x = torch.randn(100, 5, generator=torch.Generator().manual_seed(5)).double()
    model = TLDR(2, projector=8, epochs=3, batch_size=50)
    z = clone(model).fit(x).transform(x)
    moved = 64 * x - 3  # a power of two, so that the neighbours' distances keep their order
    assert torch.allclose(z, clone(model).fit(moved).transform(moved), atol=1e-3)


def test_poor_data_and_mistakes():
    x = torch.randn(30, 3, generator=torch.Generator().manual_seed(6))
    small = {"projector": 4, "epochs": 2}
    for points in (x[:5], torch.cat([x, x]), torch.cat([x, torch.ones(30, 2)], 1), x.half()):
        assert torch.isfinite(TLDR(2, **small).fit(points).transform(points)).all()
    for options, message in (
        ({"n_components": 4}, "from 1 to 3"),
        ({"n_components": 2, "encoder": "conv"}, "choose from linear"),
        ({"n_components": 2, "epochs": 0}, "epochs=0"),
        ({"n_components": 2, "batch_size": 1}, "batch_size=1"),
        ({"n_components": 2, "n_neighbors": 30}, "k=30"),
        ({"n_components": 2, "redundancy": math.nan}, "redundancy=nan"),
        ({"n_components": 3, "encoder": "factorized", "hidden": 2}, "hidden=2"),
    ):
        with pytest.raises(InputError, match=message):
            TLDR(**options).fit(x)
    with pytest.raises(InputError, match="all rows are equal"):
        TLDR(2).fit(torch.ones(9, 3))
    with pytest.raises(InputError, match="row 1"):
        TLDR(1).fit(torch.tensor([[1.0], [math.inf], [2]]))
    with pytest.raises(InputError, match="not fitted"):
        TLDR(2).transform(x)


def test_registered():
    assert find("structure/tldr").function is TLDR
