"""Principal directions that say next to nothing about any one row: differentially private PCA.

Rows are scaled down to norm ``clip`` where they are longer, and S = sum x x^T is not centred (a
mean would be one more secret). Four ways to a basis of k directions:

* ``gauss``: the top eigenvectors of S + E, E normal with the same variance in every direction of
  the space of symmetric matrices: standard deviation s on the diagonal and s / sqrt(2) off it, s
  from the analytic Gaussian mechanism. It is Analyze Gauss (Dwork, Talwar, Thakurta and Zhang
  2014) with noise fitted to the Frobenius norm, in which a row moves S; their noise of s
  everywhere buys the same promise with sqrt(2) times as much off the diagonal.
* ``exponential``: density proportional to exp(eta v^T S v) on unit vectors, drawn exactly
  (Chaudhuri, Sarwate and Sinha 2013, there by a Markov chain); several directions one after the
  other, each in the complement of the last with epsilon / k, so that these add up to epsilon.
* ``exponential-gibbs``: the paper's own law exp(eta tr(V^T S V)) for all k directions at once with
  the whole epsilon, by a Markov chain; the promise holds for the chain's limit only.
* ``mod-sulq``: the top eigenvectors of S plus the noise of the same paper, kept for comparison.

Cost: one pass over the points in O(n d^2), one eigenproblem a direction, memory O(d^2).
"""

from __future__ import annotations

import math
from typing import Any, Self

import torch
from torch import Tensor

from lowdim.core.linalg import eigvalsh_psd
from lowdim.core.memory import plan
from lowdim.core.moments import Moments
from lowdim.core.points import as_points, unit_rows
from lowdim.core.shards import Source
from lowdim.core.subspace import Subspace
from lowdim.errors import InputError
from lowdim.registry import method, reduction
from lowdim.structure.bingham import Noise, gibbs, sequential
from lowdim.structure.estimator import like, open_source
from lowdim.structure.privacy_accounting import (
    Guarantee,
    energy_range,
    gaussian_noise,
    moment_sensitivity,
)
from lowdim.structure.reduction import Reduction

MECHANISMS = ("gauss", "exponential", "exponential-gibbs", "mod-sulq")

FLOATS = (
    "the promise is that of real numbers, while float64 rounds and its normals end at 8.2 standard "
    "deviations; the basis is rounded to multiples of 2^-24, which hides the low bits that an "
    "attack on floating-point noise reads (Mironov 2012), without a proof that it hides all; how "
    "long the call took is not protected"
)
CLIPPED = "how many rows were clipped depends on the data and is not released"


