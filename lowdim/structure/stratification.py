"""Is one smooth piece enough? A test with two ways to say no, each with its own null hypothesis.

Pieces are found on one half of the points and tested on the other. One smooth piece is rejected

* for **pieces of different dimension**, only if two things hold at once (an intersection-union
  test, Berger 1982: each at the full level, the larger p-value counts). The pieces code unseen
  points in fewer nats than every single model of :mod:`lowdim.structure.held_out`: a normal
  distribution never rejects this way. And the local dimension (Levina and Bickel 2004), which
  knows nothing of the pieces, differs between two groups of them by more than a factor ``ratio``: a
  curved piece of one dimension, which several flat ones do describe better, does not reject;
* for **separate places**, if the graph of the k nearest neighbours still falls into large parts at
  a k at which one connected piece would hang together.

The two ways share the level (Bonferroni). Which groups of pieces are compared is settled on the
first half, so each p-value is of one comparison on points that had no part in choosing it.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components
from scipy.stats import binom, norm
from sklearn.base import clone
from torch import Tensor

from lowdim.core.estimate import Estimate
from lowdim.core.neighbors import Neighbors
from lowdim.core.points import as_points, distinct
from lowdim.core.shards import Held
from lowdim.errors import InputError
from lowdim.geometry.nearest import separations, standard_error
from lowdim.registry import method, points
from lowdim.structure.base import PieceFinder
from lowdim.structure.choose import PER_PIECE, choose_pieces, halves
from lowdim.structure.held_out import held_out, noise_floor, strata_logs
from lowdim.structure.k_subspaces import KSubspaces

FEWEST = 80  # points below which a half holds too few for two pieces
MOST_NEIGHBORS = 32  # of the graph that is looked at for separate places
PLACE = 0.05  # share of the points that a place holds, at least
CANDIDATES = (2, 3, 4, 6, 8)  # numbers of pieces: enough of them, since none is reported as true
RESTARTS, STEPS = 4, 30  # of the default finder
LEAST = 10  # points of a half that a group of pieces needs to have a dimension


@dataclass(frozen=True, kw_only=True)
class StratificationTest(Estimate):
    """Whether one smooth piece is enough; ``value`` is the p-value of both ways together.

    Attributes
    ----------
    rejected : bool
        Whether ``value`` is at most ``size``.
    size : float
        The level of the test.
    ratio : float
        Factor within which dimensions count as equal.
    n_pieces : int
        K, of the pieces compared with a single one.
    strata_p, gap_p : float
        P-value of each way alone: pieces of different dimension, separate places.
    code_p, dimension_p : float
        Of the two parts of ``strata_p``, which is the larger of them.
    gains : dict
        By the name of a single model: nats a point that the pieces save, and the standard error.
    parameters : dict
        Free numbers of each model.
    dims : tuple of float
        Local dimension of each piece on the second half; NaN for a piece without points there.
    sizes : tuple of int
        Points of the second half on each piece.
    dimension_ratio : float
        Local dimension of the group of higher over that of lower dimension.
    apart, places : int
        The largest k at which the graph of k nearest neighbours falls into places of at least 5%
        of the points (0: at none), and into how many.
    """

    rejected: bool
    size: float
    ratio: float
    n_pieces: int
    strata_p: float
    gap_p: float
    code_p: float
    dimension_p: float
    gains: dict[str, tuple[float, float]]
    parameters: dict[str, int]
    dims: tuple[float, ...]
    sizes: tuple[int, ...]
    dimension_ratio: float
    apart: int
    places: int

    @property
    def verdict(self) -> str:
        """What was found with its p-values, and what cannot be told, in sentences."""
        share = self.size / 2
        name = min(self.gains, key=lambda name: self.gains[name][0])
        gain, error = self.gains[name]
        save = (
            f"{self.n_pieces} pieces save {gain:.3g} ± {error:.2g} nats a point on {name}, the "
            f"best single model ({_said(self.code_p)})"
        )
        differ = (
            f"local dimension differs {self.dimension_ratio:.2f}-fold between two groups of them "
            f"({_said(self.dimension_p)} for a factor above {self.ratio:g})"
        )
        apart = (
            f"the graph of {self.apart} nearest neighbours falls into {self.places} places "
            f"({_said(self.gap_p)})"
        )
        if not self.rejected:
            bent = " as they do for a curved piece," if self.code_p <= share else ""
            said = [
                f"One smooth piece is not ruled out by {self.n} points ({_said(self.value)})",
                f"{save},{bent} and {differ}",
                apart if self.apart else "the neighbour graph hangs together",
            ]
            blind = (
                f"pieces of equal dimension that meet, dimensions within a factor {self.ratio:g}, "
                "noise wider than the spacing of neighbours"
            )
        else:
            said = [f"One smooth piece is not enough ({_said(self.value)})"]
            if self.strata_p <= share:
                said.append(f"pieces of different dimension: {save}, and {differ}")
            if self.gap_p <= share:
                said.append(f"separate places: {apart}")
            blind = "a gap from a deep valley, a border from a steep change, the number of pieces"
        return "; ".join(said) + f". Not told: {blind}."

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON values, the verdict among them."""
        return super().to_dict() | {"verdict": self.verdict}

    def __str__(self) -> str:
        return self.verdict


