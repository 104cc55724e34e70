"""Coding rate and rate reduction: how many nats say where the points lie, in one or in many parts?

The rate R(Z) = 1/2 logdet(I + d / (n eps^2) Z^T Z) is, up to a constant, what it takes to code a
point of a normal cloud to within eps (Ma et al. 2007). Cut into parts, each coded by itself, the
points cost R^c; maximal coding rate reduction (Yu et al. 2020) makes R - R^c large: every part of
low dimension, all of them together of high dimension. CRATE (Yu et al. 2023) measures the parts in
K subspaces U_k that are given, R^c = 1/2 sum_k logdet(I + p / (n eps^2) U_k^T Z^T Z U_k), and adds
that the code be sparse.

All rates are in nats, computed in float64 and differentiable in their tensors; a logdet is taken
on the smaller side. Cost: n d min(n, d) for a rate, the same again for its gradient.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from lowdim.errors import InputError

BLOCK = 2**23  # numbers in the weighted products of one block of parts


def coding_rate(z: Tensor, eps: float = 0.5) -> Tensor:
    """R(Z): how many nats does a point cost, to within ``eps``? A 0-d float64 tensor.

    Parameters
    ----------
    z : Tensor
        (n, d) points. The rate grows with their scale: Yu et al. take unit rows.
    eps : float
        Distortion.

    Raises
    ------
    InputError
        Not (n, d), ``eps`` not above zero, NaN or Inf, or an ``eps`` so small beside the points
        that float64 does not hold the determinant.
    """
    n, d = _shape(z, eps)
    return _logdet(_gram(z.double()) * (d / (n * eps**2))) / 2


def compressed_rate(z: Tensor, weights: Tensor, eps: float = 0.5) -> Tensor:
    """R^c(Z | weights): what does a point cost when each part is coded by itself?

    Sum over k of n_k / 2n logdet(I + d / (n_k eps^2) Z^T W_k Z), n_k being the size of part k.

    Parameters
    ----------
    z : Tensor
        (n, d) points.
    weights : Tensor
        (n, K) memberships, at least zero; gradients flow to them. Where rows sum to one, R^c is
        at most :func:`coding_rate`.
    eps : float
        Distortion.

    Notes
    -----
    K n d min(n, d) work. Blocks of parts are recomputed for the gradient, so that what is held is
    one block and not K n d numbers. A part without weight costs nothing.
    """
    n, d = _shape(z, eps)
    if weights.ndim != 2 or len(weights) != n or not bool((weights >= 0).all()):
        raise InputError(
            f"weights have shape {tuple(weights.shape)} for {n} points: give (n, K) memberships, "
            "none below zero"
        )
    z, weights = z.double(), weights.double()
    weights = weights[:, weights.detach().sum(0) > 0]
    side = min(n, d)
    step = max(1, BLOCK // (side * max(n, side)))
    parts = (
        checkpoint(_parts_rate, z, part, eps, use_reentrant=False, preserve_rng_state=False)
        for part in weights.split(step, 1)
    )
    return torch.stack(list(parts)).sum() / n


def label_rate(z: Tensor, code: Tensor, eps: float = 0.5) -> Tensor:
    """R^c of parts that do not overlap: the mean over points of the rate of their own part.

    ``code`` (n,) holds integer labels. Equals :func:`compressed_rate` of their one-hot weights at
    the cost of one rate.
    """
    n, _ = _shape(z, eps)
    if code.shape != (n,):
        raise InputError(f"labels have shape {tuple(code.shape)} for {n} points: give one a point")
    parts = [z[code == k] for k in code.unique()]
    return torch.stack([len(part) / n * coding_rate(part, eps) for part in parts]).sum()


def subspace_rate(z: Tensor, bases: Tensor, eps: float = 0.5) -> Tensor:
    """R^c(Z; U) of CRATE: the rates of the points seen in K subspaces, summed.

    Parameters
    ----------
    z : Tensor
        (n, d) points.
    bases : Tensor
        (K, d, p) orthonormal columns.
    eps : float
        Distortion.
    """
    n, d = _shape(z, eps)
    if bases.ndim != 3 or bases.shape[1] != d:
        raise InputError(f"bases have shape {tuple(bases.shape)}: give (K, {d}, p)")
    seen = z.double() @ bases.double()  # (n, d) @ (K, d, p)
    return _logdet(_gram(seen) * (bases.shape[2] / (n * eps**2))).sum() / 2


def rate_reduction_loss(z: Tensor, weights: Tensor, eps: float = 0.5) -> Tensor:
    """R^c - R of points and memberships: least where parts are flat and the whole is not."""
    return compressed_rate(z, weights, eps) - coding_rate(z, eps)


def sparse_rate_reduction_loss(
    z: Tensor, bases: Tensor, *, penalty: float, eps: float = 0.5
) -> Tensor:
    """R^c(Z; U) - R(Z) + penalty |Z|_1: what a CRATE block lowers.

    The paper counts the non-zero entries; as usual their sum of sizes stands in. It grows with n
    and the rates do not, so ``penalty`` is of the order of 1/n.
    """
    return subspace_rate(z, bases, eps) - coding_rate(z, eps) + penalty * z.double().abs().sum()


def _shape(z: Tensor, eps: float) -> tuple[int, int]:
    check_eps(eps)
    if z.ndim != 2 or 0 in z.shape:
        raise InputError(f"z has shape {tuple(z.shape)}: give (n points, d columns)")
    return z.shape[0], z.shape[1]


def check_eps(eps: float) -> None:
    """Raise an error unless the distortion is above zero and finite."""
    if not 0 < eps < math.inf:
        raise InputError(f"eps={eps}: the distortion must be above zero and finite")


def _gram(z: Tensor) -> Tensor:
    """Inner products of the rows or of the columns of (..., n, d), whichever are fewer."""
    n, d = z.shape[-2:]
    return z @ z.mT if n < d else z.mT @ z


def _logdet(a: Tensor) -> Tensor:
    """Logdet of I + A for positive semi-definite (..., m, m) A."""
    factor, failed = torch.linalg.cholesky_ex(a + torch.eye(a.shape[-1]).to(a))
    logs = factor.diagonal(dim1=-2, dim2=-1).log()
    if bool(failed.any()) or not bool(torch.isfinite(logs).all()):
        raise InputError(
            "the rate has no value in float64: NaN or Inf among the points, or an eps some eight "
            "orders below their length"
        )
    return 2 * logs.sum(-1)


def _parts_rate(z: Tensor, weights: Tensor, eps: float) -> Tensor:
    """Sum over parts of n_k / 2 logdet(I + d / (n_k eps^2) Z^T W_k Z), weights (n, b)."""
    n, d = z.shape
    size = weights.sum(0)
    share = (weights / size * (d / eps**2)).T  # (b, n)
    if n < d:  # det(I + G W) needs no root of W, whose gradient is infinite at zero
        scaled = (z @ z.T) * share[:, None, :]  # (n, n) * (b, 1, n)
        logdets = torch.linalg.slogdet(scaled + torch.eye(n).to(z)).logabsdet
        if not bool(torch.isfinite(logdets).all()):
            raise InputError("the rate has no value in float64: NaN or Inf among the points")
    elif len(share) < d:
        logdets = _logdet(z.T @ (share[:, :, None] * z))  # (d, n) @ (b, n, d)
    else:  # one product for many parts: (b, n) @ (n, d d)
        squares = (z[:, :, None] * z[:, None]).view(n, d * d)
        logdets = _logdet((share @ squares).view(-1, d, d))
    return (size * logdets).sum() / 2
