"""Random numbers that are data: ``(seed, stream, index) -> value``, the same on every device.

Philox-4x32-10 (Salmon, Moraes, Dror, Shaw 2011, "Parallel random numbers: as easy as 1, 2, 3")
maps a counter and a key to four 32-bit words by integer arithmetic alone, so a value depends on
neither the device, nor the thread count, nor how a draw was cut into blocks. The key is the seed;
the counter holds the index, the stream and the kind of draw, so uniforms, normals and signs of
one seed and stream are independent of each other.

Normals go through the inverse normal distribution function (Wichura 1988, AS 241) in float64,
built only from + - * / and sqrt, which IEEE 754 rounds correctly everywhere when each torch
operation is a kernel of its own (so not under ``torch.compile``); torch's own log and cos differ
between devices in the last bit. Cost on one core: about 0.1 s a million normals.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from lowdim.errors import InputError

VERSION = 1
"""Version of the stream format: the same version always gives the same numbers."""

MASK = 2**32 - 1
MULTIPLIERS = (0xD2511F53, 0xCD9E8D57)
WEYL = (0x9E3779B9, 0xBB67AE85)
BLOCK = 2**16  # values drawn at once: keeps the working set in cache
UNIFORM, NORMAL, SIGNS, INTEGERS, PERMUTATION, CHOICE = range(6)  # last word of the counter


def philox(counter: Tensor, key: Tensor) -> Tensor:
    """Encrypt counters with keys: ten rounds of Philox-4x32.

    Parameters
    ----------
    counter : Tensor
        (..., 4) int64 words in [0, 2^32).
    key : Tensor
        (..., 2) int64 words in [0, 2^32), broadcast against the counters.

    Returns
    -------
    Tensor
        (..., 4) int64 words in [0, 2^32).
    """
    c0, c1, c2, c3 = counter.unbind(-1)
    k0, k1 = key.unbind(-1)
    for _ in range(10):
        (high0, low0), (high2, low2) = _multiply(c0, MULTIPLIERS[0]), _multiply(c2, MULTIPLIERS[1])
        c0, c1, c2, c3 = high2 ^ c1 ^ k0, low2, high0 ^ c3 ^ k1, low0
        k0, k1 = (k0 + WEYL[0]) & MASK, (k1 + WEYL[1]) & MASK
    return torch.stack([c0, c1, c2, c3], -1)


def _multiply(x: Tensor, constant: int) -> tuple[Tensor, Tensor]:
    """High and low words of ``x * constant``.

    Both constants lie above 2^31, so ``constant - 2^32`` is above -2^31, its product with a word
    fits int64, and the 2^32 left out adds ``x`` to the high word.
    """
    product = x * (constant - 2**32)
    return (product >> 32) + x, product & MASK


def uniform(
    shape: int | Sequence[int],
    seed: int,
    stream: int = 0,
    start: int = 0,
    device: torch.device | str | None = None,
) -> Tensor:
    """Draw float64 numbers strictly between 0 and 1, odd multiples of 2^-53.

    Parameters
    ----------
    shape : int or sequence of int
        How many; the last axis runs fastest.
    seed : int
        In [0, 2^64).
    stream : int
        In [0, 2^32): streams of one seed are independent.
    start : int
        Index of the first value: ``uniform(5, seed)[3:]`` equals ``uniform(2, seed, start=3)``.
    device : torch.device, optional
        Where the result lives; the numbers are the same everywhere.
    """
    return _draw(shape, _to_uniform, torch.float64, UNIFORM, seed, stream, start, device)


def normal(
    shape: int | Sequence[int],
    seed: int,
    stream: int = 0,
    start: int = 0,
    device: torch.device | str | None = None,
    *,
    dtype: torch.dtype = torch.float32,
) -> Tensor:
    """Draw standard normals, computed in float64 and rounded once to ``dtype``.

    They lie in [-8.21, 8.21]. Arguments as for :func:`uniform`.
    """
    return _draw(
        shape, lambda words: ndtri(_to_uniform(words)), dtype, NORMAL, seed, stream, start, device
    )


def signs(
    shape: int | Sequence[int],
    seed: int,
    stream: int = 0,
    start: int = 0,
    device: torch.device | str | None = None,
    *,
    dtype: torch.dtype = torch.float32,
) -> Tensor:
    """Draw -1 and +1 with equal chance, 32 of them a word. Arguments as for :func:`uniform`."""
    return _draw(shape, _to_signs, dtype, SIGNS, seed, stream, start, device, per_word=32)


def integers(
    shape: int | Sequence[int],
    high: int,
    seed: int,
    stream: int = 0,
    start: int = 0,
    device: torch.device | str | None = None,
) -> Tensor:
    """Draw int64 numbers from 0 to ``high - 1``, high at most 2^31, with replacement.

    No draw is rejected, so that index i stays index i; chances differ by less than 2^-32 of
    themselves. Other arguments as for :func:`uniform`.
    """
    return _integers(shape, high, INTEGERS, seed, stream, start, device)


def permutation(
    n: int, seed: int, stream: int = 0, device: torch.device | str | None = None
) -> Tensor:
    """Shuffle 0 ... n - 1: (n,) int64, by sorting one 63-bit number each."""
    keys = _draw(
        n, lambda w: (w[:, 0] << 31) | (w[:, 1] >> 1), torch.int64, PERMUTATION, seed, stream, 0,
        device,
    )  # fmt: skip
    return keys.argsort(stable=True)


def choice(
    n: int, size: int, seed: int, stream: int = 0, device: torch.device | str | None = None
) -> Tensor:
    """Draw ``size`` of 0 ... n - 1 without replacement: (size,) int64, in random order.

    Costs O(size) work and memory where size is at most n / 2, a permutation otherwise.
    """
    if not 0 <= size <= n:
        raise InputError(f"size={size}: between 0 and n={n} can be drawn without replacement")
    if 2 * size > n:
        return permutation(n, seed, stream, device)[:size]
    count = 2 * size + 64  # about 1.4 * size draws hold that many distinct ones
    while True:
        draws = _integers(count, n, CHOICE, seed, stream, 0, device)
        distinct, inverse = draws.unique(return_inverse=True)
        if len(distinct) >= size:
            break
        count *= 2
    first = torch.full_like(distinct, count)
    first.scatter_reduce_(0, inverse, torch.arange(count, device=draws.device), "amin")
    return draws[first.sort().values[:size]]


def ndtri(p: Tensor) -> Tensor:
    """At which z does the standard normal distribution function reach p? Bit-equal on all devices.

    Parameters
    ----------
    p : Tensor
        float64, strictly between 0 and 1.

    Notes
    -----
    Wichura 1988, AS 241, PPND16: relative error about 1e-16.
    """
    q = p - 0.5
    z = q * _ratio(0.180625 - q * q, A, B)
    tail = q.abs() > 0.425
    p, q = p[tail], q[tail]
    r = (-_log(torch.minimum(p, 1 - p))).sqrt()
    far = torch.where(r <= 5, _ratio(r - 1.6, C, D), _ratio(r - 5, E, F))
    z[tail] = torch.where(q < 0, -far, far)
    return z


def _log(x: Tensor) -> Tensor:
    """Natural logarithm of positive float64: log m + e log 2, log m = 2 atanh((m - 1)/(m + 1))."""
    m, e = torch.frexp(x)  # x = m * 2^e, m in [1/2, 1)
    low = m < math.sqrt(0.5)
    m, exponent = torch.where(low, m * 2, m), e.to(x.dtype) - low.to(x.dtype)
    s = (m - 1) / (m + 1)  # |s| <= 0.172: the twelve terms below reach 1e-19
    return exponent * LN2_HIGH + (s * _horner(s * s, ATANH) * 2 + exponent * LN2_LOW)


def _horner(x: Tensor, coefficients: Sequence[float]) -> Tensor:
    value = torch.full_like(x, coefficients[-1])
    for c in reversed(coefficients[:-1]):
        value = value * x + c
    return value


def _ratio(x: Tensor, numerator: Sequence[float], denominator: Sequence[float]) -> Tensor:
    # a tensor over a tensor: CUDA turns division by a Python number into a product
    return _horner(x, numerator) / _horner(x, denominator)


def _to_uniform(words: Tensor) -> Tensor:
    """(m, 2) words to (m,) float64: 52 bits and a half, so that 0 and 1 cannot occur."""
    return (((words[:, 0] << 20) | (words[:, 1] >> 12)) * 2 + 1).to(torch.float64) * 2.0**-53


def _to_signs(words: Tensor) -> Tensor:
    """(m,) words to (32 m,) signs, lowest bit first."""
    bits = words[:, None] >> torch.arange(32, device=words.device)
    return ((bits & 1) * 2 - 1).flatten()


def _integers(
    shape: int | Sequence[int], high: int, kind: int, seed: int, stream: int, start: int,
    device: torch.device | str | None,
) -> Tensor:  # fmt: skip
    if not 1 <= high <= 2**31:
        raise InputError(f"high={high}: must lie between 1 and 2^31")

    def scale(words: Tensor) -> Tensor:  # floor(high * 64-bit fraction)
        return (words[:, 0] * high + (words[:, 1] * high >> 32)) >> 32

    return _draw(shape, scale, torch.int64, kind, seed, stream, start, device)


def _draw(
    shape: int | Sequence[int],
    transform: Callable[[Tensor], Tensor],
    dtype: torch.dtype,
    kind: int,
    seed: int,
    stream: int,
    start: int,
    device: torch.device | str | None,
    per_word: int = 0,
) -> Tensor:
    """Values ``start`` onwards: two words a value, or ``per_word`` values a word."""
    shape = (shape,) if isinstance(shape, int) else tuple(shape)
    count = math.prod(shape)
    if min(shape, default=0) < 0 or start < 0:
        raise InputError(f"shape={shape}, start={start}: neither may be negative")
    if not (0 <= seed < 2**64 and 0 <= stream < 2**32):
        raise InputError(f"seed={seed}, stream={stream}: seeds lie in [0, 2^64), streams in 2^32")
    target = torch.device(device if device is not None else "cpu")
    home = target if target.type in ("cpu", "cuda") else torch.device("cpu")  # float64 is there
    values = torch.empty(count, dtype=dtype, device=home)
    for done in range(0, count, BLOCK):
        size, first = min(BLOCK, count - done), start + done
        if per_word:
            skip = first % per_word
            words = _words(
                first // per_word, -(-(skip + size) // per_word), kind, seed, stream, home
            )
            values[done : done + size] = transform(words)[skip : skip + size]
        else:
            words = _words(2 * first, 2 * size, kind, seed, stream, home).view(size, 2)
            values[done : done + size] = transform(words)
    return values.view(shape).to(target)


def _words(
    first: int, count: int, kind: int, seed: int, stream: int, device: torch.device
) -> Tensor:
    """(count,) words of one stream from word ``first`` on."""
    index = torch.arange(first // 4, -(-(first + count) // 4), device=device)
    fixed = torch.tensor([[stream], [kind]], device=device).expand(2, len(index))
    counter = torch.cat([torch.stack([index & MASK, index >> 32]), fixed]).T  # (blocks, 4)
    key = torch.tensor([seed & MASK, seed >> 32], device=device)
    return philox(counter, key).flatten()[first % 4 : first % 4 + count]


LN2_HIGH = 6.93147180369123816490e-01  # its last 20 bits are zero, so exponent * LN2_HIGH is exact
LN2_LOW = 1.90821492927058770002e-10
ATANH = tuple(1 / (2 * k + 1) for k in range(13))

# Coefficients of AS 241, lowest power first.
A = (
    3.3871328727963666080, 1.3314166789178437745e2, 1.9715909503065514427e3,
    1.3731693765509461125e4, 4.5921953931549871457e4, 6.7265770927008700853e4,
    3.3430575583588128105e4, 2.5090809287301226727e3,
)  # fmt: skip
B = (
    1.0, 4.2313330701600911252e1, 6.8718700749205790830e2,
    5.3941960214247511077e3, 2.1213794301586595867e4, 3.9307895800092710610e4,
    2.8729085735721942674e4, 5.2264952788528545610e3,
)  # fmt: skip
C = (
    1.42343711074968357734, 4.63033784615654529590, 5.76949722146069140550,
    3.64784832476320460504, 1.27045825245236838258, 2.41780725177450611770e-1,
    2.27238449892691845833e-2, 7.74545014278341407640e-4,
)  # fmt: skip
D = (
    1.0, 2.05319162663775882187, 1.67638483018380384940,
    6.89767334985100004550e-1, 1.48103976427480074590e-1, 1.51986665636164571966e-2,
    5.47593808499534494600e-4, 1.05075007164441684324e-9,
)  # fmt: skip
E = (
    6.65790464350110377720, 5.46378491116411436990, 1.78482653991729133580,
    2.96560571828504891230e-1, 2.65321895265761230930e-2, 1.24266094738807843860e-3,
    2.71155556874348757815e-5, 2.01033439929228813265e-7,
)  # fmt: skip
F = (
    1.0, 5.99832206555887937690e-1, 1.36929880922735805310e-1,
    1.48753612908506148525e-2, 7.86869131145613259100e-4, 1.84631831751005468180e-5,
    1.42151175831644588870e-7, 2.04426310338993978564e-15,
)  # fmt: skip
