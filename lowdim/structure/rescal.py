"""Non-negative RESCAL: who relates to whom, through a few communities (Krompass et al. 2013).

Relations X_t of n things among themselves, t = 1, ..., T, are written as A R_t A^T with A (n, k)
and R_t (k, k) not negative: A says how far each thing belongs to each community, R_t how much the
communities have to do with each other in relation t. The multiplicative rules below keep signs
and let the error fall (for A they are known to do so in practice, not by proof).

Cost of an iteration: four products of the relations with k columns, 8 T n^2 k.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from lowdim.core.points import check_finite
from lowdim.core.random import uniform
from lowdim.errors import InputError


@dataclass(frozen=True, eq=False, repr=False)
class Rescal:
    """X_t ~ A R_t A^T.

    Attributes
    ----------
    communities : Tensor
        (n, k), columns of length one.
    relations : Tensor
        (T, k, k).
    error : float
        Frobenius norm of what is left over that of X.
    iterations : int
        That were taken.
    """

    communities: Tensor
    relations: Tensor
    error: float
    iterations: int

    def __repr__(self) -> str:
        (n, k), t = self.communities.shape, len(self.relations)
        return f"Rescal({t} relations of {n} things, {k} communities, error {self.error:.3g})"


def rescal(
    x: Any, rank: int, *, max_iter: int = 3000, tol: float = 1e-7, random_state: int = 0
) -> Rescal:
    """Which communities explain several relations among the same things?

    Parameters
    ----------
    x : array-like
        (T, n, n) relations, or (n, n) for one; at least zero.
    rank : int
        k communities.
    max_iter : int
        Most iterations.
    tol : float
        Stop when ten iterations lower the relative error by less than this.
    random_state : int
        Of the start.

    Raises
    ------
    InputError
        NaN or Inf, negative entries, all zeros, a rank not between 1 and n.

    Notes
    -----
    Trust the factors only as far as other seeds give them too: :func:`select_rank` with
    ``lambda x, k, seed: (lambda f: (f.communities, f.error))(rescal(x, k, random_state=seed))``.
    """
    x = torch.as_tensor(x).double()
    x = x[None] if x.ndim == 2 else x
    if x.ndim != 3 or x.shape[1] != x.shape[2]:
        raise InputError(f"x has shape {tuple(x.shape)}: give (T, n, n) relations")
    t, n, _ = x.shape
    check_finite(x.reshape(t * n, n))
    size = float(x.norm())
    if bool((x < 0).any()) or not size or not 1 <= rank <= n:
        raise InputError(
            f"rank={rank}: relations must be at least zero and not all zero, ranks 1 to {n}"
        )
    a = uniform((n, rank), random_state, 0, device=x.device)
    r = uniform((t, rank, rank), random_state, 1, device=x.device)
    r = r * (size / float((a @ r @ a.T).norm()))
    floor = torch.finfo(x.dtype).tiny
    error, done = float("inf"), 0
    for done in range(1, max_iter + 1):
        gram = a.T @ a
        r = r * (a.T @ x @ a) / (gram @ r @ gram).clamp_min(floor)
        toward = (x @ a @ r.mT + x.mT @ a @ r).sum(0)  # (n, n) @ (n, k) @ (k, k), over relations
        spread = (r @ gram @ r.mT + r.mT @ gram @ r).sum(0)  # (k, k)
        a = a * toward / (a @ spread).clamp_min(floor)
        if done % 10 == 0:
            last, error = error, float((x - a @ r @ a.T).norm()) / size
            if last - error < tol:
                break
    lengths = torch.linalg.vector_norm(a, dim=0).clamp_min(floor)
    a, r = a / lengths, r * lengths[:, None] * lengths
    return Rescal(a, r, float((x - a @ r @ a.T).norm()) / size, done)
