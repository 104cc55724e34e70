"""Fisher separability (Albergante, Bac, Zinovyev 2019): how often does a point hide another?

After whitening and projection to the unit sphere, y is inseparable from x at level alpha when
x . y >= alpha. In n dimensions this happens to an even random pair with probability
p = (1 - alpha^2)^((n - 1) / 2) / (alpha sqrt(2 pi n)), which falls so fast with n that the observed
share gives the dimension: n = W(-w / (2 pi p^2 alpha^2 (1 - alpha^2))) / -w with
w = log(1 - alpha^2) and W Lambert's function.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field

import numpy as np
import torch
from scipy.special import lambertw
from torch import Tensor

from lowdim.core.blocked import full_precision, on_threads, workers
from lowdim.core.memory import plan
from lowdim.core.points import as_points
from lowdim.core.spectrum import Spectrum
from lowdim.errors import InputError
from lowdim.geometry.nearest import Dimension, with_interval
from lowdim.registry import method, points

ALPHAS = torch.arange(30, 50, dtype=torch.float64) / 50
"""Levels 0.60, 0.62, ..., 0.98."""

CELLS = 2**20
"""Inner products that one core holds at once."""


@dataclass(frozen=True, kw_only=True)
class FisherSeparability(Dimension):
    """Effective dimension of the whitened directions.

    Attributes
    ----------
    alpha : float
        The level that ``value`` and ``per_point`` were read at.
    components : int
        Principal directions that were kept and whitened.
    profile : tuple of float
        Dimension at every level; NaN where all pairs are separable.
    """

    alpha: float
    components: int
    profile: tuple[float, ...] = field(repr=False)


@method(
    "geometry/fisher-separability",
    needs=points(distinct=True),
    paper="Albergante et al. 2019",
    arxiv="1901.06328",
    cost="O(n^2 r), r directions kept",
    oracle="skdim.id.FisherS",
    invariant=("permutation", "rotation", "translation", "scale"),
    deep=True,
)
def fisher_separability(
    x: Tensor, *, condition: float = 10.0, memory: int | float | str | None = None
) -> FisherSeparability:
    """In how many dimensions would points on a sphere be this easy to cut off from one another?

    ``per_point`` is read off each point's own share of inseparable others; a point that all others
    are separable from gets the dimension of a share of 1/n.

    Parameters
    ----------
    x : Tensor
        (n, d) distinct points.
    condition : float
        Principal directions with less than 1/condition of the largest variance are dropped.
    memory : int, float or str, optional
        Budget of the blocks of inner products; no n x n array is made.

    Raises
    ------
    InputError
        Fewer than 3 rows, no spread, or all pairs separable at the lowest level: the dimension is
        then too high for this many points.

    Notes
    -----
    Trust it as a global, effective dimension, the one that matters for cutting points off by
    hyperplanes: it counts whitened linear directions in real use, so a Swiss roll reads 2.9 and a
    sphere one more than its own dimension. It is steady from a few hundred points on, and at
    dimensions where nearest neighbours fail: up to 35 from 1,000 rows, 60 from 20,000, where a few
    pairs are all it rests on. Clusters and heavy tails lower it. The standard error is that of a
    U-statistic of pairs with the whitening taken as given: right to 1.6 times too wide on even
    clouds, several times too narrow with heavy tails (0.04 for cubed normals, n = 400, where draws
    vary by 0.3).
    """
    x = as_points(x, min_rows=3)
    z, lost = _on_sphere(x, condition, memory)
    n = len(z)
    share = inseparable(z, memory=memory)  # (n, levels)
    mean = share.mean(0).cpu()
    some = mean > 0  # falls with the level, so these come first
    if not bool(some[0]):
        raise InputError(
            f"no two of {n} rows lie within 53 degrees of each other in {z.shape[1]} whitened "
            "directions: their dimension is too high for this many rows"
        )
    profile = dimension_at(mean, ALPHAS)
    target = 0.9 * ALPHAS[some].amax()  # the reference level, as published
    level = int((ALPHAS[some] - target).abs().argmin())
    alpha, value = float(ALPHAS[level]), float(profile[level])
    seen = share[:, level]
    p = float(mean[level])
    pairs = 2 * p * (1 - p) / n**2  # counted twice by the spread of the rows' own shares
    variance = max(4 * float(seen.var()) / n - pairs, pairs)
    slope = p * (math.log(1 - alpha**2) - 1 / value) / 2  # dp/dn
    found = with_interval(value, math.sqrt(variance) / abs(slope), n)
    notes = (f"{lost} rows at the mean, without a direction",) if lost else ()
    shares, row = torch.where(seen > 0, seen, 1 / n).unique(return_inverse=True)
    return FisherSeparability(
        value=value, low=found.low, high=found.high, n=n, standard_error=found.standard_error,
        notes=(*found.notes, *notes), alpha=alpha, components=z.shape[1],
        profile=tuple(profile.tolist()),
        per_point=dimension_at(shares, ALPHAS[level])[row],
    )  # fmt: skip


def _on_sphere(x: Tensor, condition: float, memory: int | float | str | None) -> tuple[Tensor, int]:
    """Whitened leading coordinates scaled to length one, (n, r), and how many rows are zero."""
    spectrum = Spectrum.of_points(x, vectors=True, memory=memory)
    if not spectrum.total > 0:
        raise InputError("all energies are zero: every row is the same, so there is no spread")
    assert spectrum.vectors is not None
    assert spectrum.mean is not None
    kept = spectrum.values > spectrum.values[0] / condition
    basis = spectrum.vectors[:, kept] / spectrum.values[kept].sqrt()  # (d, r)
    block = plan("whitening", rows=len(x), bytes_per_row=16 * x.shape[1], memory=memory)
    z = torch.cat(
        [((rows.double() - spectrum.mean) @ basis).to(x.dtype) for rows in x.split(block)]
    )
    lengths = torch.linalg.vector_norm(z, dim=1, keepdim=True)
    zero = lengths <= 8 * torch.finfo(z.dtype).eps
    return torch.where(zero, 0, z / lengths.clamp_min(torch.finfo(z.dtype).tiny)), int(zero.sum())


def inseparable(z: Tensor, *, memory: int | float | str | None = None) -> Tensor:
    """Which share of the other points is inseparable from each, at every level?

    Parameters
    ----------
    z : Tensor
        (n, r) unit rows.

    Returns
    -------
    Tensor
        (n, levels) float64, falling along each row.
    """
    n, levels = len(z), len(ALPHAS)
    bounds = ALPHAS.to(z)
    cores = workers(z.device)
    block = plan(
        "fisher-separability", rows=n, bytes_per_row=cores * n * 64,
        fixed=(cores + 2) * 8 * n * levels, memory=memory, largest=max(1, CELLS // n),
    )  # fmt: skip

    def strip(start: int) -> Tensor:
        """Each pair once, in the row of the earlier point, counted for both."""
        products = z[start : start + block] @ z[start:].T  # (b, r) @ (r, n - start)
        close = products >= bounds[0]
        close[:, :block].triu_(1)
        rows, columns = close.nonzero(as_tuple=True)
        level = torch.bucketize(products[rows, columns], bounds, right=True) - 1
        cells = torch.cat([rows, columns]) * levels + level.repeat(2)
        return torch.bincount(cells, minlength=(n - start) * levels)

    counts = torch.zeros(n * levels, dtype=torch.int64, device=z.device)
    starts = range(0, n, block)
    with full_precision():
        for start, found in zip(starts, on_threads(strip, starts, z.device), strict=True):
            counts[start * levels :] += found
    above = counts.view(n, levels).flip(1).cumsum(1).flip(1)
    return above.double() / (n - 1)


def dimension_at(share: Tensor, alpha: Tensor) -> Tensor:
    """In which dimension is this share of even random pairs inseparable at ``alpha``?

    NaN for a share of zero.
    """
    p, a2 = share.numpy(force=True), (alpha**2).numpy(force=True)
    w = np.log1p(-a2)
    with np.errstate(divide="ignore"):
        z = -w / (2 * math.pi * p**2 * a2 * (1 - a2))
    n = np.where(p > 0, lambertw(np.where(p > 0, z, 1.0)).real / -w, np.nan)
    return torch.from_numpy(n).to(share)
