"""Agreement with scikit-dimension, the closed forms of a ball, and known manifolds."""

import numpy as np
import pytest
import torch

from lowdim import datasets
from lowdim.core.neighbors import Neighbors
from lowdim.errors import InputError
from lowdim.geometry import ess, ess_cosine
from lowdim.geometry.ess import dimension_of, expected_cosine, expected_sine
from tests.geometry.manifolds import normal

BOTH = pytest.mark.parametrize("method", [ess, ess_cosine])


def read(method, x, k=30, **options):
    return method(x, Neighbors.of_points(x, k), k=k, **options)


@pytest.mark.parametrize(("method", "ver"), [(ess, "a"), (ess_cosine, "b")])
@pytest.mark.parametrize(("d", "ambient"), [(2, 5), (12, 40)])
def test_agrees_with_scikit_dimension(method, ver, d, ambient):
    skdim = pytest.importorskip("skdim")
    x = datasets.sphere(80, d, ambient) + 0.02 * normal(80, ambient)
    found = Neighbors.of_points(x, 30)
    oracle = skdim.id.ESS(ver=ver).fit(
        x.numpy(), precomputed_knn_arrays=(found.distances.numpy(), found.indices.numpy())
    )
    ours = method(x, found)
    assert ours.per_point.tolist() == pytest.approx(oracle.dimension_pw_.tolist(), rel=1e-9)
    assert ours.value == pytest.approx(oracle.dimension_, rel=1e-9)


@pytest.mark.parametrize("d", [2, 3, 7, 40])
def test_reference_curves_are_the_means_over_random_directions(d):
    units = torch.nn.functional.normalize(normal(200_000, d))
    cosine = units[:, 0]
    assert float(expected_cosine(np.array([d]))[0]) == pytest.approx(
        float(cosine.abs().mean()), rel=0.01
    )
    sine = (1 - cosine.square()).sqrt()
    assert float(expected_sine(np.array([d]))[0]) == pytest.approx(float(sine.mean()), rel=0.01)


def test_reference_curves_at_their_ends():
    assert expected_sine(np.array([1.0, 2.0])) == pytest.approx([0, 2 / np.pi])
    assert expected_cosine(np.array([1.0, 2.0])) == pytest.approx([1, 2 / np.pi])


@pytest.mark.parametrize("curve", [expected_sine, expected_cosine])
def test_the_dimension_is_read_back_off_the_curve(curve):
    dims = np.array([1.0, 2, 3, 31, 32, 33, 64, 65, 300])
    back = dimension_of(torch.from_numpy(curve(dims)), curve)
    assert back.tolist() == pytest.approx(dims.tolist(), rel=1e-9)
    middle = (curve(np.array([4.0])) + curve(np.array([5.0]))) / 2
    assert float(dimension_of(torch.from_numpy(middle), curve)) == pytest.approx(4.5)


@BOTH
@pytest.mark.parametrize("d", [2, 5, 10, 20])
def test_spheres_and_cubes(method, d):
    assert read(method, datasets.sphere(1000, d, 25)).value == pytest.approx(d, rel=0.12)
    assert read(method, datasets.cube(1000, d, 25)).value == pytest.approx(d, rel=0.12)


@BOTH
def test_a_line_is_one_everywhere(method):
    x = torch.rand(200, 1, generator=torch.Generator().manual_seed(0)).double()
    for line in (x, x @ normal(1, 7) + 5):
        local = read(method, line).per_point
        assert local.tolist() == pytest.approx([1.0] * 200, abs=1e-5)


@BOTH
def test_an_even_simplex_has_a_finite_dimension(method):
    """Points at right angles: k centred ones have cosine -1/(k - 1) throughout."""
    found = read(method, torch.eye(12).double(), 10)
    curve, value = {
        ess: (expected_sine, np.sqrt(1 - 1 / 81)),
        ess_cosine: (expected_cosine, 1 / 9),
    }[method]
    expected = float(dimension_of(torch.tensor([value], dtype=torch.float64), curve))
    assert found.value == pytest.approx(expected, rel=1e-9)


@BOTH
def test_stated_error_is_that_of_repeated_draws(method):
    found = [read(method, datasets.cube(400, 4, 6, seed=s)) for s in range(40)]
    spread = torch.tensor([f.value for f in found]).std()
    claimed = torch.tensor([f.standard_error for f in found]).mean()
    assert 0.7 < float(claimed / spread) < 2


@BOTH
def test_bad_input(method):
    x = normal(60, 4)
    with pytest.raises(InputError, match="k=2"):
        read(method, x, 2)
    with pytest.raises(InputError, match="equals another row"):
        read(method, torch.cat([x, x[:1]]))
