"""The common battery: what every registered method has to do, made from what it declares.

Collected by ``tests/test_battery.py``; a package that registers methods of its own can run it too:

    from tests.battery import *
"""

from __future__ import annotations

import dataclasses
import math

import pytest
import torch

from lowdim.battery import Shared, fits_points
from lowdim.core.estimate import Estimate
from lowdim.core.spectrum import Spectrum
from lowdim.errors import InputError
from lowdim.registry import methods

POINT_METHODS = [m for m in methods() if fits_points(m)]
MATRIX_METHODS = [m for m in methods() if all(need.noun == "matrix" for need in m.needs)]
PAIR_METHODS = [m for m in methods() if any(need.noun == "pair" for need in m.needs)]
N, DIM = 400, 12


def sample(dtype: torch.dtype = torch.float64) -> torch.Tensor:
    """A bent 3-dimensional sheet with noise, off the origin, in 12 dimensions."""
    g = torch.Generator().manual_seed(7)
    z = torch.rand(N, 3, generator=g, dtype=torch.float64)
    bent = torch.cat([z, (3 * z).sin(), z * z], 1) @ torch.randn(9, DIM, generator=g).double()
    return (bent + 0.01 * torch.randn(N, DIM, generator=g).double() + 0.5).to(dtype)


def run(method, x, **options) -> Estimate:
    """One method on one set of points."""
    return Shared(x, [method], **options).run(method)


def same(a: Estimate, b: Estimate, tolerance: float) -> bool:
    """Whether two values agree relative to their size."""
    return math.isclose(a.value, b.value, rel_tol=tolerance, abs_tol=tolerance)


def check_message(error: InputError) -> None:
    """A message is one line, and says something."""
    assert 20 < len(str(error)) < 400
    assert "\n" not in str(error)


by_id = {"ids": lambda m: m.id}


@pytest.mark.parametrize("method", methods(), **by_id)
def test_declares_what_the_listing_prints(method):
    assert method.question.endswith("?"), "the first line of the docstring is a question"
    assert method.paper
    assert method.cost
    assert method.needs
    assert method.invariant <= {"permutation", "rotation", "translation", "scale", "row-scale"}
    assert method.to_dict()["question"] == method.question


@pytest.mark.parametrize("method", POINT_METHODS, **by_id)
def test_result_says_what_it_rests_on(method):
    found = run(method, sample())
    assert isinstance(found, Estimate)
    assert dataclasses.is_dataclass(found)
    assert math.isfinite(found.value)
    assert 0 < found.n <= N
    assert found.seconds is not None
    if found.low is not None and found.high is not None:
        assert found.low <= found.value <= found.high
    if found.per_point is not None:
        assert found.per_point.shape == (N,)
    assert found.to_dict()["value"] == found.value


@pytest.mark.parametrize("method", POINT_METHODS, **by_id)
def test_float32_agrees_with_float64(method):
    assert same(run(method, sample(torch.float32)), run(method, sample()), 2e-3)


@pytest.mark.parametrize("method", POINT_METHODS, **by_id)
@pytest.mark.parametrize("change", ["permutation", "rotation", "translation", "scale", "row-scale"])
def test_declared_invariances_hold(method, change):
    if change not in method.invariant:
        pytest.skip(f"{method.id} does not declare {change}")
    g = torch.Generator().manual_seed(3)
    x = sample()
    changed = {
        "permutation": lambda: x[torch.randperm(N, generator=g)],
        "rotation": lambda: x @ torch.linalg.qr(torch.randn(DIM, DIM, generator=g).double())[0],
        "translation": lambda: x + 3,
        "scale": lambda: 7.5 * x,
        "row-scale": lambda: x * torch.rand(N, 1, generator=g).double().add(0.5),
    }[change]()
    assert same(run(method, changed), run(method, x), 1e-6)


@pytest.mark.parametrize("method", POINT_METHODS, **by_id)
def test_same_numbers_from_run_to_run_and_under_a_small_budget(method):
    first = run(method, sample())
    assert run(method, sample()).value == first.value
    assert same(run(method, sample(), memory="32MiB"), first, 1e-9)


