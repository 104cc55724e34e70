"""Maximum-likelihood intrinsic dimension, global and at every point (Levina and Bickel 2004).

Around each point the k - 1 log-ratios log(r_k / r_j) are exponential with rate d, so their mean is
an unbiased estimate of 1/d, and (k - 2) / (k - 1) over it one of d. Levina and Bickel average the
local dimensions; MacKay and Ghahramani (2005) average their *inverses*, which is the likelihood of
all points together. Cost O(nk), memory a few (n, k) arrays.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from torch import Tensor

from lowdim.errors import InputError
from lowdim.geometry.nearest import Dimension, as_dimension, mean_of_local, separations
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
    inverse, notes = _inverses(neighbors, k)  # (n,)
    value = float(1 / inverse.mean())
    influence = -(value**2) * (inverse - inverse.mean())
    return as_dimension(
        value, influence, neighbors.head(k).indices, n_reference=neighbors.n_reference,
        notes=notes, per_point=(k - 2) / (k - 1) / inverse,
    )  # fmt: skip


@method(
    "geometry/mle-levina-bickel",
    needs=neighbors(k=20),
    paper="Levina and Bickel 2004",
    cost="O(nk)",
    oracle="skdim.id.MLE",
    invariant=("permutation", "rotation", "translation", "scale"),
)
def mle_levina_bickel(neighbors: Neighbors, *, k: int = 20) -> Dimension:
    """What is the mean, over points, of the number of directions the data can move in?

    The mean of the unbiased local dimensions, with k - 2; ``per_point`` holds them.

    Parameters
    ----------
    neighbors : Neighbors
        Of distinct points, or of queries among others, with at least ``k`` columns.
    k : int
        Scale, as in :func:`mle`.

    Raises
    ------
    InputError
        Duplicates, k < 3, or every point with all its neighbours at one distance.

    Notes
    -----
    Trust it as you trust :func:`mle`. Where one dimension holds everywhere the two agree; where it
    differs from place to place this one is the mean over the
    points, while :func:`mle` is their harmonic mean and leans to the flat places. A gap
    between the two therefore says that the dimension is not the same everywhere. Points with all
    neighbours at one distance have no finite local dimension and are left out, with a note.
    """
    inverse, _ = _inverses(neighbors, k)  # (n,)
    return mean_of_local((k - 2) / (k - 1) / inverse, neighbors, k)


def _inverses(neighbors: Neighbors, k: int) -> tuple[Tensor, tuple[str, ...]]:
    """(n,) unbiased estimates of 1/d, and a note where some of them are zero."""
    if k < 3:
        raise InputError(f"k={k}: maximum likelihood needs at least 3 neighbours")
    r = separations(neighbors, k)  # (n, k)
    inverse = (r[:, -1:] / r[:, :-1]).log().mean(1)
    flat = int((inverse == 0).sum())
    if flat == len(inverse):
        raise InputError(f"every point has its {k} nearest at one distance: points on a grid")
    note = f"{flat} points with all neighbours at one distance: infinite local dimension"
    return inverse, (note,) if flat else ()