@dataclass(frozen=True, eq=False)
class Half:
    """One half of the points with its graph: the pieces they are on, the local dimensions."""

    labels: Tensor  # (n,)
    inverse: Tensor  # (n,) estimates of 1 / dimension
    indices: Tensor  # (n, k) neighbours

    @classmethod
    def of(cls, x: Tensor, labels: Tensor, k: int, memory: int | float | str | None) -> Half:
        """The nearest neighbours of these points, and what is read off them."""
        near = Neighbors.of_points(x, k, memory=memory)
        r = separations(near, k)
        inverse = (r[:, -1:] / r[:, :-1]).log().mean(1)
        if not bool((inverse > 0).any()):
            raise InputError(f"every point has its {k} nearest at one distance: points on a grid")
        return cls(labels, inverse, near.indices)

    def contrast(self, high: Tensor) -> tuple[float, float]:
        """Log-ratio of the dimensions on and off the pieces marked in (K,), and its error."""
        on = high[self.labels]
        if min(int(on.sum()), int((~on).sum())) < LEAST:
            return 0.0, 0.0
        means = [self.inverse[part].mean() for part in (on, ~on)]
        if not min(means) > 0:
            return 0.0, 0.0
        n = len(on)
        influence = torch.where(
            on,
            (means[0] - self.inverse) / means[0] * n / on.sum(),
            (self.inverse - means[1]) / means[1] * n / (~on).sum(),
        )
        return float((means[1] / means[0]).log()), standard_error(influence, self.indices)


