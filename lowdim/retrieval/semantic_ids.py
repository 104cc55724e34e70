"""Semantic ids: a few codes an item, coarse to fine, so that a new item shares what it can.

Singh et al. 2023 (arXiv 2306.08121) learn them with an RQ-VAE on content embeddings; this is their
training-free form, residual k-means. An embedding table is then indexed by hashed pieces of the id
in place of a random row for each item.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass, fields
from itertools import pairwise
from typing import Any, Self

import torch
from torch import Tensor, nn
from torch.nn.functional import normalize

from lowdim.core.estimate import to_json
from lowdim.core.neighbors import Neighbors
from lowdim.core.points import as_points
from lowdim.core.random import choice, integers
from lowdim.errors import InputError
from lowdim.retrieval.residual_code import residual_ids, residual_k_means

SAMPLE = 2000
"""Items whose pairs say how prefixes follow the cosine: 10 neighbours and 10 others of each."""

EDGES = (-1.0, 0.0, 0.2, 0.4, 0.6, 0.8, 1.0)
"""Of the bins of cosines."""


@dataclass(frozen=True)
class PrefixShare:
    """How much of their ids two items of this cosine have in common.

    Attributes
    ----------
    low, high : float
        Cosines of the centred items.
    pairs : int
        Looked at.
    shares : tuple of float
        Of the pairs, those that agree in the first 1, 2, ... codes.
    """

    low: float
    high: float
    pairs: int
    shares: tuple[float, ...]


@dataclass(frozen=True, eq=False)
class SemanticIds:
    """Which few codes say what an item is, the first most, and what do they keep?

    Attributes
    ----------
    ids : Tensor
        (n, levels) int64.
    codebooks : Tensor
        (levels, codes, d).
    center : Tensor
        (d,) mean of the items.
    errors : tuple of float
        Share of the variance that the first 1, 2, ... codes leave over.
    collisions : float
        Share of the items whose whole id another item has too.
    prefixes : tuple of PrefixShare
        Ascending in cosine; bins with no pair are left out.

    Notes
    -----
    Trust it where the embedding knows what the task asks: then new items are met by rows that
    others trained. Where every item has been seen often, a row for each is better. A different
    seed or another level count gives other ids: keep the codebooks.
    """

    ids: Tensor
    codebooks: Tensor
    center: Tensor
    errors: tuple[float, ...]
    collisions: float
    prefixes: tuple[PrefixShare, ...]

    def of(self, x: Any) -> Tensor:
        """(m, levels) ids of (m, d) new items."""
        x = as_points(x).float()
        if x.shape[1] != len(self.center):
            raise InputError(f"x has {x.shape[1]} columns and the ids are of {len(self.center)}")
        return residual_ids(x - self.center, self.codebooks, beam=1)

    def to_dict(self) -> dict[str, Any]:
        """The report, without the tensors."""
        plain = {f.name: getattr(self, f.name) for f in fields(self)}
        report = {k: v for k, v in plain.items() if not isinstance(v, Tensor)}
        return to_json(report | {"prefixes": [asdict(p) for p in self.prefixes]})

    def __str__(self) -> str:
        lines = [
            f"{len(self.ids):,} items, {self.ids.shape[1]} codes of {self.codebooks.shape[1]}; "
            f"{self.collisions:.1%} share their id",
            "left over by level: " + " ".join(f"{e:.3f}" for e in self.errors),
            "cosine        pairs  share of equal prefixes",
        ]
        for p in self.prefixes:
            shares = " ".join(f"{s:.3f}" for s in p.shares)
            lines.append(f"{p.low:4.1f} to {p.high:4.1f} {p.pairs:7,}  {shares}")
        return "\n".join(lines)

    @classmethod
    def fit(cls, x: Tensor, levels: int, codes: int, seed: int) -> Self:
        """Of (n, d) checked items."""
        center = x.mean(0)
        z = x - center
        codebooks = residual_k_means(z, levels, codes, beam=1, seed=seed)
        ids = residual_ids(z, codebooks, beam=1)
        rest, errors = z, []
        for level, points in enumerate(codebooks):
            rest = rest - points[ids[:, level]]
            errors.append(float(rest.square().sum() / z.square().sum().clamp_min(1e-30)))
        counts = ids.unique(dim=0, return_counts=True)[1]
        collisions = float(counts[counts > 1].sum()) / len(ids)
        return cls(ids, codebooks, center, tuple(errors), collisions, _prefixes(z, ids, seed))


def semantic_ids(x: Any, *, levels: int = 3, codes: int = 256, seed: int = 0) -> SemanticIds:
    """Which few codes say what an item is, coarse to fine?

    Parameters
    ----------
    x : array-like
        (n, d) embeddings of the items' content.
    levels : int
        Codes an item.
    codes : int
        Values of each.
    seed : int
        Of the starts of k-means, and of the pairs of the report.

    Raises
    ------
    InputError
        Fewer items than codes, NaN or Inf.

    Notes
    -----
    25 n d codes multiply-adds a level. The code of a level is the nearest point to what the levels
    before it left over, so that a prefix of an id is the id of fewer levels.
    """
    x = as_points(x).float()
    if levels < 1 or not 2 <= codes <= len(x):
        raise InputError(
            f"levels={levels}, codes={codes}: give at least 1 level, of 2 to {len(x)} codes, as "
            "there are items"
        )
    return SemanticIds.fit(x, levels, codes, seed)


def ngram_rows(ids: Tensor, n: int, table_size: int) -> Tensor:
    """Which rows of a hashed table are an item's n consecutive codes, wherever they start?

    (items, levels - n + 1) int64 rows, of (items, levels) ids. Equal codes at another place of the
    id are another piece.
    """
    if not 1 <= n <= ids.shape[1]:
        raise InputError(f"n={n}: ids have {ids.shape[1]} codes")
    return torch.stack(
        [_hashed(ids[:, i : i + n], i, table_size) for i in range(ids.shape[1] - n + 1)], 1
    )


def prefix_rows(ids: Tensor, table_size: int) -> Tensor:
    """Which rows of a hashed table are an item's first code, first two codes, ...?

    (items, levels) int64 rows: the coarse ones are shared by many items, the last by few.
    """
    return torch.stack([_hashed(ids[:, : i + 1], 0, table_size) for i in range(ids.shape[1])], 1)


class NgramEmbedding(nn.Module):
    """What is an item's embedding, if the items that share pieces of its id share their rows?

    Parameters
    ----------
    rows : Tensor
        (items, pieces) of :func:`ngram_rows` or :func:`prefix_rows`.
    table_size : int
        Rows of the table.
    dim : int
        Columns.
    """

    rows: Tensor

    def __init__(self, rows: Tensor, table_size: int, dim: int) -> None:
        super().__init__()
        self.register_buffer("rows", rows)
        self.table = nn.EmbeddingBag(table_size, dim, mode="sum")

    def forward(self, items: Tensor) -> Tensor:
        """(batch, dim) sums of the rows of (batch,) items."""
        return self.table(self.rows[items])


def _prefixes(z: Tensor, ids: Tensor, seed: int) -> tuple[PrefixShare, ...]:
    """Neighbours as well as random pairs: of the latter alone hardly any are near."""
    n, per = len(z), min(10, len(z) - 1)
    unit = normalize(z)
    some = choice(n, min(n, SAMPLE), seed, stream=1)
    near = Neighbors.of_points(unit, per + 1, queries=unit[some]).indices[:, 1:]
    far = integers((len(some), per), n, seed, stream=2)
    one = some[:, None].expand(-1, 2 * per).flatten()
    other = torch.cat([near, far], 1).flatten()
    one, other = one[one != other], other[one != other]
    cosine = (unit[one] * unit[other]).sum(1)
    agree = (ids[one] == ids[other]).cumprod(1).double()  # (pairs, levels)
    found = []
    for low, high in pairwise(EDGES):
        here = (cosine > low) & (cosine <= high + (high == 1))  # rounding passes 1
        if here.any():
            shares = tuple(agree[here].mean(0).tolist())
            found.append(PrefixShare(low, high, int(here.sum()), shares))
    return tuple(found)


def _hashed(codes: Tensor, place: int, table_size: int) -> Tensor:
    """(items,) row of each item's codes: splitmix64, code after code, modulo the table's size."""
    key = torch.full_like(codes[:, 0], place)
    for code in codes.unbind(1):
        key = _mixed(key * 0x100000001B3 + code + 1)
    return key.remainder(table_size)


def _mixed(key: Tensor) -> Tensor:
    """The finaliser of splitmix64 on int64, whose products wrap and whose shifts keep the sign."""
    key = (key ^ _shifted(key, 30)) * (0xBF58476D1CE4E5B9 - 2**64)
    key = (key ^ _shifted(key, 27)) * (0x94D049BB133111EB - 2**64)
    return key ^ _shifted(key, 31)


def _shifted(key: Tensor, bits: int) -> Tensor:
    return (key >> bits) & (2 ** (64 - bits) - 1)
