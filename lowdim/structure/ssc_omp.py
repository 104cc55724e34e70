"""Sparse subspace clustering by orthogonal matching pursuit (You, Robinson and Vidal 2016).

Each point is coded by the few others that a greedy search takes one after the other: the one
nearest in direction to what is left of the point, which is then made orthogonal to all that were
taken. Points of one linear subspace take each other where the subspaces are far enough apart and
well filled. All points search at once: a step is one product of all residuals with all points,
2 n^2 d flops, made a block at a time. Memory: the points twice, and ``sparsity`` numbers a point.
"""

from __future__ import annotations

import scipy.sparse as sp
import torch
from torch import Tensor

from lowdim.core.blocked import workers
from lowdim.core.memory import plan
from lowdim.errors import InputError
from lowdim.registry import method, pieces
from lowdim.structure.base import Job
from lowdim.structure.self_expressive import (
    ROWS,
    SelfExpressive,
    as_graph,
    coded,
    strongest,
    working_memory,
)


@method(
    "structure/ssc-omp",
    needs=pieces(),
    paper="You, Robinson and Vidal 2016",
    arxiv="1507.01238",
    cost="2 n^2 d flops an atom, O(n sparsity) memory",
    oracle="sklearn.linear_model.orthogonal_mp",
)
class SparseSubspaceOMP(SelfExpressive):
    """Which linear subspaces do the points fill, each point being made of a few of its own kind?

    Parameters
    ----------
    n_pieces, join, rank, reduce, random_state, memory
        See :class:`SelfExpressive`.
    sparsity : int
        Most other points in the code of a point: about the dimension of a piece, or below.
    tolerance : float
        A point is coded when what is left of its unit row is no longer than this.

    Notes
    -----
    Trust it where pieces are linear subspaces through the origin, of dimension well below the
    columns, with points that fill all their directions; then a code holds points of one subspace
    only. Where the points of a piece lie in a narrow bundle of directions, as those of a flat piece
    far from the origin do, the first atom is the nearest point, what is left is next to noise, and
    the graph is pairs of neighbours: take :class:`ElasticNetSubspace` or
    :class:`LeastSquaresRepresentation`, or centre the data. A graph of few edges may fall into more
    components than there are pieces: ``n_components_`` tells.
    """

    def __init__(
        self,
        n_pieces: int = 8,
        *,
        sparsity: int = 5,
        tolerance: float = 1e-5,
        join: float = 0.3,
        rank: int | None = None,
        reduce: int | None = None,
        random_state: int = 0,
        memory: int | float | str | None = None,
    ) -> None:
        super().__init__(
            n_pieces, join=join, rank=rank, reduce=reduce, random_state=random_state, memory=memory
        )
        self.sparsity = sparsity
        self.tolerance = tolerance

    def _codes(self, x: Tensor, job: Job) -> sp.csr_array:
        if not isinstance(self.sparsity, int) or self.sparsity < 1 or not self.tolerance >= 0:
            raise InputError(
                f"sparsity={self.sparsity}, tolerance={self.tolerance}: give at least one atom, "
                "and a length from 0"
            )
        n, d = x.shape
        size = min(self.sparsity, n - 1)
        each = 8 * (size + 3) * (d + size)
        plan(
            "SparseSubspaceOMP", rows=1, bytes_per_row=workers(x.device) * ROWS * each,
            fixed=working_memory(d, 1, x.device) + 16 * n * size, memory=self.memory,
        )  # fmt: skip
        parts = coded(lambda rows: self_codes(x, rows, size, self.tolerance), x, job, what="codes")
        return as_graph(parts, n)


def self_codes(x: Tensor, rows: Tensor, sparsity: int, tolerance: float) -> dict[str, Tensor]:
    """Orthogonal matching pursuit of some points by all the others.

    Parameters
    ----------
    x : Tensor
        (n, d) different unit rows.
    rows : Tensor
        (b,) numbers of the points to code.
    sparsity : int
        Most atoms, below n.
    tolerance : float
        Length of a residual at which a point is done.

    Returns
    -------
    dict
        ``index`` (b, sparsity) the points in the order they were taken, and ``values``, their
        least-squares coefficients.
    """
    b, d = len(rows), x.shape[1]
    residual = x[rows]
    basis = x.new_zeros(b, sparsity, d)  # atoms = triangle^T basis, progressively (Gram-Schmidt)
    triangle = torch.eye(sparsity).to(x).repeat(b, 1, 1)
    along = x.new_zeros(b, sparsity)  # of the target on the basis
    taken = rows[:, None].repeat(1, sparsity)  # a slot not in use holds the point itself
    smallest = torch.finfo(x.dtype).eps ** 0.5
    live = torch.arange(b, device=x.device)
    for step in range(sparsity):
        live = live[torch.linalg.vector_norm(residual[live], dim=1) > tolerance]
        if not len(live):
            break
        chosen = torch.cat([rows[live, None], taken[live, :step]], 1)
        best = strongest(residual[live], x, 1, chosen)[1][:, 0]
        new, parts = x[best], x.new_zeros(len(live), step)
        old = basis[:, :step] if len(live) == b else basis[live, :step]  # a view, or a copy
        for _ in range(2):  # the second pass removes what rounding left
            part = torch.einsum("bkd,bd->bk", old, new)
            new = new - torch.einsum("bk,bkd->bd", part, old)
            parts = parts + part
        length = torch.linalg.vector_norm(new, dim=1)
        free = length > smallest  # an atom in the span of those taken adds nothing: done
        live, new, length = live[free], new[free] / length[free, None], length[free]
        basis[live, step] = new
        triangle[live, :step, step] = parts[free]
        triangle[live, step, step] = length
        taken[live, step] = best[free]
        amount = (new * residual[live]).sum(1)
        along[live, step] = amount
        residual[live] -= amount[:, None] * new
    values = torch.linalg.solve_triangular(triangle, along[:, :, None], upper=True)[:, :, 0]
    return {"index": taken, "values": values}
