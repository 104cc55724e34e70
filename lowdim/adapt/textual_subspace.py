"""Textual subspace: learn a word as a combination of the words next to it (Du et al. 2024).

A row of an embedding table is learned as v = V^T w, where the r rows of V are u, the word it
starts from, and its nearest neighbours in the vocabulary. w starts one-hot at u, so v starts at u
itself and never leaves the span of real words: a step on w of -eta V g moves v by -eta V^T V g,
the gradient g times a fixed matrix of rank r.

Here w = one-hot + c, and c trains, so that a start at the row that is there changes no bit.
Neighbours that lie in the span of nearer ones are passed over, so r numbers give r directions.

Cost: at the start one nearest-neighbour search a word, which holds a copy of the table; then r
numbers and r + 1 stored rows a word.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor, nn
from torch.nn.functional import linear

from lowdim.adapt.adapter import ProductAdapter
from lowdim.adapt.method import Draws, Method, check_size, zeros
from lowdim.adapt.targets import Target
from lowdim.core.neighbors import Neighbors
from lowdim.core.points import check_finite, unit_rows
from lowdim.errors import InputError
from lowdim.registry import adaptation, method

METRICS = ("cosine", "euclidean")
INDEPENDENT = 1e-6
"""Least share of a row's length outside the span of nearer ones that counts as a new direction."""


@method(
    "adapt/textual-subspace",
    needs=adaptation(),
    paper="Du, Cheng, Qian, Wei, Xu and Ji 2024",
    arxiv="2407.00608",
    cost="one nearest-neighbour search in the vocabulary, then r numbers a word",
)
@dataclass(frozen=True)
class TextualSubspace(Method):
    """Is a new word a combination of words that the model knows?

    Parameters
    ----------
    tokens : sequence of int
        Rows of the embedding table that are learned, e.g. one that was added for a new word.
    init : sequence of int, optional
        The word that each starts from, u; by default the row that is there.
    rank : int
        r, directions of a word's subspace: numbers that train for it.
    neighbors : int, optional
        M, how many of the nearest words are looked at for r directions; 2 r by default.
    metric : str
        What near means: ``cosine`` or ``euclidean``.

    Notes
    -----
    Trust it where a word should keep a meaning that other text can build on, from few examples.
    Where fit alone counts, a larger ``rank`` does better; at the width of the table any row can be
    reached. Words that are learned are no neighbours of each other.
    """

    kinds: ClassVar[frozenset[str]] = frozenset({"embedding"})

    tokens: Sequence[int] = ()
    init: Sequence[int] | None = None
    rank: int = 16
    neighbors: int | None = None
    metric: str = "cosine"

    @property
    def starts_at_base(self) -> bool:
        """With ``init`` the rows start elsewhere."""
        return self.init is None

    def __post_init__(self) -> None:
        if not isinstance(self.tokens, Sequence):
            raise InputError(f"tokens={self.tokens!r}: give a list of rows")
        object.__setattr__(self, "tokens", tuple(self.tokens))
        object.__setattr__(self, "init", None if self.init is None else tuple(self.init))

    def adapter(self, target: Target, draws: Draws) -> TextualSubspaceAdapter:
        """Without neighbours until it is started."""
        n_rows, dim = target.shape
        check_size("rank", self.rank, dim)
        starts = self.tokens if self.init is None else self.init
        if self.metric not in METRICS:
            raise InputError(f"metric={self.metric!r}: choose from {', '.join(METRICS)}")
        if not self.tokens or len(set(self.tokens)) < len(self.tokens):
            raise InputError(f"tokens={list(self.tokens)}: name the rows to learn, each once")
        if len(starts) != len(self.tokens):
            raise InputError(f"init names {len(starts)} words for {len(self.tokens)} tokens")
        for row in (*self.tokens, *starts):
            if isinstance(row, bool) or not isinstance(row, int) or not 0 <= row < n_rows:
                raise InputError(f"{target.name} has no row {row!r}: rows are 0 to {n_rows - 1}")
        neighbors = 2 * self.rank if self.neighbors is None else self.neighbors
        check_size("neighbors", neighbors)
        return TextualSubspaceAdapter(
            target.shape, self.tokens, starts, self.rank, neighbors, self.metric
        )

    def count(self, shapes: Sequence[tuple[int, ...]]) -> int:
        """As many as ``rank`` for each word."""
        return len(shapes) * len(self.tokens) * self.rank


