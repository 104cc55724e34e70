"""Single passes over codes and over coordinates that numba, an optional extra, compiles.

A search with few queries is bound by how often a row is touched. Here a row is decoded to the
first-level cache, multiplied with each query and measured there; nothing decoded is ever stored.
Coding is one pass as well. Sums are those of products of matrices but for the order, and with it
the last bits; bytes are the same, but of a vector that is as near to two points of a codebook as
these bits.

A kernel is compiled when it is first called, for a second or so, and kept on disk where that may
be written: beside this file, or in the user's cache.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numba
import numpy as np
import torch
from llvmlite import ir
from numba.extending import intrinsic
from torch import Tensor

from lowdim.core.blocked import on_threads, workers
from lowdim.retrieval.scan import Scores

Array = np.ndarray[Any, Any]
Kernel = Callable[..., Any]

ONE, EIGHT, TOP, LOW = np.uint64(1), np.uint64(8), np.uint64(56), np.uint64(255)

CODED = 2**16
"""Fewest coordinates that are worth a thread of their own to code."""

ONES = np.uint64(0x0101010101010101)
"""A bit in each byte of a word."""

GATHER = np.uint64(0x0102040810204080)
"""A word of such bits times this has them side by side in its top byte, the first lowest."""

EVERY = np.arange(256, dtype=np.uint8)[:, None]
SPREAD = np.unpackbits(EVERY, axis=1, bitorder="little").view(np.uint64)[:, 0]
"""(256,) the way back: the word with the bits of a byte."""


def compiled(**options: Any) -> Callable[[Kernel], Kernel]:
    """For numba, without Python's lock; what is compiled is kept if there is a place for it."""
    options |= {"nogil": True, "error_model": "numpy"}  # a division needs no check of its own

    def decorate(function: Kernel) -> Kernel:
        try:
            return numba.njit(cache=True, **options)(function)
        except RuntimeError:  # no such place
            return numba.njit(**options)(function)

    return decorate


exact = compiled()
summing = compiled(fastmath={"reassoc", "contract", "nsz"})  # sums in any order; NaN stays NaN


def scanned(
    kernel: Kernel, width: int, queries: Tensor, shift: Tensor | None, start: Tensor, step: Tensor,
    *given: Any,
) -> Scores:  # fmt: skip
    """As :meth:`Code.products`, of (n, width) codes for numbers c: start + c step coordinates."""
    least = start if shift is None else start + shift
    arrays = [_array(x) for x in (*given, queries * step, queries @ start, least, step)]
    lines = len(queries) + (shift is not None)

    def of_codes(codes: Tensor) -> Tensor:
        out = torch.empty(lines, len(codes))
        kernel(_array(codes.view(len(codes), width)), *arrays, out.numpy())
        return out

    return of_codes


def summed(table: Tensor) -> Scores:
    """(n, N) codes to (w, n) sums of the entries that their bytes name in a (w, N, 256) table."""
    lines, width, _ = table.shape
    if lines > 1:  # pairs, as complex numbers: two sums for one look-up
        both = torch.cat([table, table[: lines % 2]]).unflatten(0, (-1, 2))
        table = torch.view_as_complex(both.movedim(1, 3).contiguous())
    array = _array(table)

    def of_codes(codes: Tensor) -> Tensor:
        out = torch.empty(len(array), len(codes), dtype=table.dtype)
        tables(_array(codes.view(len(codes), width)), array, out.numpy())
        if lines > 1:
            out = torch.view_as_real(out).movedim(2, 1).flatten(0, 1)
        return out[:lines]

    return of_codes


