"""k-medoids by the sine of the angle: which points lie on a common line, whatever their lengths?

The sine of the angle between u and v is the distance of u/|u| from the line through v: it sees
neither length nor sign. Clusters about medoids under it, each with a principal subspace through the
origin, are the local bases of Daniel, Casenave, Akkari and Ryckelynck ("Optimal piecewise linear
data compression for solutions of parametrized partial differential equations", 2021).

Medoids are improved by swaps with the best gain (PAM, Kaufman and Rousseeuw 1987), taken as soon as
one is found and with all K medoids tried at once for each candidate (FasterPAM, Schubert and
Rousseeuw 2021). A block of candidates at a time is compared with all points by one matrix product,
so that nothing of size n x n is held.
"""

from __future__ import annotations

from functools import partial
from typing import Any, NamedTuple

import torch
from torch import Tensor

from lowdim.core.memory import plan
from lowdim.core.points import as_points, unit_rows
from lowdim.core.random import choice
from lowdim.core.shards import Source
from lowdim.core.spectrum import Spectrum
from lowdim.core.stacked import Stacked
from lowdim.core.strata import Strata
from lowdim.core.subspace import Subspace
from lowdim.errors import InputError
from lowdim.registry import method, pieces
from lowdim.structure.base import Job, PieceFinder
from lowdim.structure.ranks import bic_rank

CANDIDATES = 64  # medoids tried in one matrix product
ROWS = 2**14  # points whose changes are added up at once
GAIN = 1e-7  # of the cost: what a swap has to save, so that rounding cannot swap for ever


@method(
    "structure/sine-medoids",
    needs=pieces(),
    paper="Daniel, Casenave, Akkari and Ryckelynck 2021; Schubert and Rousseeuw 2021",
    cost="O(n d) a candidate and round, O(64 n) memory",
    oracle="an exhaustive search",
)
class SineKMedoids(PieceFinder):
    """Which points lie near a common line through the origin, whatever their length and sign?

    Parameters
    ----------
    n_pieces : int
        K.
    rank : int, optional
        Dimension of the principal subspace of the unit rows of each cluster, through the origin;
        by default chosen for each by the Bayesian information criterion.
    candidates : int
        Points that are tried as medoids in a round: all where there are no more, else as many drawn
        anew for each round; the cost is that of all points in any case.
    max_iter : int
        Most rounds; it ends before where a round finds no swap.
    random_state : int
        Of the first medoids and of the candidates.
    memory : int, float or str, optional
        Budget beyond the points.

    Attributes
    ----------
    medoids_ : Tensor
        (K,) rows of the points.
    cost_ : float
        Mean sine of the angle between a point and its medoid.

    Raises
    ------
    InputError
        A row of zeros, which has no direction; NaN or Inf; fewer points than pieces.
    MemoryBudgetError
        Points that do not fit.

    Notes
    -----
    Trust it for directions: lines, or narrow cones around their medoids. Pieces of larger dimension
    are cut into cones, as a point of a plane may be at a right angle to its medoid; use
    ``KSubspaces`` for those. ``predict`` gives the medoid of least angle, the first for a row of
    zeros; ``transform`` the squared distances to the principal subspaces.
    """

    def __init__(
        self,
        n_pieces: int,
        *,
        rank: int | None = None,
        candidates: int = 2000,
        max_iter: int = 20,
        random_state: int = 0,
        memory: int | float | str | None = None,
    ) -> None:
        self.n_pieces = n_pieces
        self.rank = rank
        self.candidates = candidates
        self.max_iter = max_iter
        self.random_state = random_state
        self.memory = memory

    def _fit(self, source: Source, job: Job) -> Strata:
        for name, least in (("rank", 0), ("candidates", 1), ("max_iter", 1)):
            value = getattr(self, name)
            if not (
                (name == "rank" and value is None) or (isinstance(value, int) and value >= least)
            ):
                raise InputError(f"{name}={value!r}: give an integer of at least {least}")
        x = source.read(self.memory)
        plan(
            "k-medoids", rows=1, bytes_per_row=1, memory=self.memory,
            fixed=x.element_size() * len(x) * (x.shape[1] + 4 * CANDIDATES + 4 * self.n_pieces),
        )  # fmt: skip
        unit = unit_rows(x)
        medoids = self._seeds(unit)
        advance = job.progress.task("rounds")
        for step in range(self.max_iter):
            before = medoids
            make = partial(self._round, unit, before, step)
            medoids = job.pieces.tensors(f"round {step}", make)["medoids"]
            advance(step + 1, self.max_iter)
            if torch.equal(medoids, before):
                break
        self.medoids_, self.lines_ = medoids, lines(unit[medoids])
        labels = self.lines_.nearest(unit)
        self.cost_ = float(sines(unit, self.lines_).amin(1).mean(dtype=torch.float64))
        return Strata.of_labels(
            unit, labels, rank=_bic if self.rank is None else self.rank, n_pieces=self.n_pieces,
            center=False,
        )  # fmt: skip

    def _seeds(self, unit: Tensor) -> Tensor:
        """Each next medoid drawn in proportion to its squared sine to the nearest before it."""
        generator = torch.Generator().manual_seed(self.random_state)
        far = torch.ones(len(unit), dtype=torch.float64)
        chosen: list[int] = []
        for _ in range(self.n_pieces):
            weights = far + 1e-60  # equal lines too may have to be told apart
            weights[chosen] = 0
            chosen.append(int(torch.multinomial(weights, 1, generator=generator)))
            far = torch.minimum(
                far, sines(unit, lines(unit[chosen[-1:]]))[:, 0].double().cpu().square()
            )
        return torch.tensor(chosen)

    def _round(self, unit: Tensor, medoids: Tensor, step: int) -> dict[str, Tensor]:
        count = min(len(unit), self.candidates)
        tried = choice(len(unit), count, self.random_state, step)
        return {"medoids": swapped(unit, medoids, tried)}

    def _gates(self, x: Tensor) -> Tensor:
        labels = self.lines_.nearest(x)  # lengths do not matter
        return torch.nn.functional.one_hot(labels, self.n_pieces).to(x.dtype)

    def _reconstruct(self, x: Tensor) -> Tensor:
        stacked = Stacked(self.strata_.pieces)
        share = self._gates(x).to(stacked.member) @ stacked.member.T  # (m, R)
        return (share * stacked.measure(x.to(share))[1]) @ stacked.basis.T  # (m, R) @ (R, d)


