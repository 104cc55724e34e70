"""Does the upper tail of a spectrum fall like a power, and with which exponent?

Clauset, Shalizi & Newman 2009, on the energies (eigenvalues of W^T W, the convention of Martin &
Mahoney 2021): for each candidate start ``xmin`` the maximum-likelihood exponent of all values
from there on, and the Kolmogorov-Smirnov distance to that power law; the start with the smallest
distance wins. The answer is that of the ``powerlaw`` package.

Cost. All exponents come from one cumulative sum. The distances are not all computed: a gap seen
at one value bounds the distance of every start below it, and such cuts (10 to 20 of them, O(r)
each) leave a single start whose distance is smaller than every other's bound. Memory O(r).
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from lowdim.core.estimate import Estimate
from lowdim.core.spectrum import Spectrum
from lowdim.errors import InputError
from lowdim.registry import matrix, method

FEWEST, RELIABLE = 10, 50
"""Distinct values to fit at all; values in the tail from which Clauset et al. trust the fit."""

ROUNDING = 1e-12
"""Relative difference below which two energies are one value: those of an orthogonal matrix."""


@dataclass(frozen=True, kw_only=True)
class TailFit(Estimate):
    """Power-law fit of an upper tail; ``value`` is the exponent alpha of the density x^-alpha.

    Attributes
    ----------
    ks : float
        Distance of the tail to the fitted law. Small is not proof: it is the best of all starts.
    xmin : float
        Energy at which the tail starts.
    n_tail : int
        How many values it holds.
    sigma : float
        Standard error (alpha - 1) / sqrt(n_tail), the start taken as given.
    vuong : float
        Normalised log-likelihood ratio against an exponential tail: above 1.96 the power law is
        the better of the two, below -1.96 the worse, between them the data do not tell.
    """

    ks: float
    xmin: float
    n_tail: int
    sigma: float
    vuong: float


@method(
    "spectra/tail-exponent",
    needs=matrix(),
    paper="Clauset, Shalizi & Newman 2009",
    arxiv="0706.1062",
    cost="O(r log r)",
    oracle="powerlaw.Fit",
    invariant=("permutation", "rotation", "scale"),
)
def tail_exponent(spectrum: Spectrum, *, max_alpha: float = math.inf) -> TailFit:
    """How heavy is the tail of the spectrum, as the exponent of a power law?

    Parameters
    ----------
    spectrum : Spectrum
        All squared singular values of the matrix.
    max_alpha : float
        Starts with an exponent of this or more are passed over. Version 2 of ``powerlaw`` has 3
        here, the paper has no limit.

    Returns
    -------
    TailFit
        ``value`` is alpha, with the interval from its standard error.

    Raises
    ------
    InputError
        Fewer than ten distinct positive values, a truncated spectrum, or no start whose exponent
        is below ``max_alpha``.
    """
    positive = spectrum.values[: int(spectrum.effective_rank(0))].cpu().numpy()
    log = np.log(positive / positive[0])  # (r,) descending
    last = np.append(np.diff(log) < -ROUNDING, True).nonzero()[0]  # (m,) ends of equal values
    x, total, log = positive[last], log.cumsum()[last], log[last]
    if len(x) < FEWEST:
        raise InputError(
            f"a tail exponent needs {FEWEST} distinct positive singular values, and this "
            f"{spectrum.shape[0]} x {spectrum.shape[1]} matrix has {len(x)}: leave it out"
        )
    tail = last + 1  # (m,) how many values are >= x
    rate = np.ones(len(x))  # (m,) alpha - 1 by maximum likelihood
    rate[2:] = tail[2:] / (total - tail * log)[2:]  # two distinct values would fit any power
    usable = (np.arange(len(x)) >= 2) & (rate + 1 < max_alpha)
    if not usable.any():
        raise InputError(f"no start has an exponent below max_alpha={max_alpha}: raise it")

    start, ks = _nearest(log, tail, rate, usable)
    alpha, n_tail = float(rate[start]) + 1, int(tail[start])
    sigma = (alpha - 1) / math.sqrt(n_tail)
    vuong = _vuong(positive[:n_tail] / x[start], alpha)
    notes = []
    if n_tail < RELIABLE:
        notes.append(f"the tail holds only {n_tail} values: below {RELIABLE} the fit is unreliable")
    if vuong < 1.96:
        notes.append("an exponential tail fits " + ("better" if vuong < -1.96 else "as well"))
    return TailFit(
        value=alpha,
        low=alpha - 1.96 * sigma,
        high=alpha + 1.96 * sigma,
        n=min(spectrum.shape),
        exact=spectrum.exact,
        notes=tuple(notes),
        ks=ks,
        xmin=float(x[start]),
        n_tail=n_tail,
        sigma=sigma,
        vuong=vuong,
    )


def _nearest(
    log: np.ndarray, tail: np.ndarray, rate: np.ndarray, usable: np.ndarray
) -> tuple[int, float]:
    """The start whose tail is nearest to its power law, and that distance; cutting planes.

    The distance of start i is ``max over j <= i of |tail_j / tail_i - (x_j / x_i)^-rate_i|``.
    All in numpy: for a few thousand values, waking torch's threads costs more than the work.
    """
    bound = np.where(usable, 0.0, np.inf)  # (m,) distance of each start, from below
    evaluated: set[int] = set()
    while (i := int(bound.argmin())) not in evaluated:
        evaluated.add(i)
        gaps = np.abs(tail[: i + 1] / tail[i] - np.exp(rate[i] * (log[i] - log[: i + 1])))
        j = int(gaps.argmax())
        # the same value j as a witness against every start below it, i itself included
        cut = np.abs(tail[j] / tail[j:] - np.exp(rate[j:] * (log[j:] - log[j])))
        np.maximum(bound[j:], cut, out=bound[j:])
    return i, float(bound[i])


def _vuong(x: np.ndarray, alpha: float) -> float:
    """Vuong's statistic of the power law against the exponential; ``x`` (n,) in units of xmin."""
    mean = x.mean() - 1
    gap = (math.log(alpha - 1) - alpha * np.log(x)) - (-math.log(mean) - (x - 1) / mean)  # (n,)
    return float(gap.sum() / (math.sqrt(len(x)) * gap.std()))