@method(
    "structure/private-pca",
    needs=reduction(),
    paper="Chaudhuri, Sarwate and Sinha 2013; Dwork et al. 2014; Balle and Wang 2018",
    arxiv="1207.2812",
    cost="O(n d^2), one pass",
    invariant=(),
)
class PrivatePCA(Reduction):
    """Which directions hold the most energy, told without telling of any one row?

    Parameters
    ----------
    n_components : int
        k, how many directions.
    epsilon : float
        Privacy loss, for all k together.
    delta : float, optional
        Chance that the loss is larger; needed by ``gauss`` and ``mod-sulq``, well below 1/n.
        The exponential mechanism takes none.
    mechanism : {"gauss", "exponential", "exponential-gibbs", "mod-sulq"}
        See the module; ``gauss`` where a delta is acceptable, else ``exponential``.
    clip : float
        Longer rows are scaled down to this norm. Choose it without looking at the data.
    neighbors : {"replace", "add-remove"}
        What is hidden: the content of a row, n being public, or that it is there at all.
    sweeps : int
        Of ``exponential-gibbs``.
    random_state : int, optional
        Makes the result repeatable, and not private; by default the system's secure generator.
    memory : int, float or str, optional
        Budget beyond the points.

    Attributes
    ----------
    components_ : array or Tensor
        (k, d) orthonormal rows, the release; for ``gauss`` and ``mod-sulq`` in order of noisy
        energy, for ``exponential`` in the order drawn.
    subspace_ : Subspace
        The same, through the origin.
    guarantee_ : Guarantee
        What was promised, under which relation, and whether the promise is exact.
    n_features_in_ : int
        d.

    Raises
    ------
    InputError
        NaN or Inf, k above d, or parameters without meaning for the mechanism.

    Notes
    -----
    Trust it when n is above what :func:`lowdim.structure.required_n` gives for the gap you expect:
    below, the directions are mostly noise, and nothing in the release can tell you so. The
    attributes are safe to publish where ``guarantee_.private``; what ``captured_energy`` returns
    is not, since it reads the data without noise. Several releases of one data set add up: see
    :func:`lowdim.structure.privacy_accounting.compose`.
    """

    def __init__(
        self,
        n_components: int,
        *,
        epsilon: float,
        delta: float | None = None,
        mechanism: str = "gauss",
        clip: float = 1.0,
        neighbors: str = "replace",
        sweeps: int = 200,
        random_state: int | None = None,
        memory: int | float | str | None = None,
    ) -> None:
        self.n_components = n_components
        self.epsilon = epsilon
        self.delta = delta
        self.mechanism = mechanism
        self.clip = clip
        self.neighbors = neighbors
        self.sweeps = sweeps
        self.random_state = random_state
        self.memory = memory

    def fit(self, x: Any, y: Any = None) -> Self:
        """Release k directions of (n, d) points, or of a path or source; ``y`` is ignored."""
        source = open_source(x)
        self._check_components(source.dim)
        if isinstance(self.sweeps, bool) or not isinstance(self.sweeps, int) or self.sweeps < 1:
            raise InputError(f"sweeps={self.sweeps!r}: give a whole number, at least 1")
        check_budget(self.mechanism, self.epsilon, self.delta, self.clip)
        moment = clipped_moment(source, self.clip, self.memory)
        noise = Noise(self.random_state)
        if self.delta is None:
            drawn, self.guarantee_ = self._exponential(moment, noise)
        else:
            drawn, self.guarantee_ = self._noisy(moment, noise, self.delta)
        basis = _rounded(drawn)
        self.subspace_ = Subspace(basis, basis.new_zeros(source.dim))
        self.components_ = like(x, basis.T)
        self.n_features_in_ = source.dim
        return self

    def inverse_transform(self, z: Any) -> Any:
        """(m, d) points of the subspace with these (m, k) coordinates."""
        return self._decode(z, lambda block: self.subspace_.to(block.dtype).reconstruct(block))

    def captured_energy(self, x: Any) -> float:
        """Share of the energy that k directions can hold in ``x``; not private."""
        self._check_fitted()
        return captured_energy(x, self.subspace_.basis, clip=self.clip, memory=self.memory)

    def _exponential(self, moment: Tensor, noise: Noise) -> tuple[Tensor, Guarantee]:
        k, eta = self.n_components, self.epsilon / energy_range(self.clip, self.neighbors)
        rho = self.epsilon**2 / 8
        if self.mechanism == "exponential":
            notes = (f"{k} draws of epsilon={self.epsilon / k:g} each",) if k > 1 else ()
            drawn = sequential(eta / k * moment, k, noise)
            return drawn, self._promise(rho / k, notes)  # k (epsilon / k)^2 / 8
        note = (
            f"the chain was stopped after {self.sweeps} sweeps, and how far it then was from the "
            "law that the promise is about is not known: this is not pure privacy"
        )
        drawn = gibbs(eta * moment, k, self.sweeps, noise)
        return drawn, self._promise(rho, (note,), exact=False)

    def _noisy(self, moment: Tensor, noise: Noise, delta: float) -> tuple[Tensor, Guarantee]:
        d, moved = len(moment), moment_sensitivity(self.clip, self.neighbors)
        sd = noise_sd(
            d, self.epsilon, delta, self.mechanism, clip=self.clip, neighbors=self.neighbors
        )
        add = gaussian_matrix if self.mechanism == "gauss" else upper_triangle_matrix
        noisy = moment + sd * add(noise.normal(d, d))
        leading = torch.linalg.eigh(noisy).eigenvectors.flip(1)[:, : self.n_components]
        return leading, self._promise((moved / sd) ** 2 / 2, ())

    def _promise(self, rho: float, notes: tuple[str, ...], *, exact: bool = True) -> Guarantee:
        return Guarantee(
            epsilon=float(self.epsilon),
            delta=float(self.delta or 0.0),
            neighbors=self.neighbors,
            mechanism=self.mechanism,
            rho=rho,
            exact=exact,
            private=self.random_state is None,
            notes=(*notes, CLIPPED, FLOATS),
        )

    def _transform(self, x: Tensor) -> Tensor:
        return self.subspace_.to(x.dtype).project(x)


