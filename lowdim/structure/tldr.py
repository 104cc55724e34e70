"""TLDR: a reduction that keeps neighbours together (Kalantidis, Lassance, Almazan and Larlus 2022).

The k nearest neighbours of every point are found once; a point and one of its neighbours are a
pair. An encoder to few columns, followed by a projector to many that is thrown away after the fit,
is trained on the Barlow Twins loss (Zbontar et al. 2021): of the cross-correlation C of the two
sides, the diagonal should be one (a point and its neighbour say the same) and all else zero (no
two outputs say the same). A linear encoder costs one matrix at use, as PCA does.

Beside the paper: Adam in place of LARS, linear and factorized encoders that start from whitened
PCA and not from random numbers, and a projector of width 512 by default (2,048 and more there),
for a fit of minutes without a GPU. Points are centred and scaled by one number for the fit.

Cost: one neighbour search, then ``epochs`` passes of O(n width^2); points of a file stay there and
are read pair by pair.
"""

from __future__ import annotations

import itertools
import math
from typing import Any, Self

import torch
from torch import Tensor, nn

from lowdim.core.neighbors import Neighbors
from lowdim.core.progress import Advance, Progress, Silent
from lowdim.core.shards import Source
from lowdim.core.spectrum import Spectrum
from lowdim.errors import InputError
from lowdim.registry import method, reduction
from lowdim.structure.estimator import like, open_source
from lowdim.structure.reduction import Reduction

ENCODERS = ("linear", "factorized", "mlp")


@method(
    "structure/tldr",
    needs=reduction(),
    paper="Kalantidis, Lassance, Almazan and Larlus 2022",
    arxiv="2110.09455",
    cost="a neighbour search and O(epochs n width^2)",
    invariant=(),
)
class TLDR(Reduction):
    """Which few columns keep each point and its neighbours alike, and say nothing twice?

    Parameters
    ----------
    n_components : int
        k, columns of the result.
    n_neighbors : int
        Of each point, one drawn at random each time the point is seen.
    encoder : {"linear", "factorized", "mlp"}
        One matrix; two with a batch normalisation between them, which are one after the fit; or
        two with a rectifier, which stay a network.
    hidden : int
        Width between the two; at least k where factorized.
    projector : int
        Width of the three layers that are thrown away.
    redundancy : float
        lambda, the weight of each correlation off the diagonal.
    epochs, batch_size, learning_rate
        Of Adam, with a rate that rises for a third of the fit and falls to zero.
    random_state : int
        Of the weights, the batches and the pairs.
    memory : int, float or str, optional
        Budget beyond the points.

    Attributes
    ----------
    components_, intercept_ : array or Tensor
        (k, d) and (k,), the whole map of a linear or factorized encoder.
    encoder_ : torch.nn.Module
        The network, on centred and scaled points.
    loss_ : float
        Mean loss over the last pass.
    n_features_in_ : int
        d.

    Raises
    ------
    InputError
        NaN or Inf, all rows equal, k above d or n, or a parameter that cannot be.

    Notes
    -----
    Trust it after measuring neighbour recall on points that were not in the fit, beside PCA and
    whitened PCA of the same width: it is not always the better one, least so where the embedding
    was itself trained to have meaningful distances, and a longer fit can lower the loss and the
    recall at once. Exact duplicates pair with each other, which teaches nothing: remove them first.
    """

    def __init__(
        self,
        n_components: int,
        *,
        n_neighbors: int = 3,
        encoder: str = "linear",
        hidden: int = 512,
        projector: int = 512,
        redundancy: float = 4e-3,
        epochs: int = 50,
        batch_size: int = 1024,
        learning_rate: float = 1e-3,
        random_state: int = 0,
        memory: int | float | str | None = None,
    ) -> None:
        self.n_components = n_components
        self.n_neighbors = n_neighbors
        self.encoder = encoder
        self.hidden = hidden
        self.projector = projector
        self.redundancy = redundancy
        self.epochs = epochs
        self.batch_size = batch_size
        self.learning_rate = learning_rate
        self.random_state = random_state
        self.memory = memory

    def fit(self, x: Any, y: Any = None, *, progress: Progress | None = None) -> Self:
        """Train on (n, d) points, or on a path or source; ``y`` is ignored."""
        source, progress = open_source(x), progress or Silent()
        self._check_components(min(source.n, source.dim), "points and columns")
        self._check()
        pairs = Neighbors.of_points(
            source, self.n_neighbors, memory=self.memory, progress=progress.task("neighbours")
        ).indices
        spectrum = Spectrum.of_points(source, vectors=True, memory=self.memory)
        if not spectrum.total > 0 or spectrum.mean is None:
            raise InputError("all rows are equal: no point is nearer than another")
        self._mean, self._unit = spectrum.mean, math.sqrt(spectrum.total / source.dim)
        with torch.random.fork_rng(devices=[]):  # the weights are drawn from torch's own generator
            torch.manual_seed(self.random_state)
            self.encoder_ = self._encoder(source.dim)
            projector = _network((self.n_components, *3 * (self.projector,)), nn.ReLU)
        if self.encoder != "mlp":
            _start_whitened(self.encoder_, spectrum, self._unit)
        self.encoder_.to(self._mean.device)
        projector.to(self._mean.device)
        self.loss_ = self._train(source, pairs, projector, progress.task("tldr"))
        self.encoder_.eval()
        if self.encoder != "mlp":
            weight, bias = _affine(self.encoder_, source.dim)
            weight = weight / self._unit
            self.components_ = like(x, weight)
            self.intercept_ = like(x, bias - weight @ self._mean)
        self.n_features_in_ = source.dim
        return self

    def _train(self, source: Source, pairs: Tensor, projector: nn.Module, tell: Advance) -> float:
        n, size = source.n, min(self.batch_size, source.n)
        steps = n // size
        both = nn.Sequential(self.encoder_, projector)
        adam = torch.optim.AdamW(both.parameters(), self.learning_rate, weight_decay=1e-4)
        rate = torch.optim.lr_scheduler.OneCycleLR(
            adam, self.learning_rate, total_steps=self.epochs * steps + 1
        )
        generator = torch.Generator().manual_seed(self.random_state)
        for epoch in range(self.epochs):
            total = 0.0
            for rows in torch.randperm(n, generator=generator)[: steps * size].split(size):
                drawn = torch.randint(self.n_neighbors, (size,), generator=generator)
                twins = pairs[rows.to(pairs.device), drawn.to(pairs.device)]
                a, b = (self._scaled(source.take(r, self.memory)) for r in (rows, twins))
                loss = barlow_twins(both(a), both(b), self.redundancy)
                adam.zero_grad()
                loss.backward()
                adam.step()
                rate.step()
                total += float(loss.detach())
            tell(epoch + 1, self.epochs)
        return total / steps

    def _scaled(self, x: Tensor) -> Tensor:
        return ((x.to(self._mean) - self._mean) / self._unit).float()

    @torch.no_grad()
    def _transform(self, x: Tensor) -> Tensor:
        if self.encoder == "mlp":
            return self.encoder_(self._scaled(x)).to(x)
        weight, bias = (torch.as_tensor(w).to(x) for w in (self.components_, self.intercept_))
        return x @ weight.T + bias  # (m, d) @ (d, k)

    def _encoder(self, dim: int) -> nn.Sequential:
        if self.encoder == "linear":
            return nn.Sequential(nn.Linear(dim, self.n_components))
        between = nn.Identity if self.encoder == "factorized" else nn.ReLU
        return _network((dim, self.hidden, self.n_components), between)

    def _check(self) -> None:
        if self.encoder not in ENCODERS:
            raise InputError(f"encoder={self.encoder!r}: choose from {', '.join(ENCODERS)}")
        for name, least in (("epochs", 1), ("batch_size", 2), ("hidden", 1), ("projector", 1)):
            value = getattr(self, name)
            if isinstance(value, bool) or not isinstance(value, int) or value < least:
                raise InputError(f"{name}={value!r}: give a whole number, at least {least}")
        if self.encoder == "factorized" and self.hidden < self.n_components:
            raise InputError(
                f"hidden={self.hidden}: two matrices of that width have no "
                f"{self.n_components} independent columns"
            )
        if not 0 <= self.redundancy < math.inf or not 0 < self.learning_rate < math.inf:
            raise InputError(
                f"redundancy={self.redundancy!r}, learning_rate={self.learning_rate!r}: give "
                "numbers above zero"
            )


