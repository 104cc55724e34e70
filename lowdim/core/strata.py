"""`Strata`: K pieces of a space, each a `Subspace`, and how far each point belongs to each."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from lowdim.core.points import as_points
from lowdim.core.spectrum import Spectrum
from lowdim.core.stacked import Stacked
from lowdim.core.subspace import Subspace
from lowdim.errors import InputError


@dataclass(frozen=True, eq=False, repr=False)
class Strata:
    """Which pieces is a space made of, and which points lie on which?

    Attributes
    ----------
    pieces : tuple of Subspace
        K of them, in one space.
    weights : Tensor
        (n, K) how far each point belongs to each piece: at least zero, rows sum to one.
    """

    pieces: tuple[Subspace, ...]
    weights: Tensor

    def __post_init__(self) -> None:
        if not self.pieces or len({p.dim for p in self.pieces}) > 1:
            raise InputError("give at least one piece, all in a space of the same dimension")
        w = self.weights
        if w.ndim != 2 or w.shape[1] != len(self.pieces) or not w.is_floating_point():
            raise InputError(
                f"weights have shape {tuple(w.shape)} and dtype {w.dtype}: give (n, "
                f"{len(self.pieces)}) floats, one column a piece"
            )
        bad = ~((w >= 0).all(1) & ((w.sum(1) - 1).abs() <= 1e-3))
        if bool(bad.any()):
            row = int(bad.nonzero()[0])
            raise InputError(f"weights row {row} is not a set of shares: at least 0, sum to 1")

    @classmethod
    def of_labels(
        cls,
        x: Any,
        labels: Any,
        *,
        rank: int | Callable[[Spectrum], int],
        n_pieces: int | None = None,
        center: bool = True,
    ) -> Strata:
        """One principal subspace for the points of each label.

        Parameters
        ----------
        x : array-like
            (n, d) points.
        labels : array-like
            (n,) integers 0, 1, ..., K - 1.
        rank : int or callable
            The dimension of a piece, or what gives it from the `Spectrum` of its points; cut to
            what a piece of few points has.
        n_pieces : int, optional
            K; by default one more than the largest label. A piece without points is the mean
            of all, a single point.
        center : bool
            False for subspaces through the origin.
        """
        x, labels = as_points(x), torch.as_tensor(labels)
        if labels.shape != (len(x),) or labels.is_floating_point() or bool((labels < 0).any()):
            raise InputError(f"labels: give {len(x)} integers from 0, one a point")
        k = int(labels.max()) + 1 if n_pieces is None else n_pieces
        if int(labels.max()) >= k:
            raise InputError(f"labels reach {int(labels.max())}: n_pieces={k} is too few")
        pieces = []
        for i in range(k):
            points = x[labels == i]
            if not len(points):
                middle = x.mean(0) if center else x.new_zeros(x.shape[1])
                pieces.append(Subspace(x.new_zeros(x.shape[1], 0), middle))
                continue
            spectrum = Spectrum.of_points(points, center=center, vectors=True)
            wanted = rank if isinstance(rank, int) else rank(spectrum)
            wanted = min(wanted, len(spectrum.values))
            pieces.append(Subspace.of_spectrum(spectrum, rank=wanted).to(x.dtype))
        return cls(tuple(pieces), torch.nn.functional.one_hot(labels.long(), k).to(x.dtype))

    @property
    def labels(self) -> Tensor:
        """(n,) the piece each point belongs to most."""
        return self.weights.argmax(1)

    @property
    def sizes(self) -> Tensor:
        """(K,) how many points each piece holds, shares counted."""
        return self.weights.sum(0, dtype=torch.float64)

    @property
    def dims(self) -> tuple[int, ...]:
        """Dimension of each piece."""
        return tuple(p.rank for p in self.pieces)

    def gate_entropy(self) -> Tensor:
        """(n,) entropy of each row of weights in nats: 0 on one piece, log K between all."""
        return torch.special.entr(self.weights).sum(1)

    def angles(self) -> Tensor:
        """(K, K) smallest principal angle between each two pieces, in radians."""
        return self._matrix(lambda a, b: float(next(iter(a.angles(b)), 0.0)))

    def distances(self, *, kind: str = "chordal") -> Tensor:
        """(K, K) distances between the directions of each two pieces; see `Subspace.distance`."""
        return self._matrix(lambda a, b: a.distance(b, kind=kind))

    def assign(self, x: Any) -> Tensor:
        """(m,) the piece nearest to each of (m, d) points, the first where several are.

        One matrix product for all pieces, near ties decided by :meth:`Subspace.residual`.
        """
        return Stacked(self.pieces).nearest(x)

    def squared_distances(self, x: Any) -> Tensor:
        """(m, K) squared distance of each of (m, d) points to each piece.

        One matrix product for all pieces; what it would not give to half the digits is computed as
        by :meth:`Subspace.residual`.
        """
        return Stacked(self.pieces).squared_distances(x)

    def reconstruct(self, x: Any) -> Tensor:
        """(m, d) each point moved to the nearest place on its nearest piece."""
        x, labels = as_points(x).to(self.pieces[0].basis), self.assign(x)
        near = torch.empty_like(x)
        for k in labels.unique().tolist():
            on, piece = (labels == k).nonzero()[:, 0], self.pieces[k]
            near[on] = piece.reconstruct(piece.project(x[on]))
        return near

    def __repr__(self) -> str:
        n, k = self.weights.shape
        dims = ", ".join(map(str, self.dims[:8])) + (", ..." if k > 8 else "")
        return f"Strata({n} points on {k} pieces of dimension {dims})"

    def _matrix(self, measure: Callable[[Subspace, Subspace], float]) -> Tensor:
        k = len(self.pieces)
        matrix = torch.zeros(k, k, dtype=torch.float64)
        for i in range(k):
            for j in range(i):
                matrix[i, j] = matrix[j, i] = measure(self.pieces[i], self.pieces[j])
        return matrix