class TextualSubspaceAdapter(ProductAdapter):
    """V^T (one-hot + c) less what stands there, in the rows that are learned.

    Attributes
    ----------
    change : Parameter
        (tokens, r) c.
    basis : Tensor
        (tokens, r, dim) V, the first row u.
    offset : Tensor
        (tokens, dim) u less the row that stands there.
    words : Tensor
        (tokens, r) rows of the table that are the basis.
    """

    basis: Tensor
    offset: Tensor
    words: Tensor
    slot: Tensor

    def __init__(
        self,
        shape: tuple[int, ...],
        tokens: Sequence[int],
        starts: Sequence[int],
        rank: int,
        neighbors: int,
        metric: str,
    ) -> None:
        super().__init__(shape)
        n_rows, dim = shape
        self.tokens, self.starts = list(tokens), list(starts)
        self.neighbors, self.metric = neighbors, metric
        self.change: nn.Parameter = zeros(len(tokens), rank)
        self.register_buffer("basis", torch.zeros(len(tokens), rank, dim))
        self.register_buffer("offset", torch.zeros(len(tokens), dim))
        self.register_buffer("words", torch.zeros(len(tokens), rank, dtype=torch.int64))
        slot = torch.zeros(n_rows, dtype=torch.int64)  # row of the small table; 0 is no update
        slot[self.tokens] = torch.arange(1, len(tokens) + 1)
        self.register_buffer("slot", slot, persistent=False)

    def start(self, weight: Tensor, gradient: Tensor | None) -> None:
        """Find the neighbours of each word it starts from."""
        table = weight.to(self.change)
        check_finite(table, "the embedding table")
        self.words = torch.stack([self._words(table, row) for row in self.starts])
        self.basis = table[self.words]
        self.offset = table[self.starts] - table[self.tokens]

    def _words(self, table: Tensor, start: int) -> Tensor:
        """(r,) the word itself, and the nearest that each add a direction."""
        known = table.any(1)  # padding rows are zero and mean nothing
        known[self.tokens] = False
        known[start] = False
        others = known.nonzero()[:, 0]
        points, query = table[others], table[start : start + 1]
        if self.metric == "cosine":
            points, query = unit_rows(points), unit_rows(query, f"the embedding of word {start}:")
        nearest = Neighbors.of_points(points, min(self.neighbors, len(others)), queries=query)
        words = torch.cat([others.new_tensor([start]), others[nearest.indices[0]]])
        rank = self.change.shape[1]
        chosen = new_directions(table[words].double(), rank)
        if len(chosen) < rank:
            raise InputError(
                f"word {start} and its {len(words) - 1} nearest span {len(chosen)} directions, and "
                f"rank={rank} is asked for: raise neighbors or lower the rank"
            )
        return words[chosen]

    @property
    def weights(self) -> Tensor:
        """(tokens, r) w, how much of each of ``words`` a learned word holds."""
        first = torch.zeros_like(self.change)
        first[:, 0] = 1
        return first + self.change

    def delta(self) -> Tensor:
        """Zero but for the rows that are learned."""
        return self._rows()[self.slot]

    def forward(self, x: Tensor) -> Tensor:
        """Products with the rows that are learned, zeros elsewhere."""
        return linear(x, self._rows())[..., self.slot]

    def rows(self, index: Tensor) -> Tensor:
        """What the words that are learned have moved by."""
        return self._rows()[self.slot[index]]

    def _rows(self) -> Tensor:
        """(1 + tokens, dim) a row of zeros, and the update of each word."""
        moved = torch.einsum("tr,trd->td", self.change, self.basis) + self.offset
        return torch.cat([torch.zeros_like(moved[:1]), moved])


def new_directions(rows: Tensor, rank: int) -> Tensor:
    """Which rows, taken in order, are not in the span of those before? At most ``rank`` of them."""
    basis = rows.new_zeros(rank, rows.shape[1])
    chosen: list[int] = []
    for i, row in enumerate(rows):
        rest = row
        for _ in range(2):  # Gram-Schmidt, twice
            rest = rest - basis.T @ (basis @ rest)
        length = torch.linalg.vector_norm(rest)
        if float(length) > INDEPENDENT * float(torch.linalg.vector_norm(row)):
            basis[len(chosen)] = rest / length
            chosen.append(i)
        if len(chosen) == rank:
            break
    return torch.tensor(chosen, device=rows.device)
