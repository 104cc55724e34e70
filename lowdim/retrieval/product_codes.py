"""Product quantisers: coordinates cut into N runs, a byte for the nearest of 256 points in each.

Bytes and codebooks are laid out as ``faiss.ProductQuantizer`` of 8 bits a run lays them out, and
trained here: faiss is not needed.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from typing import Self

import torch
from torch import Tensor
from torch.nn.functional import embedding_bag

from lowdim.core.blocked import on_threads
from lowdim.core.random import choice
from lowdim.errors import InputError
from lowdim.registry import coordinates, method
from lowdim.retrieval.code import Code, compiles
from lowdim.retrieval.k_means import k_means, nearest
from lowdim.retrieval.scan import Scores

POINTS = 256
"""Points that a byte tells apart."""

TRAINED = 256 * POINTS
"""Rows, drawn at random, that codebooks are trained on: more gain nothing that can be measured."""

TURNS = 10
"""Times that an optimised rotation and its codebooks are fitted to each other."""

TABLED = 32
"""Most queries for which looking products up is faster than multiplying."""


@method(
    "retrieval/pq",
    needs=coordinates(),
    paper="Jegou, Douze, Schmid 2011",
    cost="25 * 256 n m to fit, 256 m a vector, for m coordinates",
    oracle="faiss.ProductQuantizer",
)
@dataclass(frozen=True, eq=False)
class ProductCode(Code):
    """What do N bytes hold, each of its own run of the coordinates?

    Attributes
    ----------
    codebooks : Tensor
        (N, 256, width) points of each run of coordinates. Runs are as long as each other, or, where
        N does not divide m, the first m mod N of them are longer by one; the others' last column
        is 0.
    m : int
        Coordinates.

    Notes
    -----
    Trust it where the runs are alike: after ``pca`` the first run has most of the variance and no
    more bytes than the last, which ``opq`` mends. 1,024 m bytes are stored once.
    """

    sized = True
    codebooks: Tensor
    m: int

    @classmethod
    def fit(cls, z: Tensor, *, size: int | None = None, seed: int = 0) -> Self:
        """k-means in each run of coordinates."""
        check_rows(z)
        z = drawn(z, TRAINED, seed)
        return cls(_train(_cut(z, check_size(size, z.shape[1])), seed), z.shape[1])

    @property
    def dims(self) -> int:
        """m, the coordinates that it was fitted to."""
        return self.m

    @property
    def bytes_per_vector(self) -> int:
        """N, one for each run."""
        return len(self.codebooks)

    def encode(self, z: Tensor) -> Tensor:
        """(n, N) number of the nearest point in each run."""
        runs = _cut(z, self.bytes_per_vector)  # (N, n, width)

        def of_run(i: int) -> Tensor:
            return nearest(runs[i], self.codebooks[i])[0].byte()

        return torch.stack(list(on_threads(of_run, range(len(runs)), z.device)), 1)

    def decode(self, codes: Tensor) -> Tensor:
        """(n, m) the points, end to end."""
        points = self.codebooks.flatten(0, 1)
        found = points.index_select(0, self._rows(codes).flatten()).view(len(codes), -1)
        if found.shape[1] == self.m:
            return found
        return found[:, filled(self.m, self.bytes_per_vector).flatten()]

    def products(self, queries: Tensor, shift: Tensor | None = None) -> Scores:
        """As of every code; for few queries from a table of their products with each point."""
        if len(queries) > TABLED:
            return super().products(queries, shift)
        table = self.codebooks @ _cut(queries, self.bytes_per_vector).mT  # (N, 256, queries)
        if shift is not None:
            moved = self.codebooks + _cut(shift[None], self.bytes_per_vector)
            table = torch.cat([table, moved.square().sum(2, keepdim=True)], 2)
        if compiles(queries):
            from lowdim.retrieval import kernels

            return kernels.summed(table.movedim(2, 0))
        flat = table.flatten(0, 1)

        def of_codes(codes: Tensor) -> Tensor:
            return embedding_bag(self._rows(codes), flat, mode="sum").T

        return of_codes

    def _rows(self, codes: Tensor) -> Tensor:
        """(n, N) row of each point among those of all runs."""
        start = torch.arange(0, POINTS * len(self.codebooks), POINTS, device=codes.device)
        return codes.int() + start.int()


@method(
    "retrieval/opq",
    needs=coordinates(),
    paper="Ge, He, Ke, Sun 2013",
    cost="25 * 256 n m + 10 n m^2 to fit, m^2 + 256 m a vector",
    oracle="faiss.OPQMatrix",
)
@dataclass(frozen=True, eq=False)
class RotatedProductCode(ProductCode):
    """What do N bytes hold, each of its own run of coordinates that are rotated for it?

    Attributes
    ----------
    rotation : Tensor
        (m, m) orthogonal: z @ rotation is coded.

    Notes
    -----
    Starts where the principal directions are dealt to the runs so that the products of their
    variances are alike (optimal for Gaussian rows), then fits rotation and codebooks to each other
    in turn. Trust it with ten times as many vectors as coordinates. 1,024 m + 4 m^2 bytes are
    stored once.
    """

    rotation: Tensor

    @classmethod
    def fit(cls, z: Tensor, *, size: int | None = None, seed: int = 0) -> Self:
        """Rotation and codebooks in turn."""
        check_rows(z)
        z = drawn(z, TRAINED, seed)
        n_runs = check_size(size, z.shape[1])
        rotation = _dealt(z, n_runs)
        codebooks = _train(_cut(z @ rotation, n_runs), seed, iterations=4)
        for _ in range(TURNS):
            code = ProductCode(codebooks, z.shape[1])
            turned = z @ rotation
            decoded = code.decode(code.encode(turned))
            u, _, vt = torch.linalg.svd(z.T @ decoded)  # Procrustes: nearest rotation z -> decoded
            rotation = u @ vt
            codebooks = _train(_cut(z @ rotation, n_runs), codebooks, iterations=1)
        codebooks = _train(_cut(z @ rotation, n_runs), codebooks, iterations=10)
        return cls(codebooks, z.shape[1], rotation)

    def encode(self, z: Tensor) -> Tensor:
        """(n, N) number of the nearest point in each run of the rotated coordinates."""
        return super().encode(z @ self.rotation)

    def decode(self, codes: Tensor) -> Tensor:
        """(n, m) the points, end to end and rotated back."""
        return super().decode(codes) @ self.rotation.T

    def products(self, queries: Tensor, shift: Tensor | None = None) -> Scores:
        """As of every code, in the rotated coordinates."""
        moved = None if shift is None else shift @ self.rotation
        return ProductCode(self.codebooks, self.m).products(queries @ self.rotation, moved)


def check_size(size: int | None, most: int) -> int:
    """N, or raise where ``most`` coordinates can't be coded by as many bytes."""
    if size is None or not 1 <= size <= most:
        raise InputError(f"{size} bytes a vector: give 1 to {most}, a run of coordinates each")
    return size


