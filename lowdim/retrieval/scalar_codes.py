"""Integers: each coordinate rounded to one of 256 or 16 equidistant values, in faiss's layout."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import ClassVar, Self

import torch
from torch import Tensor
from torch.nn.functional import pad

from lowdim.core.random import normal
from lowdim.registry import coordinates, method
from lowdim.retrieval.code import Code, compiles
from lowdim.retrieval.packing import in_blocks, pack, places, spread
from lowdim.retrieval.scan import Scores
from lowdim.retrieval.uniform_grid import fit_grid


def random_rotation(m: int, seed: int, device: torch.device | None = None) -> Tensor:
    """(m, m) orthogonal, uniform among all (Haar), the same wherever it is drawn but for rounding.

    Notes
    -----
    QR of a Gaussian matrix, with signs that make the diagonal of R positive (Mezzadri 2007).
    """
    q, r = torch.linalg.qr(normal((m, m), seed, dtype=torch.float64))
    return (q * torch.where(r.diagonal() < 0, -1.0, 1.0)).float().to(device)


@dataclass(frozen=True, eq=False)
class ScalarCode(Code):
    """Coordinates on uniform grids, one each.

    Attributes
    ----------
    low, width : Tensor
        (m,) faiss's ``vmin`` and ``vdiff``: number c stands for low + (c + 1/2) / top * width,
        top being 255 or 15.
    """

    bits: ClassVar[int]
    low: Tensor
    width: Tensor

    @classmethod
    def fit(cls, z: Tensor, *, size: int | None = None, seed: int = 0) -> Self:
        """The grid of each coordinate that has the least squared error."""
        low, step = fit_grid(z, 2**cls.bits, seed)
        return cls(low, step * cls._top())

    @classmethod
    def _top(cls) -> int:
        return 2**cls.bits - 1

    @property
    def dims(self) -> int:
        """m, the coordinates that it was fitted to."""
        return len(self.low)

    @property
    def bytes_per_vector(self) -> int:
        """One for each coordinate, or for two."""
        return -(-self.dims * self.bits // 8)

    def encode(self, z: Tensor) -> Tensor:
        """(n, bytes) uint8: of two numbers in a byte the first is in the low half."""
        width = torch.where(self.width > 0, self.width, torch.inf)  # constant: number 0, as faiss
        if compiles(z):
            from lowdim.retrieval import kernels

            kernel = kernels.to_bytes if self.bits == 8 else kernels.to_nibbles
            return kernels.coded(kernel, z, self.bytes_per_vector, self.low, width)

        def encode(rows: Tensor) -> Tensor:
            number = (rows - self.low).div_(width).clamp_(0, 1).mul_(self._top()).int()
            return number if self.bits == 8 else pack(number, self.bits)

        return in_blocks(z, self.bytes_per_vector, encode)

    def decode(self, codes: Tensor) -> Tensor:
        """(n, m) values of the grid."""
        start, step = self._grid
        if self.bits == 8:
            return codes.float().mul_(step).add_(start)
        number = spread(codes, self.bits)[:, : self.dims].float()
        return number.mul_(step / places(self.dims, self.bits, step.device)).add_(start)

    def one_pass(self, queries: Tensor, shift: Tensor | None) -> Scores:
        """As of every code, without a decoded copy."""
        from lowdim.retrieval import kernels

        start, step = self._grid
        if self.bits == 8:
            return kernels.scanned(kernels.plain, self.dims, queries, shift, start, step)
        moved = None if shift is None else _halves(shift)
        given = (_halves(queries), moved, _halves(start), _halves(step))
        return kernels.scanned(kernels.nibbles, self.bytes_per_vector, *given)

    @property
    def _grid(self) -> tuple[Tensor, Tensor]:
        """(m,) number c stands for start + c step."""
        step = self.width / self._top()
        return self.low + step / 2, step


def _halves(x: Tensor) -> Tensor:
    """(..., m) with what is in low halves of bytes first, then what is in high ones, or 0."""
    even, odd = x[..., 0::2], x[..., 1::2]
    return torch.cat([even, pad(odd, (0, even.shape[-1] - odd.shape[-1]))], -1)


@method(
    "retrieval/int8",
    needs=coordinates(),
    paper="Max 1960",
    cost="1 byte a coordinate",
    oracle="faiss.ScalarQuantizer QT_8bit",
)
@dataclass(frozen=True, eq=False)
class Int8(ScalarCode):
    """What does rounding each coordinate to 256 equidistant values cost?

    Notes
    -----
    The range of each coordinate is the one of least squared error in the training rows, so rare
    far values are cut off rather than all others made coarse. Trust it nearly always: at a byte a
    coordinate, fewer coordinates are usually the better way to save more.
    """

    bits = 8


@method(
    "retrieval/int4",
    needs=coordinates(),
    paper="Max 1960",
    cost="half a byte a coordinate",
    oracle="faiss.ScalarQuantizer QT_4bit",
)
@dataclass(frozen=True, eq=False)
class Int4(ScalarCode):
    """What does rounding each coordinate to 16 equidistant values cost?

    Notes
    -----
    Two coordinates a byte, each on the grid of least squared error. Trust it where coordinates
    have like variances; after ``pca`` they have not, and ``bitsN`` deals the same bits out better.
    """

    bits = 4


@dataclass(frozen=True, eq=False)
class RotatedScalarCode(ScalarCode):
    """Grids for the coordinates of a random rotation.

    Attributes
    ----------
    seed : int
        Of the rotation, which is not stored.
    """

    seed: int

    @classmethod
    def fit(cls, z: Tensor, *, size: int | None = None, seed: int = 0) -> Self:
        """The grid of each rotated coordinate that has the least squared error."""
        turned = z @ random_rotation(z.shape[1], seed, z.device)
        low, step = fit_grid(turned, 2**cls.bits, seed)
        return cls(low, step * cls._top(), seed)

    @cached_property
    def rotation(self) -> Tensor:
        """(m, m) orthogonal: z @ rotation is coded."""
        return random_rotation(self.dims, self.seed, self.low.device)

    @cached_property
    def turned(self) -> ScalarCode:
        """The code of rotated coordinates."""
        return {8: Int8, 4: Int4}[self.bits](self.low, self.width)

    def encode(self, z: Tensor) -> Tensor:
        """(n, bytes) uint8 of the rotated coordinates."""
        return self.turned.encode(z @ self.rotation)

    def decode(self, codes: Tensor) -> Tensor:
        """(n, m) values of the grid, rotated back."""
        return self.turned.decode(codes) @ self.rotation.T

    def products(self, queries: Tensor, shift: Tensor | None = None) -> Scores:
        """As of every code, in the rotated coordinates: nothing is rotated back."""
        moved = None if shift is None else shift @ self.rotation
        return self.turned.products(queries @ self.rotation, moved)


@method(
    "retrieval/int8-rotated",
    needs=coordinates(),
    paper="Suresh, Yu, Kumar, McMahan 2017 (random rotation before a uniform grid)",
    arxiv="1611.00429",
    cost="1 byte a coordinate, m^2 a vector to rotate",
)
@dataclass(frozen=True, eq=False)
class Int8Rotated(RotatedScalarCode):
    """Does a random rotation before rounding to 256 values help?

    Notes
    -----
    It makes all coordinates of like variance and near Gaussian, which rids them of outliers.
    Trust it where a few coordinates are far larger than others, or have heavy tails, and no
    reduction has seen to that; elsewhere ``int8`` is as good and needs no product.
    """

    bits = 8


@method(
    "retrieval/int4-rotated",
    needs=coordinates(),
    paper="Suresh, Yu, Kumar, McMahan 2017 (random rotation before a uniform grid)",
    arxiv="1611.00429",
    cost="half a byte a coordinate, m^2 a vector to rotate",
)
@dataclass(frozen=True, eq=False)
class Int4Rotated(RotatedScalarCode):
    """Does a random rotation before rounding to 16 values help?

    Notes
    -----
    As ``int8-rotated``, where it matters more. Trust it where variances differ, as after ``pca``.
    """

    bits = 4
