"""Sliced Wasserstein distance between two samples, by Monte Carlo with control variates.

SW^2 is the mean over directions t on the sphere of W(t), the squared Wasserstein-2 distance of the
two projections, which on a line is the mean squared gap between equal quantiles. Two quantities
that come with each projection move with W(t) and have means that are known exactly: the squared
gap between the projected means and the sum of the projected variances,

    E (t . (m_x - m_y))^2 = |m_x - m_y|^2 / d,   E (var_x(t) + var_y(t)) = (tr S_x + tr S_y) / d

Nguyen and Ho (2023) regress W on the first ("lower", as it bounds W from below) or on their sum
("upper"); regressing on both at once, as is done here by default, can only explain more.

Cost: O(L (n + m) (d + log n)) for L directions. Memory: two float copies of the points and one
block of projections.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from lowdim.core.estimate import Estimate
from lowdim.core.memory import plan
from lowdim.core.points import as_points
from lowdim.core.random import normal
from lowdim.errors import InputError
from lowdim.registry import method, samples

Z95 = 1.959964
CONTROLS = {"none": [], "lower": [[1, 0]], "upper": [[1, 1]], "both": [[1, 0], [0, 1]]}
"""Each control variate as a combination of the gap between means and the sum of variances."""


@dataclass(frozen=True, kw_only=True)
class SlicedWasserstein(Estimate):
    """A sliced Wasserstein-2 distance, in the units of the points.

    Attributes
    ----------
    squared : float
        Estimate of SW^2, whose root is ``value``; unbiased but for O(1 / n_projections).
    standard_error : float
        Of ``squared``, over the draw of directions.
    variance_ratio : float
        Variance without control variates over variance with them.
    n_projections : int
        Directions drawn.
    """

    squared: float
    standard_error: float
    variance_ratio: float
    n_projections: int


@method(
    "diversity/sliced-wasserstein",
    needs=samples(),
    paper="Nguyen and Ho 2023; Rabin et al. 2012",
    arxiv="2305.00402",
    cost="O(L n (d + log n))",
    oracle="ot.sliced_wasserstein_distance",
    invariant=("permutation", "translation"),
)
def sliced_wasserstein(
    x: Any,
    y: Any,
    *,
    n_projections: int = 256,
    control: str = "both",
    x_weights: Any = None,
    y_weights: Any = None,
    memory: int | float | str | None = None,
    seed: int = 0,
) -> SlicedWasserstein:
    """How far must one sample be moved to become the other, seen from all directions?

    Parameters
    ----------
    x, y : array-like
        (n, d) and (m, d) points; n and m may differ.
    n_projections : int
        Random directions L; one is enough, and exact, for d = 1.
    control : {"both", "lower", "upper", "none"}
        Control variates, see the module.
    x_weights, y_weights : array-like, optional
        (n,) and (m,) not negative; scaled to sum to one.
    memory : int, float or str, optional
        Budget of working memory.
    seed : int
        Of the directions.

    Raises
    ------
    InputError
        Columns that differ, NaN or Inf, too few directions, weights that cannot be used.
    MemoryBudgetError
        Before anything is allocated, with the figure.

    Notes
    -----
    The interval covers the draw of directions only, not that of the points.

    Trust it for whether two samples of like size have come closer. Samples of one distribution are
    not at distance 0: compare with two halves of one of them. It weighs columns by their scale, and
    a difference confined to one of d directions shrinks by sqrt(d).
    """
    x, y = as_points(x), as_points(y, name="y")
    (n, d), m = x.shape, len(y)
    if y.shape[1] != d:
        raise InputError(f"x has {d} columns and y {y.shape[1]}: both must be points of one space")
    if control not in CONTROLS:
        raise InputError(f"control={control!r}: choose from {', '.join(CONTROLS)}")
    mix = torch.tensor(CONTROLS[control] if d > 1 else [], dtype=torch.float64).reshape(-1, 2)
    if d > 1 and n_projections < 4 + len(mix):
        raise InputError(f"n_projections={n_projections}: give {4 + len(mix)} or more")
    dtype = torch.promote_types(x.dtype, y.dtype)
    wide = 8 * (1 if x_weights is None and y_weights is None else 3)
    width = plan(
        "sliced_wasserstein", rows=n_projections, bytes_per_row=(n + m) * (wide + 24) + 32 * d,
        fixed=(n + m) * (d * (dtype.itemsize + 8) + 64), memory=memory, largest=64,
    )  # fmt: skip
    a, b = _weights(x_weights, n, "x_weights", x), _weights(y_weights, m, "y_weights", x)
    center = _mean(x, a)  # a shift moves neither the distance nor, then, the rounding
    x, y = ((points.to(center) - center).to(dtype) for points in (x, y))

    costs, parts = [], []
    count = n_projections if d > 1 else 1
    for start in range(0, count, width):
        theta = directions(d, min(width, count - start), seed, start).to(x)
        px, py = (theta @ points.T for points in (x, y))  # (l, d) @ (d, n)
        costs.append(_quantile_cost(px, a, py, b))
        (mean_x, var_x), (mean_y, var_y) = _moments(px, a), _moments(py, b)
        parts.append(torch.stack([(mean_x - mean_y).square(), var_x + var_y], 1))
    cost, part = torch.cat(costs).cpu(), torch.cat(parts).cpu()  # (L,), (L, 2)
    if d == 1:
        squared, error, ratio = float(cost[0]), 0.0, 1.0
    else:
        squared, error, ratio = _controlled(cost, part @ mix.T, _known(x, a, y, b).cpu() @ mix.T)
    low, high = (math.sqrt(max(0.0, squared + z * error)) for z in (-Z95, Z95))
    return SlicedWasserstein(
        value=math.sqrt(max(0.0, squared)), low=low, high=high, n=n + m, exact=d == 1,
        seed=seed if d > 1 else None, squared=squared, standard_error=error, variance_ratio=ratio,
        n_projections=count,
    )  # fmt: skip


def directions(d: int, count: int, seed: int, start: int = 0) -> Tensor:
    """(count, d) float64 uniform on the sphere, from direction ``start`` of this seed on."""
    g = normal((count, d), seed, start=start * d, dtype=torch.float64)
    return g / torch.linalg.vector_norm(g, dim=1, keepdim=True)


def _weights(weights: Any, n: int, name: str, like: Tensor) -> Tensor | None:
    if weights is None:
        return None
    w = as_points(weights, name=name)[:, 0].to(like.device, torch.float64)
    if len(w) != n or bool((w < 0).any()) or not float(w.sum()) > 0:
        raise InputError(f"{name}: give {n} numbers that are not negative, and not all zero")
    return w / w.sum()


def _mean(x: Tensor, weights: Tensor | None) -> Tensor:
    """(d,) float64 mean of the rows."""
    return x.double().mean(0) if weights is None else weights @ x.double()


def _moments(p: Tensor, weights: Tensor | None) -> tuple[Tensor, Tensor]:
    """(l,) means and variances of the rows of projections."""
    p = p.double()
    mean = p.mean(1) if weights is None else p @ weights
    square = (p - mean[:, None]).square_()
    return mean, square.mean(1) if weights is None else square @ weights


def _known(x: Tensor, a: Tensor | None, y: Tensor, b: Tensor | None) -> Tensor:
    """(2,) means over all directions of the two quantities."""
    mean_x, mean_y = _mean(x, a), _mean(y, b)
    spread = sum(
        float(_mean((points - mean.to(points)).square().sum(1, keepdim=True), weights))
        for points, mean, weights in ((x, mean_x, a), (y, mean_y, b))
    )
    gap = float((mean_x - mean_y).square().sum())
    return torch.tensor([gap, spread], dtype=torch.float64) / x.shape[1]


def _quantile_cost(px: Tensor, a: Tensor | None, py: Tensor, b: Tensor | None) -> Tensor:
    """(l,) squared Wasserstein-2 distances between rows of (l, n) and (l, m) projections."""
    (px, order_x), (py, order_y) = px.sort(1), py.sort(1)
    n, m = px.shape[1], py.shape[1]
    if a is None and b is None and n == m:
        return (px.double() - py.double()).square_().mean(1)
    at_x, at_y = _steps(a, order_x, n), _steps(b, order_y, m)  # (l or 1, n): distribution functions
    rows = max(len(at_x), len(at_y))
    at_x, at_y = at_x.expand(rows, -1).contiguous(), at_y.expand(rows, -1).contiguous()
    grid = torch.cat([at_x, at_y], 1).sort(1).values  # both are flat between two of these
    share = grid.diff(dim=1, prepend=torch.zeros_like(grid[:, :1]))
    i, j = (torch.searchsorted(at, grid).expand(len(px), -1) for at in (at_x, at_y))
    gaps = px.gather(1, i.clamp(max=n - 1)).double() - py.gather(1, j.clamp(max=m - 1)).double()
    return (gaps.square_() * share).sum(1)


def _steps(weights: Tensor | None, order: Tensor, n: int) -> Tensor:
    """Cumulated weights in the order of each row; one row serves all where weights are equal."""
    if weights is None:
        return torch.arange(1, n + 1, dtype=torch.float64, device=order.device)[None] / n
    return weights[order].cumsum(1)


def _controlled(cost: Tensor, controls: Tensor, known: Tensor) -> tuple[float, float, float]:
    """Estimate at the known mean of the controls, standard error, and variance ratio.

    Least squares with an intercept; a control that does not vary is left out by the minimum norm.
    """
    count = len(cost)
    plain = float(cost.var())
    off = (controls - known).numpy()
    scale = np.abs(off).max(0, initial=0.0)
    design = np.column_stack([np.ones(count), off / np.where(scale > 0, scale, 1)])
    fit, _, rank, _ = np.linalg.lstsq(design, cost.numpy(), rcond=1e-10)
    residual = cost.numpy() - design @ fit
    left = float(residual @ residual) / (count - rank)
    inverse = np.linalg.pinv(design.T @ design, rcond=1e-14)[0, 0]
    error = math.sqrt(left * inverse)
    reduced = left * inverse * count
    return (
        float(fit[0]),
        error,
        plain / reduced if reduced > 0 else (math.inf if plain > 0 else 1.0),
    )
