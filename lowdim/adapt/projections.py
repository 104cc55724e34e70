"""Random linear maps from d numbers to D: what training in a random subspace moves along.

Each stands for a D x d matrix P, known by its products P z and P^T g. All keep one convention:
E ||P z||^2 = ||z||^2. Columns have length one: exactly where they are sparse or hashed, and in
whole blocks of Fastfood; to about 1/sqrt(2 D) where they are dense.

The rows of one map can be cut among the tensors of a model: ``first`` and ``rows`` say which of the
``total`` rows an object holds, and row i is the same however they are cut. Drawn by (seed, stream)
on the CPU, so the same on every device.

===========  =======================  ==========================  =================================
map          product                  memory                      columns
===========  =======================  ==========================  =================================
dense        O(D d)                   4 D d bytes, or remade      Gaussian
sparse       O(d sqrt(D))             12 d sqrt(D) bytes          sqrt(D) random signs
Fastfood     O(D log d)               8 D bytes                   nearly Gaussian, nearly orthogonal
hashed       O(D)                     D bytes                     orthogonal: D / d random signs
===========  =======================  ==========================  =================================
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from functools import cache
from itertools import accumulate
from typing import Any, TypeVar

import scipy.linalg
import torch
from torch import Tensor, nn
from torch.nn.functional import pad

from lowdim.adapt.method import Draws, check_size
from lowdim.core import random
from lowdim.core.memory import budget, plan
from lowdim.errors import InputError

RADIX = 32  # factor of a Walsh-Hadamard transform that is a matrix product
BLOCK = 2**24  # numbers that are worked on at once
IN_CACHE = 2**18


class Projection(nn.Module, ABC):
    """Rows of a random D x d map.

    Parameters
    ----------
    total : int
        D, rows of the whole map.
    dim : int
        d, at most D.
    seed, stream : int
        What it is drawn from.
    first, rows : int, optional
        Which rows of it: ``rows`` of them from ``first`` on; to the last by default.
    memory : int, float, str, optional
        For a dense map alone: a quarter of free memory by default.
    """

    def __init__(
        self,
        total: int,
        dim: int,
        *,
        seed: int,
        stream: int = 0,
        first: int = 0,
        rows: int | None = None,
        memory: int | float | str | None = None,
    ) -> None:
        super().__init__()
        check_size("dim", dim, total)
        self.seed, self.stream, self.memory = seed, stream, memory
        self.total, self.dim, self.first = total, dim, first
        self.rows = total - first if rows is None else rows
        if first < 0 or self.rows < 1 or first + self.rows > total:
            raise InputError(f"first={first}, rows={self.rows}: the map has {total} rows")
        self.draw()

    @abstractmethod
    def draw(self) -> None:
        """Draw the random parts, as buffers that are not stored."""

    def forward(self, z: Tensor) -> Tensor:
        """(rows,) P z of (d,) numbers."""
        return _Product.apply(z, self, False)

    def transpose(self, g: Tensor) -> Tensor:
        """(d,) P^T g of (rows,) numbers."""
        return _Product.apply(g, self, True)

    @abstractmethod
    def multiply(self, z: Tensor) -> Tensor:
        """P z, without a gradient."""

    @abstractmethod
    def multiply_transposed(self, g: Tensor) -> Tensor:
        """P^T g, without a gradient."""

    def extra_repr(self) -> str:
        """Rows, of how many, and columns."""
        return f"{self.rows:,} of {self.total:,} rows, {self.dim:,} columns"


class _Product(torch.autograd.Function):
    """The gradient of P z is P^T, and the other way round: nothing is kept for it."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, projection: Projection, transposed: bool) -> Tensor:
        ctx.projection, ctx.transposed = projection, transposed
        product = projection.multiply_transposed if transposed else projection.multiply
        with torch.autocast(x.device.type, enabled=False):
            return product(x.to(torch.promote_types(x.dtype, torch.float32))).to(x.dtype)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None, None]:
        return _Product.apply(grad, ctx.projection, not ctx.transposed), None, None


