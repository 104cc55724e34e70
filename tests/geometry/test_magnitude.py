"""Closed forms of the magnitude, three ways to one weighting, removal, boundaries, outliers."""

import math

import numpy as np
import pytest
import torch
from scipy.spatial import ConvexHull
from sklearn.datasets import load_digits
from sklearn.ensemble import IsolationForest
from sklearn.metrics import roc_auc_score
from sklearn.neighbors import LocalOutlierFactor
from sklearn.svm import OneClassSVM

from lowdim.core.points import distinct
from lowdim.errors import InputError, MemoryBudgetError
from lowdim.geometry.magnitude import (
    boundary_points,
    distances,
    local_magnitude,
    magnitude,
    outlier_score,
)
from lowdim.geometry.magnitude_image import magnitude_image
from lowdim.geometry.magnitude_moments import magnitude_moments, magnitude_subset
from tests.geometry.manifolds import cube, normal


@pytest.mark.parametrize("method", ["cholesky", "cg"])
def test_points_on_a_line(method):
    """Magnitude 1 + sum tanh(g/2); a weight is half the tanh of the gaps on its two sides."""
    gaps = cube(40, 1)[:, 0] * 3 + 0.1
    x = torch.cat([gaps.new_zeros(1), gaps.cumsum(0)])
    sides = torch.cat([gaps.new_full((1,), math.inf), gaps, gaps.new_full((1,), math.inf)])
    weights = ((sides / 2).tanh()[1:] + (sides / 2).tanh()[:-1]) / 2
    found = magnitude(x, scale=1.0, method=method)
    assert found.value == pytest.approx(1 + float((gaps / 2).tanh().sum()), rel=1e-9)
    assert found.per_point.numpy() == pytest.approx(weights.numpy(), abs=1e-8)
    slope = (gaps / 2 / (gaps / 2).cosh() ** 2).sum() / found.value  # at rate 1
    assert found.dimension == pytest.approx(float(slope), rel=1e-8)


def test_two_points_and_the_limits():
    pair = torch.tensor([[0.0, 0], [3, 4]]).double()
    assert magnitude(pair, scale=1.0).value == pytest.approx(2 / (1 + math.exp(-5)))
    assert magnitude(torch.zeros(1, 3)).value == 1
    x = normal(60, 3)
    assert magnitude(x, t=1e-4).value == pytest.approx(1, abs=1e-2)
    assert magnitude(x, t=1e3).value == pytest.approx(60)
    grown = [magnitude(x, t=t).value for t in (0.1, 0.3, 1, 3)]
    assert grown == sorted(grown)
    assert grown[0] >= 1
    assert grown[-1] <= 60


def test_the_scale_is_the_mean_nearest_distance():
    x = normal(80, 3)
    nearest = float((distances(x, x) + 1e9 * torch.eye(80)).min(1).values.mean())
    assert magnitude(x).rate == pytest.approx(1 / nearest)
    assert magnitude(x, t=0.5, scale=2.0).rate == 0.25


@pytest.mark.parametrize(("d", "t"), [(2, 0.2), (2, 1.0), (30, 0.2), (30, 1.0)])
def test_conjugate_gradients_agree_with_the_factorisation(d, t):
    x = normal(300, d)
    exact, found = (magnitude(x, t=t, method=m) for m in ("cholesky", "cg"))
    assert found.value == pytest.approx(exact.value, rel=1e-9)
    assert found.per_point.numpy() == pytest.approx(exact.per_point.numpy(), abs=1e-7)
    assert abs(found.value - exact.value) <= found.error + exact.error
    assert not found.exact
    assert exact.residual < 1e-12


def test_blocks_and_a_small_budget():
    x = normal(1500, 3)
    small = magnitude(x, memory="24MB")  # too little to keep 1500 x 1500 doubles and work on them
    assert small.notes
    assert small.value == pytest.approx(magnitude(x).value, rel=1e-9)
    with pytest.raises(MemoryBudgetError):
        magnitude(x, method="cholesky", memory="24MB")


def test_dimension_is_the_slope():
    x = normal(150, 3)
    lower, found, upper = (magnitude(x, t=t) for t in (0.999, 1.0, 1.001))
    slope = math.log(upper.value / lower.value) / math.log(1.001 / 0.999)
    assert found.dimension == pytest.approx(slope, rel=1e-5)


def test_distances_of_near_points_far_from_the_origin():
    x = normal(20, 100) + 1e3
    y = x + 1e-7 * normal(20, 100, 1)
    true = (x - y).norm(dim=1)
    assert distances(x, y).diagonal().numpy() == pytest.approx(true.numpy(), rel=1e-9)


def test_agrees_with_a_direct_solve_on_digits():
    x = distinct(torch.from_numpy(load_digits().data[:300]))[0]
    z = (-0.05 * torch.cdist(x, x)).exp()
    weights = np.linalg.solve(z.numpy(), np.ones(len(x)))
    found = magnitude(x, scale=20.0)
    assert found.per_point.numpy() == pytest.approx(weights, abs=1e-6)


