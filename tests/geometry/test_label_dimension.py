"""Calibrated under one dimension, powerful under two, and clear about poor labels."""

import json

import numpy as np
import pytest
import torch
from scipy import stats
from sklearn.cluster import KMeans

from lowdim.errors import InputError
from lowdim.geometry import dimension_by_label
from lowdim.geometry.label_dimension import cochran_q
from tests.geometry.manifolds import cube, normal


def p_values(draw, split, runs):
    return np.array([dimension_by_label(x := draw(s), split(x, s)).p_value for s in range(runs)])


def at_random(x, seed):
    return np.random.default_rng(seed).permutation(len(x)) % 8


def by_place(x, seed):
    return KMeans(8, n_init=1, random_state=seed, max_iter=10).fit_predict(x.numpy())


def sphere(seed):
    x = normal(800, 4, seed)
    return x / x.norm(dim=1, keepdim=True)  # dimension 3, curved


@pytest.mark.parametrize("split", [at_random, by_place])
@pytest.mark.parametrize("draw", [lambda s: cube(800, 3, s), sphere], ids=["flat", "curved"])
def test_labels_of_one_dimension_rarely_differ(draw, split):
    """At a true rate of 7%, more than 6 of 30 happens in 1 of 250 runs."""
    p = p_values(draw, split, 30)
    assert (p < 0.05).sum() <= 6


@pytest.mark.slow
@pytest.mark.parametrize("split", [at_random, by_place])
@pytest.mark.parametrize(
    "draw",
    [lambda s: cube(2000, 2, s), lambda s: normal(2000, 8, s), lambda s: cube(800, 5, s)],
    ids=["square", "normal-8", "cube-5"],
)
def test_calibration_in_full(draw, split):
    assert (p_values(draw, split, 200) < 0.05).mean() <= 0.08


def test_labels_of_different_dimension_differ():
    for seed in range(5):
        three = torch.cat([cube(600, 3, seed), torch.zeros(600, 3).double()], 1)
        x = torch.cat([three, cube(600, 6, 50 + seed) + 3])
        found = dimension_by_label(x, [f"{i % 3}" for i in range(600)] + ["6"] * 600)
        assert found.p_value < 1e-4
        assert found.rows[3].value > max(row.value for row in found.rows[:3]) + 1
        assert found.n_each == 200


def test_size_alone_does_not_make_a_difference():
    """A larger label reads a higher dimension, so all are cut to the smallest."""
    labels = np.repeat([0, 1, 2], [100, 300, 1600])
    p = np.array([dimension_by_label(normal(2000, 10, s), labels).p_value for s in range(20)])
    assert (p < 0.05).sum() <= 5


def test_a_label_with_few_points_gets_a_note():
    x = normal(300, 3)
    found = dimension_by_label(x, ["a"] * 150 + ["b"] * 140 + ["rare"] * 10)
    assert [row.label for row in found.rows] == ["a", "b", "rare"]
    assert found.rows[2].value is None
    assert found.rows[2].note == "10 distinct points, fewer than 50"
    assert found.n_each == 140
    assert json.loads(json.dumps(found.to_dict()))["rows"][0]["value"] == found.rows[0].value
    assert "rare" in str(found)


def test_one_label_has_nothing_to_differ_from():
    found = dimension_by_label(normal(100, 3), [1] * 100)
    assert found.p_value is None
    assert found.rows[0].value is not None


def test_copies_within_a_label_are_merged():
    x = normal(120, 3)
    once = dimension_by_label(x, ["a"] * 120)
    twice = dimension_by_label(torch.cat([x, x]), ["a"] * 240)
    assert twice.rows[0].n == 120
    assert twice.rows[0].value == pytest.approx(once.rows[0].value)


def test_welch_with_sure_errors_is_the_chi_square_of_q():
    values, errors = np.array([1.0, 1.3, 0.8, 1.1]), np.array([0.1, 0.2, 0.15, 0.1])
    q, p = cochran_q(values, errors, degrees=1e9)
    assert p == pytest.approx(stats.chi2.sf(q, 3), rel=1e-6)


def test_welch_is_welchs_anova():
    """Group means with their own standard errors: the classical test, by its textbook formula."""
    g = np.random.default_rng(0)
    groups = [g.normal(i / 5, 1 + i, 12) for i in range(4)]
    means = np.array([x.mean() for x in groups])
    errors = np.array([x.std(ddof=1) / 12**0.5 for x in groups])
    _, p = cochran_q(means, errors, degrees=11)
    w = 1 / errors**2
    centre = (w * means).sum() / w.sum()
    lam = 3 * ((1 - w / w.sum()) ** 2 / 11).sum() / (16 - 1)
    f = (w * (means - centre) ** 2).sum() / 3 / (1 + 2 * lam * 2 / 3)
    assert p == pytest.approx(stats.f.sf(f, 3, 1 / lam), rel=1e-9)


def test_bad_input():
    x = normal(100, 3)
    with pytest.raises(InputError, match="99 labels for 100 rows"):
        dimension_by_label(x, [0] * 99)
    with pytest.raises(InputError, match="min_count=10"):
        dimension_by_label(x, [0] * 100, min_count=10)
