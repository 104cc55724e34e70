"""Agreement with scikit-dimension, the geometry of one measurement, and known manifolds."""

import pytest
import torch

from lowdim import datasets
from lowdim.core.neighbors import Neighbors
from lowdim.errors import InputError
from lowdim.geometry import mle, tle
from lowdim.geometry.tle import _measured
from tests.geometry.manifolds import normal


def read(x, k=20, **options):
    return tle(x, Neighbors.of_points(x, k), k=k, **options)


@pytest.mark.parametrize(("d", "ambient", "k"), [(1, 3, 20), (3, 6, 20), (10, 40, 12)])
def test_agrees_with_scikit_dimension(d, ambient, k):
    """Where nothing falls below epsilon, which is absolute there and relative here."""
    skdim = pytest.importorskip("skdim")
    x = datasets.sphere(80, d, ambient) + 0.02 * normal(80, ambient)
    found = Neighbors.of_points(x, k)
    oracle = skdim.id.TLE(epsilon=1e-12).fit(
        x.numpy(), precomputed_knn_arrays=(found.distances.numpy(), found.indices.numpy())
    )
    ours = tle(x, found, k=k, epsilon=1e-12)
    assert ours.per_point.tolist() == pytest.approx(oracle.dimension_pw_.tolist(), rel=1e-8)
    assert ours.value == pytest.approx(oracle.dimension_, rel=1e-8)


def test_a_measurement_is_the_radius_of_the_shrunken_ball():
    u = (
        torch.nn.functional.normalize(normal(50, 3))
        * torch.rand(50, 1, generator=torch.Generator().manual_seed(1)).double().sqrt()
    )
    u[0] /= u[0].norm()  # on the surface
    own, other = u.square().sum(1)[:, None], u.square().sum(1)[None]
    s = _measured(torch.cdist(u, u).square(), own, other)
    assert float(s.max()) <= 1 + 1e-9
    centers = (1 - s)[:, :, None] * u[:, None]  # (i, j, 3)
    reach = (u[None] - centers).norm(dim=2)
    apart = ~torch.eye(50, dtype=torch.bool)
    assert torch.allclose(reach[apart], s[apart], atol=1e-6)


def test_measurements_below_epsilon_are_left_out_whatever_the_scale():
    x = normal(100, 3)
    x = torch.cat([x, x[:10] + 1e-7])
    full, cut = (read(x, epsilon=e).per_point for e in (1e-12, 1e-4))
    assert bool((cut[:10] > full[:10]).all())
    tiny = read(x * 1e-6).per_point
    assert tiny.tolist() == pytest.approx(cut.tolist(), rel=1e-6)


@pytest.mark.parametrize("d", [2, 3, 5, 8])
def test_spheres(d):
    assert read(datasets.sphere(1500, d, 12)).value == pytest.approx(d, rel=0.13)


def test_local_values_spread_less_than_those_of_maximum_likelihood():
    x = datasets.flat_torus(1000, 3, 6)
    tight, plain = (f.per_point / f.value for f in (read(x), mle(Neighbors.of_points(x, 20))))
    assert float(tight.std()) < 0.8 * float(plain.std())


def test_stated_error_is_that_of_repeated_draws():
    found = [read(datasets.cube(300, 3, 5, seed=s)) for s in range(40)]
    spread = torch.tensor([f.value for f in found]).std()
    claimed = torch.tensor([f.standard_error for f in found]).mean()
    assert 0.7 < float(claimed / spread) < 2


def test_neighbours_at_one_distance():
    """The corners of a simplex are all equally far from each other: no dimension at all."""
    corners = torch.eye(6).double() * 100
    with pytest.raises(InputError, match="at one distance"):
        read(corners, 5)
    mixed = torch.cat([normal(60, 6), corners + 1000])
    found = read(mixed, 5)
    assert found.notes[0].startswith("6 points with all neighbours at one distance")
    assert bool((found.per_point[60:] == torch.inf).all())


@pytest.mark.parametrize("x", [torch.arange(80.0)[:, None].double(), torch.rand(80, 1).double()])
def test_points_on_a_line(x):
    assert 0.5 < read(x).value < 1.5


def test_bad_input():
    with pytest.raises(InputError, match="k=2"):
        read(normal(30, 3), 2)
