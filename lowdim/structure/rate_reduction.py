"""Rates of points as measures: how many nats a point costs, and what cutting by labels saves.

Both read unit rows, as Yu et al. 2020 do, for a rate grows with the scale; the functions and the
losses are in :mod:`lowdim.structure.coding_rate`.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from lowdim.core.estimate import Estimate
from lowdim.core.points import unit_rows
from lowdim.core.random import permutation
from lowdim.core.spectrum import Spectrum
from lowdim.geometry.labels import as_classes
from lowdim.registry import labelled, method, spectrum
from lowdim.structure.coding_rate import check_eps, coding_rate, label_rate


@dataclass(frozen=True, kw_only=True)
class CodingRate(Estimate):
    """Nats a point.

    Attributes
    ----------
    share : float
        Of the largest rate that as many unit rows in as many columns can have.
    """

    share: float


@method(
    "structure/coding-rate",
    needs=spectrum(center=False, unit=True),
    paper="Ma et al. 2007; Yu et al. 2020",
    arxiv="2006.08558",
    cost="O(d)",
    invariant=("permutation", "rotation", "scale", "row-scale"),
)
def coding_rate_of_spectrum(spectrum: Spectrum, *, eps: float = 0.5) -> CodingRate:
    """How many nats does it take to say where a point lies, to within eps?

    Parameters
    ----------
    spectrum : Spectrum
        Of the uncentred second moment of unit rows.
    eps : float
        Distortion.

    Raises
    ------
    InputError
        ``eps`` not above zero, or energies that are not all known.

    Notes
    -----
    Trust it to compare sets of equal d at one ``eps``; ``share`` compares across d. A common mean
    direction counts as one direction like any other, as in the paper. Beyond energies of
    eps^2 / d a direction counts by the logarithm of its energy, below hardly at all.
    """
    n, d = spectrum.shape
    check_eps(eps)
    energies = spectrum.probabilities() * spectrum.total
    value = float(torch.log1p(energies * (d / eps**2)).sum()) / 2
    side = min(n, d)
    largest = side / 2 * math.log1p(d / (side * eps**2))
    return CodingRate(value=value, n=n, share=value / largest)


@dataclass(frozen=True, kw_only=True)
class RateReduction(Estimate):
    """R - R^c, and what it is made of.

    Attributes
    ----------
    rate, compressed : float
        R of all points, and R^c of the points cut by their labels.
    chance : float or None
        Mean of R - R^c over random orders of the labels: not zero, since small parts of any cloud
        code cheaply.
    p_value : float or None
        Share of those orders (and of the true one) that reach ``value``.
    zeros : float
        Share of the entries of the points that are exactly zero.
    """

    rate: float
    compressed: float
    chance: float | None
    p_value: float | None
    zeros: float


@method(
    "structure/rate-reduction",
    needs=labelled(),
    paper="Yu et al. 2020",
    arxiv="2006.08558",
    cost="O(permutations n d min(n, d))",
    invariant=("permutation", "rotation", "scale", "row-scale"),
)
def rate_reduction(
    x: Tensor, y: Any, *, eps: float = 0.5, permutations: int = 19, seed: int = 0
) -> RateReduction:
    """How much is saved by coding each class by itself?

    Parameters
    ----------
    x : Tensor
        (n, d) points; their directions count.
    y : sequence
        n labels.
    eps : float
        Distortion.
    permutations : int
        Random orders of the labels for ``chance``; none for 0.
    seed : int
        Of those orders.

    Raises
    ------
    InputError
        NaN or Inf, a zero row, not one label a row, one class only.

    Notes
    -----
    Trust the difference to ``chance``, never the value alone: it is above zero for any labels, and
    the more so the smaller the classes are beside d. It is large where every class spans few
    directions and no two classes share them; two classes on opposite sides of the origin along
    one line share theirs.
    """
    x, code, _ = as_classes(x, y)
    z = unit_rows(x).double()
    rate = float(coding_rate(z, eps))
    compressed = float(label_rate(z, code, eps))
    orders = (permutation(len(z), seed, stream, z.device) for stream in range(permutations))
    null = torch.tensor([rate - float(label_rate(z, code[order], eps)) for order in orders])
    value = rate - compressed
    return RateReduction(
        value=value, n=len(z), seed=seed if permutations else None,
        rate=rate, compressed=compressed,
        chance=float(null.mean()) if permutations else None,
        p_value=(1 + int((null >= value).sum())) / (1 + permutations) if permutations else None,
        zeros=float((x == 0).double().mean()),
    )  # fmt: skip


def rate_by_layer(
    layers: Sequence[Any], y: Any, *, eps: float = 0.5, permutations: int = 0, seed: int = 0
) -> list[RateReduction]:
    """Do the classes of a network's representations part as they pass its layers?

    Parameters
    ----------
    layers : sequence of array-like
        (n, d_l) representations of the same rows, in the order of the network.
    y, eps, permutations, seed
        As for :func:`rate_reduction`, which reads each layer.

    Notes
    -----
    Trust the course of R^c / R and of ``zeros`` with depth; rates of layers of different width are
    not in the same units.
    """
    options: dict[str, Any] = {"eps": eps, "permutations": permutations, "seed": seed}
    return [rate_reduction(x, y, **options) for x in layers]
