"""Against POT on the same directions, closed forms, and honest standard errors."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from lowdim.diversity import sliced_wasserstein
from lowdim.diversity.sliced_wasserstein import CONTROLS, directions
from lowdim.errors import InputError


def draw(n, d, seed=0):
    return torch.randn(n, d, generator=torch.Generator().manual_seed(seed)).double()


def stretched(n, d, seed):
    return draw(n, d, seed) * torch.linspace(0.5, 2, d) + 0.5


@pytest.mark.parametrize("d", [1, 7])
@pytest.mark.parametrize(("n", "m"), [(60, 60), (60, 90), (37, 101)])
@pytest.mark.parametrize("weighted", [(), ("x",), ("y",), ("x", "y")])
def test_agrees_with_pot_on_the_same_directions(n, m, d, weighted):
    ot = pytest.importorskip("ot")
    x, y = draw(n, d), stretched(m, d, 1)
    weights = {"x": draw(n, 1, 2)[:, 0].abs(), "y": draw(m, 1, 3)[:, 0].abs()}
    weights["x"][:9] = 0
    found = sliced_wasserstein(
        x, y, control="none", n_projections=30, seed=5,
        **{f"{name}_weights": weights[name] for name in weighted},
    )  # fmt: skip
    a, b = (
        (weights[name] / weights[name].sum()).numpy() if name in weighted else None for name in "xy"
    )
    theta = directions(d, 30, 5).T.numpy()
    oracle = ot.sliced_wasserstein_distance(x.numpy(), y.numpy(), a, b, projections=theta)
    assert found.value == pytest.approx(float(oracle), rel=1e-10)
    assert found.exact is (d == 1)


@pytest.mark.parametrize("control", ["lower", "both"])
def test_a_translation_is_exact(control):
    """Every projection moves by its share of the shift: the control variate is the cost itself."""
    x, shift = draw(50, 6), torch.arange(6.0)
    found = sliced_wasserstein(x, x + shift, control=control, n_projections=10)
    assert found.squared == pytest.approx(float(shift.square().sum()) / 6, rel=1e-12)
    assert found.standard_error == pytest.approx(0, abs=1e-12)
    assert found.value == pytest.approx(found.low) == pytest.approx(found.high)


def test_one_column_is_the_integral_of_quantile_gaps():
    x, y = torch.tensor([0.0, 0.0, 1.0]), torch.tensor([0.0, 2.0])
    # quantiles 0 0 | 0 0 -> 1, 2: on (0, 1/2) 0 against 0, (1/2, 2/3) 0 against 2, then 1 against 2
    assert sliced_wasserstein(x, y).squared == pytest.approx(4 / 6 + 1 / 3)
    assert sliced_wasserstein(x, y).standard_error == 0


def test_two_points_on_an_axis():
    """Dirac masses r apart: the mean squared cosine is 1 / d."""
    x, y = torch.zeros(1, 9), torch.eye(9)[:1] * 6
    assert sliced_wasserstein(x, y).value == pytest.approx(2, rel=1e-12)


@pytest.mark.parametrize("control", ["lower", "upper", "both"])
def test_control_variates_keep_the_mean_and_reduce_the_variance_as_reported(control):
    x, y = draw(100, 5), stretched(100, 5, 1)
    many = sliced_wasserstein(x, y, control="none", n_projections=20_000)
    runs = {
        c: [sliced_wasserstein(x, y, control=c, n_projections=50, seed=s) for s in range(1, 121)]
        for c in ("none", control)
    }
    values = {c: torch.tensor([run.squared for run in found]) for c, found in runs.items()}
    spread = float(values[control].std())
    tolerance = 4 * (spread / math.sqrt(120) + many.standard_error)
    assert float(values[control].mean()) == pytest.approx(many.squared, abs=tolerance)
    errors = torch.tensor([run.standard_error for run in runs[control]])
    assert float(errors.mean()) == pytest.approx(spread, rel=0.25)
    held = [run.low <= many.value <= run.high for run in runs[control]]
    assert sum(held) / 120 > 0.87
    ratio = float(values["none"].var() / values[control].var())
    stated = float(torch.tensor([run.variance_ratio for run in runs[control]]).median())
    assert ratio > 1.2
    assert stated == pytest.approx(ratio, rel=0.5)


def test_both_controls_explain_at_least_what_each_does():
    x, y = draw(200, 20), stretched(150, 20, 1)
    error = {c: sliced_wasserstein(x, y, control=c).standard_error for c in CONTROLS}
    assert error["both"] < min(error["lower"], error["upper"]) < error["none"]


@settings(max_examples=20, deadline=None)
@given(st.integers(0, 1000), st.integers(1, 30), st.integers(1, 30), st.integers(1, 6))
def test_a_distance(seed, n, m, d):
    x, y = draw(n, d, seed), draw(m, d, seed + 1)
    there, back = (
        sliced_wasserstein(a, b, n_projections=16, control="none").value
        for a, b in ((x, y), (y, x))
    )
    assert there == pytest.approx(back, rel=1e-9)
    assert sliced_wasserstein(x, x).value == 0
    doubled = sliced_wasserstein(x, y.repeat(2, 1), n_projections=16, control="none").value
    assert doubled == pytest.approx(there, rel=1e-6)


def test_single_precision_far_away_and_a_small_budget():
    x, y = draw(3000, 10), stretched(2000, 10, 1)
    found = sliced_wasserstein(x, y)
    assert sliced_wasserstein(x.float(), y.float()).value == pytest.approx(found.value, rel=1e-5)
    assert sliced_wasserstein(x + 1e7, y + 1e7).value == pytest.approx(found.value, rel=1e-6)
    assert sliced_wasserstein(x, y, memory="2MiB").value == pytest.approx(found.value, rel=1e-12)
    assert sliced_wasserstein(x, y, seed=1).value != found.value


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"control": "best"}, "choose from none, lower, upper, both"),
        ({"n_projections": 3}, "n_projections=3: give 6 or more"),
        ({"x_weights": torch.ones(3)}, "x_weights: give 20 numbers"),
        ({"y_weights": -torch.ones(20)}, "y_weights"),
        ({"y_weights": torch.zeros(20)}, "not all zero"),
    ],
)
def test_bad_options_are_refused(options, message):
    with pytest.raises(InputError, match=message):
        sliced_wasserstein(draw(20, 3), draw(20, 3, 1), **options)


def test_other_columns_are_refused():
    with pytest.raises(InputError, match="x has 3 columns and y 2"):
        sliced_wasserstein(draw(20, 3), draw(20, 2))
