import numpy as np
import pytest
import torch
from sklearn.cluster import KMeans
from sklearn.metrics import adjusted_rand_score

from lowdim.core.random import permutation
from lowdim.core.strata import Strata
from lowdim.core.subspace import Subspace
from lowdim.errors import InputError
from lowdim.structure.local_bases import local_bases
from tests.structure.test_sine_k_medoids import on_lines


def advected(n=300, dim=200, *, seed=0):
    """Snapshots of a bump that moves along an interval, with random amplitudes and signs."""
    g = torch.Generator().manual_seed(seed)
    at = torch.linspace(0, 1, dim).double()
    place = torch.rand(n, 1, generator=g).double()
    size = torch.randn(n, 1, generator=g).double() * 3
    return size * torch.exp(-((at - place) ** 2) / 0.005)


def test_lines_are_held_by_bases_of_rank_one():
    x, labels = on_lines(600, k=8, dim=30)
    found = local_bases(x, 8, 1)
    assert adjusted_rand_score(labels, found.labels) == 1
    assert found.local_error < 1e-20
    assert float(found.errors.nan_to_num().max()) < 1e-20
    assert found.global_error > 0.5
    assert sorted(labels[found.medoids].tolist()) == list(range(8))
    assert repr(found).startswith("LocalBases(8 of rank 1")


def test_local_bases_of_a_moving_bump_are_worth_it_and_better_than_those_of_k_means():
    x = advected()
    found = local_bases(x, 8, 4)
    assert found.local_error < found.global_error / 5
    assert found.local_error < found.equal_cost_error
    assert found.worth_it
    assert found.efficiency == pytest.approx(found.equal_cost_error / found.local_error)
    unit = torch.nn.functional.normalize(x)
    ours = Strata.of_labels(unit, found.labels, rank=4, center=False)
    means = KMeans(8, n_init=5, random_state=0).fit_predict(x.numpy())
    theirs = Strata.of_labels(unit, means, rank=4, center=False)

    def error(strata):
        squared = strata.squared_distances(unit)
        return float(squared.gather(1, strata.labels[:, None]).mean())

    assert error(ours) < error(theirs) / 2


def test_one_gaussian_cloud_is_not_worth_local_bases():
    g = torch.Generator().manual_seed(0)
    scale = 0.7 ** torch.arange(20)
    x = (torch.randn(800, 20, generator=g) * scale).double()
    found = local_bases(x, 6, 3)
    assert not found.worth_it
    assert found.efficiency < 0.5
    assert found.equal_cost_error < found.global_error


def test_errors_are_those_of_the_held_out_points():
    x = torch.randn(80, 6, generator=torch.Generator().manual_seed(0)).double()
    found = local_bases(x, 2, 2, random_state=3)
    unit = torch.nn.functional.normalize(x)
    everything = torch.stack([p.residual(unit) for p in found.bases], 1)
    everything = everything.gather(1, found.labels[:, None])[:, 0]
    held = permutation(80, 3)[:20]
    assert found.local_error == pytest.approx(float(everything[held].mean()))
    for k in range(2):
        own = held[found.labels[held] == k]
        assert float(found.errors[k]) == pytest.approx(float(everything[own].mean()))
    again = local_bases(1000 * x, 2, 2, random_state=3)  # lengths do not matter
    assert again.local_error == pytest.approx(found.local_error)
    assert torch.equal(again.labels, found.labels)


def test_full_rank_leaves_no_error_and_mistakes_are_named():
    x = np.random.default_rng(0).normal(size=(40, 3))
    found = local_bases(x, 2, 3)
    assert found.local_error < 1e-25
    assert found.global_error < 1e-25
    for arguments in ((21, 1), (0, 1), (2, 4), (2, 1.5)):
        with pytest.raises(InputError, match="give an integer"):
            local_bases(x, *arguments)
    x[3] = 0
    with pytest.raises(InputError, match="row 3"):
        local_bases(x, 2, 1)


def test_one_piece_is_the_global_basis():
    x = torch.randn(60, 5, generator=torch.Generator().manual_seed(0)).double()
    found = local_bases(x, 1, 2)
    assert found.local_error == pytest.approx(found.global_error)
    assert isinstance(found.bases[0], Subspace)
    assert found.efficiency < 1
