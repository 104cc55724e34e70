"""The common battery: what every registered method has to do, made from what it declares.

Collected by ``tests/test_battery.py``; a package that registers methods of its own can run it too:

    from tests.battery import *
"""

from __future__ import annotations

import dataclasses
import math

import pytest
import torch

from lowdim.battery import Shared, fits_points, merges_duplicates
from lowdim.core.estimate import Estimate
from lowdim.core.spectrum import Spectrum
from lowdim.errors import InputError
from lowdim.registry import methods

POINT_METHODS = [m for m in methods() if fits_points(m)]
MATRIX_METHODS = [m for m in methods() if all(need.noun == "matrix" for need in m.needs)]
PAIR_METHODS, SAMPLES_METHODS, LABELLED_METHODS, LAYERS_METHODS, TOKENS_METHODS = (
    [m for m in methods() if any(need.noun == noun for need in m.needs)]
    for noun in ("pair", "samples", "labelled", "layers", "tokens")
)
KERNEL_METHODS, NETWORK_METHODS, IMAGE_METHODS = (
    [m for m in methods() if any(need.noun == noun for need in m.needs)]
    for noun in ("kernel", "network", "image")
)
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
    if not merges_duplicates(method):
        pytest.skip("reads every row")
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
    equal = method.needs[0].options["equal"]
    assert method(x, x).value == pytest.approx(equal, abs=2 / N if equal == 0 else None)
    turned = method(x, x @ torch.eye(DIM).double().flip(0))
    assert turned.value == pytest.approx(method(x, x).value)
    with pytest.raises(InputError):
        method(x, x[:-1])


@pytest.mark.parametrize("method", SAMPLES_METHODS, **by_id)
def test_samples_methods_do_not_see_the_order_and_name_bad_rows(method):
    x, y = sample()[:250], sample()[250:] + 0.1
    found = method(x, y)
    assert isinstance(found, Estimate)
    assert math.isfinite(found.value)
    assert same(method(x.flip(0), y.flip(0)), found, 1e-6)
    assert same(method(x.float(), y.float()), found, 2e-3)
    assert math.isfinite(method(x, torch.cat([y, y, y[:1].expand(40, -1)])).value)
    for bad in (
        lambda: method(x, y[:, :-1]),
        lambda: method(x, torch.full_like(y, math.nan)),
        lambda: method(torch.full_like(x, math.inf), y),
        lambda: method(x[:0], y),
    ):
        with pytest.raises(InputError) as caught:
            bad()
        check_message(caught.value)


@pytest.mark.parametrize("method", LABELLED_METHODS, **by_id)
def test_labelled_methods_do_not_see_the_order_and_need_one_label_a_row(method):
    x, y = sample(), torch.arange(N) % 4
    found = method(x, y)
    assert isinstance(found, Estimate)
    assert math.isfinite(found.value)
    assert method(x, y).value == found.value
    bad = x.clone()
    bad[17, 3] = math.nan
    for call in (lambda: method(x, y[:-1]), lambda: method(bad, y)):
        with pytest.raises(InputError) as caught:
            call()
        check_message(caught.value)
    assert torch.equal(x, sample())


@pytest.mark.parametrize("method", LAYERS_METHODS, **by_id)
def test_layers_methods_answer_and_need_the_same_rows_in_every_layer(method):
    x = sample()
    network = [x, (2 * x).tanh(), (2 * x).tanh() @ torch.eye(DIM).double()[:, :8]]
    found = method(network)
    assert isinstance(found, Estimate)
    assert math.isfinite(found.value)
    assert method(network).value == found.value
    bad = x.clone()
    bad[17, 3] = math.nan
    for layers in ([x, x[:-1]], [x, bad], []):
        with pytest.raises(InputError) as caught:
            method(layers)
        check_message(caught.value)


@pytest.mark.parametrize("method", TOKENS_METHODS, **by_id)
def test_tokens_methods_answer_and_name_what_is_bad(method):
    h = sample().reshape(20, 20, DIM)
    found = method(h)
    assert isinstance(found, Estimate)
    assert math.isfinite(found.value)
    assert same(method(h.float()), found, 2e-3)
    bad = h.clone()
    bad[3, 4, 5] = math.nan
    for states in (h[0], bad, h[:0]):
        with pytest.raises(InputError) as caught:
            method(states)
        check_message(caught.value)


@pytest.mark.parametrize("method", KERNEL_METHODS, **by_id)
def test_kernel_methods_do_not_see_the_order_and_refuse_what_is_no_kernel(method):
    x = sample()[:60]
    kernel = (-torch.cdist(x, x)).exp()
    found = method(kernel)
    assert isinstance(found, Estimate)
    assert same(method(kernel.flip(0, 1)), found, 1e-6)
    lopsided, holed = kernel.clone(), kernel.clone()
    lopsided[3, 4] += 0.5
    holed[5, 5] = math.nan
    for bad in (kernel[:-1], lopsided, holed):
        with pytest.raises(InputError) as caught:
            method(bad)
        check_message(caught.value)


@pytest.mark.parametrize("method", NETWORK_METHODS, **by_id)
def test_network_methods_leave_the_network_as_it_was(method):
    torch.manual_seed(0)
    net = torch.nn.Sequential(
        torch.nn.Linear(DIM, 8), torch.nn.ReLU(), torch.nn.Linear(8, 3)
    ).double()
    before = {name: value.clone() for name, value in net.state_dict().items()}
    x = sample()[:40]
    found = method(net, x)
    assert isinstance(found, Estimate)
    assert math.isfinite(found.value)
    assert method(net, x).value == found.value
    assert net.training
    assert all(torch.equal(value, before[name]) for name, value in net.state_dict().items())
    assert all(p.grad is None and p.requires_grad for p in net.parameters())
    assert not any(m._forward_hooks or m._forward_pre_hooks for m in net.modules())
    with pytest.raises(InputError) as caught:
        method(net, torch.full_like(x, math.nan))
    check_message(caught.value)


@pytest.mark.parametrize("method", IMAGE_METHODS, **by_id)
def test_image_methods_answer_and_refuse_what_is_no_image(method):
    picture = sample()[:30, :10].clone()
    found = method(picture)
    assert isinstance(found, Estimate)
    assert same(method(picture.float()), found, 2e-3)
    holed = picture.clone()
    holed[3, 4] = math.nan
    for bad in (picture[0], holed, picture[:0]):
        with pytest.raises(InputError) as caught:
            method(bad)
        check_message(caught.value)
