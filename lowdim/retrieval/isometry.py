"""Coordinates in which decoded vectors can be compared by anyone: by k-means, a graph, a store.

A row of codes stands for x^ = center + z @ decoder. With the QR decomposition of decoder and
center stacked, [decoder; center]^T = turn @ [spread; shift]^T, x^ is (z @ spread + shift) @ turn^T.
Columns of ``turn`` are orthonormal: lengths and distances of y = z @ spread + shift are those of
x^, and the product of y with q @ turn is <q, x^>. At most m + 1 coordinates, and nothing is lost.
Distances are taken from the centre, which changes none and lets none cancel far from the origin.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor
from torch.nn.functional import normalize

if TYPE_CHECKING:
    from lowdim.retrieval.codec import Codec


@dataclass(frozen=True, eq=False)
class Isometry:
    """Decoded vectors and queries in few coordinates, where metrics are what they were.

    Attributes
    ----------
    matrix, bias : Tensor
        (d, r) and (r,): a placed query is at q @ matrix + bias.
    spread, shift : Tensor or None
        (m, r) and (r,): decoded coordinates are at z @ spread + shift. None: where they are, since
        the map has no way back.
    unit : bool
        Whether rows are brought to length one: with cosine.
    """

    matrix: Tensor
    bias: Tensor
    spread: Tensor | None
    shift: Tensor | None
    unit: bool

    @classmethod
    def of(cls, codec: Codec) -> Isometry:
        """That of a fitted codec."""
        map, unit = codec.map_, codec.metric == "cosine"
        if map.decoder is None:
            matrix = torch.eye(map.dim) if map.encoder is None else map.encoder
            return cls(matrix, -(map.center @ matrix), None, None, unit)
        parts = [map.decoder] if codec.metric == "euclidean" else [map.decoder, map.center[None]]
        turn, upper = torch.linalg.qr(torch.cat(parts).double().T)
        placed = upper.T.float().contiguous()  # (m or m + 1, r)
        spread, matrix = placed[: map.dims], turn.float()
        if codec.metric == "euclidean":
            return cls(matrix, -(map.center @ matrix), spread, spread.new_zeros(len(upper)), unit)
        return cls(matrix, spread.new_zeros(len(upper)), spread, placed[-1], unit)

    @property
    def dims(self) -> int:
        """r, columns of what it gives."""
        return self.matrix.shape[1]

    def rows(self, z: Tensor) -> Tensor:
        """(n, r) of (n, m) decoded coordinates; a decoded zero vector stays zero."""
        y = z if self.spread is None or self.shift is None else z @ self.spread + self.shift
        return normalize(y) if self.unit else y

    def queries(self, q: Tensor) -> Tensor:
        """(n, r) of (n, d) placed queries, or any placed vectors."""
        y = q @ self.matrix + self.bias
        return normalize(y) if self.unit and self.spread is None else y
