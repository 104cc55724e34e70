"""`LowRankGaussians`: the model that `KSubspaces` and `LowRankMixture` fit.

Piece k holds a share s_k of the points, normal about c_k with variances l_1 ... l_r along its basis
and one noise variance v_k in all other directions (probabilistic PCA, Tipping and Bishop 1999). A
point at squared distance q from the piece, with coordinates z along it, has

    -2 log(s_k p_k(x)) = q / v_k + sum_j z_j^2 / l_j + sum_j log l_j + (d - r) log v_k
                         + d log 2 pi - 2 log s_k,

which compares pieces of different dimension as the raw distance q cannot: a further dimension
shortens every distance, and has to pay for itself in log l_j - log v_k.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from functools import cached_property

import torch
from torch import Tensor

from lowdim.core.decompose import of_psd
from lowdim.core.pieces import Tensors
from lowdim.core.stacked import Stacked
from lowdim.core.subspace import Subspace


@dataclass(frozen=True, eq=False)
class LowRankGaussians:
    """K normal distributions, each wide along a few directions.

    Attributes
    ----------
    pieces : tuple of Subspace
        Bases, centres, and the variances along the bases as ``values``.
    noise : Tensor
        (K,) float64, variance of a piece in each other direction.
    shares : Tensor
        (K,) float64, the share of the points in each piece.
    """

    pieces: tuple[Subspace, ...]
    noise: Tensor
    shares: Tensor

    @cached_property
    def stacked(self) -> Stacked:
        """The bases side by side."""
        return Stacked(self.pieces)

    @cached_property
    def values(self) -> Tensor:
        """(R,) float64, variances along all bases."""
        return torch.cat([p.values for p in self.pieces if p.values is not None]).double()

    def deviance(self, x: Tensor) -> Tensor:
        """(m, K) float64, -2 log(s_k p_k(x)) of each of m points."""
        member, (dim, _) = self.stacked.member, self.stacked.basis.shape
        logs = self.values.log() @ member.double()  # (R,) @ (R, K)
        spare = dim - member.sum(0)  # (K,) directions of noise
        rest = logs + spare * self.noise.log() + dim * math.log(2 * math.pi)
        rest -= 2 * self.shares.log()
        scale = self.values.rsqrt().to(member)  # (R,)
        parts = []
        for block in self.stacked.blocks(x):
            squared, z = self.stacked.measure(block)
            inside = (z * scale).square() @ member  # (m, R) @ (R, K)
            parts.append(squared.double() / self.noise + inside.double() + rest)
        return torch.cat(parts)

    def project(self, x: Tensor, shares: Tensor) -> Tensor:
        """(m, d) where each of m points lies on each piece, averaged with (m, K) shares."""
        centers = torch.stack([p.center for p in self.pieces])
        z = self.stacked.measure(x)[1] * (shares @ self.stacked.member.T)  # (m, R)
        return z @ self.stacked.basis.T + shares @ centers  # (m, R) @ (R, d)

    def to(self, device: torch.device, dtype: torch.dtype) -> LowRankGaussians:
        """On another device, with bases and centres of another dtype."""
        pieces = tuple(
            replace(p.to(device, dtype), values=None if p.values is None else p.values.to(device))
            for p in self.pieces
        )
        return LowRankGaussians(pieces, self.noise.to(device), self.shares.to(device))

    def tensors(self) -> Tensors:
        """As named tensors, for a file."""
        return {
            "basis": self.stacked.basis,
            "centers": torch.stack([p.center for p in self.pieces]),
            "values": self.values,
            "ranks": torch.tensor([p.rank for p in self.pieces]),
            "noise": self.noise,
            "shares": self.shares,
        }

    @classmethod
    def of_tensors(cls, t: Tensors) -> LowRankGaussians:
        """From :meth:`tensors`."""
        ranks = t["ranks"].tolist()
        parts = zip(t["basis"].split(ranks, 1), t["centers"], t["values"].split(ranks), strict=True)
        return cls(tuple(Subspace(*part) for part in parts), t["noise"], t["shares"])


class Scatter:
    """Weighted count, mean and centred second moment of the points of one piece, in float64.

    As `lowdim.core.moments.Moments` adds up (Chan, Golub, LeVeque 1979), with a weight a point.
    """

    def __init__(self, dim: int, device: torch.device | None = None) -> None:
        self.total = 0.0
        self.mean = torch.zeros(dim, dtype=torch.float64, device=device)
        self.scatter = torch.zeros(dim, dim, dtype=torch.float64, device=device)

    def update(self, rows: Tensor, weights: Tensor) -> None:
        """Take in (m, d) rows with (m,) weights above zero."""
        weights, rows = weights.double(), rows.double()
        count = float(weights.sum())
        mean = weights @ rows / count
        rows = (rows - mean) * weights.sqrt()[:, None]
        delta, total = mean - self.mean, self.total + count
        self.scatter += rows.T @ rows  # (d, m) @ (m, d)
        self.scatter += torch.outer(delta, delta) * (self.total * count / total)
        self.mean = self.mean + delta * (count / total)
        self.total = total

    def energies(self, center: bool) -> tuple[Tensor, Tensor, Tensor]:
        """Eigenvalues about the mean or about the origin, their directions, and that centre."""
        moment, middle = self.scatter / self.total, self.mean
        if not center:
            moment, middle = moment + torch.outer(middle, middle), torch.zeros_like(middle)
        values, vectors = of_psd(moment, len(moment), True)
        assert vectors is not None
        return values, vectors, middle
