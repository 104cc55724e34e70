"""Numbers of a few bits in bytes, against numpy's own packing."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from lowdim.retrieval.packing import in_blocks, pack, places, spread


@settings(deadline=None, max_examples=50)
@given(st.integers(0, 9), st.integers(1, 40), st.sampled_from([1, 2, 4]), st.integers(0, 999))
def test_there_and_back(n, m, bits, seed):
    numbers = torch.randint(
        2**bits, (n, m), dtype=torch.uint8, generator=torch.Generator().manual_seed(seed)
    )
    codes = pack(numbers, bits)
    assert codes.shape == (n, -(-m * bits // 8))
    back = spread(codes, bits)[:, :m] / places(m, bits)
    assert torch.equal(back.byte(), numbers)
    assert not spread(codes, bits)[:, m:].any()


@pytest.mark.parametrize("m", [1, 8, 13, 64])
def test_bits_as_numpy_packs_them(m):
    bit = torch.randint(2, (30, m), dtype=torch.uint8, generator=torch.Generator().manual_seed(m))
    assert np.array_equal(pack(bit, 1), np.packbits(bit, axis=1, bitorder="little"))


def test_the_first_of_two_numbers_is_the_low_half():
    assert pack(torch.tensor([[1, 2, 15]], dtype=torch.uint8), 4).tolist() == [[0x21, 0x0F]]
    assert pack(torch.tensor([[1, 2, 3, 0]], dtype=torch.uint8), 2).tolist() == [[0b00_11_10_01]]


def test_every_byte():
    every = torch.arange(256, dtype=torch.uint8)[:, None]
    bit = spread(every, 1) / places(8, 1)
    assert np.array_equal(bit.byte(), np.unpackbits(every, axis=1, bitorder="little"))


def test_blocks_of_rows_make_the_whole():
    x = torch.randint(256, (70_000, 3), generator=torch.Generator().manual_seed(0))
    asked = []

    def encode(rows):
        asked.append(len(rows))
        return rows.int()

    assert torch.equal(in_blocks(x, 3, encode), x.byte())
    assert len(asked) > 1
    assert sum(asked) == 70_000
    assert in_blocks(x[:0], 3, encode).shape == (0, 3)
