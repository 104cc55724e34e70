"""Inverted lists on disk: codes that are there in the order of the rows, written list by list."""

from __future__ import annotations

import json
from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path

import torch
from safetensors.torch import save
from torch import Tensor

from lowdim.core.memory import plan
from lowdim.core.random import choice
from lowdim.io.write import atomic_open, atomic_write
from lowdim.retrieval.codec import Codec
from lowdim.retrieval.lists import PER_LIST, by_list, fit_centroids, nearest_list

ROWS = 2**16
"""Rows that are gathered at once."""


def write_lists(
    folder: Path, codec: Codec, shards: Sequence[Tensor], n_lists: int,
    memory: int | float | str | None = None,
) -> list[Path]:  # fmt: skip
    """``lists.safetensors`` (centroids, starts, rows) and ``codes.safetensors``, list by list.

    The centres are fitted to 64 rows a list, drawn from all shards. Memory: 32 bytes a row, for
    the list of each and the order of all.
    """
    n, size = sum(len(part) for part in shards), codec.bytes_per_vector
    needed = 32 * n + 3 * ROWS * size
    plan("inverted lists of all rows", rows=1, bytes_per_row=needed, memory=memory)
    sample = gathered(shards, choice(n, min(n, PER_LIST * n_lists), codec.seed))
    centroids = fit_centroids(codec, sample, n_lists, seed=codec.seed)
    lists = torch.cat([nearest_list(codec, centroids, part).int() for part in shards])
    rows, starts = by_list(lists, n_lists)
    folder.mkdir(exist_ok=True)
    paths = [folder / "codes.safetensors", folder / "lists.safetensors"]
    header = json.dumps(
        {"codes": {"dtype": "U8", "shape": [n, size], "data_offsets": [0, n * size]}}
    ).encode()
    header += b" " * (-len(header) % 8)
    with atomic_open(paths[0], size=n * size) as file:
        file.write(len(header).to_bytes(8, "little") + header)
        for block in rows.split(ROWS):
            file.write(gathered(shards, block.long()).numpy().data)
    atomic_write(paths[1], save({"centroids": centroids, "starts": starts, "rows": rows}))
    return paths


def gathered(parts: Sequence[Tensor], rows: Tensor) -> Tensor:
    """(len(rows), bytes) the rows with these numbers, of parts that follow each other."""
    bounds = torch.tensor([0, *(len(part) for part in parts)]).cumsum(0)
    ascending, order = rows.sort()
    found = parts[0].new_empty(len(rows), parts[0].shape[1])
    cuts = torch.searchsorted(ascending, bounds).tolist()
    for part, first, (low, high) in zip(parts, bounds.tolist(), pairwise(cuts), strict=False):
        if low < high:
            found[order[low:high]] = part[ascending[low:high] - first]
    return found
