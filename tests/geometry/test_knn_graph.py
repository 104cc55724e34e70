"""The scaling law where it is exact, known manifolds, and honest intervals."""

import sys

import numpy as np
import pytest
import torch
from scipy.spatial import cKDTree

from lowdim import datasets
from lowdim.core.neighbors import Neighbors
from lowdim.errors import InputError
from lowdim.geometry import knn_graph
from tests.geometry.manifolds import coverage, cube, normal


def of(x, **options):
    return knn_graph(Neighbors.of_points(x, 32), x, **options)


class Periodic(Neighbors):
    """Search on the flat torus: no boundary, no curvature, no bias."""

    @classmethod
    def of_points(cls, x, k, **options):
        distances, indices = cKDTree(x.numpy(), boxsize=1).query(x.numpy(), k + 1)
        own = torch.from_numpy(distances[:, 1:]), torch.from_numpy(indices[:, 1:])
        return cls(*own, n_reference=len(x), dim=x.shape[1])


@pytest.mark.parametrize("d", [1, 2, 5])
def test_intervals_hold_the_truth_where_there_is_no_bias(d, monkeypatch):
    """Nominal 95%; of 60 draws of a 95% interval 52 or more hold it in 99.7% of runs."""
    monkeypatch.setattr(sys.modules[knn_graph.__module__], "Neighbors", Periodic)
    draws = (torch.from_numpy(np.random.default_rng(seed).random((500, d))) for seed in range(60))
    found = [knn_graph(Periodic.of_points(x, 32), x, seed=7) for x in draws]
    hits, claimed = coverage(found, d)
    assert hits >= 52 / 60
    assert 0.75 < claimed < 1.7


def test_is_the_slope_of_the_mean_distance():
    x = cube(800, 3)
    found = of(x, k=2, seed=5)
    order = torch.from_numpy(np.random.default_rng(1).permutation(800))
    means = []
    for parts in (1, 2, 4, 8):  # another cut of the same points: the same slope within its error
        cut = [Neighbors.of_points(x[i], 2).distances for i in order.chunk(parts)]
        means.append(torch.cat(cut).mean().log())
    slope = np.polyfit(np.log([800, 400, 200, 100]), means, 1)[0]
    assert abs(found.value + 1 / slope) < 3 * found.standard_error
    assert not found.exact
    assert found.seed == 5


@pytest.mark.parametrize(
    ("x", "d"),
    [
        (datasets.cube(2000, 2, 20), 2),
        (datasets.sphere(2000, 3, 10), 3),
        (datasets.flat_torus(2000, 2, 12), 2),
        (datasets.swiss_roll(2000), 2),
    ],
    ids=["cube", "sphere", "torus", "swiss roll"],
)
def test_finds_known_dimensions(x, d):
    assert of(x).value == pytest.approx(d, rel=0.12)


def test_another_seed_is_another_cut():
    x = cube(500, 2)
    assert of(x).value == of(x).value
    assert of(x).value != of(x, seed=1).value
    assert of(x).value == pytest.approx(of(x, seed=1).value, rel=0.1)


def test_bad_input():
    x = normal(100, 3)
    near = Neighbors.of_points(x, 20)
    with pytest.raises(InputError, match="k=12: between 1 and 11"):
        knn_graph(near, x, k=12)
    with pytest.raises(InputError, match="from the points themselves"):
        knn_graph(Neighbors.of_points(x[:40], 20, queries=x[40:]), x[40:])
    with pytest.raises(InputError, match="equals another row"):
        of(torch.cat([x, x[:1]]))
    with pytest.raises(InputError, match="do not fall"):
        of(torch.eye(80))