def noise_sd(
    dim: int,
    epsilon: float,
    delta: float,
    mechanism: str = "gauss",
    *,
    clip: float = 1.0,
    neighbors: str = "replace",
) -> float:
    """How much noise does the sum of x x^T get, as the standard deviation of its diagonal?

    For ``gauss`` the least that keeps the promise. For ``mod-sulq`` the formula of Chaudhuri,
    Sarwate and Sinha (2013), times n since it is for the mean of x x^T; it must be at least the
    least, which is checked here and not taken from the paper.
    """
    least = moment_sensitivity(clip, neighbors) * gaussian_noise(epsilon, delta)
    if mechanism == "gauss":
        return least
    inside = (dim * dim + dim) / (delta * 2 * math.sqrt(2 * math.pi))
    if inside <= 1:
        raise InputError(f"delta={delta:g} is too large for mod-sulq in {dim} dimensions")
    beta = (dim + 1) / epsilon * math.sqrt(2 * math.log(inside)) + 1 / math.sqrt(epsilon)
    if clip**2 * beta < least:
        raise InputError(
            f"mod-sulq's noise does not keep epsilon={epsilon:g}, delta={delta:g}: use gauss"
        )
    return clip**2 * beta


def gaussian_matrix(e: Tensor) -> Tensor:
    """Of (..., d, d) standard normals: variance 1 along every symmetric unit direction.

    Unit in Frobenius norm: so the diagonal has variance 1, all else 1/2.
    """
    return (e + e.mT) / 2


def upper_triangle_matrix(e: Tensor) -> Tensor:
    """Of (..., d, d) standard normals: variance 1 of every entry, mirrored at the diagonal."""
    return e.triu() + e.triu(1).mT


def clipped_moment(source: Source, clip: float, memory: int | float | str | None = None) -> Tensor:
    """(d, d) float64 sum of x x^T over the rows, those longer than ``clip`` scaled down to it."""
    d = source.dim
    plan("the second moment", rows=source.n, bytes_per_row=24 * d, fixed=64 * d * d, memory=memory)
    moments = Moments(d)
    for chunk in source.chunks(memory):
        rows = as_points(chunk, offset=moments.count).to("cpu", torch.float64)
        long = ~(torch.linalg.vector_norm(rows, dim=1) <= clip)
        if bool(long.any()):
            rows = rows.clone()
            rows[long] = clip * unit_rows(rows[long])
        moments.update(rows)
    return moments.count * moments.second_moment(center=False)


def captured_energy(
    x: Any, basis: Tensor, *, clip: float = math.inf, memory: int | float | str | None = None
) -> float:
    """What share of the energy that k directions can hold do these k hold?

    tr(V^T S V) over the sum of the k largest eigenvalues of S = sum x x^T, in [0, 1]. It reads
    the data without noise: not private.

    Raises
    ------
    InputError
        All points at the origin.
    """
    moment = clipped_moment(open_source(x), clip, memory)
    basis = basis.to(moment)
    best = float(eigvalsh_psd(moment)[: basis.shape[1]].sum())
    if best == 0:
        raise InputError("all points are at the origin: there is no energy to capture")
    return float((basis * (moment @ basis)).sum()) / best


def _rounded(basis: Tensor) -> Tensor:
    """The basis on a grid of 2^-24, made orthonormal again."""
    q, r = torch.linalg.qr((basis * 2**24).round() / 2**24)
    return q * torch.where(r.diagonal() < 0, -1.0, 1.0)


def check_budget(mechanism: str, epsilon: float, delta: float | None, clip: float) -> None:
    """Raise an error that names what the mechanism cannot work with."""
    if mechanism not in MECHANISMS:
        raise InputError(f"mechanism={mechanism!r}: choose from {', '.join(MECHANISMS)}")
    if not 0 < epsilon < math.inf or not 0 < clip < math.inf:
        raise InputError(f"epsilon={epsilon!r}, clip={clip!r}: give numbers above zero")
    pure = mechanism.startswith("exponential")
    if pure and delta is not None:
        raise InputError(f"delta={delta!r}: the exponential mechanism is pure, leave delta out")
    if not pure and (delta is None or not 0 < delta < 1):
        raise InputError(f"delta={delta!r}: {mechanism} needs a delta between 0 and 1")
