"""What the self-expressive methods share: points made of other points, a sparse graph, pieces.

Each point is written as a combination of the others; on a union of linear subspaces the others in
use tend to lie on the same subspace. The coefficients are a sparse graph of n points, cut by
spectral clustering (:mod:`lowdim.structure.spectral_graph`), and each cluster is given its
principal subspace. Products of all points with all points are made a block at a time and never
held: what is kept are a few numbers a row.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable

import numpy as np
import scipy.sparse as sp
import torch
from scipy.sparse.csgraph import connected_components
from torch import Tensor

from lowdim.core.blocked import full_precision, on_threads, workers
from lowdim.core.memory import plan
from lowdim.core.points import distinct, unit_rows
from lowdim.core.shards import Source
from lowdim.core.spectrum import Spectrum
from lowdim.core.strata import Strata
from lowdim.errors import InputError
from lowdim.structure.base import Job, PieceFinder
from lowdim.structure.ranks import bic_rank
from lowdim.structure.spectral_graph import affinity, spectral_labels

ROWS = 1024
"""Points coded at once by a core: what is kept for a resumed fit, and full speed of products."""

COLUMNS = 2**14
"""Points they are compared with at once."""


class LinearPieces(PieceFinder):
    """A finder whose pieces are the principal linear subspaces of clusters of points.

    A point goes where its unit row is likeliest, each piece being taken for a normal distribution
    with a variance along each of its directions and one for all others: the piece that is merely
    nearest would nearly always be the one of largest dimension. A row of zeros has no direction
    and is refused.

    Attributes
    ----------
    variances_ : list of Tensor
        For each piece (rank + 1,) variances of its unit rows along the basis, and outside it.
    """

    rank: int | None

    def _pieces(self, x: Tensor, labels: Tensor) -> Strata:
        """Principal subspaces of the points, and the variances of their unit rows on them."""
        k, rank = self.n_pieces, self._rank
        strata = Strata.of_labels(x, labels, rank=rank, n_pieces=k, center=False)
        self.variances_ = []
        for i, piece in enumerate(strata.pieces):
            own = unit_rows(x[labels == i])
            along = (own @ piece.basis).double().square().mean(0)  # (r,)
            outside = piece.residual(own).double().mean() / max(piece.dim - piece.rank, 1)
            spread = torch.cat([along, outside[None]])
            self.variances_.append(spread.clamp_min(torch.finfo(x.dtype).eps / piece.dim))
        return strata

    def _deviance(self, strata: Strata, x: Tensor) -> Tensor:
        """(m, K) minus twice the log-likelihood of unit rows, but for a constant."""
        unit, columns = unit_rows(x), []
        for piece, spread in zip(strata.pieces, self.variances_, strict=True):
            along, noise, left = spread[:-1], spread[-1], piece.dim - piece.rank
            inside = ((unit @ piece.basis).double().square() / along).sum(1) + along.log().sum()
            columns.append(inside + piece.residual(unit).double() / noise + left * noise.log())
        return torch.stack(columns, 1)

    def _gates(self, x: Tensor) -> Tensor:
        labels = self._deviance(self.strata_, x.to(self.strata_.weights)).argmin(1)
        return torch.nn.functional.one_hot(labels, self.n_pieces).to(x.dtype)

    def _rank(self, spectrum: Spectrum) -> int:
        return bic_rank(spectrum.values, *spectrum.shape) if self.rank is None else self.rank


class SelfExpressive(LinearPieces):
    """A finder whose pieces are clusters of the graph of which point is made of which.

    A subclass codes the points (:meth:`_codes`). Rows are scaled to length one first, for a linear
    subspace is a matter of directions; equal rows are coded once and share their piece.

    Parameters
    ----------
    n_pieces : int
        K.
    join : float
        Weight that joins the points of a component of the graph, see
        :func:`lowdim.structure.spectral_graph.spectral_labels`.
    rank : int, optional
        Dimension of every piece; by default each piece's own, by the BIC.
    reduce : int, optional
        Code the unit rows on this many principal directions only; ``energy_kept_`` tells what was
        lost. The pieces are of the full rows all the same.
    random_state : int
        Of the spectral clustering; the graph has no randomness.
    memory : int, float or str, optional
        Budget of working memory.

    Attributes
    ----------
    coefficients_ : scipy.sparse.csr_array
        (m, m) row i says of which other points point i is made; m is the number of different unit
        rows, in order of first appearance, and n where all differ.
    n_components_ : int
        Connected components of the graph; more than ``n_pieces`` means that it fell apart.
    n_aside_ : int
        Different unit rows in components too small to be a piece: they went to the likeliest one.
    energy_kept_ : float
        Share of the energy of the unit rows that the coding saw: 1 unless ``reduce`` is given.
    """

    def __init__(
        self,
        n_pieces: int,
        *,
        join: float,
        rank: int | None,
        reduce: int | None,
        random_state: int,
        memory: int | float | str | None,
    ) -> None:
        self.n_pieces = n_pieces
        self.join = join
        self.rank = rank
        self.reduce = reduce
        self.random_state = random_state
        self.memory = memory

    def _fit(self, source: Source, job: Job) -> Strata:
        k, (n, d) = self.n_pieces, (source.n, source.dim)
        if self.rank is not None and not 0 <= self.rank <= d:
            raise InputError(f"rank={self.rank}: between 0 and {d}, or None for the BIC")
        plan(
            "the points",
            rows=1,
            bytes_per_row=4 * n * d * source.dtype.itemsize,
            memory=self.memory,
        )
        x = source.read(self.memory)
        points, inverse = distinct(unit_rows(x))
        if len(points) < max(k, 2):
            raise InputError(f"{len(points)} different directions: too few for {k} pieces")
        reduced, self.energy_kept_ = self._reduced(points)
        with full_precision():
            self.coefficients_ = self._codes(reduced, job)
        graph = affinity(self.coefficients_)
        self.n_components_ = int(connected_components(graph, directed=False)[0])
        report = job.progress.task("spectral clustering")
        labels = spectral_labels(graph, k, join=self.join, random_state=self.random_state)
        labels = labels.to(x.device)
        report(1, 1)
        self.n_aside_ = int((labels < 0).sum())
        labels = labels[inverse]
        seen = labels >= 0
        strata = self._pieces(x[seen], labels[seen])
        if self.n_aside_:  # too small to be a piece: each point goes to the likeliest one
            labels[~seen] = self._deviance(strata, x[~seen]).argmin(1)
            strata = self._pieces(x, labels)
        return strata

    def _reduced(self, points: Tensor) -> tuple[Tensor, float]:
        """The unit rows on their leading principal directions, again of length one."""
        if self.reduce is None:
            return points, 1.0
        if not 1 <= self.reduce <= min(points.shape):
            raise InputError(f"reduce={self.reduce}: between 1 and {min(points.shape)} columns")
        spectrum = Spectrum.of_points(points, center=False, vectors=True, memory=self.memory)
        assert spectrum.vectors is not None
        basis = spectrum.vectors[:, : self.reduce].to(points)
        kept = float(spectrum.values[: self.reduce].sum()) / spectrum.total
        return unit_rows(points @ basis), kept  # (m, d) @ (d, reduce)

    @abstractmethod
    def _codes(self, x: Tensor, job: Job) -> sp.csr_array:
        """(m, m) the coefficients of (m, d) different unit rows."""


def coded(
    code: Callable[[Tensor], dict[str, Tensor]], x: Tensor, job: Job, *, what: str
) -> list[dict[str, Tensor]]:
    """Code all points, a block of them on each core; finished blocks are kept for a resumed fit.

    Parameters
    ----------
    code : callable
        Of the numbers (b,) of some points: ``index`` and ``values`` (b, s), the points each of
        them is made of and how much of each, 0 where a slot is not in use; and what else it has
        to say of each.
    x : Tensor
        (n, d) the points.
    """
    blocks = torch.arange(len(x), device=x.device).split(ROWS)

    def make(rows: Tensor) -> dict[str, Tensor]:
        return {key: part.cpu() for key, part in code(rows).items()}

    def finished(rows: Tensor) -> dict[str, Tensor]:
        return job.pieces.tensors(f"{what} {int(rows[0])}", lambda: make(rows))

    report, parts = job.progress.task(what), []
    for block in on_threads(finished, blocks, x.device):
        parts.append(block)
        report(len(parts), len(blocks))
    return parts


def as_graph(parts: list[dict[str, Tensor]], n: int) -> sp.csr_array:
    """Codes of consecutive blocks of points as one sparse (n, n) matrix without zeros."""
    used = [part["values"] != 0 for part in parts]
    counts = torch.cat([u.sum(1) for u in used])
    start = np.concatenate([[0], counts.cumsum(0).numpy()])
    index, values = (
        torch.cat([part[key][u] for part, u in zip(parts, used, strict=True)]).numpy()
        for key in ("index", "values")
    )
    return sp.csr_array((values, index, start), shape=(n, n))


def strongest(rows: Tensor, points: Tensor, k: int, excluded: Tensor) -> tuple[Tensor, Tensor]:
    """To which k points does each row have the largest |inner product|, some points excluded?

    Parameters
    ----------
    rows : Tensor
        (b, d).
    points : Tensor
        (n, d).
    k : int
        At most n less the number of points that are excluded.
    excluded : Tensor
        (b, e) numbers of the points that each row leaves out.

    Returns
    -------
    values, index : Tensor
        (b, k) in descending order.

    Notes
    -----
    The k largest of a block of products lie in the k groups with the largest maxima, and about
    sqrt(columns / k) columns a group make the two levels of that search equally short.
    """
    b, n = len(rows), len(points)
    found = rows.new_full((b, k), -1.0)
    index = torch.zeros(b, k, dtype=torch.int64, device=rows.device)
    buffer = rows.new_empty(b * min(COLUMNS, n))
    for first in range(0, n, COLUMNS):
        block = points[first : first + COLUMNS]
        c = len(block)
        products = torch.mm(rows, block.T, out=buffer[: b * c].view(b, c)).abs_()
        row, slot = ((excluded >= first) & (excluded < first + c)).nonzero().unbind(1)
        products[row, excluded[row, slot] - first] = -1
        values, at = _largest(products, k)
        values, order = torch.cat([found, values], 1).topk(k)
        found, index = values, torch.cat([index, at + first], 1).gather(1, order)
    return found, index


def _largest(products: Tensor, k: int) -> tuple[Tensor, Tensor]:
    """The k largest of each row, or all where there are fewer."""
    c = products.shape[1]
    size = max(1, int((c / k) ** 0.5))
    groups = c // size
    if groups <= k:
        return products.topk(min(k, c), sorted=False)
    grouped = products[:, : size * groups].unflatten(1, (size, groups))  # j is of group j % groups
    high = grouped.amax(1).topk(k, sorted=False).indices  # (b, k)
    inside = grouped.gather(2, high[:, None].expand(-1, size, -1)).flatten(1)  # (b, size k)
    rest = products[:, size * groups :]
    values, at = torch.cat([inside, rest], 1).topk(k, sorted=False)
    slot = torch.div(at, k, rounding_mode="floor")
    column = slot * groups + high.gather(1, at % k)
    return values, torch.where(at < size * k, column, at - size * k + size * groups)


def working_memory(d: int, k: int, device: torch.device) -> int:
    """Bytes that :func:`strongest` holds on all cores together, for numbers of eight bytes."""
    return workers(device) * ROWS * (9 * COLUMNS + 16 * d + 64 * k)


def left_vectors(x: Tensor, memory: int | float | str | None) -> tuple[Tensor, Tensor]:
    """(n, r) left singular vectors of the points, and (r,) float64 squared singular values.

    Only those above the rounding of the points, max(n, d) eps of the largest: below it they are
    noise of the numbers, not of the data.
    """
    spectrum = Spectrum.of_points(x, center=False, vectors=True, memory=memory)
    assert spectrum.vectors is not None
    energies = spectrum.values * len(x)
    real = energies.sqrt() > max(x.shape) * torch.finfo(x.dtype).eps * energies[0].sqrt()
    right = spectrum.vectors[:, real] / energies[real].sqrt()  # (d, r)
    return x @ right.to(x), energies[real]  # (n, d) @ (d, r)


def factored_graph(
    left: Tensor,
    right: Tensor,
    k: int,
    job: Job,
    *,
    memory: int | float | str | None,
) -> sp.csr_array:
    """The k largest |C_ij|, j other than i, of each row of C = left right^T, signs left out.

    Parameters
    ----------
    left, right : Tensor
        (n, r) factors; C itself, (n, n), is never held.
    k : int
        Entries of a row that are kept.
    """
    n, r = left.shape
    if not isinstance(k, int) or k < 1:
        raise InputError(f"n_neighbors={k}: give at least 1, the entries of C a row keeps")
    k = min(k, n - 1)
    plan(
        "the largest coefficients", rows=1, bytes_per_row=working_memory(r, k, left.device),
        fixed=16 * n * k, memory=memory,
    )  # fmt: skip

    def code(rows: Tensor) -> dict[str, Tensor]:
        values, index = strongest(left[rows], right, k, rows[:, None])
        return {"index": index, "values": values}

    return as_graph(coded(code, left, job, what="coefficients"), n)