@method(
    "structure/stratification-test",
    needs=points(),
    paper="the combination is ours; Berger 1982; Levina and Bickel 2004",
    cost="6 fits of K-subspaces on up to half of the points, and 3 searches of neighbours",
    invariant=("rotation", "translation", "scale"),
    deep=True,
)
def stratification_test(
    x: Any,
    *,
    n_pieces: int | str = "auto",
    finder: PieceFinder | None = None,
    level: float = 0.05,
    ratio: float = 1.25,
    k: int = 10,
    random_state: int = 0,
    memory: int | float | str | None = None,
) -> StratificationTest:
    """Is one smooth piece enough for these points?

    Parameters
    ----------
    x : array-like
        (n, d) points; exact duplicates are merged.
    n_pieces : int or "auto"
        Pieces to compare with one; by default chosen on the first half by
        :func:`lowdim.structure.choose.choose_pieces`, at least 2.
    finder : PieceFinder, optional
        What finds the pieces; `KSubspaces` by default.
    level : float
        Largest chance of a rejection where one piece is enough.
    ratio : float
        Dimensions within this factor of each other count as equal: about what boundaries and
        uneven density do to nearest-neighbour dimensions of a single piece.
    k : int
        Neighbours that a local dimension is read from.
    random_state : int
        Draws the halves, and is the seed of the default finder.
    memory : int, float or str, optional
        Budget of each neighbour search and of the default finder.

    Raises
    ------
    InputError
        Fewer than 80 distinct points, NaN or Inf, points on a grid, or an option that cannot be.

    Notes
    -----
    Trust a rejection where it holds for several values of ``random_state``, and read which way it
    came about. It keeps its level with room to spare: the ratio guards against what density and
    curvature do to local dimensions (1.18-fold in the median between parts of a bent 5-dimensional
    normal sheet, n = 500), so equal dimensions are hardly ever called different.
    Heavy tails on a strongly bent sheet might exceed it: raise ``ratio`` then. Trust a "not ruled
    out" only for what can be told: pieces of one dimension that meet are not, nor those in
    noise wider than the spacing of neighbours, where every local dimension is that of the noise.
    """
    if k < 3:
        raise InputError(f"k={k}: a local dimension needs at least 3 neighbours")
    if not 0 < level < 1 or not ratio >= 1:
        raise InputError(f"level={level}, ratio={ratio}: a level in (0, 1), a ratio of at least 1")
    given = as_points(x)
    merged = distinct(given)[0]
    n = len(merged)
    if n < FEWEST:
        raise InputError(f"{n} distinct points: the test needs {FEWEST}, half to find pieces on")
    if finder is None:
        finder = KSubspaces(
            2, n_restarts=RESTARTS, max_iter=STEPS, random_state=random_state, memory=memory
        )
    first, second = halves(Held(merged), random_state, memory)
    if n_pieces == "auto":
        most = max(2, len(first) // (2 * PER_PIECE))
        candidates = [pieces for pieces in CANDIDATES if pieces <= most]
        n_pieces = choose_pieces(finder, first, candidates, random_state=random_state).n_pieces
    if not isinstance(n_pieces, int) or n_pieces < 2:
        raise InputError(f"n_pieces={n_pieces!r}: give 'auto' or at least 2 pieces")
    strata = clone(finder).set_params(n_pieces=n_pieces).fit(first).strata_
    codes = held_out(strata, first, second, random_state=random_state)
    floor = noise_floor(first)
    one, two = (
        Half.of(half, strata_logs(strata, first, half, floor=floor).argmax(1), k, memory)
        for half in (first, second)
    )
    read = len(first) + len(second)
    said = {
        f"{len(given) - n} exact duplicates merged": len(given) > n,
        f"a sample of {read} of {n} points": read < n,
    }
    gains = {name: codes.gain(name) for name in codes.codes if name != "pieces"}
    code_p = max(_tail(gain, error) for gain, error in gains.values())
    log_ratio, error = two.contrast(_higher(one, n_pieces, ratio))
    dimension_p = _tail(log_ratio - math.log(ratio), error)
    gap_p, apart, places = _gap(torch.cat([first, second]), memory)
    strata_p = max(code_p, dimension_p)
    value = min(1.0, 2 * min(strata_p, gap_p))
    counts = torch.bincount(two.labels, minlength=n_pieces)
    sums = torch.zeros(n_pieces).double().index_add_(0, two.labels, two.inverse)
    return StratificationTest(
        value=value, n=read, exact=False, seed=random_state,
        notes=tuple(note for note, holds in said.items() if holds),
        rejected=value <= level, size=level, ratio=ratio, n_pieces=n_pieces,
        strata_p=strata_p, gap_p=gap_p, code_p=code_p, dimension_p=dimension_p,
        gains=gains, parameters={name: code.parameters for name, code in codes.codes.items()},
        dims=tuple((counts / sums).tolist()), sizes=tuple(counts.tolist()),
        dimension_ratio=math.exp(log_ratio), apart=apart, places=places,
    )  # fmt: skip


def _said(p: float) -> str:
    """A p-value in words; what underflows is below the smallest normal number."""
    return f"p = {p:.2g}" if p else "p < 1e-300"


def _tail(value: float, error: float) -> float:
    """Chance of a standard normal above value / error."""
    if error == 0:
        return float(value <= 0)
    return float(norm.sf(value / error))


def _higher(half: Half, k: int, ratio: float) -> Tensor:
    """(K,) the pieces of higher dimension: the cut of their order that stands out the most."""
    sums = torch.zeros(k).double().index_add_(0, half.labels, half.inverse)
    order = (sums / torch.bincount(half.labels, minlength=k)).argsort()  # highest first
    best, chosen = -math.inf, torch.zeros(k, dtype=torch.bool)
    for size in range(1, k):
        high = torch.zeros(k, dtype=torch.bool)
        high[order[:size]] = True
        log_ratio, error = half.contrast(high)
        z = (log_ratio - math.log(ratio)) / error if error else -math.inf
        if z > best:
            best, chosen = z, high
    return chosen


def _gap(x: Tensor, memory: int | float | str | None) -> tuple[float, int, int]:
    """P-value of the neighbour graph falling apart, the k up to which it does, and into how many.

    On a line of even density no edge of the graph crosses a gap only if it is wider than the k
    spacings on either side of it: the last of three Poisson clocks, of which the other two have to
    tick k times first. There are n gaps, so n times this chance bounds the p-value; in more
    dimensions a whole surface has to be empty, which is rarer.
    """
    n, most = len(x), min(MOST_NEIGHBORS, len(x) - 1)
    near = Neighbors.of_points(x, most, memory=memory).indices.numpy()
    apart, places = 0, 1
    for k in range(most, 0, -1):
        ends = np.arange(n).repeat(k), near[:, :k].flatten()
        graph = coo_array((np.ones(n * k, dtype=np.int8), ends), shape=(n, n))
        sizes = np.bincount(connected_components(graph, directed=False)[1])
        if (places := int((sizes >= PLACE * n).sum())) > 1:
            apart = k
            break
    if not apart:
        return 1.0, 0, 1
    trials = np.arange(2 * apart, 200 + 40 * apart)  # ticks on either side before the gap ends
    both = binom.sf(apart - 1, trials, 0.5) - binom.sf(trials - apart, trials, 0.5)
    return min(1.0, n * float(((2 / 3) ** trials / 3) @ both)), apart, places
