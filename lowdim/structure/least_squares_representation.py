"""Subspace clustering by least-squares regression (Lu, Min, Zhao, Zhu, Huang and Yan 2012).

Each unit row is written as a ridge regression on all the others:

    min_C  |X - C X|^2 + lambda |C|^2,    diag(C) = 0.

With X = V S U^T the solution without the constraint is H = V S^2 / (S^2 + lambda) V^T, and with it
C_ij = H_ij / (1 - H_ii): the coefficients that leaving out the point itself gives. So C has rank d
at most, and is kept as two (n, d) factors; of each row the largest entries are found a block at a
time and make the graph. Cost: n d^2 and one product of all points with all points, 2 n^2 d flops.
"""

from __future__ import annotations

import scipy.sparse as sp
from torch import Tensor

from lowdim.errors import InputError
from lowdim.registry import method, pieces
from lowdim.structure.base import Job
from lowdim.structure.self_expressive import SelfExpressive, factored_graph, left_vectors


@method(
    "structure/lsr",
    needs=pieces(),
    paper="Lu et al. 2012",
    arxiv="1404.6736",
    cost="2 n^2 d flops, O(n d) memory",
    oracle="sklearn.linear_model.Ridge",
)
class LeastSquaresRepresentation(SelfExpressive):
    """Which linear subspaces do the points fill, each point being a regression on all others?

    Parameters
    ----------
    n_pieces, join, rank, reduce, random_state, memory
        See :class:`SelfExpressive`.
    regularization : float
        lambda, in units of n / d, the mean energy of a direction; above zero.
    n_neighbors : int
        Largest coefficients of each row that the graph keeps.

    Notes
    -----
    Trust it where subspaces are independent: their dimensions add up to no more than the columns.
    Then the coefficients between pieces vanish without noise. It is the cheapest of its kind, and
    where subspaces meet or the columns are few a sparse code tells more.
    """

    def __init__(
        self,
        n_pieces: int = 8,
        *,
        regularization: float = 0.1,
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
        self.regularization = regularization
        self.n_neighbors = n_neighbors

    def _codes(self, x: Tensor, job: Job) -> sp.csr_array:
        left, right = least_squares_factors(x, self.regularization, self.memory)
        return factored_graph(left, right, self.n_neighbors, job, memory=self.memory)


def least_squares_factors(
    x: Tensor, regularization: float, memory: int | float | str | None = None
) -> tuple[Tensor, Tensor]:
    """(n, r) factors of C = left right^T; its diagonal, which the method sets to zero, is not.

    Parameters
    ----------
    x : Tensor
        (n, d) unit rows.
    regularization : float
        lambda in units of n / d.
    memory : int, float or str, optional
        Budget of the spectrum.
    """
    if not 0 < regularization < float("inf"):
        raise InputError(f"regularization={regularization}: give a positive number")
    vectors, energies = left_vectors(x, memory)
    shrunk = energies / (energies + regularization * len(x) / x.shape[1])
    half = vectors * shrunk.sqrt().to(x)  # H = half half^T
    own = half.square().sum(1, keepdim=True)  # H_ii, below one
    return half / (1 - own), half
