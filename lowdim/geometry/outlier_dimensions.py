"""Coordinates with far more variance than the rest (Kovaleva et al. 2021; Rudman et al. 2023).

A property of the axes, not of the cloud: a rotation removes it and keeps the principal directions.
"""

from __future__ import annotations

from dataclasses import dataclass

from lowdim.core.estimate import Estimate
from lowdim.core.spectrum import Spectrum
from lowdim.errors import InputError
from lowdim.registry import method, spectrum


@dataclass(frozen=True, kw_only=True)
class OutlierDimensions(Estimate):
    """How many coordinates stand out, and which.

    Attributes
    ----------
    coordinates : tuple of int
        Columns, the largest variance first.
    ratios : tuple of float
        Their variance over the mean variance.
    """

    coordinates: tuple[int, ...]
    ratios: tuple[float, ...]


@method(
    "geometry/outlier-dimensions",
    needs=spectrum(center=True),
    paper="Rudman et al. 2023",
    arxiv="2310.17715",
    cost="O(d)",
    invariant=("permutation", "translation", "scale"),
)
def outlier_dimensions(spectrum: Spectrum, *, ratio: float = 5.0) -> OutlierDimensions:
    """Which coordinates have more than five times the mean variance?

    Parameters
    ----------
    spectrum : Spectrum
        Of centred points, with the energy of each coordinate.
    ratio : float
        How many times the mean variance makes an outlier.

    Raises
    ------
    InputError
        The spectrum does not hold the energy of each coordinate, or all are zero.

    Notes
    -----
    Trust it for hidden states in the model's own basis; after PCA or whitening it says nothing,
    and with d below ``ratio`` no coordinate can pass. With fewer than about 50 rows heavy tails
    alone can make one.
    """
    if spectrum.diagonal is None:
        raise InputError(
            "this spectrum does not know its coordinates: make it of points, Spectrum.of_points(x)"
        )
    variance = spectrum.diagonal
    if not float(variance.mean()) > 0:
        raise InputError("all energies are zero: every row is the same, so there is no spread")
    relative = variance / variance.mean()  # (d,)
    order = relative.argsort(descending=True, stable=True)
    order = order[relative[order] > ratio]
    return OutlierDimensions(
        value=float(len(order)),
        n=spectrum.shape[0],
        coordinates=tuple(order.tolist()),
        ratios=tuple(relative[order].tolist()),
    )
