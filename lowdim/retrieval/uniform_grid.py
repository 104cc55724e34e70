"""The uniform grid of each column that rounds its values with the least squared error."""

from __future__ import annotations

import torch
from torch import Tensor

from lowdim.core.random import choice
from lowdim.errors import InputError

CELLS = 2**21
"""Values that a grid is fitted to, and at least `ROWS` rows: more move it by nothing."""

ROWS = 1024

STARTS = (0.5, 0.7, 1.0, 1.4, 2.0, torch.inf)
"""Widths tried first, in those that are best for a Gaussian; the last is the whole range."""

REFITS = 10


def fit_grid(z: Tensor, levels: int | Tensor, seed: int = 0) -> tuple[Tensor, Tensor]:
    """Which ``levels`` equidistant values stand for each column of ``z`` best?

    Parameters
    ----------
    z : Tensor
        (n, m).
    levels : int or Tensor
        At least 2; of each column where it is a (m,) tensor.
    seed : int
        Of the rows that are looked at where ``z`` has many.

    Returns
    -------
    low, step : Tensor
        (m,) float32: value number c, from 0, is ``low + (c + 1/2) step`` and stands for what lies
        within half a step. A constant column has step 0.

    Notes
    -----
    The best of a few widths around the mean, then Lloyd's two steps in turn, with values that stay
    on a grid: each row goes to its nearest value, and the grid becomes the regression of the rows
    on their numbers. Neither raises the squared error.
    """
    n, m = z.shape
    if n == 0:
        raise InputError("a code is fitted to no vectors at all: give at least one")
    rows = min(n, max(ROWS, CELLS // m))
    x = z if rows == n else z[choice(n, rows, seed, device=z.device)]
    mean = x.double().mean(0)
    x = (x - mean).float()  # small beside a large mean
    levels = torch.as_tensor(levels, device=z.device).float().expand(m)
    top = levels - 1
    least, most = x.aminmax(dim=0)
    gaussian = x.std(0, correction=0) * (2.6 + 0.67 * levels.log2())  # about the best width

    low, step, error = least, least, torch.full_like(least, torch.inf)
    for factor in STARTS:
        start = torch.maximum(least, -factor * gaussian / 2)
        width = (torch.minimum(most, factor * gaussian / 2) - start) / levels
        left = (x - start - (_numbers(x, start, width, top) + 0.5) * width).square().sum(0)
        better = left < error
        low, step = torch.where(better, start, low), torch.where(better, width, step)
        error = torch.where(better, left, error)
    for _ in range(REFITS):
        number = _numbers(x, low, step, top)
        middle = number.mean(0)
        number -= middle
        slope = (number * x).sum(0) / number.square().sum(0)  # NaN where all have one number
        good = slope > 0
        step = torch.where(good, slope, step)
        low = torch.where(good, x.mean(0) - slope * (middle + 0.5), low)
    return (low + mean).float(), step


def _numbers(x: Tensor, low: Tensor, step: Tensor, top: Tensor) -> Tensor:
    """(n, m) float number of the nearest value."""
    cells = (x - low).div_(torch.where(step > 0, step, torch.inf))
    return torch.minimum(cells.floor_().clamp_min_(0), top)
