"""The logit's decomposition, margins against projections, and the difference of two models."""

import pytest
import torch

from lowdim.errors import InputError
from lowdim.geometry import class_directions, directions_change


def layer(classes=4, d=10, seed=0):
    g = torch.Generator().manual_seed(seed)
    w, b = torch.randn(classes, d, generator=g).double(), torch.randn(classes, generator=g).double()
    x = torch.randn(200, d, generator=g).double()
    return x, torch.arange(200) % classes, w, b


def test_logit_is_length_times_direction_times_cosine():
    x, y, w, b = layer()
    found = class_directions(x, y, weight=w, bias=b)
    logit = (x @ w.T + b).gather(1, y[:, None])[:, 0]
    parts = found.lengths * w.norm(dim=1)[y] * found.angles.cos() + b[y]
    assert torch.allclose(parts, logit, atol=1e-10)


def test_margin_is_the_distance_to_the_nearest_boundary():
    x, y, w, b = layer()
    found = class_directions(x, y, weight=w, bias=b)
    right = (x @ w.T + b).argmax(1) == y
    assert torch.equal(found.per_point > 0, right)
    assert found.accuracy == pytest.approx(float(right.double().mean()))
    i = int(right.nonzero()[0])
    logits = x[i] @ w.T + b
    for j in range(4):
        if j != y[i]:  # the step that makes two logits equal is no shorter than the margin
            across = w[y[i]] - w[j]
            step = (logits[y[i]] - logits[j]) / across.norm()
            moved = x[i] - step * across / across.norm()
            assert float((moved @ across) + b[y[i]] - b[j]) == pytest.approx(0, abs=1e-9)
            assert step >= found.per_point[i] - 1e-9


def test_without_weights_it_is_the_nearest_class_mean():
    from sklearn.neighbors import NearestCentroid

    x, y, w, _ = layer()
    x = x + w[y]
    found = class_directions(x, y)
    said = NearestCentroid().fit(x, y).predict(x)
    assert found.accuracy == pytest.approx(float((torch.from_numpy(said) == y).double().mean()))
    assert class_directions(x, [f"c{i}" for i in y]).value == pytest.approx(found.value)


def test_change_names_what_flipped_and_by_what():
    x, y, w, b = layer()
    x = x + w[y] / 2
    before = class_directions(x, y, weight=w, bias=b)
    same = directions_change(before, before)
    assert (same.value, len(same.lost), len(same.gained)) == (0, 0, 0)
    noisy = x + torch.randn(200, 10, generator=torch.Generator().manual_seed(5)).double()
    after = class_directions(noisy, y, weight=w, bias=b)
    change = directions_change(before, after)
    assert change.value == pytest.approx((len(change.gained) - len(change.lost)) / 200)
    assert change.follows_angle < -0.5  # margins fall as angles grow
    shorter = directions_change(
        class_directions(x, y, weight=w), class_directions(x / 2, y, weight=w)
    )
    assert shorter.angle == pytest.approx(0, abs=1e-9)  # without bias a shorter vector flips none
    assert shorter.value == 0
    assert shorter.length < 0


def test_neither_order_nor_rotation_matters():
    x, y, _, _ = layer()
    g = torch.Generator().manual_seed(1)
    turn, order = (
        torch.linalg.qr(torch.randn(10, 10, generator=g).double())[0],
        torch.randperm(200, generator=g),
    )
    found = class_directions(x, y)
    assert class_directions(x @ turn, y).value == pytest.approx(found.value, rel=1e-9)
    assert class_directions(x[order], y[order]).value == pytest.approx(found.value, rel=1e-9)


def test_bad_input():
    x, y, w, b = layer()
    with pytest.raises(InputError, match="do not fit"):
        class_directions(x, y, weight=w[:, :-1], bias=b)
    with pytest.raises(InputError, match="integers 0 to 2"):
        class_directions(x, y, weight=w[:3], bias=b[:3])
    with pytest.raises(InputError, match="same direction"):
        class_directions(x, y, weight=w[[0, 0, 1, 2]])
    with pytest.raises(InputError, match="rows correspond"):
        directions_change(class_directions(x, y), class_directions(x[:-1], y[:-1]))
