import numpy as np
import pytest
import torch
from scipy.optimize import linear_sum_assignment
from sklearn.metrics import adjusted_rand_score, confusion_matrix

from lowdim.core.subspace import Subspace
from lowdim.datasets import strata
from lowdim.errors import InputError, MemoryBudgetError
from lowdim.structure.k_subspaces import KSubspaces


def matched(labels, found):
    """Accuracy under the best renaming, and which found piece each planted one is."""
    table = confusion_matrix(labels, found)
    rows, columns = linear_sum_assignment(-table)
    return table[rows, columns].sum() / len(labels), columns


@pytest.mark.parametrize("options", [{}, {"shared": 1}, {"separation": 2.0}, {"balance": 0.3}])
def test_planted_pieces_and_their_dimensions_are_found(options):
    planted = strata(4000, noise=0.1, **options)
    found = KSubspaces(4, n_restarts=4).fit(planted.points)
    accuracy, order = matched(planted.labels, found.labels_)
    assert accuracy >= 0.95
    assert all(
        abs(found.strata_.dims[j] - r) <= 1 for j, r in zip(order, planted.dims, strict=True)
    )
    for j, basis in zip(order, planted.bases, strict=True):
        piece = found.strata_.pieces[j]
        if piece.rank == basis.shape[1]:
            planted_piece = Subspace(basis, torch.zeros(64).double())
            assert piece.distance(planted_piece, kind="projection") < 0.1


@pytest.mark.parametrize("ranks", [(2, 5, 9, 14), (14, 9, 5, 2), (9, 2, 14, 5)])
def test_given_ranks_find_their_pieces_in_any_order(ranks):
    planted = strata(2000, noise=0.1, seed=1)
    found = KSubspaces(4, ranks=ranks, n_restarts=4).fit(planted.points)
    accuracy, order = matched(planted.labels, found.labels_)
    assert accuracy > 0.98
    assert found.strata_.dims == ranks
    assert [found.strata_.dims[j] for j in order] == list(planted.dims)


def test_noise_free_pieces_of_given_ranks_are_exact():
    planted = strata(600, (1, 3, 3), 12)
    found = KSubspaces(3, ranks=3, center=False, n_restarts=5).fit(planted.points)
    assert adjusted_rand_score(planted.labels, found.labels_) > 0.98
    assert -found.score(planted.points) < 1e-3
    found = KSubspaces(2, ranks=3, n_restarts=5).fit(planted.points[planted.labels > 0])
    assert -found.score(planted.points[planted.labels > 0]) < 1e-20


@pytest.mark.parametrize("ranks", [2, (1, 2, 6)])
@pytest.mark.parametrize("center", [True, False])
def test_the_objective_falls_at_fixed_ranks(ranks, center):
    x = strata(2000, (1, 3, 5, 7), 15, noise=0.5, separation=0.5, seed=2).points
    found = KSubspaces(
        3, ranks=ranks, center=center, n_restarts=1, sample=60, tol=0, random_state=1
    ).fit(x)
    assert len(found.trace_) > 5
    assert bool((found.trace_.diff() <= 1e-10).all())
    deviance = found.model_.deviance(x).amin(1)
    assert float(deviance.mean()) == pytest.approx(float(found.trace_[-2:].min()), rel=1e-6)


def test_a_piece_of_larger_dimension_does_not_swallow_the_others():
    planted = strata(2000, (1, 8), 20, noise=0.3, seed=1)
    found = KSubspaces(2, n_restarts=4).fit(planted.points)
    accuracy, _ = matched(planted.labels, found.labels_)
    nearest, _ = matched(planted.labels, found.strata_.assign(planted.points))
    assert accuracy > 0.98
    assert nearest < accuracy - 0.05  # the raw distance gives points to the larger piece


@pytest.mark.parametrize(("n", "learnt"), [(4, False), (5, False), (6, True), (8, True)])
def test_a_subspace_is_learnt_from_as_many_points_as_it_has_dimensions(n, learnt):
    planted = strata(n, (6,), 48)
    piece = KSubspaces(1, ranks=6, center=False).fit(planted.points).strata_.pieces[0]
    truth = Subspace(planted.bases[0], torch.zeros(48).double())
    error = piece.distance(truth, kind="projection")
    assert error < 1e-7 if learnt else error == pytest.approx(1)


