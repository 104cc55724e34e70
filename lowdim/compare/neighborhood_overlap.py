"""Do two representations agree on who is close to whom (Doimo et al. 2020)?

chi_k = 1/(n k) sum_ij A_ij B_ij, with A and B the adjacency matrices of the k nearest neighbours:
the share of a row's k neighbours in one representation that are its neighbours in the other too.
Costs two neighbour searches, or none where the neighbours are known.
"""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from lowdim.core.estimate import Estimate
from lowdim.core.neighbors import Neighbors
from lowdim.core.points import as_points
from lowdim.errors import InputError
from lowdim.registry import method, pair


@dataclass(frozen=True, kw_only=True)
class Overlap(Estimate):
    """Share of common neighbours.

    Attributes
    ----------
    null : float
        What unrelated representations share: k / (n - 1).
    """

    null: float


@method(
    "compare/neighborhood-overlap",
    needs=pair(),
    paper="Doimo et al. 2020; Viswanathan et al. 2025",
    cost="O(n^2 d) for the searches, O(n k^2) beyond",
    invariant=("permutation", "rotation", "translation", "scale"),
)
def neighborhood_overlap(
    x: Tensor, y: Tensor, *, k: int = 10, memory: int | float | str | None = None
) -> Overlap:
    """Which share of a point's k nearest in x is among its k nearest in y?

    ``per_point`` holds the share of each row.

    Parameters
    ----------
    x, y : Tensor
        (n, d1) and (n, d2), rows correspond.
    k : int
        Neighbours of each row.
    memory : int, float or str, optional
        Budget of the searches.

    Raises
    ------
    InputError
        Different numbers of rows, or no more than ``k``.

    Notes
    -----
    Trust it as a measure of change that rotation, scale and every direction without neighbours in
    it leave alone, against ``null``. It depends on k and n: compare at one k and one n. More than k
    copies of one row have neighbours chosen by their order alone.
    """
    x, y = as_points(x, min_rows=2), as_points(y, name="y", min_rows=2)
    if len(x) != len(y):
        raise InputError(f"x has {len(x)} rows and y {len(y)}: rows correspond")
    a, b = (Neighbors.of_points(points, k, memory=memory) for points in (x, y))
    share = shared(a.indices, b.indices)
    return Overlap(value=float(share.mean()), n=len(x), null=k / (len(x) - 1), per_point=share)


def shared(a: Tensor, b: Tensor) -> Tensor:
    """(n,) share of each row's (n, k) neighbours that two lists have in common."""
    return (a[:, :, None] == b[:, None, :]).any(2).double().mean(1)
