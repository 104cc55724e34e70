"""What the nearest-neighbour estimators share: checked distances and an honest standard error.

Neighbouring points share neighbours, so their local estimates move together, and the standard
error that treats n points as n independent draws is a fifth to a third too small.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from lowdim.core.estimate import Estimate
from lowdim.errors import InputError

if TYPE_CHECKING:
    from lowdim.core.neighbors import Neighbors

Z95 = 1.959964
FEWEST = 50  # rows below which the spread of the influences says too little for an interval


@dataclass(frozen=True, kw_only=True)
class Dimension(Estimate):
    """An intrinsic dimension.

    Attributes
    ----------
    standard_error : float or None
        Of ``value``, overlap of neighbourhoods counted; None below 50 rows. It covers sampling,
        not bias: boundaries pull the value down, curvature within the k nearest pushes it up.
    """

    standard_error: float | None = None


def separations(neighbors: Neighbors, k: int) -> Tensor:
    """Distances to the ``k`` nearest points in float64, all of them above zero.

    The rows may be the reference points themselves, or queries in a reference set that holds none
    of them: ratios of distances follow the same law seen from either.

    Returns
    -------
    Tensor
        (n, k), ascending in each row.

    Raises
    ------
    InputError
        A distance of zero: the logarithm of a ratio has no value for two equal points.
    """
    distances = neighbors.head(k).distances.double()
    zero = distances[:, 0] == 0
    if bool(zero.any()):
        row, count = int(zero.nonzero()[0]), int(zero.sum())
        if is_own(neighbors):
            raise InputError(
                f"row {row} equals another row ({count} such rows): "
                "merge duplicates first, lowdim.core.points.distinct(x)[0]"
            )
        raise InputError(
            f"query {row} equals a point of the reference set ({count} such queries): "
            "leave the reference points out of the queries"
        )
    return distances


def is_own(neighbors: Neighbors) -> bool:
    """Whether the rows are the reference points themselves, and not queries from outside.

    Told by their number. As many queries as reference points would pass for the points themselves:
    the estimate is the same, and the error takes a few pairs for joined that are not.
    """
    return len(neighbors) == neighbors.n_reference


def as_dimension(
    value: float, influence: Tensor, indices: Tensor, *, n_reference: int | None = None,
    notes: tuple[str, ...] = (), per_point: Tensor | None = None,
) -> Dimension:  # fmt: skip
    """Wrap an estimated dimension up with its 95% interval.

    Parameters
    ----------
    value : float
        The estimate, close to its true value plus the mean of the influences.
    influence : Tensor
        (n,) how much each row moves the estimate, mean zero.
    indices : Tensor
        (n, k) the neighbours that each influence was computed from.
    n_reference : int, optional
        Points that were searched, where the rows may be queries from outside.
    """
    error = standard_error(influence, indices, n_reference=n_reference)
    return with_interval(value, error, len(influence), notes=notes, per_point=per_point)


def with_interval(
    value: float, error: float, n: int, *, notes: tuple[str, ...] = (),
    per_point: Tensor | None = None,
) -> Dimension:  # fmt: skip
    """A dimension with the 95% interval that a standard error gives its logarithm."""
    if n < FEWEST:
        notes = (*notes, f"{n} rows are too few for an interval")
        return Dimension(value=value, n=n, notes=notes, per_point=per_point)
    spread = math.exp(Z95 * error / value)  # the error of log d does not depend on d
    return Dimension(
        value=value, low=value / spread, high=value * spread, n=n, standard_error=error,
        notes=notes, per_point=per_point,
    )  # fmt: skip


def mean_of_local(local: Tensor, neighbors: Neighbors, k: int) -> Dimension:
    """Average local dimensions over the points that have one, with the interval.

    Points with all the distances in question equal have none (it would be infinite): they are
    left out of the mean and counted in a note.

    Parameters
    ----------
    local : Tensor
        (n,) float64, infinite where the neighbours tie.
    neighbors : Neighbors
        Those that the local dimensions were computed from the ``k`` nearest of.

    Raises
    ------
    InputError
        Not one point has a finite local dimension.
    """
    finite = torch.isfinite(local)
    ties = len(local) - int(finite.sum())
    if ties == len(local):
        raise InputError(f"every point has its {k} nearest at one distance: points on a grid")
    value = float(local[finite].mean())
    share = len(local) / (len(local) - ties)  # a row that counts moves the mean by so much more
    influence = torch.where(finite, (local - value) * share, 0)
    note = f"{ties} points with all neighbours at one distance: left out of the mean"
    return as_dimension(
        value, influence, neighbors.head(k).indices, n_reference=neighbors.n_reference,
        notes=(note,) if ties else (), per_point=local,
    )  # fmt: skip


def standard_error(influence: Tensor, indices: Tensor, *, n_reference: int | None = None) -> float:
    """How uncertain is the mean of local quantities whose neighbourhoods overlap?

    Two sums over dependent pairs; the larger is taken, so that the interval errs on the wide side:

    * every pair joined by an edge of the neighbour graph counts in full: right where dimension is
      high and a neighbour's neighbour is far away;
    * every pair counts by the share of neighbours that it has in common (a Bartlett kernel on
      the graph, never negative): right where dimension is low and neighbourhoods nearly coincide.

    Queries from outside are no neighbours of each other, so the first sum has no pairs; the second
    counts that they share the points of the reference set, however many queries there are.

    Parameters
    ----------
    influence : Tensor
        (n,) float64 with mean zero.
    indices : Tensor
        (n, k) neighbours of each row.
    n_reference : int, optional
        Points that were searched; other than n where the rows are queries from outside.

    Notes
    -----
    O(nk log(nk)). Simulated on flat tori of dimension 1 to 10, the 95% intervals of TwoNN and MLE
    made with it hold the mean of the estimator in 90% to 98% of draws from 500 rows on, and in
    85% to 95% at 100 rows. For 1,000 to 10,000 queries in 200 to 1,000 others, the error it states
    is 0.8 to 1.9 times the true one (the naive one is down to 0.4 times it).
    """
    n, k = indices.shape
    joined = influence.square().sum()
    if n_reference in (None, n):
        rows = torch.arange(n, device=indices.device)[:, None].expand(n, k)
        pair = (torch.minimum(rows, indices) * n + torch.maximum(rows, indices)).unique()
        joined = joined + 2 * (influence[pair // n] * influence[pair % n]).sum()
    held = influence.new_zeros(n_reference or n)  # for each point, the sum over rows that hold it
    for column in indices.unbind(1):  # one at a time: n numbers in flight, not n k
        held.index_add_(0, column, influence)
    shared = held.square().sum() / k
    return math.sqrt(float(torch.maximum(joined, shared))) / n
