"""Sparse codes by thresholding: the lasso of many points at once, with a certificate.

Each point x is written as D z with the least ``|x - D z|^2 / 2 + penalty |z|_1``. Iterative soft
thresholding (Daubechies, Defrise and De Mol 2004) is a gradient step and a shrinkage; the fast form
(Beck and Teboulle 2009) adds momentum, dropped for each point on its own where it points uphill
(O'Donoghue and Candes 2015). A point is finished when its duality gap says so, and then costs
nothing more.

Cost: 2 n m d multiply-adds a step. Memory: the (n, m) codes and five blocks of them.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor

from lowdim.core.blocked import on_threads, workers
from lowdim.core.memory import plan
from lowdim.core.points import as_points
from lowdim.errors import InputError
from lowdim.structure.omp import SparseCodes, unit_columns

ROWS = 1024
"""Rows of the largest block."""

EVERY = 10
"""Steps between two looks at the duality gap."""


@dataclass(frozen=True, eq=False)
class LassoCodes:
    """Codes, and the proof of how good they are.

    Attributes
    ----------
    values : Tensor
        (n, m) codes.
    gap : Tensor
        (n,) duality gap: the objective is above its least value by at most this.
    converged : Tensor
        (n,) whether the gap is within the tolerance; where not, more steps are needed.
    """

    values: Tensor
    gap: Tensor
    converged: Tensor


def lasso(
    x: Any,
    dictionary: Any,
    penalty: float,
    *,
    tolerance: float = 1e-6,
    max_iter: int = 2000,
    memory: int | float | str | None = None,
) -> LassoCodes:
    """Write each point as a sum of atoms with small coefficients, most of them zero.

    Parameters
    ----------
    x : array-like
        (n, d) points.
    dictionary : array-like
        (d, m) atoms as columns of length one.
    penalty : float
        Above zero, in units of x; a point with all correlations below it gets no atom.
        scikit-learn's ``Lasso(alpha)`` has ``penalty = alpha * d``.
    tolerance : float
        A point is finished when its duality gap is at most this share of ``|x|^2 / 2``.
    max_iter : int
        The most steps; ``converged`` says which points they were enough for.
    memory : int, float, str or None
        Budget, see :func:`lowdim.core.memory.budget`.

    Raises
    ------
    InputError
        NaN or Inf, columns that do not have length one, or a penalty not above zero.
    MemoryBudgetError
        The codes do not fit.
    """
    x = as_points(x)
    atoms = unit_columns(dictionary, x)
    (n, d), m = x.shape, atoms.shape[1]
    if not 0 < penalty < float("inf") or not tolerance > 0 or max_iter < 1:
        raise InputError(
            f"penalty={penalty!r}, tolerance={tolerance!r}, max_iter={max_iter!r}: all must be "
            "above zero"
        )
    size, cores = atoms.dtype.itemsize, workers(x.device)
    rows = plan(
        "the lasso",
        rows=n,
        bytes_per_row=cores * size * (6 * m + 3 * d),
        fixed=2 * size * n * (m + 1) + size * m * d,
        memory=memory,
        largest=ROWS,
    )
    solve = partial(_fista, atoms=atoms, penalty=penalty, tolerance=tolerance, max_iter=max_iter)
    parts = list(on_threads(solve, x.split(rows), x.device))
    values, gap, done = (torch.cat([part[i] for part in parts]) for i in range(3))
    return LassoCodes(values, gap, done)


def ista(x: Tensor, dictionary: Tensor, penalty: float, *, n_iter: int = 10) -> Tensor:
    """(n, m) codes after a fixed number of thresholding steps, differentiable in everything.

    What learned encoders unroll: the objective of :func:`lasso` falls at every step, and the codes
    tend to its minimum. Arguments are tensors and are not checked.
    """
    step = 1 / _lipschitz(dictionary)
    z = x.new_zeros(len(x), dictionary.shape[1])
    for _ in range(n_iter):
        z = soft_threshold(z + step * (x - z @ dictionary.T) @ dictionary, step * penalty)
    return z


def soft_threshold(z: Tensor, threshold: float | Tensor) -> Tensor:
    """Each number moved towards zero by ``threshold``, and to zero where it is within it."""
    return z.sign() * (z.abs() - threshold).relu()


def top_k(z: Tensor, k: int, *, positive: bool = False) -> SparseCodes:
    """The k largest of each row: by size, or by value where ``positive`` drops the rest.

    Parameters
    ----------
    z : Tensor
        (n, m) correlations or activations.
    k : int
        At most m. Rows with fewer numbers that are not zero (above zero) leave slots empty.
    """
    if not 1 <= k <= z.shape[1]:
        raise InputError(f"k={k!r}: give an integer from 1 to {z.shape[1]}, the columns")
    index = (z if positive else z.abs()).topk(k, dim=1).indices
    values = z.gather(1, index)
    values = values.relu() if positive else values
    return SparseCodes(torch.where(values != 0, index, 0), values)


def _lipschitz(atoms: Tensor) -> Tensor:
    """Largest eigenvalue of the Gram matrix of the atoms, with room for rounding."""
    return torch.linalg.matrix_norm(atoms, 2).square() * (1 + 1e-5)


def _fista(
    x: Tensor, atoms: Tensor, penalty: float, tolerance: float, max_iter: int
) -> tuple[Tensor, Tensor, Tensor]:
    """Codes, gaps and whether they are small, of one block: x (b, d), atoms (d, m)."""
    x, step = x.to(atoms.dtype), 1 / _lipschitz(atoms)
    enough = tolerance * x.square().sum(1) / 2
    values, gap = x.new_zeros(len(x), atoms.shape[1]), x.new_full((len(x),), torch.inf)
    rows = torch.arange(len(x), device=x.device)  # those not finished
    z = y = values
    momentum = x.new_ones(len(x), 1)
    for i in range(max_iter):
        new = soft_threshold(y + step * (x - y @ atoms.T) @ atoms, step * penalty)
        uphill = ((y - new) * (new - z)).sum(1, keepdim=True) > 0
        momentum = torch.where(uphill, 1, momentum)
        later = (1 + (1 + 4 * momentum.square()).sqrt()) / 2
        y = new + (momentum - 1) / later * (new - z)
        z, momentum = new, later
        if i % EVERY == EVERY - 1 or i == max_iter - 1:
            values[rows], gap[rows] = z, _gap(x, z, atoms, penalty)
            left = gap[rows] > enough[rows]
            rows, x, z, y, momentum = (t[left] for t in (rows, x, z, y, momentum))
            if not len(rows):
                break
    return values, gap, gap <= enough


def _gap(x: Tensor, z: Tensor, atoms: Tensor, penalty: float) -> Tensor:
    """(b,) objective at z minus that of the dual point which is the residual, shrunk to fit."""
    left = x - z @ atoms.T
    largest = (left @ atoms).abs().amax(1)
    dual = left * (penalty / largest.clamp_min(penalty))[:, None]
    primal = left.square().sum(1) / 2 + penalty * z.abs().sum(1)
    return (primal - (x.square().sum(1) - (x - dual).square().sum(1)) / 2).clamp_min(0)
