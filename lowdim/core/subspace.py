"""`Subspace`: an orthonormal basis with a centre: what adapters, compressors and indexes use."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from lowdim.core.points import as_points
from lowdim.core.spectrum import Spectrum
from lowdim.errors import InputError

BLOCK = 2**22  # numbers in one block of rows


@dataclass(frozen=True, eq=False, repr=False)
class Subspace:
    """Which few directions, through which centre, hold the points?

    Attributes
    ----------
    basis : Tensor
        (d, r) orthonormal columns; r = 0 is a single point.
    center : Tensor
        (d,) a point of the subspace; zero for a linear one.
    values : Tensor or None
        (r,) energy along each basis vector.
    total : float or None
        Energy of all the data the subspace was made from, held or not.
    """

    basis: Tensor
    center: Tensor
    values: Tensor | None = None
    total: float | None = None

    def __post_init__(self) -> None:
        if self.basis.ndim != 2 or not self.basis.is_floating_point():
            raise InputError(f"basis has shape {tuple(self.basis.shape)}: give (d, r) floats")
        if self.center.shape != (self.dim,):
            raise InputError(f"center has shape {tuple(self.center.shape)} and not ({self.dim},)")
        if self.values is not None and self.values.shape != (self.rank,):
            raise InputError(f"values have shape {tuple(self.values.shape)} and not ({self.rank},)")
        gram = self.basis.T @ self.basis
        deviation = (gram - torch.eye(self.rank).to(gram)).abs()
        off = float(deviation.max()) if self.rank else 0.0
        if not off <= math.sqrt(torch.finfo(self.basis.dtype).eps):
            raise InputError(
                f"basis is not orthonormal (largest deviation {off:.1g}): "
                "make it with Subspace.of_vectors"
            )

    @classmethod
    def of_spectrum(
        cls, spectrum: Spectrum, *, energy: float | None = None, rank: int | None = None
    ) -> Subspace:
        """Keep the leading directions that hold a share of the energy, or a fixed number."""
        if (energy is None) == (rank is None):
            raise InputError(f"energy={energy}, rank={rank}: give exactly one of them")
        if spectrum.vectors is None:
            raise InputError("this spectrum has no vectors: compute it with vectors=True")
        if energy is not None:
            rank = spectrum.rank_at(energy)
        known = len(spectrum.values)
        if rank is None or not 0 <= rank <= known:
            raise InputError(f"rank={rank}: the spectrum holds {known} directions")
        basis, center = spectrum.vectors[:, :rank], spectrum.mean
        if center is None:
            center = basis.new_zeros(len(basis))
        return cls(basis, center, spectrum.values[:rank], spectrum.total)

    @classmethod
    def of_points(
        cls, x: Any, *, energy: float | None = None, rank: int | None = None, **options: Any
    ) -> Subspace:
        """Principal subspace of the points; ``options`` go to :meth:`Spectrum.of_points`."""
        spectrum = Spectrum.of_points(x, vectors=True, **options)
        return cls.of_spectrum(spectrum, energy=energy, rank=rank)

    @classmethod
    def of_vectors(cls, vectors: Any) -> Subspace:
        """Span of the columns of (d, k) ``vectors``, through the origin.

        Columns are scaled to length one; ``rank`` says how many directions survive: those whose
        singular value is above max(d, k) x eps of the largest. Zero columns span nothing.
        """
        v = as_points(vectors, name="vectors")
        lengths = v.abs().amax(0)
        v = v[:, lengths > 0] / lengths[lengths > 0]
        if v.shape[1]:
            v = v / torch.linalg.vector_norm(v, dim=0)
            left, s, _ = torch.linalg.svd(v, full_matrices=False)
            v = left[:, s > max(v.shape) * torch.finfo(v.dtype).eps * s[0]]
        return cls(v, v.new_zeros(len(v)))

    @property
    def rank(self) -> int:
        """r, the dimension of the subspace."""
        return self.basis.shape[1]

    @property
    def dim(self) -> int:
        """d, the dimension of the space it lies in."""
        return self.basis.shape[0]

    @property
    def energy_held(self) -> float:
        """Share of the total energy along the basis, in [0, 1]."""
        if self.values is None or not self.total:
            raise InputError("this subspace carries no energies: make it from a Spectrum")
        return float(self.values.sum()) / self.total

    def to(self, *args: Any) -> Subspace:
        """A copy with basis and centre of another dtype or device.

        In a finer precision the basis is made orthonormal again, which turns it by no more than
        the coarser one had rounded off.
        """
        basis = self.basis.to(*args)
        if torch.finfo(basis.dtype).eps < torch.finfo(self.basis.dtype).eps:
            basis, upper = torch.linalg.qr(basis)
            basis = basis * upper.diagonal().sign()  # qr may have turned a column round
        return replace(self, basis=basis, center=self.center.to(*args))

    def project(self, x: Any) -> Tensor:
        """Coordinates of (n, d) points along the basis: (n, r), in the dtype of the basis."""
        x = self._points(x)
        return torch.cat([self._centered(b) @ self.basis for b in self._blocks(x)])

    def reconstruct(self, z: Tensor) -> Tensor:
        """Points (n, d) of the subspace with coordinates (n, r)."""
        if z.ndim != 2 or z.shape[1] != self.rank:
            raise InputError(f"z has shape {tuple(z.shape)}: give (n, {self.rank}) coordinates")
        return z.to(self.basis) @ self.basis.T + self.center  # (n, r) @ (r, d)

    def residual(self, x: Any) -> Tensor:
        """Squared distance of each of n points to the subspace: (n,).

        Summed from the part outside the subspace, not from a difference of squared lengths.
        """
        parts = []
        for block in self._blocks(self._points(x)):
            outside = self._centered(block)
            for _ in range(2):  # the second pass removes what rounding left inside
                outside = outside - (outside @ self.basis) @ self.basis.T
            parts.append((outside * outside).sum(1))
        return torch.cat(parts)

    def angles(self, other: Subspace) -> Tensor:
        """Principal angles to another subspace: (min(r, r'),) radians, ascending; centres ignored.

        Björck and Golub 1973: from the cosines above 45 degrees and the sines below, so that
        angles of 1e-10 are resolved.
        """
        if self.dim != other.dim:
            raise InputError(f"subspaces of {self.dim} and {other.dim} dimensions have no angles")
        wide, thin = sorted((self.basis.double(), other.basis.double()), key=lambda b: -b.shape[1])
        overlap = wide.T @ thin.to(wide)  # (r, d) @ (d, r')
        cosines = torch.linalg.svdvals(overlap).clamp_max(1)
        sines = torch.linalg.svdvals(thin - wide @ overlap).flip(0).clamp_max(1)
        return torch.where(sines < cosines, sines.asin(), cosines.acos())

    def distance(self, other: Subspace, *, kind: str = "chordal") -> float:
        """How far apart are two subspaces? Zero only where they are equal; centres ignored.

        Parameters
        ----------
        kind : {"chordal", "grassmann", "projection"}
            Length of the vector of sines, length of the vector of angles, or largest sine, which
            is the spectral norm of the difference of the projectors.

        Notes
        -----
        Where the dimensions differ each one too many counts as a right angle, which keeps all
        three metrics (Ye and Lim 2016).
        """
        extra = torch.full((abs(self.rank - other.rank),), math.pi / 2, dtype=torch.float64)
        angles = torch.cat([self.angles(other).cpu(), extra])
        if kind == "chordal":
            return float(angles.sin().norm())
        if kind == "grassmann":
            return float(angles.norm())
        if kind == "projection":
            return float(angles.sin().max()) if len(angles) else 0.0
        raise InputError(f"kind={kind!r}: choose from chordal, grassmann, projection")

    def __repr__(self) -> str:
        held = f", {self.energy_held:.1%} of the energy" if self.total else ""
        return f"Subspace(rank {self.rank} of {self.dim}{held})"

    def _points(self, x: Any) -> Tensor:
        x = as_points(x)
        if x.shape[1] != self.dim:
            raise InputError(f"x has {x.shape[1]} columns and the subspace {self.dim} dimensions")
        return x

    def _blocks(self, x: Tensor) -> tuple[Tensor, ...]:
        return x.split(max(1, BLOCK // self.dim))

    def _centered(self, x: Tensor) -> Tensor:
        return x.to(self.basis) - self.center
