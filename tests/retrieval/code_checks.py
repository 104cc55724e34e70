"""What is true of every code, whatever it rounds to."""

import pytest
import torch

from lowdim.errors import InputError
from lowdim.retrieval.code import find_code


def gaussian(n, m, *, seed=0, fall=0.0, shift=0.0):
    """(n, m) independent normals whose standard deviation falls as j^-fall, about ``shift``."""
    g = torch.Generator().manual_seed(seed)
    return torch.randn(n, m, generator=g) * torch.arange(1, m + 1) ** -fall + shift


def fitted(name, z, seed=0):
    kind, size = find_code(name)
    return kind.fit(z, size=size, seed=seed)


def relative_error(code, z):
    """Squared error over the squared distance to the mean."""
    return float((code.decode(code.encode(z)) - z).square().sum() / (z - z.mean(0)).square().sum())


def check_shapes(name, m, size):
    """Shapes, types, one row at a time, no change of the input, and equal after a rebuild."""
    z = gaussian(300, m, shift=0.3)
    before = z.clone()
    code = fitted(name, z)
    codes = code.encode(z)
    assert codes.shape == (300, size) == (300, code.bytes_per_vector)
    assert codes.dtype == torch.uint8
    assert code.dims == m
    back = code.decode(codes)
    assert back.shape == (300, m)
    assert back.dtype == torch.float32
    assert torch.equal(z, before)
    again = type(code)(**code.tensors(), **code.options())
    assert torch.equal(again.encode(z), codes)
    assert torch.equal(again.decode(codes), back)
    assert torch.equal(code.encode(z[7:8]), codes[7:8])
    assert torch.allclose(code.decode(codes[7:8]), back[7:8], atol=1e-5)
    assert code.encode(z[:0]).shape == (0, size)
    assert code.decode(codes[:0]).shape == (0, m)
    assert torch.equal(fitted(name, z).encode(z), codes)
    check_products(code, codes)


def check_products(code, codes):
    """With few queries and many, with and without lengths: those of what codes decode to."""
    z = code.decode(codes)
    shift = gaussian(1, code.dims, seed=8)[0]
    for n in (1, 2, 50):
        queries = gaussian(n, code.dims, seed=9)
        truth = queries @ z.T
        products = code.products(queries)(codes)
        assert torch.allclose(products, truth, atol=1e-4)
        both = code.products(queries, shift)(codes)
        assert torch.allclose(both[:-1], truth, atol=1e-4)
        assert torch.allclose(both[-1], (z + shift).square().sum(1), rtol=1e-4, atol=1e-4)
        assert code.products(queries, shift)(codes[:0]).shape == (n + 1, 0)


def check_constant(name):
    """Rows that are all equal come back as they are, and a constant column does."""
    z = torch.full((50, 6), 0.7)
    code = fitted(name, z)
    assert torch.allclose(code.decode(code.encode(z)), z, atol=1e-6)


def check_nothing(name):
    with pytest.raises(InputError, match="no vectors at all"):
        fitted(name, torch.zeros(0, 4))
