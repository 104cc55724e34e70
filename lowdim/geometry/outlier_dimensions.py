"""Coordinates with far more variance than the rest (Kovaleva et al. 2021; Rudman et al. 2023).

A property of the axes, not of the cloud: a rotation removes it and keeps the principal directions.

Whether such a coordinate also *knows* something is a second question, that of
:mod:`lowdim.geometry.one_dimension_classifier`.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from scipy.stats import hypergeom

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


@dataclass(frozen=True, kw_only=True)
class Persistence(Estimate):
    """Share of the outlier coordinates before that are outliers after.

    Attributes
    ----------
    kept : tuple of int
        Coordinates in both sets.
    expected : float
        The share that sets of these sizes have in common by chance.
    p_value : float
        That chance keeps so many or more (hypergeometric).
    """

    kept: tuple[int, ...]
    expected: float
    p_value: float


def persistence(before: Iterable[int], after: Iterable[int], dim: int) -> Persistence:
    """Did fine-tuning keep the outlier coordinates?

    Parameters
    ----------
    before, after : iterable of int
        Sets of coordinates, such as ``outlier_dimensions(...).coordinates``.
    dim : int
        How many coordinates there are.

    Raises
    ------
    InputError
        ``before`` is empty, or a coordinate is not below ``dim``.
    """
    old, new = set(before), set(after)
    if not old:
        raise InputError("there are no outlier coordinates before: nothing can persist")
    if not all(0 <= i < dim for i in old | new):
        raise InputError(f"coordinates go from 0 to {dim - 1}, dim={dim}")
    kept = old & new
    return Persistence(
        value=len(kept) / len(old), n=len(old), kept=tuple(sorted(kept)), expected=len(new) / dim,
        p_value=float(hypergeom.sf(len(kept) - 1, dim, len(old), len(new))),
    )  # fmt: skip
