"""Coordinates in which decoded vectors can be compared by anyone: by k-means, a graph, a store.

A row of codes stands for x^ = center + z @ decoder. With the QR decomposition of decoder and center
stacked, [decoder; center]^T = turn @ spread^T, it is x^ = ([z, 1] @ spread) @ turn^T, and since
``turn`` has orthonormal columns, lengths and distances of y = [z, 1] @ spread are those of x^, and
the product of y with q @ turn is <q, x^>. At most m + 1 coordinates, and nothing is lost.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor
from torch.nn.functional import normalize

if TYPE_CHECKING:
    from lowdim.retrieval.codec import Codec
    from lowdim.retrieval.map import Map


@dataclass(frozen=True, eq=False)
class Isometry:
    """Decoded vectors and queries in few coordinates, where metrics are what they were.

    Attributes
    ----------
    map : Map
        What reduces.
    turn : Tensor or None
        (d, r) orthonormal columns. None: the map has no way back, rows and queries are compared in
        its own coordinates.
    spread : Tensor or None
        (m + 1, r); its last row is the centre's.
    unit : bool
        Whether rows and queries are brought to length one: with cosine.
    """

    map: Map
    turn: Tensor | None
    spread: Tensor | None
    unit: bool

    @classmethod
    def of(cls, codec: Codec) -> Isometry:
        """That of a fitted codec."""
        map, unit = codec.map_, codec.metric == "cosine"
        if map.decoder is None:
            return cls(map, None, None, unit)
        stacked = torch.cat([map.decoder, map.center[None]]).double()  # (m + 1, d)
        turn, spread = torch.linalg.qr(stacked.T)
        return cls(map, turn.float(), spread.T.float().contiguous(), unit)

    @property
    def dims(self) -> int:
        """r, columns of what it gives."""
        return self.map.dims if self.spread is None else self.spread.shape[1]

    def rows(self, z: Tensor) -> Tensor:
        """(n, r) of (n, m) decoded coordinates; a decoded zero vector stays zero."""
        y = z if self.spread is None else torch.addmm(self.spread[-1], z, self.spread[:-1])
        return normalize(y) if self.unit else y

    def queries(self, q: Tensor) -> Tensor:
        """(n, r) of (n, d) placed queries, or any placed vectors."""
        y = self.map.reduce(q) if self.turn is None else q @ self.turn
        return normalize(y) if self.unit and self.turn is None else y
