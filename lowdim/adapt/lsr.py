"""LSR-Adapt: both factors of a LoRA are sums of few Kronecker products (Li and Sarwate 2025).

D = s B A with B = sum_i B1_i (x) B2_i and A = sum_i A1_i (x) A2_i: t r (o1 + o2 + i1 + i2) numbers
train and the update has rank up to r^2. This is the product of two sums, t^2 cross terms, as the
authors' code has it; their README prints sum_i (B1_i (x) B2_i) (A1_i (x) A2_i), a smaller family.
The ranks of the factors may differ here, there may be more than two, and sides of any size split.

Cost: the thin A (r^2, in) and B (out, r^2) are made from their factors, t r^2 (in + out), and n
inputs pass through them, n r^2 (in + out). Where the terms are far fewer than the ranks it is
cheaper to let the inputs meet factor by factor, and that is what happens.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor, nn
from torch.nn.functional import linear, pad

from lowdim.adapt.adapter import Adapter, LowRankAdapter, as_matrix, matrix_shape, relative_error
from lowdim.adapt.kronecker import (
    even_split,
    kronecker_apply,
    kronecker_sum,
    operations,
    split_side,
)
from lowdim.adapt.method import Draws, Method, check_size
from lowdim.adapt.separation import nearest_product
from lowdim.adapt.targets import Target
from lowdim.core.linalg import Operator
from lowdim.core.points import as_points
from lowdim.errors import InputError
from lowdim.registry import adaptation, method

PAPER_ALPHA, PAPER_STD = 8192.0, 0.01
"""Scaling and start of the authors' code."""

THIN = 3.0
"""How much longer a multiplication takes factor by factor, where products are thin (measured)."""

Shape = tuple[int, int, int]