def barlow_twins(a: Tensor, b: Tensor, redundancy: float) -> Tensor:
    """How far is the cross-correlation of two (n, m) outputs from the identity?

    sum_i (1 - C_ii)^2 + redundancy x sum_(i != j) C_ij^2, C the correlations over the n rows; a
    constant column correlates with nothing.
    """
    c = _standardized(a).T @ _standardized(b) / len(a)  # (m, n) @ (n, m)
    diagonal = c.diagonal()
    off = c.square().sum() - diagonal.square().sum()
    return (1 - diagonal).square().sum() + redundancy * off


def _standardized(z: Tensor) -> Tensor:
    z = z - z.mean(0)
    variance = z.square().mean(0)
    return z / variance.masked_fill(variance == 0, 1).sqrt()


def _network(widths: tuple[int, ...], between: type[nn.Module]) -> nn.Sequential:
    """Linear layers, with batch normalisation and ``between`` after all but the last."""
    layers: list[nn.Module] = []
    for a, b in itertools.pairwise(widths):
        layers += [nn.Linear(a, b), nn.BatchNorm1d(b), between()]
    return nn.Sequential(*layers[:-2])


@torch.no_grad()
def _start_whitened(encoder: nn.Sequential, spectrum: Spectrum, unit: float) -> None:
    """Principal coordinates of unit variance out of the first layer, and k of them of the last."""
    first, last = encoder[0], encoder[-1]
    assert isinstance(first, nn.Linear)
    assert isinstance(last, nn.Linear)
    assert spectrum.vectors is not None
    r = min(first.out_features, len(spectrum.values))
    values = spectrum.values[:r].clamp_min(1e-9 * float(spectrum.values[0]))
    first.weight[:r] = (spectrum.vectors[:, :r] * (unit / values.sqrt())).T.float()
    first.bias.zero_()
    if last is not first:
        last.weight.copy_(torch.eye(*last.weight.shape))
        last.bias.zero_()


@torch.no_grad()
def _affine(network: nn.Module, dim: int) -> tuple[Tensor, Tensor]:
    """(k, d) float64 and (k,) of a network that is an affine map."""
    bias = next(network.parameters())
    network.double()
    corner = network(torch.zeros(1, dim).to(bias.device, torch.float64))
    weight = network(torch.eye(dim).to(bias.device, torch.float64)) - corner
    network.float()
    return weight.T.contiguous(), corner[0]