def test_one_piece_is_principal_component_analysis():
    x = strata(300, (4,), 10, noise=0.2, separation=1, seed=3).points
    found = KSubspaces(1, ranks=4).fit(x).strata_.pieces[0]
    truth = Subspace.of_points(x, rank=4)
    assert found.distance(truth) < 1e-9
    torch.testing.assert_close(found.center, x.mean(0))


def test_pieces_stream_from_a_file_as_from_memory(tmp_path):
    x = strata(20_000, (2, 4), 10, noise=0.1, dtype=torch.float32).points
    np.save(tmp_path / "x.npy", x.numpy())
    options = {"n_restarts": 2, "sample": 500}
    whole = KSubspaces(2, **options).fit(x)
    streamed = KSubspaces(2, **options, memory="8MB").fit(tmp_path / "x.npy")
    assert torch.equal(whole.labels_, streamed.labels_)
    assert streamed.strata_.pieces[0].basis.dtype == torch.float32
    with pytest.raises(MemoryBudgetError, match="2 pieces"):
        KSubspaces(2, memory="100kB").fit(tmp_path / "x.npy")


class Killed(Exception):
    pass


class KillAt:
    """Stops the job when a piece of work reports its nth step."""

    def __init__(self, what, step):
        self.what, self.step = what, step

    def task(self, what):
        def advance(done, total):
            if self.what in what and done == self.step:
                raise Killed

        return advance


@pytest.mark.parametrize(("what", "step"), [("starts", 2), ("passes", 2)])
def test_a_killed_fit_goes_on_to_the_same_result(tmp_path, what, step):
    x = strata(3000, (1, 3, 5), 12, noise=0.4).points
    finder = KSubspaces(3, n_restarts=3, sample=100)
    straight = finder.fit(x)
    tensors, trace = straight.model_.tensors(), straight.trace_
    with pytest.raises(Killed):
        KSubspaces(3, n_restarts=3, sample=100).fit(x, out=tmp_path, progress=KillAt(what, step))
    again = KSubspaces(3, n_restarts=3, sample=100).fit(x, out=tmp_path, resume=True)
    assert torch.equal(again.trace_, trace)
    assert all(torch.equal(again.model_.tensors()[name], t) for name, t in tensors.items())


def test_predictions_on_the_points_of_the_fit_are_its_labels():
    x = strata(500, (1, 3), 6, noise=0.2, separation=1).points
    found = KSubspaces(2, n_restarts=2).fit(x)
    assert torch.equal(found.predict(x), found.labels_)
    assert torch.equal(found.gates(x), found.strata_.weights)
    on = found.strata_.pieces[0]
    own = found.labels_ == 0
    expected = on.reconstruct(on.project(x[own]))
    torch.testing.assert_close(found.reconstruct(x)[own], expected)
    torch.testing.assert_close(found.transform(x)[:, 0], on.residual(x))


@pytest.mark.parametrize(
    "x",
    [
        torch.ones(20, 4),
        torch.cat([torch.zeros(10, 4), torch.ones(3, 4)]),
        torch.randn(3, 4, generator=torch.Generator().manual_seed(0)),
        torch.randn(40, 1, generator=torch.Generator().manual_seed(0)),
        torch.randn(12, 200, generator=torch.Generator().manual_seed(0)),
        torch.randn(50, 5, generator=torch.Generator().manual_seed(0)).half(),
    ],
    ids=["constant", "two points", "n=K", "d=1", "n<d", "half"],
)
@pytest.mark.parametrize("ranks", [None, 1])
def test_poor_data_gets_pieces(x, ranks):
    found = KSubspaces(3, ranks=ranks, n_restarts=2, max_iter=5).fit(x)
    assert found.labels_.shape == (len(x),)
    assert found.reconstruct(x).isfinite().all()
    assert found.trace_.isfinite().all()


def test_bad_parameters_and_points_are_named():
    x = torch.randn(30, 4)
    for options, message in (
        ({"ranks": 5}, "from 0 to 4"),
        ({"ranks": (1, 2)}, "give 3, one a piece"),
        ({"ranks": -1}, "from 0 to 4"),
        ({"ranks": 1.5}, "from 0 to 4"),
        ({"n_restarts": 0}, "n_restarts=0"),
        ({"tol": float("nan")}, "tol=nan"),
    ):
        with pytest.raises(InputError, match=message):
            KSubspaces(3, **options).fit(x)
    x[7, 2] = torch.nan
    with pytest.raises(InputError, match="row 7"):
        KSubspaces(3).fit(x)
