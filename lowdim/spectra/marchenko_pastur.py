"""How much of a weight matrix is noise, and how many directions stand out of it?

An (N, M) matrix of independent entries with variance sigma^2 has eigenvalues of W W^T / max(N, M)
that follow the Marchenko-Pastur law of ratio min/max: a bulk with a sharp upper edge. A trained
matrix is read as such a bulk plus outliers. The noise variance comes from the median (outliers do
not move it), the edge from the Tracy-Widom law of the largest noise eigenvalue, so that a matrix
of pure noise shows any outlier at all in about 5% of cases.

Marchenko & Pastur 1967; Johnstone 2001 and Ma 2012 (edge); Gavish & Donoho 2014 (median);
O'Rourke 2010 (how far a median eigenvalue moves); Benaych-Georges & Nadakuditi 2012 (what can be
seen). Cost: O(r) for r values.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from scipy.optimize import brentq
from torch import Tensor

from lowdim.core.estimate import Estimate
from lowdim.core.spectrum import Spectrum
from lowdim.registry import matrix, method

TW1_MEAN, TW1_SD, TW1_95 = -1.2065336, 1.2680340, 0.9793160
"""Mean, standard deviation and 95% quantile of the Tracy-Widom law for real matrices."""

FEW = 10
"""Below this many values a bulk cannot be told from outliers; the result says so."""


@dataclass(frozen=True, kw_only=True)
class MarchenkoPastur(Estimate):
    """Bulk and outliers of a matrix; ``value`` is the number of outliers.

    Attributes
    ----------
    sigma2 : float
        Variance of one entry of the noise.
    edge : float
        The energy (squared singular value) beyond which noise alone goes in 5% of matrices.
    outlier_energy : float
        Share of the total energy that the outliers hold.
    ks : float
        Largest distance between the distribution of the values inside the edge and a law fitted
        to them alone: near 0 where they are noise, large where there is no such bulk to speak of.
    detectable : float
        Energy that a planted direction must have to show outside the bulk at all.
    """

    sigma2: float
    edge: float
    outlier_energy: float
    ks: float
    detectable: float

    @property
    def singular_edge(self) -> float:
        """The edge as a singular value."""
        return math.sqrt(self.edge)


@method(
    "spectra/marchenko-pastur",
    needs=matrix(),
    paper="Gavish & Donoho 2014; Johnstone 2001",
    arxiv="1305.5870",
    cost="O(r)",
    invariant=("permutation", "rotation", "scale"),
)
def marchenko_pastur(spectrum: Spectrum) -> MarchenkoPastur:
    """How many singular values stand out of what noise of the same size would give?

    Parameters
    ----------
    spectrum : Spectrum
        All squared singular values of the matrix.

    Returns
    -------
    MarchenkoPastur
        ``value`` is the number of outliers.

    Raises
    ------
    InputError
        The matrix is all zeros, or the spectrum is truncated.

    Notes
    -----
    Of a matrix of rank r < min(shape) the r positive values are read as those of an (r, max)
    matrix, which is exact where rows or columns of the shorter side are zero.
    """
    rank, side = int(spectrum.effective_rank(0)), max(spectrum.shape)
    energies = spectrum.values[:rank]
    sigma2 = _variance(energies, side)

    # largest eigenvalue of sigma2-noise: Tracy-Widom with Ma's centring, accurate for small sides
    a, b = math.sqrt(rank - 0.5), math.sqrt(side - 0.5)
    centre, scale = (a + b) ** 2, (a + b) * (1 / a + 1 / b) ** (1 / 3)
    mean, sd = centre + TW1_MEAN * scale, TW1_SD * scale
    # the median itself moves by sqrt(log rank)/pi places among the values, and sigma2 with it
    places = math.sqrt(math.log(rank) + 0.5) / math.pi
    median = torch.tensor(mp_median(rank / side), dtype=torch.float64)
    slip = places / (rank * float(median * mp_density(median, rank / side)))
    margin = (TW1_95 - TW1_MEAN) / TW1_SD * math.hypot(sd, mean * slip)
    edge = sigma2 * (mean + margin)

    outliers = int((energies > edge).sum())
    bulk, left = energies[outliers:], side - outliers  # noise less k directions: both sides shrink
    notes = []
    if rank < min(spectrum.shape):
        notes.append(f"rank {rank} of {min(spectrum.shape)}: the bulk is fitted to rank x {side}")
    if rank < FEW:
        notes.append(f"{rank} positive singular values are too few to tell a bulk from outliers")
    return MarchenkoPastur(
        value=outliers,
        n=min(spectrum.shape),
        exact=spectrum.exact,
        notes=tuple(notes),
        sigma2=sigma2,
        edge=edge,
        outlier_energy=float(energies[:outliers].sum()) / spectrum.total,
        ks=mp_distance(bulk / (left * _variance(bulk, left)), len(bulk) / left),
        detectable=sigma2 * math.sqrt(rank * side),
    )


def _variance(energies: Tensor, side: int) -> float:
    """Noise variance at which the median of these energies is that of the law."""
    return float(energies.quantile(0.5)) / (side * mp_median(len(energies) / side))


def mp_density(x: Tensor, ratio: float) -> Tensor:
    """How dense are the eigenvalues at ``x``? Marchenko-Pastur law of unit variance.

    Parameters
    ----------
    x : Tensor
        Eigenvalues of W W^T / max(shape), entries of W having variance one.
    ratio : float
        Shorter over longer side, in (0, 1].

    Returns
    -------
    Tensor
        Same shape; zero outside ``(1 - sqrt(ratio))^2, (1 + sqrt(ratio))^2``.
    """
    low, high = (1 - math.sqrt(ratio)) ** 2, (1 + math.sqrt(ratio)) ** 2
    inside = ((high - x) * (x - low)).clamp_min(0).sqrt()
    return inside / (2 * math.pi * ratio * x)


def mp_cdf(x: Tensor, ratio: float) -> Tensor:
    """What share of the eigenvalues lies below ``x``? Closed form, units as :func:`mp_density`."""
    cosine = (x - 1 - ratio) / (2 * math.sqrt(ratio))
    return 1 - _survival(cosine.clamp(-1, 1).arccos(), ratio)


def mp_median(ratio: float) -> float:
    """Below which eigenvalue does half of the Marchenko-Pastur law of unit variance lie?"""

    def excess(angle: float) -> float:
        return float(_survival(torch.tensor(angle, dtype=torch.float64), ratio)) - 0.5

    return 1 + ratio + 2 * math.sqrt(ratio) * math.cos(brentq(excess, 0, math.pi))


def mp_distance(values: Tensor, ratio: float) -> float:
    """Kolmogorov-Smirnov distance of descending ``values`` (r,) to the law of unit variance."""
    above = 1 - mp_cdf(values, ratio)  # (r,) ascending
    steps = torch.arange(len(values) + 1, dtype=above.dtype, device=above.device) / len(values)
    return float(torch.maximum(above - steps[:-1], steps[1:] - above).max())


def _survival(angle: Tensor, ratio: float) -> Tensor:
    # x = 1 + ratio + 2 sqrt(ratio) cos(angle) turns the density into
    # (2 / pi) sin^2 / (1 + ratio + 2 sqrt(ratio) cos), which has no square root at the edges and
    # integrates from 0 (the upper edge) to:
    root = math.sqrt(ratio)
    turn = torch.atan2((1 - root) * (angle / 2).sin(), (1 + root) * (angle / 2).cos())
    whole = (1 + ratio) * angle - 2 * root * angle.sin() - 2 * (1 - ratio) * turn
    return whole / (2 * math.pi * ratio)
