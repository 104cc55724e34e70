"""Number formats, bit for bit against ml_dtypes and numpy."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from lowdim.retrieval import BFloat16, Float8, Float8E5M2, Float16, Float32
from tests.retrieval.code_checks import check_nothing, check_shapes, gaussian

KINDS = {"float32": Float32, "float16": Float16, "bfloat16": BFloat16}
SMALL = {"float8": Float8, "float8-e5m2": Float8E5M2}
THEIRS = {
    "bfloat16": "bfloat16",
    "float8": "float8_e4m3fn",
    "float8-e5m2": "float8_e5m2",
    "float16": "float16",
    "float32": "float32",
}


def theirs(name):
    ml_dtypes = pytest.importorskip("ml_dtypes")
    return np.dtype(getattr(ml_dtypes, THEIRS[name], THEIRS[name]))


def code_of(name, m):
    return KINDS[name](m) if name in KINDS else SMALL[name](m, 0)


@pytest.mark.parametrize("name", KINDS | SMALL)
def test_shapes(name):
    check_shapes(name, 5, 5 * theirs(name).itemsize)


@pytest.mark.parametrize("name", KINDS | SMALL)
def test_bit_for_bit(name):
    """Values of every size that the format tells apart, and ties, rounded as ml_dtypes does."""
    dtype = theirs(name)
    g = torch.Generator().manual_seed(0)
    z = torch.randn(2000, 4, generator=g) * torch.exp2(
        torch.randint(-20, 8, (2000, 4), generator=g)
    )
    if name in SMALL:  # halfway between neighbours
        every = np.arange(256, dtype=np.uint8).view(dtype).astype(np.float32)
        every = np.sort(every[np.isfinite(every)])
        ties = torch.from_numpy((every[1:] + every[:-1]) / 2)
        z = torch.cat([z, ties[: len(ties) // 4 * 4].view(-1, 4)])
    largest = torch.finfo((KINDS | SMALL)[name].dtype).max
    z = z.clamp(-largest, largest)
    code = code_of(name, 4)
    expected = z.numpy().astype(dtype)
    assert np.array_equal(code.encode(z), expected.view(np.uint8).reshape(len(z), -1))
    assert np.array_equal(code.decode(code.encode(z)), expected.astype(np.float32))


@pytest.mark.parametrize("name", SMALL)
def test_every_byte(name):
    every = np.arange(256, dtype=np.uint8)
    expected = every.view(theirs(name)).astype(np.float32)
    found = SMALL[name](1, 3).decode(torch.from_numpy(every)[:, None])[:, 0]
    assert np.array_equal(found, expected / 8, equal_nan=True)
    finite = np.isfinite(expected)
    again = SMALL[name](1, 3).encode(found[finite][:, None])[:, 0]
    assert np.array_equal(again, every[finite])


@pytest.mark.parametrize(
    ("name", "largest"),
    [("float16", 65504), ("float8", 448), ("float8-e5m2", 57344), ("bfloat16", 3.3895314e38)],
)
def test_saturates(name, largest):
    code = code_of(name, 2)
    far = torch.tensor([[3.4e38, -3.4e38]])
    assert torch.equal(code.decode(code.encode(far)), torch.tensor([[largest, -largest]]))


@settings(deadline=None, max_examples=60)
@given(st.sampled_from(sorted(SMALL)), st.floats(1e-20, 1e20))
def test_scale_is_the_largest_power_of_two_that_fits(name, size):
    z = torch.tensor([[size, -size / 3]])
    code = SMALL[name].fit(z)
    largest = torch.finfo(code.dtype).max
    assert float(z.abs().max()) * 2.0**code.exponent <= largest
    assert float(z.abs().max()) * 2.0 ** (code.exponent + 1) > largest
    back = code.decode(code.encode(z))
    assert torch.allclose(back, z, rtol=2**-3 if name == "float8-e5m2" else 2**-4)


def test_scale_saves_precision_of_unit_vectors():
    z = gaussian(500, 1024)
    z /= z.norm(dim=1, keepdim=True)

    def error(code):
        return float((code.decode(code.encode(z)) - z).square().sum() / len(z))

    scaled, plain = error(Float8.fit(z)), error(Float8(1024, 0))
    assert 1.1 < plain / scaled < 1.3


@pytest.mark.parametrize("name", KINDS | SMALL)
def test_zeros_and_constants(name):
    zeros = torch.zeros(3, 4)
    code = (KINDS | SMALL)[name].fit(zeros)
    assert torch.equal(code.decode(code.encode(zeros)), zeros)


@pytest.mark.parametrize("name", SMALL)
def test_nothing_to_choose_a_scale_from(name):
    check_nothing(name)