def coded(kernel: Kernel, z: Tensor, size: int, *given: Any, dtype: type = np.uint8) -> Tensor:
    """(n, size) uint8: what a kernel makes of (n, m) coordinates, given these, in its own type."""
    codes = torch.empty(len(z), size, dtype=torch.uint8)
    arrays = [_array(x) for x in given]
    count = max(1, min(workers(z.device), z.numel() // CODED))
    rows: list[Array] = np.array_split(_array(z), count)
    places: list[Array] = np.array_split(codes.numpy().view(dtype), count)

    def of_shard(i: int) -> None:
        kernel(rows[i], *arrays, places[i])

    for _ in on_threads(of_shard, range(count), z.device):
        pass
    return codes


def _array(x: Any) -> Any:
    """Of a tensor its array; kernels are compiled for rows that lie one after the other."""
    return x.detach().contiguous().numpy() if isinstance(x, Tensor) else x


# Each pass over codes fills (q, n) ``out`` with <queries, c> + constant for numbers c of a row, and
# if it has one row more, that with |start + c step|^2.


@intrinsic
def _number(context: Any, held: Any) -> Any:
    """The float32 that is held: itself, a byte, or the bits of a float16 or bfloat16.

    numba knows neither of these, so they come as uint16 and int16.
    """

    def generate(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        (bits,) = args
        if held == numba.uint8:
            return builder.uitofp(bits, ir.FloatType())
        if held == numba.uint16:
            return builder.fpext(builder.bitcast(bits, ir.HalfType()), ir.FloatType())
        if held == numba.int16:
            word = builder.zext(bits, ir.IntType(32))
            return builder.bitcast(builder.shl(word, word.type(16)), ir.FloatType())
        return bits

    return numba.float32(held), generate


@summing
def _score(
    c: Array, r: int, i: int, queries: Array, constant: Array, start: Array, step: Array, out: Array
) -> None:
    """Column i of ``out``, of row r of c."""
    first = len(out) - len(queries)
    if first:  # with the first query, while the row is read
        total = square = np.float32(0)
        for j in range(c.shape[1]):
            x = _number(c[r, j])
            z = start[j] + x * step[j]
            total += queries[0, j] * x
            square += z * z
        out[0, i], out[len(queries), i] = constant[0] + total, square
    for a in range(first, len(queries)):
        total = np.float32(0)
        for j in range(c.shape[1]):
            total += queries[a, j] * _number(c[r, j])
        out[a, i] = constant[a] + total


@summing
def plain(
    codes: Array, queries: Array, constant: Array, start: Array, step: Array, out: Array
) -> None:
    """A number each: bytes, float32, or 16 bits of which `_number` makes one."""
    for i in range(len(codes)):
        _score(codes, i, i, queries, constant, start, step, out)


@summing
def quarters(
    codes: Array, up: int, queries: Array, constant: Array, start: Array, step: Array, out: Array
) -> None:
    """float8, which is float16 where all but the sign is moved ``up``."""
    halves = np.empty((1, codes.shape[1]), np.uint16)
    for i in range(len(codes)):
        for j in range(codes.shape[1]):
            sign = (np.uint16(codes[i, j]) & np.uint16(0x80)) << np.uint16(8)
            halves[0, j] = sign | (np.uint16(codes[i, j]) & np.uint16(0x7F)) << np.uint16(up)
        _score(halves, 0, i, queries, constant, start, step, out)


@summing
def nibbles(
    codes: Array, queries: Array, constant: Array, start: Array, step: Array, out: Array
) -> None:
    """Two numbers a byte: those in low halves first, then those in high ones."""
    half = codes.shape[1]
    numbers = np.empty((1, 2 * half), np.uint8)
    low, high = numbers[0, :half], numbers[0, half:]
    for i in range(len(codes)):
        for j in range(half):
            low[j] = codes[i, j] & np.uint8(15)
            high[j] = codes[i, j] >> np.uint8(4)
        _score(numbers, 0, i, queries, constant, start, step, out)


@summing
def planes(
    codes: Array, counts: Array, queries: Array, constant: Array, start: Array, step: Array,
    out: Array,
) -> None:  # fmt: skip
    """Numbers of some bits: bit t of the first ``counts[t]`` after those of bits below."""
    words = np.empty(len(start) // 8 + 1, np.uint64)
    numbers = words.view(np.uint8)[: len(start)].reshape(1, len(start))
    last = np.uint64(codes.shape[1] - 1)
    for i in range(len(codes)):
        words[:] = 0
        bit = 0
        for t in range(len(counts)):
            up, shift, whole = np.uint64(t), np.uint64(bit & 7), counts[t] >> 3
            mask = (ONE << np.uint64(counts[t] & 7)) - ONE
            for g in range(whole + 1):
                first = np.uint64((bit >> 3) + g)
                pair = np.uint64(codes[i, min(first, last)])
                pair |= np.uint64(codes[i, min(first + ONE, last)]) << EIGHT
                kept = pair >> shift & (LOW if g < whole else mask)
                words[g] |= SPREAD[kept] << up
            bit += counts[t]
        _score(numbers, 0, i, queries, constant, start, step, out)


@exact
def tables(codes: Array, table: Array, out: Array) -> None:
    """(w, n) sums over the bytes of (w, N, 256) ``table``: complex numbers are two for one.

    Four rows at a time, whose sums do not wait for each other.
    """
    n, width = codes.shape
    for a in range(len(table)):
        entries = table[a]
        for i in range(0, n - 3, 4):
            p = q = r = s = table.dtype.type(0)
            for j in range(width):
                p += entries[j, codes[i, j]]
                q += entries[j, codes[i + 1, j]]
                r += entries[j, codes[i + 2, j]]
                s += entries[j, codes[i + 3, j]]
            out[a, i], out[a, i + 1], out[a, i + 2], out[a, i + 3] = p, q, r, s
        for i in range(n - n % 4, n):
            total = table.dtype.type(0)
            for j in range(width):
                total += entries[j, codes[i, j]]
            out[a, i] = total


# Each pass over (n, m) float32 coordinates fills (n, bytes) uint8 ``out``.


@exact
def to_bytes(z: Array, low: Array, width: Array, out: Array) -> None:
    """Numbers of 256 equidistant values: int8."""
    for i in range(len(z)):
        for j in range(z.shape[1]):
            share = min(max((z[i, j] - low[j]) / width[j], np.float32(0)), np.float32(1))
            out[i, j] = np.uint8(np.int32(share * np.float32(255)))


@exact
def to_nibbles(z: Array, low: Array, width: Array, out: Array) -> None:
    """Numbers of 16 equidistant values, two in a byte: int4."""
    m = z.shape[1]
    numbers = np.zeros(2 * out.shape[1], np.uint8)
    pairs = numbers.view(np.uint16)
    for i in range(len(z)):
        for j in range(m):
            share = min(max((z[i, j] - low[j]) / width[j], np.float32(0)), np.float32(1))
            numbers[j] = np.uint8(np.int32(share * np.float32(15)))
        for j in range(len(pairs)):
            out[i, j] = np.uint8(pairs[j] | pairs[j] >> np.uint16(4))


@exact
def to_planes(
    z: Array, counts: Array, which: Array, low: Array, scale: Array, top: Array, out: Array
) -> None:
    """Numbers of some bits of the coordinates ``which``, as `planes` reads them.

    An empty ``which`` stands for the first coordinates, as many as there are grids.
    """
    words = np.zeros((counts[0] + 7) >> 3, np.uint64)
    numbers, plane = words.view(np.uint8), np.empty(len(words), np.uint8)
    every = np.empty(len(low), np.uint8) if len(which) else numbers
    for i in range(len(z)):
        for j in range(len(low)):
            cell = min(max((z[i, j] - low[j]) * scale[j], np.float32(0)), top[j])
            every[j] = np.uint8(np.int32(cell))
        for j in range(len(which)):
            numbers[j] = every[np.uint64(which[j])]
        bit = 0
        for t in range(len(counts)):
            groups, row = (counts[t] + 7) >> 3, out[i, bit >> 3 :]
            for g in range(groups):
                plane[g] = np.uint8((words[g] >> np.uint64(t) & ONES) * GATHER >> TOP)
            plane[groups - 1] &= np.uint8(255 >> (8 * groups - counts[t]))
            up, down = np.uint8(bit & 7), np.uint8(8 - (bit & 7))
            if up == 0:
                for g in range(groups):
                    row[g] = plane[g]
            else:
                row[0] |= np.uint8(plane[0] << up)
                for g in range(1, groups):
                    row[g] = np.uint8(plane[g] << up) | np.uint8(plane[g - 1] >> down)
                if groups < len(row):
                    row[groups] = plane[groups - 1] >> down
            bit += counts[t]


@intrinsic
def _bits(context: Any, number: Any) -> Any:
    """The 32 bits of a float32."""

    def generate(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        return builder.bitcast(args[0], ir.IntType(32))

    return numba.int32(numba.float32), generate


@intrinsic
def _float32(context: Any, bits: Any) -> Any:
    """The float32 of 32 bits."""

    def generate(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        return builder.bitcast(args[0], ir.FloatType())

    return numba.float32(numba.int32), generate


@exact
def to_floats(
    z: Array, scale: float, largest: float, least: float, digits: int, out: Array
) -> None:
    """The nearest numbers with so many binary digits after the first, ties to even.

    x plus a power of two, ``digits`` places above the last digit that x keeps, is rounded to that
    digit, by how much the bits of the sum say: that of its own power of two, or of ``least``, the
    format's first, below which all are equidistant. For formats whose range is well inside float32.
    """
    first = _bits(np.float32(least))
    up = np.int32((23 - digits) << 23)
    sign = np.int32(1 << (8 * out.itemsize - 1))
    for i in range(len(z)):
        for j in range(z.shape[1]):
            x = min(max(z[i, j] * np.float32(scale), np.float32(-largest)), np.float32(largest))
            bits = _bits(x)
            power = max(np.int32(bits & 0x7F800000), first)
            unit = np.int32(power + up)
            kept = np.int32(_bits(abs(x) + _float32(unit)) - unit)
            above = np.int32(np.int32(power - first) >> 23) * np.int32(1 << digits)
            out[i, j] = kept + above + np.int32((bits >> 31) & sign)


@exact
def to_bfloat16(z: Array, largest: float, out: Array) -> None:
    """The upper half of float32, rounded to nearest, ties to even."""
    for i in range(len(z)):
        for j in range(z.shape[1]):
            bits = _bits(min(max(z[i, j], np.float32(-largest)), np.float32(largest)))
            out[i, j] = np.uint16((bits + 0x7FFF + ((bits >> 16) & 1)) >> 16)


@exact
def _first_least(numbers: Array, keys: Array) -> Any:
    """Where the least of some float32 is first.

    Found among integers in the same order: a minimum of floats is not vectorised.
    """
    for c in range(len(keys)):
        bits = _bits(numbers[c])
        keys[c] = bits ^ ((bits >> np.int32(31)) & np.int32(0x7FFFFFFF))
    low = np.int32(0x7FFFFFFF)
    for c in range(len(keys)):
        low = min(low, keys[c])
    first = np.int32(len(keys))
    for c in range(len(keys)):
        first = min(first, np.int32(c) if keys[c] == low else np.int32(len(keys)))
    return first


@summing
def closest(x: Array, points: Array, found: Array, least: Array) -> None:
    """Which column c of (d + 1, k) ``points`` has the least points[d, c] - <x, points[:d, c]>.

    The first of equals. Four coordinates are done each time that the sums are read and written.
    """
    d, whole, last = x.shape[1], x.shape[1] - x.shape[1] % 4, points[x.shape[1]]
    gaps, keys = np.empty(len(last), np.float32), np.empty(len(last), np.int32)
    for i in range(len(x)):
        for c in range(len(gaps)):
            gaps[c] = last[c]
        for j in range(0, whole, 4):
            p, q, r, s = x[i, j], x[i, j + 1], x[i, j + 2], x[i, j + 3]
            one, two, three, four = points[j], points[j + 1], points[j + 2], points[j + 3]
            for c in range(len(gaps)):
                gaps[c] -= p * one[c] + q * two[c] + r * three[c] + s * four[c]
        for j in range(whole, d):
            p, one = x[i, j], points[j]
            for c in range(len(gaps)):
                gaps[c] -= p * one[c]
        found[i] = _first_least(gaps, keys)
        least[i] = gaps[found[i]]
