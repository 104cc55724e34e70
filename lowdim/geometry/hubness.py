"""Do a few points sit in everybody's neighbour list (Radovanovic, Nanopoulos, Ivanovic 2010)?"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch

from lowdim.core.estimate import Estimate
from lowdim.registry import method, neighbors

if TYPE_CHECKING:
    from lowdim.core.neighbors import Neighbors


@dataclass(frozen=True, kw_only=True)
class Hubness(Estimate):
    """Skewness of the k-occurrence; ``per_point`` holds the counts.

    Attributes
    ----------
    anti_hubs : float
        Share of points that are in nobody's list, and so are never found.
    largest : int
        How many lists the greatest hub is in; k would be its fair share.
    """

    anti_hubs: float
    largest: int


@method(
    "geometry/hubness",
    needs=neighbors(k=10),
    paper="Radovanovic et al. 2010",
    cost="O(nk)",
    invariant=("permutation", "rotation", "translation", "scale"),
)
def hubness(neighbors: Neighbors, *, k: int = 10) -> Hubness:
    """Do a few points crowd all neighbour lists: how skewed is the count of lists a point is in?

    Between 0 and 1 on plain low-dimensional data, above 2 where search results suffer.

    Parameters
    ----------
    neighbors : Neighbors
        With at least ``k`` columns.
    k : int
        Length of the lists.

    Notes
    -----
    Trust it for the set as it stands: it grows with n and with intrinsic dimension, so compare sets
    of one size. Skewness rests on the few largest counts and needs n in the high hundreds.
    """
    indices = neighbors.head(k).indices.reshape(-1)
    counts = torch.bincount(indices, minlength=neighbors.n_reference).double()  # (n,)
    excess = counts - counts.mean()
    spread = excess.square().mean().sqrt()
    skewness = float((excess**3).mean() / spread**3) if spread > 0 else 0.0
    return Hubness(
        value=skewness,
        n=len(counts),
        per_point=counts,
        anti_hubs=float((counts == 0).double().mean()),
        largest=int(counts.max()),
    )
