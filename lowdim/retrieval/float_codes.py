"""Number formats: each coordinate rounded to 32, 16 or 8 bits, with next to nothing to fit."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import ClassVar, Self

import numpy as np
import torch
from torch import Tensor

from lowdim.errors import InputError
from lowdim.registry import coordinates, method
from lowdim.retrieval.code import Code, compiles
from lowdim.retrieval.packing import in_blocks
from lowdim.retrieval.scan import Scores

READ = {
    torch.float32: ("plain", torch.float32, (), 1.0),
    torch.float16: ("plain", torch.uint16, (), 1.0),
    torch.bfloat16: ("plain", torch.int16, (), 1.0),
    torch.float8_e5m2: ("quarters", torch.uint8, (8,), 1.0),
    torch.float8_e4m3fn: ("quarters", torch.uint8, (7,), 2.0**8),
}
"""Kernel that reads a format, as what, given what, and what its numbers are multiplied with."""


@dataclass(frozen=True, eq=False)
class FloatCode(Code):
    """Coordinates as numbers of another format; those beyond its largest become the largest."""

    dtype: ClassVar[torch.dtype]
    m: int

    @classmethod
    def fit(cls, z: Tensor, *, size: int | None = None, seed: int = 0) -> Self:
        """Nothing but the number of coordinates."""
        return cls(z.shape[1])

    @property
    def dims(self) -> int:
        """m, the coordinates that it was fitted to."""
        return self.m

    @property
    def bytes_per_vector(self) -> int:
        """Bytes of the format times m."""
        return self.m * self.dtype.itemsize

    @property
    def scale(self) -> float:
        """Power of two that coordinates are multiplied with before they are rounded."""
        return 1.0

    def encode(self, z: Tensor) -> Tensor:
        """(n, bytes) uint8 of (n, m) coordinates."""
        limits = torch.finfo(self.dtype)
        if compiles(z) and self.dtype == torch.bfloat16:
            from lowdim.retrieval import kernels

            given = (kernels.to_bfloat16, z, self.bytes_per_vector, limits.max)
            return kernels.coded(*given, dtype=np.uint16)
        if compiles(z) and limits.max < 2.0**100:
            from lowdim.retrieval import kernels

            return kernels.coded(
                kernels.to_floats, z, self.bytes_per_vector, self.scale, limits.max,
                limits.smallest_normal, round(-math.log2(limits.eps)),
                dtype=np.uint16 if self.dtype.itemsize == 2 else np.uint8,
            )  # fmt: skip

        def encode(rows: Tensor) -> Tensor:
            near = (rows * self.scale).clamp_(limits.min, limits.max)
            return near.to(self.dtype).view(torch.uint8)

        return in_blocks(z, self.bytes_per_vector, encode)

    def decode(self, codes: Tensor) -> Tensor:
        """(n, m) float32, exactly what the format holds, over the scale."""
        return codes.contiguous().view(self.dtype).float()

    def one_pass(self, queries: Tensor, shift: Tensor | None) -> Scores:
        """As of every code; formats that are read as they are, are not decoded first."""
        if self.dtype not in READ:
            return super().one_pass(queries, shift)
        from lowdim.retrieval import kernels

        name, form, given, unit = READ[self.dtype]
        start = queries.new_zeros(self.m)
        grid, kernel = (start, start + unit / self.scale), getattr(kernels, name)
        products = kernels.scanned(kernel, self.m, queries, shift, *grid, *given)
        return lambda codes: products(codes.contiguous().view(form))


@method("retrieval/float32", needs=coordinates(), paper="IEEE 754", cost="4 bytes a coordinate")
@dataclass(frozen=True, eq=False)
class Float32(FloatCode):
    """What does a reduction alone cost?

    Notes
    -----
    Trust it to lose nothing: it is what the other codes are compared with.
    """

    dtype = torch.float32


@method("retrieval/float16", needs=coordinates(), paper="IEEE 754", cost="2 bytes a coordinate")
@dataclass(frozen=True, eq=False)
class Float16(FloatCode):
    """What does half precision cost, 11 bits of it, largest 65,504?

    Notes
    -----
    Trust it for embeddings of any kind: its rounding is far below what separates neighbours.
    """

    dtype = torch.float16


@method(
    "retrieval/bfloat16",
    needs=coordinates(),
    paper="Kalamkar et al. 2019",
    arxiv="1905.12322",
    cost="2 bytes a coordinate",
    oracle="ml_dtypes.bfloat16",
)
@dataclass(frozen=True, eq=False)
class BFloat16(FloatCode):
    """What does bfloat16 cost, 8 bits of precision and the range of float32?

    Notes
    -----
    Trust it for vectors whose lengths span many orders of magnitude; embeddings do not, and
    ``float16`` has 8 times finer values for the same bytes.
    """

    dtype = torch.bfloat16


@dataclass(frozen=True, eq=False)
class Float8Code(FloatCode):
    """Coordinates times a power of two as numbers of 8 bits.

    Attributes
    ----------
    exponent : int
        Of the scale: the largest for which the largest training value fits the format.
    """

    exponent: int

    @classmethod
    def fit(cls, z: Tensor, *, size: int | None = None, seed: int = 0) -> Self:
        """The scale that brings the largest value just below the largest of the format."""
        if len(z) == 0:
            raise InputError("a code is fitted to no vectors at all: give at least one")
        most = float(z.abs().max())
        room = torch.finfo(cls.dtype).max / most if most > 0 else 1.0
        return cls(z.shape[1], min(max(math.frexp(room)[1] - 1, -100), 100))  # 2^e <= room

    @property
    def scale(self) -> float:
        """2^exponent."""
        return 2.0**self.exponent

    def decode(self, codes: Tensor) -> Tensor:
        """(n, m) float32, exactly what the format holds, over the scale."""
        every = torch.arange(256, dtype=torch.uint8, device=codes.device)
        values = super().decode(every) / self.scale  # looked up: faster than converted
        return values.index_select(0, codes.flatten().int()).view(codes.shape)


@method(
    "retrieval/float8",
    needs=coordinates(),
    paper="Micikevicius et al. 2022, E4M3",
    arxiv="2209.05433",
    cost="1 byte a coordinate",
    oracle="ml_dtypes.float8_e4m3fn",
)
@dataclass(frozen=True, eq=False)
class Float8(Float8Code):
    """What does a float of 8 bits cost, 4 of them precision, 2^18 from least to largest?

    Notes
    -----
    Unscaled, coordinates of unit vectors in 1,024 dimensions would reach into the numbers that lose
    precision (below 2^-6). Trust it where coordinates span orders of magnitude; elsewhere ``int8``
    has far less squared error in the same bytes.
    """

    dtype = torch.float8_e4m3fn


@method(
    "retrieval/float8-e5m2",
    needs=coordinates(),
    paper="Micikevicius et al. 2022, E5M2",
    arxiv="2209.05433",
    cost="1 byte a coordinate",
    oracle="ml_dtypes.float8_e5m2",
)
@dataclass(frozen=True, eq=False)
class Float8E5M2(Float8Code):
    """What does a float of 8 bits cost, 3 of them precision, 2^32 from least to largest?

    Notes
    -----
    Twice the rounding error of ``float8``, for a range that embeddings do not have. Trust it to be
    read where nothing else is.
    """

    dtype = torch.float8_e5m2
