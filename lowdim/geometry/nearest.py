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

    Returns
    -------
    Tensor
        (n, k), ascending in each row.

    Raises
    ------
    InputError
        A distance of zero: the logarithm of a ratio has no value for two equal points. Or
        neighbours of queries in another set, which share theirs in another way.
    """
    if len(neighbors) != neighbors.n_reference:
        raise InputError(
            f"these are neighbours of {len(neighbors)} queries in {neighbors.n_reference} others: "
            "a dimension is read off the points' own, Neighbors.of_points(x, k)"
        )
    distances = neighbors.head(k).distances.double()
    zero = distances[:, 0] == 0
    if bool(zero.any()):
        raise InputError(
            f"row {int(zero.nonzero()[0])} equals another row ({int(zero.sum())} such rows): "
            "merge duplicates first, lowdim.core.points.distinct(x)[0]"
        )
    return distances


def as_dimension(
    value: float, influence: Tensor, indices: Tensor, *, notes: tuple[str, ...] = (),
    per_point: Tensor | None = None,
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
    """
    n = len(influence)
    if n < FEWEST:
        notes = (*notes, f"{n} rows are too few for an interval")
        return Dimension(value=value, n=n, notes=notes, per_point=per_point)
    error = standard_error(influence, indices)
    spread = math.exp(Z95 * error / value)  # the error of log d does not depend on d
    return Dimension(
        value=value, low=value / spread, high=value * spread, n=n, standard_error=error,
        notes=notes, per_point=per_point,
    )  # fmt: skip


def standard_error(influence: Tensor, indices: Tensor) -> float:
    """How uncertain is the mean of local quantities whose neighbourhoods overlap?

    Two sums over dependent pairs; the larger is taken, so that the interval errs on the wide side:

    * every pair joined by an edge of the neighbour graph counts in full: right where dimension is
      high and a neighbour's neighbour is far away;
    * every pair counts by the share of neighbours that it has in common (a Bartlett kernel on
      the graph, never negative): right where dimension is low and neighbourhoods nearly coincide.

    Parameters
    ----------
    influence : Tensor
        (n,) float64 with mean zero.
    indices : Tensor
        (n, k) neighbours of each row.

    Notes
    -----
    O(nk log(nk)). Simulated on flat tori of dimension 1 to 10, the 95% intervals of TwoNN and MLE
    made with it hold the mean of the estimator in 90% to 98% of draws from 500 rows on, and in
    85% to 95% at 100 rows.
    """
    n, k = indices.shape
    rows = torch.arange(n, device=indices.device)[:, None].expand(n, k)
    pair = (torch.minimum(rows, indices) * n + torch.maximum(rows, indices)).unique()
    edges = (influence[pair // n] * influence[pair % n]).sum()
    joined = influence.square().sum() + 2 * edges
    held = influence.new_zeros(n)  # for each point, the sum over the rows that it neighbours
    held.index_add_(0, indices.reshape(-1), influence.repeat_interleave(k))
    shared = held.square().sum() / k
    return math.sqrt(float(torch.maximum(joined, shared))) / n