@pytest.mark.parametrize("method", POINT_METHODS, **by_id)
def test_input_is_left_as_it_was(method):
    x = sample()
    before = x.clone()
    run(method, x)
    assert torch.equal(x, before)


@pytest.mark.parametrize("method", POINT_METHODS, **by_id)
def test_nan_names_its_row(method):
    x = sample()
    x[17, 3] = float("nan")
    with pytest.raises(InputError, match="row 17"):
        run(method, x)


@pytest.mark.parametrize("method", POINT_METHODS, **by_id)
def test_half_precision_and_integers_are_promoted(method):
    half = sample(torch.float16)
    assert same(run(method, half), run(method, half.double()), 2e-3)
    whole = (sample() * 1000).round().to(torch.int32)
    assert same(run(method, whole), run(method, whole.double()), 2e-3)


@pytest.mark.parametrize("method", POINT_METHODS, **by_id)
def test_exact_duplicates_give_a_finite_answer(method):
    x = sample()
    for copies in (x[:1].expand(50, -1), x):  # one row many times; every row twice
        assert math.isfinite(run(method, torch.cat([x, copies])).value)


@pytest.mark.parametrize("method", POINT_METHODS, **by_id)
def test_neighbour_methods_merge_duplicates_and_say_so(method):
    if all(need.noun != "neighbors" for need in method.needs):
        pytest.skip("reads no neighbours")
    x = sample()
    doubled = run(method, torch.cat([x, x]))
    assert "400 exact duplicates merged" in doubled.notes
    if doubled.per_point is not None:
        assert doubled.per_point.shape == (2 * N,)


@pytest.mark.parametrize("method", POINT_METHODS, **by_id)
@pytest.mark.parametrize(
    "x",
    [
        torch.ones(1, 4),
        torch.ones(50, 4),
        torch.zeros(50, 4),
        torch.randn(3, 4),
        torch.randn(50, 1),
        torch.cat([torch.randn(50, 3), torch.ones(50, 2)], 1),
        torch.randn(20, 100),
    ],
    ids=["one row", "all constant", "all zero", "three rows", "d=1", "constant columns", "n<d"],
)
def test_poor_data_gets_an_answer_or_a_clear_error(method, x):
    try:
        found = run(method, x)
    except InputError as error:
        check_message(error)
    else:
        assert not math.isnan(found.value)


@pytest.mark.parametrize("method", MATRIX_METHODS, **by_id)
def test_matrix_methods_answer_for_every_shape(method):
    g = torch.Generator().manual_seed(1)
    for shape in [(64, 64), (200, 40), (40, 200)]:
        spectrum = Spectrum.of_matrix(torch.randn(shape, generator=g))
        found = method(spectrum)
        assert isinstance(found, Estimate)
        assert math.isfinite(found.value)
        scaled = Spectrum.of_matrix(3 * torch.randn(shape, generator=g))
        assert math.isfinite(method(scaled).value)
    for poor in [torch.zeros(5, 5), torch.ones(1, 1), torch.ones(6, 4), torch.eye(3)]:
        try:
            found = method(Spectrum.of_matrix(poor))
        except InputError as error:
            check_message(error)
        else:
            assert not math.isnan(found.value)


@pytest.mark.parametrize("method", MATRIX_METHODS, **by_id)
def test_matrix_methods_do_not_see_transposition(method):
    w = torch.randn(80, 50, generator=torch.Generator().manual_seed(2))
    assert same(method(Spectrum.of_matrix(w)), method(Spectrum.of_matrix(w.T)), 1e-9)


@pytest.mark.parametrize("method", PAIR_METHODS, **by_id)
def test_pair_methods_call_equal_points_equal_and_reject_other_lengths(method):
    x = sample()
    assert method(x, x).value == pytest.approx(1)
    assert method(x, x @ torch.eye(DIM).double().flip(0)).value == pytest.approx(1)
    with pytest.raises(InputError):
        method(x, x[:-1])
