"""Flags: how much of a covariance is one-dimensional, two-dimensional, ...?

A covariance S of trace one, with eigenvalues l_1 >= ... >= l_n and V_d the span of the first d
eigenvectors, is a mixture of the normalised projectors on its nested subspaces (Buet and Pennec
2023): S = sum_d w_d P_{V_d} / d with w_d = d (l_d - l_{d+1}) >= 0, which sum to one. A d-plane is
the flag of the one weight w_d = 1; so subspaces of all dimensions lie in one space.

Distances here are Bures', the angle arccos tr (S^1/2 T S^1/2)^1/2 between the covariances, and the
Frobenius norm of their difference. Both have closed forms for planes of p and q dimensions with
principal angles t_i: the cosine of Bures' angle is sum_i cos t_i / sqrt(p q), and the squared
Frobenius distance 1/p + 1/q - 2 sum_i cos^2 t_i / (p q). Bures' geodesics never pass through a
higher dimension than that of their ends, which the paper asks of its own Riemannian metric; that
metric is another one, and is not implemented here.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from lowdim.core.linalg import eigh_psd
from lowdim.core.points import as_points
from lowdim.core.spectrum import Spectrum
from lowdim.core.subspace import Subspace
from lowdim.errors import InputError
from lowdim.geometry.nearest import Dimension, mean_of_local
from lowdim.geometry.patches import over_patches, spectra
from lowdim.registry import method, neighbors, points

if TYPE_CHECKING:
    from lowdim.core.neighbors import Neighbors


def flag_weights(values: Tensor) -> Tensor:
    """How much of each covariance is d-dimensional, for d = 1, 2, ...?

    Parameters
    ----------
    values : Tensor
        (..., r) eigenvalues, descending and at least zero; those left out are zero.

    Returns
    -------
    Tensor
        (..., r) weights w_d = d (l_d - l_{d+1}) / sum of l, which sum to one.

    Raises
    ------
    InputError
        Eigenvalues that are negative, rise, or are all zero.
    """
    after = torch.cat([values[..., 1:], torch.zeros_like(values[..., :1])], -1)
    steps, total = values - after, values.sum(-1, keepdim=True)
    if not bool((steps >= 0).all()) or not bool((total > 0).all()):
        raise InputError("give eigenvalues in descending order, at least zero and not all zero")
    return steps / total * torch.arange(1, values.shape[-1] + 1).to(values)


@dataclass(frozen=True, eq=False, repr=False)
class Flag:
    """Nested subspaces, each with its weight: a covariance of trace one.

    Attributes
    ----------
    values : Tensor
        (r,) eigenvalues above zero, descending, with sum one.
    vectors : Tensor
        (d, r) orthonormal; the first i span the i-dimensional subspace.
    """

    values: Tensor
    vectors: Tensor

    @classmethod
    def of_covariance(cls, covariance: Any) -> Flag:
        """Of a symmetric positive semi-definite (d, d) matrix of any trace above zero."""
        s = as_points(covariance, name="covariance").double()
        if s.shape[0] != s.shape[1] or bool((s - s.T).abs().max() > 1e-6 * s.abs().max()):
            raise InputError(f"covariance has shape {tuple(s.shape)}: give a symmetric (d, d) one")
        return cls._of(*eigh_psd(s))

    @classmethod
    def of_spectrum(cls, spectrum: Spectrum) -> Flag:
        """Of points, through their `Spectrum` with vectors."""
        if spectrum.vectors is None or not spectrum.complete:
            raise InputError("this spectrum is not whole: compute it exactly, with vectors=True")
        return cls._of(spectrum.values, spectrum.vectors)

    @classmethod
    def of_subspace(cls, subspace: Subspace) -> Flag:
        """Of a plane: one weight, at its dimension. Its centre and energies do not count."""
        if not subspace.rank:
            raise InputError("a single point has no directions: give a subspace of rank 1 or more")
        return cls._of(torch.ones(subspace.rank).double(), subspace.basis)

    @classmethod
    def _of(cls, values: Tensor, vectors: Tensor) -> Flag:
        kept = values > len(vectors) * torch.finfo(torch.float64).eps * values[0]
        if not bool(kept.any()):
            raise InputError("all energies are zero: there are no directions")
        return cls(values[kept] / values[kept].sum(), vectors[:, kept].to(values))

    @property
    def weights(self) -> Tensor:
        """(r,) share of each dimension 1, 2, ..., r."""
        return flag_weights(self.values)

    @property
    def dimension(self) -> float:
        """Mean dimension under the weights."""
        return float(mean_dimension(self.values))

    @property
    def factor(self) -> Tensor:
        """(d, r) L with L L^T the covariance."""
        return self.vectors * self.values.sqrt()

    @property
    def covariance(self) -> Tensor:
        """(d, d), of trace one."""
        return self.factor @ self.factor.T

    def distance(self, other: Flag, *, kind: str = "bures") -> float:
        """How far apart are two flags, of whatever dimensions?

        Parameters
        ----------
        kind : {"bures", "frobenius"}
            See the module; "bures" lies in [0, pi/2], "frobenius" in [0, sqrt 2].
        """
        if kind == "bures":
            return float(_angle(*self._facing(other)))
        if kind == "frobenius":
            r = torch.linalg.qr(torch.cat([self.factor, self._like(other)], 1), mode="r").R
            one, two = r[:, : len(self.values)], r[:, len(self.values) :]
            return float((one @ one.T - two @ two.T).norm())
        raise InputError(f"kind={kind!r}: choose from bures, frobenius")

    def toward(self, other: Flag, share: float) -> Flag:
        """The flag at a ``share`` in [0, 1] of the way on the shortest path of Bures' angle.

        Its dimension is nowhere above that of both ends.
        """
        if not 0 <= share <= 1:
            raise InputError(f"share={share}: between 0, here, and 1, the other flag")
        here, there = self._facing(other)
        angle = _angle(here, there)
        if not float(angle):
            return self
        mixed = ((1 - share) * angle).sin() * here + (share * angle).sin() * there
        vectors, s, _ = torch.linalg.svd(mixed / angle.sin(), full_matrices=False)
        return self._of(s.square(), vectors)

    def _facing(self, other: Flag) -> tuple[Tensor, Tensor]:
        """Factors (d, max(r, r')) of both covariances, turned so that they are nearest."""
        mine, its = self.factor, self._like(other)
        left, _, right = torch.linalg.svd(mine.T @ its)  # (r, d) @ (d, r')
        width = max(len(self.values), len(other.values))
        here, there = (
            torch.nn.functional.pad(f, (0, width - f.shape[1]))
            for f in (mine @ left, its @ right.T)
        )
        return here, there

    def _like(self, other: Flag) -> Tensor:
        if len(self.vectors) != len(other.vectors):
            raise InputError(
                f"flags of {len(self.vectors)} and {len(other.vectors)} columns do not compare"
            )
        return other.factor.to(self.vectors)

    def __repr__(self) -> str:
        shares = ", ".join(f"{w:.2f}" for w in self.weights[:8].tolist())
        return f"Flag(in {len(self.vectors)} columns, weights {shares})"


def _angle(one: Tensor, other: Tensor) -> Tensor:
    """Between two matrices of Frobenius norm one, from their chord: exact for small angles too."""
    return 2 * ((one - other).norm() / 2).clamp_max(1).asin()


def mean_dimension(values: Tensor) -> Tensor:
    """Sum of d w_d over the last axis of (..., r) eigenvalues: (2 d - 1) l_d, summed."""
    odd = 2 * torch.arange(values.shape[-1]).to(values) + 1
    return (values * odd).sum(-1) / values.sum(-1)


@method(
    "structure/flag-dimension",
    needs=(points(distinct=True), neighbors(k=20)),
    paper="Buet and Pennec 2023",
    arxiv="2305.10583",
    cost="O(n k min(k, d) max(k, d))",
    invariant=("permutation", "rotation", "translation", "scale"),
)
def flag_dimension(
    x: Tensor, neighbors: Neighbors, *, k: int = 20, memory: int | float | str | None = None
) -> Dimension:
    """Which dimension has the cloud around each point, if it need not be a whole number?

    ``per_point`` holds the mean of d under the flag weights of each point's k nearest.

    Parameters
    ----------
    x, neighbors, memory
        As for :func:`lowdim.geometry.local_pca`.
    k : int
        Points of a patch, at least 3; no value exceeds k - 1.

    Raises
    ------
    InputError
        Duplicates, or k < 3.

    Notes
    -----
    Trust the order of places and not the numbers: no threshold is set, so noise and curvature add
    a little, and the unequal eigenvalues of few points take off much. Cubes of 1, 2, 3, 5 and 10
    dimensions read 1.0, 1.7, 2.4, 3.5 and 5.8 (1.0, 1.8, 2.5, 4.0 and 7.8 at k = 100; n = 1,000).
    Use it to tell strata apart, and :func:`lowdim.geometry.mle` for a dimension.
    """
    if k < 3:
        raise InputError(f"k={k}: a local covariance needs at least 3 neighbours")
    local = mean_dimension(over_patches(spectra, x, neighbors, k, memory=memory))
    return mean_of_local(local, neighbors, k)
