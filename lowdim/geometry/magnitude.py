"""Magnitude of a point cloud, and the weighting that shows its boundary (Leinster 2013).

With similarities Z_ij = exp(-t |x_i - x_j|) the weighting w solves Z w = 1, and the magnitude is
its sum: how many points the cloud amounts to when seen at the scale 1/t. It runs from 1 (from far
away all is one point) to n (from close by all are apart). Weights are large on the boundary and
on lone points, small inside (Bunch et al. 2020), and exp(-t |x - x_i|) w sums to one inside the
cloud, so that what is missing scores an outlier.

Z is positive definite for distinct points of Euclidean space. Up to 4,000 points it is factored
(n^3 / 3 multiply-adds, 16 n^2 bytes); beyond, or where that does not fit, conjugate gradients
solve for w, with the inverse of small neighbourhoods as preconditioner: n^2 multiply-adds a step
where 8 n^2 bytes fit, n^2 d in blocks where not. The residual is computed afresh at the end, and
bounds the error of the magnitude. A third way takes each weight from its neighbourhood alone.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import scipy.sparse as sp
import torch
from torch import Tensor

from lowdim.core.estimate import Estimate
from lowdim.core.memory import budget, plan
from lowdim.core.neighbors import Neighbors
from lowdim.core.points import as_points
from lowdim.core.random import choice, permutation
from lowdim.errors import InputError
from lowdim.registry import method, points

METHODS = ("auto", "cholesky", "cg")

FACTORED = 4_000
"""Points up to which a factorisation is quicker than conjugate gradients."""

AROUND, LANDMARKS = 16, 48
"""What a row of the preconditioner sees: near points for the detail, the same few for the whole."""

CHECKED = 500
"""Rows on which the residual of a local weighting is measured."""

EXACT_DIM = 16
"""Columns up to which differences cost no more than products."""


@dataclass(frozen=True, kw_only=True)
class Magnitude(Estimate):
    """Effective number of points; ``per_point`` is the weighting.

    Attributes
    ----------
    rate : float
        Similarities are exp(-rate * distance).
    dimension : float
        Slope of log magnitude over log rate, at this rate: how fast detail appears as one comes
        closer. Between 0 and about the dimension of the cloud.
    residual : float
        Largest |1 - (Z w)_i|, of all rows, or of a sample for a local weighting.
    error : float
        ||1 - Z w|| ||w||: the magnitude differs from ``value`` by no more, to first order.
    """

    rate: float
    dimension: float
    residual: float
    error: float


@method(
    "geometry/magnitude",
    needs=points(distinct=True),
    paper="Leinster 2013; Bunch et al. 2020",
    cost="O(n^3) up to 4,000 points, O(n^2) a step beyond",
    oracle="magnipy",
    invariant=("permutation", "rotation", "translation", "scale"),
    deep=True,
)
def magnitude(
    x: Any,
    *,
    t: float = 1.0,
    scale: float | None = None,
    method: str = "auto",
    memory: int | float | str | None = None,
) -> Magnitude:
    """How many points does the cloud amount to, and which of them are its boundary?

    Parameters
    ----------
    x : array-like
        (n, d) distinct points.
    t : float
        Similarity falls to 1/e at the distance ``scale / t``.
    scale : float, optional
        The unit of distance. By default the mean distance to the nearest neighbour, so that the
        answer does not depend on the unit of ``x``; 1.0 takes distances as they are.
    method : {"auto", "cholesky", "cg"}
        See the module.
    memory : int, float or str, optional
        Budget of working memory.

    Raises
    ------
    InputError
        Equal points, points too near for float64, t or scale not above zero.
    MemoryBudgetError
        Where not even blocks fit; ``cholesky`` where 16 n^2 bytes do not.

    Notes
    -----
    Trust it to compare clouds of one size at one ``t``; the value grows with n, and in more than
    about 20 dimensions, where all distances are alike, it says little beyond n and the mean
    distance. Weights find the boundary at ``t`` below 1; at 1 and above they find lone points.
    """
    x = as_points(x).double()
    n = len(x)
    if method not in METHODS:
        raise InputError(f"method={method!r}: choose from {', '.join(METHODS)}")
    rate = rate_of(x, t, scale, memory)
    factored = 16 * n * n + 8 * x.numel()
    if method == "auto":
        method = "cholesky" if n <= FACTORED and factored < budget(memory) else "cg"
    if method == "cholesky":
        plan("magnitude(method='cholesky')", rows=1, bytes_per_row=factored, memory=memory)
        weights = torch.cholesky_solve(x.new_ones(n, 1), factor(similarities(x, x, rate)))[:, 0]
        kernel = Kernel(x, rate, memory, keep=False)
        return _result(kernel, weights, exact=True)
    order = permutation(n, seed=0).to(x.device)  # so that the first points are spread out
    kernel = Kernel(x[order], rate, memory)
    weights = torch.empty_like(x[:, 0])
    weights[order], steps = _conjugate_gradients(kernel, _preconditioner(kernel.x, rate, memory))
    kernel = Kernel(x, rate, memory, keep=False)
    notes = (f"{steps} steps of conjugate gradients",)
    return _result(kernel, weights, exact=False, notes=notes)


def local_magnitude(
    x: Any,
    *,
    k: int = 16,
    t: float = 1.0,
    scale: float | None = None,
    memory: int | float | str | None = None,
    seed: int = 0,
) -> Magnitude:
    """What are the weights, each from its ``k`` nearest points alone, and how wrong are they?

    The inverse of Z is nearly local: a weight depends on the points around. The cost is one
    neighbour search and n small systems; the residual on 500 random rows says what it is worth.
    ``error`` is extrapolated from those rows, ``dimension`` is left out (NaN).
    Parameters are those of :func:`magnitude`; ``seed`` draws the rows.
    """
    x = as_points(x).double()
    n, k = len(x), min(k, len(x) - 1)
    rate = rate_of(x, t, scale, memory)
    weights = x.new_ones(n)
    if k > 0:
        near = Neighbors.of_points(x, k, memory=memory).indices
        own = torch.arange(n, device=x.device)[:, None]
        for rows, z in _groups(x, rate, torch.cat([near, own], 1), memory):
            ones = x.new_ones(len(rows), k + 1, 1)
            weights[rows] = torch.cholesky_solve(ones, factor(z))[:, -1, 0]
    rows = choice(n, min(n, CHECKED), seed, device=x.device)
    gap = 1 - Kernel(x, rate, memory, keep=False).product(weights, x[rows])
    return Magnitude(
        value=float(weights.sum()), n=n, per_point=weights, rate=rate, exact=False, seed=seed,
        residual=float(gap.abs().max()), dimension=float("nan"),
        error=float(gap.square().mean().mul(n).sqrt() * weights.norm()),
    )  # fmt: skip


def boundary_points(found: Magnitude, *, share: float = 0.1) -> Tensor:
    """Which points lie on the boundary: the rows of the largest weights, largest first?

    Parameters
    ----------
    found : Magnitude
        At a small t (0.3 and less), where weights gather on the boundary.
    share : float
        Share of the points, in (0, 1].
    """
    if not 0 < share <= 1 or found.per_point is None:
        raise InputError(f"share={share}: the share of points lies in (0, 1]")
    weights = found.per_point.reshape(-1)
    return weights.topk(max(1, round(share * len(weights)))).indices


def outlier_score(x: Any, new: Any, found: Magnitude) -> Tensor:
    """How far outside the cloud is each new point?

    Parameters
    ----------
    x : array-like
        (n, d) the points that ``found`` is the magnitude of.
    new : array-like
        (m, d).
    found : Magnitude
        Its weights sum up to one at every point of ``x``.

    Returns
    -------
    Tensor
        (m,) |1 - sum_i w_i exp(-rate |x - x_i|)|: 0 on the cloud, 1 far from it.
    """
    x, new = as_points(x).double(), as_points(new, name="new").double()
    if x.shape[1] != new.shape[1] or found.per_point is None or len(found.per_point) != len(x):
        raise InputError(
            f"x is {tuple(x.shape)} and new is {tuple(new.shape)}: both need the same columns, and "
            f"found must be the magnitude of x (it holds {found.n} weights)"
        )
    return (1 - Kernel(x, found.rate, None, keep=False).product(found.per_point, new)).abs()


def similarities(a: Tensor, b: Tensor, rate: float) -> Tensor:
    """(n, m) exp(-rate |a_i - b_j|), small distances from differences."""
    return distances(a, b).mul_(-rate).exp_()


def distances(a: Tensor, b: Tensor) -> Tensor:
    """(n, m) Euclidean distances in float64, good to about 1e-12 of each."""
    if a.shape[1] <= EXACT_DIM:
        return torch.cdist(a, b, compute_mode="donot_use_mm_for_euclid_dist")
    centre = b.mean(0)
    a, b = a - centre, b - centre
    sizes = a.square().sum(1)[:, None] + b.square().sum(1)
    squares = torch.addmm(sizes, a, b.T, alpha=-2)  # (n, d) @ (d, m)
    rows, columns = (squares < 1e-4 * sizes).nonzero(as_tuple=True)
    for r, c in zip(rows.split(2**16), columns.split(2**16), strict=True):
        squares[r, c] = (a[r] - b[c]).square().sum(1)
    return squares.clamp_min_(0).sqrt_()


def factor(z: Tensor) -> Tensor:
    """Lower Cholesky factor of (..., n, n) similarities, or which points are too near."""
    lower, info = torch.linalg.cholesky_ex(z)
    if bool((info != 0).any()):
        raise InputError(
            f"point {int(info.max()) - 1} equals another one, or is too near to it for float64: "
            "merge near-duplicates first"
        )
    return lower


def rate_of(x: Tensor, t: float, scale: float | None, memory: int | float | str | None) -> float:
    """``t`` over the scale, by default the mean distance to the nearest neighbour."""
    if not t > 0 or not (scale is None or scale > 0):
        raise InputError(f"t={t}, scale={scale}: both must be above zero")
    if scale is None:
        if len(x) == 1:
            return t
        scale = float(Neighbors.of_points(x, 1, memory=memory).distances.mean())
        if scale == 0:
            raise InputError("all points are equal in pairs: merge duplicates first")
    return t / scale


class Kernel:
    """Products with Z, kept where it fits and computed in blocks of rows where not."""

    def __init__(
        self, x: Tensor, rate: float, memory: int | float | str | None, *, keep: bool = True
    ) -> None:
        self.x, self.rate = x, rate
        n, d = x.shape
        kept = 8 * n * n if keep and 12 * n * n + 16 * x.numel() < budget(memory) else 0
        self.rows = plan(
            "magnitude", rows=n, bytes_per_row=24 * n + 16 * d, fixed=kept + 8 * x.numel(),
            memory=memory, largest=max(1, 2**23 // n),
        )  # fmt: skip
        self.z: Tensor | None = None
        if kept:
            self.z = x.new_empty(n, n)
            for start in range(0, n, self.rows):
                stop = start + self.rows
                self.z[start:stop] = similarities(x[start:stop], x, rate)

    def product(self, v: Tensor, at: Tensor | None = None) -> Tensor:
        """(n,) Z v, or the sums at other points."""
        if self.z is not None and at is None:
            return self.z @ v
        parts = (self.x if at is None else at).split(self.rows)
        return torch.cat([similarities(part, self.x, self.rate) @ v for part in parts])

    def slope(self, v: Tensor) -> tuple[Tensor, float]:
        """Z v, and v^T (D * Z) v, which is d magnitude / d rate at the weighting."""
        products, slope = [], 0.0
        for part, own in zip(self.x.split(self.rows), v.split(self.rows), strict=True):
            d = distances(part, self.x)
            z = (-self.rate * d).exp_()
            products.append(z @ v)
            slope += float(own @ (d.mul_(z) @ v))
        return torch.cat(products), slope


def _result(
    kernel: Kernel, weights: Tensor, *, exact: bool, notes: tuple[str, ...] = ()
) -> Magnitude:
    product, slope = kernel.slope(weights)
    value, gap = float(weights.sum()), 1 - product
    return Magnitude(
        value=value, n=len(weights), per_point=weights, exact=exact, notes=notes,
        rate=kernel.rate, dimension=kernel.rate * slope / value,
        residual=float(gap.abs().max()), error=float(gap.norm() * weights.norm()),
    )  # fmt: skip


def _groups(
    x: Tensor, rate: float, members: Tensor, memory: int | float | str | None
) -> Iterator[tuple[Tensor, Tensor]]:
    """Blocks of rows of ``members`` (n, k), and the (b, k, k) similarities within each row."""
    n, width = members.shape
    rows = plan(
        "magnitude", rows=n, bytes_per_row=8 * width * (2 * x.shape[1] + 4 * width),
        memory=memory, largest=2**11,
    )  # fmt: skip
    for part in torch.arange(n, device=x.device).split(rows):
        group = x[members[part]]  # (b, k, d)
        group = group - group[:, -1:]
        gaps = torch.cdist(group, group, compute_mode="donot_use_mm_for_euclid_dist")
        yield part, gaps.mul_(-rate).exp_()


def _preconditioner(x: Tensor, rate: float, memory: int | float | str | None) -> sp.csr_array:
    """(n, n) sparse lower G with G^T G near the inverse of Z (Kolotilina and Yeremin 1993).

    Row i is that of the inverse Cholesky factor of i, the first rows, and the near ones before i.
    """
    n, first = len(x), min(LANDMARKS, len(x))
    row = torch.arange(n, device=x.device)[:, None]
    near = Neighbors.of_points(x, min(AROUND, n - 1), memory=memory).indices
    columns = torch.cat([row[:first].T.expand(n, -1), near, row], 1)
    kept = columns < row
    kept[:, first:-1] &= near >= first
    kept[:, -1] = True
    values = []
    for rows, z in _groups(x, rate, columns, memory):
        real = kept[rows]
        z = z * (real[:, :, None] & real[:, None])  # the others are set apart
        z.diagonal(dim1=1, dim2=2).fill_(1.0)
        unit = z.new_zeros(*real.shape, 1)
        unit[:, -1] = 1.0
        column = torch.cholesky_solve(unit, factor(z))[..., 0]  # (b, k)
        values.append(column / column[:, -1:].sqrt())
    mask = kept.numpy(force=True)
    starts = np.concatenate([[0], mask.sum(1).cumsum()])
    found = torch.cat(values).numpy(force=True)[mask]
    return sp.csr_array((found, columns.numpy(force=True)[mask], starts), (n, n))


def _conjugate_gradients(
    kernel: Kernel, lower: sp.csr_array, *, tolerance: float = 1e-11, most: int = 1000
) -> tuple[Tensor, int]:
    """Solve Z w = 1, and in how many steps; or say that it does not converge."""
    upper = lower.T.tocsr()

    def improve(r: Tensor) -> Tensor:
        return torch.from_numpy(upper @ (lower @ r.numpy(force=True))).to(r)

    w = kernel.x.new_zeros(len(kernel.x))
    r = torch.ones_like(w)
    p = z = improve(r)
    rho = r @ z
    for step in range(1, most + 1):
        q = kernel.product(p)
        length = rho / (p @ q)
        w, r = w + length * p, r - length * q
        if float(r.norm()) <= tolerance * len(r) ** 0.5:
            return w, step
        z = improve(r)
        rho, before = r @ z, rho
        p = z + (rho / before) * p
    raise InputError(
        f"conjugate gradients left a residual of {float(r.norm()) / len(r) ** 0.5:.1e} after "
        f"{most} steps: points are too near to each other for this t, raise t or merge them"
    )
