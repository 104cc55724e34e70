"""How far is a matrix a sum of few Kronecker products? Its separation rank, and the nearest sum.

M = M1_1 (x) M2_1 + ... + M1_t (x) M2_t has separation rank t with respect to a split of its sides,
(m1 m2, n1 n2). Rearranged so that row (i1, j1) and column (i2, j2) hold M[i1 m2 + i2, j1 n2 + j2],
each Kronecker product is a matrix of rank one (Van Loan and Pitsianis 1993): the singular values
of the rearranged matrix say how separable M is, and cutting its SVD gives the nearest sum.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import pad

from lowdim.adapt.kronecker import Sides, even_split, kronecker_sum
from lowdim.core.decompose import EPS
from lowdim.core.linalg import Operator, check_rank, randomized_svd
from lowdim.core.memory import plan
from lowdim.core.points import as_points
from lowdim.core.random import normal
from lowdim.core.spectrum import Spectrum
from lowdim.errors import InputError


@dataclass(frozen=True, eq=False)
class KroneckerSum:
    """The sum of t Kronecker products that is nearest to a matrix.

    Attributes
    ----------
    left, right : Tensor
        (t, m1, n1) and (t, m2, n2), each pair of equal norms, the largest first.
    spectrum : Spectrum
        Separation-rank spectrum of the matrix, see :func:`separation_spectrum`.
    error : float
        Frobenius norm of what is missed over that of the matrix.
    """

    left: Tensor = field(repr=False)
    right: Tensor = field(repr=False)
    spectrum: Spectrum
    error: float

    def matrix(self) -> Tensor:
        """(m1 m2, n1 n2) the sum."""
        return kronecker_sum([self.left, self.right])


def separation_spectrum(
    matrix: Any,
    *,
    rows: Sequence[int] | None = None,
    columns: Sequence[int] | None = None,
    memory: int | float | str | None = None,
) -> Spectrum:
    """How is the energy of a matrix shared out among Kronecker products?

    Parameters
    ----------
    matrix : array-like
        (m1 m2, n1 n2) a weight, an update, a factor of LoRA.
    rows, columns : sequence of int, optional
        (m1, m2) and (n1, n2); by default as near square as the sides allow.
    memory : int, float or str, optional
        Budget for the call.

    Returns
    -------
    Spectrum
        Squared singular values of the rearranged (m1 n1, m2 n2) matrix: the first t of them hold
        what t Kronecker products can hold. Their effective rank is the separation rank in use.

    Raises
    ------
    InputError
        NaN or Inf (row named), or sides that the split does not fit.

    Notes
    -----
    Trust it beside the spectrum of the same matrix with its rows and columns shuffled: their order
    decides what is separable, and hidden units have none by nature. Cost: a singular value
    decomposition of the rearranged matrix.

    References
    ----------
    Van Loan and Pitsianis 1993, "Approximation with Kronecker products".
    """
    m = as_points(matrix, name="matrix")
    return Spectrum.of_matrix(rearranged(m, *_sides(m, rows, columns)), memory=memory)


def nearest_lsr(
    matrix: Any,
    terms: int,
    *,
    rows: Sequence[int] | None = None,
    columns: Sequence[int] | None = None,
    memory: int | float | str | None = None,
) -> KroneckerSum:
    """Which sum of ``terms`` Kronecker products is nearest to this matrix?

    Parameters
    ----------
    matrix : array-like
        (m1 m2, n1 n2).
    terms : int
        t, at most min(m1 n1, m2 n2), where the sum is the matrix itself.
    rows, columns, memory
        As for :func:`separation_spectrum`.

    Returns
    -------
    KroneckerSum
        In float64 where the matrix is, else in float32.

    Raises
    ------
    InputError
        NaN or Inf (row named), sides that the split does not fit, or too many terms.
    MemoryBudgetError
        Before the decomposition, with the figure.

    Notes
    -----
    Exact for two factors: no other sum of t products is nearer in the Frobenius norm. (For three or
    more a nearest sum need not exist, since tensors of a rank do not form a closed set.)
    """
    m = as_points(matrix, name="matrix")
    sides = _sides(m, rows, columns)
    r = rearranged(m, *sides).double()  # (m1 n1, m2 n2)
    check_rank(terms, (r.shape[0], r.shape[1]))
    size, small = r.numel(), min(r.shape)
    plan("the SVD", rows=1, bytes_per_row=8 * (3 * size + 4 * small**2), memory=memory)
    (left, right), energy = _cut(r, terms, *sides)
    total = float(energy.sum())
    error = math.sqrt(float(energy[terms:].sum()) / total) if total else 0.0
    spectrum = Spectrum(energy, total, (r.shape[0], r.shape[1]))
    return KroneckerSum(left.to(m.dtype), right.to(m.dtype), spectrum, error)


def nearest_product(
    update: Operator,
    outer: Sequence[Tensor],
    inner: Sequence[Tensor],
    *,
    steps: int,
    starts: int,
    seed: int,
) -> tuple[list[Tensor], list[Tensor]]:
    """Two sums of Kronecker products, B and A, whose product is near an (out, in) update.

    Projected gradient steps on A and B in turn, of the length at which the error cannot rise, the
    projection being the cut SVD: proximal alternating linearised minimisation (Bolte, Sabach and
    Teboulle 2014), which converges to a critical point. An update does not say in which basis
    between B and A they are separable, so it is searched from random ones, of both orientations,
    since descent does not lead from one to the other.

    Parameters
    ----------
    update : Operator
        (out, in), float64, not zero.
    outer, inner : sequence of Tensor
        Two factors each, of the shapes to find; their sides are at least the update's.
    steps, starts, seed
        Steps from the best of the bases, which are told apart by a tenth as many; of the bases.
    """
    m, n = update.shape
    rank = inner[0].shape[1] * inner[1].shape[1]
    transposed = Operator((n, m), update.rmatmul, update.matmul, update.dtype, update.device)
    u, s, v, *_ = randomized_svd(update, rank, seed=seed)
    high, wide = u * s.sqrt(), (v * s.sqrt()).T  # (out, r), (r, in)

    def refined(b: list[Tensor], a: list[Tensor], steps: int) -> tuple[list[Tensor], list[Tensor]]:
        for _ in range(steps):
            a = _step(update, b, a)
            b = _transposed(_step(transposed, _transposed(a), _transposed(b)))
        return b, a

    def excess(pair: tuple[list[Tensor], list[Tensor]]) -> float:
        """Squared error, less the squared norm of the update."""
        b, a = kronecker_sum(pair[0])[:m], kronecker_sum(pair[1])[:, :n]
        return float(((b.T @ b) * (a @ a.T)).sum() - 2 * (update.rmatmul(b).T * a).sum())

    trials = []
    for start in range(starts):
        gauge = normal((rank, rank), seed, start, device=update.device, dtype=update.dtype)
        q = torch.linalg.qr(gauge).Q
        q[:, 0] *= (-1) ** start  # the determinant of Q is that of its reflections, ever the same
        pair = _projected(high @ q, outer), _projected(q.T @ wide, inner)
        trials.append(refined(*pair, steps // 10))
    return refined(*min(trials, key=excess), steps)


def rearranged(matrix: Tensor, rows: Sides, columns: Sides) -> Tensor:
    """(m1 n1, m2 n2) of (m1 m2, n1 n2): a Kronecker product becomes an outer product."""
    (m1, m2), (n1, n2) = rows, columns
    return matrix.reshape(m1, m2, n1, n2).transpose(1, 2).reshape(m1 * n1, m2 * n2)


def _cut(r: Tensor, terms: int, rows: Sides, columns: Sides) -> tuple[list[Tensor], Tensor]:
    """Factors (t, m1, n1), (t, m2, n2) of the leading singular triplets, and all energies."""
    u, s, vt = torch.linalg.svd(r, full_matrices=False)
    s = torch.where(s > max(r.shape) * EPS * s[0], s, 0.0)
    root = s[:terms].sqrt()
    left = (u[:, :terms] * root).T.reshape(terms, rows[0], columns[0])
    right = (root[:, None] * vt[:terms]).reshape(terms, rows[1], columns[1])
    return [left, right], s * s


def _projected(matrix: Tensor, like: Sequence[Tensor]) -> list[Tensor]:
    """Factors of the nearest sum to a matrix, padded with zeros to their sides."""
    (terms, m1, n1), (_, m2, n2) = (f.shape for f in like)
    m, n = matrix.shape
    padded = pad(matrix, (0, n1 * n2 - n, 0, m1 * m2 - m))
    return _cut(rearranged(padded, (m1, m2), (n1, n2)), terms, (m1, m2), (n1, n2))[0]


def _step(update: Operator, outer: Sequence[Tensor], inner: Sequence[Tensor]) -> list[Tensor]:
    """A's factors after a projected gradient step; what the padding holds is free."""
    m, n = update.shape
    b, a = kronecker_sum(outer)[:m], kronecker_sum(inner)
    gram = b.T @ b
    a[:, :n] += (update.rmatmul(b).T - gram @ a[:, :n]) / torch.linalg.eigvalsh(gram)[-1]
    return _projected(a, inner)


def _transposed(factors: Sequence[Tensor]) -> list[Tensor]:
    return [f.mT for f in factors]


def _sides(
    matrix: Tensor, rows: Sequence[int] | None, columns: Sequence[int] | None
) -> tuple[Sides, Sides]:
    return (
        _checked("rows", matrix.shape[0], rows),
        _checked("columns", matrix.shape[1], columns),
    )


def _checked(name: str, size: int, sides: Sequence[int] | None) -> Sides:
    if sides is None:
        return even_split(f"the number of {name}", size, f"give {name}=, or pad the matrix")
    if len(sides) != 2 or math.prod(sides) != size or min(sides) < 1:
        raise InputError(f"{name}={tuple(sides)}: give two whole numbers whose product is {size}")
    return int(sides[0]), int(sides[1])
