"""One bit a coordinate: on which side of the middle it lies, after a random rotation."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import Self

import torch
from torch import Tensor
from torch.nn.functional import pad

from lowdim.errors import InputError
from lowdim.registry import coordinates, method
from lowdim.retrieval.code import FEW, Code, compiles
from lowdim.retrieval.packing import in_blocks, pack, places, spread
from lowdim.retrieval.scalar_codes import random_rotation
from lowdim.retrieval.scan import LISTED, Scores, best, in_cache
from lowdim.retrieval.uniform_grid import fit_grid


@method(
    "retrieval/binary",
    needs=coordinates(),
    paper="Charikar 2002 (signs of random projections), Gordo et al. 2014 (queries not coded)",
    cost="1 bit a coordinate, m^2 a vector to rotate",
)
@dataclass(frozen=True, eq=False)
class BinaryCode(Code):
    """What is left of a vector when each coordinate is one bit?

    Attributes
    ----------
    low, high : Tensor
        (m,) what a bit of 0 and of 1 stands for: the two values of least squared error.
    seed : int
        Of the rotation, which is not stored.

    Notes
    -----
    The rotation makes every bit weigh alike. Queries keep all their bits, so scores are finer than
    Hamming distances, and better; :func:`hamming_search` is for stores that have nothing else.
    Bits are packed as ``numpy.packbits(bitorder="little")`` and faiss's binary indexes have them.
    Trust it for a first stage that is rescored, and compare ``bitsN`` at the same bytes: after
    ``pca`` it was better at every size that was tried.
    """

    low: Tensor
    high: Tensor
    seed: int

    @classmethod
    def fit(cls, z: Tensor, *, size: int | None = None, seed: int = 0) -> Self:
        """The two values of each rotated coordinate that have the least squared error."""
        low, step = fit_grid(z @ random_rotation(z.shape[1], seed, z.device), 2, seed)
        return cls(low + step / 2, low + 1.5 * step, seed)

    @property
    def dims(self) -> int:
        """m, the coordinates that it was fitted to."""
        return len(self.low)

    @property
    def bytes_per_vector(self) -> int:
        """An eighth of m, rounded up."""
        return -(-self.dims // 8)

    @cached_property
    def rotation(self) -> Tensor:
        """(m, m) orthogonal: z @ rotation is coded."""
        return random_rotation(self.dims, self.seed, self.low.device)

    def encode(self, z: Tensor) -> Tensor:
        """(n, ceil(m / 8)) uint8; what is left of the last byte is 0."""
        middle = (self.low + self.high) / 2
        return in_blocks(
            z, self.bytes_per_vector, lambda rows: pack(rows @ self.rotation > middle, 1)
        )

    def decode(self, codes: Tensor) -> Tensor:
        """(n, m) one of two values each, rotated back."""
        step = (self.high - self.low) / places(self.dims, 1, self.low.device)
        turned = spread(codes, 1)[:, : self.dims].float().mul_(step).add_(self.low)
        return turned @ self.rotation.T

    def products(self, queries: Tensor, shift: Tensor | None = None) -> Scores:
        """As of every code; all are sums of what each bit is worth, so one product gives them."""
        asked = queries @ self.rotation
        constant, worth = asked @ self.low, asked * (self.high - self.low)
        if shift is not None:
            moved = shift @ self.rotation
            low, high = (self.low + moved).square(), (self.high + moved).square()
            constant = torch.cat([constant, low.sum()[None]])
            worth = torch.cat([worth, (high - low)[None]])
        if len(queries) <= FEW and compiles(queries):
            from lowdim.retrieval import kernels

            sums = kernels.summed(_by_byte(worth))
            return lambda codes: sums(codes).add_(constant[:, None])
        worth /= places(self.dims, 1, worth.device)

        def of_rows(codes: Tensor) -> Tensor:
            bits = spread(codes, 1)[:, : self.dims].float()
            return torch.addmm(constant[:, None], worth, bits.T)

        return in_cache(of_rows, self.dims)


def _by_byte(worth: Tensor) -> Tensor:
    """(w, N, 256) what each byte is worth, of (w, m) worths of bits."""
    whole = pad(worth, (0, -worth.shape[1] % 8)).unflatten(1, (-1, 8))
    every = torch.arange(256, device=worth.device)[:, None] >> torch.arange(8)
    return whole @ (every & 1).to(worth).T


def hamming_search(codes: Tensor, queries: Tensor, k: int = 10) -> tuple[Tensor, Tensor]:
    """Which k codes differ from each query's code in the fewest bits?

    Parameters
    ----------
    codes : Tensor
        (n, bytes) uint8.
    queries : Tensor
        (m, bytes) uint8: the queries' own codes, ``codec.encode(queries)``.
    k : int
        Rows wanted for each.

    Returns
    -------
    ids, distances : Tensor
        (m, k) row numbers, and bits that differ, ascending; of equal distances the smaller row
        first.

    Notes
    -----
    Counts |a| + |b| - 2 a.b are products of bits, exact in float32, which a processor does faster
    than it counts bits here. 8 n m bytes multiply-adds.
    """
    for name, x in (("codes", codes), ("queries", queries)):
        if x.dtype != torch.uint8 or x.ndim != 2 or x.shape[1] != codes.shape[1]:
            raise InputError(
                f"{name} have shape {tuple(x.shape)} of {x.dtype}: give (n, bytes) uint8, of as "
                "many bytes as each other"
            )
    if not 1 <= k <= len(codes):
        raise InputError(f"k={k}: there are {len(codes)} rows to find")
    width = 8 * codes.shape[1]
    place = places(width, 1, codes.device)
    bits = spread(queries, 1) / place  # (m, width)
    asked, ones = (2 * bits - 1) / place, bits.sum(1)

    def scores(part: Tensor) -> Tensor:
        return torch.addmm(-ones[:, None], asked, spread(part, 1).float().T)

    block = max(512, LISTED // max(1, len(queries)))
    some = in_cache(scores, width)
    ids, found = best([codes], some, len(queries), k, block, codes.device)
    return ids, found.neg().long()
