"""SLTrain: low rank plus sparse, D = (alpha / r) B A + S (Han et al. 2024).

S has a fixed support, drawn uniformly at random from the seed, whose values train with B and A:
r (in + out) + density in out numbers. The update has full rank with high probability from a density
of about log(n) / n on, where no row and no column is empty.

S meets the inputs as weighted sums over its entries (torch's `embedding_bag`), and so do the output
gradients; the gradient of its values is taken at the support alone. Neither S nor its gradient is
ever a dense matrix beside a linear layer. A convolution's weight is formed whole in each pass.

Cost: a product with n inputs takes 2 n density in out operations beside LoRA's 2 n r (in + out);
each value that trains has 20 bytes of places, drawn again from the seed on loading.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from torch.nn.functional import embedding_bag, linear

from lowdim.adapt.adapter import ProductAdapter, matrix_shape
from lowdim.adapt.method import Draws, Method, check_positive, check_size, zeros
from lowdim.adapt.targets import Target
from lowdim.core import random
from lowdim.errors import InputError
from lowdim.registry import adaptation, method


@method(
    "adapt/sltrain",
    needs=adaptation(),
    paper="Han, Li, Huang, Hong, Takeda, Jawanpuria and Mishra 2024",
    arxiv="2406.02214",
    cost="2 n (r (in + out) + density in out)",
)
@dataclass(frozen=True)
class SLTrain(Method):
    """Does an update of full rank, low rank plus sparse, learn what low rank cannot?

    Parameters
    ----------
    rank : int
        r of the low-rank part.
    density : float
        Share of the entries that train, in (0, 1]; at least one entry does.
    alpha : float
        The low-rank part is scaled by alpha / r.
    spread : float
        Values start uniform between -spread / in^(1/2) and spread / in^(1/2). The default of 0
        starts at the base; the paper trains from scratch at 1, with 0.03 as its density: set the
        weights to zero, then attach.

    Notes
    -----
    Trust it where the update has no low rank, as in training from scratch or far from the base.
    Near the base the sparse part costs numbers and time that low rank alone uses better.
    """

    rank: int = 8
    density: float = 0.01
    alpha: float = 16.0
    spread: float = 0.0

    def adapter(self, target: Target, draws: Draws) -> SLTrainAdapter:
        """A and the support drawn, and the values where they spread."""
        check_size("rank", self.rank)
        check_positive("alpha", self.alpha)
        if not 0 < self.density <= 1:
            raise InputError(f"density={self.density}: a share in (0, 1]")
        if not 0 <= self.spread < math.inf:
            raise InputError(f"spread={self.spread}: give a number of 0 or more")
        return SLTrainAdapter(target.shape, self, draws)

    @property
    def starts_at_base(self) -> bool:
        """Not where values are drawn."""
        return self.spread == 0

    def count(self, shapes: Sequence[tuple[int, ...]]) -> int:
        """Two factors each, r (in + out), and density in out values."""
        sides = [matrix_shape(shape) for shape in shapes]
        return sum(self.rank * sum(side) + self.n_values(side) for side in sides)

    def n_values(self, side: tuple[int, int]) -> int:
        """Entries of a matrix that train."""
        return max(1, round(self.density * math.prod(side)))


class SLTrainAdapter(ProductAdapter):
    """(alpha / r) B A + S.

    Attributes
    ----------
    b, a : Parameter
        (out, r) and (r, in).
    values : Parameter
        (size,) entries of S.
    places : Places
        Where the values lie, drawn from the seed.
    """

    def __init__(self, shape: tuple[int, ...], options: SLTrain, draws: Draws) -> None:
        super().__init__(shape)
        out, width = self.matrix = matrix_shape(shape)
        r, size, bound = options.rank, options.n_values(self.matrix), 1 / math.sqrt(width)
        self.scale = options.alpha / r
        self.b: nn.Parameter = zeros(out, r)
        self.a = nn.Parameter(draws.uniform("a", (r, width), bound))
        self.values = nn.Parameter(draws.uniform("values", (size,), options.spread * bound))
        support = random.choice(out * width, size, draws.seed, draws.stream("support"))
        self.places = Places(support.sort().values, out, width)

    def forward(self, x: Tensor) -> Tensor:
        """(alpha / r) B (A x) + S x."""
        sparse: Tensor = _SparseProduct.apply(x.reshape(-1, x.shape[-1]), self.values, self.places)
        low = linear(linear(x, self.a), self.scale * self.b)
        return low + sparse.view(low.shape)

    def rows(self, index: Tensor) -> Tensor:
        """Rows of both parts; of S only those that are asked for are written out."""
        out, width = self.matrix
        wanted, which = index.long().unique(return_inverse=True)
        row, column = self.places.flat // width, self.places.flat % width
        written = wanted.new_full((out,), -1)
        written[wanted] = torch.arange(len(wanted), device=wanted.device)
        kept = (written[row] >= 0).nonzero()[:, 0]
        sparse = self.values.new_zeros(len(wanted), width).index_put(
            (written[row[kept]], column[kept]), self.values[kept]
        )
        return (self.scale * self.b)[index] @ self.a + sparse[which]

    def delta(self) -> Tensor:
        """Both parts, written out."""
        low = (self.scale * self.b) @ self.a  # (out, r) @ (r, in)
        return low.view(-1).index_add(0, self.places.flat, self.values).view(self.shape)


class Places(nn.Module):
    """Where the values of a sparse matrix lie, row by row and column by column.

    Attributes
    ----------
    flat : Tensor
        (size,) place of each value in the flattened matrix, ascending.
    columns, row_starts : Tensor
        (size,) column of each value, and (out,) the first value of each row.
    order : Tensor
        (size,) the values in the order of their columns.
    rows, column_starts : Tensor
        (size,) row of each value in that order, and (in,) the first value of each column.
    """

    flat: Tensor
    columns: Tensor
    row_starts: Tensor
    order: Tensor
    rows: Tensor
    column_starts: Tensor

    def __init__(self, flat: Tensor, out: int, width: int) -> None:
        super().__init__()
        row, column = flat // width, flat % width
        order = column.argsort(stable=True)
        found = {
            "columns": column,
            "row_starts": torch.searchsorted(row, torch.arange(out)),
            "order": order,
            "rows": row[order],
            "column_starts": torch.searchsorted(column[order], torch.arange(width)),
        }
        self.register_buffer("flat", flat, persistent=False)
        for name, places in found.items():
            self.register_buffer(name, places.int(), persistent=False)


def _sums(x: Tensor, values: Tensor, places: Tensor, starts: Tensor) -> Tensor:
    """(out, n) of (in, n): sums of rows of x, at their places and times their values."""
    return embedding_bag(places, x, starts, mode="sum", per_sample_weights=values)


class _SparseProduct(torch.autograd.Function):
    """S x of (n, in) inputs, keeping x and the values alone for the backward pass."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, values: Tensor, at: Places) -> Tensor:
        ctx.save_for_backward(x, values)
        ctx.at = at
        return _sums(x.T.contiguous(), values, at.columns, at.row_starts).T.contiguous()

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        x, values = ctx.saved_tensors
        at: Places = ctx.at
        by_x, rows = None, grad.T.contiguous()  # (out, n)
        if ctx.needs_input_grad[0]:  # S^T g
            by_x = _sums(rows, values[at.order], at.rows, at.column_starts).T
        with torch.enable_grad():  # of each value: the product of its rows of g and x
            values = values.detach().requires_grad_()
            product = _sums(x.T.contiguous(), values, at.columns, at.row_starts)
        (by_values,) = torch.autograd.grad(product, values, rows)
        return by_x, by_values, None
