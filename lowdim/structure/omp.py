"""Orthogonal matching pursuit of many points at once: each point as a sum of a few atoms.

The greedy rule of Pati, Rezaiifar and Krishnaprasad 1993 (take the atom that is closest to what is
left, fit all atoms taken so far anew) in the form of Rubinstein, Zibulevsky and Elad 2008
("Batch-OMP"): one Gram matrix of the atoms replaces every residual, and the least-squares fit grows
by one row of a triangular factor. All points of a block take their t-th atom together.

Cost: n m d multiply-adds for the correlations and n m s^2 / 2 for their updates, next to m^2 d for
the Gram matrix. Memory: the Gram matrix, m^2 numbers, and one block of rows on each core.
"""

from __future__ import annotations

import warnings
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import embedding_bag

from lowdim.core.blocked import on_threads, rounding, workers
from lowdim.core.memory import plan
from lowdim.core.points import as_points
from lowdim.errors import InputError

ROWS = 512
"""Rows of the largest block: their correlations stay in the cache."""

GROUP = 32
"""Atoms that share one maximum in the first level of the search for the largest."""


@dataclass(frozen=True, eq=False)
class SparseCodes:
    """Points as sums of a few atoms each.

    Attributes
    ----------
    index : Tensor
        (n, s) int64, which atoms, in the order they were taken; 0 in a slot that is not used.
    values : Tensor
        (n, s) how much of each; 0 in a slot that is not used.
    """

    index: Tensor
    values: Tensor

    @property
    def counts(self) -> Tensor:
        """(n,) atoms in use by each point."""
        return (self.values != 0).sum(1)

    def dense(self, m: int) -> Tensor:
        """(n, m) the same codes with all their zeros."""
        codes = self.values.new_zeros(len(self.values), m)
        return codes.scatter_add(1, self.index, self.values)

    def decode(self, dictionary: Tensor) -> Tensor:
        """(n, d) the sums, from the (d, m) atoms; differentiable in both."""
        return embedding_bag(
            self.index, dictionary.T, mode="sum", per_sample_weights=self.values
        )  # (n, s) rows of (m, d)


def omp(
    x: Any,
    dictionary: Any,
    sparsity: int,
    *,
    tolerance: float = 0.0,
    memory: int | float | str | None = None,
) -> SparseCodes:
    """Write each point as a sum of at most ``sparsity`` atoms, taken greedily.

    Parameters
    ----------
    x : array-like
        (n, d) points.
    dictionary : array-like
        (d, m) atoms as columns of length one.
    sparsity : int
        s, the most atoms a point may take, at most m.
    tolerance : float
        A point takes no more atoms once what is left of it is at most this share of its length.
    memory : int, float, str or None
        Budget for the Gram matrix and the blocks, see :func:`lowdim.core.memory.budget`.

    Returns
    -------
    SparseCodes
        On the device of ``x``. A point also stops early where nothing that is left correlates
        with any atom beyond rounding: a zero point, a point that is a sum of fewer atoms.

    Raises
    ------
    InputError
        NaN or Inf, columns that do not have length one, or a sparsity that cannot be.
    MemoryBudgetError
        The Gram matrix does not fit.

    Notes
    -----
    The support is that of scikit-learn's ``orthogonal_mp_gram``, ties broken by the lowest atom.
    Trust it as a code where atoms are nearly orthogonal (s < (1 + 1/coherence) / 2 is recovered
    exactly, Tropp 2004); where two atoms nearly coincide it may take either.
    """
    x = as_points(x)
    atoms = unit_columns(dictionary, x)
    (n, d), m = x.shape, atoms.shape[1]
    if not isinstance(sparsity, int) or not 1 <= sparsity <= m:
        raise InputError(f"sparsity={sparsity!r}: give an integer from 1 to {m}, the atoms")
    if not 0 <= tolerance < 1:
        raise InputError(f"tolerance={tolerance!r}: give a share of the length, 0 to below 1")
    size, s, cores = atoms.dtype.itemsize, sparsity, workers(x.device)
    rows = plan(
        "matching pursuit",
        rows=n,
        bytes_per_row=cores * (size * (4 * m + d + 2 * s * s) + 24 * s),
        fixed=size * m * (m + 2 * d) + n * s * (size + 8),
        memory=memory,
        largest=ROWS,
    )
    atoms = torch.nn.functional.pad(atoms, (0, -m % GROUP))  # atoms of zeros are never taken
    gram = atoms.T @ atoms  # (m, d) @ (d, m)
    pursue = partial(_pursue, atoms=atoms, gram=gram, s=s, tolerance=tolerance)
    _consume_beta_warning()
    parts = list(on_threads(pursue, x.split(rows), x.device))
    return SparseCodes(torch.cat([p.index for p in parts]), torch.cat([p.values for p in parts]))