def test_local_weights_order_points_as_the_exact_ones_and_know_their_error():
    x = cube(600, 2)
    exact, found = magnitude(x), local_magnitude(x, k=16)
    both = torch.stack([exact.per_point, found.per_point])
    assert float(torch.corrcoef(both)[0, 1]) > 0.98
    assert abs(found.value - exact.value) <= found.error
    everyone = local_magnitude(x[:40], k=100)
    assert everyone.value == pytest.approx(magnitude(x[:40]).value, rel=1e-9)
    assert everyone.residual < 1e-9


def test_removal_formula_is_exact():
    x = normal(60, 3)
    found = magnitude_moments(x, scale=1.0)
    for row in (0, 17, 59):
        rest = torch.cat([x[:row], x[row + 1 :]])
        loss = found.value - magnitude(rest, scale=1.0).value
        assert float(found.per_point[row]) == pytest.approx(loss, abs=1e-10)
    assert (found.per_point >= 0).all()


def test_subset_keeps_the_magnitude_and_the_hull():
    x = cube(250, 2)
    found = magnitude_subset(x, t=0.1, loss=0.0005)
    assert found.full * (1 - 0.0005) - 1e-9 <= found.value <= found.full
    assert len(found.kept) < 100
    hull = set(ConvexHull(x.numpy()).vertices.tolist())
    assert len(hull & set(found.kept.tolist())) >= 0.9 * len(hull)
    assert magnitude_subset(x[:30], loss=0.0).kept.tolist() == list(range(30))


def test_boundary_points_lie_on_the_boundary():
    x = cube(800, 2)
    rows = boundary_points(magnitude(x, t=0.1), share=0.1)
    inside = torch.minimum(x, 1 - x).amin(1)
    assert len(rows) == 80
    assert inside[rows].median() < 0.3 * inside.median()


def test_outliers_score_as_well_as_by_other_detectors():
    """Digits 0 to 4 are the cloud; the AUC of telling 5 to 9 from held-out 0 to 4."""
    x, y = load_digits(return_X_y=True)
    known = x[y < 5]
    train, new = known[:600], np.concatenate([known[600:], x[y >= 5][:300]])
    truth = np.r_[np.zeros(len(known) - 600), np.ones(300)]
    train = distinct(torch.from_numpy(train))[0].numpy()
    found = magnitude(train, t=10)
    ours = roc_auc_score(truth, outlier_score(train, new, found))
    others = [
        roc_auc_score(truth, -detector.fit(train).score_samples(new))
        for detector in (
            LocalOutlierFactor(novelty=True), IsolationForest(random_state=0),
            OneClassSVM(gamma="scale"),
        )
    ]  # fmt: skip
    assert ours > 0.95
    assert ours > max(others)  # at t = 10; at t = 1 it is 0.72, below LOF's 0.95
    assert outlier_score(train, train, found).max() < 1e-6
    assert outlier_score(train, train[:1] + 1e6, found) == pytest.approx(1)


def test_image_of_a_product_and_of_a_step():
    flat = magnitude_image(np.zeros((9, 14)), patch=14)
    assert flat.value == pytest.approx((1 + 8 * math.tanh(0.5)) * (1 + 13 * math.tanh(0.5)))
    assert flat.exact
    step = np.zeros((24, 24))
    step[:, 12:] = 1
    found = magnitude_image(step)
    across = found.per_point[12]
    assert set(across[3:-3].topk(2).indices.add(3).tolist()) == {11, 12}
    whole = magnitude_image(step, patch=24)
    assert found.residual < 0.02
    assert found.value == pytest.approx(whole.value, rel=1e-2)
    assert abs(found.value - whole.value) <= found.error + 1e-9


def test_bad_input():
    x = normal(30, 2)
    with pytest.raises(InputError, match="equal"):
        magnitude(torch.cat([x, x]))
    with pytest.raises(InputError, match="near-duplicates"):
        magnitude(torch.cat([x, x[:1]]))
    with pytest.raises(InputError, match="above zero"):
        magnitude(x, t=0.0)
    with pytest.raises(InputError, match="method"):
        magnitude(x, method="inverse")
    with pytest.raises(InputError, match="columns"):
        outlier_score(x, normal(5, 3), magnitude(x))
    with pytest.raises(InputError, match="share"):
        boundary_points(magnitude(x), share=0.0)
    with pytest.raises(InputError, match="loss"):
        magnitude_subset(x, loss=1.0)
    with pytest.raises(InputError, match="shape"):
        magnitude_image(np.zeros(5))
    with pytest.raises(InputError, match="contrast"):
        magnitude_image(np.zeros((5, 5)), t=-1.0)
    with pytest.raises(InputError, match="row 7, column 0"):
        magnitude_image(np.where(np.eye(6) * np.arange(6) == 1, np.nan, 0))
