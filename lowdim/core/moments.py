"""Streaming moments in float64: the result does not depend on how the data was cut.

Chan, Golub, LeVeque 1979: the centred sums of two halves add up, plus one term for the distance
of their means; nothing large is ever subtracted from something large. Rows are shifted by the
first row before their mean is taken, so the spread of a constant column is exactly zero.
"""

from __future__ import annotations

from typing import Self

import torch
from torch import Tensor

from lowdim.core.points import as_points, unit_rows
from lowdim.errors import InputError

BLOCK = 2**22  # numbers in one float64 block: 32 MiB, whatever the size of the chunk


class _Accumulator:
    """Count, mean and centred sum; a subclass says which product of the centred rows it sums."""

    def __init__(
        self,
        dim: int,
        *,
        unit: bool = False,
        device: torch.device | str | None = None,
        offset: int = 0,
    ) -> None:
        self.dim = dim
        self.unit = unit
        self.offset = offset
        self.count = 0
        self.mean = torch.zeros(dim, dtype=torch.float64, device=device)
        self.scatter = self._product(self.mean.new_zeros(1, dim))

    @staticmethod
    def _product(rows: Tensor) -> Tensor:
        raise NotImplementedError

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self.count} rows, {self.dim} columns)"

    def update(self, chunk: Tensor) -> Self:
        """Take in the (rows, dim) points of one chunk; NaN and Inf name the row over all chunks."""
        chunk = as_points(chunk, offset=self.offset + self.count)
        if chunk.shape[1] != self.dim:
            raise InputError(f"chunk has {chunk.shape[1]} columns and not {self.dim}")
        # wide enough blocks that adding up the products does not cost more than they do
        size = max(BLOCK, self.scatter.numel() // 4) // self.dim
        for block in chunk.split(max(1, size)):
            block = block.to(self.mean.device)
            if self.unit:
                block = unit_rows(block.double(), offset=self.offset + self.count)
            shift = block[0].double()
            rows = block - shift  # a new float64 tensor
            mean = rows.mean(0)
            rows -= mean
            self._add(len(rows), shift + mean, self._product(rows))
        return self

    def merge(self, other: Self) -> Self:
        """Take in all that ``other`` has seen; ``other`` stays as it is."""
        if (self.dim, self.unit) != (other.dim, other.unit):
            raise InputError(f"cannot merge {other} (unit={other.unit}) into {self}")
        self._add(other.count, other.mean.to(self.mean), other.scatter.to(self.mean))
        return self

    def _add(self, count: int, mean: Tensor, scatter: Tensor) -> None:
        if count == 0:
            return
        delta = mean - self.mean
        total = self.count + count
        self.scatter += scatter
        self.scatter += self._product(delta[None]) * (self.count * count / total)
        self.mean = self.mean + delta * (count / total) if self.count else mean
        self.count = total

    def second_moment(self, center: bool = True) -> Tensor:
        """Mean product of the rows (divided by n), about their mean or about the origin."""
        if self.count == 0:
            raise InputError("no rows yet: update with a chunk first")
        moment = self.scatter / self.count
        return moment if center else moment + self._product(self.mean[None])


class Moments(_Accumulator):
    """How many rows, where is their mean, and how do they spread? Streams in O(d^2) memory.

    Parameters
    ----------
    dim : int
        Number of columns.
    unit : bool
        Scale each row to length one first; a zero row is an error.
    device : torch.device, optional
        Where the sums live; chunks are moved there.
    offset : int
        Added to the row that an error names, for a part of a larger set.

    Attributes
    ----------
    count : int
        Rows seen.
    mean : Tensor
        (d,) float64.
    scatter : Tensor
        (d, d) float64, sum of (x - mean)(x - mean)^T.
    """

    @staticmethod
    def _product(rows: Tensor) -> Tensor:
        return rows.T @ rows  # (d, rows) @ (rows, d)


class Variances(_Accumulator):
    """The diagonal of :class:`Moments` in O(d) memory: ``scatter`` is (d,)."""

    @staticmethod
    def _product(rows: Tensor) -> Tensor:
        return (rows * rows).sum(0)
