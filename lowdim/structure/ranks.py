"""The dimension of a piece: how many of its eigenvalues stand above isotropic noise.

A piece is taken for a normal distribution with q free directions and one noise variance in the
others (probabilistic PCA, Tipping and Bishop 1999), and q is chosen by the Bayesian information
criterion (Schwarz 1978; for covariances Wax and Kailath 1985).
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from lowdim.errors import InputError


def ppca_deviance(values: Tensor, dim: int) -> Tensor:
    """Minus twice the log-likelihood a point of probabilistic PCA, for every rank it may have.

    Parameters
    ----------
    values : Tensor
        (r,) eigenvalues of the covariance in descending order; the ``dim - r`` others are zero.
    dim : int
        d, the columns of the points.

    Returns
    -------
    Tensor
        (min(r, d - 1) + 1,) float64, at ranks 0, 1, ...
    """
    v = values.double().clamp_min(0)
    floor = max(float(v.sum()) * torch.finfo(values.dtype).eps / dim, torch.finfo(v.dtype).tiny)
    ranks = torch.arange(min(len(v), dim - 1) + 1)
    left = v.sum() - torch.cat([v.new_zeros(1), v.cumsum(0)])[ranks]
    noise = (left / (dim - ranks)).clamp_min(floor)  # (ranks,) mean of the eigenvalues left out
    logs = torch.cat([v.new_zeros(1), v.clamp_min(floor).log().cumsum(0)])[ranks]
    return logs + (dim - ranks) * noise.log() + dim * (1 + math.log(2 * math.pi))


def parameters(rank: int | Tensor, dim: int) -> int | Tensor:
    """Free numbers of probabilistic PCA: mean, q directions with their variances, and the noise."""
    return dim + rank * dim - rank * (rank - 1) // 2 + 1


def bic_rank(values: Tensor, n: int, dim: int, *, largest: int | None = None) -> int:
    """How many dimensions does a piece of n points have?

    Parameters
    ----------
    values : Tensor
        (r,) eigenvalues of the covariance of its points, descending.
    n : int
        Points of the piece.
    dim : int
        d, the columns of the points.
    largest : int, optional
        The largest rank considered; (n - 1) // 2 in any case, since beyond it the noise is
        estimated from next to nothing.

    Raises
    ------
    InputError
        No points.
    """
    if n < 1:
        raise InputError(f"n={n}: a piece without points has no dimension")
    deviance = ppca_deviance(values, dim)
    most = min(len(deviance) - 1, (n - 1) // 2, len(deviance) if largest is None else largest)
    ranks = torch.arange(max(most, 0) + 1)
    criterion = n * deviance[ranks] + math.log(max(n, 2)) * parameters(ranks, dim)
    return int(criterion.argmin())
