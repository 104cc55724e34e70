"""Sets of graded dimension from one source: the codes of mixture autoencoders of growing width.

After MNIST-Nd (Turishcheva et al. 2024, arXiv 2410.16124): a variational autoencoder whose prior is
a mixture of normal distributions is trained on the same images for each code width of 2, 4, ...,
64, so that the same classes with much the same overlap are had in every dimension. No label is read
in training. The architecture and schedule are ours, small enough for a CPU; the decoder's variance
is the one that fits best (Rybkin, Daniilidis and Levine 2021), so that nothing has to be tuned from
width to width.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from sklearn.metrics import adjusted_rand_score, normalized_mutual_info_score
from torch import Tensor, nn

from lowdim.core.neighbors import Neighbors
from lowdim.core.points import as_points, distinct
from lowdim.core.progress import Progress, Silent
from lowdim.errors import InputError

DIMS = (2, 4, 8, 16, 32, 64)
BATCH = 128
K = 20  # neighbours of the intrinsic dimension


@dataclass(frozen=True, eq=False)
class GradedSet:
    """The codes of one autoencoder.

    Attributes
    ----------
    points : Tensor
        (n, dim) float32, the mean of each image's posterior.
    labels : Tensor
        (n,) the classes of the images.
    dim : int
        Nominal dimension, the width of the code.
    intrinsic : float
        Dimension of the points by maximum likelihood (:func:`lowdim.geometry.mle.mle`, k = 20).
    error : float
        Share of the variance of the images that decoding loses.
    """

    points: Tensor
    labels: Tensor
    dim: int
    intrinsic: float
    error: float


@dataclass(frozen=True)
class ClusteringScore:
    """How well one algorithm finds the classes of one set.

    Attributes
    ----------
    algorithm : str
        Its name.
    dim, intrinsic : int, float
        Nominal and measured dimension of the set.
    ari, nmi : float
        Adjusted Rand index and normalised mutual information with the classes.
    """

    algorithm: str
    dim: int
    intrinsic: float
    ari: float
    nmi: float


class MixtureVAE(nn.Module):
    """Normal posteriors, and a mixture of normal distributions as the prior of the code."""

    def __init__(self, pixels: int, dim: int, components: int, width: int) -> None:
        super().__init__()
        self.encoder = nn.Sequential(
            nn.Linear(pixels, width), nn.ReLU(), nn.Linear(width, width), nn.ReLU(),
            nn.Linear(width, 2 * dim),
        )  # fmt: skip
        self.decoder = nn.Sequential(
            nn.Linear(dim, width), nn.ReLU(), nn.Linear(width, width), nn.ReLU(),
            nn.Linear(width, pixels),
        )  # fmt: skip
        self.means = nn.Parameter(torch.randn(components, dim))
        self.log_scales = nn.Parameter(torch.zeros(components, dim))
        self.shares = nn.Parameter(torch.zeros(components))

    def posterior(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Means and log standard deviations of the codes, both (n, dim)."""
        mean, log_scale = self.encoder(x).chunk(2, 1)
        return mean, log_scale

    def log_prior(self, z: Tensor) -> Tensor:
        """(n,) log-density of (n, dim) codes under the mixture."""
        scaled = (z[:, None] - self.means) / self.log_scales.exp()  # (n, components, dim)
        logs = -(scaled.square() / 2 + self.log_scales + math.log(2 * math.pi) / 2).sum(2)
        return (logs + self.shares.log_softmax(0)).logsumexp(1)

    def loss(self, x: Tensor, noise: Tensor) -> Tensor:
        """Minus the evidence bound a point, up to a constant, at one draw of the code.

        The decoder's variance is the mean squared error of the batch, which maximises the bound.
        """
        mean, log_scale = self.posterior(x)
        z = mean + log_scale.exp() * noise  # (n, dim)
        log_posterior = -(noise.square() / 2 + log_scale + math.log(2 * math.pi) / 2).sum(1)
        misfit = x.shape[1] / 2 * (self.decoder(z) - x).square().mean().log()
        return misfit + (log_posterior - self.log_prior(z)).mean()


