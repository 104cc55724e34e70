"""MoS: adapters of many weights, put together from the pieces of two pools (Wang et al. 2025).

As in LoRA D = B A, but the rows of A (r, in) and the columns of B (out, r) of every weight are
each l shards laid end to end, shards that are taken from a pool which all weights of that width
share. Which shards go where is drawn once and never trained. Four things keep the weights
apart: each takes a subset of the pool; A and B are drawn independently; a row is made of several
shards; and part of the pool belongs to one weight alone.

The paper draws freely; here the shared shards are drawn least used first, ties at random, so that
none is left out and none falls twice into one weight while there are enough. Pools of B start at
zero, pools of A as in LoRA.

Cost: that of LoRA of the same rank, and in the backward pass one gradient of the size of the pool
for each weight: beyond some hundred weights of one width this begins to count.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn.functional import embedding

from lowdim.adapt.adapter import Adapter, LowRankAdapter, matrix_shape
from lowdim.adapt.method import Draws, Method, check_size, zeros
from lowdim.adapt.targets import Target
from lowdim.core import random
from lowdim.errors import InputError
from lowdim.registry import adaptation, method


@method(
    "adapt/mos",
    needs=adaptation(),
    paper="Wang, Chen, Chen, Dong, Xue, Jiang, Kong and Wu 2025",
    arxiv="2410.00938",
    cost="2 n times r (in + out), and a gradient of the size of the pool for each weight",
    oracle="peft.LoraModel",
)
@dataclass(frozen=True)
class MoS(Method):
    """Can many weights share the numbers of one LoRA and still have a higher rank each?

    Parameters
    ----------
    rank : int
        What trains: as many numbers as LoRA of this rank.
    times : int
        Rank of each update over ``rank``: each shared number is used about so many times.
    shards : int
        l, pieces that each row of A and column of B is cut into; divides every width.
    private : float
        Share of the numbers that belong to one weight alone, in [0, 1]; 1 is LoRA itself, and
        then ``times`` is 1.

    Notes
    -----
    Trust it where many weights of one width are adapted at a tiny budget. With few weights there
    is little to share: compare it with LoRA at the same count, and see :func:`stacked_rank` for
    what the sharing costs.
    """

    rank: int = 2
    times: int = 4
    shards: int = 4
    private: float = 0.5

    def adapter(self, target: Target, draws: Draws) -> Adapter:
        """Of one weight alone, whose pools are its own."""
        return self.build([target], draws.seed)[0]

    def build(self, targets: Sequence[Target], seed: int) -> list[Adapter]:
        """Adapters with a pool for each width that they read from, and for each they write to."""
        for name in ("rank", "times", "shards"):
            check_size(name, getattr(self, name))
        if not 0 <= self.private <= 1:
            raise InputError(f"private={self.private}: give a share in [0, 1]")
        if self._n_private == self.rank * self.shards and self.times > 1:
            raise InputError(f"private={self.private} shares nothing: then times has to be 1")
        for target in targets:
            most = min(matrix_shape(target.shape))
            check_size(f"times x rank at {target.name}", self.times * self.rank, most)
        reads = self._taken(targets, 1, "A", seed)
        writes = self._taken(targets, 0, "B", seed)
        return [
            MoSAdapter(target.shape, *a, *b)
            for target, a, b in zip(targets, reads, writes, strict=True)
        ]

    def count(self, shapes: Sequence[tuple[int, ...]]) -> int:
        """That of LoRA: r (in + out) each; it stops growing at the largest rank that they allow."""
        sides = [matrix_shape(shape) for shape in shapes]
        rank = min(self.rank, max(1, min(map(min, sides)) // self.times))
        return sum(rank * sum(side) for side in sides)

    @property
    def _n_private(self) -> int:
        """Private shards of a weight on one side."""
        return int(self.private * self.rank * self.shards)

    def _taken(
        self, targets: Sequence[Target], axis: int, side: str, seed: int
    ) -> list[tuple[nn.Parameter, Tensor]]:
        """The pool, and the shards (times r, l) that each target takes from it."""
        widths: dict[int, list[Target]] = {}
        for target in targets:
            widths.setdefault(matrix_shape(target.shape)[axis], []).append(target)
        taken: dict[str, tuple[nn.Parameter, Tensor]] = {}
        for width, users in widths.items():
            if width % self.shards:
                fits = ", ".join(str(n) for n in range(1, 17) if width % n == 0)
                raise InputError(
                    f"width {width} of {users[0].name} does not cut into {self.shards} shards: "
                    f"choose shards from {fits}"
                )
            n = self.rank * self.shards * len(users)  # shards in the pool
            shape = (n, width // self.shards)
            draws = Draws(seed, users[0].name)
            pool = (
                nn.Parameter(draws.uniform(f"pool {side}", shape, width**-0.5))
                if side == "A"
                else zeros(*shape)
            )
            index = self._drawn(users, side, seed)
            taken |= {user.name: (pool, rows) for user, rows in zip(users, index, strict=True)}
        return [taken[target.name] for target in targets]

    def _drawn(self, users: Sequence[Target], side: str, seed: int) -> list[Tensor]:
        """(times r, l) shards of each: first its own, then shared ones, the least used first."""
        own = self._n_private
        first = own * len(users)
        used = torch.zeros((self.rank * self.shards - own) * len(users), dtype=torch.float64)
        index = []
        for i, user in enumerate(users):
            draws = Draws(seed, user.name)
            shards = [torch.arange(i * own, (i + 1) * own)]
            need = self.times * self.rank * self.shards - own
            while need:
                ties = random.uniform(len(used), seed, draws.stream(f"{side} {len(shards)}"))
                chosen = (used + ties).argsort(stable=True)[:need]
                used[chosen] += 1
                shards.append(first + chosen)
                need -= len(chosen)
            index.append(torch.cat(shards).view(-1, self.shards))
        return index


class MoSAdapter(LowRankAdapter):
    """B A, their rows and columns put together from shards.

    Attributes
    ----------
    pool_a, pool_b : Parameter
        (n, in / l) and (n, out / l) shards, shared with the other adapters of that width.
    index_a, index_b : Tensor
        (r, l) which shards each row of A, and each column of B, is made of.
    """

    index_a: Tensor
    index_b: Tensor

    def __init__(
        self,
        shape: tuple[int, ...],
        pool_a: nn.Parameter,
        index_a: Tensor,
        pool_b: nn.Parameter,
        index_b: Tensor,
    ) -> None:
        super().__init__(shape)
        self.pool_a, self.pool_b = pool_a, pool_b
        self.register_buffer("index_a", index_a, persistent=False)
        self.register_buffer("index_b", index_b, persistent=False)

    def factors(self) -> tuple[Tensor, Tensor]:
        """Columns of B and rows of A, shards end to end."""
        b = embedding(self.index_b, self.pool_b).flatten(1)  # (r, l, out / l) to (r, out)
        return b.T, embedding(self.index_a, self.pool_a).flatten(1)


class StackedRank(NamedTuple):
    """Ranks of several updates together.

    Attributes
    ----------
    reads : int
        Directions of the input space that any of them reads: rank of all laid one below another.
    writes : int
        Directions of the output space that any of them writes to: rank of all side by side.
    alone : int
        Sum of the ranks of each: what updates that share nothing reach, where the widths allow.
    """

    reads: int
    writes: int
    alone: int


@torch.no_grad()
def stacked_rank(adapters: Sequence[Adapter]) -> StackedRank:
    """How many directions do these updates use together: what does sharing cost?

    Parameters
    ----------
    adapters : sequence of Adapter
        Of weights of one shape, with low-rank factors, trained: at the start updates are zero.

    Raises
    ------
    InputError
        None, other shapes, or an update without factors.

    Notes
    -----
    The updates are never formed: of D_i = B_i A_i with B_i = Q R, the rows of R A_i span the same.
    """
    found = [adapter.factors() for adapter in adapters]
    if not found or len({matrix_shape(adapter.shape) for adapter in adapters}) > 1:
        raise InputError("give at least one adapter, and those of one shape at a time")
    rows, columns, alone = [], [], 0
    for pair in found:
        if pair is None:
            raise InputError("an update without low-rank factors: stack those of low rank")
        b, a = (x.double() for x in pair)
        rows.append(torch.linalg.qr(b).R @ a)  # (r, in)
        columns.append(b @ torch.linalg.qr(a.T).R.T)  # (out, r)
        alone += len(a)
    reads = int(torch.linalg.matrix_rank(torch.cat(rows)))
    writes = int(torch.linalg.matrix_rank(torch.cat(columns, 1)))
    return StackedRank(reads, writes, alone)
