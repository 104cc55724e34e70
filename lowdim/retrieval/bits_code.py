"""Transform coding: N bytes a vector, dealt out over the coordinates by what each bit is worth."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import Self

import torch
from torch import Tensor

from lowdim.errors import InputError
from lowdim.registry import coordinates, method
from lowdim.retrieval.code import FEW, Code, compiles, multiplied
from lowdim.retrieval.packing import BLOCK, in_blocks, pack, places, spread
from lowdim.retrieval.scan import Scores
from lowdim.retrieval.uniform_grid import fit_grid

DISTORTION = (1, 0.3634, 0.1188, 0.03744, 0.01154, 0.003495, 0.001041, 0.0003035, 0.00008714)
"""Squared error that the best uniform grid of 0 to 8 bits leaves of a Gaussian (Max 1960)."""

EMPHASIS = 1.25
"""Power of the variance that a coordinate's error is in proportion to. 1 is the least error of the
vectors, 2 of their dot products with queries of the same distribution; of 1, 1.25, 1.5 and 2 this
one had the best recall@10 on average (MiniLM, MPNet and SmolLM2 vectors, 12 to 96 bytes)."""


@method(
    "retrieval/bits",
    needs=coordinates(),
    paper="Huang, Schultheiss 1963 (bits by variance), Max 1960 (grids)",
    cost="N bytes a vector",
)
@dataclass(frozen=True, eq=False)
class BitsCode(Code):
    """What do N bytes hold when each coordinate has as many bits as it deserves?

    Attributes
    ----------
    start, step : Tensor
        (m,) value number c of a coordinate is start + c step.
    bits : Tensor
        (m,) uint8, 0 to 8, 8 N in all; a coordinate of none is its mean.

    Notes
    -----
    Reverse water-filling in whole bits: one after the other goes to the coordinate where it lowers
    the error most, and a coordinate of little variance has none. An error counts the more the
    larger queries are there, and they are spread as the rows are: `EMPHASIS`. Levels are uniform,
    so that a value is a sum of what its bits are worth; levels of least error for each coordinate
    (Lloyd-Max) gained next to nothing and have to be looked up, and a gain stored with each vector
    gained nothing.
    Trust it after ``pca`` to all coordinates, where variances fall; where coordinates are alike it
    is as good as ``int4`` and no better. ``opq`` may find more in the same bytes, takes far longer
    to fit and is larger.
    """

    sized = True
    start: Tensor
    step: Tensor
    bits: Tensor

    @classmethod
    def fit(cls, z: Tensor, *, size: int | None = None, seed: int = 0) -> Self:
        """Deal the bits out by variance, then fit a grid to each coordinate."""
        m = z.shape[1]
        if size is None or not 1 <= size <= m:
            raise InputError(f"bits{size or 'N'}: {m} coordinates take 1 to {m} bytes")
        if len(z) == 0:
            raise InputError("a code is fitted to no vectors at all: give at least one")
        bits = allocate(z.var(0, correction=0), 8 * size)
        low, step = fit_grid(z, 2 ** bits.long().clamp_min(1), seed)
        coded = bits > 0
        start = torch.where(coded, low + step / 2, z.double().mean(0).float())
        return cls(start, step * coded, bits)

    @property
    def dims(self) -> int:
        """m, the coordinates that it was fitted to."""
        return len(self.start)

    @cached_property
    def bytes_per_vector(self) -> int:
        """N."""
        return int(self.bits.sum()) // 8

    @cached_property
    def coded(self) -> Tensor | slice:
        """The coordinates that have bits, those of most bits first."""
        order = self.bits.sort(descending=True, stable=True).indices[: int((self.bits > 0).sum())]
        first = torch.arange(len(order), device=order.device)
        return slice(len(order)) if order.equal(first) else order  # a slice needs no copy

    @cached_property
    def planes(self) -> list[tuple[int, slice]]:
        """For each bit of the numbers, lowest first: how many coordinates have it, and where.

        Bits of one significance stand together in a row of codes, in the order of ``coded``.
        """
        counts = [int((self.bits > t).sum()) for t in range(int(self.bits.max()))]
        ends = torch.tensor(counts).cumsum(0).tolist()
        return [(n, slice(end - n, end)) for n, end in zip(counts, ends, strict=True)]

    @cached_property
    def _counts(self) -> Tensor:
        return torch.tensor([n for n, _ in self.planes])

    def encode(self, z: Tensor) -> Tensor:
        """(n, N) uint8."""
        low, scale = self.start - self.step / 2, torch.where(self.step > 0, 1 / self.step, 0)
        top = torch.exp2(self.bits.float()) - 1
        if compiles(z):
            from lowdim.retrieval import kernels

            which, grid = self.coded, [low, scale, top]
            if isinstance(which, slice):
                which, grid = torch.arange(0), [x[which] for x in grid]
            given = (self._counts, which, *grid)
            return kernels.coded(kernels.to_planes, z, self.bytes_per_vector, *given)
        low, scale, top = low[self.coded], scale[self.coded], top[self.coded]

        def encode(rows: Tensor) -> Tensor:
            cells = (rows[:, self.coded] - low).mul_(scale).clamp_min_(0)
            number = torch.minimum(cells, top).int().to(torch.uint8)
            bits = [number[:, :n] >> t & 1 for t, (n, _) in enumerate(self.planes)]
            return pack(torch.cat(bits, 1), 1)

        return in_blocks(z, self.bytes_per_vector, encode)

    def decode(self, codes: Tensor) -> Tensor:
        """(n, m) values of the grids, and the mean of a coordinate that has no bits."""
        z = self.start.repeat(len(codes), 1)
        z[:, self.coded] = self._values(codes)
        return z

    def products(self, queries: Tensor, shift: Tensor | None = None) -> Scores:
        """As of every code, from the coordinates that have bits; the others are constant."""
        bare = self.bits == 0
        constant = queries @ (self.start * bare)
        if shift is not None:
            square = ((self.start + shift) * bare).square().sum()
            constant, shift = torch.cat([constant, square[None]]), shift[self.coded]
        asked = queries[:, self.coded]
        if len(queries) <= FEW and compiles(queries):
            from lowdim.retrieval import kernels

            given = (asked, shift, self.start[self.coded], self.step[self.coded], self._counts)
            products = kernels.scanned(kernels.planes, self.bytes_per_vector, *given)
        else:
            products = multiplied(self._values, asked, shift)
        return lambda codes: products(codes).add_(constant[:, None])

    def _values(self, codes: Tensor) -> Tensor:
        """(n, r) values of the r coordinates that have bits: sums of what each bit is worth."""
        values = self.start[self.coded].repeat(len(codes), 1)
        step = max(1, 4 * BLOCK // len(self._worth))
        for rows, part in zip(values.split(step), codes.split(step), strict=True):
            bits = spread(part, 1).float()  # (rows, 8 N)
            for n, where in self.planes:
                rows[:, :n].addcmul_(bits[:, where], self._worth[where])
        return values

    @cached_property
    def _worth(self) -> Tensor:
        """(8 N,) what a bit adds where it is 1, over its place in the byte."""
        step = self.step[self.coded]
        worth = torch.cat([step[:n] * 2**t for t, (n, _) in enumerate(self.planes)])
        return worth / places(len(worth), 1, worth.device)


def allocate(variance: Tensor, total: int) -> Tensor:
    """(m,) uint8 bits of each coordinate, 0 to 8: the ``total`` that lower the error most."""
    share = variance / variance.max().clamp_min(torch.finfo(variance.dtype).tiny)
    error = share[:, None] ** EMPHASIS * torch.tensor(DISTORTION).to(share)
    gain = -error.diff(dim=1)  # (m, 8), descending: a second bit is worth less than a first
    chosen = torch.zeros_like(gain, dtype=torch.uint8).flatten()
    chosen[gain.flatten().topk(total).indices] = 1
    return chosen.view_as(gain).sum(1, dtype=torch.uint8)
