import numpy as np
import pytest
import torch

from lowdim.core.pieces import Pieces
from lowdim.core.progress import Silent
from lowdim.datasets import strata
from lowdim.errors import InputError, MemoryBudgetError
from lowdim.structure import (
    ElasticNetSubspace,
    LeastSquaresRepresentation,
    LowRankRepresentation,
    SparseSubspaceOMP,
)
from lowdim.structure.base import Job
from lowdim.structure.self_expressive import as_graph, coded, strongest

FINDERS = [
    SparseSubspaceOMP(4, sparsity=5),
    ElasticNetSubspace(4, l1=0.7, alpha=50.0, start=32, width=32),
    LeastSquaresRepresentation(4),
    LowRankRepresentation(4),
]


def accuracy(found, true):
    """Share of points in the piece that their own is matched with."""
    from scipy.optimize import linear_sum_assignment

    table = np.zeros((int(found.max()) + 1, int(true.max()) + 1))
    np.add.at(table, (np.asarray(found), np.asarray(true)), 1)
    return table[linear_sum_assignment(-table)].sum() / len(true)


@pytest.mark.parametrize("finder", FINDERS, ids=lambda f: type(f).__name__)
def test_planted_subspaces_are_found_with_their_dimensions(finder):
    planted = strata(480, noise=0.02, seed=3, dtype=torch.float32)
    finder.fit(planted.points)
    assert accuracy(finder.labels_, planted.labels) >= 0.99
    found = sorted(finder.strata_.dims)
    assert all(abs(a - b) <= 1 for a, b in zip(found, (2, 5, 9, 14), strict=True))
    assert accuracy(finder.predict(planted.points), planted.labels) >= 0.99
    assert not finder.coefficients_.diagonal().any()


@pytest.mark.parametrize("finder", FINDERS, ids=lambda f: type(f).__name__)
def test_lengths_and_signs_of_rows_and_their_order_change_nothing(finder):
    planted = strata(240, noise=0.02, seed=3)
    g = torch.Generator().manual_seed(0)
    x, order = planted.points, torch.randperm(240, generator=g)
    scale = 2.0 ** torch.randint(-3, 4, (240, 1), generator=g)  # powers of two round nothing
    labels = finder.fit(x).labels_
    assert torch.equal(finder.predict(x * scale), finder.predict(x))
    assert accuracy(finder.fit(x * scale).labels_, labels) == 1
    assert accuracy(finder.fit(x * scale.sign() * (-1) ** order[:, None]).labels_, labels) == 1
    assert accuracy(finder.fit(x[order]).labels_, labels[order]) == 1


@pytest.mark.parametrize("finder", FINDERS, ids=lambda f: type(f).__name__)
def test_equal_rows_are_coded_once_and_share_their_piece(finder):
    x = strata(160, noise=0.02, seed=3).points
    finder.fit(torch.cat([x, 4 * x, x[:1].expand(30, -1)]))
    assert finder.coefficients_.shape == (160, 160)
    assert torch.equal(finder.labels_[:160], finder.labels_[160:320])
    assert (finder.labels_[320:] == finder.labels_[0]).all()


@pytest.mark.parametrize("finder", FINDERS, ids=lambda f: type(f).__name__)
def test_mistakes_are_named(finder):
    x = strata(60, noise=0.02, seed=3).points
    zero, holed = x.clone(), x.clone()
    zero[7] = 0
    holed[7, 1] = torch.nan
    with pytest.raises(InputError, match="row 7 is all zeros"):
        finder.fit(zero)
    with pytest.raises(InputError, match="row 7"):
        finder.fit(holed)
    with pytest.raises(InputError, match="too few"):
        finder.fit(x[:1].expand(60, -1))
    for change in ({"rank": 65}, {"reduce": 0}, {"join": -1}):
        with pytest.raises(InputError, match=next(iter(change))):
            type(finder)(**finder.get_params() | change).fit(x)
    with pytest.raises(MemoryBudgetError):
        type(finder)(**finder.get_params() | {"memory": "1MiB"}).fit(x)


