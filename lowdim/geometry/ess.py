"""Expected simplex skewness (Johnsson, Soneson, Fontes 2015): how orthogonal are random pairs?

Two vectors from the centre of a patch to two of its points span a parallelogram, whose area over
the product of their lengths is the sine of their angle. Weighted by the lengths, its mean grows
with the dimension from 0 on a line towards 1; on a ball it is Gamma(d/2)^2 / (Gamma((d + 1)/2)
Gamma((d - 1)/2)), and the mean absolute cosine Gamma(d/2) / (sqrt(pi) Gamma((d + 1)/2)).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

import numpy as np
import torch
from scipy.special import gammaln
from torch import Tensor

from lowdim.errors import InputError
from lowdim.geometry.nearest import Dimension, mean_of_local
from lowdim.geometry.patches import centered_gram, over_patches
from lowdim.registry import method, neighbors, points

if TYPE_CHECKING:
    from lowdim.core.neighbors import Neighbors

INVARIANT = ("permutation", "rotation", "translation", "scale")


@method(
    "geometry/ess",
    needs=(points(distinct=True), neighbors(k=30)),
    paper="Johnsson et al. 2015",
    cost="O(n k^2 d)",
    oracle="skdim.id.ESS(ver='a')",
    invariant=INVARIANT,
)
def ess(
    x: Tensor, neighbors: Neighbors, *, k: int = 30, queries: Tensor | None = None,
    memory: int | float | str | None = None,
) -> Dimension:  # fmt: skip
    """How close to a right angle do two random neighbours stand, and in which dimension is it so?

    The mean sine, all k (k - 1) / 2 pairs of a patch used. ``per_point`` holds local dimensions.

    Parameters
    ----------
    x : Tensor
        (n, d) distinct points.
    neighbors : Neighbors
        Of the same points, with at least ``k`` columns.
    k : int
        Points of a patch, at least 3, the point itself left out.
    queries : Tensor, optional
        (m, d) the points whose neighbours these are, where that is not ``x`` itself.
    memory : int, float or str, optional
        Budget of the blocks of patches.

    Raises
    ------
    InputError
        Duplicates, or k < 3.

    Notes
    -----
    Trust it, up to a dimension near k, as the one local estimate that needs no correction for
    boundaries or high dimension: 9.3 for a 10-dimensional cube, 19 for a 20-dimensional one,
    n = 1,500. It wants flat patches: curvature raises it more than the estimators from distances
    (a flat 5-torus of 1,500 points reads 7.4, TLE 6.3), and so does noise, the sine growing with
    its first power (2.4 for a 2-torus with noise of 2%).
    """
    return _read(mean_sine, expected_sine, x, neighbors, k, queries, memory)


@method(
    "geometry/ess-cosine",
    needs=(points(distinct=True), neighbors(k=30)),
    paper="Johnsson et al. 2015",
    cost="O(n k^2 d)",
    oracle="skdim.id.ESS(ver='b')",
    invariant=INVARIANT,
)
def ess_cosine(
    x: Tensor, neighbors: Neighbors, *, k: int = 30, queries: Tensor | None = None,
    memory: int | float | str | None = None,
) -> Dimension:  # fmt: skip
    """How small is the mean absolute cosine of two neighbours, and in which dimension is it so?

    The variant "b" of :func:`ess`, with the same arguments and errors.

    Notes
    -----
    Trust it as :func:`ess`; it feels faint noise less, by its square (2.2 where the sine reads
    2.4). Where the two disagree, the patches are not round.
    """
    return _read(mean_cosine, expected_cosine, x, neighbors, k, queries, memory)


def _read(
    skewness: Callable[[Tensor], Tensor], expected: Callable[[np.ndarray], np.ndarray],
    x: Tensor, neighbors: Neighbors, k: int, queries: Tensor | None,
    memory: int | float | str | None,
) -> Dimension:  # fmt: skip
    if k < 3:
        raise InputError(f"k={k}: simplex skewness needs at least 3 neighbours")
    seen = over_patches(
        lambda vectors: skewness(centered_gram(vectors)),
        x, neighbors, k, queries=queries, memory=memory,
    )  # fmt: skip
    return mean_of_local(dimension_of(seen, expected), neighbors, k)


def mean_sine(products: Tensor) -> Tensor:
    """Sum of the areas over all pairs, divided by that of the products of lengths.

    Parameters
    ----------
    products : Tensor
        (b, k, k) inner products about the mean of each patch.

    Returns
    -------
    Tensor
        (b,) float64.
    """
    squares = products.diagonal(dim1=1, dim2=2)  # (b, k)
    areas = torch.einsum("bi,bj->bij", squares, squares) - products.square()
    areas = areas.clamp_min_(0).sqrt_()
    areas.diagonal(dim1=1, dim2=2).zero_()
    return areas.sum((1, 2)).double() / _weights(squares)


def mean_cosine(products: Tensor) -> Tensor:
    """Sum of the absolute inner products over all pairs, divided by that of the lengths'."""
    squares = products.diagonal(dim1=1, dim2=2)
    return (products.abs().sum((1, 2)) - squares.sum(1)).double() / _weights(squares)


def _weights(squares: Tensor) -> Tensor:
    """Sum over all pairs of the product of their lengths, (b,)."""
    lengths = squares.double().clamp_min(0).sqrt()
    return lengths.sum(1).square() - lengths.square().sum(1)


def expected_sine(d: np.ndarray) -> np.ndarray:
    """Mean sine of the angle between two random directions in d dimensions, 0 at d = 1."""
    with np.errstate(divide="ignore"):  # Gamma(0) = inf
        log = 2 * gammaln(d / 2) - gammaln((d + 1) / 2) - gammaln((d - 1) / 2)
    return np.exp(log)


def expected_cosine(d: np.ndarray) -> np.ndarray:
    """Mean absolute cosine of the angle between two random directions in d dimensions."""
    return np.exp(gammaln(d / 2) - gammaln((d + 1) / 2)) / np.sqrt(np.pi)


def dimension_of(seen: Tensor, expected: Callable[[np.ndarray], np.ndarray]) -> Tensor:
    """The dimension at which ``expected`` takes these values, linear between whole dimensions."""
    dims = np.arange(1.0, 33.0)
    curve = expected(dims)
    rising = curve[1] > curve[0]
    extreme = float(seen.max() if rising else seen.min())
    while (curve[-1] <= extreme) == rising:
        dims = np.arange(1.0, 2 * len(dims) + 1)
        curve = expected(dims)
    if not rising:
        dims, curve = dims[::-1], curve[::-1]
    return torch.from_numpy(np.interp(seen.numpy(force=True), curve, dims)).to(seen.device)
