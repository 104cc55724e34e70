"""What every finder of pieces and every reduction has to do, made from the registry."""

import numpy as np
import pytest
import torch
from sklearn.base import clone
from sklearn.metrics import adjusted_rand_score

from lowdim.core.strata import Strata
from lowdim.datasets import strata
from lowdim.errors import InputError
from lowdim.registry import methods
from lowdim.structure.agreement import accuracy

FINDERS, REDUCTIONS = (
    [m for m in methods("structure") if any(need.noun == noun for need in m.needs)]
    for noun in ("pieces", "reduction")
)
REQUIRED = {
    "structure/private-pca": {"n_components": 2, "epsilon": 1.0, "delta": 1e-6},
    "structure/sae": {"n_features": 16, "k": 2, "epochs": 2},
    "structure/tldr": {"n_components": 2, "epochs": 2},
    "structure/least-volume": {"n_components": 2, "epochs": 20},
}
"""Parameters that have no default, or are smaller here."""
by_id = {"ids": lambda m: m.name}


DIRECTIONS = {"structure/ssc-omp"}
"""Finders of linear pieces without noise: an affine piece far off is one narrow bundle."""


def planted(method=None):
    """Three flat pieces far from each other and from the origin, or linear ones."""
    if method is not None and method.id in DIRECTIONS:
        return strata(240, (3, 3, 3), 10, seed=5)
    return strata(240, (1, 2, 3), 10, noise=0.1, separation=4, seed=5)


def finder(method, **options):
    return method.function(n_pieces=3, **options)


def reduction(method):
    return method.function(**REQUIRED[method.id], random_state=0)


@pytest.mark.parametrize("method", FINDERS, **by_id)
def test_finds_pieces_far_from_each_other(method):
    truth = planted(method)
    found = finder(method).fit(truth.points)
    assert isinstance(found.strata_, Strata)
    assert found.strata_.weights.shape == (240, 3)
    assert accuracy(found.labels_, truth.labels) >= 0.95
    assert accuracy(found.predict(truth.points), truth.labels) >= 0.95


@pytest.mark.parametrize("method", FINDERS, **by_id)
def test_shapes_of_what_it_gives(method):
    x = planted().points
    found = finder(method).fit(x)
    gates = found.gates(x[:50])
    assert gates.shape == (50, 3)
    assert torch.allclose(gates.sum(1), torch.ones(50, dtype=gates.dtype), atol=1e-5)
    assert torch.equal(found.predict(x[:50]), gates.argmax(1))
    assert len(found.transform(x[:50])) == 50
    assert found.reconstruct(x[:50]).shape == (50, 10)
    assert found.score(x) <= 0


@pytest.mark.parametrize("method", FINDERS, **by_id)
def test_parameters_survive_a_clone_and_the_fit(method):
    model = finder(method)
    before = model.get_params()
    assert clone(model).get_params() == before
    model.fit(planted().points)
    assert model.get_params() == before


@pytest.mark.parametrize("method", FINDERS, **by_id)
def test_arrays_give_arrays_and_the_same_numbers_again(method):
    x = planted().points
    kept = x.clone()
    first, again = finder(method).fit(x), finder(method).fit(x.numpy())
    assert torch.equal(x, kept)
    assert isinstance(again.labels_, np.ndarray)
    assert isinstance(again.predict(x.numpy()), np.ndarray)
    assert torch.equal(torch.from_numpy(again.labels_), first.labels_)
    assert torch.equal(again.strata_.weights, first.strata_.weights)


@pytest.mark.parametrize("method", FINDERS, **by_id)
def test_single_precision_duplicates_and_constant_columns(method):
    truth = planted(method)
    x = torch.cat([truth.points, torch.full((240, 1), 0.25)], 1)
    x = torch.cat([x, x[:40]]).float()
    labels = finder(method).fit(x).labels_
    assert adjusted_rand_score(labels[:240], truth.labels) >= 0.85
    assert torch.equal(labels[240:], labels[:40])


@pytest.mark.parametrize("method", FINDERS, **by_id)
def test_one_piece_is_all_points(method):
    found = method.function(n_pieces=1).fit(planted().points)
    assert bool((found.labels_ == 0).all())


@pytest.mark.parametrize("method", FINDERS, **by_id)
def test_bad_points_are_refused(method):
    x = planted().points.clone()
    x[17, 3] = float("nan")
    with pytest.raises(InputError, match="row 17"):
        finder(method).fit(x)
    with pytest.raises(InputError, match="n_pieces=3"):
        finder(method).fit(planted().points[:2])
    with pytest.raises(InputError, match="9 columns"):
        finder(method).fit(planted().points).predict(torch.randn(5, 9))


@pytest.mark.parametrize("method", REDUCTIONS, **by_id)
def test_reductions_keep_the_contract(method):
    x = planted().points.float()
    model = reduction(method)
    before = model.get_params()
    assert clone(model).get_params() == before
    z = model.fit(x).transform(x)
    assert model.get_params() == before
    assert z.shape[0] == 240
    assert torch.isfinite(z).all()
    again = reduction(method).fit(x.numpy()).transform(x.numpy())
    assert isinstance(again, np.ndarray)
    assert np.allclose(again, z.numpy(), atol=1e-5)
    assert isinstance(method.function.__doc__, str)


@pytest.mark.parametrize("method", REDUCTIONS, **by_id)
def test_reductions_refuse_bad_points(method):
    x = planted().points.float().clone()
    fitted = reduction(method).fit(x)
    with pytest.raises(InputError, match="9"):
        fitted.transform(x[:, :9])
    x[17, 3] = float("nan")
    with pytest.raises(InputError, match="row 17"):
        reduction(method).fit(x)
