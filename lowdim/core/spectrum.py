"""`Spectrum`: the eigenvalues of points, of a matrix or of an operator, and what they sum to.

One convention throughout: ``values`` are *energies*. For points they are the eigenvalues of the
second moment (divided by n), for a matrix its squared singular values. So the participation
ratio, every effective rank and every Vendi score is one line over one vector.

Energies below what float64 resolves (order x eps of the largest) are set to exactly zero in exact
results, so the number of positive values is the numerical rank.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor

from lowdim.core.decompose import Energies, gram_side, leading, of_psd, points_operator, svd
from lowdim.core.engine import Engine, LocalEngine, open_engine
from lowdim.core.estimate import format_number, to_json
from lowdim.core.linalg import Operator, lanczos, trace
from lowdim.core.memory import plan
from lowdim.core.moments import Moments
from lowdim.core.points import as_points
from lowdim.core.shards import is_source, shards
from lowdim.errors import InputError

METHODS = ("exact", "randomized", "lanczos")


@dataclass(frozen=True, eq=False, repr=False)
class Spectrum:
    """Energies in descending order with the total they sum to.

    Attributes
    ----------
    values : Tensor
        (r,) float64, descending; r < min(shape) when only the largest were computed.
    total : float
        Sum of all energies, also of those not computed.
    shape : tuple of int
        (n, d) of the data or the matrix they came from.
    vectors : Tensor or None
        (d, r) right singular vectors, matching ``values``.
    mean : Tensor or None
        (d,) the centre that was subtracted.
    diagonal : Tensor or None
        (d,) the energy of each coordinate.
    exact : bool
        False for randomised and Lanczos results.
    error : float
        Estimated largest error of a value, relative to the largest value; 0 when exact.
    total_error : float
        Standard error of ``total``; 0 unless it was estimated from probes.
    """

    values: Tensor
    total: float
    shape: tuple[int, int]
    vectors: Tensor | None = None
    mean: Tensor | None = None
    diagonal: Tensor | None = None
    exact: bool = True
    error: float = 0.0
    total_error: float = 0.0

    @classmethod
    def of_points(
        cls,
        x: Any,
        *,
        center: bool = True,
        unit: bool = False,
        vectors: bool = False,
        method: str = "exact",
        rank: int | None = None,
        memory: int | float | str | None = None,
        seed: int = 0,
        engine: Engine | str | None = None,
    ) -> Spectrum:
        """How is the spread of these points shared out among directions?

        Parameters
        ----------
        x : array-like or point source
            (n, d) points, or an object with ``n``, ``dim`` and ``chunks(memory)``.
        center : bool
            About the mean (covariance, divided by n) or about the origin (second moment).
        unit : bool
            Scale each row to length one first.
        vectors : bool
            Keep the directions too; where an energy is zero they only complete the basis.
        method : {"exact", "randomized", "lanczos"}
            ``exact`` takes the smaller of the Gram matrix (n < d) and the streamed d x d second
            moment; the others find the ``rank`` largest in O(n d rank), several passes.
        rank : int, optional
            How many values an approximate method computes.
        memory : int, float or str, optional
            Budget for the call beyond ``x`` itself.
        seed : int
            Of the approximate methods.
        engine : Engine, str or None
            Where the second moment is summed, see :func:`lowdim.core.engine.open_engine`; the
            workers of a cluster open a file themselves.

        Raises
        ------
        InputError
            NaN/Inf (row named), zero rows under ``unit``, a rank that does not fit.
        MemoryBudgetError
            Before anything is allocated, with the figure.

        Notes
        -----
        Exact cost: n d min(n, d) in float64 and one eigenproblem; an energy is good to about 1e-15
        of the largest.
        """
        _check_method(method, rank)
        source = hasattr(x, "chunks") and hasattr(x, "dim")
        if not source:
            x = as_points(x)
        n, d = (int(x.n), int(x.dim)) if source else x.shape
        if rank is not None:
            operator, mean, diagonal = points_operator(x, n, d, center, unit, rank, memory)
            values, right, error = leading(operator, method, rank, seed)
            kept = right if vectors else None
            return cls._of(Energies(values / n, kept, mean, diagonal), (n, d), error)
        if n < d:
            if source:
                plan("the points", rows=n, bytes_per_row=1, fixed=8 * n * d, memory=memory)
                x = as_points(torch.cat(list(x.chunks(memory))))
            return cls._of(gram_side(x, 1 / n, center, unit, vectors, memory), (n, d))
        block = plan(
            "the second moment", rows=n, bytes_per_row=24 * d, fixed=40 * d * d, memory=memory
        )
        start = partial(Moments, d, unit=unit, device=None if source else x.device)
        where = open_engine(engine)
        parts: Any = x.chunks(memory) if source else x.split(block)
        if is_source(x) and not isinstance(where, LocalEngine):
            parts = shards(x)
        moments = where.reduce(start, parts)
        return cls.of_moments(moments, center=center, vectors=vectors)

    @classmethod
    def of_moments(
        cls, moments: Moments, *, center: bool = True, vectors: bool = False
    ) -> Spectrum:
        """Diagonalise accumulated moments; see :meth:`of_points`."""
        shape = (moments.count, moments.dim)
        moment = moments.second_moment(center)  # (d, d)
        values, right = of_psd(moment, min(shape), vectors)
        mean = moments.mean if center else None
        return cls._of(Energies(values, right, mean, moment.diagonal().clone()), shape)

    @classmethod
    def of_matrix(
        cls,
        weight: Any,
        *,
        method: str = "exact",
        rank: int | None = None,
        vectors: bool = False,
        memory: int | float | str | None = None,
        seed: int = 0,
    ) -> Spectrum:
        """How is the energy of a weight matrix shared out among its singular directions?

        Parameters
        ----------
        weight : array-like
            (m, n); ``values`` are squared singular values, ``vectors`` (n, r) right ones.
        method, rank, vectors, memory, seed
            As for :meth:`of_points`.

        Notes
        -----
        float32 and below go through the smaller Gram matrix in float64: singular values are good
        to about 1e-8 of the largest, finer than the rounding of the entries. The Gram squares the
        condition number, so float64 goes through an SVD and keeps 1e-16.
        """
        _check_method(method, rank)
        w = as_points(weight, name="weight")
        m, n = w.shape
        if rank is not None:
            values, right, error = leading(Operator.of_matrix(w), method, rank, seed, memory)
            diagonal = torch.linalg.vector_norm(w, dim=0, dtype=torch.float64) ** 2
            kept = right if vectors else None
            return cls._of(Energies(values, kept, None, diagonal), (m, n), error)
        if w.dtype == torch.float64:
            return cls._of(svd(w, vectors, memory), (m, n))
        return cls._of(gram_side(w, 1.0, False, False, vectors, memory), (m, n))

    @classmethod
    def of_operator(
        cls,
        matvec: Callable[[Tensor], Tensor],
        n: int,
        k: int,
        *,
        total: float | None = None,
        vectors: bool = False,
        seed: int = 0,
        steps: int | None = None,
        tol: float = 1e-8,
        dtype: torch.dtype = torch.float64,
        device: torch.device | str | None = None,
    ) -> Spectrum:
        """What are the k largest eigenvalues of a kernel, a Fisher or a Gauss-Newton matrix?

        Parameters
        ----------
        matvec : callable
            (n,) -> (n,), the product with a symmetric positive semi-definite matrix.
        n, k : int
            Its order, and how many eigenvalues.
        total : float, optional
            Its trace; by default that of the k values and an estimate of the rest from 32 more
            products, whose standard error is ``total_error``.
        vectors : bool
            Keep the eigenvectors.
        seed, steps, tol, dtype, device
            See :func:`lowdim.core.linalg.lanczos`.

        Raises
        ------
        InputError
            When a negative eigenvalue turns up, since energies are not negative.
        """
        found = lanczos(matvec, n, k, seed=seed, dtype=dtype, device=device, steps=steps, tol=tol)
        values = found.values.double()
        largest = max(float(values.abs().max()), torch.finfo(dtype).tiny)
        error = float(found.residuals.max()) / largest
        if float(values[-1]) < -max(10 * error, n * torch.finfo(dtype).eps) * largest:
            raise InputError(
                f"the operator has eigenvalue {float(values[-1]):.3g}, and energies are not "
                "negative: use lowdim.core.linalg.lanczos for an indefinite operator"
            )
        values, total_error = values.clamp_min(0), 0.0
        if total is None:
            rest, total_error = trace(matvec, found.vectors, seed=seed)
            total = float(values.sum()) + max(rest, 0.0)
        right = found.vectors.double() if vectors else None
        return cls(values, total, (n, n), right, None, None, False, error, total_error)

    @classmethod
    def _of(cls, e: Energies, shape: tuple[int, int], error: float = 0.0) -> Spectrum:
        total = float(e.diagonal.sum())
        return cls(e.values, total, shape, e.vectors, e.mean, e.diagonal, error == 0, error)

    @property
    def singular_values(self) -> Tensor:
        """(r,) square roots of the energies."""
        return self.values.clamp_min(0).sqrt()

    @property
    def complete(self) -> bool:
        """Whether every non-zero energy was computed."""
        if len(self.values) >= min(self.shape):
            return True
        known = self.total_error == 0 and self.total > 0
        return known and float(self.values.sum()) >= self.total * (1 - 1e-12)

    def probabilities(self) -> Tensor:
        """(r,) energies over their total; an error where they are not all known, or all zero."""
        if not self.complete:
            raise InputError(
                f"this spectrum holds {len(self.values)} of {min(self.shape)} values, and this "
                "measure needs all: compute it with method='exact'"
            )
        self._check_total()
        return self.values.clamp_min(0) / self.total

    def effective_rank(self, q: float = 1.0) -> float:
        """Hill number of order ``q`` of the energies: how many directions are in use?

        ``q = 0`` counts non-zero values, 1 is the exponential of the entropy, 2 the participation
        ratio (sum)^2 / sum of squares, ``inf`` the stable rank total / largest. Falls with ``q``.
        """
        if not q >= 0:
            raise InputError(f"q={q}: the order of a Hill number lies in [0, inf]")
        if q == math.inf:
            return self.stable_rank()
        p = self.probabilities()
        p = p[p > 0]
        log_p = p.log()
        if q == 0:
            return float(len(p))
        if q == 1:
            return math.exp(-float((p * log_p).sum()))
        if abs(q - 1) < 0.5:  # sum p^q = 1 + sum p (p^(q-1) - 1): nothing cancels as q nears 1
            return math.exp(math.log1p(float((p * torch.expm1((q - 1) * log_p)).sum())) / (1 - q))
        # relative to the largest: p^q underflows for large q
        rest = float(torch.exp(q * (log_p - log_p[0])).sum())
        return math.exp(float(log_p[0]) * (q / (1 - q)) + math.log(rest) / (1 - q))

    def participation_ratio(self) -> float:
        """(sum of energies)^2 / sum of their squares: the Hill number of order 2."""
        p = self.probabilities()
        return float(1 / (p * p).sum())

    def stable_rank(self) -> float:
        """Total energy over the largest: ||A||_F^2 / ||A||_2^2; needs only the top value."""
        self._check_total()
        return self.total / float(self.values[0])

    def rank_at(self, energy: float) -> int:
        """How few leading directions hold this share of the total energy?"""
        if not 0 < energy <= 1:
            raise InputError(f"energy={energy}: a share in (0, 1]")
        self._check_total()
        held = self.values.clamp_min(0).cumsum(0)
        need = energy * self.total * (1 - 1e-12)
        if float(held[-1]) < need:
            raise InputError(
                f"the {len(held)} computed values hold {float(held[-1]) / self.total:.1%} of the "
                f"energy, not {energy:.1%}: compute more, or all with method='exact'"
            )
        return int((held < need).sum()) + 1

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON values; the vectors, the mean and the diagonal are left out."""
        items = {
            "shape": list(self.shape),
            "total": self.total,
            "values": self.values,
            "exact": self.exact,
            "error": self.error,
            "total_error": self.total_error,
        }
        return {k: to_json(v) for k, v in items.items()}

    def __repr__(self) -> str:
        how = "exact" if self.exact else f"error {self.error:.1g}"
        n, d = self.shape
        parts = [f"{n} x {d}", f"{len(self.values)} values ({how})"]
        if self.total > 0:
            parts += [f"total {format_number(self.total)}"]
            parts += [f"stable rank {format_number(self.stable_rank())}"]
            if self.complete:
                parts += [f"effective rank {format_number(self.effective_rank())}"]
                parts += [f"99% of the energy in {self.rank_at(0.99)}"]
        else:
            parts += ["all zero"]
        return f"Spectrum({', '.join(parts)})"

    def _check_total(self) -> None:
        if not self.total > 0:
            raise InputError("all energies are zero: every row is the same, so there is no spread")


def _check_method(method: str, rank: int | None) -> None:
    if method not in METHODS:
        raise InputError(f"method={method!r}: choose from {', '.join(METHODS)}")
    if (rank is None) != (method == "exact"):
        raise InputError(
            f"method={method!r}, rank={rank}: an approximate method needs rank=, how many values "
            "to compute; the exact one computes all and takes none"
        )
