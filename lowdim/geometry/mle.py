"""Maximum-likelihood intrinsic dimension, global and at every point (Levina and Bickel 2004).

Around each point the k - 1 log-ratios log(r_k / r_j) are exponential with rate d. Their mean is
an unbiased estimate of 1/d; over points it is the *inverses* that are averaged, as MacKay and
Ghahramani (2005) pointed out, since the mean of local dimensions is biased upwards.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from lowdim.errors import InputError
from lowdim.geometry.nearest import Dimension, as_dimension, separations
from lowdim.registry import method, neighbors

if TYPE_CHECKING:
    from lowdim.core.neighbors import Neighbors


@method(
    "geometry/mle",
    needs=neighbors(k=20),
    paper="Levina and Bickel 2004; MacKay and Ghahramani 2005",
    cost="O(nk)",
    oracle="skdim.id.MLE",
    invariant=("permutation", "rotation", "translation", "scale"),
)
def mle(neighbors: Neighbors, *, k: int = 20) -> Dimension:
    """How many directions can the data move in, around each point and in all?

    ``per_point`` holds the local dimension of every row, the unbiased version with k - 2.

    Parameters
    ----------
    neighbors : Neighbors
        Of distinct points, with at least ``k`` columns.
    k : int
        Scale: more neighbours give less noise (a local estimate has a relative error of about
        1/sqrt(k - 3)) and more bias from boundaries and curvature.

    Raises
    ------
    InputError
        Duplicates, k < 3, or every point with all its neighbours at one distance.

    Notes
    -----
    Trust it up to a dimension of about 10 from 1,000 rows; beyond, the k nearest neighbours span
    the whole cloud and it reads low, more so than TwoNN (8.1 for a 10-dimensional cube, 14 for a
    20-dimensional one, n = 2,000). Compare the two: TwoNN far above MLE
    means noise at the small scale. Of per-point values trust the histogram or the median; one
    point alone is uncertain by a quarter at k = 20.
    """
    if k < 3:
        raise InputError(f"k={k}: maximum likelihood needs at least 3 neighbours")
    r = separations(neighbors, k)  # (n, k)
    inverse = (r[:, -1:] / r[:, :-1]).log().mean(1)  # (n,) unbiased for 1/d
    flat = int((inverse == 0).sum())
    if flat == len(inverse):
        raise InputError(f"every point has its {k} nearest at one distance: points on a grid")
    notes = (f"{flat} points with all neighbours at one distance: infinite local dimension",)
    value = float(1 / inverse.mean())
    influence = -(value**2) * (inverse - inverse.mean())
    return as_dimension(
        value, influence, neighbors.head(k).indices, notes=notes if flat else (),
        per_point=(k - 2) / (k - 1) / inverse,
    )  # fmt: skip
