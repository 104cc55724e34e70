"""How many factors does a data set have? As many as come back when the data shake a little.

Each candidate rank is fitted to several copies of the data whose entries were multiplied by
1 + uniform(-noise, noise). Factors of all copies are clustered, exactly one of each copy to a
cluster, and the silhouettes say how well they agree: up to the true rank the same factors return,
beyond it what is left to fit is noise, which is another each time. (So Alexandrov et al. 2013 count
the signatures of an NMF, and Truong et al. 2020 the communities of RESCAL.)

It works for whatever gives factors: non-negative matrix factorisation, dictionaries, the decoder of
an autoencoder, principal components, :func:`lowdim.structure.rescal`. Cost: ranks x n_perturb fits,
and (rank n_perturb)^2 cosines of p columns.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from scipy.optimize import linear_sum_assignment
from torch import Tensor

from lowdim.core.memory import plan
from lowdim.core.points import as_points, check_finite, unit_rows
from lowdim.core.progress import Progress, Silent
from lowdim.core.random import uniform
from lowdim.errors import InputError

Factorizer = Callable[[Any, int, int], Any]
"""``(x, rank, seed)`` to factors, (rank, p) or (p, rank), or to a pair of them and their error."""

ROUNDS = 50  # of matching, which settles after a few


@dataclass(frozen=True, eq=False, repr=False)
class RankFit:
    """What the fits of one rank say.

    Attributes
    ----------
    rank : int
        k.
    silhouettes : Tensor
        (k,) mean over each cluster of factors; 1 where they are the same in every fit.
    error : float
        Mean relative error of the fits.
    factors : Tensor
        (k, p) unit rows, the median of each cluster.
    """

    rank: int
    silhouettes: Tensor
    error: float
    factors: Tensor

    @property
    def stability(self) -> float:
        """The least silhouette of a cluster."""
        return float(self.silhouettes.min())

    def __repr__(self) -> str:
        return f"RankFit(rank {self.rank}: stability {self.stability:.3f}, error {self.error:.3g})"


@dataclass(frozen=True, eq=False)
class RankSelection:
    """The rank that was chosen, and how each candidate did.

    Attributes
    ----------
    rank : int or None
        The largest stable one; None where none is.
    fits : tuple of RankFit
        Of each candidate, ascending.
    threshold : float
        Stability from which a rank counts.
    """

    rank: int | None
    fits: tuple[RankFit, ...]
    threshold: float

    @property
    def factors(self) -> Tensor:
        """(rank, p) consensus factors of the chosen rank."""
        for fit in self.fits:
            if fit.rank == self.rank:
                return fit.factors
        raise InputError(f"no rank is stable to {self.threshold}: there are no factors to agree on")


def select_rank(
    x: Any,
    ranks: Sequence[int],
    factorizer: Factorizer,
    *,
    n_perturb: int = 10,
    noise: float = 0.03,
    threshold: float = 0.75,
    random_state: int = 0,
    memory: int | float | str | None = None,
    progress: Progress | None = None,
) -> RankSelection:
    """How many factors of these data return from fit to fit?

    Parameters
    ----------
    x : array or Tensor
        Of any shape; the factoriser gets copies of the same kind.
    ranks : sequence of int
        Candidates.
    factorizer : callable
        ``(x, rank, seed)`` to (rank, p) factors, or (p, rank), or to ``(factors, relative error)``.
        Without an error, factors of p = d columns are scored by how much of (n, d) data lies
        outside their span.
    n_perturb : int
        Fits of each rank, at least two.
    noise : float
        Largest relative change of an entry; 0 leaves only the seeds to differ.
    threshold : float
        Least stability of a rank that can be chosen.
    random_state : int
        Of the perturbations; fit i gets the seed ``random_state + i``.
    memory : int, float or str, optional
        Budget; a copy of the data is held, and n_perturb rank^2 cosines.
    progress : Progress, optional
        Where it is reported to.

    Raises
    ------
    InputError
        NaN or Inf, no ranks, factors of another shape, a factor of zeros.

    Notes
    -----
    The rule takes the largest rank whose worst cluster is still stable, and leaves the error to
    the eye. Factors may differ in sign. Trust it where the factoriser is not the cause: one that
    stops early is unstable at the true rank, and one without freedom (principal components of a
    spectrum with gaps) is stable beyond it. A single factor is compared with an orthogonal one.
    """
    kept = isinstance(x, Tensor)
    given = torch.as_tensor(x)
    data = as_points(given.flatten(1) if given.ndim > 1 else given).view(given.shape)
    wanted = sorted(set(ranks))
    if not wanted or wanted[0] < 1 or n_perturb < 2 or not 0 <= noise < 1:
        raise InputError(
            f"ranks={list(ranks)}, n_perturb={n_perturb}, noise={noise}: give ranks from 1, two "
            "fits or more, and a noise in [0, 1)"
        )
    if not bool(data.any()):
        raise InputError("x is all zeros: there is nothing to factor")
    cosines = 40 * n_perturb * wanted[-1] ** 2
    plan("select_rank", rows=1, bytes_per_row=16 * data.numel() + cosines, memory=memory)
    advance = (progress or Silent()).task("fits")
    runs: dict[int, list[tuple[Tensor, float]]] = {rank: [] for rank in wanted}
    for i in range(n_perturb):
        factor = 1 + noise * (2 * uniform(data.shape, random_state, i, device=data.device) - 1)
        copy = data * factor.to(data)
        for j, rank in enumerate(wanted):
            found = factorizer(copy if kept else copy.numpy(), rank, random_state + i)
            runs[rank].append(_checked(found, copy, rank))
            advance(i * len(wanted) + j + 1, n_perturb * len(wanted))
    fits = []
    for rank in wanted:
        clusters = _match(torch.stack([factors for factors, _ in runs[rank]]))
        error = sum(e for _, e in runs[rank]) / n_perturb
        middle = torch.from_numpy(np.median(clusters.numpy(force=True), axis=0))
        middle = torch.nn.functional.normalize(middle)
        fits.append(RankFit(rank, silhouettes(clusters), error, middle))
    stable = [fit.rank for fit in fits if fit.stability >= threshold]
    return RankSelection(max(stable, default=None), tuple(fits), threshold)


def silhouettes(clusters: Tensor) -> Tensor:
    """How far is each cluster from the next, beside its own width? (k,) means over its members.

    Parameters
    ----------
    clusters : Tensor
        (r, k, p) unit rows, one of each run in each of k clusters; the distance of two is one
        less the size of their cosine. For k = 1 the next cluster is at distance one.
    """
    r, k, p = clusters.shape
    rows = clusters.reshape(r * k, p)
    distances = (1 - (run @ rows.T).abs().clamp_max(1) for run in clusters)  # (k, r k) each
    to = torch.stack([d.view(k, r, k).sum(1) for d in distances])  # from each factor to a cluster
    own = to.diagonal(dim1=1, dim2=2) / max(r - 1, 1)
    others = to / r
    others.diagonal(dim1=1, dim2=2).fill_(1)  # itself is not the next cluster
    near = others.amin(2)
    widest = torch.maximum(own, near)
    return torch.where(widest > 0, (near - own) / widest, 0.0).mean(0)


def _match(runs: Tensor) -> Tensor:
    """Reorder and turn (r, k, p) unit rows so that factor j of every run is in cluster j."""
    centers, order = runs[0], None
    for _ in range(ROUNDS):
        cosine = runs @ centers.T  # (r, k, k) of each factor with each center
        last, order = (
            order,
            np.stack([linear_sum_assignment(-c)[1] for c in cosine.abs().mT.numpy(force=True)]),
        )
        if last is not None and bool((last == order).all()):
            break
        index = torch.from_numpy(order).to(runs.device)  # (r, k) factor of each cluster
        picked = runs.gather(1, index[:, :, None].expand_as(runs))
        sign = (picked * centers).sum(2, keepdim=True)
        placed = torch.where(sign < 0, -picked, picked)
        centers = torch.nn.functional.normalize(placed.mean(0))
    return placed


def _checked(found: Any, x: Tensor, rank: int) -> tuple[Tensor, float]:
    """Unit rows (rank, p), and the relative error."""
    factors, error = found if isinstance(found, tuple) else (found, None)
    factors = torch.as_tensor(factors).detach().double()
    if factors.ndim == 2 and factors.shape[0] != rank and factors.shape[1] == rank:
        factors = factors.T
    if factors.ndim != 2 or factors.shape[0] != rank:
        raise InputError(f"the factorizer gave shape {tuple(factors.shape)} for rank {rank}")
    check_finite(factors, "the factors")
    if error is None:
        if x.ndim != 2 or x.shape[1] != factors.shape[1]:
            raise InputError("factors are not in the columns of x: return (factors, error)")
        basis = torch.linalg.qr(factors.T).Q.to(x)  # (d, rank)
        error = float((x - x @ basis @ basis.T).norm() / x.norm())
    return unit_rows(factors, "the factors"), float(error)
