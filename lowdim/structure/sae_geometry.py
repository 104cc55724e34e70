"""How do the features of a sparse autoencoder lie in space? (Li et al. 2024)

Three scales. *Galaxy*, in this file: the eigenvalues of the cloud of decoder directions fall like
a power of their rank, and the cloud is clumped as far as its entropy lies below that of the normal
distribution with its covariance. *Brain*, :mod:`lowdim.structure.lobes`: features that fire
together lie together. *Atoms*, :mod:`lowdim.structure.crystals`: pairs of features with one and
the same difference.

Cost: the covariance of the cloud, some searches of nearest neighbours in a few dimensions, and
that of the lobes.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from lowdim.core.estimate import Estimate
from lowdim.core.neighbors import Neighbors
from lowdim.core.points import as_points, distinct
from lowdim.core.random import normal
from lowdim.core.spectrum import Spectrum
from lowdim.core.subspace import Subspace
from lowdim.errors import InputError
from lowdim.registry import method, points, spectrum
from lowdim.structure.lobes import Lobes, cooccurrence, lobes
from lowdim.structure.omp import SparseCodes


@dataclass(frozen=True, kw_only=True)
class SpectrumSlope(Estimate):
    """The power of the rank by which eigenvalues fall; ``value`` is a of rank^-a.

    Attributes
    ----------
    first, last : int
        Ranks that the line was fitted to.
    r2 : float
        Share of the variation of the log eigenvalues that it explains.
    """

    first: int
    last: int
    r2: float


@method(
    "structure/spectrum-slope",
    needs=spectrum(),
    paper="Li et al. 2024",
    arxiv="2410.19750",
    cost="O(d)",
    invariant=("permutation", "rotation", "translation", "scale"),
)
def spectrum_slope(spectrum: Spectrum, *, first: int = 1, last: int | None = None) -> SpectrumSlope:
    """By which power of their rank do the eigenvalues of a cloud fall?

    Parameters
    ----------
    spectrum : Spectrum
        Of the points.
    first, last : int
        Ranks of the least-squares line through (log rank, log eigenvalue), both counted; by
        default the upper half of the eigenvalues above zero.

    Raises
    ------
    InputError
        Fewer than three eigenvalues above zero in the range.

    Notes
    -----
    Trust it where ``r2`` is above 0.95 and the range spans a decade of ranks: any smooth fall has
    a slope. The smallest eigenvalues bend down where points are few, and are left out by default.
    """
    values = spectrum.values[spectrum.values > 0]
    last = max(3, (len(values) + 1) // 2) if last is None else last
    if not 1 <= first <= last - 2 or last > len(values):
        raise InputError(
            f"first={first}, last={last}: a slope needs three of the {len(values)} eigenvalues "
            "above zero"
        )
    x = torch.arange(first, last + 1, dtype=torch.float64, device=values.device).log()
    y = values[first - 1 : last].double().log()
    x, y = x - x.mean(), y - y.mean()
    slope = (x * y).sum() / x.square().sum()
    left = (y - slope * x).square().sum()
    return SpectrumSlope(
        value=-float(slope), n=spectrum.shape[0], exact=spectrum.exact, first=first, last=last,
        r2=float(1 - left / y.square().sum()) if bool(y.any()) else 1.0,
    )  # fmt: skip


@dataclass(frozen=True, kw_only=True)
class ClusteringEntropy(Estimate):
    """Nats by which a cloud's entropy lies below the normal one's; ``value`` has no bias for that.

    Attributes
    ----------
    raw : float
        The gap as the nearest neighbours give it.
    reference : float
        Mean gap of as many normal points: the bias of the estimator.
    standard_deviation : float
        Of the gap between draws of such points.
    z_score : float
        ``value`` in these units.
    components : int
        Principal components that were kept.
    """

    raw: float
    reference: float
    standard_deviation: float
    z_score: float
    components: int


@method(
    "structure/clustering-entropy",
    needs=points(distinct=True),
    paper="Li et al. 2024; Kozachenko and Leonenko 1987",
    arxiv="2410.19750",
    cost="1 + draws neighbour searches in components dimensions",
    invariant=("permutation", "rotation", "translation", "scale"),
    deep=True,
)
def clustering_entropy(
    x: Tensor, *, components: int = 5, k: int = 5, draws: int = 20, seed: int = 0,
    memory: int | float | str | None = None,
) -> ClusteringEntropy:  # fmt: skip
    """How clumped is a cloud, against a normal one of equal covariance?

    Parameters
    ----------
    x : Tensor
        (n, d) distinct points.
    components : int
        Leading principal components that are looked at, fewer where the cloud has fewer.
    k : int
        Which nearest neighbour's distance the entropy is estimated from.
    draws : int
        Normal samples for the bias and the noise, at least two.
    seed : int
        Of those.
    memory : int, float or str, optional
        Budget of the searches.

    Raises
    ------
    InputError
        Fewer than two draws, fewer points than ``components`` and ``k`` need, rows that are equal
        in the leading components.

    Notes
    -----
    Trust it in few components: the entropy of n points by nearest neighbours sees clumps only
    where these hold more than k points, and n points are sparse beyond ten dimensions. The
    gap does not depend on the scale of each component, so the cloud is whitened first, which
    keeps the bias equal to that of the normal reference. Zero is what a normal cloud reads; a
    uniform one or a heavy tail reads above it as well as clusters do.
    """
    spectrum = Spectrum.of_points(x, vectors=True, memory=memory)
    kept = min(components, int((spectrum.values > 1e-12 * spectrum.values[0]).sum()))
    n = len(x)
    if draws < 2 or k < 1 or not 1 <= kept < n - k:
        raise InputError(
            f"{n} points of rank {kept} with components={components}, k={k}, draws={draws}: give "
            "two draws or more, and more points than components and neighbours together"
        )
    leading = Subspace.of_spectrum(spectrum, rank=kept)
    raw = _gap(leading.project(x.double()), k, memory)
    null = torch.tensor(
        [_gap(normal((n, kept), seed, i, dtype=torch.float64), k, memory) for i in range(draws)]
    )
    reference, spread = float(null.mean()), float(null.std())
    value = raw - reference
    return ClusteringEntropy(
        value=value, n=n, exact=False, seed=seed, raw=raw, reference=reference,
        standard_deviation=spread, z_score=value / spread, components=kept,
    )  # fmt: skip


def _gap(x: Tensor, k: int, memory: int | float | str | None) -> float:
    """Entropy of the normal fit of (n, r) points less the Kozachenko-Leonenko estimate."""
    n, r = x.shape
    centered = x - x.mean(0)
    values, vectors = torch.linalg.eigh(centered.T @ centered / n)
    white = centered @ vectors / values.sqrt()
    reach = Neighbors.of_points(white, k, memory=memory).distances[:, -1]
    if not bool((reach > 0).all()):
        raise InputError(f"{int((reach == 0).sum())} rows have {k} equals in these components")
    ball = r / 2 * math.log(math.pi) - math.lgamma(r / 2 + 1)
    digamma = torch.special.digamma(torch.tensor([n, k], dtype=torch.float64))
    own = float(digamma[0] - digamma[1] + r * reach.log().mean()) + ball
    return r / 2 * math.log(2 * math.pi * math.e) - own


@dataclass(frozen=True, eq=False)
class SAEGeometry:
    """The shape of a dictionary at two scales.

    Attributes
    ----------
    slope : SpectrumSlope
        Of the eigenvalues of the decoder's directions.
    clumping : ClusteringEntropy
        Of the same cloud.
    lobes : Lobes
        Of the features that fire.
    """

    slope: SpectrumSlope
    clumping: ClusteringEntropy
    lobes: Lobes


def sae_geometry(
    decoder: Any, activations: Tensor | SparseCodes, *, n_lobes: int = 3, kind: str = "phi",
    block: int = 256, components: int = 5, permutations: int = 200, random_state: int = 0,
    memory: int | float | str | None = None,
) -> SAEGeometry:  # fmt: skip
    """How do the features of a sparse autoencoder lie, and do those that fire together lie near?

    Parameters
    ----------
    decoder : array-like
        (m, d), the direction of each feature in a row.
    activations : Tensor or SparseCodes
        (n, m) codes of n tokens in their order, dense or sparse.
    n_lobes, kind, permutations, random_state
        See :func:`lowdim.structure.lobes.lobes`.
    block : int
        Tokens within which two features count as firing together.
    components : int
        See :func:`clustering_entropy`.
    memory : int, float or str, optional
        Budget; a table of m x m numbers has to fit it.

    Raises
    ------
    InputError
        NaN or Inf, shapes that do not fit, too few features that fire.
    MemoryBudgetError
        The table of firings does not fit.
    """
    directions = as_points(decoder, name="decoder")
    width = len(directions) if isinstance(activations, SparseCodes) else None
    table = cooccurrence(activations, width, block=block, memory=memory)
    return SAEGeometry(
        spectrum_slope(Spectrum.of_points(directions, memory=memory)),
        clustering_entropy(
            distinct(directions)[0], components=components, seed=random_state, memory=memory
        ),
        lobes(
            directions, table, n_lobes, kind=kind, permutations=permutations,
            random_state=random_state, memory=memory,
        ),
    )  # fmt: skip
