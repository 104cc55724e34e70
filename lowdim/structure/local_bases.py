"""Local reduced bases: one for each cluster of directions, and whether they are worth it.

The clusters and bases are those of Daniel, Casenave, Akkari, Ketata and Ryckelynck
("Physics-informed cluster analysis and a priori efficiency criterion for the construction of local
reduced-order bases", 2022): k-medoids by the sine of the angle, then a truncated SVD of each
cluster. Their criterion is not in the abstract that this was written from; the one here is ours.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from lowdim.core.points import as_points, unit_rows
from lowdim.core.random import permutation
from lowdim.core.spectrum import Spectrum
from lowdim.core.subspace import Subspace
from lowdim.errors import InputError
from lowdim.structure.sine_k_medoids import SineKMedoids

HELD_OUT = 0.25  # share of the points that errors are measured on


@dataclass(frozen=True, eq=False)
class LocalBases:
    """One basis a cluster, and their errors beside those of one basis for all.

    Every error is a mean of |u - P u|^2 / |u|^2 over points that no basis was made from.

    Attributes
    ----------
    labels : Tensor
        (n,) the medoid of least angle.
    bases : tuple of Subspace
        K of them, through the origin.
    medoids : Tensor
        (K,) rows of the points.
    errors : Tensor
        (K,) of each basis on the held-out points of its cluster; NaN where there are none.
    local_error : float
        Of the local bases on all held-out points.
    global_error : float
        Of one basis of the same rank.
    equal_cost_error : float
        Of one basis of rank + K.
    """

    labels: Tensor
    bases: tuple[Subspace, ...]
    medoids: Tensor
    errors: Tensor
    local_error: float
    global_error: float
    equal_cost_error: float

    @property
    def efficiency(self) -> float:
        """Error of one basis at equal cost over that of the local ones; infinite where that is 0.

        Finding the medoid of a new point takes K products of length d, and its coordinates r more;
        for the same K + r products one basis could have rank r + K. Above 1 the local bases spend
        them better.
        """
        if self.local_error == 0:
            return float("inf") if self.equal_cost_error > 0 else 1.0
        return self.equal_cost_error / self.local_error

    @property
    def worth_it(self) -> bool:
        """Whether the local bases beat one basis of equal cost on unseen points."""
        return self.efficiency > 1

    def __repr__(self) -> str:
        k, rank = len(self.bases), max(p.rank for p in self.bases)
        return (
            f"LocalBases({k} of rank {rank}: error {self.local_error:.3g}, one basis of rank "
            f"{rank} {self.global_error:.3g}, of rank {rank + k} {self.equal_cost_error:.3g}; "
            f"efficiency {self.efficiency:.3g})"
        )


def local_bases(
    x: Any, n_pieces: int, rank: int, *, random_state: int = 0,
    memory: int | float | str | None = None,
) -> LocalBases:  # fmt: skip
    """Is one basis for each cluster worth the work of finding the cluster?

    Parameters
    ----------
    x : array-like
        (n, d) points or snapshots, none of them zero.
    n_pieces, rank : int
        K clusters, and the dimension r of each basis.
    random_state : int
        Of the split and the medoids.
    memory : int, float or str, optional
        Budget beyond the points.

    Raises
    ------
    InputError
        A row of zeros, NaN or Inf, or too few points or columns for K clusters and the rank.

    Notes
    -----
    A quarter of the points is held out: they get a label, but no part in medoids and bases, and all
    errors are measured on them, since K r directions always fit the points that made them better.
    Local bases of one rank need not beat a global one of that rank, so both errors are reported.
    Trust the efficiency where each cluster holds several times ``rank`` points.
    """
    x = as_points(x)
    n, dim = x.shape
    for name, value, most in (("n_pieces", n_pieces, n // 2), ("rank", rank, dim)):
        if not isinstance(value, int) or not 1 <= value <= most:
            raise InputError(
                f"{name}={value!r} for {n} points of {dim} columns: give an integer from 1 to "
                f"{most}"
            )
    unit = unit_rows(x)
    order = permutation(n, random_state, device=x.device)
    held, kept = (
        order[: round(HELD_OUT * n)].sort().values,
        order[round(HELD_OUT * n) :].sort().values,
    )
    finder = SineKMedoids(n_pieces, rank=rank, random_state=random_state, memory=memory)
    finder.fit(x[kept])
    labels, bases = finder.predict(x), finder.strata_.pieces

    unseen, own = unit[held], labels[held]
    error = torch.stack([p.residual(unseen) for p in bases], 1).double()
    error = error.gather(1, own[:, None])[:, 0]  # (held,)
    spectrum = Spectrum.of_points(unit[kept], center=False, vectors=True, memory=memory)

    def single(width: int) -> float:
        one = Subspace.of_spectrum(spectrum, rank=min(width, len(spectrum.values))).to(x.dtype)
        return float(one.residual(unseen).mean(dtype=torch.float64))

    return LocalBases(
        labels, bases, kept[finder.medoids_],
        torch.stack([error[own == k].mean() for k in range(n_pieces)]),
        float(error.mean()), single(rank), single(rank + n_pieces),
    )  # fmt: skip