def lines(unit: Tensor) -> Stacked:
    """The lines through the origin along (k, d) unit rows."""
    return Stacked([Subspace(row[:, None], torch.zeros_like(row)) for row in unit])


def sines(unit: Tensor, through: Stacked) -> Tensor:
    """(n, k) sine of the angle of each of n unit rows to each of k lines."""
    return through.squared_distances(unit).clamp_min(0).sqrt()


def swapped(unit: Tensor, medoids: Tensor, tried: Tensor) -> Tensor:
    """Medoids after one round of swaps: each candidate is tried in place of each medoid.

    Parameters
    ----------
    unit : Tensor
        (n, d) unit rows.
    medoids, tried : Tensor
        (K,) and (m,) rows.

    Returns
    -------
    Tensor
        (K,) rows; equal to ``medoids`` where no single swap with ``tried`` lowers the sum of sines.
    """
    medoids = medoids.clone()
    to_medoids = sines(unit, lines(unit[medoids]))  # (n, K)
    for block in tried.split(CANDIDATES):
        to_block = sines(unit, lines(unit[block]))  # (n, b)
        while True:
            change, cost = _changes(to_medoids, to_block)  # (b, K)
            change[torch.isin(block, medoids)] = 0
            new, old = divmod(int(change.argmin()), len(medoids))
            if float(change[new, old]) >= -GAIN * cost:
                break
            medoids[old] = block[new]
            to_medoids[:, old] = to_block[:, new]
    return medoids


def _changes(to_medoids: Tensor, to_block: Tensor) -> tuple[Tensor, float]:
    """What (b, K) the cost changes by if candidate b replaces medoid k, and the cost.

    A point goes to the candidate where that is nearer than its medoid; if its medoid is the one
    that leaves, to the candidate or the second nearest.
    """
    k = to_medoids.shape[1]
    change = to_block.new_zeros(to_block.shape[1], k, dtype=torch.float64)
    cost = 0.0
    for near, other in zip(to_medoids.split(ROWS), to_block.split(ROWS), strict=True):
        first, own = near.min(1, keepdim=True)  # (rows, 1)
        others = near.scatter(1, own, torch.inf).amin(1, keepdim=True)  # the second nearest
        stays = torch.minimum(other, first)
        leaves = torch.minimum(other, others) - stays  # (rows, b)
        member = torch.nn.functional.one_hot(own[:, 0], k).to(leaves)
        change += (leaves.T @ member).double()  # (b, rows) @ (rows, K)
        change += (stays - first).sum(0, dtype=torch.float64)[:, None]
        cost += float(first.sum(dtype=torch.float64))
    return change, cost


def _bic(spectrum: Spectrum) -> int:
    return bic_rank(spectrum.values, *spectrum.shape)


class Widths(NamedTuple):
    """Bounds of the normalised width of each cluster.

    Attributes
    ----------
    lower, upper : Tensor
        (K,) root mean square, and largest, distance of the unit rows to the best mean-square
        subspace.
    """

    lower: Tensor
    upper: Tensor


def normalized_width(x: Any, labels: Any, rank: int) -> Widths:
    """How far from the nearest subspace of this rank is the worst direction of each cluster?

    Parameters
    ----------
    x : array-like
        (n, d) points, none of them zero.
    labels : array-like
        (n,) integers from 0.
    rank : int
        N, the dimension of the subspace of each cluster.

    Returns
    -------
    Widths
        Bounds of inf over subspaces V of dimension N of sup over the points u of
        dist(u / |u|, V), the N-width of the cluster. No subspace has a smaller root mean square
        distance than the principal one, and the largest is at least the root mean square; the
        principal subspace itself attains the upper bound. A label without points has width zero.
    """
    unit = unit_rows(as_points(x))
    if not isinstance(rank, int) or not 0 <= rank <= unit.shape[1]:
        raise InputError(f"rank={rank!r}: give an integer from 0 to {unit.shape[1]}")
    found = Strata.of_labels(unit, labels, rank=rank, center=False)
    own = found.labels
    lower, upper = (unit.new_zeros(len(found.pieces), dtype=torch.float64) for _ in range(2))
    for k in own.unique().tolist():
        squared = found.pieces[k].residual(unit[own == k]).double()
        lower[k], upper[k] = squared.mean().sqrt(), squared.max().sqrt()
    return Widths(lower, upper)
