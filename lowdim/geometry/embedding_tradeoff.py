"""Stable rank against distance preservation of a positional embedding (Zheng et al. 2021).

A linear head can fit about as many samples as the stable rank of the embedding matrix; it
generalises where the similarity of two embeddings falls with their distance. Wider bases are
smoother and of lower rank. For Gaussian bumps of width s on a dense grid of [0, 1] the similarity
is exp(-(x1 - x2)^2 / (4 s^2)); its integral, 2 sqrt(pi) s, is the largest eigenvalue as a share of
the trace, so the stable rank is about min(N, 1/(2 sqrt(pi) s)).

Cost: one spectrum and O(n d lags).
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from lowdim.core.estimate import Estimate
from lowdim.core.points import as_points
from lowdim.core.spectrum import Spectrum
from lowdim.errors import InputError
from lowdim.registry import method, points, spectrum


@dataclass(frozen=True, kw_only=True)
class EmbeddingTradeoff(Estimate):
    """Rank against smoothness; ``value`` is the stable rank.

    Attributes
    ----------
    kernel : tuple of float
        Mean similarity of rows 0, 1, 2, ... positions apart, over that of a row with itself.
    spread : tuple of float
        Standard deviation over positions: zero where similarity depends on distance alone.
    reach : int or None
        First lag at which the kernel is below one half; None if none of those looked at.
    """

    kernel: tuple[float, ...]
    spread: tuple[float, ...]
    reach: int | None


@method(
    "geometry/embedding-tradeoff",
    needs=(spectrum(center=False), points()),
    paper="Zheng, Ramasinghe and Lucey 2021",
    arxiv="2107.02561",
    cost="O(n d lags)",
    invariant=("rotation", "scale"),
    deep=True,
)
def embedding_tradeoff(spectrum: Spectrum, x: Tensor, *, lags: int = 64) -> EmbeddingTradeoff:
    """How many samples can a positional embedding tell apart, and how far does it reach?

    Parameters
    ----------
    spectrum : Spectrum
        Of the rows about the origin.
    x : Tensor
        (n, d) one row a position, in the order of the positions, equally spaced.
    lags : int
        How many positions apart are looked at.

    Raises
    ------
    InputError
        All rows are zero.

    Notes
    -----
    Trust the rank for a linear or shallow head; deep networks fit more than it says. The kernel
    means something only for rows in the order of their positions, so of other points only the
    stable rank is worth reading.
    """
    x = as_points(x).double()
    own = float(x.square().sum(1).mean())
    if not own > 0:
        raise InputError("all rows are zero: there is no embedding")
    kernel, spread = [], []
    for lag in range(min(lags, len(x) - 1) + 1):
        similarity = (x[: len(x) - lag] * x[lag:]).sum(1) / own
        kernel.append(float(similarity.mean()))
        spread.append(float(similarity.std(correction=0)))
    reach = next((i for i, value in enumerate(kernel) if value < 0.5), None)
    return EmbeddingTradeoff(
        value=spectrum.stable_rank(), n=len(x), exact=spectrum.exact, kernel=tuple(kernel),
        spread=tuple(spread), reach=reach,
    )  # fmt: skip


def gaussian_embedding(t: Tensor, n_features: int, sigma: float) -> Tensor:
    """(n, n_features) Gaussian bumps of width ``sigma`` centred on a grid of [0, 1]."""
    centres = torch.linspace(0, 1, n_features, dtype=torch.float64, device=t.device)
    return torch.exp(-((t.double()[:, None] - centres) ** 2) / (2 * sigma * sigma))


def gaussian_stable_rank(n_samples: int, sigma: float) -> float:
    """Stable rank of Gaussian bumps at ``n_samples`` positions of [0, 1]: min(N, 1/(2 sqrt(pi) s)).

    Neglects the ends, so it is good for ``sigma`` below about 0.05.
    """
    return min(float(n_samples), 1 / (2 * math.sqrt(math.pi) * sigma))


def choose_sigma(n_samples: int, bandwidth: float | None = None) -> float:
    """How wide can Gaussian bumps on [0, 1] be and still fit these samples?

    Parameters
    ----------
    n_samples : int
        Training samples: the stable rank that memorises them.
    bandwidth : float, optional
        Cycles on [0, 1] beyond which the signal has nothing: 2 bandwidth + 1 numbers describe it,
        and more rank only overfits. The paper has no such rule; it is the sampling theorem's.

    Returns
    -------
    float
        The width at which the predicted stable rank meets what is needed.
    """
    needed = n_samples if bandwidth is None else min(n_samples, 2 * bandwidth + 1)
    if not needed > 0:
        raise InputError(f"n_samples={n_samples}, bandwidth={bandwidth}: both above zero")
    return 1 / (2 * math.sqrt(math.pi) * needed)
