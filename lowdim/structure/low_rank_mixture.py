"""Mixture of low-rank Gaussians: probabilistic PCA in each of K pieces, shared by EM.

Tipping and Bishop 1999, "Mixtures of probabilistic principal component analysers". The covariance
U diag(l) U^T + v (I - U U^T) of a piece is inverted along and across its basis, so that nothing of
size d x d is ever factorised in the E-step; responsibilities stay logarithms until the end.
"""

from __future__ import annotations

from typing import Any

from torch import Tensor

from lowdim.registry import method, pieces
from lowdim.structure.gaussian_pieces import GaussianPieces


@method(
    "structure/mixture",
    needs=pieces(),
    paper="Tipping and Bishop 1999",
    cost="O(n d (K d + sum of ranks)) a pass, O(K d^2) memory",
    oracle="sklearn.mixture.GaussianMixture; sklearn.decomposition.PCA for one piece",
)
class LowRankMixture(GaussianPieces):
    """How far does each point belong to each of K low-rank normal distributions?

    Parameters
    ----------
    n_pieces : int
        K.
    ranks : int or sequence of int, optional
        The dimension of all pieces, or of each (d - 1 is a full covariance); by default chosen
        again at each step for each piece by the Bayesian information criterion.
    center : bool
        False for distributions about the origin.
    n_restarts : int
        Starts, the best of which is kept: least mean -2 log p, plus log(n) / n a parameter where
        the ranks are chosen.
    max_iter : int
        Most steps of a start, and most passes over all points.
    tol : float
        Stop where a step makes mean -2 log p smaller by no more.
    sample : int
        Points that the starts are made from.
    min_noise : float
        Least noise variance, relative to the mean variance of a column within the pieces: what
        keeps the likelihood of a piece with few points finite.
    random_state : int
        Of the starts and the sample.
    memory : int, float or str, optional
        Budget. Points that do not fit are read in passes: K d x d moments and n K shares are held.

    Attributes
    ----------
    model_ : LowRankGaussians
        The pieces with their variances, noise and shares.
    trace_ : Tensor
        (passes,) mean -2 log p before each pass over all points, plus the penalty above; falls
        where ranks are given.

    Raises
    ------
    InputError
        NaN or Inf, fewer points than pieces, ranks that do not fit.
    MemoryBudgetError
        Before anything is allocated.

    Notes
    -----
    ``gates`` are the responsibilities p(piece | x), and ``reconstruct`` averages the projections on
    the pieces with them.

    Trust it where two values of ``random_state`` give the same pieces, and each has several times
    as many points as dimensions. Every piece has its own noise, so one may become a wide cloud of
    rank 0 that takes all outliers: with some, give one piece more. Or it becomes a needle around a
    few near-equal points: look at ``model_.noise`` and ``model_.shares``, and raise ``min_noise``.
    """

    def log_likelihood(self, x: Any) -> float:
        """Mean log density of the points, in nats: compare on points that it was not fitted to."""
        total, n = 0.0, 0
        for block in self._blocks(x):
            total -= float(self._cost(self.model_.deviance(block)).sum()) / 2
            n += len(block)
        return total / n

    def _shares(self, deviance: Tensor) -> Tensor:
        return (-deviance / 2).softmax(1)

    def _cost(self, deviance: Tensor) -> Tensor:
        return -2 * (-deviance / 2).logsumexp(1)

    def _noise(self, left: Tensor, spare: Tensor, totals: Tensor) -> Tensor:
        return left / spare.clamp_min(1)
