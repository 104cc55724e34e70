"""Intrinsic dimension from the nearest of k neighbours over the next one (Rozza et al. 2012).

MiND-ML looks at rho = r_1 / r_(k+1), the smallest of k ratios that are independent draws with
distribution function rho^d, so its density is k d rho^(d-1) (1 - rho^d)^(k-1). The dimension that
maximises the likelihood over real numbers is the paper's MiND_MLk, that over whole numbers its
MiND_MLi. The likelihood is the one of :mod:`lowdim.geometry.gride` with n1 = 1 and n2 = k + 1.
Cost O(n), memory a few (n,) arrays.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from lowdim.errors import InputError
from lowdim.geometry.gride import of_ratios
from lowdim.geometry.nearest import Dimension, separations
from lowdim.registry import method, neighbors

if TYPE_CHECKING:
    from lowdim.core.neighbors import Neighbors


@dataclass(frozen=True, kw_only=True)
class MindML(Dimension):
    """A real intrinsic dimension (MiND_MLk).

    Attributes
    ----------
    whole : int
        The most likely whole number, at least 1 (MiND_MLi).
    """

    whole: int


@method(
    "geometry/mind-ml",
    needs=neighbors(k=21),
    paper="Rozza et al. 2012",
    cost="O(n)",
    oracle="skdim.id.MiND_ML",
    invariant=("permutation", "rotation", "translation", "scale"),
)
def mind_ml(neighbors: Neighbors, *, k: int = 20) -> MindML:
    """How many directions can the data move in, by how near the nearest of many neighbours is?

    Parameters
    ----------
    neighbors : Neighbors
        Of distinct points, or of queries among others, with at least ``k + 1`` columns.
    k : int
        Neighbours within the radius; k = 1 is TwoNN by maximum likelihood.

    Raises
    ------
    InputError
        Duplicates, k < 1, or every point with all its neighbours at one distance.

    Notes
    -----
    Trust it up to a dimension of about 10 from 1,000 rows, like every estimator from few
    neighbours. It asks for even density as far out as MLE does, but uses two of the k + 1
    distances, so its error is a quarter larger, and it is hardly less biased (8.2 to MLE's 8.1 for
    a 10-dimensional cube of 2,000 points); the nearest neighbour counts for more, and so does noise
    (2.7 to MLE's 2.4 for a 2-torus with noise of 2%). scikit-dimension's stops at ``D=10`` unless
    told otherwise, and its optimizer at times stays at the whole number it starts from; here
    nothing is capped.
    """
    if k < 1:
        raise InputError(f"k={k}: at least one neighbour within the radius")
    r = separations(neighbors, k + 1)  # (n, k + 1)
    found = of_ratios(r, 1, k + 1, neighbors)
    log_mu = (r[:, k] / r[:, 0]).log()
    below = max(1, math.floor(found.value))  # the likelihood is concave: only two can be best
    whole = max(below, below + 1, key=lambda d: _log_likelihood(d, log_mu, k))
    return MindML(
        value=found.value, low=found.low, high=found.high, n=found.n, notes=found.notes,
        standard_error=found.standard_error, whole=whole,
    )  # fmt: skip


def _log_likelihood(d: int, log_mu: Tensor, k: int) -> float:
    """Of d, over n and up to a constant; at a tie, the limit in which log_mu vanishes."""
    inside = torch.where(log_mu > 0, -(-d * log_mu).expm1(), d)
    return float(math.log(d) - (d - 1) * log_mu.mean() + (k - 1) * inside.log().mean())
