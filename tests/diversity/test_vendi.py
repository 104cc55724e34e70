"""Closed forms, the identities with one spectrum, and the vendi-score package."""

import math
from itertools import pairwise

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from lowdim.core.points import unit_rows
from lowdim.core.spectrum import Spectrum
from lowdim.diversity import vendi, vendi_of_kernel, vendi_profile
from lowdim.errors import InputError

ORDERS = [0, 0.5, 1, 1.5, 2, 10, math.inf]


def draw(n, d, seed=0):
    return torch.randn(n, d, generator=torch.Generator().manual_seed(seed)).double()


def second_moment(x):
    return Spectrum.of_points(x, center=False, unit=True)


@pytest.mark.parametrize("q", ORDERS)
def test_k_equal_blocks_count_k(q):
    blocks = torch.eye(6).double().repeat_interleave(4, 0)  # 24 items, 6 kinds
    assert vendi_of_kernel(blocks @ blocks.T, q=q).value == pytest.approx(6)
    assert vendi(second_moment(blocks), q=q).value == pytest.approx(6)
    assert vendi_of_kernel(torch.eye(9), q=q).value == pytest.approx(9)
    assert vendi_of_kernel(torch.ones(9, 9), q=q).value == pytest.approx(1)


@pytest.mark.parametrize("q", ORDERS)
@pytest.mark.parametrize("shape", [(60, 8), (20, 50)])
def test_both_sides_of_the_kernel_agree(q, shape):
    x = draw(*shape) + 0.2
    z = unit_rows(x)
    assert vendi(second_moment(x), q=q).value == pytest.approx(
        vendi_of_kernel(z @ z.T, q=q).value, rel=1e-9
    )


@pytest.mark.parametrize("q", [0.5, 1, 2, 3])
def test_agrees_with_the_vendi_score_package(q):
    package = pytest.importorskip("vendi_score.vendi")
    x = draw(120, 30)
    z = unit_rows(x)
    assert vendi(second_moment(x), q=q).value == pytest.approx(
        package.score_dual(x.numpy(), q=q), abs=1e-6
    )
    kernel = (-(torch.cdist(z, z) ** 2)).exp()  # one that is not linear
    assert vendi_of_kernel(kernel, q=q).value == pytest.approx(
        package.score_K(kernel.numpy(), q=q), abs=1e-6
    )


def test_order_two_is_the_participation_ratio_and_order_one_the_entropy_rank():
    spectrum = second_moment(draw(200, 12) * torch.arange(1, 13))
    p = spectrum.values / spectrum.values.sum()
    assert vendi(spectrum, q=2).value == pytest.approx(spectrum.participation_ratio(), rel=1e-12)
    entropy = -(p * p.log()).sum()
    assert vendi(spectrum).value == pytest.approx(math.exp(entropy), rel=1e-12)


@settings(max_examples=25, deadline=None)
@given(st.integers(0, 10_000), st.integers(2, 30), st.integers(1, 12))
def test_falls_with_the_order_and_ignores_copies(seed, n, d):
    x = draw(n, d, seed)
    scores = vendi_profile(second_moment(x), ORDERS).tolist()
    assert scores == [vendi(second_moment(x), q=q).value for q in ORDERS]
    assert all(a >= b - 1e-9 for a, b in pairwise(scores))
    assert scores[-1] >= 1 - 1e-9
    assert scores[0] <= min(n, d)
    assert vendi(second_moment(x.repeat(3, 1))).value == pytest.approx(scores[2], rel=1e-9)


def test_two_unrelated_halves_add_up():
    a, b = draw(50, 6), draw(50, 6, 1)
    a[:, 3:], b[:, :3] = 0, 0
    separate = [vendi(second_moment(h)).value for h in (a, a)]
    both = vendi(second_moment(torch.cat([a, a.flip(1)]))).value
    assert both == pytest.approx(sum(separate))


@pytest.mark.parametrize(
    ("kernel", "message"),
    [
        (torch.ones(3, 4), "shape"),
        (torch.tensor([[1.0, 0.5], [0.2, 1.0]]), "symmetric"),
        (2 * torch.eye(3), r"\(0, 0\)"),
        (torch.tensor([[1.0, 1, 0], [1, 1, 1], [0, 1, 1]]), "negative eigenvalue"),
        (torch.full((2, 2), float("nan")), "row 0"),
    ],
)
def test_bad_kernels_are_refused(kernel, message):
    with pytest.raises(InputError, match=message):
        vendi_of_kernel(kernel)


def test_bad_order_and_zero_rows_are_refused():
    with pytest.raises(InputError, match="order"):
        vendi(second_moment(draw(9, 2)), q=-1)
    with pytest.raises(InputError, match="row 4"):
        second_moment(torch.ones(9, 2) * (torch.arange(9) != 4)[:, None])
