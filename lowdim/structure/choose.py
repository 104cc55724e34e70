"""How many pieces? As few as describe unseen points as well as the best number does.

Each candidate is fitted to a training half and codes the other half as a mixture of probabilistic
PCA (:mod:`lowdim.structure.held_out`). The number chosen is the smallest whose mean code length
lies within one standard error of the shortest (Breiman et al. 1984), where the error is that of the
paired difference between the two, since both code the same points.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from sklearn.base import clone
from torch import Tensor

from lowdim.core.points import as_points
from lowdim.core.progress import Progress, Silent
from lowdim.core.random import choice
from lowdim.errors import InputError
from lowdim.structure.base import PieceFinder
from lowdim.structure.estimator import open_source
from lowdim.structure.held_out import noise_floor, paired, piece_parameters, strata_nats

MOST = 10  # pieces tried by default
PER_PIECE = 20  # points of the training half that a piece has at least, on average, by default
SAMPLE = 20_000  # points that the number is chosen on


@dataclass(frozen=True)
class Choice:
    """How one number of pieces describes the held-out points.

    Attributes
    ----------
    n_pieces : int
        K.
    nats : float
        Mean code length of a held-out point.
    behind : float
        Nats a point more than the shortest code among the candidates.
    standard_error : float
        Of ``behind``, paired over the points.
    parameters : int
        Free numbers of the mixture.
    dims : tuple of int
        Dimension of each piece.
    """

    n_pieces: int
    nats: float
    behind: float
    standard_error: float
    parameters: int
    dims: tuple[int, ...]


@dataclass(frozen=True)
class PieceChoice:
    """The number of pieces, and the table that it was read off.

    Attributes
    ----------
    n_pieces : int
        The smallest number within one standard error of the shortest code.
    table : tuple of Choice
        One row a candidate, ascending.
    """

    n_pieces: int
    table: tuple[Choice, ...]


def choose_pieces(
    finder: PieceFinder,
    x: Any,
    candidates: Iterable[int] | None = None,
    *,
    random_state: int = 0,
    memory: int | float | str | None = None,
    progress: Progress | None = None,
) -> PieceChoice:
    """How many pieces are worth their parameters on points not seen?

    Parameters
    ----------
    finder : PieceFinder
        What finds the pieces; cloned for each candidate, never fitted itself.
    x : array-like, path or source
        (n, d) points; 20,000 of them at most are used.
    candidates : iterable of int, optional
        Numbers of pieces; by default 1 to 10, as far as the training half has 20 points a piece.
    random_state : int
        Draws the training half.
    memory : int, float or str, optional
        Budget for the points read.
    progress : Progress, optional
        Where it is reported to.

    Raises
    ------
    InputError
        NaN or Inf, equal points only, no candidates, or one above the points of the training half.

    Notes
    -----
    Cost: one fit a candidate on half of the points. Trust it as a lower bound: pieces that overlap
    more than the sample resolves are counted as one, and a curved piece as the several flat ones
    that describe it. The number grows with n for data that are not made of flat pieces.
    """
    train, test = halves(open_source(x), random_state, memory)
    most = max(1, min(MOST, len(train) // PER_PIECE))
    numbers = sorted(set(range(1, most + 1) if candidates is None else candidates))
    if not numbers:
        raise InputError("candidates is empty: give at least one number of pieces")
    advance = (progress or Silent()).task("number of pieces")
    floor = noise_floor(train)
    fits = []
    for done, k in enumerate(numbers):
        strata = clone(finder).set_params(n_pieces=k).fit(train).strata_
        fits.append((strata, strata_nats(strata, train, test, floor=floor)))
        advance(done + 1, len(numbers))
    best = min((nats for _, nats in fits), key=lambda nats: float(nats.mean()))
    rows = []
    for k, (strata, nats) in zip(numbers, fits, strict=True):
        behind, error = paired(nats, best)
        rows.append(
            Choice(k, float(nats.mean()), behind, error, piece_parameters(strata), strata.dims)
        )
    chosen = next(row.n_pieces for row in rows if row.behind <= row.standard_error)
    return PieceChoice(chosen, tuple(rows))


def halves(
    source: Any, random_state: int, memory: int | float | str | None = None
) -> tuple[Tensor, Tensor]:
    """Two random halves of the points, or of 20,000 of them, in float64."""
    if source.n < 8:
        raise InputError(f"{source.n} points: too few to fit on one half and score on the other")
    rows = choice(source.n, min(source.n, SAMPLE), random_state)
    order = rows.argsort()  # files are read in their order
    x = as_points(source.take(rows[order], memory)).double()[order.argsort()]
    return x[: len(x) // 2], x[len(x) // 2 :]
