import json
import math

import numpy as np
import pytest
import torch
from scipy.stats import gamma

from lowdim.core.neighbors import Neighbors
from lowdim.datasets import flat_torus, phase_shuffled, sphere, strata, swiss_roll
from lowdim.errors import InputError
from lowdim.structure.k_subspaces import KSubspaces
from lowdim.structure.stratification import Half, _gap, stratification_test


def normal(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed)).double()


def uniform(*shape, seed=0):
    return torch.rand(*shape, generator=torch.Generator().manual_seed(seed)).double()


ONE_PIECE = {
    "normal": lambda: normal(300, 12) * torch.arange(1, 13).double() ** -0.7,
    "sphere": lambda: sphere(300, 2, 10, seed=1),
    "Swiss roll": lambda: swiss_roll(300, 10, seed=1),
    "phases shuffled": lambda: phase_shuffled(strata(300, (1, 6), 10, seed=2).points),
}


@pytest.mark.parametrize("name", ONE_PIECE)
def test_one_piece_is_enough(name):
    found = stratification_test(ONE_PIECE[name]())
    assert not found.rejected
    assert found.value > 0.5
    assert "One smooth piece is not ruled out" in found.verdict


def test_a_bent_piece_is_kept_although_flat_ones_describe_it_better():
    found = stratification_test(sphere(600, 2, 10, seed=1), n_pieces=6)
    assert found.code_p < 1e-6
    assert found.dimension_p > 0.5
    assert found.strata_p == found.dimension_p
    assert "as they do for a curved piece" in found.verdict


def test_pieces_of_different_dimension_that_meet_are_found():
    planted = strata(400, (2, 9), 20, noise=0.05, seed=3)
    found = stratification_test(planted.points)
    assert found.rejected
    assert found.strata_p < 1e-6
    assert found.gap_p > 0.05
    assert found.dimension_ratio > 2
    assert min(d for d, n in zip(found.dims, found.sizes, strict=True) if n > 20) < 3
    assert "pieces of different dimension" in found.verdict
    assert "separate places" not in found.verdict


def test_separate_places_of_equal_dimension_are_told_from_strata():
    x = normal(400, 3, seed=4)
    x[200:, 0] += 12
    found = stratification_test(x)
    assert found.rejected
    assert found.gap_p < 1e-6
    assert found.strata_p > 0.05
    assert (found.apart, found.places) == (32, 2)
    assert "separate places" in found.verdict
    assert "pieces of different dimension" not in found.verdict


def test_the_two_ways_share_the_level():
    for x in (normal(200, 3), strata(200, (1, 3), 6, separation=1, seed=1).points):
        found = stratification_test(x)
        assert found.value == min(1, 2 * min(found.strata_p, found.gap_p))
        assert found.strata_p == max(found.code_p, found.dimension_p)
        assert found.rejected == (found.value <= 0.05)
        assert sum(found.sizes) == 100


def test_a_stricter_ratio_rejects_less():
    x = strata(300, (2, 5), 10, seed=6).points
    ps = [stratification_test(x, n_pieces=2, ratio=ratio).dimension_p for ratio in (1, 1.5, 4)]
    assert ps == sorted(ps)
    assert ps[2] > 0.5


def test_result_is_json_and_says_its_verdict():
    found = stratification_test(normal(120, 3))
    plain = json.loads(json.dumps(found.to_dict()))
    assert plain["verdict"] == str(found)
    assert plain["parameters"]["pieces"] > 0
    assert plain["gains"]["one Gaussian"][0] == found.gains["one Gaussian"][0]


def test_any_finder_and_number_of_pieces_will_do():
    x = strata(200, (1, 3), 6, separation=2, seed=1).points
    found = stratification_test(x, n_pieces=3, finder=KSubspaces(9, ranks=2, random_state=1))
    assert found.n_pieces == 3
    assert len(found.dims) == 3


def test_duplicates_are_merged():
    x = normal(100, 3)
    found = stratification_test(torch.cat([x, x[:30]]))
    assert found.notes == ("30 exact duplicates merged",)
    assert found.value == stratification_test(x).value


