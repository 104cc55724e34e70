"""Exact draws of directions: the Bingham law, for the exponential mechanism on second moments.

The Bingham law on the unit sphere of R^d has density proportional to exp(v^T M v). Kent, Ganeiber
and Mardia (2018) draw from it by rejection from the angular central Gaussian law, the direction of
y ~ N(0, Omega^-1), whose density is proportional to (v^T Omega v)^(-d/2). In the axes of M, with
gaps = max eig(M) - eig(M) >= 0 and u = sum gaps v^2, the target is exp(-u) and, with Omega = 1 +
2 gaps / b, the envelope (1 + 2u/b)^(-d/2). Their ratio exp(-u) (1 + 2u/b)^(d/2) is largest at
1 + 2u/b = d/b, which bounds it for every 0 < b <= d; the acceptance is best where
sum 1 / (b + 2 gaps) = 1. Cost of a draw: a few tries of O(d), growing as sqrt(d) at worst (4 at
d = 10, 8 at 50, 17 at 200), and one eigenproblem for the law.

An exact draw of a whole basis from exp(tr V^T M V) by the same bound would take 250 tries for two
columns at d = 50 and 10^9 for five. So :func:`sequential` draws column after column, each exactly,
from another law; and :func:`gibbs` (Hoff 2009) runs a Markov chain towards this one, each column
given the others being an exact Bingham draw.
"""

from __future__ import annotations

import math
import os

import numpy as np
import torch
from scipy.optimize import brentq
from torch import Tensor

from lowdim.core import random


class Noise:
    """Uniform and normal float64 numbers, from the system's secure generator or from a seed.

    Uniforms are odd multiples of 2^-53 strictly between 0 and 1; normals are made of them by the
    inverse distribution function, so they lie within 8.21 standard deviations.

    Parameters
    ----------
    seed : int or None
        None reads ``os.urandom``; a seed gives the same numbers again, so they hide nothing.
    """

    def __init__(self, seed: int | None = None) -> None:
        self.seed = seed
        self._drawn, self._ready = 0, torch.empty(0, dtype=torch.float64)

    def uniform(self, *shape: int) -> Tensor:
        """Numbers of the interval (0, 1)."""
        count = math.prod(shape)
        if self.seed is not None:
            if count > len(self._ready):  # a draw of few costs as much as one of thousands
                fresh = random.uniform(max(count, 2**12), self.seed, start=self._drawn)
                self._drawn += len(fresh)
                self._ready = torch.cat([self._ready, fresh])
            taken, self._ready = self._ready[:count], self._ready[count:]
            return taken.reshape(shape)
        words = np.frombuffer(os.urandom(8 * count), np.uint64) >> np.uint64(12)
        return torch.from_numpy((2 * words + 1) * 2.0**-53).reshape(shape)

    def normal(self, *shape: int) -> Tensor:
        """Standard normal numbers."""
        return random.ndtri(self.uniform(*shape))


def bingham(matrix: Tensor, size: int, noise: Noise) -> Tensor:
    """Draw unit vectors with density proportional to exp(v^T M v), exactly.

    Parameters
    ----------
    matrix : Tensor
        (d, d) symmetric float64.
    size : int
        How many.
    noise : Noise
        Where the randomness comes from.

    Returns
    -------
    Tensor
        (size, d).
    """
    values, axes = torch.linalg.eigh(matrix)
    d, gaps = len(values), values[-1] - values
    twice = 2 * gaps.numpy()
    root = brentq(lambda b: np.sum(1 / (b + twice)) - 1, 1.0, d * (1 + 1e-9))
    b = min(float(root), float(d))
    spread = (1 + 2 * gaps / b).rsqrt()  # Omega^(-1/2)
    peak = (b - d) / 2 + d / 2 * math.log(d / b)  # of the log of the ratio
    drawn, found = [], 0
    while found < size:
        y = noise.normal(2 * (size - found) + 8, d) * spread
        v = y / torch.linalg.vector_norm(y, dim=1, keepdim=True)
        u = v.square() @ gaps
        ratio = d / 2 * (2 * u / b).log1p() - u - peak  # log of the chance to be taken, <= 0
        kept = v[noise.uniform(len(v)).log() < ratio][: size - found]
        drawn.append(kept @ axes.T)  # (m, d) @ (d, d)
        found += len(kept)
    return torch.cat(drawn)


def sequential(matrix: Tensor, rank: int, noise: Noise) -> Tensor:
    """Draw an orthonormal basis: each column from the Bingham law in the complement of the last.

    Returns
    -------
    Tensor
        (d, rank), columns in the order drawn.
    """
    basis = matrix.new_zeros(len(matrix), 0)
    for _ in range(rank):
        rest = complement(basis)  # (d, d - drawn)
        v = bingham(rest.T @ matrix @ rest, 1, noise)[0]
        basis = torch.cat([basis, (rest @ v)[:, None]], 1)
    return basis


def gibbs(matrix: Tensor, rank: int, sweeps: int, noise: Noise) -> Tensor:
    """Run a Markov chain towards exp(tr V^T M V) on orthonormal bases: (d, rank).

    Each sweep draws every column anew, given the others, from the Bingham law in their complement.
    It starts from a uniformly random basis. How far it is from its limit after ``sweeps`` is not
    known.
    """
    d = len(matrix)
    basis = torch.linalg.qr(noise.normal(d, rank)).Q
    for _ in range(sweeps):
        for j in range(rank):
            others = torch.cat([basis[:, :j], basis[:, j + 1 :]], 1)
            rest = complement(others)
            basis[:, j] = rest @ bingham(rest.T @ matrix @ rest, 1, noise)[0]
    return basis


def complement(basis: Tensor) -> Tensor:
    """(d, d - r) orthonormal columns that span what (d, r) orthonormal ones do not."""
    return torch.linalg.qr(basis, mode="complete").Q[:, basis.shape[1] :]
