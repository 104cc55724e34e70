"""How many rows private PCA needs for its first direction.

Derived here and tested by simulation; not the theorem of Chaudhuri, Sarwate and Sinha (2013).

*Exponential mechanism.* With s = 1 - <v, v_1>^2, a draw has the density of s proportional to
s^((d-3)/2) (1-s)^(-1/2) times the mean of exp(-eta n s sum g_i w_i^2) over unit w, g_i the gaps
below the first eigenvalue. Over what it would be if all g_i were the least of them, ``gap``, that
falls with s, so equal gaps have the heaviest tail (monotone likelihood ratio); and their tail, with
kappa = eta n gap, is one integral. For large d kappa is about (d - 1) / (2 (1 - correlation^2)).

*Noise.* In the axis v_1 and its complement the noisy matrix is [[a, e], [e, B]], and its first
eigenvector leans by tan = |(mu - B)^-1 e| <= |e| / (n gap + E_11 - max eig(E_rest)), mu >= a the
eigenvalue. With noise of standard deviation sd along every symmetric unit direction |e|^2 is
sd^2/2 times chi-square with d - 1 degrees, E_11 is normal, and the largest eigenvalue is at most
sd (sqrt(2 (d - 1)) + sqrt(2 log(1/p))) but with probability p (Sudakov-Fernique for its mean,
Gaussian concentration for the rest). Each of the three is given a third of ``failure``.
"""

from __future__ import annotations

import math

import torch
from scipy.optimize import brentq
from scipy.stats import chi2, norm

from lowdim.errors import InputError
from lowdim.structure.privacy_accounting import energy_range
from lowdim.structure.private_pca import check_budget, noise_sd


def required_n(
    dim: int,
    gap: float,
    *,
    epsilon: float,
    delta: float | None = None,
    mechanism: str = "gauss",
    correlation: float = 0.9,
    failure: float = 0.05,
    clip: float = 1.0,
    neighbors: str = "replace",
) -> int:
    """How many rows does one private direction need to be close to the first principal one?

    Parameters
    ----------
    dim : int
        d.
    gap : float
        Difference of the two largest eigenvalues of the mean of x x^T after clipping, in
        (0, clip^2].
    epsilon, delta, mechanism, clip, neighbors
        As for :class:`lowdim.structure.PrivatePCA`.
    correlation, failure : float
        Enough rows for |<v, v_1>| >= ``correlation`` with probability 1 - ``failure``.

    Returns
    -------
    int
        Enough rows for every spectrum with this gap.

    Notes
    -----
    Derived in the module. For the exponential mechanism the worst spectrum needs exactly this;
    under noise it is 1.8 to 4.3 times what trials in 2 to 50 dimensions needed. Trust it for the
    order of magnitude: the gap of your data is a guess, and looking it up in them is not private.
    """
    check_budget(mechanism, epsilon, delta, clip)
    if not 0 < correlation < 1 or not 0 < failure < 1:
        raise InputError(f"correlation={correlation}, failure={failure}: both lie between 0 and 1")
    if not 0 < gap <= clip**2 or dim < 1:
        raise InputError(f"dim={dim}, gap={gap}: give dim >= 1 and a gap in (0, clip^2]")
    if dim == 1:
        return 1
    if delta is None:
        kappa = _concentration(dim, 1 - correlation**2, failure)
        return max(1, math.ceil(kappa * energy_range(clip, neighbors) / epsilon / gap))
    sd = noise_sd(dim, epsilon, delta, mechanism, clip=clip, neighbors=neighbors)
    if mechanism == "mod-sulq":
        sd *= math.sqrt(2)  # noise of variance sd^2 off the diagonal too: at most this much of ours
    part = failure / 3
    lean = math.sqrt(1 / correlation**2 - 1)  # tan of the angle
    beside = sd / math.sqrt(2) * math.sqrt(float(chi2.ppf(1 - part, dim - 1)))
    largest = sd * (math.sqrt(2 * (dim - 1)) + math.sqrt(2 * math.log(1 / part)))
    return math.ceil((beside / lean + largest + sd * float(norm.ppf(1 - part))) / gap)


def _concentration(dim: int, angle: float, failure: float) -> float:
    """The kappa at which P(1 - <v, v_1>^2 > angle) = failure, all other gaps equal."""
    start = math.asin(math.sqrt(angle))
    t = (torch.arange(20_000, dtype=torch.float64) + 0.5) / 20_000
    near = start * t  # theta, with 1 - <v, v_1>^2 = sin(theta)^2
    far = start + (math.pi / 2 - start) * t**4  # fine where it falls off fast

    def tail(kappa: float) -> float:
        within, outside = (
            (dim - 2) * theta.sin().log() - kappa * theta.sin().square() for theta in (near, far)
        )
        top = torch.maximum(within.max(), outside.max())
        inside = start * float((within - top).exp().mean())
        beyond = (math.pi / 2 - start) * float((4 * t**3 * (outside - top).exp()).mean())
        return beyond / (inside + beyond)

    high = 1.0
    while tail(high) > failure:
        high *= 2
    if tail(0) <= failure:  # so would be a direction drawn blindly
        return 0.0
    return float(brentq(lambda kappa: tail(kappa) - failure, 0.0, high))
