"""Enveloping and homogeneity of the curve that label means trace on the sphere (Dong et al. 2025).

For a regression target the mean direction of each label bin, joined in label order by great-circle
arcs, is a curve on the unit sphere. *Enveloping* is the share of the sphere within an angle eps of
it: a representation that keeps labels apart uses much of the sphere. *Homogeneity* is its Dirichlet
energy, sum |z_(k+1) - z_k|^2 / (y_(k+1) - y_k): by Cauchy-Schwarz at least length^2 / range, with
equality at constant speed, so rare labels are not squeezed into a corner.

The paper's soft form of the enveloping loss was not at hand: :func:`enveloping_loss` is ours, a
sigmoid of the angle to the curve at uniform points of the sphere. Both losses have finite
gradients everywhere.

Cost: O(points x bins x d).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from lowdim.core.estimate import Estimate
from lowdim.core.memory import plan
from lowdim.core.points import unit_rows
from lowdim.core.random import normal
from lowdim.errors import InputError
from lowdim.geometry.labels import as_targets
from lowdim.registry import labelled, method


@dataclass(frozen=True, kw_only=True)
class LabelTrace(Estimate):
    """The curve of label means on the sphere; ``value`` is the share of it enveloped.

    Attributes
    ----------
    standard_error : float
        Of ``value``, from the finite number of probe points.
    energy : float
        Dirichlet energy of the curve.
    evenness : float
        Least energy for its length over ``energy``: 1 at constant speed.
    length : float
        Sum of the chords between successive bins.
    bins : int
        Label bins that hold rows.
    """

    standard_error: float
    energy: float
    evenness: float
    length: float
    bins: int


@method(
    "geometry/label-trace",
    needs=labelled(),
    paper="Dong et al. 2025",
    arxiv="2503.00876",
    cost="O(points x bins x d)",
    invariant=("permutation", "scale"),
)
def label_trace(
    x: Tensor, y: Any, *, bins: int = 50, eps: float = 1.0, points: int = 20_000, seed: int = 0,
    memory: int | float | str | None = None,
) -> LabelTrace:  # fmt: skip
    """Does the representation spread a numeric target widely and evenly?

    Parameters
    ----------
    x : Tensor
        (n, d) representations; their directions count.
    y : sequence
        n real targets.
    bins : int
        Bins of equal width over the range of ``y``; targets of fewer values keep theirs.
    eps : float
        Angle in radians.
    points : int
        Uniform points of the sphere that are tested.
    seed : int
        Of those points.
    memory : int, float or str, optional
        Budget of their angles.

    Raises
    ------
    InputError
        Fewer than two label values, a zero row, more than one target a row.

    Notes
    -----
    Trust ``evenness`` anywhere; trust the enveloped share up to about 20 dimensions, beyond which
    nearly all of a sphere is a right angle away from any curve and the share drops to zero at
    every useful ``eps``. Compare at one ``eps`` and one dimension only.
    """
    x, target = as_targets(x, y)
    if target.shape[1] != 1:
        raise InputError(f"y has {target.shape[1]} columns: the trace follows one target")
    z, centre = surrogates(unit_rows(x).double(), target[:, 0], bins=bins)
    probes = unit_rows(normal((points, x.shape[1]), seed, dtype=torch.float64)).to(z)
    block = plan("label_trace", rows=points, bytes_per_row=8 * 8 * len(z), memory=memory)
    inside = torch.cat([arc_angle(part, z) <= eps for part in probes.split(block)]).double()
    share = float(inside.mean())
    steps = torch.linalg.vector_norm(z.diff(dim=0), dim=1)
    energy, length = float(homogeneity_loss(z, centre)), float(steps.sum())
    least = length**2 / float(centre[-1] - centre[0])
    return LabelTrace(
        value=share, n=len(x), exact=False, seed=seed, energy=energy, length=length, bins=len(z),
        evenness=least / energy if energy > 0 else 0.0,
        standard_error=(share * (1 - share) / points) ** 0.5,
    )  # fmt: skip


def surrogates(z: Tensor, y: Tensor, *, bins: int = 50) -> tuple[Tensor, Tensor]:
    """Unit mean direction and mean label of every bin that holds rows, in label order.

    Parameters
    ----------
    z : Tensor
        (n, d) unit rows; gradients flow through.
    y : Tensor
        (n,) labels.

    Returns
    -------
    means : Tensor
        (bins, d) unit rows.
    centres : Tensor
        (bins,) mean label of each, ascending.
    """
    values = y.unique()
    if len(values) < 2:
        raise InputError("y holds one value only: the trace needs two")
    code = torch.searchsorted(values, y)
    if len(values) > bins:
        place = (y - values[0]) / (values[-1] - values[0]) * bins
        code = place.long().clamp_max(bins - 1).unique(return_inverse=True)[1]
    count = torch.bincount(code).to(z)
    total = z.new_zeros(len(count), z.shape[1]).index_add(0, code, z)
    centre = y.new_zeros(len(count)).index_add(0, code, y) / count
    size = torch.linalg.vector_norm(total, dim=1, keepdim=True)
    if not bool((size > 0).all()):
        raise InputError("the rows of a label bin cancel: their mean has no direction")
    return total / size, centre


def arc_angle(points: Tensor, curve: Tensor) -> Tensor:
    """(m,) angle of each unit point to the great-circle arcs through (K, d) unit rows."""
    a, b = curve[:-1], curve[1:]
    cosine = (a * b).sum(1).clamp(-1, 1)
    side = b - cosine[:, None] * a  # across a in the plane of the arc
    length = side.square().sum(1).clamp_min(1e-24).sqrt()
    side = side / length[:, None]
    p, q = points @ a.T, points @ side.T  # (m, K - 1) coordinates in the plane of each arc
    sine = (1 - cosine.square()).clamp_min(0).sqrt()
    within = (q >= 0) & (p * sine - q * cosine >= 0) & (length > 1e-12)  # between a and b
    flat = (p.square() + q.square()).clamp_min(1e-24).sqrt()
    ends = torch.maximum(p, points @ b.T)
    nearest = torch.where(within, flat, ends).amax(1)
    return nearest.clamp(-1 + 1e-12, 1 - 1e-12).acos()


def homogeneity_loss(z: Tensor, y: Tensor) -> Tensor:
    """Dirichlet energy of a curve through (K, d) points at ascending (K,) labels; least if even."""
    return (z.diff(dim=0).square().sum(1) / y.diff()).sum()


def enveloping_loss(
    z: Tensor, *, eps: float = 0.5, softness: float = 0.1, points: int = 1024, seed: int = 0
) -> Tensor:
    """One minus the soft share of the sphere within ``eps`` of the curve through (K, d) rows.

    Rows are scaled to length one. As ``softness`` goes to zero it tends to one minus the share of
    ``points`` probes that are enveloped.
    """
    probes = normal((points, z.shape[1]), seed, dtype=torch.float64).to(z)
    probes = probes / torch.linalg.vector_norm(probes, dim=1, keepdim=True)
    curve = z / torch.linalg.vector_norm(z, dim=1, keepdim=True)
    return 1 - torch.sigmoid((eps - arc_angle(probes, curve)) / softness).mean()