@method(
    "adapt/lsr",
    needs=adaptation(),
    paper="Li and Sarwate 2025",
    arxiv="2502.13568",
    cost="(n + t) r^2 (in + out)",
)
@dataclass(frozen=True)
class LSR(Method):
    """How few numbers can train a low-rank update, if its factors are sums of Kronecker products?

    Parameters
    ----------
    rank : int or tuple of int
        Ranks of the factors, one for each: ``2`` is ``(2, 2)`` and gives updates of rank 4,
        ``(2, 2, 2)`` has three factors and gives rank 8.
    terms : int
        t, Kronecker products in each sum. More than make any matrix of a side's size are left out.
    splits : tuple of tuples of int
        How sides are split, such as ``((24, 32),)`` for every side of 768; any other is split so
        that the fewest numbers train, which is near square for equal ranks.
    pad : bool
        Split the next larger side that trains fewer numbers, and leave out what is too much.
    start : {"base", "paper"}
        ``base``: the first factors of B are zero, so the update is. ``paper``: every number is
        drawn from N(0, 0.01^2) and the model starts a little off its base.
    alpha : float, optional
        s is alpha over the (geometric mean) rank; by default s = 1, and alpha = 8192 with
        ``start="paper"``.

    Notes
    -----
    Trust it where the count has to be small: at 768 x 768, rank 2 and 16 terms train 3,584 numbers
    and reach rank 4, where LoRA trains 6,144. Distrust that a small count costs nothing: the order
    of hidden units is arbitrary, so nothing makes their updates separable. The default start is
    ours: A has the spread of LoRA's, and a step moves B as far as it would LoRA's, so that its
    learning rates carry over. The paper's wants smaller ones, and starts off the base model.
    """

    size: ClassVar[str] = "terms"

    rank: int | tuple[int, ...] = 2
    terms: int = 16
    splits: tuple[tuple[int, ...], ...] = ()
    pad: bool = False
    start: str = "base"
    alpha: float | None = None

    def __post_init__(self) -> None:
        """Check the options; lists, as JSON has them, become tuples."""
        if isinstance(self.rank, list):
            object.__setattr__(self, "rank", tuple(self.rank))
        check_size("terms", self.terms)
        for rank in self.ranks:
            check_size("rank", rank)
        if len(self.ranks) < 2:
            raise InputError(f"rank={self.rank}: give at least two ranks, or one whole number")
        for sides in self.splits:
            if not isinstance(sides, (tuple, list)) or len(sides) != len(self.ranks):
                raise InputError(
                    f"splits={self.splits}: give a tuple of {len(self.ranks)} factors for each "
                    "side, as in ((32, 24),)"
                )
            for side in sides:
                check_size("splits", side)
        object.__setattr__(self, "splits", tuple(tuple(sides) for sides in self.splits))
        if self.start not in ("base", "paper"):
            raise InputError(f"start={self.start!r}: choose base or paper")
        if self.alpha is not None and not 0 < self.alpha < math.inf:
            raise InputError(f"alpha={self.alpha}: give a number above zero")

    def build(self, targets: Sequence[Target], seed: int) -> list[Adapter]:
        """An adapter of each; a split that fits none of their sides is an error."""
        found = {side for target in targets for side in matrix_shape(target.shape)}
        for sides in self.splits:
            if math.prod(sides) not in found:
                raise InputError(f"splits has {sides}, and the sides are {sorted(found)}")
        return super().build(targets, seed)

    def adapter(self, target: Target, draws: Draws) -> LSRAdapter:
        """With the factors of A drawn, and those of B but the first, which is zero."""
        outer, inner = self._shapes(target.shape, target.name)
        (out, width), n = matrix_shape(target.shape), len(self.ranks)
        if math.prod(self.ranks) > min(out, width):
            raise InputError(
                f"rank={self.rank} makes updates of rank {math.prod(self.ranks)}, and "
                f"{target.name} is {out} x {width}: choose smaller ranks"
            )
        if self.start == "paper":
            b_stds = a_stds = [PAPER_STD] * n
        else:  # so that entries of B are as large as its first factor's, and of A as LoRA's
            b_stds = [0.0] + [outer[0][0] ** (-0.5 / (n - 1))] * (n - 1)
            a_stds = [(3 * width * inner[0][0]) ** (-0.5 / n)] * n
        b = [draws.normal(f"b{k}", outer[k], b_stds[k]) for k in range(n)]
        a = [draws.normal(f"a{k}", inner[k], a_stds[k]) for k in range(n)]
        return LSRAdapter(target.shape, b, a, self._scale())

    def count(self, shapes: Sequence[tuple[int, ...]]) -> int:
        """Terms times (sum of r_k o_k + sum of r_k i_k) each."""
        return sum(
            math.prod(factor)
            for shape in shapes
            for side in self._shapes(shape, f"a tensor {shape}")
            for factor in side
        )

    @property
    def starts_at_base(self) -> bool:
        """Not with the paper's start."""
        return self.start == "base"

    @property
    def ranks(self) -> tuple[int, ...]:
        """One rank for each factor."""
        return self.rank if isinstance(self.rank, tuple) else (self.rank, self.rank)

    def _scale(self) -> float:
        """Alpha over the mean rank."""
        if self.alpha is None and self.start == "base":
            return 1.0
        alpha = PAPER_ALPHA if self.alpha is None else self.alpha
        return alpha / math.prod(self.ranks) ** (1 / len(self.ranks))

    def _shapes(self, shape: tuple[int, ...], name: str) -> tuple[list[Shape], list[Shape]]:
        """Shapes (t, o_k, r_k) of the factors of B, and (t, r_k, i_k) of those of A."""
        out, width = matrix_shape(shape)
        rows = self._split(out, f"the output side of {name}")
        columns = self._split(width, f"the input side of {name}")
        outer = list(zip(rows, self.ranks, strict=True))
        inner = list(zip(self.ranks, columns, strict=True))
        return (
            [(self._enough(outer), *pair) for pair in outer],
            [(self._enough(inner), *pair) for pair in inner],
        )

    def _split(self, size: int, what: str) -> tuple[int, ...]:
        for sides in self.splits:
            if math.prod(sides) == size:
                return sides
        if self.pad:
            return split_side(size, self.ranks, True)
        return even_split(what, size, "give splits=, or pad=True to pad it", self.ranks)

    def _enough(self, pairs: Sequence[tuple[int, int]]) -> int:
        """Terms, but no more than make any matrix: all sizes but the largest, multiplied."""
        sizes = [m * n for m, n in pairs]
        return min(self.terms, math.prod(sizes) // max(sizes))


class LSRAdapter(LowRankAdapter):
    """s B A, both factors sums of Kronecker products.

    Attributes
    ----------
    outer0, outer1, ... : Parameter
        B's factors, (t, o_k, r_k); the product of the o_k is out, or more where it is padded.
    inner0, inner1, ... : Parameter
        A's factors, (t, r_k, i_k).
    scale : float
        s.
    """

    def __init__(
        self, shape: tuple[int, ...], outer: Sequence[Tensor], inner: Sequence[Tensor], scale: float
    ) -> None:
        super().__init__(shape)
        self.n_factors, self.scale = len(outer), scale
        for k in range(self.n_factors):  # by name, since DataParallel loses a ParameterList
            self.register_parameter(f"outer{k}", nn.Parameter(outer[k]))
            self.register_parameter(f"inner{k}", nn.Parameter(inner[k]))

    @property
    def outer(self) -> list[nn.Parameter]:
        """B's factors."""
        return [getattr(self, f"outer{k}") for k in range(self.n_factors)]

    @property
    def inner(self) -> list[nn.Parameter]:
        """A's factors."""
        return [getattr(self, f"inner{k}") for k in range(self.n_factors)]

    def factors(self) -> tuple[Tensor, Tensor]:
        """B, times s, (out, r) and A (r, in kernel)."""
        out, width = matrix_shape(self.shape)
        return kronecker_sum(self._scaled())[:out], kronecker_sum(self.inner)[:, :width]

    def forward(self, x: Tensor) -> Tensor:
        """B (A x), times s; each sum made, or met factor by factor, as is cheaper."""
        rank = math.prod(f.shape[1] for f in self.inner)
        return _product(self._scaled(), _product(self.inner, x, rank), self.shape[0])

    def _scaled(self) -> list[Tensor]:
        """B's factors, the first times s."""
        first, *rest = self.outer
        return [first * self.scale, *rest]

    @torch.no_grad()
    def approximate(
        self,
        update: Tensor | tuple[Tensor, Tensor],
        *,
        steps: int = 300,
        starts: int = 8,
        seed: int = 0,
    ) -> float:
        """How near can this adapter come to an update? Sets it to the nearest found.

        Parameters
        ----------
        update : Tensor or pair of Tensors
            Of the shape of the weight, or factors B (out, r) and A (r, in kernel) such as LoRA's.
        steps, starts, seed
            Of the search, see :func:`lowdim.adapt.separation.nearest_product`; starts at least 1.

        Returns
        -------
        float
            Relative error left, in the Frobenius norm.

        Raises
        ------
        InputError
            NaN or Inf, another shape, an update of zeros, or more than two factors.

        Notes
        -----
        The error is of a critical point, not the least possible. Cost of a step: two products of
        the update with r vectors, and two small singular value decompositions.
        """
        check_size("starts", starts)
        if self.n_factors > 2:
            raise InputError("only two factors can be fitted to an update: give LSR two ranks")
        if not isinstance(update, Tensor):
            b, a = update
            update = b.double() @ a.double()  # (out, r) @ (r, in)
        whole = as_points(as_matrix(update), name="update").double()
        if whole.shape != matrix_shape(self.shape):
            raise InputError(f"the update is {tuple(whole.shape)}, the weight {self.shape}")
        if not bool(whole.any()):
            raise InputError("the update is zero: attach starts there")
        found = nearest_product(
            Operator.of_matrix(whole),
            self.outer,
            self.inner,
            steps=steps,
            starts=starts,
            seed=seed,
        )
        share = self.scale ** (-1 / 4)  # of 1 / s, for each of the four
        for held, factor in zip([*self.outer, *self.inner], [*found[0], *found[1]], strict=True):
            held.copy_(factor * share)
        return relative_error(whole, as_matrix(self.delta()))


def _product(factors: Sequence[Tensor], x: Tensor, height: int) -> Tensor:
    """(..., height) product of a sum of Kronecker products with (..., width) inputs.

    Either side of the sum may be larger, where it was padded.
    """
    width = x.shape[-1]
    made, one_by_one = operations(factors, x.numel() // width)
    if made <= THIN * one_by_one:
        return linear(x, kronecker_sum(factors)[:height, :width])
    more = math.prod(f.shape[2] for f in factors) - width
    flat = x.reshape(-1, width)
    if more:  # padding by nothing would copy
        flat = pad(flat, (0, more))
    return kronecker_apply(factors, flat)[:, :height].reshape(*x.shape[:-1], height)
