"""Pairs counted one by one, scikit-dimension, and honest intervals."""

import numpy as np
import pytest
import torch

from lowdim.core.neighbors import Neighbors
from lowdim.errors import InputError
from lowdim.geometry import correlation_integral
from tests.geometry.manifolds import coverage, cube, flat_torus, known, normal


def of(x, k=32, **options):
    return correlation_integral(Neighbors.of_points(x, k), x, **options)


def uneven(n, d):
    """A third of the points denser than the others: they have more than 32 within the radii."""
    x = normal(n, d)
    x[: n // 3] *= 0.5
    return x


@pytest.mark.parametrize("x", [cube(300, 2), normal(401, 6), uneven(300, 3), uneven(300, 40)])
@pytest.mark.parametrize("memory", [None, "100KiB"])
def test_counts_every_pair(x, memory):
    distance = torch.cdist(x, x, compute_mode="donot_use_mm_for_euclid_dist").fill_diagonal_(np.inf)
    radii = distance.sort(1).values[:, [9, 19]].quantile(0.5, dim=0)
    pairs = [int((distance < r * (1 - 1e-12)).sum()) for r in radii]
    expected = np.log(pairs[1] / pairs[0]) / float((radii[1] / radii[0]).log())
    for k in (20, 32):
        assert of(x, k, memory=memory).value == pytest.approx(expected, rel=1e-3)
    if len(x) % 2 == 0:  # the radii are no distances, so that no rounding decides a pair
        assert of(x, memory=memory).value == pytest.approx(expected, rel=1e-9)


@pytest.mark.parametrize("x", [cube(300, 2), normal(400, 6), uneven(300, 3), normal(200, 40)])
def test_agrees_with_scikit_dimension(x):
    skdim = pytest.importorskip("skdim")
    oracle = skdim.id.CorrInt(k1=10, k2=20).fit(x.numpy()).dimension_
    assert of(x).value == pytest.approx(oracle, rel=1e-6)


@pytest.mark.parametrize("d", [1, 2, 5])
def test_intervals_hold_the_truth_where_there_is_no_bias(d):
    """Nominal 95%; of 60 draws of a 95% interval 52 or more hold it in 99.7% of runs."""
    found = [
        correlation_integral(flat_torus(500, d, 70, seed), torch.zeros(500, d).double())
        for seed in range(60)  # 70 neighbours: no list is too short, no point is looked at
    ]
    hits, claimed = coverage(found, d)
    assert hits >= 52 / 60
    assert 0.75 < claimed < 1.4


def test_interval_holds_its_mean_where_density_varies():
    found = [of(normal(500, 4, seed)) for seed in range(60)]
    hits, claimed = coverage(found, np.mean([e.value for e in found]))
    assert hits >= 52 / 60
    assert 0.75 < claimed < 1.4


@known(affine=2)
def test_finds_known_dimensions(x, d):
    assert of(x).value == pytest.approx(d, rel=0.1)


def test_bad_input():
    x = normal(60, 3)
    near = Neighbors.of_points(x, 20)
    with pytest.raises(InputError, match="k1=20, k2=10"):
        correlation_integral(near, x, k1=20, k2=10)
    with pytest.raises(InputError, match="among the points themselves"):
        correlation_integral(Neighbors.of_points(x[:40], 20, queries=x[40:]), x[40:])
    with pytest.raises(InputError, match="equals another row"):
        of(torch.cat([x, x[:1]]), 20)
    with pytest.raises(InputError, match="grid"):
        of(torch.eye(40))
    split = normal(200, 3)
    split[:100] *= 1e-4  # all pairs of one half lie within either radius, none of the other
    with pytest.raises(InputError, match="too uneven"):
        of(split)
    far = normal(300, 3)
    far[100:200, 0] += 1e7
    far[:200] *= 1e-3  # two dense places, lists of 20 too short in both
    with pytest.raises(InputError, match="too far apart"):
        of(far, 20)