def unit_columns(dictionary: Any, x: Tensor) -> Tensor:
    """The (d, m) atoms, of length one up to a thousandth, on the device of x and as precise."""
    atoms = as_points(dictionary, name="dictionary")
    if len(atoms) != x.shape[1]:
        raise InputError(f"dictionary has {len(atoms)} rows for points of {x.shape[1]} columns")
    lengths = torch.linalg.vector_norm(atoms, dim=0)
    off = (lengths - 1).abs() > 1e-3
    if bool(off.any()):
        column = int(off.nonzero()[0])
        raise InputError(
            f"dictionary column {column} has length {float(lengths[column]):.4g}: scale every "
            "atom to length one"
        )
    return atoms.to(x.device, torch.promote_types(x.dtype, atoms.dtype))


def _pursue(x: Tensor, atoms: Tensor, gram: Tensor, s: int, tolerance: float) -> SparseCodes:
    """Codes of one block: x (b, d), atoms (d, m), gram (m, m)."""
    x = x.to(atoms.dtype)
    b, eps = len(x), rounding(x.shape[1], x.dtype)
    scale = x.abs().amax(1, keepdim=True)  # dividing by it, no square over- or underflows
    x = x / torch.where(scale > 0, scale, 1)
    length = torch.linalg.vector_norm(x, dim=1)
    left = length.square()
    enough = (tolerance * length).square() if tolerance else -torch.ones_like(left)
    start = x @ atoms  # (b, d) @ (d, m)
    alpha = start  # correlations of the atoms with what is left
    index = torch.zeros(b, s, dtype=torch.int64, device=x.device)
    values = x.new_zeros(b, s)
    inverse = x.new_zeros(b, s, s)  # of the triangular factor of each point's own Gram matrix
    live = torch.ones(b, dtype=torch.bool, device=x.device)
    for t in range(s):
        size, atom = _largest(alpha)
        live &= (size > eps * (length + values.abs().sum(1))) & (left > enough)
        between = gram[index[:, :t], atom[:, None]]  # (b, t) with the atoms taken before
        along = torch.einsum("bij,bj->bi", inverse[:, :t, :t], between)
        pivot = gram[atom, atom] - along.square().sum(1)  # what the new atom adds to their span
        live &= pivot > eps
        if not bool(live.any()):
            break
        height = torch.where(live, pivot, torch.inf).sqrt()  # a finished row grows no more
        inverse[:, t, :t] = -torch.einsum("bi,bij->bj", along, inverse[:, :t, :t]) / height[:, None]
        inverse[:, t, t] = 1 / height
        step = torch.where(live, alpha.gather(1, atom[:, None])[:, 0] / height, 0)
        values += step[:, None] * inverse[:, t]  # only slots up to t are not zero
        index[:, t] = torch.where(live, atom, 0)
        left = left - step.square()
        if t + 1 < s:
            rows = _csr(index[:, : t + 1], values[:, : t + 1], len(gram))
            alpha = torch.addmm(start, rows, gram, alpha=-1)  # (b, m) @ (m, m)
    return SparseCodes(index, values * scale)


def _largest(alpha: Tensor) -> tuple[Tensor, Tensor]:
    """Largest size in each row, and the first place that has it: by groups, then within one."""
    sizes = alpha.abs().unflatten(1, (-1, GROUP))  # (b, m / 32, 32)
    group = sizes.amax(2).argmax(1)
    inside = sizes[torch.arange(len(alpha), device=alpha.device), group]
    size, place = inside.max(1)
    return size, group * GROUP + place


def _csr(index: Tensor, values: Tensor, m: int) -> Tensor:
    """(b, m) sparse rows."""
    b, t = index.shape
    starts = torch.arange(0, b * t + 1, t, device=index.device)
    return torch.sparse_csr_tensor(starts, index.flatten(), values.flatten(), (b, m))


def _consume_beta_warning() -> None:
    """Torch says once a process that its sparse rows are young; no user needs to read it here."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        _csr(torch.zeros(1, 1, dtype=torch.int64), torch.zeros(1, 1), 1)