def mnist_nd(
    images: Any,
    labels: Any,
    dim: int,
    *,
    components: int = 10,
    width: int = 256,
    epochs: int = 40,
    random_state: int = 0,
    progress: Progress | None = None,
) -> GradedSet:
    """Turn images into points of ``dim`` columns that keep their classes apart as they were.

    Parameters
    ----------
    images : array-like
        (n, pixels) intensities in any unit.
    labels : array-like
        (n,) integers; carried along, not learnt from.
    dim : int
        Width of the code, 2 to 64 in the published sets.
    components : int
        Normal distributions in the prior.
    width : int
        Units of the two hidden layers on each side.
    epochs : int
        Passes over the images: 40 for some thousand images, 10 for MNIST's 70,000.
    random_state : int
        Of the starting weights, the batches and the codes drawn.
    progress : Progress, optional
        Where it is reported to.

    Raises
    ------
    InputError
        NaN or Inf, 20 distinct images or fewer, all images equal, or labels that do not match.

    Notes
    -----
    Training runs on the CPU in float32: about 3 s for the 1,797 digits of scikit-learn, minutes
    for MNIST. Trust the order of the sets, not the number in their names: a wide code is not filled
    (see ``intrinsic``).
    """
    x, y = as_points(images, name="images").float().cpu(), torch.as_tensor(labels).cpu()
    if y.shape != (len(x),) or y.is_floating_point():
        raise InputError(f"labels: give {len(x)} integers, one an image")
    if min(dim, components, width, epochs) < 1:
        raise InputError(f"{dim=}, {components=}, {width=}, {epochs=}: give numbers above zero")
    if len(distinct(x)[0]) <= K:
        raise InputError(f"{len(distinct(x)[0])} distinct images: more than {K} are needed")
    x = x - x.mean(0)
    x = x / x.square().mean().sqrt()
    draws = torch.Generator().manual_seed(random_state)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(random_state)
        model = MixtureVAE(x.shape[1], dim, components, width)
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-3)
    advance = (progress or Silent()).task(f"autoencoder of width {dim}")
    for epoch in range(epochs):
        for rows in torch.randperm(len(x), generator=draws).split(BATCH):
            loss = model.loss(x[rows], torch.randn(len(rows), dim, generator=draws))
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
        advance(epoch + 1, epochs)
    with torch.no_grad():
        points = model.posterior(x)[0]
        error = float((model.decoder(points) - x).square().mean())
    return GradedSet(points, y, dim, _intrinsic(points), error)


def digits_nd(dim: int, **options: Any) -> GradedSet:
    """:func:`mnist_nd` of the 1,797 handwritten digits of 8 x 8 pixels that scikit-learn brings."""
    from sklearn.datasets import load_digits

    digits = load_digits()
    return mnist_nd(digits.data, digits.target, dim, **options)


def clustering_vs_dimension(
    algorithms: Mapping[str, Callable[[np.ndarray], Any]], sets: Iterable[GradedSet]
) -> list[ClusteringScore]:
    """Which clustering keeps finding the classes as the dimension grows?

    Parameters
    ----------
    algorithms : mapping of str to callable
        Each takes (n, dim) points and gives (n,) labels, e.g. ``KMeans(10).fit_predict``.
    sets : iterable of GradedSet
        Of several widths, and several seeds of each where error bars are wanted.

    Returns
    -------
    list of ClusteringScore
        One for each set and algorithm, in this order.
    """
    scores = []
    for graded in sets:
        x, truth = graded.points.numpy(), graded.labels.numpy()
        for name, cluster in algorithms.items():
            found = np.asarray(cluster(x.copy()))
            if found.shape != truth.shape:
                raise InputError(f"{name} gave labels of shape {found.shape} for {len(x)} points")
            ari = float(adjusted_rand_score(truth, found))
            nmi = float(normalized_mutual_info_score(truth, found))
            scores.append(ClusteringScore(name, graded.dim, graded.intrinsic, ari, nmi))
    return scores


def _intrinsic(points: Tensor) -> float:
    from lowdim.geometry.mle import mle

    return mle(Neighbors.of_points(distinct(points)[0], K), k=K).value
