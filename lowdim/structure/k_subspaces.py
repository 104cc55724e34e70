"""K-subspaces: assign each point to one piece, fit each piece by PCA, again and again.

Bradley and Mangasarian 2000; Agarwal and Mustafa 2004. That the training loss of a diffusion model
on a union of subspaces is minimised by these very pieces is shown by Wang et al. 2024, with a phase
transition: a piece of dimension r is learnt from r points and not from fewer.

The classical assignment, to the subspace at the smallest distance, lets a piece of larger dimension
swallow the others. Here a point goes to the piece under which it is most likely, all pieces having
the same noise (classification EM, Celeux and Govaert 1992). As the noise goes to zero that is the
classical assignment.
"""

from __future__ import annotations

import torch
from torch import Tensor

from lowdim.registry import method, pieces
from lowdim.structure.gaussian_pieces import GaussianPieces


@method(
    "structure/subspaces",
    needs=pieces(),
    paper="Bradley and Mangasarian 2000; Celeux and Govaert 1992; Wang et al. 2024",
    arxiv="2409.02426",
    cost="O(n d (d + sum of ranks)) a pass, O(K d^2) memory",
    oracle="sklearn.decomposition.PCA for one piece",
)
class KSubspaces(GaussianPieces):
    """On which one of K subspaces does each point lie?

    Parameters
    ----------
    n_pieces : int
        K.
    ranks : int or sequence of int, optional
        The dimension of all pieces, or of each; by default chosen again at each step for each piece
        by the Bayesian information criterion.
    center : bool
        False for subspaces through the origin.
    n_restarts : int
        Starts, the best of which is kept: least mean deviance, plus log(n) / n a parameter where
        the ranks are chosen.
    max_iter : int
        Most steps of a start, and most passes over all points.
    tol : float
        Stop where a step makes the deviance a point smaller by no more.
    sample : int
        Points that the starts are made from.
    min_noise : float
        Least noise variance, relative to the mean variance of a column within the pieces.
    random_state : int
        Of the starts and the sample.
    memory : int, float or str, optional
        Budget. Points that do not fit are read in passes: K d x d moments and n K shares are held.

    Attributes
    ----------
    model_ : LowRankGaussians
        The pieces with their variances, their one noise and their shares.
    trace_ : Tensor
        (passes,) mean deviance before each pass over all points, plus the penalty above; falls
        where ranks are given and no piece runs empty.

    Raises
    ------
    InputError
        NaN or Inf, fewer points than pieces, ranks that do not fit.
    MemoryBudgetError
        Before anything is allocated.

    Notes
    -----
    A point goes to the piece of the smallest deviance q/v + sum z_j^2/l_j + sum log l_j
    + (d - r) log v - 2 log s: q its squared distance, v the noise variance of all pieces, z its
    coordinates along the piece, l the variances there, s the share of the piece. A piece of larger
    dimension so pays log l_j - log v for each further direction. ``predict`` does the same, while
    ``strata_.assign`` goes by distance alone. An empty piece starts anew around the point that is
    explained worst.

    Trust it where two values of ``random_state`` give the same labels, each piece has more than
    twice as many points as dimensions, and noise differs little between pieces (else
    ``LowRankMixture``). Outliers keep the labels but swell the ranks (5% of them, from 14 to 48):
    ``LowRankMixture`` with one more piece sets them apart. It finds K pieces in any cloud; whether
    there are any is another question.
    """

    def _shares(self, deviance: Tensor) -> Tensor:
        labels = deviance.argmin(1)
        return torch.nn.functional.one_hot(labels, deviance.shape[1]).double()

    def _cost(self, deviance: Tensor) -> Tensor:
        return deviance.amin(1)

    def _noise(self, left: Tensor, spare: Tensor, totals: Tensor) -> Tensor:
        common = (totals @ left) / (totals @ spare.double()).clamp_min(1)
        return common.expand(len(left))
