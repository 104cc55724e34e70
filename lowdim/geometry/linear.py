"""Linear dimension and isotropy: read-outs of one spectrum of the centred points.

How many directions carry the variance, and how evenly? None of them sees curvature: a curve can
fill every direction. All cost O(d) once the spectrum is there, and all inherit its small-sample
bias: with few rows, isotropic data look anisotropic.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import torch

from lowdim.core.estimate import Estimate
from lowdim.core.spectrum import Spectrum
from lowdim.registry import method, spectrum

INVARIANT = ("permutation", "rotation", "translation", "scale")


@method(
    "geometry/participation-ratio",
    needs=spectrum(center=True),
    paper="Gao et al. 2017",
    cost="O(d)",
    invariant=INVARIANT,
)
def participation_ratio(spectrum: Spectrum) -> Estimate:
    """Over how many directions is the variance spread: (sum of energies)^2 / sum of squares?

    Notes
    -----
    Trust it when n is well above d: n isotropic rows read about n d / (n + d), not d. A few
    outlier coordinates rule it; look at outlier-dimensions beside it.
    """
    return _read(spectrum, spectrum.participation_ratio())


@method(
    "geometry/rank-90",
    needs=spectrum(center=True),
    paper="Jolliffe 2002",
    cost="O(d)",
    invariant=INVARIANT,
)
def rank_90(spectrum: Spectrum) -> Estimate:
    """How few principal directions hold 90% of the variance?

    Notes
    -----
    Trust it as the size of a PCA, not as a count of degrees of freedom; with n below ten times d
    it reads low, since the fitted directions also follow the noise of the sample.
    """
    return _read(spectrum, spectrum.rank_at(0.9))


@method(
    "geometry/rank-99",
    needs=spectrum(center=True),
    paper="Jolliffe 2002",
    cost="O(d)",
    invariant=INVARIANT,
)
def rank_99(spectrum: Spectrum) -> Estimate:
    """How few principal directions hold 99% of the variance?

    Notes
    -----
    Trust it as for rank-90; the last nine percent are mostly noise where the data are noisy, so
    this one grows with the noise level and with n.
    """
    return _read(spectrum, spectrum.rank_at(0.99))


@dataclass(frozen=True, kw_only=True)
class Anisotropy(Estimate):
    """Share of variance along the first direction.

    Attributes
    ----------
    null : float
        What isotropic data of the same shape would read (upper Marchenko-Pastur edge).
    """

    null: float


@method(
    "geometry/anisotropy",
    needs=spectrum(center=True),
    paper="Razzhigaev et al. 2024",
    arxiv="2311.05928",
    cost="O(1)",
    invariant=INVARIANT,
)
def anisotropy(spectrum: Spectrum) -> Anisotropy:
    """Which share of the variance lies along one single direction?

    Notes
    -----
    Trust it against its ``null``: n isotropic rows give (1 + sqrt(d/n))^2 / d and not 1/d. A large
    value may be one huge coordinate or one direction across all; outlier-dimensions tells which.
    """
    n, d = spectrum.shape
    null = min(1.0, (1 + math.sqrt(d / n)) ** 2 / d)
    return _read(spectrum, 1 / spectrum.stable_rank(), Anisotropy, null=null)


@method(
    "geometry/isoscore",
    needs=spectrum(center=True),
    paper="Rudman et al. 2022",
    arxiv="2108.07344",
    cost="O(d)",
    invariant=INVARIANT,
)
def isoscore(spectrum: Spectrum) -> Estimate:
    """How evenly are the directions used, from 0 (one) to 1 (all alike)?

    The published steps amount to (participation ratio - 1) / (d - 1); one column scores 1.

    Notes
    -----
    Trust it when n is well above d, as the participation ratio: n isotropic rows read about
    n / (n + d), not 1. Compare only sets of the same n and d.
    """
    d = spectrum.shape[1]
    ratio = spectrum.participation_ratio()
    return _read(spectrum, (ratio - 1) / (d - 1) if d > 1 else 1.0)


@dataclass(frozen=True, kw_only=True)
class EarlyEnrichment(Estimate):
    """Area between the cumulative energies and the diagonal.

    Attributes
    ----------
    sum_form : float
        The other normalisation in use, 2/d times the plain sum over k: 1 - 1/d for one direction
        where ``value``, the trapezoid, is (1 - 1/d)^2.
    """

    sum_form: float


@method(
    "geometry/early-enrichment",
    needs=spectrum(center=True),
    paper="Marbut et al. 2023",
    arxiv="2212.08172",
    cost="O(d)",
    invariant=INVARIANT,
)
def early_enrichment(spectrum: Spectrum) -> EarlyEnrichment:
    """How early do the leading directions gather the variance, from 0 (evenly) to 1 (at once)?

    Notes
    -----
    Trust it when n is well above d: the sorted sample spectrum of isotropic data is not flat
    (it reads about 0.18 at n = 10 d, 0.55 at n = d). Less swayed by one huge direction than the
    participation ratio.
    """
    p = spectrum.probabilities()
    d = spectrum.shape[1]
    held = torch.ones(d, dtype=p.dtype, device=p.device)
    held[: len(p)] = p.cumsum(0)
    excess = held - torch.arange(1, d + 1, dtype=p.dtype, device=p.device) / d  # (d,)
    area = float(torch.trapezoid(excess)) / (d / 2)
    return _read(spectrum, area, EarlyEnrichment, sum_form=2 / d * float(excess.sum()))


def _read(spectrum: Spectrum, value: float, kind: type[Any] = Estimate, **fields: float) -> Any:
    n, d = spectrum.shape
    notes = (f"{n} rows show at most {n - 1} of {d} directions",) if n <= d else ()
    return kind(value=float(value), n=n, exact=spectrum.exact, notes=notes, **fields)
