"""What a plan tries: combinations of reduction, coordinates, code and index."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from dataclasses import asdict, dataclass
from typing import Any

from lowdim.errors import InputError
from lowdim.retrieval.code import codes, find_code
from lowdim.retrieval.codec import Codec

INDEXES = ("flat", "ivf", "hnsw")

SHARES = (1 / 2, 3 / 8, 1 / 4, 3 / 16, 1 / 8, 3 / 32, 1 / 16, 3 / 64, 1 / 32)
"""Sizes that are tried, of float32: two a factor of two."""

BITS = {"float16": 16, "float8": 8, "int8": 8, "int4": 4, "binary": 1}
"""Bits a coordinate of codes that have as many coordinates as fit."""


@dataclass(frozen=True)
class Configuration:
    """One way to store vectors and to find among them.

    Attributes
    ----------
    code : str
        ``int8``, ``pq48``, ...; see :func:`lowdim.retrieval.code.codes`.
    reduction : str
        ``none``, ``pca``, ...; see :func:`lowdim.retrieval.reduction.reductions`.
    dims : int, optional
        Coordinates kept; all by default.
    index : {"flat", "ivf", "hnsw"}
        Whether a search reads every row, some lists of rows, or walks a graph.
    """

    code: str
    reduction: str = "none"
    dims: int | None = None
    index: str = "flat"

    def __post_init__(self) -> None:
        if self.index not in INDEXES:
            raise InputError(f"index={self.index!r}: choose from {', '.join(INDEXES)}")

    @classmethod
    def parse(cls, text: str) -> Configuration:
        """The configuration that prints so: ``pca 128, int8`` or ``float16, hnsw``."""
        parts = [part.strip() for part in text.split(",")]
        index = parts.pop() if parts[-1] in INDEXES else "flat"
        code = parts.pop() if parts else ""
        match = re.fullmatch(r"(\S+)(?:\s+([0-9]+))?", parts[0] if parts else "none")
        if match is None or len(parts) > 1 or not code:
            raise InputError(f"{text!r} is no configuration: write it like 'pca 128, int8'")
        find_code(code)
        return cls(code, match[1], int(match[2]) if match[2] else None, index)

    def __str__(self) -> str:
        size = "" if self.dims is None else f" {self.dims}"
        reduced = [] if self.reduction == "none" else [self.reduction + size]
        return ", ".join([*reduced, self.code, *([] if self.index == "flat" else [self.index])])

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON values: ``Configuration(**values)`` is the way back."""
        return asdict(self)

    def codec(self, **options: Any) -> Codec:
        """A codec of this kind, not fitted; ``options`` as of :class:`Codec`."""
        return Codec(self.code, reduction=self.reduction, dims=self.dims, **options)


def default_sizes(dim: int, budget: int | None = None) -> list[int]:
    """Bytes a vector from 1/2 to 1/32 of float32, none above a budget and the budget itself."""
    sizes = {max(1, round(4 * dim * share)) for share in SHARES}
    if budget is not None:
        sizes = {size for size in sizes if size < budget} | {min(budget, 4 * dim)}
    return sorted(sizes, reverse=True)


def default_configurations(dim: int, n: int, sizes: Iterable[int]) -> list[Configuration]:
    """What takes exactly these bytes a vector, of all codes that are there.

    Parameters
    ----------
    dim, n : int
        Columns and rows of the vectors.
    sizes : iterable of int
        Bytes a vector.
    """
    known = codes()
    of = {
        c: c.code.rstrip("0123456789") for size in sizes for c in _of_size(size, dim, min(dim, n))
    }
    return [c for c, name in of.items() if c.code in known or (name in known and known[name].sized)]


def _of_size(size: int, dim: int, most: int) -> Iterator[Configuration]:
    """Many coordinates of few bits, or few of many."""
    for code, bits in BITS.items():
        m = 8 * size // bits
        if m * bits != 8 * size or m > dim:
            continue
        if m <= most:
            yield Configuration(code, "pca", m)
        if m == dim and bits > 1:
            yield Configuration(code)
        if m == dim and code in ("int8", "int4"):
            yield Configuration(f"{code}-rotated")
        if m < dim and code == "int8":
            yield Configuration(code, "truncate", m)
    wide = min(8 * size, most)  # at least a bit for each coordinate
    for m in (wide, wide // 2):
        if size <= m:  # with a byte for each coordinate it would be int8
            yield Configuration(f"bits{size}", "pca", m)
    if 4 <= size <= most // 2:
        yield Configuration(f"strata{size}", "pca", wide)
    if 8 * size <= dim and 4 * size <= most:  # dear to fit, and no better where bytes are many
        yield Configuration(f"pq{size}", "pca", wide)
        yield Configuration(f"opq{size}", "pca", wide)
