"""What a release of private data promises: (epsilon, delta), zero-concentrated privacy, budgets.

The neighbours of a data set are those that differ from it in one row: ``"replace"`` (another row in
its place, n is public) or ``"add-remove"`` (one row more or fewer, n is secret). A release M is
(epsilon, delta)-private where P(M(D) in S) <= exp(epsilon) P(M(D') in S) + delta for all neighbours
and all sets S. It is rho-zCDP (Bun and Steinke 2016) where the Renyi divergence of order alpha of
M(D) from M(D') is at most rho alpha, for every alpha > 1; that adds up over releases.

Derived here, and tested by quadrature:

* The Gaussian mechanism, noise N(0, sigma^2) on a vector that a neighbour moves by at most Delta.
  Along the line that joins the two means the log-ratio of the densities is normal, with mean
  +-Delta^2 / (2 sigma^2) and variance Delta^2 / sigma^2. So rho = Delta^2 / (2 sigma^2), and
  delta(epsilon) = Phi(Delta/2sigma - epsilon sigma/Delta)
  - exp(epsilon) Phi(-Delta/2sigma - epsilon sigma/Delta) exactly (Balle and Wang 2018).
* The exponential mechanism, density proportional to exp(eta u(v)), where the change of the score u
  between neighbours has a range (largest minus smallest over v) of at most R. Both densities are
  normalised, so their log-ratio takes the value 0 within a range of eta R: it is at most eta R in
  size, and the release is (eta R, 0)-private. By Hoeffding's lemma E exp(t (L - E L)) <=
  exp(t^2 (eta R)^2 / 8) for that log-ratio L; with t = -1 its mean is at most (eta R)^2 / 8, with
  t = alpha - 1 the divergence at most alpha (eta R)^2 / 8. So rho = epsilon^2 / 8.
* rho-zCDP to (epsilon, delta): P(L > epsilon) <= exp((alpha - 1)(alpha rho - epsilon)), least at
  alpha = (epsilon + rho) / 2 rho, gives epsilon = rho + 2 sqrt(rho log(1/delta)).
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from scipy.optimize import brentq
from scipy.special import log_ndtr, ndtr

from lowdim.core.estimate import to_json
from lowdim.errors import InputError

NEIGHBORS = ("replace", "add-remove")


@dataclass(frozen=True, kw_only=True)
class Guarantee:
    """What does a release promise to each row of the data, and is the promise kept?

    Attributes
    ----------
    epsilon, delta : float
        The release is (epsilon, delta)-differentially private; ``delta = 0`` is pure.
    neighbors : {"replace", "add-remove"}
        Which data sets count as neighbours.
    mechanism : str
        How the release was made.
    rho : float or None
        Its zero-concentrated budget, which adds up over releases.
    exact : bool
        Whether the mechanism drew from the law that the promise is about. False for a Markov
        chain that was stopped: the promise is then only that of its limit.
    private : bool
        False where a seed was given: who knows the seed can undo the noise.
    notes : tuple of str
        Assumptions.
    """

    epsilon: float
    delta: float
    neighbors: str
    mechanism: str
    rho: float | None = None
    exact: bool = True
    private: bool = True
    notes: tuple[str, ...] = ()

    def __str__(self) -> str:
        if not self.private:
            return f"not private: seeded ({self.mechanism})"
        promise = f"({self.epsilon:g}, {self.delta:g})-differentially private"
        how = f"{self.mechanism}, neighbours: {self.neighbors}"
        return f"{promise} ({how})" if self.exact else f"approximately {promise} ({how})"

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON values."""
        return {k: to_json(v) for k, v in vars(self).items() if v is not None}


