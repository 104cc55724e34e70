"""Each vector in the basis of its own piece, with as many coordinates as that piece deserves."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache, cached_property
from typing import Self

import torch
from torch import Tensor

from lowdim.core.linalg import eigh_psd
from lowdim.core.moments import Moments
from lowdim.errors import InputError
from lowdim.registry import coordinates, method
from lowdim.retrieval.bits_code import BitsCode, allocate
from lowdim.retrieval.code import Code
from lowdim.retrieval.k_means import k_means, nearest
from lowdim.retrieval.scan import Scores

PIECES = 256
"""Most pieces: as many as a byte tells apart."""

GRAIN = 32
"""Rows of a piece that are scored together, on average, at least."""

ROWS = 3
"""Rows that a piece has on average, at least, for each coordinate."""


@method(
    "retrieval/strata",
    needs=coordinates(),
    paper="our own: local PCA (Kambhatla and Leen 1997), bits by variance in each piece",
    cost="N bytes a vector, O(K m + m r) to code it along r directions; K eigenproblems to fit",
    invariant=(),
)
@dataclass(frozen=True, eq=False)
class StrataCode(Code):
    """Do vectors take fewer bytes in the basis of the place where they lie?

    Attributes
    ----------
    centers : Tensor
        (K, m) mean of each piece.
    ranks : Tensor
        (K,) int64, directions that a piece gives bits to, R in all.
    basis : Tensor
        (R, m) float16, orthonormal rows of piece after piece: far finer than the grids.
    start, step, bits : Tensor
        (R,) grids of the coordinates along them, as in :class:`BitsCode`.

    Notes
    -----
    A byte says which of K pieces of k-means a vector lies in, the other N - 1 hold its coordinates
    along the piece's own principal directions, bits dealt out by the variance there. The spread of
    a piece is that of its rows and of m more that are spread as all rows are.

    It finds more than ``bits`` after ``pca`` in the same bytes, the more so the fewer they are, and
    less of that gain is left on rows that were not in the fit. Trust it where there are many
    vectors: a piece takes 2 r m bytes once, 160 kB of 48 bytes and 384 coordinates, so 16 of them
    weigh as much as 50,000 codes; ``overhead`` counts them. Scores are worked out along the
    directions of each piece, so that a search costs what one of ``bits`` does and, in blocks of few
    rows, the parting of rows by their piece.
    """

    sized = True
    centers: Tensor
    ranks: Tensor
    basis: Tensor
    start: Tensor
    step: Tensor
    bits: Tensor

    @classmethod
    def fit(cls, z: Tensor, *, size: int | None = None, seed: int = 0) -> Self:
        """Cut the rows into pieces, then fit directions and grids to each."""
        n, m = z.shape
        if size is None or not 2 <= size <= m + 1:
            raise InputError(f"strata{size or 'N'}: {m} coordinates take 2 to {m + 1} bytes")
        if n == 0:
            raise InputError("a code is fitted to no vectors at all: give at least one")
        whole = Moments(m, device=z.device).update(z).second_moment()
        means = k_means(z, max(1, min(PIECES, n // (ROWS * m))), seed=seed)
        labels = nearest(z, means)[0].unique(return_inverse=True)[1]  # of pieces with rows
        centers, bases, codes = [], [], []
        for members in labels.argsort(stable=True).split(labels.bincount().tolist()):
            rows = z[members]
            own = Moments(m, device=z.device).update(rows)
            spread = (len(rows) * own.second_moment() + m * whole) / (len(rows) + m)
            variance, axes = eigh_psd(spread)
            basis = axes[:, allocate(variance, 8 * (size - 1)) > 0].T.half()  # (r, m)
            centers.append(own.mean.float())
            bases.append(basis)
            inside = (rows - centers[-1]) @ basis.T.float()
            codes.append(BitsCode.fit(inside, size=size - 1, seed=seed))
        return cls(
            torch.stack(centers), torch.tensor([len(b) for b in bases], device=z.device),
            torch.cat(bases), torch.cat([c.start for c in codes]),
            torch.cat([c.step for c in codes]), torch.cat([c.bits for c in codes]),
        )  # fmt: skip

    @property
    def dims(self) -> int:
        """m, the coordinates that it was fitted to."""
        return self.centers.shape[1]

    @property
    def grain(self) -> int:
        """Rows of which each piece has some."""
        return GRAIN * len(self.centers)

    @property
    def bytes_per_vector(self) -> int:
        """N."""
        return 1 + self._pieces[0][1].bytes_per_vector

    @cached_property
    def _pieces(self) -> list[tuple[Tensor, BitsCode]]:
        """(r, m) basis of each piece, and the code of the coordinates along it.

        The bases are the orthonormal ones nearest to what float16 holds.
        """
        ranks = self.ranks.tolist()
        parts = (x.split(ranks) for x in (self.start, self.step, self.bits))
        bases = map(_orthonormal, self.basis.split(ranks))
        return list(zip(bases, map(BitsCode, *parts), strict=True))

    def encode(self, z: Tensor) -> Tensor:
        """(n, N) uint8: the piece, then the code of the coordinates along its directions."""
        labels, _ = nearest(z, self.centers)
        order = labels.argsort(stable=True)
        parts = z.index_select(0, order).split(torch.bincount(labels).tolist())
        codes = [z.new_empty(0, self.bytes_per_vector, dtype=torch.uint8)]
        for k, part in enumerate(parts):
            basis, code = self._pieces[k]
            inside = (part - self.centers[k]) @ basis.T
            piece = codes[0].new_full((len(part), 1), k)
            codes.append(torch.cat([piece, code.encode(inside)], 1))
        return torch.cat(codes).index_select(0, order.argsort())

    def decode(self, codes: Tensor) -> Tensor:
        """(n, m) points on the pieces."""
        place, parts = self._by_piece(codes)
        found = [self.centers.new_empty(0, self.dims)]
        for k, part in parts:
            basis, code = self._pieces[k]
            found.append(torch.addmm(self.centers[k], code.decode(part), basis))
        return torch.cat(found).index_select(0, place)

    def products(self, queries: Tensor, shift: Tensor | None = None) -> Scores:
        """As of every code, in the coordinates of each piece: z = center + c @ basis.

        <q, z> is <q, center> + <q @ basis^T, c>, and |z + shift|^2 is |c + s|^2 with s the
        coordinates of center + shift, and what of that lies off the piece.
        """

        @cache
        def of_piece(k: int) -> tuple[Scores, Tensor]:
            basis, code = self._pieces[k]
            constant, inside = queries @ self.centers[k], None
            if shift is not None:
                moved = self.centers[k] + shift
                inside = basis @ moved
                off = moved - inside @ basis
                constant = torch.cat([constant, (off @ off)[None]])
            return code.products(queries @ basis.T, inside), constant[:, None]

        def of_codes(codes: Tensor) -> Tensor:
            place, parts = self._by_piece(codes)
            found = [queries.new_empty(len(queries) + (shift is not None), 0)]
            for k, part in parts:
                scores, constant = of_piece(k)
                found.append(scores(part) + constant)
            return torch.cat(found, 1).index_select(1, place)

        return of_codes

    def _by_piece(self, codes: Tensor) -> tuple[Tensor, list[tuple[int, Tensor]]]:
        """The codes within each piece that is named, end to end, and where there each row is."""
        order = codes[:, 0].argsort(stable=True)
        counts = torch.bincount(codes[:, 0]).tolist()
        if len(counts) > len(self.centers):
            raise InputError(
                f"a code names piece {len(counts) - 1}: there are {len(self.centers)}, from 0"
            )
        parts = codes[:, 1:].index_select(0, order).split(counts)  # [order, 1:] takes ten times it
        return order.argsort(), [(k, part) for k, part in enumerate(parts) if len(part)]


def _orthonormal(rows: Tensor) -> Tensor:
    """(r, m) float32 orthonormal rows nearest to these, which are orthonormal but for rounding.

    Two steps of Newton and Schulz: an error of 1e-3 becomes one of 1e-6, then of 1e-12.
    """
    basis = rows.double()
    for _ in range(2):
        basis = 1.5 * basis - 0.5 * (basis @ basis.T) @ basis
    return basis.float()
