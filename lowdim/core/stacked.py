"""K subspaces side by side: the distances to all of them from one matrix product.

||x - c||^2 - ||U^T (x - c)||^2 is the squared distance to a subspace; with the bases of all pieces
next to each other it costs one product of n d (r_1 + ... + r_K) multiply-adds. A difference of two
close numbers has lost its digits: such a distance, or one of two that nearly tie, is summed again
from the part outside the subspace.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import torch
from torch import Tensor

from lowdim.core.points import as_points
from lowdim.core.subspace import Subspace
from lowdim.errors import InputError

BLOCK = 2**18  # numbers in one block of rows: what stays in cache between product and squares
ROUNDING = 8  # units of rounding, relative to squared lengths, that a difference may be off


class Stacked:
    """The bases of K subspaces as one matrix.

    Attributes
    ----------
    pieces : tuple of Subspace
        In one space.
    basis : Tensor
        (d, R) all bases, R the sum of the ranks.
    member : Tensor
        (R, K) one where a column belongs to a piece, zero elsewhere.
    """

    def __init__(self, pieces: Sequence[Subspace]) -> None:
        self.pieces = tuple(pieces)
        self.basis = torch.cat([p.basis for p in pieces], 1)
        ranks = torch.tensor([p.rank for p in pieces], device=self.basis.device)
        k = len(self.pieces)
        owner = torch.arange(k, device=ranks.device).repeat_interleave(ranks)  # (R,)
        self.member = torch.nn.functional.one_hot(owner, k).to(self.basis)
        centers = torch.stack([p.center for p in pieces]).to(self.basis)
        self.shift = centers.mean(0)  # near all centres: what is subtracted below stays small
        centers = centers - self.shift
        self._lengths = (centers * centers).sum(1)  # (K,)
        self._centers = centers if bool(centers.any()) else centers[:0]  # (K or 0, d)
        self._product = torch.cat([self.basis, self._centers.T], 1)  # (d, R + K or R)
        self._offset = (centers[owner] * self.basis.T).sum(1)  # (R,)

    def blocks(self, x: Any) -> Iterator[Tensor]:
        """The (m, d) points, checked, block by block in the dtype of the bases."""
        x = as_points(x)
        if x.shape[1] != len(self.basis):
            raise InputError(f"x has {x.shape[1]} columns and the pieces {len(self.basis)}")
        return (block.to(self.basis) for block in x.split(max(1, BLOCK // x.shape[1])))

    def squared_distances(self, x: Any) -> Tensor:
        """(m, K) squared distance of each point to each piece, to half the digits at least."""
        return torch.cat([self.measure(block)[0] for block in self.blocks(x)])

    def nearest(self, x: Any) -> Tensor:
        """(m,) the nearest piece, the first of those at equal distance."""
        labels = []
        for block in self.blocks(x):
            squared, _, slack = self._differences(block)
            close = squared - slack <= (squared + slack).amin(1, keepdim=True)
            close &= (close.sum(1) > 1)[:, None]
            labels.append(self._again(block, squared, close).argmin(1))
        return torch.cat(labels)

    def measure(self, block: Tensor) -> tuple[Tensor, Tensor]:
        """Squared distances (m, K), and coordinates (m, R) along all bases, of one block."""
        squared, z, slack = self._differences(block)
        lost = squared * torch.finfo(squared.dtype).eps ** 0.5 < slack
        return self._again(block, squared, lost), z

    def _differences(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Squared distances, coordinates, and how far off (m, K) the distances may be."""
        x = x - self.shift
        columns = len(self.member)
        product = x @ self._product  # (m, d) @ (d, R + K)
        z = product[:, :columns].sub_(self._offset)
        own = torch.linalg.vecdot(x, x)[:, None]
        size = own + self._lengths  # (m, K)
        squared = size - (z * z) @ self.member  # (m, R) @ (R, K)
        if len(self._centers):
            squared -= 2 * product[:, columns:]
        return squared, z, (ROUNDING * torch.finfo(x.dtype).eps) * size

    def _again(self, x: Tensor, squared: Tensor, where: Tensor) -> Tensor:
        """Replace some distances by the lengths of the part outside."""
        for k in where.any(0).nonzero()[:, 0].tolist():
            rows = where[:, k].nonzero()[:, 0]
            squared[rows, k] = self.pieces[k].residual(x[rows]).to(squared)
        return squared