class DenseProjection(Projection):
    """Independent normals of variance 1 / D.

    The rows are kept if they fit; else they are drawn anew in each product, block by block, which
    takes about a second for ten million entries.
    """

    matrix: Tensor | None

    def draw(self) -> None:
        """All rows, if they fit."""
        self.block = plan(
            "a dense projection",
            rows=self.rows,
            bytes_per_row=4 * self.dim,
            memory=self.memory,
            largest=max(1, BLOCK // self.dim),
        )
        fits = 4 * self.rows * self.dim <= budget(self.memory)
        kept = self._draw_rows(0, self.rows) if fits else None
        self.register_buffer("matrix", kept, persistent=False)

    def multiply(self, z: Tensor) -> Tensor:
        """Block by block."""
        z = z / math.sqrt(self.total)
        return torch.cat([block.to(z) @ z for block in self._blocks()])

    def multiply_transposed(self, g: Tensor) -> Tensor:
        """Summed over blocks."""
        parts = zip(self._blocks(), g.split(self.block), strict=True)
        summed = torch.stack([part @ block.to(g) for block, part in parts]).sum(0)
        return summed / math.sqrt(self.total)

    def _blocks(self) -> Iterator[Tensor]:
        """(block, d) rows at a time."""
        for start in range(0, self.rows, self.block):
            stop = min(start + self.block, self.rows)
            yield self._draw_rows(start, stop) if self.matrix is None else self.matrix[start:stop]

    def _draw_rows(self, start: int, stop: int) -> Tensor:
        at = (self.first + start) * self.dim
        return random.normal((stop - start, self.dim), self.seed, self.stream, at)


class SparseProjection(Projection):
    """Random signs over D^(1/4) in sqrt(D) rows of each column.

    The density 1 / sqrt(D) is that of Li, Hastie and Church (2006), who toss a coin for each entry.
    Here the rows are cut into sqrt(D) strata and a column has one entry in each, so that all
    columns have the same length.
    """

    row: Tensor
    column: Tensor
    value: Tensor

    def draw(self) -> None:
        """One entry a stratum and column."""
        n_strata = round(math.sqrt(self.total))
        bounds = torch.arange(n_strata + 1) * self.total // n_strata
        ends = torch.tensor([self.first, self.first + self.rows - 1])
        low, high = (torch.searchsorted(bounds, ends, right=True) - 1).tolist()
        widths = bounds.diff()[low : high + 1, None]
        at = (len(widths), self.dim), self.seed, self.stream, low * self.dim
        inside = (random.uniform(*at) * widths).long()
        row = bounds[low : high + 1, None] + inside - self.first  # (strata, d)
        value = random.signs(*at) / math.sqrt(n_strata)
        here = (row >= 0) & (row < self.rows)  # strata at the ends reach beyond the rows
        self.register_buffer("row", row[here].int(), persistent=False)
        self.register_buffer("column", here.nonzero()[:, 1].int(), persistent=False)
        self.register_buffer("value", value[here], persistent=False)

    def multiply(self, z: Tensor) -> Tensor:
        """Each entry adds to its row."""
        parts = z.index_select(0, self.column) * self.value.to(z)
        return z.new_zeros(self.rows).index_add_(0, self.row, parts)

    def multiply_transposed(self, g: Tensor) -> Tensor:
        """Each entry adds to its column."""
        parts = g.index_select(0, self.row) * self.value.to(g)
        return g.new_zeros(self.dim).index_add_(0, self.column, parts)


class _BlockProjection(Projection):
    """A map made of blocks of ``length`` rows; the first and the last may stick out.

    Attributes
    ----------
    start : int
        First row of the first block.
    n_blocks : int
        That hold the rows.
    """

    def _set_blocks(self, length: int) -> None:
        self.length = length
        self.skip = self.first % length
        self.start = self.first - self.skip
        self.n_blocks = -(-(self.skip + self.rows) // length)

    def _rows_of(self, blocks: Tensor) -> Tensor:
        """(rows,) of (n_blocks, length)."""
        return blocks.flatten()[self.skip : self.skip + self.rows]

    def _blocks_of(self, g: Tensor) -> Tensor:
        """(n_blocks, length) with zeros where they stick out."""
        after = self.n_blocks * self.length - self.skip - self.rows
        return pad(g, (self.skip, after)).view(self.n_blocks, self.length)


class FastfoodProjection(_BlockProjection):
    """Blocks S H G Pi H B of L rows each, the least power of two that is at least d.

    H is the Walsh-Hadamard matrix, G diagonal normals, Pi a permutation and B diagonal signs (Le,
    Sarlos and Smola 2013). S is not theirs, which gives the rows of a block random lengths, but, as
    in Li et al. (2018), the number 1 / (||G|| sqrt(D)) that gives the columns length one. B is the
    same in all blocks, so that H B z is made once; G and Pi are a block's own. Two columns have a
    cosine of about sqrt(2 / D).
    """

    signs: Tensor
    gains: Tensor
    order: Tensor

    def draw(self) -> None:
        """B, and G and Pi of each block."""
        self._set_blocks(1 << (self.dim - 1).bit_length())
        at = (self.n_blocks, self.length), self.seed, self.stream, self.start
        signs = random.signs(self.length, self.seed, self.stream)
        gains = random.normal(*at, dtype=torch.float64)
        gains *= math.sqrt(self.length) / torch.linalg.vector_norm(gains, dim=1, keepdim=True)
        self.scale = 1 / math.sqrt(self.length * self.total)
        order = random.uniform(*at).argsort(stable=True)
        self.register_buffer("signs", signs, persistent=False)
        self.register_buffer("gains", gains.float(), persistent=False)
        self.register_buffer("order", order.int(), persistent=False)

    def multiply(self, z: Tensor) -> Tensor:
        """H G Pi (H B z), block by block."""
        padded = pad(z * self.scale, (0, self.length - self.dim))
        mixed = walsh_hadamard(padded * self.signs.to(z))  # (L,)
        blocks = z.new_empty(self.n_blocks, self.length)
        for cut in self._cuts(z.device):
            permuted = mixed.index_select(0, self.order[cut].flatten()).view(-1, self.length)
            blocks[cut] = walsh_hadamard(permuted * self.gains[cut].to(z))
        return self._rows_of(blocks)

    def multiply_transposed(self, g: Tensor) -> Tensor:
        """B H (sum over blocks of Pi^T G H g)."""
        blocks = self._blocks_of(g)
        mixed = g.new_zeros(self.length)
        for cut in self._cuts(g.device):
            scaled = walsh_hadamard(blocks[cut]) * self.gains[cut].to(g)
            part = torch.zeros_like(mixed)
            mixed += part.index_add_(0, self.order[cut].flatten(), scaled.flatten())
        return (walsh_hadamard(mixed) * self.signs.to(g))[: self.dim] * self.scale

    def _cuts(self, device: torch.device) -> Iterator[slice]:
        """Blocks at a time: on a CPU as many as its cache holds through all passes."""
        step = max(1, (IN_CACHE if device.type == "cpu" else BLOCK) // self.length)
        for start in range(0, self.n_blocks, step):
            yield slice(start, start + step)


def walsh_hadamard(x: Tensor) -> Tensor:
    """H x along the last axis, a power of two long; H has entries +-1, and H H = L.

    O(L log L): the first factor 32 of L by a matrix product, where rows are too short for anything
    else, then sums and differences of ever longer runs. Not for autograd.
    """
    shape, length = x.shape, x.shape[-1]
    run = min(RADIX, length)
    x = x.reshape(-1, run) @ _hadamard(run, x.dtype, x.device)
    while run < length:
        a, b = x.view(-1, 2, run).unbind(1)
        x = x.new_empty(len(a), 2, run)
        torch.add(a, b, out=x[:, 0])
        torch.sub(a, b, out=x[:, 1])
        run *= 2
    return x.view(shape)


@cache
def _hadamard(order: int, dtype: torch.dtype, device: torch.device) -> Tensor:
    return torch.tensor(scipy.linalg.hadamard(order), dtype=dtype, device=device)


class HashedProjection(_BlockProjection):
    """Each row has one entry, a random sign: D numbers share d, in a balanced way.

    Blocks of d rows are mapped to the d columns one to one, each by a rotation of its own, so the
    columns are orthogonal and the numbers of rows that they serve (their load) differ by one at
    most; d = D is a rotation with signs (the balanced map of Desai and Shrivastava 2023).
    """

    signs: Tensor
    shift: Tensor
    load: Tensor

    def draw(self) -> None:
        """The signs, and the rotation of each block."""
        self._set_blocks(self.dim)
        key, full = (self.seed, self.stream), self.total // self.dim
        signs = random.signs((self.n_blocks, self.dim), *key, self.start, dtype=torch.int8)
        shift = random.integers(self.n_blocks, self.dim, *key, self.start // self.dim)
        last = random.integers(1, self.dim, *key, full)  # of the block that is cut short
        load = torch.full((self.dim,), full)
        load[(last + torch.arange(self.total % self.dim)) % self.dim] += 1
        self.register_buffer("signs", signs, persistent=False)
        self.register_buffer("shift", shift, persistent=False)
        self.register_buffer("load", load, persistent=False)

    def multiply(self, z: Tensor) -> Tensor:
        """A window of z, written twice, for each block."""
        scaled = z / self.load.to(z).sqrt()
        windows = scaled.repeat(2).unfold(0, self.dim, 1)[self.shift]  # (blocks, d)
        return self._rows_of(windows * self.signs)

    def multiply_transposed(self, g: Tensor) -> Tensor:
        """Blocks rotated back and summed."""
        signed = self._blocks_of(g) * self.signs
        back = torch.arange(self.dim, device=g.device) - self.shift[:, None]  # in (-d, d)
        return signed.gather(1, back % self.dim).sum(0) / self.load.to(g).sqrt()

    def columns(self) -> Tensor:
        """(rows,) which column each row has its entry in."""
        place = torch.arange(self.dim, device=self.shift.device)
        return self._rows_of(self.shift[:, None] + place) % self.dim


AnyProjection = TypeVar("AnyProjection", bound=Projection)


def rows_of_one_map(
    kind: type[AnyProjection], shapes: Sequence[tuple[int, ...]], dim: int, seed: int
) -> list[AnyProjection]:
    """One map over tensors of these shapes, laid out one after the other: the rows of each."""
    sizes = [math.prod(shape) for shape in shapes]
    stream = Draws(seed, "").stream("projection")
    return [
        kind(sum(sizes), dim, seed=seed, stream=stream, first=first, rows=rows)
        for first, rows in zip(accumulate(sizes, initial=0), sizes, strict=False)
    ]


PROJECTIONS: dict[str, type[Projection]] = {
    "dense": DenseProjection,
    "sparse": SparseProjection,
    "fastfood": FastfoodProjection,
    "hashed": HashedProjection,
}
