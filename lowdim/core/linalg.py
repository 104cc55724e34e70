"""Decompositions: exact for positive semi-definite matrices, randomised and Lanczos for large ones.

No inverse and no Cholesky anywhere; every approximation comes with a measured error.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from lowdim.core.random import normal, signs
from lowdim.errors import InputError

PROBES = 10
ALPHA = 10.0


@dataclass(frozen=True)
class Operator:
    """A matrix known by its products.

    Attributes
    ----------
    shape : tuple of int
        (m, n).
    matmul : callable
        (n, k) -> (m, k), the product with the matrix A.
    rmatmul : callable
        (m, k) -> (n, k), the product with its transpose.
    dtype, device
        What the products expect and return.
    """

    shape: tuple[int, int]
    matmul: Callable[[Tensor], Tensor]
    rmatmul: Callable[[Tensor], Tensor]
    dtype: torch.dtype = torch.float64
    device: torch.device | None = None

    @classmethod
    def of_matrix(cls, a: Tensor) -> Operator:
        """The products of a dense or sparse matrix."""
        m, n = a.shape
        return cls((m, n), lambda x: a @ x, lambda y: a.T @ y, a.dtype, a.device)


class LowRank(NamedTuple):
    """``A ~ U @ diag(S) @ V.T``.

    Attributes
    ----------
    U, S, V : Tensor
        (m, rank), (rank,) descending, (n, rank).
    error : float
        Upper bound of ||A - Q Q^T A||_2 for the sketched range Q that holds U; so every singular
        value s found satisfies 0 <= sigma^2 - s^2 <= error^2. The bound fails with probability at
        most 10^-probes.
    residual : float
        ||A^T A V - V S^2||_2: as many eigenvalues of A^T A lie within it of the S^2 (Kahan). Far
        below ``error^2`` where the spectrum is flat, but silent on a direction missed altogether.
    probes : int
        How many Gaussian probes ``error`` rests on.
    """

    U: Tensor
    S: Tensor
    V: Tensor
    error: float
    residual: float
    probes: int


def eigh_psd(a: Tensor) -> tuple[Tensor, Tensor]:
    """Eigenvalues, descending and at least zero, and eigenvectors of a PSD matrix.

    Parameters
    ----------
    a : Tensor
        (n, n) symmetric positive semi-definite up to rounding.

    Returns
    -------
    values, vectors : Tensor
        (n,) and (n, n), ``a @ vectors == vectors * values``.

    Raises
    ------
    InputError
        When an eigenvalue is negative beyond rounding.
    """
    values, vectors = torch.linalg.eigh(a)
    return _clamp(values.flip(0)), vectors.flip(1)


def eigvalsh_psd(a: Tensor) -> Tensor:
    """(n,) eigenvalues of a PSD matrix, descending and at least zero; see :func:`eigh_psd`."""
    return _clamp(torch.linalg.eigvalsh(a).flip(0))


def _clamp(values: Tensor) -> Tensor:
    size = max(float(values[0]), -float(values[-1]))
    if float(values[-1]) < -100 * len(values) * torch.finfo(values.dtype).eps * size:
        raise InputError(
            f"the matrix has eigenvalue {float(values[-1]):.3g} beside {float(values[0]):.3g}: "
            "it is not positive semi-definite"
        )
    return values.clamp_min(0)


def range_finder(
    a: Tensor | Operator, size: int, *, power: int = 2, seed: int = 0, stream: int = 0
) -> Tensor:
    """Which ``size`` directions hold most of the range of A? (m, size) orthonormal.

    Randomised subspace iteration, re-orthogonalised by QR after each product (Halko, Martinsson,
    Tropp 2011, algorithm 4.4); ``2 * power + 1`` products with ``size`` columns.
    """
    a = a if isinstance(a, Operator) else Operator.of_matrix(a)
    omega = normal((a.shape[1], size), seed, stream, device=a.device, dtype=a.dtype)
    q = torch.linalg.qr(a.matmul(omega)).Q  # (m, n) @ (n, size)
    for _ in range(power):
        q = torch.linalg.qr(a.rmatmul(q)).Q
        q = torch.linalg.qr(a.matmul(q)).Q
    return q


def randomized_svd(
    a: Tensor | Operator, rank: int, *, oversample: int = 10, power: int = 2, seed: int = 0
) -> LowRank:
    """Compute the leading singular triplets, and bound what they miss.

    Parameters
    ----------
    a : Tensor or Operator
        (m, n).
    rank : int
        How many triplets.
    oversample : int
        Extra directions in the sketch.
    power : int
        Subspace iterations, for the sketch as well as for the probes of the bound.
    seed : int
        Streams 0 and 1 of this seed are drawn from.

    Notes
    -----
    Halko, Martinsson, Tropp 2011. Their lemma 4.1 bounds ||E||_2, E = (I - Q Q^T) A, by
    alpha sqrt(2/pi) max ||E w|| over r Gaussian w, except with probability alpha^-r. It is applied
    here to (E E^T)^power E, whose norm is ||E||^(2 power + 1): the root shrinks the slack.
    Costs ``2 * power + 4`` products with ``rank + oversample`` columns, ``2 * power + 1`` with ten.
    """
    a = a if isinstance(a, Operator) else Operator.of_matrix(a)
    check_rank(rank, a.shape)
    q = range_finder(a, min(rank + oversample, *a.shape), power=power, seed=seed)
    b = a.rmatmul(q)  # (n, size), the transpose of Q^T A
    v, s, wt = torch.linalg.svd(b, full_matrices=False)
    u, s, v = q @ wt.T[:, :rank], s[:rank], v[:, :rank]
    outside = a.rmatmul(a.matmul(v) - u * s)  # A^T (A V - U S) = A^T A V - V S^2
    residual = float(torch.linalg.matrix_norm(outside, 2))
    return LowRank(u, s, v, _range_error(a, q, power, seed), residual, PROBES)


def _range_error(a: Operator, q: Tensor, power: int, seed: int) -> float:
    def project(y: Tensor) -> Tensor:
        return y - q @ (q.T @ y)

    # scaled to length one after each product, lest a high power overflow; logs add up the scales
    probe = normal((a.shape[1], PROBES), seed, 1, device=a.device, dtype=a.dtype)
    log_norm = torch.zeros(PROBES, dtype=torch.float64, device=a.device)
    for step in range(2 * power + 1):
        probe = project(a.matmul(probe)) if step % 2 == 0 else a.rmatmul(project(probe))
        length = torch.linalg.vector_norm(probe, dim=0)
        log_norm += length.double().log()
        probe = probe / length.clamp_min(torch.finfo(a.dtype).tiny)
    bound = math.log(ALPHA * math.sqrt(2 / math.pi)) + float(log_norm.max())
    return math.exp(bound / (2 * power + 1))


class Ritz(NamedTuple):
    """Approximate eigenpairs of a symmetric operator.

    Attributes
    ----------
    values : Tensor
        (k,) descending.
    vectors : Tensor
        (n, k) orthonormal.
    residuals : Tensor
        (k,) ||A v - value v||: an eigenvalue of A lies within that distance of each value.
    products : int
        How many products with A were spent.
    """

    values: Tensor
    vectors: Tensor
    residuals: Tensor
    products: int


def lanczos(
    matvec: Callable[[Tensor], Tensor],
    n: int,
    k: int,
    *,
    seed: int = 0,
    dtype: torch.dtype = torch.float64,
    device: torch.device | str | None = None,
    steps: int | None = None,
    tol: float = 1e-8,
) -> Ritz:
    """Compute the k largest eigenvalues of a symmetric operator from its products.

    Parameters
    ----------
    matvec : callable
        (n,) -> (n,), the product with A.
    n, k : int
        Order of A, and how many eigenvalues.
    seed : int
        Stream r of this seed starts run r.
    dtype, device
        What ``matvec`` expects and returns.
    steps : int, optional
        Most products in one run; holds (steps, n) numbers. By default ``10 k + 100``.
    tol : float
        Residual, relative to the largest |value|, at which a pair counts as found; at least 100
        units of rounding.

    Notes
    -----
    Full re-orthogonalisation, twice. One Krylov space shows one copy of a repeated eigenvalue, and
    none that its start is orthogonal to; so the pairs found are locked and a fresh run searches
    their complement, until it finds nothing above the k-th. A first run that has not converged
    after ``steps`` is returned as it is: ``residuals`` tell.
    """
    check_rank(k, (n, n))
    steps = steps or 10 * k + 100
    tol = max(tol, 100 * torch.finfo(dtype).eps)
    found = Ritz(
        torch.empty(0, dtype=dtype, device=device),
        torch.empty(n, 0, dtype=dtype, device=device),
        torch.empty(0, dtype=dtype, device=device),
        0,
    )
    for run in range(n):
        start = normal(n, seed, run, device=device, dtype=dtype)
        floor = float(found.values[k - 1]) if len(found.values) == k else -math.inf
        locked = found.vectors
        more = _krylov(matvec, start, locked, k, min(steps, n - locked.shape[1]), floor, tol)
        scale = max([abs(float(v)) for v in torch.cat([found.values, more.values])])
        new = more.values > floor + tol * scale
        values = torch.cat([found.values, more.values[new]])
        top = values.argsort(descending=True, stable=True)[:k]
        found = Ritz(
            values[top],
            torch.cat([locked, more.vectors[:, new]], 1)[:, top],
            torch.cat([found.residuals, more.residuals[new]])[top],
            found.products + more.products,
        )
        converged = bool((found.residuals <= tol * scale).all())
        if not converged or not bool(new.any()) or len(values) == n:
            break
    return found


def _krylov(
    matvec: Callable[[Tensor], Tensor],
    start: Tensor,
    locked: Tensor,
    k: int,
    steps: int,
    floor: float,
    tol: float,
) -> Ritz:
    """One Lanczos run in the complement of ``locked``, for at most k values above ``floor``."""

    def orthogonal(w: Tensor, basis: Tensor) -> Tensor:
        for _ in range(2):
            w = w - locked @ (locked.T @ w)
            w = w - basis.T @ (basis @ w)
        return w

    basis = torch.empty(steps, len(start), dtype=start.dtype, device=start.device)
    t = torch.zeros(steps, steps, dtype=torch.float64)
    q = orthogonal(start, basis[:0])
    q = q / torch.linalg.vector_norm(q)
    for j in range(steps):
        basis[j] = q
        w = matvec(q)
        t[j, j] = float(q @ w)
        w = orthogonal(w, basis[: j + 1])
        beta = float(torch.linalg.vector_norm(w))
        if not math.isfinite(beta):
            raise InputError(f"matvec returned NaN or Inf at product {j + 1}")
        scale = float(t.abs().max())
        broken = beta <= 10 * torch.finfo(q.dtype).eps * scale  # the space is invariant
        last = broken or j + 1 == steps
        if last or (j + 1) % 5 == 0:  # a small eigenproblem every fifth step
            values, s = torch.linalg.eigh(t[: j + 1, : j + 1])
            values, s = values.flip(0)[:k], s.flip(1)[:, :k]
            residuals = beta * s[-1].abs()
            if floor == -math.inf:
                done = len(values) == k and bool((residuals <= tol * scale).all())
            else:  # is anything left above the floor?
                above = values > floor
                done = j >= 9 and (
                    bool((residuals[above] <= tol * scale).all())
                    if bool(above[0])
                    else float(values[0] + 10 * residuals[0]) < floor
                )
            if last or done:
                break
        t[j, j + 1] = t[j + 1, j] = beta
        q = w / beta
    vectors = basis[: j + 1].T @ s.to(basis)  # (n, j) @ (j, k)
    return Ritz(values.to(basis), vectors, residuals.to(basis), j + 1)


def trace(
    matvec: Callable[[Tensor], Tensor], known: Tensor, *, seed: int = 0, probes: int = 32
) -> tuple[float, float]:
    """Trace of a symmetric operator on the complement of ``known``, and its standard error.

    Hutchinson's estimator: the mean of ``probes`` products with random signs. ``known`` (n, k) has
    orthonormal columns, and may have none.
    """
    n, k = known.shape
    if k == n:
        return 0.0, 0.0
    samples = torch.zeros(probes, dtype=torch.float64)
    for probe in range(probes):
        z = signs(n, seed, probe, device=known.device, dtype=known.dtype)
        z = z - known @ (known.T @ z)
        samples[probe] = float(z @ matvec(z))
    return float(samples.mean()), float(samples.std()) / math.sqrt(probes)


def check_rank(rank: int, shape: tuple[int, int]) -> None:
    """Raise an error unless ``rank`` lies between 1 and the smaller side."""
    if not 1 <= rank <= min(shape):
        raise InputError(f"rank={rank}: must lie between 1 and {min(shape)} for shape {shape}")
