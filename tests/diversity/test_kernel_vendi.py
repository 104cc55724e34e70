"""Bounds that hold the exact score, against the whole kernel matrix and scikit-learn's kernels."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.metrics import pairwise

from lowdim.core.spectrum import Spectrum
from lowdim.diversity import (
    laplacian,
    median_gamma,
    polynomial,
    rbf,
    vendi,
    vendi_of_kernel,
    vendi_of_order_two,
    vendi_of_points,
)
from lowdim.errors import InputError

ORDERS = [0, 0.5, 1, 2, 5, math.inf]
KERNELS = {"rbf": rbf(0.03), "laplacian": laplacian(0.02), "polynomial": polynomial(3)}


def draw(n, d, seed=0):
    return torch.randn(n, d, generator=torch.Generator().manual_seed(seed)).double()


def sheet(n, seed=0):
    return draw(n, 4, seed) @ draw(4, 12, 99) + 1


def test_kernels_are_what_scikit_learn_computes():
    a, b = sheet(20), sheet(30, 1)
    for ours, theirs in (
        (rbf(0.3), lambda a, b: pairwise.rbf_kernel(a, b, gamma=0.3)),
        (laplacian(0.2), lambda a, b: pairwise.laplacian_kernel(a, b, gamma=0.2)),
        (polynomial(1, 0), pairwise.cosine_similarity),
        (polynomial(4, 2), lambda a, b: ((pairwise.cosine_similarity(a, b) + 2) / 3) ** 4),
    ):
        expected = torch.from_numpy(theirs(a.numpy(), b.numpy()))
        assert torch.allclose(ours(a, b), expected, atol=1e-12)
    assert torch.allclose(rbf(0.3)(a + 1e6, b + 1e6), rbf(0.3)(a, b), atol=1e-6)


@pytest.mark.parametrize("q", ORDERS)
@pytest.mark.parametrize("name", KERNELS)
def test_bounds_hold_the_exact_score(name, q):
    x, kernel = sheet(400), KERNELS[name]
    exact = vendi_of_kernel(kernel(x, x), q=q).value
    for rank in (1, 20, 150, 400):
        found = vendi_of_points(x, kernel, q=q, rtol=0, max_rank=rank)
        if q > 0:  # order 0 is a rank, which rounding decides
            assert found.low * (1 - 1e-9) <= exact <= found.high * (1 + 1e-9)
            assert found.low <= found.value <= found.high
    if q > 0:
        assert found.exact
        assert found.value == pytest.approx(exact, rel=1e-6)


@settings(max_examples=25, deadline=None)
@given(st.integers(0, 1000), st.integers(2, 60), st.floats(0.01, 3), st.integers(1, 30))
def test_bounds_hold_for_any_scale_and_rank(seed, n, gamma, rank):
    x = draw(n, 3, seed)
    for q in (0.5, 1, 3):
        exact = vendi_of_kernel(rbf(gamma)(x, x), q=q).value
        found = vendi_of_points(x, rbf(gamma), q=q, rtol=0, max_rank=rank, seed=seed)
        assert found.low * (1 - 1e-7) <= exact <= found.high * (1 + 1e-7)


def test_stops_as_soon_as_the_bounds_are_close_enough():
    x = sheet(1500)
    kernel = rbf(median_gamma(x) / 4)
    found = vendi_of_points(x, kernel, rtol=0.01)
    assert found.high <= 1.01 * found.low
    assert int(found.notes[0].split()[0]) < 500
    assert vendi_of_points(x, kernel, rtol=0.01) == found


def test_blocks_add_up_to_the_order_two_score():
    x = sheet(900)
    for kernel in KERNELS.values():
        exact = vendi_of_kernel(kernel(x, x), q=2).value
        assert vendi_of_order_two(x, kernel).value == pytest.approx(exact, rel=1e-12)
        small = vendi_of_order_two(x, kernel, memory="2MiB").value
        assert small == pytest.approx(exact, rel=1e-12)


@pytest.mark.parametrize("q", ORDERS)
def test_the_cosine_kernel_gives_the_score_of_the_spectrum(q):
    x = sheet(300)
    spectrum = Spectrum.of_points(x, center=False, unit=True)
    found = vendi_of_points(x, polynomial(1, 0), q=q)
    assert found.value == pytest.approx(vendi(spectrum, q=q).value, rel=1e-6)


def test_copies_count_once_and_far_clusters_count_each():
    x = draw(50, 3)
    one = vendi_of_points(x, rbf(0.5), rtol=0).value
    assert vendi_of_points(x.repeat(4, 1), rbf(0.5), rtol=0).value == pytest.approx(one, rel=1e-9)
    both = torch.cat([x, x + 1e3])
    assert vendi_of_points(both, rbf(0.5), rtol=0).value == pytest.approx(2 * one, rel=1e-6)
    kinds = 100 * torch.eye(7).double().repeat(30, 1)
    assert vendi_of_points(kinds, rbf(1.0)).value == pytest.approx(7)
    assert vendi_of_points(torch.ones(9, 2), rbf(1.0)).value == pytest.approx(1)


def test_median_gamma_puts_typical_pairs_at_the_shoulder():
    x = sheet(2000)
    similarity = rbf(median_gamma(x))(x[:300], x[300:600])
    assert float(similarity.median()) == pytest.approx(math.exp(-0.5), abs=0.03)
    assert median_gamma(5 * x) == pytest.approx(median_gamma(x) / 25)
    with pytest.raises(InputError, match="no scale"):
        median_gamma(torch.ones(10, 2))


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda x: vendi_of_points(x, lambda a, b: 2 * rbf(1.0)(a, b)), "gives 2 for row 0"),
        (lambda x: vendi_of_points(x, lambda a, b: -1 + 2 * (a[:, None] == b).all(2)), "not posi"),
        (lambda x: vendi_of_points(x, rbf(1.0), q=-1), "q=-1"),
        (lambda x: vendi_of_points(x * math.nan, rbf(1.0)), "row 0"),
        (lambda x: vendi_of_order_two(x, lambda a, b: a @ b.T), "with itself: scale it"),
        (lambda x: rbf(0.0), "gamma=0.0"),
        (lambda x: polynomial(0), "degree=0"),
    ],
)
def test_bad_kernels_are_refused(call, message):
    with pytest.raises(InputError, match=message):
        call(draw(12, 3))