def test_the_input_is_left_as_it_was_and_half_precision_is_promoted():
    x = strata(120, noise=0.02, seed=3).points.half()
    before = x.clone()
    labels = SparseSubspaceOMP(4, sparsity=3).fit_predict(x)
    assert torch.equal(x, before)
    assert torch.equal(labels, SparseSubspaceOMP(4, sparsity=3).fit_predict(x.float()))


def test_reduced_columns_are_reported():
    planted = strata(300, dims=(2, 3), noise=0.02, seed=3)
    finder = SparseSubspaceOMP(2, sparsity=3, reduce=5).fit(planted.points)
    energies = torch.linalg.svdvals(torch.nn.functional.normalize(planted.points)) ** 2
    assert finder.energy_kept_ == pytest.approx(float(energies[:5].sum() / energies.sum()))
    assert accuracy(finder.labels_, planted.labels) >= 0.9
    assert finder.strata_.pieces[0].dim == 64
    assert SparseSubspaceOMP(2, sparsity=3).fit(planted.points).energy_kept_ == 1


def test_a_given_rank_is_that_of_every_piece():
    planted = strata(200, dims=(2, 3), seed=3)
    assert SparseSubspaceOMP(2, sparsity=3, rank=1).fit(planted.points).strata_.dims == (1, 1)


@pytest.mark.parametrize(("n", "k"), [(40_000, 1), (40_000, 50), (100, 7), (100, 98)])
def test_strongest_is_top_k_of_the_whole_product(n, k):
    g = torch.Generator().manual_seed(0)
    rows, points = torch.randn(5, 8, generator=g), torch.randn(n, 8, generator=g)
    excluded = torch.randint(0, n, (5, 2), generator=g)
    values, index = strongest(rows, points, k, excluded)
    products = (rows @ points.T).abs().scatter(1, excluded, -1)
    top = products.topk(k)
    assert torch.equal(index, top.indices)
    assert torch.allclose(values, top.values)


def test_finished_blocks_are_kept_for_a_resumed_fit(tmp_path):
    x = torch.randn(2500, 3, generator=torch.Generator().manual_seed(0))
    seen = []

    def code(rows):
        if len(seen) == 2:
            raise KeyboardInterrupt
        seen.append(int(rows[0]))
        return {"index": rows[:, None] + 1, "values": x[rows, :1]}

    def job(resume):
        return Job(Silent(), Pieces(tmp_path, {"a": 1}, resume=resume))

    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    with pytest.raises(KeyboardInterrupt):
        coded(code, x, job(False), what="codes")
    seen.clear()
    again = coded(code, x, job(True), what="codes")
    torch.set_num_threads(threads)
    assert seen == [2048]
    assert torch.equal(torch.cat([part["values"] for part in again])[:, 0], x[:, 0])


def test_a_resumed_fit_is_the_same(tmp_path):
    x = strata(200, dims=(2, 3), noise=0.1, seed=3).points
    finder = SparseSubspaceOMP(2, sparsity=3)
    first = finder.fit(x, out=tmp_path)
    labels, graph = first.labels_, first.coefficients_
    again = finder.fit(x, out=tmp_path, resume=True)
    assert torch.equal(again.labels_, labels)
    assert (again.coefficients_ != graph).nnz == 0


def test_a_graph_holds_what_is_in_use():
    first = {"index": torch.tensor([[1, 0], [2, 0]]), "values": torch.tensor([[0.5, 0], [1, 2]])}
    second = {"index": torch.tensor([[2]]), "values": torch.tensor([[0.0]])}
    found = as_graph([first, second], 3).toarray()
    assert np.array_equal(found, [[0, 0.5, 0], [2, 0, 1], [0, 0, 0]])


def test_points_of_real_data_go_back_to_their_piece():
    from sklearn.datasets import load_digits

    x = load_digits().data[:700].astype(np.float32)
    finder = LeastSquaresRepresentation(10).fit(x)
    assert np.mean(finder.predict(x) == finder.labels_) > 0.8
    nearest = finder.strata_.assign(x).numpy()  # ranks differ, and the largest takes nearly all
    assert np.mean(nearest == finder.labels_) < 0.5
