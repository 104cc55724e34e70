"""Numbers of a few bits in bytes, the first in the lowest bits: ``packbits(bitorder="little")``."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from lowdim.core.blocked import on_threads

WORDS = {1: torch.int64, 2: torch.int32, 4: torch.int16}
"""Integer that has a byte for each number of so many bits that a byte holds."""

BLOCK = 2**17
"""Coordinates rounded at once: they stay in the cache of a core."""


def in_blocks(z: Tensor, size: int, encode: Callable[[Tensor], Tensor]) -> Tensor:
    """(n, size) uint8 of what ``encode`` makes of (n, m) coordinates, a cache full at a time.

    ``encode`` may give integers of another type, from 0 to 255.
    """
    codes = torch.empty(len(z), size, dtype=torch.uint8, device=z.device)
    step = max(1, BLOCK // z.shape[1])

    def of_block(first: int) -> None:
        codes[first : first + step] = encode(z[first : first + step])

    for _ in on_threads(of_block, range(0, len(z), step), z.device):
        pass
    return codes


def spread(codes: Tensor, bits: int) -> Tensor:
    """(n, 8 / bits * bytes) uint8, a number each, as it stands in its byte: times `places`.

    A few word operations for a whole byte: each is copied to all bytes of a word, and all but its
    own bits are masked out there.
    """
    word = WORDS[bits]
    mask = sum(((1 << bits) - 1) << (8 + bits) * i for i in range(8 // bits))
    ones = sum(1 << 8 * i for i in range(8 // bits))
    wide = codes.to(word).mul_(ones).bitwise_and_(_signed(mask, word))
    return wide.view(torch.uint8)


def places(count: int, bits: int, device: torch.device | None = None) -> Tensor:
    """(count,) float32 powers of two by which `spread` numbers are too large."""
    place = torch.arange(count, device=device) % (8 // bits)
    return torch.exp2(bits * place.float())


def pack(numbers: Tensor, bits: int) -> Tensor:
    """(n, ceil(bits m / 8)) uint8 of (n, m) integers below 2^bits; filled up with zeros."""
    n, m = numbers.shape
    numbers = numbers.to(torch.uint8)
    each = 8 // bits
    if m % each:
        numbers = torch.cat([numbers, numbers.new_zeros(n, -m % each)], 1)
    # multiplication puts number i of a word at bit  8 i + top - (8 - bits) i = top + bits i
    word, top = WORDS[bits], 8 * (each - 1)
    factor = sum(1 << top - (8 - bits) * i for i in range(each))
    wide = numbers.contiguous().view(word) * _signed(factor, word)
    return (wide >> top).to(torch.uint8)


def _signed(value: int, word: torch.dtype) -> int:
    """The number of the same bits that fits the signed word."""
    size = 8 * word.itemsize
    return value - (1 << size) if value >> (size - 1) else value
