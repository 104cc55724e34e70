"""Flagfolds: a shape of mixed dimension as a measure on places and directions.

A flagfold puts a covariance of trace one, that of the nearest neighbours, at every point of a
sample (Buet and Pennec 2023): a curve has nearly one weight there at 1, a surface at 2, and where
they meet the weights mix. As with varifolds, two of them are compared by a kernel; here

    k((x, S), (y, T)) = exp(-|x - y|^2 / 2 a^2) exp(-||S - T||_F^2 / 2 b^2),

which is zero in the maximum mean discrepancy only for equal measures. Each covariance is held by a
factor L with L L^T = S, so tr(S T) = ||L^T M||_F^2 and no d x d matrix is ever formed.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from lowdim.core.estimate import Estimate
from lowdim.core.memory import plan
from lowdim.core.neighbors import Neighbors
from lowdim.core.points import as_points
from lowdim.errors import InputError
from lowdim.geometry.patches import over_patches
from lowdim.structure.flags import flag_weights, mean_dimension

COLUMNS = 256  # points of the second set in one block of the kernel


@dataclass(frozen=True, eq=False, repr=False)
class Flagfold:
    """Points, and a flag at each.

    Attributes
    ----------
    points : Tensor
        (n, d).
    factors : Tensor
        (n, d, r) orthogonal columns of falling length, L L^T the covariance of trace one.
    """

    points: Tensor
    factors: Tensor

    @property
    def values(self) -> Tensor:
        """(n, r) eigenvalues of each covariance, descending, with sum one."""
        return self.factors.square().sum(1)

    @property
    def weights(self) -> Tensor:
        """(n, r) how much each place is 1-, 2-, ... r-dimensional; rows sum to one."""
        return flag_weights(self.values.sort(1, descending=True).values)

    @property
    def dimension(self) -> Tensor:
        """(n,) mean dimension under the weights."""
        return mean_dimension(self.values)

    def __repr__(self) -> str:
        n, d = self.points.shape
        return f"Flagfold({n} points in {d} columns, flags up to {self.factors.shape[2]})"


def local_flags(
    x: Any, n_neighbors: int = 20, *, rank: int | None = None,
    memory: int | float | str | None = None,
) -> Flagfold:  # fmt: skip
    """How much is the cloud around each point a curve, a surface, a solid, ...?

    Parameters
    ----------
    x : array-like
        (n, d) distinct points.
    n_neighbors : int
        k, of which the covariance about their mean is taken; at least 3.
    rank : int, optional
        Keep that many leading directions; all min(k - 1, d) by default.
    memory : int, float or str, optional
        Budget; the result takes n d rank numbers.

    Raises
    ------
    InputError
        Duplicates, NaN or Inf, too few points, fewer than 3 neighbours.

    Notes
    -----
    Trust the weights where n_neighbors is several times the dimension: covariances of few points
    have unequal eigenvalues, which moves weight to lower dimensions. Cost: one neighbour search
    and n eigenproblems of order min(k, d).
    """
    x = as_points(x)
    n, d = x.shape
    most = min(n_neighbors - 1, d)
    rank = most if rank is None else rank
    if n_neighbors < 3 or not 1 <= rank <= most:
        raise InputError(
            f"n_neighbors={n_neighbors}, rank={rank}: at least 3 neighbours, and between 1 and "
            f"{most} directions"
        )
    held = n * d * rank * x.element_size()
    plan("local_flags", rows=n, bytes_per_row=8 * n_neighbors, fixed=2 * held, memory=memory)
    near = Neighbors.of_points(x, n_neighbors, memory=memory)

    def factors(vectors: Tensor) -> Tensor:
        centered = vectors - vectors.mean(1, keepdim=True)  # (b, k, d)
        _, k, d = centered.shape
        short = d <= k
        moment = centered.mT @ centered if short else centered @ centered.mT
        values, basis = torch.linalg.eigh(moment)
        values, basis = values.flip(1)[:, :rank], basis.flip(2)[:, :, :rank]
        floor = values[:, :1] * (max(k, d) * torch.finfo(values.dtype).eps)
        real = values > floor
        lengths = torch.where(real, values, 0.0).sqrt()[:, None]
        found = basis * lengths if short else (centered.mT @ basis) * real[:, None]
        return found / torch.linalg.matrix_norm(found, keepdim=True)

    return Flagfold(x, over_patches(factors, x, near, n_neighbors, memory=memory))


@dataclass(frozen=True, kw_only=True)
class FlagfoldDistance(Estimate):
    """Squared maximum mean discrepancy, unbiased: about zero, of either sign, for one shape.

    Attributes
    ----------
    length, spread : float
        Widths of the kernel on places and on covariances.
    """

    length: float
    spread: float


def flagfold_distance(
    a: Flagfold, b: Flagfold, *, length: float | None = None, spread: float = 0.5,
    memory: int | float | str | None = None,
) -> FlagfoldDistance:  # fmt: skip
    """Are two samples of one shape, in place, direction and dimension?

    Parameters
    ----------
    a, b : Flagfold
        Of n and m points in one space.
    length : float, optional
        Width of the kernel on places; by default half the root mean squared distance of all
        points from their mean. Fix it where several distances are compared.
    spread : float
        Width on covariances, whose distances lie in [0, sqrt 2].
    memory : int, float or str, optional
        Budget of the blocks.

    Raises
    ------
    InputError
        Spaces of different dimension, fewer than two points, a width not above zero.

    Notes
    -----
    O((n + m)^2 d r^2) work, in blocks. Trust a value once it is well above those between halves
    of one sample: neighbours share neighbours, so for one shape it is near zero but not centred
    on it exactly. Moved and turned shapes are other shapes.
    """
    if a.points.shape[1] != b.points.shape[1] or min(len(a.points), len(b.points)) < 2:
        raise InputError("give two flagfolds of one space, of two points or more each")
    pooled = torch.cat([a.points.double(), b.points.double()])
    middle = pooled.mean(0)
    if length is None:
        length = float((pooled - middle).square().sum(1).mean().sqrt()) / 2
    if not (0 < length < math.inf and 0 < spread < math.inf):
        raise InputError(f"length={length}, spread={spread}: both must be above zero")

    def mean(one: Flagfold, other: Flagfold, same: bool) -> float:
        (n, d, r), (m, _, s) = one.factors.shape, other.factors.shape
        bytes_per_row = 8 * (min(m, COLUMNS) * (2 * r * s + 6) + 3 * d * r)
        block = plan(
            "flagfold_distance", rows=n, bytes_per_row=bytes_per_row,
            fixed=24 * COLUMNS * d * s, memory=memory, largest=COLUMNS,
        )  # fmt: skip
        total = torch.zeros((), dtype=torch.float64, device=pooled.device)
        for rows in _slices(n, block):
            left = _place(one, rows, middle)
            for columns in _slices(m, COLUMNS):
                total += _kernel(left, _place(other, columns, middle), length, spread).sum()
        return float((total - n) / (n * (n - 1)) if same else total / (n * m))

    value = mean(a, a, True) + mean(b, b, True) - 2 * mean(a, b, False)
    return FlagfoldDistance(value=value, n=len(pooled), length=length, spread=spread)


def _slices(n: int, block: int) -> list[slice]:
    return [slice(i, i + block) for i in range(0, n, block)]


def _place(flags: Flagfold, at: slice, middle: Tensor) -> tuple[Tensor, Tensor]:
    return flags.points[at].double() - middle, flags.factors[at].double()


def _kernel(
    one: tuple[Tensor, Tensor], other: tuple[Tensor, Tensor], length: float, spread: float
) -> Tensor:
    """(b, c) kernel between two blocks of places and factors."""
    (x, left), (y, right) = one, other
    (b, d, r), (c, _, s) = left.shape, right.shape
    overlap = left.mT.reshape(b * r, d) @ right.mT.reshape(c * s, d).T
    inner = overlap.square_().view(b, r, c, s).sum((1, 3))  # tr(S T)
    sizes = [f.square().sum(1).square().sum(1) for f in (left, right)]  # tr(S^2)
    apart = (sizes[0][:, None] + sizes[1] - 2 * inner) / (2 * spread**2)
    return (-torch.cdist(x, y).square() / (2 * length**2) - apart).exp()
