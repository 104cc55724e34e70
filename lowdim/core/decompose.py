"""The work behind `Spectrum`: energies and directions of points and matrices.

Exact results come from the smaller Gram matrix in float64, or from an SVD of float64 matrices;
approximate ones from products with blocks of vectors.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from functools import partial
from typing import Any, NamedTuple

import torch
from torch import Tensor

from lowdim.core.engine import LocalEngine
from lowdim.core.linalg import (
    Operator,
    check_rank,
    eigh_psd,
    eigvalsh_psd,
    lanczos,
    randomized_svd,
)
from lowdim.core.memory import budget, plan
from lowdim.core.moments import Moments, Variances
from lowdim.core.points import unit_rows
from lowdim.errors import InputError

EPS = torch.finfo(torch.float64).eps


class Energies(NamedTuple):
    """Energies (r,), right singular vectors (d, r), centre (d,), energy of each coordinate (d,)."""

    values: Tensor
    vectors: Tensor | None
    mean: Tensor | None
    diagonal: Tensor


def of_psd(moment: Tensor, keep: int, vectors: bool) -> tuple[Tensor, Tensor | None]:
    """The first ``keep`` eigenvalues, those that float64 cannot tell from zero set to zero."""
    if not bool(torch.isfinite(moment.diagonal().sum())):
        raise InputError("the squares of the values overflow float64: rescale the data first")
    if vectors:
        values, basis = eigh_psd(moment)
        basis = basis[:, :keep]
    else:
        values, basis = eigvalsh_psd(moment), None
    return torch.where(values > len(values) * EPS * values[0], values, 0.0)[:keep], basis


def gram_side(
    x: Tensor,
    scale: float,
    center: bool,
    unit: bool,
    vectors: bool,
    memory: int | float | str | None,
) -> Energies:
    """Energies of an (n, d) tensor, times ``scale``, from the smaller of its Gram matrices."""
    n, d = x.shape
    if n >= d:
        plan("the second moment", rows=n, bytes_per_row=24 * d, fixed=40 * d * d, memory=memory)
        moments = Moments(d, unit=unit, device=x.device).update(x)
        moment = moments.second_moment(center) * (n * scale)  # (d, d)
        values, right = of_psd(moment, d, vectors)
        return Energies(values, right, moments.mean if center else None, moment.diagonal().clone())

    fixed = 40 * n * n + 8 * n * d * (unit + 3 * vectors)
    width = plan("the Gram matrix", rows=d, bytes_per_row=24 * n, fixed=fixed, memory=memory)
    points = unit_rows(x.double()) if unit else x
    mean = torch.zeros(d, dtype=torch.float64, device=x.device) if center else None

    def blocks() -> Iterator[tuple[slice, Tensor]]:
        for begin in range(0, d, min(width, 4096)):
            columns = slice(begin, begin + min(width, 4096))
            block = points[:, columns].double()
            if mean is not None:
                shift = block[0]  # so that a constant column becomes exactly zero
                block = block - shift
                middle = block.mean(0)
                mean[columns], block = shift + middle, block - middle
            yield columns, block

    gram = torch.zeros(n, n, dtype=torch.float64, device=x.device)
    diagonal = torch.zeros(d, dtype=torch.float64, device=x.device)
    for columns, block in blocks():
        gram += block @ block.T  # (n, width) @ (width, n)
        diagonal[columns] = (block * block).sum(0) * scale
    values, left = of_psd(gram * scale, n, vectors)
    if left is None:
        return Energies(values, None, mean, diagonal)
    # V = X^T U / S by QR, which keeps V orthonormal and completes it where S is zero
    right, r = torch.linalg.qr(torch.cat([block.T @ left for _, block in blocks()]))  # (d, n)
    return Energies(values, right * torch.where(r.diagonal() < 0, -1.0, 1.0), mean, diagonal)


def svd(w: Tensor, vectors: bool, memory: int | float | str | None) -> Energies:
    """Energies of a float64 matrix without squaring its condition number."""
    m, n = w.shape
    fixed = 8 * (2 * m * n + 4 * min(m, n) ** 2)
    plan("the SVD", rows=m, bytes_per_row=1, fixed=fixed, memory=memory)
    if vectors:
        _, s, right = torch.linalg.svd(w, full_matrices=False)
    else:
        s, right = torch.linalg.svdvals(w), None
    s = torch.where(s > max(m, n) * EPS * s[0], s, 0.0)
    return Energies(s * s, None if right is None else right.T, None, (w * w).sum(0))


def leading(
    a: Operator, method: str, rank: int, seed: int, memory: int | float | str | None = None
) -> tuple[Tensor, Tensor, float]:
    """The ``rank`` largest energies of A, their right vectors, and the relative error."""
    check_rank(rank, a.shape)
    eps, tiny = torch.finfo(a.dtype).eps, torch.finfo(a.dtype).tiny
    columns = 4 * (rank + 20) if method == "randomized" else 10 * rank + 100
    fixed = 8 * sum(a.shape) * columns
    plan(f"{rank} values by {method}", rows=1, bytes_per_row=1, fixed=fixed, memory=memory)
    if method == "randomized":
        found = randomized_svd(a, rank, seed=seed)
        values, right = found.S.double() ** 2, found.V.double()
        error = min(found.error**2, found.residual)
    else:

        def matvec(v: Tensor) -> Tensor:
            return a.rmatmul(a.matmul(v[:, None]))[:, 0]

        ritz = lanczos(matvec, a.shape[1], rank, seed=seed, dtype=a.dtype, device=a.device)
        values, right = ritz.values.double().clamp_min(0), ritz.vectors.double()
        error = float(ritz.residuals.max())
    return values, right, error / max(float(values[0]), tiny) + 10 * eps  # and rounding


def points_operator(
    x: Any,
    n: int,
    d: int,
    center: bool,
    unit: bool,
    rank: int,
    memory: int | float | str | None,
) -> tuple[Operator, Tensor | None, Tensor]:
    """Products with the centred (n, d) points, their mean, and the energy of each coordinate.

    The points are prepared once where four times their size in float64 fits the budget, and read
    again for each product otherwise.
    """
    check_rank(rank, (n, d))
    fixed = 32 * (n + d) * (rank + 10)
    block = plan(
        "a pass over the points", rows=n, bytes_per_row=24 * d, fixed=fixed, memory=memory,
        largest=2**14,
    )  # fmt: skip
    source = not isinstance(x, Tensor)
    device = torch.device("cpu") if source else x.device

    def chunks() -> Iterable[Tensor]:
        return x.chunks(memory) if source else x.split(block)

    stats = LocalEngine().reduce(partial(Variances, d, unit=unit, device=device), chunks())
    mean = stats.mean if center else torch.zeros_like(stats.mean)

    def prepare() -> Iterator[Tensor]:
        for chunk in chunks():
            chunk = chunk.to(mean)
            yield (unit_rows(chunk) if unit else chunk) - mean

    held = list(prepare()) if 32 * n * d <= budget(memory) else None

    def rows() -> Iterable[Tensor]:
        return prepare() if held is None else held

    def matmul(b: Tensor) -> Tensor:
        return torch.cat([chunk @ b for chunk in rows()])  # (n, d) @ (d, k)

    def rmatmul(y: Tensor) -> Tensor:
        product, begin = mean.new_zeros(d, y.shape[1]), 0
        for chunk in rows():
            product += chunk.T @ y[begin : begin + len(chunk)]  # (d, rows) @ (rows, k)
            begin += len(chunk)
        return product

    operator = Operator((n, d), matmul, rmatmul, torch.float64, device)
    return operator, stats.mean if center else None, stats.second_moment(center)
