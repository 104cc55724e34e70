"""scikit-dimension's local values, an unbiased whole, and honest intervals."""

import pytest
import torch

from lowdim.core.neighbors import Neighbors
from lowdim.errors import InputError
from lowdim.geometry import mom
from tests.geometry.manifolds import coverage, cube, flat_torus, known, normal


@pytest.mark.parametrize(("n", "d", "k"), [(300, 2, 20), (400, 12, 50)])
def test_local_values_and_their_mean_are_scikit_dimensions(n, d, k):
    skdim = pytest.importorskip("skdim")
    x = cube(n, d)
    found = mom(Neighbors.of_points(x, k), k=k)
    oracle = skdim.id.MOM().fit(x.numpy(), n_neighbors=k)
    assert found.per_point.tolist() == pytest.approx(oracle.dimension_pw_.tolist(), rel=1e-6)
    assert float(found.per_point.mean()) == pytest.approx(oracle.dimension_, rel=1e-6)


@pytest.mark.parametrize("d", [1, 2, 5])
def test_the_whole_is_unbiased_where_the_mean_of_local_values_is_not(d):
    found = mom(flat_torus(3000, d, 20))
    assert found.value == pytest.approx(d, rel=0.03)
    assert float(found.per_point.mean()) > 1.07 * d


@pytest.mark.parametrize("d", [1, 2, 5])
def test_intervals_hold_the_truth_where_there_is_no_bias(d):
    """Nominal 95%; of 60 draws of a 95% interval 52 or more hold it in 99.7% of runs."""
    hits, claimed = coverage([mom(flat_torus(500, d, 20, seed)) for seed in range(60)], d)
    assert hits >= 52 / 60
    assert 0.8 < claimed < 1.6


@known(affine=3)
def test_finds_known_dimensions(x, d):
    assert mom(Neighbors.of_points(x, 20)).value == pytest.approx(d, rel=0.1)


def test_equally_distant_neighbours_are_noted():
    """An octahedron's corners have four neighbours at one distance."""
    corners = torch.cat([torch.eye(3), -torch.eye(3)]).double() + 50
    found = mom(Neighbors.of_points(torch.cat([normal(100, 3), corners]), 4), k=4)
    assert found.notes[0].startswith("6 points with all neighbours at one distance")
    assert torch.isinf(found.per_point[100:]).all()


def test_bad_input():
    x = normal(40, 3)
    with pytest.raises(InputError, match="equals another row"):
        mom(Neighbors.of_points(torch.cat([x, x[:1]]), 5), k=5)
    with pytest.raises(InputError, match="k=1"):
        mom(Neighbors.of_points(x, 5), k=1)
    with pytest.raises(InputError, match="grid"):
        mom(Neighbors.of_points(torch.eye(10), 5), k=5)
