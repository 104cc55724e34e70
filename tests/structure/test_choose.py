import numpy as np
import pytest
import torch

from lowdim.datasets import strata
from lowdim.errors import InputError
from lowdim.structure.choose import choose_pieces
from lowdim.structure.k_subspaces import KSubspaces


def finder(**options):
    return KSubspaces(1, n_restarts=4, random_state=0, **options)


def test_planted_pieces_are_counted():
    planted = strata(600, (1, 2, 4), 10, noise=0.1, separation=3, seed=2)
    found = choose_pieces(finder(), planted.points, range(1, 6))
    assert found.n_pieces == 3
    assert sorted(found.table[2].dims) == [1, 2, 4]


def test_one_normal_distribution_is_one_piece():
    x = torch.randn(300, 6, generator=torch.Generator().manual_seed(1))
    assert choose_pieces(finder(), x * torch.arange(1, 7) ** -0.5, (1, 2, 4)).n_pieces == 1


def test_the_smallest_within_one_standard_error_is_chosen():
    x = strata(300, (1, 2), 6, noise=0.3, separation=1, seed=4).points
    found = choose_pieces(finder(), x, [5, 1, 2, 3])
    assert [row.n_pieces for row in found.table] == [1, 2, 3, 5]
    best = min(row.nats for row in found.table)
    for row in found.table:
        assert row.behind == pytest.approx(row.nats - best, abs=1e-9)
    within = [row.n_pieces for row in found.table if row.behind <= row.standard_error]
    assert found.n_pieces == within[0]


def test_default_candidates_leave_twenty_points_a_piece():
    x = strata(200, (1, 2), 6, separation=3, seed=4).points
    rows = choose_pieces(finder(), x).table
    assert [row.n_pieces for row in rows] == [1, 2, 3, 4, 5]


def test_the_finder_is_left_alone_and_a_file_is_read(tmp_path):
    x = strata(120, (1, 2), 4, separation=3, seed=5).points
    np.save(tmp_path / "x.npy", x.numpy())
    given = finder()
    found = choose_pieces(given, x, (1, 2), random_state=3)
    assert not hasattr(given, "strata_")
    assert given.n_pieces == 1
    assert choose_pieces(given, tmp_path / "x.npy", (1, 2), random_state=3) == found


def test_progress_is_reported():
    class Watch:
        def __init__(self):
            self.seen = []

        def task(self, what):
            return lambda done, total: self.seen.append((done, total))

    watch = Watch()
    choose_pieces(finder(), strata(80, (1, 2), 4, seed=5).points, (1, 2), progress=watch)
    assert watch.seen == [(1, 2), (2, 2)]


def test_mistakes_are_named():
    x = strata(60, (1, 2), 4, seed=5).points
    with pytest.raises(InputError, match="candidates is empty"):
        choose_pieces(finder(), x, ())
    with pytest.raises(InputError, match="n_pieces=31 for 30 points"):
        choose_pieces(finder(), x, (31,))
    with pytest.raises(InputError, match="too few"):
        choose_pieces(finder(), x[:7])
    with pytest.raises(InputError, match="rows are the same"):
        choose_pieces(finder(), torch.ones(60, 3))
    bad = x.clone()
    bad[17, 2] = float("nan")
    with pytest.raises(InputError, match="row 17"):
        choose_pieces(finder(), bad)
