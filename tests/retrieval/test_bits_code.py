"""Transform coding: who has how many bits, and what error that leaves."""

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from lowdim.errors import InputError
from lowdim.retrieval import BinaryCode, BitsCode, Codec, Int4, Int8
from lowdim.retrieval.bits_code import DISTORTION, EMPHASIS, allocate
from tests.retrieval.code_checks import (
    check_constant,
    check_nothing,
    check_shapes,
    fitted,
    gaussian,
    relative_error,
)


@pytest.mark.parametrize(("m", "size"), [(1, 1), (9, 2), (16, 5), (16, 16), (100, 12)])
def test_shapes(m, size):
    check_shapes(f"bits{size}", m, size)


def test_constant_and_empty():
    check_constant("bits3")
    check_nothing("bits3")


@settings(deadline=None, max_examples=40)
@given(st.lists(st.floats(0, 1e6), min_size=1, max_size=4), st.data())
def test_no_other_allocation_leaves_less_error(variances, data):
    total = data.draw(st.integers(1, min(10, 8 * len(variances))))
    bits = allocate(torch.tensor(variances), total).long()
    assert int(bits.sum()) == total
    weight = torch.tensor(variances).float() ** EMPHASIS
    table = torch.tensor(DISTORTION)
    every = torch.cartesian_prod(*[torch.arange(9)] * len(variances)).view(-1, len(variances))
    every = every[every.sum(1) == total]
    best = (weight * table[every]).sum(1).min()
    assert float((weight * table[bits]).sum()) <= float(best) * (1 + 1e-5)


def test_equal_variances_have_equal_bits_and_are_int4_and_int8():
    z = gaussian(4000, 12)
    z = (z - z.mean(0)) / z.std(0)
    for size, kind in ((6, Int4), (12, Int8)):
        code = BitsCode.fit(z, size=size)
        same = kind.fit(z)
        assert set(code.bits.tolist()) == {8 * size // 12}
        assert torch.allclose(code.decode(code.encode(z)), same.decode(same.encode(z)), atol=1e-5)


def test_more_variance_more_bits_and_none_where_there_is_little():
    code = BitsCode.fit(gaussian(5000, 40, fall=1.5), size=5)
    bits = code.bits.tolist()
    assert bits == sorted(bits, reverse=True)
    assert sum(bits) == 40
    assert bits[0] >= 5
    assert bits[-1] == 0


def test_error_is_what_the_table_says():
    z = gaussian(20_000, 24, fall=1.0)
    code = BitsCode.fit(z, size=6)
    variance = z.var(0)
    expected = (variance * torch.tensor(DISTORTION)[code.bits.long()]).sum() / variance.sum()
    assert relative_error(code, z) == pytest.approx(float(expected), rel=0.02)


def test_error_against_the_rate_distortion_bound():
    """Above Shannon's bound for Gaussians, by less than a bit a coordinate would mend."""
    z = gaussian(20_000, 32, fall=1.0)
    variance = z.var(0).double()
    for size in (4, 8, 16):
        low, high = 0.0, float(variance.max())
        for _ in range(100):  # the water level at which the rates sum to 8 bits a byte
            level = (low + high) / 2
            rate = (variance / level).log2().clamp_min(0).sum() / 2
            low, high = (level, high) if rate > 8 * size else (low, level)
        bound = float(variance.clamp_max(level).sum() / variance.sum())
        found = relative_error(BitsCode.fit(z, size=size), z)
        assert bound < found < bound * 2**2


def test_decoded_again_in_numpy():
    """Planes of bits, lowest first, of the coordinates in the order of their bits."""
    z = gaussian(50, 10, fall=0.8)[
        :, torch.randperm(10, generator=torch.Generator().manual_seed(1))
    ]
    code = BitsCode.fit(z, size=3)
    bits = code.bits.numpy().astype(int)
    order = sorted((j for j in range(10) if bits[j]), key=lambda j: (-bits[j], j))
    stream = np.unpackbits(code.encode(z).numpy(), axis=1, bitorder="little")
    number, place = np.zeros((50, 10)), 0
    for t in range(bits.max()):
        for j in order:
            if bits[j] > t:
                number[:, j] += stream[:, place] * 2**t
                place += 1
    assert place == 24
    expected = code.start.numpy() + number * code.step.numpy()
    assert np.allclose(code.decode(code.encode(z)), expected, atol=1e-6)
    nearest = (
        np.abs(z.numpy()[:, order] - expected[:, order]) <= code.step.numpy()[order] / 2 + 1e-6
    )
    inside = (number[:, order] > 0) & (number[:, order] < 2 ** bits[order] - 1)
    assert nearest[inside].all()


def test_order_of_the_coordinates_does_not_matter():
    z = gaussian(2000, 20, fall=1.0)
    order = torch.randperm(20, generator=torch.Generator().manual_seed(3))
    one, two = BitsCode.fit(z, size=4), BitsCode.fit(z[:, order], size=4)
    assert torch.allclose(
        one.decode(one.encode(z))[:, order], two.decode(two.encode(z[:, order])), atol=1e-5
    )


@pytest.mark.parametrize("scale", [1e-15, 1e15])
def test_bits_do_not_depend_on_the_scale(scale):
    z = gaussian(500, 20, fall=1.0)
    code, other = BitsCode.fit(z, size=4), BitsCode.fit(scale * z, size=4)
    assert torch.equal(code.bits, other.bits)
    assert relative_error(other, scale * z) == pytest.approx(relative_error(code, z), rel=1e-3)


@pytest.mark.parametrize("name", ["bits5", "bits0", "bits"])
def test_sizes_that_cannot_be(name):
    with pytest.raises(InputError, match=r"4 coordinates take 1 to 4 bytes|no code"):
        fitted(name, gaussian(20, 4))


def test_less_error_than_the_other_codes_of_the_same_bytes():
    z = gaussian(4000, 64, fall=0.7)
    assert relative_error(fitted("bits32", z), z) < 0.7 * relative_error(Int4.fit(z), z)
    assert relative_error(fitted("bits8", z), z) < 0.9 * relative_error(BinaryCode.fit(z), z)


@pytest.mark.parametrize("metric", ["cosine", "dot", "euclidean"])
def test_search_ranks_the_decoded_vectors(metric):
    x = gaussian(400, 12, fall=0.5, shift=0.2)
    codec = Codec("bits4", reduction="pca", metric=metric).fit(x)
    codes = codec.encode(x)
    _, scores = codec.search(codes, x[:30], 5)
    y, q = codec.decode(codes).double(), x[:30].double()
    if metric == "cosine":
        y, q = y / y.norm(dim=1, keepdim=True), q / q.norm(dim=1, keepdim=True)
    every = -torch.cdist(q, y) if metric == "euclidean" else q @ y.T
    assert torch.allclose(scores.double(), every.topk(5).values, atol=2e-3)
    assert math.isfinite(float(scores.sum()))
