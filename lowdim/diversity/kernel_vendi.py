"""Vendi scores of points under any similarity, with neither an n x n matrix nor a guess.

The order-2 score is n^2 over the sum of squared similarities, which blocks add up exactly.

For the other orders a low-rank part of the kernel is built by randomly pivoted partial Cholesky
(Chen, Epperly, Tropp and Webber 2022): F F^T, from the columns of r chosen rows. It never exceeds K
(in the order of positive semi-definite matrices), so each eigenvalue of F F^T / n is at most the
one of K / n, and all that is missing of their sum, one, is read off the diagonal. Every Hill number
falls as a distribution grows more uneven. So whatever is missing, the score lies between the one
with all of it on the largest eigenvalue and the one with it spread as evenly as it can be: bounds
that hold for certain, for every order, and that meet as r grows.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from lowdim.core.estimate import Estimate
from lowdim.core.linalg import eigvalsh_psd
from lowdim.core.memory import plan
from lowdim.core.points import as_points
from lowdim.core.random import uniform
from lowdim.core.spectrum import Spectrum
from lowdim.diversity.kernels import Kernel
from lowdim.errors import InputError

STEP = 64
"""Rows chosen at a time."""

RESOLVED = 1e-12
"""Share of the similarity that float64 cannot tell from nothing."""


def vendi_of_points(
    x: Any,
    kernel: Kernel,
    *,
    q: float = 1.0,
    rtol: float = 0.01,
    max_rank: int = 2000,
    memory: int | float | str | None = None,
    seed: int = 0,
) -> Estimate:
    """How many different items is a set of points worth, by a similarity of your own?

    Parameters
    ----------
    x : array-like
        (n, d) points.
    kernel : callable
        ``kernel(a, b)`` gives the (len(a), len(b)) similarities of two sets of rows: positive
        semi-definite, ones for a row with itself. See :mod:`lowdim.diversity.kernels`.
    q : float
        Order in [0, inf]; for 2, :func:`vendi_of_order_two` is exact in O(n^2 d).
    rtol : float
        Stop when ``high / low`` is below 1 + rtol.
    max_rank : int
        Stop at so many chosen rows; the bounds say what that leaves open.
    memory : int, float or str, optional
        Budget: 16 n r bytes are held for r chosen rows.
    seed : int
        Of the choice.

    Returns
    -------
    Estimate
        ``low`` and ``high`` hold for certain (``level`` 1), up to rounding.

    Raises
    ------
    InputError
        NaN or Inf, an order below zero, or a kernel whose diagonal is not one or that turns
        out not to be positive semi-definite.

    Notes
    -----
    O(n r (r + d)) time. Trust it as far as ``low`` and ``high`` are close: a narrow kernel or a
    small order spreads over more directions than any r, and then they stay apart.
    """
    x = as_points(x)
    n, rank = len(x), min(len(x), max_rank)
    if max_rank < 1 or not rtol >= 0 or not q >= 0:
        raise InputError(f"q={q}, rtol={rtol}, max_rank={max_rank}: none may be negative")
    plan(
        "vendi_of_points", rows=n, bytes_per_row=1, memory=memory,
        fixed=n * (16 * rank + 48 * STEP + 8 * x.shape[1] + 32) + 40 * rank * rank,
    )  # fmt: skip
    left = _diagonal(x, kernel)  # (n,) what F F^T does not yet explain of each row with itself
    factor = torch.empty((n, rank), dtype=torch.float64, device=x.device)
    size, next_check, done = 0, float(STEP), False
    while not done:
        more = _columns(x, kernel, factor[:, :size], left, min(STEP, rank - size), seed, size)
        factor[:, size : size + more.shape[1]] = more
        left, size = (left - more.square().sum(1)).clamp_min_(0), size + more.shape[1]
        missing = float(left.mean())
        done = size == rank or missing <= RESOLVED or more.shape[1] == 0
        if done or size >= next_check:
            low, value, high = _bounds(factor[:, :size], missing, q)
            next_check = 1.3 * size
            done = done or high <= low * (1 + rtol)
    return Estimate(
        value=value, low=low, high=high, level=1.0, n=n, exact=missing <= RESOLVED, seed=seed,
        notes=(f"{size} of {n} rows span all but {missing:.2g} of the similarity",),
    )  # fmt: skip


def _diagonal(x: Tensor, kernel: Kernel) -> Tensor:
    """(n,) similarity of each row with itself: ones, checked."""
    parts = [kernel(rows, rows).diagonal() for rows in x.split(STEP)]
    diagonal = torch.cat(parts).to(torch.float64)
    off = (diagonal - 1).abs()
    if not bool(off.max() <= 1e-5):
        i = int(off.argmax())
        raise InputError(
            f"kernel gives {float(diagonal[i]):.6g} for row {i} with itself: scale it to give one"
        )
    return torch.ones_like(diagonal)


def _columns(
    x: Tensor, kernel: Kernel, factor: Tensor, left: Tensor, count: int, seed: int, size: int
) -> Tensor:
    """(n, up to count) new columns of F: from rows drawn in proportion to what is left of them."""
    ends = left.cumsum(0)
    draws = uniform(count, seed, start=size, device=x.device) * ends[-1]
    rows = torch.searchsorted(ends, draws).clamp(max=len(x) - 1).unique()
    rows = rows[left[rows] > 0]
    residual = kernel(x, x[rows]).to(torch.float64) - factor @ factor[rows].T  # (n, s)
    values, vectors = torch.linalg.eigh((residual[rows] + residual[rows].T) / 2)
    if float(values[0]) < -1e-6:
        raise InputError(
            f"kernel has an eigenvalue of {float(values[0]):.3g} or below on {len(rows)} of the "
            "rows: it is not positive semi-definite, so no similarity, and has no Vendi score"
        )
    keep = values > 1e-11 * values[-1].clamp_min(1e-3)  # equal rows add nothing to each other
    return residual @ (vectors[:, keep] / values[keep].sqrt())


def _bounds(factor: Tensor, missing: float, q: float) -> tuple[float, float, float]:
    """The least, a likely, and the greatest score with these eigenvalues or larger ones."""
    n = len(factor)
    known = eigvalsh_psd(factor.T @ factor)  # (r,) descending
    known = torch.where(known > n * torch.finfo(known.dtype).eps * known[0], known, 0.0)
    known *= (1 - missing) / known.sum()
    missing = missing if missing > RESOLVED else 0.0
    uneven = known.clone()
    uneven[0] += missing
    low, value, high = (
        Spectrum(values=p, total=float(p.sum()), shape=(n, n)).effective_rank(q)
        for p in (uneven, known / known.sum(), _even(known, missing, n))
    )
    low, high = min(low, high), max(low, high)  # equal but for rounding once nothing is missing
    return low, min(max(value, low), high), high


def _even(known: Tensor, missing: float, n: int) -> Tensor:
    """(n,) descending: ``missing`` poured over the eigenvalues, the zeros among them first."""
    p = torch.cat([known, known.new_zeros(n - len(known))])
    tail = p.flip(0).cumsum(0)  # of the smallest 1, 2, ... values
    level = (tail + missing) / torch.arange(1, n + 1, device=p.device)
    count = int((p.flip(0) <= level).sum())  # the values under water, always the smallest ones
    return torch.maximum(p, level[count - 1])


def vendi_of_order_two(
    x: Any, kernel: Kernel, *, memory: int | float | str | None = None
) -> Estimate:
    """How many different items is a set of points worth, by the mean squared similarity?

    The Vendi score of order 2, n^2 over the sum of all squared similarities: exact, from blocks.

    Parameters
    ----------
    x, kernel, memory
        As for :func:`vendi_of_points`.

    Notes
    -----
    O(n^2 d) time and one block of memory. Trust it for repeats rather than for variety: it is the
    chance that two items drawn with replacement are unlike, read as a number of kinds, and rare
    items hardly move it.
    """
    x = as_points(x)
    n = len(x)
    _diagonal(x, kernel)
    side = plan(
        "vendi_of_order_two", rows=n, bytes_per_row=32 * min(n, 1024) + 32 * x.shape[1],
        memory=memory, largest=1024,
    )  # fmt: skip
    squares = 0.0
    for start in range(0, n, side):
        here = x[start : start + side]
        for first in range(start, n, side):  # blocks above the diagonal count twice
            block = kernel(here, x[first : first + side]).to(torch.float64)
            squares += float(block.square().sum()) * (1 if first == start else 2)
    return Estimate(value=n * n / squares, n=n)
