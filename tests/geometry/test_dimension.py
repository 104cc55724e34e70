"""Readings against closed forms, the interval against known manifolds, and what is not resolved."""

import math
import sys

import numpy as np
import pytest
import torch

import lowdim
from benchmarks import dimension_accuracy, dimension_blind
from benchmarks.make_calibration import calibrate, frames, low_rank, simulate, together
from lowdim import datasets
from lowdim.core.neighbors import Neighbors
from lowdim.errors import InputError
from lowdim.geometry import dimension
from lowdim.geometry.dimension import (
    _ratio,
    _with_a_whole_number,
    load_calibration,
    quadratic,
    squared_cosine,
)
from lowdim.manifolds import BENCHMARK
from tests.geometry.manifolds import cube, flat_torus, normal


@pytest.mark.parametrize("d", [1, 2, 5, 40])
def test_angles_of_random_directions_are_the_dimension(d):
    """cos^2 of two independent isotropic directions has mean 1/d; a flat embedding changes none."""
    x = normal(3000, d)
    indices = torch.randint(3000, (3000, 8), generator=torch.Generator().manual_seed(1))
    found = float(squared_cosine(torch.nn.functional.pad(x, (3, 2)), indices))
    assert 1 / found == pytest.approx(d, rel=0.04)
    blocked = squared_cosine(x, indices, memory="1MiB")
    assert float(blocked) == pytest.approx(found, rel=1e-9)


@pytest.mark.parametrize("j", [1, 2, 8])
@pytest.mark.parametrize("d", [1, 3])
def test_ratios_are_the_dimension_on_a_flat_torus(d, j):
    found = [_ratio(flat_torus(1000, d, 16, seed).distances, j) for seed in range(8)]
    assert sum(found) / 8 == pytest.approx(d, rel=0.03)


@pytest.mark.parametrize("name", ["M2_Affine_3to5", "M7_Roll", "M9_Affine", "M11_Moebius"])
def test_interval_holds_the_truth(name):
    m = BENCHMARK[name]
    found = dimension(m.sample(1000, seed=5))
    assert found.resolved
    assert found.low <= m.dim <= found.high
    assert found.high / found.low <= 2
    assert found.level == 0.9


def _held(ns, noises):
    """Share of the benchmark's cases that are resolved, and share of these that hold the truth."""
    found = [
        (m.dim, dimension(m.sample(n, noise=noise, seed=7)))
        for m in BENCHMARK.values()
        for n in ns
        for noise in noises
    ]
    hits = [e.low <= dim <= e.high for dim, e in found if e.resolved]
    return len(hits) / len(found), sum(hits) / len(hits)


def test_intervals_hold_on_manifolds_that_the_calibration_has_not_seen():
    resolved, held = _held([1000], [0.0])
    assert resolved >= 0.75
    assert held >= 0.85


@pytest.mark.slow
def test_intervals_hold_at_every_n_and_noise():
    resolved, held = _held([250, 500, 1000, 2500], [0.0, 0.01, 0.05])
    assert resolved >= 0.75
    assert held >= 0.85


def test_no_interval_goes_beyond_the_rank():
    found = dimension(datasets.affine(400, 20, 50, seed=1, dtype=torch.float32))
    assert found.value <= 20
    assert found.high <= 20


def test_an_interval_holds_a_whole_number():
    assert _with_a_whole_number(1.2, 1.1, 1.3) == (1, 1.3)
    assert _with_a_whole_number(2.8, 2.7, 2.9) == (2.7, 3)
    assert _with_a_whole_number(2.8, 2.7, 3.1) == (2.7, 3.1)
    assert _with_a_whole_number(0.3, 0.2, 0.4) == (0.2, 1)