@lru_cache(64)
def filled(m: int, n_runs: int) -> Tensor:
    """(N, width) bool: where the runs of m coordinates have one."""
    short, longer = divmod(m, n_runs)
    lengths = torch.full((n_runs, 1), short) + (torch.arange(n_runs)[:, None] < longer)
    return torch.arange(short + (longer > 0)) < lengths


def _cut(z: Tensor, n_runs: int) -> Tensor:
    """(N, n, width) runs of (n, m) coordinates, zeros where a run is shorter."""
    full = filled(z.shape[1], n_runs)
    runs = z.new_zeros(len(z), *full.shape)
    runs[:, full] = z
    return runs.transpose(0, 1).contiguous()


def check_rows(z: Tensor) -> None:
    """Raise where there are fewer rows than points."""
    if len(z) < POINTS:
        raise InputError(f"{len(z)} vectors to fit to: codebooks of {POINTS} points need as many")


def drawn(z: Tensor, most: int, seed: int) -> Tensor:
    """The rows, or so many of them at random."""
    return z[choice(len(z), most, seed)] if len(z) > most else z


def _train(runs: Tensor, start: Tensor | int, iterations: int = 25) -> Tensor:
    """(N, 256, width) centroids of each run, from others or from rows drawn with a seed."""

    def of_run(i: int) -> Tensor:
        if isinstance(start, Tensor):
            return k_means(runs[i], start[i], iterations=iterations)
        return k_means(runs[i], POINTS, iterations=iterations, seed=start, stream=i)

    return torch.stack(list(on_threads(of_run, range(len(runs)), runs.device)))


def _dealt(z: Tensor, n_runs: int) -> Tensor:
    """(m, m) principal directions, each dealt to the run with the least product of variances."""
    values, vectors = torch.linalg.eigh(torch.cov(z.double().T).reshape(z.shape[1], -1))
    room = filled(z.shape[1], n_runs).sum(1)  # directions that a run still takes
    product = torch.zeros(n_runs, dtype=torch.float64)
    runs: list[list[int]] = [[] for _ in range(n_runs)]
    logs = (values / values.max().clamp_min(1e-300)).clamp_min(1e-12).log()
    logs -= logs.min()  # none below 0, or a run would be filled for having small ones
    for i in reversed(range(len(values))):  # the largest first
        run = int(torch.where(room > 0, product, torch.inf).argmin())
        runs[run].append(i)
        product[run] += logs[i]
        room[run] -= 1
    return vectors[:, [i for run in runs for i in run]].to(z.dtype)
