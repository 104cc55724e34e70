"""Spread by entropy instead of variance (Marbut et al. 2023, "Vasicek ratio MSE").

Along each principal direction the m-spacing entropy of Vasicek (1976) is compared with that of a
standard normal: a variance can be large because of two far points, an entropy cannot.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from lowdim.core.estimate import Estimate
from lowdim.core.memory import plan
from lowdim.core.points import as_points
from lowdim.core.spectrum import Spectrum
from lowdim.errors import InputError
from lowdim.registry import method, points, spectrum


@method(
    "geometry/vasicek-ratio",
    needs=(points(), spectrum(center=True, vectors=True)),
    paper="Marbut et al. 2023",
    arxiv="2212.08172",
    cost="O(n d^2 + d n log n)",
    oracle="scipy.stats.differential_entropy",
    invariant=("permutation", "rotation", "translation", "scale"),
)
def vasicek_ratio(
    x: Tensor, spectrum: Spectrum, *, memory: int | float | str | None = None
) -> Estimate:
    """How far is the spread along each direction from a standard normal's, 0 being equal to it?

    The points are turned to their principal directions and scaled to a total variance of d; each
    direction has r = exp(entropy) / sqrt(2 pi e), its width over a standard normal's, and the
    value is the mean of (1 - r)^2.

    Parameters
    ----------
    x : Tensor
        (n, d).
    spectrum : Spectrum
        Of the same points, centred, with ``vectors``.
    memory : int, float or str, optional
        Budget; directions are worked off in blocks that fit it.

    Raises
    ------
    InputError
        Fewer than 5 rows, all rows equal, or a spectrum without vectors.

    Notes
    -----
    Trust it for comparing sets of the same n and d, n in the hundreds or more: the entropy of
    spacings is biased downwards at small n. Exact ties make an entropy minus infinity
    and that direction's r zero, as for a constant one.
    """
    x = as_points(x, min_rows=5)
    n, d = x.shape
    if spectrum.vectors is None or spectrum.mean is None:
        raise InputError("this spectrum has no vectors or no mean: make it centred, vectors=True")
    if not spectrum.total > 0:
        raise InputError("all energies are zero: every row is the same, so there is no spread")
    basis = spectrum.vectors * math.sqrt(d / spectrum.total)  # (d, r)
    block = plan(
        "vasicek-ratio", rows=basis.shape[1], bytes_per_row=40 * n, fixed=8 * n * d, memory=memory
    )
    centred = x.double() - spectrum.mean
    parts = basis.T.split(block)
    entropies = torch.cat([_vasicek(part @ centred.T) for part in parts])  # (block, d) @ (d, n)
    width = entropies.exp() / math.sqrt(2 * math.pi * math.e)  # (r,)
    unseen = d - len(width)  # directions without any spread have width 0
    return Estimate(value=float(((1 - width).square().sum() + unseen) / d), n=n)


def _vasicek(samples: Tensor) -> Tensor:
    """Differential entropy of each row from spacings of order m = round(sqrt(n))."""
    n = samples.shape[1]
    m = math.floor(math.sqrt(n) + 0.5)
    ordered = samples.sort(1).values
    rank = torch.arange(n, device=samples.device)
    spacing = ordered[:, (rank + m).clamp_max(n - 1)] - ordered[:, (rank - m).clamp_min(0)]
    return (spacing * (n / (2 * m))).log().mean(1)