def test_says_when_it_cannot_tell():
    few = dimension(cube(60, 3))
    assert not few.resolved
    assert "not resolved" in few.notes[0]
    curve, ball = datasets.cube(500, 1, 30, seed=1), datasets.cube(500, 20, 30, seed=1)
    both = dimension(torch.cat([curve, ball + 30]))
    assert not both.resolved
    assert "as if there were several" in both.notes[0]
    clusters = [1e-3 * normal(40, 10, i) + normal(1, 10, 100 + i) for i in range(20)]
    found = dimension(torch.cat(clusters))
    assert not found.resolved
    assert "unlike the simulated sets" in found.notes[0]
    assert found.value == found.readings["mle"]


def test_higher_levels_are_wider_and_unknown_ones_refused():
    x = cube(800, 4)
    narrow, wide = dimension(x, level=0.8), dimension(x, level=0.95)
    assert narrow.value == wide.value
    assert wide.low < narrow.low < narrow.value < narrow.high <= wide.high <= 4  # the rank
    with pytest.raises(InputError, match=r"level=0\.999"):
        dimension(x, level=0.999)


def test_takes_paths_and_merges_copies_and_is_what_measure_gives(tmp_path):
    x = cube(300, 3)
    np.save(tmp_path / "x.npy", x.numpy())
    found = dimension(x)
    assert dimension(tmp_path / "x.npy").value == found.value
    assert lowdim.measure(x, "geometry/dimension")["geometry/dimension"].low == found.low
    doubled = dimension(torch.cat([x, x]))
    assert doubled.value == pytest.approx(found.value, rel=1e-6)
    assert "300 exact duplicates merged" in doubled.notes


def test_large_sets_are_read_off_a_sample(monkeypatch, tmp_path):
    monkeypatch.setattr(sys.modules["lowdim.geometry.dimension"], "LARGEST", 400)
    x = cube(900, 2)
    np.save(tmp_path / "x.npy", x.numpy())
    found = dimension(tmp_path / "x.npy")
    assert found.n == 400
    assert found.notes == ("read off 400 of 900 rows",)
    assert found.low <= 2 <= found.high
    again = lowdim.measure(x, "geometry/dimension")["geometry/dimension"]
    assert again.value == found.value


def test_readings_are_those_of_the_calibration():
    found = dimension(cube(300, 3)).readings
    assert (*found, "n") == load_calibration().names
    neighbors = Neighbors.of_points(cube(300, 3), 20)
    assert found["mle"] == pytest.approx(lowdim.geometry.mle(neighbors).value, rel=1e-9)


def test_points_on_a_grid_are_refused():
    with pytest.raises(InputError, match="grid"):
        dimension(torch.eye(40))


def test_calibration_finds_a_quadratic_law_and_its_error_on_families_left_out():
    g = np.random.default_rng(0)
    features = g.normal(size=(4000, 3))
    log_d = 1 + features[:, 0] - 0.5 * features[:, 1] * features[:, 2]
    log_d += 0.1 * np.exp(0.5 * features[:, 0]) * g.normal(size=4000)
    drawn = [(math.exp(v), str(i % 4), str(i % 3)) for i, v in enumerate(log_d)]
    made = calibrate(features, drawn)
    z = (features - made["mean"]) / made["scale"]
    residual = np.abs(log_d - quadratic(z) @ made["location"])
    spread = np.exp(quadratic(z) @ made["spread"])
    assert np.mean(residual <= made["scores"][5] * spread) == pytest.approx(0.9, abs=0.02)
    narrow = np.mean(spread[features[:, 0] < -1]) / np.mean(spread[features[:, 0] > 1])
    assert narrow < 0.5  # exp(-1.5) where the law of the error was found


def test_simulated_sets_are_those_of_their_seed():
    one, again, other = simulate(3), simulate(3), simulate(4)
    assert np.array_equal(one.x, again.x)
    assert one.x.shape != other.x.shape
    assert np.isfinite(one.x).all()
    assert np.linalg.matrix_rank(one.x - one.x.mean(0)) >= min(one.dim, len(one.x) - 1)


