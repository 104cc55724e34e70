"""Affine maps from one encoder's vectors to another's, in closed form from paired vectors."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor

from lowdim.core.linalg import eigh_psd

RIDGES = (1e-6, 1e-4, 1e-3, 1e-2, 1e-1, 1.0)
"""Shrinkage of the regressions, in units of the mean variance of a column."""
RANKS = (1 / 8, 1 / 4, 1 / 2, 3 / 4)
"""Ranks of the low-rank map, as shares of the smaller dimension."""
MILD = 1e-3
"""Shrinkage of the regression that the low-rank map is cut from."""


@dataclass(frozen=True, eq=False)
class Affine:
    """x @ weight + bias."""

    weight: Tensor  # (p, q) float32
    bias: Tensor  # (q,)

    def __call__(self, x: Tensor) -> Tensor:
        """(n, q) of (n, p)."""
        return torch.addmm(self.bias, x, self.weight)


@dataclass(frozen=True, eq=False)
class Pairs:
    """Means and second moments of paired vectors, in float64: all that the maps are made of."""

    mean_x: Tensor  # (p,)
    mean_y: Tensor  # (q,)
    xx: Tensor  # (p, p) covariance
    yy: Tensor  # (q, q)
    xy: Tensor  # (p, q)

    @classmethod
    def of(cls, x: Tensor, y: Tensor) -> Pairs:
        """From (n, p) and (n, q) vectors of the same n texts."""
        x, y, n = x.double(), y.double(), len(x)
        mean_x, mean_y = x.mean(0), y.mean(0)
        x, y = x - mean_x, y - mean_y
        return cls(mean_x, mean_y, x.T @ x / n, y.T @ y / n, x.T @ y / n)

    @property
    def swapped(self) -> Pairs:
        """The other direction."""
        return Pairs(self.mean_y, self.mean_x, self.yy, self.xx, self.xy.T)

    @cached_property
    def spectrum(self) -> tuple[Tensor, Tensor]:
        """Eigenvalues, descending, and vectors of the covariance of x."""
        return eigh_psd(self.xx)

    def regression(self, strength: float) -> Tensor:
        """(p, q) argmin E|x w - y|^2 + strength * mean variance * |w|^2, x and y centred."""
        values, vectors = self.spectrum
        shrunk = values + strength * values.mean()
        return vectors @ (vectors.T @ self.xy / shrunk[:, None])

    def affine(self, weight: Tensor) -> Affine:
        """The weight with the bias that takes mean to mean."""
        return Affine(weight.float(), (self.mean_y - self.mean_x @ weight).float())


Candidates = Iterator[tuple[str, Affine]]
"""The maps of one kind, each named with the strength or rank that it was fitted with."""


def identity(pairs: Pairs) -> Candidates:
    """New queries as they are: what a gentle fine-tune may allow."""
    p, q = pairs.xy.shape
    if p == q:
        yield "identity", Affine(torch.eye(p), torch.zeros(p))


def orthogonal(pairs: Pairs) -> Candidates:
    """The rotation between centred clouds (Procrustes); a partial one of unequal widths."""
    u, _, vt = torch.linalg.svd(pairs.xy, full_matrices=False)
    yield "orthogonal", pairs.affine(u @ vt)


def ridge(pairs: Pairs) -> Candidates:
    """Least squares, shrunk: the expected old vector of a query, hence its expected old scores."""
    for strength in RIDGES:
        yield f"ridge {strength:g}", pairs.affine(pairs.regression(strength))


def low_rank(pairs: Pairs) -> Candidates:
    """The regression cut to the directions in which its fitted values vary most (Izenman 1975)."""
    weight = pairs.regression(MILD)
    _, directions = eigh_psd(weight.T @ pairs.xx @ weight)  # (q, q), descending
    for rank in sorted({max(1, round(share * min(pairs.xy.shape))) for share in RANKS}):
        kept = directions[:, :rank]
        yield f"low-rank {rank}", pairs.affine(weight @ kept @ kept.T)


def transposed(pairs: Pairs) -> Candidates:
    """The regression of x on y, turned round, to rank as the encoder of x would.

    Its dot product of a query q with the row behind y is expected to be <q, y B + b>, which is
    <q B^T, y> and a number that all rows share.
    """
    back = pairs.swapped
    for strength in RIDGES:
        weight = back.regression(strength).T.float().contiguous()  # (p, q)
        yield f"transposed {strength:g}", Affine(weight, torch.zeros(weight.shape[1]))


WAYS: Mapping[str, Callable[[Pairs], Candidates]] = {
    "identity": identity,
    "orthogonal": orthogonal,
    "ridge": ridge,
    "low-rank": low_rank,
    "transposed": transposed,
}


def maps(pairs: Pairs, ways: Sequence[str]) -> dict[str, Affine]:
    """Every map of these kinds, by name."""
    return {name: affine for way in ways for name, affine in WAYS[way](pairs)}
