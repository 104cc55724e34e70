"""Distance correlation: any dependence between two representations, linear or not.

With a_ij, b_ij the distances among the rows of x and of y, distance covariance is the inner product
of the two matrices after their row and column means are taken off (Szekely, Rizzo and Bakirov
2007); distance correlation is its normalised root, and zero in the population only for independent
x and y. The same three sums give both the published form and the unbiased one (Szekely and Rizzo
2013):

    n^2 dCov^2      = sum_ij a_ij b_ij - 2/n sum_i a_i b_i + a b / n^2
    n (n - 3) dCov* = sum_ij a_ij b_ij - 2/(n-2) sum_i a_i b_i + a b / ((n-1)(n-2))

with row sums a_i and total a. One pass over blocks of distances makes them, O(n^2 d) time and O(n)
memory. Where x and y are single columns they are sums over points in sorted order, which a stable
partition by halves finds in O(n log n) (in the manner of Huo and Szekely 2016).
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from scipy import stats
from torch import Tensor

from lowdim.core.blocked import half_squares, on_threads, workers
from lowdim.core.estimate import Estimate
from lowdim.core.memory import plan
from lowdim.core.points import as_points
from lowdim.core.spectrum import Spectrum
from lowdim.errors import InputError
from lowdim.registry import method, pair

BLOCK = 512
"""Side of the largest block of distances: the two fit into the cache."""


@dataclass(frozen=True, kw_only=True)
class DistanceCorrelation(Estimate):
    """A distance correlation, and the figures that say what it is worth.

    Attributes
    ----------
    covariance : float
        Distance covariance, the root of dCov^2.
    unbiased : float
        Bias-corrected *squared* distance correlation: about 0 for independent rows whatever n and
        d, and then negative as often as not.
    p_value : float
        Chance of so large an ``unbiased`` for independent rows (chi-square test).
    """

    covariance: float
    unbiased: float
    p_value: float


@method(
    "compare/distance-correlation",
    needs=pair(),
    paper="Szekely, Rizzo and Bakirov 2007; Szekely and Rizzo 2013; Shen et al. 2022",
    arxiv="0803.4101",
    cost="O(n^2 d), or O(n log n) for two single columns",
    oracle="dcor.distance_correlation",
    invariant=("permutation", "rotation", "translation", "scale"),
)
def distance_correlation(
    x: Any, y: Any, *, memory: int | float | str | None = None
) -> DistanceCorrelation:
    """Does one representation say anything about the other, in whatever way?

    1 where one is the other turned, shifted and scaled; 0 in the population for independent ones.

    Parameters
    ----------
    x, y : array-like
        (n, d1) and (n, d2), rows correspond.
    memory : int, float or str, optional
        Budget of the working blocks; no n x n matrix is held.

    Raises
    ------
    InputError
        Different numbers of rows, fewer than 4, rows that are all equal, NaN or Inf.

    Notes
    -----
    ``p_value`` refers n ``unbiased`` + 1 to chi-square with one degree of freedom, which Shen,
    Panda and Vogelstein (2022) show to be valid at levels up to 0.05 for any distribution. For
    pairs of independent normal columns (n = 100) it rejects 0% of the time at level 0.01, where the
    t-test of Szekely and Rizzo (2013), meant for high dimension, rejects 3%.

    Trust ``value`` for n far above d1 and d2 only: it tends to 1 for any two representations as
    their width passes n, where ``unbiased`` and ``p_value`` still tell. As with CKA, columns of
    large variance rule it; :func:`affine_distance_correlation` weighs all directions alike.
    """
    return _correlate(*_paired(x, y), memory)


@method(
    "compare/affine-distance-correlation",
    needs=pair(),
    paper="Szekely, Rizzo and Bakirov 2007; Dueck et al. 2014",
    cost="O(n^2 d)",
    oracle="dcor.distance_correlation_af_inv",
    invariant=("permutation", "rotation", "translation", "scale"),
)
def affine_distance_correlation(
    x: Any, y: Any, *, memory: int | float | str | None = None
) -> DistanceCorrelation:
    """Does one representation say anything about the other, all directions counting alike?

    The distance correlation after each side is whitened, so that no invertible linear map of
    either side changes it. Parameters and result as for :func:`distance_correlation`.

    Raises
    ------
    InputError
        As there, or a side that spans n - 1 directions: whitened, its rows would all lie equally
        far apart and say nothing.

    Notes
    -----
    Directions without variance are left out, which leaves the distances as they are.

    Trust it for n well above 10 d: directions of little variance, noise as a rule, count as much as
    the others, and with n near d it reads near 1 whatever the data.
    """
    x, y = _paired(x, y)
    return _correlate(_white(x, "x", memory), _white(y, "y", memory), memory)


def _paired(x: Any, y: Any) -> tuple[Tensor, Tensor]:
    x, y = as_points(x, min_rows=4), as_points(y, name="y", min_rows=4)
    if len(x) != len(y):
        raise InputError(f"x has {len(x)} rows and y {len(y)}: rows correspond, give equally many")
    return x, y.to(x.device)


def _white(x: Tensor, name: str, memory: int | float | str | None) -> Tensor:
    """(n, r) float64 rows of identity covariance."""
    spectrum = Spectrum.of_points(x, vectors=True, memory=memory)
    rank = int((spectrum.values > 0).sum())
    if rank >= len(x) - 1:
        raise InputError(
            f"{name} spans {rank} directions with {len(x)} rows: whitened they would all be "
            "equally far apart, so give more rows or fewer columns"
        )
    assert spectrum.vectors is not None
    assert spectrum.mean is not None
    basis = spectrum.vectors[:, :rank] / spectrum.values[:rank].sqrt()
    return (x.double() - spectrum.mean) @ basis  # (n, d) @ (d, r)


class Sums(NamedTuple):
    """What distance covariances are made of: sum_ij a_ij b_ij, and the row sums of each side."""

    products: float
    rows: tuple[Tensor, Tensor]

    def covariance(self) -> float:
        """Plain n^2 dCov^2."""
        (a, b), n = self.rows, len(self.rows[0])
        return self.products - float(2 / n * (a @ b) - a.sum() * b.sum() / n**2)

    def unbiased(self) -> float:
        """Unbiased n (n - 3) dCov*^2."""
        (a, b), n = self.rows, len(self.rows[0])
        off = 2 / (n - 2) * (a @ b) - a.sum() * b.sum() / ((n - 1) * (n - 2))
        return self.products - float(off)


def _correlate(x: Tensor, y: Tensor, memory: int | float | str | None) -> DistanceCorrelation:
    n = len(x)
    (x, size_x), (y, size_y) = _standardised(x, "x"), _standardised(y, "y")
    cross = (_line_sums if x.shape[1] == y.shape[1] == 1 else _block_sums)(x, y, memory)
    alone = [
        # the squared distances sum to 2 n sum |x_i|^2 about the mean: no distances needed
        Sums(2 * n * float(points.square().sum()), (row, row))
        for points, row in zip((x, y), cross.rows, strict=True)
    ]
    covariance = max(cross.covariance(), 0.0)
    value = math.sqrt(covariance / math.sqrt(alone[0].covariance() * alone[1].covariance()))
    variances = [max(sums.unbiased() / sums.products, 0.0) for sums in alone]
    notes: tuple[str, ...] = ()
    if min(variances) > 1e-12:
        scale = math.sqrt(math.prod(sums.unbiased() for sums in alone))
        unbiased = min(cross.unbiased() / scale, 1.0)
    else:
        unbiased, notes = 0.0, ("too few different rows for the unbiased form: taken as 0",)
    return DistanceCorrelation(
        value=min(value, 1.0), n=n, notes=notes, unbiased=unbiased,
        covariance=math.sqrt(covariance * size_x * size_y) / n,
        p_value=float(stats.chi2.sf(n * unbiased + 1, 1)),
    )  # fmt: skip


def _standardised(x: Tensor, name: str) -> tuple[Tensor, float]:
    """Float64 rows about their mean, of mean squared length one, and the length before."""
    largest = float(x.abs().max())  # dividing by it first, no square over- or underflows
    x = x.double() / (largest or 1.0)
    x = x - x.mean(0)
    size = float(torch.linalg.vector_norm(x)) / math.sqrt(len(x))
    if not size > 1e-14:
        raise InputError(f"{name} has all rows equal: there is nothing to compare")
    return x / size, size * largest


def _block_sums(x: Tensor, y: Tensor, memory: int | float | str | None) -> Sums:
    """From blocks of distances on and above the diagonal."""
    n, device = len(x), x.device
    side = plan(
        "distance_correlation", rows=n, bytes_per_row=workers(device) * BLOCK * 40,
        fixed=n * (24 * (x.shape[1] + y.shape[1]) + 32 * workers(device) + 64), memory=memory,
        largest=BLOCK,
    )  # fmt: skip
    norms = [points.square().sum(1) / 2 for points in (x, y)]

    def row_of_blocks(start: int) -> tuple[Tensor, Tensor]:
        products, rows = x.new_zeros(()), x.new_zeros(2, n)
        buffers = x.new_empty(2, side * side)
        here = slice(start, min(start + side, n))
        for first in range(start, n, side):
            there = slice(first, min(first + side, n))
            blocks = [
                half_squares(points[here], half[here], points[there], half[there], buffer)
                .mul_(2).clamp_(min=0).sqrt_()
                for points, half, buffer in zip((x, y), norms, buffers, strict=True)
            ]  # fmt: skip
            if first == start:
                for block in blocks:
                    block.fill_diagonal_(0)  # which products leave at the rounding of a square
            else:  # a block stands for its mirror image too
                for row, block in zip(rows, blocks, strict=True):
                    row[there] += block.sum(0)
            for row, block in zip(rows, blocks, strict=True):
                row[here] += block.sum(1)
            products += blocks[0].view(-1) @ blocks[1].view(-1) * (1 if first == start else 2)
        return products, rows

    products, rows = x.new_zeros(()), x.new_zeros(2, n)
    for more, sums in on_threads(row_of_blocks, range(0, n, side), device):
        products, rows = products + more, rows + sums
    return Sums(float(products), (rows[0], rows[1]))


def _line_sums(x: Tensor, y: Tensor, memory: int | float | str | None) -> Sums:
    """From single columns in sorted order.

    With points in the order of x, |x_i - x_j| |y_i - y_j| over pairs j < i is the signed product
    (x_i - x_j)(y_i - y_j), taken twice where also y_j < y_i, minus itself once. The pairs that
    come in the same order on both sides are found by halving the positions, each part kept in the
    order of y: what the right half of a part needs of the left half are sums over those before.
    """
    n, size = len(x), 1 << (len(x) - 1).bit_length()
    plan("distance_correlation", rows=n, bytes_per_row=1, fixed=200 * size, memory=memory)
    x, y = x[:, 0], y[:, 0]
    by_x = x.argsort()
    x, y = x[by_x], y[by_x]
    order = torch.cat([y.argsort(), torch.arange(n, size, device=x.device)])
    terms = x.new_zeros(4, size)  # filled up to whole parts by points of no weight
    terms[:, :n] = torch.stack([torch.ones_like(x), x, y, x * y])[:, order[:n]]
    half, same = size // 2, x.new_zeros(())
    while half:
        is_right = order // half % 2 == 1  # exactly half of each part
        left, right = ((is_right == side).nonzero()[:, 0] for side in (False, True))
        low, high = (terms.index_select(1, i) for i in (left, right))  # (4, size / 2)
        slot = torch.arange(size // 2, device=x.device)
        start = slot // half * half
        before = torch.nn.functional.pad(low.cumsum(1), (1, 0))
        # a right one has (its place) - (right ones before) left ones before it
        one, sum_x, sum_y, sum_xy = before.index_select(1, right - slot) - before.index_select(
            1, start
        )
        same += (high[3] * one + high[0] * sum_xy - high[1] * sum_y - high[2] * sum_x).sum()
        order = torch.stack([order[i].view(-1, half) for i in (left, right)], 1).view(-1)
        terms = torch.stack([part.view(4, -1, half) for part in (low, high)], 2).view(4, -1)
        half //= 2
    signed = n * (x @ y) - x.sum() * y.sum()
    rows = tuple(torch.empty_like(v).index_put_((by_x,), _row_sums(v)) for v in (x, y))
    return Sums(float(2 * (2 * same - signed)), (rows[0], rows[1]))


def _row_sums(v: Tensor) -> Tensor:
    """(n,) sums over j of |v_i - v_j|."""
    ordered, order = v.sort()
    rank = torch.arange(len(v), device=v.device)
    before = ordered.cumsum(0) - ordered
    return torch.empty_like(v).index_put_(
        (order,), (2 * rank - len(v)) * ordered + v.sum() - 2 * before
    )