def test_chance_of_a_gap_is_the_race_of_three_clocks():
    """E[exp(-max of two gammas)], by the integral of exp(-g) P(both below g)."""
    grid = np.linspace(0, 120, 240_001)
    for k in (6, 11):  # two clusters of k + 1 points on a line, so that the graph joins them at k+1
        x = torch.cat([uniform(k + 1, 1), 100 + uniform(k + 1, 1, seed=1)])
        p, apart, places = _gap(x, None)
        expected = np.trapezoid(np.exp(-grid) * gamma.cdf(grid, k) ** 2, grid)
        assert (apart, places) == (k, 2)
        assert p == pytest.approx(min(1, 2 * (k + 1) * expected), rel=1e-6)


@pytest.mark.parametrize(
    "bend",
    [
        lambda u: u,
        lambda u: torch.cat([(9 * u).cos(), (9 * u).sin(), u], 1),
        lambda u: -u.log(),
        lambda u: torch.tan(3 * (u - 0.5)),
    ],
    ids=["line", "helix", "exponential", "heavy tails"],
)
def test_gaps_of_a_line_are_within_the_level(bend):
    ps = torch.tensor([_gap(bend(uniform(150, 1, seed=s)), None)[0] for s in range(60)])
    assert int((ps <= 0.05).sum()) <= 7  # 3 are due; more than 7 have a chance below 0.02


def test_contrast_is_a_standard_normal_where_dimensions_are_equal():
    z = []
    for seed in range(60):
        x = flat_torus(300, 2, 4, seed=seed)
        labels = (x @ normal(4, seed=99) > 0).long()
        half = Half.of(x, labels, 10, None)
        value, error = half.contrast(torch.tensor([True, False]))
        z.append(value / error)
    z = torch.tensor(z)
    assert 0.6 < float(z.std()) < 1.25  # the error of overlapping neighbourhoods errs wide
    assert abs(float(z.mean())) < 0.45


def test_contrast_is_the_ratio_of_dimensions():
    planted = strata(800, (2, 6), 10, separation=9, seed=1)
    half = Half.of(planted.points, planted.labels, 10, None)
    value, error = half.contrast(torch.tensor([False, True]))
    near = Neighbors.of_points(planted.points, 10).distances
    local = 1 / (near[:, -1:] / near[:, :-1]).log().mean(1)
    harmonic = [1 / (1 / local[planted.labels == k]).mean() for k in (0, 1)]
    assert math.exp(value) == pytest.approx(float(harmonic[1] / harmonic[0]))
    assert 0 < error < 0.2
    assert half.contrast(torch.tensor([True, True])) == (0.0, 0.0)


def test_mistakes_are_named():
    x = normal(100, 3)
    for options, said in (
        ({"n_pieces": 1}, "at least 2"),
        ({"n_pieces": "many"}, "'auto'"),
        ({"ratio": 0.9}, "ratio of at least 1"),
        ({"level": 0.0}, "level in"),
        ({"k": 2}, "at least 3 neighbours"),
    ):
        with pytest.raises(InputError, match=said):
            stratification_test(x, **options)
    with pytest.raises(InputError, match="79 distinct points"):
        stratification_test(torch.cat([x[:79], x[:40]]))
    with pytest.raises(InputError, match="grid"):
        stratification_test(torch.eye(100), n_pieces=2)
    bad = x.clone()
    bad[17, 2] = float("nan")
    with pytest.raises(InputError, match="row 17"):
        stratification_test(bad)


@pytest.mark.slow
def test_size_is_within_the_level():
    rejected = [
        stratification_test(swiss_roll(600, 10, seed=s), random_state=s).rejected for s in range(40)
    ]
    assert sum(rejected) <= 5  # more has a chance of 0.014 at level 0.05


def test_a_p_value_is_never_said_to_be_zero():
    found = stratification_test(strata(600, ambient=64, noise=0.1, seed=0).points)
    assert found.code_p == 0  # beyond what a float holds
    assert "p < 1e-300" in found.verdict
    assert "p = 0)" not in found.verdict
