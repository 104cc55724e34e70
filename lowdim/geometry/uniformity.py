"""How far unit vectors are from evenly spread over the sphere, and whether they share a direction.

Both read the spectrum of the centred unit rows, whose energies sum to 1 - |mean|^2.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from lowdim.core.estimate import Estimate
from lowdim.core.points import unit_rows
from lowdim.core.spectrum import Spectrum
from lowdim.errors import InputError
from lowdim.registry import method, spectrum

INVARIANT = ("permutation", "rotation", "scale", "row-scale")


@method(
    "geometry/uniformity",
    needs=spectrum(center=True, unit=True),
    paper="Fang et al. 2024",
    arxiv="2403.00642",
    cost="O(d)",
    invariant=INVARIANT,
)
def uniformity(spectrum: Spectrum) -> Estimate:
    """How far are the unit vectors from even over the sphere, 0 (even) to sqrt(2) (one point)?

    The quadratic Wasserstein distance between a Gaussian with the mean and covariance S of the
    unit rows and N(0, I/d), the large-d limit of the even distribution. Unit rows have
    |mean|^2 + tr S = 1, so it is sqrt(2 - 2 tr(S^1/2) / sqrt(d)).

    Notes
    -----
    Trust it for comparing sets of the same n and d, with n well above d: even vectors read about
    sqrt(d/n)/2 above 0. Unlike the pairwise-potential form of uniformity it feels dead
    dimensions: r used of d gives sqrt(2 - 2 sqrt(r/d)).
    """
    if not spectrum.complete:
        raise InputError(
            f"uniformity needs all {min(spectrum.shape)} values of the spectrum and this one holds "
            f"{len(spectrum.values)}: compute it with method='exact'"
        )
    n, d = spectrum.shape
    trace = float(spectrum.singular_values.sum())  # of S^1/2
    value = math.sqrt(max(0.0, 2 - 2 * trace / math.sqrt(d)))
    return Estimate(value=value, n=n, exact=spectrum.exact)


def uniformity_of(h: Tensor) -> Tensor:
    """The same for a batch, with gradients: add it to a loss to spread the representation.

    Parameters
    ----------
    h : Tensor
        (n, d) rows, none of them zero.

    Returns
    -------
    Tensor
        A scalar with finite gradients also where the batch does not span all directions or is one
        point: tr(S^1/2) is a sum of singular values, whose gradient has no pole.

    Notes
    -----
    O(n d min(n, d)).
    """
    z = unit_rows(h)
    n, d = z.shape
    trace = torch.linalg.svdvals(z - z.mean(0)).sum() / math.sqrt(n)  # of S^1/2
    return (2 - 2 * trace / math.sqrt(d)).clamp_min(torch.finfo(z.dtype).eps).sqrt()


@method(
    "geometry/mean-cosine",
    needs=spectrum(center=True, unit=True),
    paper="Ethayarajh 2019",
    arxiv="1909.00512",
    cost="O(1)",
    invariant=INVARIANT,
)
def mean_cosine(spectrum: Spectrum) -> Estimate:
    """How alike do two random rows point: the mean cosine over all pairs?

    Exact, without a pair being formed: the squared length of the mean unit vector, less the n
    pairs of a row with itself.

    Notes
    -----
    Trust it as a measure of a common offset (it tells how much centring would change cosine
    search), not of isotropy: a large mean hides any spread around it, and centred data on one
    line read 0.
    """
    n = spectrum.shape[0]
    if n < 2:
        raise InputError("mean-cosine compares pairs of rows: at least 2 rows are needed")
    squared = 1 - spectrum.total  # |mean|^2 = 1 - tr S
    return Estimate(value=(n * squared - 1) / (n - 1), n=n)