@pytest.mark.parametrize("d", [1, 3, 6, 15, 40])
def test_simulated_spaces_are_what_they_say(d):
    """Orthonormal columns and matrices of rank r, with the dimensions of those manifolds."""
    x, dim = frames(np.random.default_rng(d), 4, d)
    q = next(q for q in _as_matrices(x) if np.allclose(q.mT @ q, np.eye(q.shape[2])))
    m, k = q.shape[1:]
    assert dim == m * k - k * (k + 1) // 2
    x, dim = low_rank(np.random.default_rng(d), 4, d)
    deficient = [
        r * (a + b - r)
        for (a, b), r in ((m[0].shape, np.linalg.matrix_rank(m[0])) for m in _as_matrices(x))
        if r < min(a, b)
    ]
    assert dim in deficient


def _as_matrices(x):
    """Every (n, a, b) that the (n, a b) columns can be, a and b at least 2."""
    width = x.shape[1]
    return [x.reshape(len(x), a, -1) for a in range(2, width // 2 + 1) if width % a == 0]


def test_parts_of_a_simulation_join_in_the_order_of_their_seeds():
    rows = {"features": np.arange(12.0).reshape(4, 3), "dim": np.arange(4)}
    rows |= {"seed": np.arange(4), "shape": np.array([*"abcd"]), "map": np.array([*"efgh"])}
    more = {"names": np.array(["r"]), "seconds": np.array(2.0)}
    joined = together([{k: v[i::2] for k, v in rows.items()} | more for i in range(2)])
    assert all(np.array_equal(joined[k], v) for k, v in rows.items())
    assert joined["seconds"] == 4


@pytest.mark.parametrize("name", dimension_blind.SHAPES)
def test_blind_shapes_have_their_dimension(name):
    """The rank of the Jacobian at a random point."""
    shape = dimension_blind.SHAPES[name]
    draw = torch.randn if shape.normal else torch.rand
    at = draw(1, shape.numbers, generator=torch.Generator().manual_seed(3), dtype=torch.float64)
    jacobian = torch.autograd.functional.jacobian(shape.at, at)[0, :, 0]  # (ambient, numbers)
    assert torch.linalg.matrix_rank(jacobian, rtol=1e-9) == shape.dim


def test_blind_table_counts_resolved_and_held():
    cells = [
        {"shape": "Klein bottle", "dim": 2, "n": n, "value": 2.0, "low": low, "high": high}
        for n, low, high in ((300, None, None), (1000, 1.5, 2.5), (2500, 2.1, 2.4))
    ]
    found = {row.what: row.figure for row in dimension_blind.rows(cells)}
    assert found["resolved 90% intervals that hold the truth"] == 0.5
    assert found["Klein bottle, d = 2: share resolved"] == pytest.approx(2 / 3)
    assert found["torus knot (3, 5), d = 1: share resolved"] == 0


@pytest.mark.filterwarnings("ignore:n_neighbors")
def test_accuracy_page_names_what_was_left_out():
    """All of theirs are slower than no time at all, so each is left out after its first fit."""
    pytest.importorskip("skdim")
    roll = BENCHMARK["M7_Roll"]
    cheap = [m for m in dimension_accuracy.estimators() if m.id.split("/")[1] in ("mle", "mom")]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(dimension_accuracy, "estimators", lambda: cheap)
        cells = dimension_accuracy.accuracy([roll], [130, 150], [0.0], 2, 0.0)
    record = {"accuracy": cells, "coverage": dimension_accuracy.coverage([roll], [250], [0.0], 1)}
    record |= {"settings": {"repeats": 2}, "command": "this", "date": "2026-01-01T00:00"}
    page = dimension_accuracy.page(record)
    assert "left out: mle from n = 130 on" in page
    assert "; mom from n = 130 on" in page
    assert "| M7_Roll | 2 |" in page
