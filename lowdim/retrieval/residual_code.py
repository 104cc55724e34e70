"""Residual quantiser: each byte names one of 256 learned points of what the bytes before left over.

Bytes and codebooks are laid out as ``faiss.ResidualQuantizer`` of 8 bits a level lays them out, and
trained here: faiss is not needed.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Self

import torch
from torch import Tensor
from torch.nn.functional import embedding_bag

from lowdim.core.blocked import on_threads
from lowdim.errors import InputError
from lowdim.registry import coordinates, method
from lowdim.retrieval.code import Code
from lowdim.retrieval.k_means import k_means
from lowdim.retrieval.product_codes import POINTS, check_rows, drawn

BEAM = 5
"""Partial codes that are kept for each row from level to level."""

PER_POINT = 64
"""Rows for each point, drawn at random, that a level is trained on."""

ROWS = 128
"""Rows coded at once: their products with a level's points stay in the cache."""


@method(
    "retrieval/rq",
    needs=coordinates(),
    paper="Chen, Guan, Wang 2010",
    cost="25 * 256 n m a byte to fit, 5 * 256 m a byte and vector, for m coordinates",
    oracle="faiss.ResidualQuantizer",
)
@dataclass(frozen=True, eq=False)
class ResidualCode(Code):
    """What do N bytes hold, each of what all bytes before it left over?

    Attributes
    ----------
    codebooks : Tensor
        (N, 256, m) points of each level.

    Notes
    -----
    Coding keeps the 5 best codes of each row from level to level. Trust it for few bytes: 1,024 m
    bytes a level are stored once, coding costs 5 m times as much as that of ``pq`` with one
    coordinate a byte, and deep levels fit the noise of the rows they were trained on.
    """

    sized = True
    codebooks: Tensor

    @classmethod
    def fit(cls, z: Tensor, *, size: int | None = None, seed: int = 0) -> Self:
        """k-means of what the levels before leave over, level by level."""
        if size is None or size < 1:
            raise InputError(f"{size} bytes a vector: give 1 or more")
        check_rows(z)
        z = drawn(z, PER_POINT * POINTS, seed)
        return cls(residual_k_means(z, size, POINTS, beam=BEAM, seed=seed))

    @property
    def dims(self) -> int:
        """m, the coordinates that it was fitted to."""
        return self.codebooks.shape[2]

    @property
    def bytes_per_vector(self) -> int:
        """N, one for each level."""
        return len(self.codebooks)

    def encode(self, z: Tensor) -> Tensor:
        """(n, N) the points whose sum is nearest, of those that the beam reaches."""
        return residual_ids(z, self.codebooks, beam=BEAM).byte()

    def decode(self, codes: Tensor) -> Tensor:
        """(n, m) the sum of the points."""
        return embedding_bag(self._rows(codes), self.codebooks.flatten(0, 1), mode="sum")

    def _rows(self, codes: Tensor) -> Tensor:
        start = torch.arange(0, POINTS * len(self.codebooks), POINTS, device=codes.device)
        return codes.int() + start.int()


@dataclass(frozen=True)
class Beam:
    """The best partial codes of some rows, best first."""

    rest: Tensor  # (n, beam, m) what they leave over
    ids: Tensor  # (n, beam, levels so far)

    @classmethod
    def of(cls, z: Tensor) -> Beam:
        """Before the first level."""
        return cls(z[:, None], torch.empty(len(z), 1, 0, dtype=torch.int64, device=z.device))

    def extended(self, points: Tensor, width: int) -> Beam:
        """By a level of (k, m) points: the ``width`` best of all continuations."""
        n, beam, m = self.rest.shape
        rest = self.rest.flatten(0, 1)  # (n beam, m)
        gap = torch.addmm(points.square().sum(1) / 2, rest, points.T, alpha=-1)
        gap += rest.square().sum(1, keepdim=True) / 2  # half of |rest - point|^2
        order = gap.view(n, -1).topk(min(width, beam * len(points)), largest=False).indices
        parent, point = order // len(points), order % len(points)  # (n, width)
        kept = self.rest.gather(1, parent[:, :, None].expand(-1, -1, m)) - points[point]
        ids = self.ids.gather(1, parent[:, :, None].expand(-1, -1, self.ids.shape[2]))
        return Beam(kept, torch.cat([ids, point[:, :, None]], 2))


def residual_k_means(z: Tensor, levels: int, k: int, *, beam: int, seed: int) -> Tensor:
    """(levels, k, m) points, each level trained on what the beam of codes before it leaves over.

    On all of the beam, not its best alone: that is more to train on, so new rows are coded better.
    """
    state = [Beam.of(rows) for rows in z.split(ROWS)]
    codebooks = []
    for level in range(levels):
        rest = torch.cat([b.rest.flatten(0, 1) for b in state])  # (n beam, m)
        points = k_means(drawn(rest, max(len(z), PER_POINT * k), seed), k, seed=seed, stream=level)
        codebooks.append(points)
        state = [b.extended(points, beam) for b in state]
    return torch.stack(codebooks)


def residual_ids(z: Tensor, codebooks: Tensor, *, beam: int) -> Tensor:
    """(n, levels) number of the point at each level, of (n, m) rows."""

    def of_rows(rows: Tensor) -> Tensor:
        state = Beam.of(rows)
        for points in codebooks:
            state = state.extended(points, beam)
        return state.ids[:, 0]

    return torch.cat(list(on_threads(of_rows, z.split(ROWS), z.device)))
