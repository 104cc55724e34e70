"""Subspace clustering by a low-rank representation, in closed form (Favaro, Vidal, Ravichandran).

The unit rows are written by themselves, all coefficients together being of low rank:

    min_C  |C|_* + |X - C X|^2 / (2 theta)

where |C|_* is the sum of singular values. With X = V S U^T the solution is C = V f(S) V^T, where
f(s) = 1 - theta / s^2 for s^2 > theta and zero below (Favaro, Vidal and Ravichandran 2011, with
tau = 1 / theta). At theta = 0 it is V V^T, the shape interaction matrix of Costeira and Kanade
1998, which Liu, Lin, Yan, Sun, Yu and Ma 2013 show to be the answer without noise. C is kept as
one (n, r) factor, and of each row the largest entries are found a block at a time. Cost: n d^2,
and 2 n^2 r flops.
"""

from __future__ import annotations

import scipy.sparse as sp
from torch import Tensor

from lowdim.errors import InputError
from lowdim.registry import method, pieces
from lowdim.structure.base import Job
from lowdim.structure.self_expressive import SelfExpressive, factored_graph, left_vectors


@method(
    "structure/lrr",
    needs=pieces(),
    paper="Favaro, Vidal and Ravichandran 2011; Liu et al. 2013",
    arxiv="1010.2955",
    cost="2 n^2 r flops, O(n d) memory",
)
class LowRankRepresentation(SelfExpressive):
    """Which linear subspaces do the points fill, all coefficients together being of low rank?

    Parameters
    ----------
    n_pieces, join, rank, reduce, random_state, memory
        See :class:`SelfExpressive`.
    threshold : float
        theta, in units of n / d, the mean energy of a direction: directions with less are noise.
        At 0 the points are taken to have none.
    n_neighbors : int
        Largest coefficients of each row that the graph keeps.

    Notes
    -----
    Trust it where subspaces are independent (their dimensions add up to no more than the columns)
    and noise lies well below them: then coefficients between pieces vanish as noise does. Outliers
    enter like all other points: the l2,1 form of the paper, which sets them aside, is not this.
    """

    def __init__(
        self,
        n_pieces: int = 8,
        *,
        threshold: float = 0.1,
        n_neighbors: int = 16,
        join: float = 0.01,
        rank: int | None = None,
        reduce: int | None = None,
        random_state: int = 0,
        memory: int | float | str | None = None,
    ) -> None:
        super().__init__(
            n_pieces, join=join, rank=rank, reduce=reduce, random_state=random_state, memory=memory
        )
        self.threshold = threshold
        self.n_neighbors = n_neighbors

    def _codes(self, x: Tensor, job: Job) -> sp.csr_array:
        factor = low_rank_factor(x, self.threshold, self.memory)
        return factored_graph(factor, factor, self.n_neighbors, job, memory=self.memory)


def low_rank_factor(x: Tensor, threshold: float, memory: int | float | str | None = None) -> Tensor:
    """(n, r) factor of C = factor factor^T.

    Parameters
    ----------
    x : Tensor
        (n, d) unit rows.
    threshold : float
        theta in units of n / d.
    memory : int, float or str, optional
        Budget of the spectrum.

    Raises
    ------
    InputError
        No direction has more energy than the threshold.
    """
    if not 0 <= threshold < float("inf"):
        raise InputError(f"threshold={threshold}: give a number from 0")
    vectors, energies = left_vectors(x, memory)
    theta = threshold * len(x) / x.shape[1]
    kept = energies > theta
    if not bool(kept.any()):
        raise InputError(
            f"threshold={threshold}: no direction has more energy, the largest has "
            f"{float(energies[0]) * x.shape[1] / len(x):.3g} in the same unit"
        )
    return vectors[:, kept] * (1 - theta / energies[kept]).sqrt().to(x)
