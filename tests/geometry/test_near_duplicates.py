"""Planted copies are found with their rows; independent points have next to none."""

import pytest
import torch

from lowdim.core.neighbors import Neighbors
from lowdim.core.points import distinct
from lowdim.errors import InputError
from lowdim.geometry import near_duplicates
from tests.geometry.manifolds import cube, normal


def of(x, **options):
    return near_duplicates(x, Neighbors.of_points(distinct(x)[0], 2), **options)


def test_planted_pairs_come_closest_first_with_their_rows():
    x = normal(300, 12)
    x[7] = x[100] + 1e-3
    x[250] = x[20] + 1e-4
    found = of(x)
    assert found.value == 4
    assert [(i, j) for i, j, _ in found.pairs] == [(20, 250), (7, 100)]
    gaps = [float((x[i] - x[j]).norm()) for i, j, _ in found.pairs]
    assert [gap for _, _, gap in found.pairs] == pytest.approx(gaps, rel=1e-6)
    assert all(gap < found.threshold for gap in gaps)


def test_rows_are_those_of_the_data_given_when_copies_were_merged():
    x = normal(200, 12)
    x[3] = x[90] = x[0]  # exact copies, merged before the search
    x[150] = x[60] + 1e-4
    found = of(x)
    assert found.value == 2
    assert [(i, j) for i, j, _ in found.pairs] == [(60, 150)]
    assert found.n == 198


@pytest.mark.parametrize("d", [1, 2, 3, 8])
def test_independent_points_hardly_ever_count(d):
    shares = [of(cube(2000, d, seed)).value / 2000 for seed in range(5)]
    assert sum(shares) / 5 < 0.002


def test_no_unit():
    x = normal(200, 5)
    x[1] = x[0] + 1e-3
    assert of(x * 1e-6 + 4).value == of(x).value == 2


def test_at_most_a_hundred_pairs():
    x = normal(500, 10)
    x = torch.cat([x, x[:150] + 1e-5])
    found = of(x)
    assert found.value == 300
    assert len(found.pairs) == 100
    assert len({(i, j) for i, j, _ in found.pairs}) == 100


def test_neighbours_of_other_points_are_refused():
    x = normal(50, 3)
    with pytest.raises(InputError, match="50 distinct rows"):
        near_duplicates(x, Neighbors.of_points(x[:40], 2))
