"""Number formats: each coordinate rounded to 32, 16 or 8 bits, with next to nothing to fit."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import ClassVar, Self

import torch
from torch import Tensor

from lowdim.errors import InputError
from lowdim.registry import coordinates, method
from lowdim.retrieval.code import Code
from lowdim.retrieval.packing import in_blocks


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

    def encode(self, z: Tensor) -> Tensor:
        """(n, bytes) uint8 of (n, m) coordinates."""
        largest = torch.finfo(self.dtype).max
        return in_blocks(
            z, self.bytes_per_vector,
            lambda rows: rows.clamp(-largest, largest).to(self.dtype).view(torch.uint8),
        )  # fmt: skip

    def decode(self, codes: Tensor) -> Tensor:
        """(n, m) float32, exactly what the format holds."""
        return codes.contiguous().view(self.dtype).float()


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
    Trust it for embeddings of any kind: on MiniLM it lost no neighbour in 5,000.
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

    def encode(self, z: Tensor) -> Tensor:
        """(n, m) uint8 of (n, m) coordinates."""
        return super().encode(z * 2.0**self.exponent)

    def decode(self, codes: Tensor) -> Tensor:
        """(n, m) float32, exactly what the format holds, over the scale."""
        every = torch.arange(256, dtype=torch.uint8, device=codes.device)
        values = super().decode(every) * 2.0**-self.exponent  # looked up: faster than converted
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
    Unscaled, coordinates of unit vectors in 1,024 dimensions reach into the numbers that lose
    precision (below 2^-6), and the squared error is 15% larger. Trust it where coordinates span
    orders of magnitude; ``int8`` has the same bytes and, on MiniLM, a ninth of its squared error.
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