def compose(releases: Iterable[Guarantee], *, delta: float | None = None) -> Guarantee:
    """What do several releases of one data set promise together, each chosen after the last?

    Epsilons add and deltas add. With ``delta`` the rhos add instead, where all are known, and the
    smaller epsilon is taken; ``delta`` must be at least the sum of the deltas for the first.

    Raises
    ------
    InputError
        Nothing to compose, or releases under different neighbour relations.
    """
    parts = list(releases)
    if not parts or len({p.neighbors for p in parts}) > 1:
        raise InputError("compose one or more guarantees, all under the same neighbour relation")
    epsilon, total = sum(p.epsilon for p in parts), sum(p.delta for p in parts)
    rho = None
    if all(p.rho is not None for p in parts):
        rho = sum(p.rho or 0.0 for p in parts)
    if delta is not None:
        _check(delta=delta)
        basic = epsilon if total <= delta else math.inf
        concentrated = math.inf if rho is None else zcdp_epsilon(rho, delta)
        epsilon, total = min(basic, concentrated), delta
        if epsilon == math.inf:
            raise InputError(f"delta={delta:g} is below the sum of the parts' and no rho is known")
    return Guarantee(
        epsilon=epsilon,
        delta=total,
        neighbors=parts[0].neighbors,
        mechanism=" + ".join(dict.fromkeys(p.mechanism for p in parts)),
        rho=rho,
        exact=all(p.exact for p in parts),
        private=all(p.private for p in parts),
        notes=tuple(dict.fromkeys(note for p in parts for note in p.notes)),
    )


def zcdp_epsilon(rho: float, delta: float) -> float:
    """The epsilon, at this delta, of a rho-zero-concentrated release (Bun and Steinke 2016)."""
    _check(delta=delta)
    return rho + 2 * math.sqrt(rho * math.log(1 / delta))


def zcdp_rho(epsilon: float, delta: float) -> float:
    """The largest rho that :func:`zcdp_epsilon` turns into this (epsilon, delta)."""
    _check(epsilon=epsilon, delta=delta)
    log = math.log(1 / delta)
    return (math.sqrt(log + epsilon) - math.sqrt(log)) ** 2


def gaussian_delta(noise: float, epsilon: float) -> float:
    """The exact delta, at this epsilon, of Gaussian noise of sd ``noise`` x the sensitivity."""
    near, far = 0.5 / noise - epsilon * noise, -0.5 / noise - epsilon * noise
    return float(ndtr(near) - math.exp(epsilon + float(log_ndtr(far))))


def gaussian_noise(epsilon: float, delta: float) -> float:
    """The least Gaussian noise that is (epsilon, delta)-private, as sd over the sensitivity.

    The analytic Gaussian mechanism: the root of :func:`gaussian_delta`, which falls with the sd.
    """
    _check(epsilon=epsilon, delta=delta)
    low = high = 1.0
    while gaussian_delta(high, epsilon) > delta:
        high *= 2
    while gaussian_delta(low, epsilon) <= delta:
        low /= 2
    root = float(brentq(lambda s: gaussian_delta(s, epsilon) - delta, low, high, xtol=1e-14))
    return root * (1 + 1e-12)  # on the private side of the root


def moment_sensitivity(clip: float, neighbors: str) -> float:
    """How far can a neighbour move sum x x^T, in Frobenius norm, with all rows at most ``clip``?

    One row adds x x^T, of norm clip^2. One in the place of another adds x x^T - y y^T, of squared
    norm |x|^4 + |y|^4 - 2 (x.y)^2 <= 2 clip^4, reached by orthogonal rows.
    """
    _check_relation(neighbors)
    return clip**2 * (math.sqrt(2) if neighbors == "replace" else 1.0)


def energy_range(clip: float, neighbors: str) -> float:
    """Range, over V, of what a neighbour adds to the energy tr(V^T (sum x x^T) V).

    One row more adds between 0 and clip^2; one in the place of another between -clip^2 and clip^2.
    """
    _check_relation(neighbors)
    return clip**2 * (2.0 if neighbors == "replace" else 1.0)


def _check_relation(neighbors: str) -> None:
    if neighbors not in NEIGHBORS:
        raise InputError(f"neighbors={neighbors!r}: choose from {', '.join(NEIGHBORS)}")


def _check(*, epsilon: float = 1.0, delta: float = 0.5) -> None:
    if not 0 < epsilon < math.inf:
        raise InputError(f"epsilon={epsilon!r}: give a number above zero")
    if not 0 < delta < 1:
        raise InputError(f"delta={delta!r}: give a number between 0 and 1, well below 1/n")
