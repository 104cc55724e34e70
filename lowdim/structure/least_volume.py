"""Autoencoder whose code lies in the flattest possible box (Chen and Fuge 2024, "least volume").

The loss is the reconstruction error plus lambda times the geometric mean of (sigma_i + eta),
sigma_i the standard deviation of coordinate i of the code: the side of a box that the codes fill.
Every layer of the decoder has spectral norm one, so it is 1-Lipschitz and the box cannot shrink by
mere scaling. Then a coordinate that is replaced by its mean moves the output by at most sigma_i in
root mean square, which says, without looking at the data again, how many coordinates are needed.

For a linear autoencoder the optimum is PCA: for a code of a given subspace the product of the
sigma_i is least along its principal axes (Hadamard).

Two things are done here beside the paper. The points are centred and scaled to mean squared length
one for the fit, so that ``volume`` and ``floor`` have no units. And after it the code is turned to
its principal axes, which changes neither the reconstruction nor the Lipschitz constant and is, by
the same inequality, the end of the descent among rotations, which gradients are slow to reach.

Cost: ``epochs`` passes of O(n x parameters), the points held in memory.
"""

from __future__ import annotations

import itertools
import math
from typing import Any, Self

import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize
from torch.nn.utils.parametrizations import spectral_norm

from lowdim.core.linalg import eigh_psd
from lowdim.core.memory import plan
from lowdim.core.progress import Advance, Progress, Silent
from lowdim.errors import InputError
from lowdim.registry import method, reduction
from lowdim.structure.estimator import like, open_source
from lowdim.structure.reduction import Reduction


@method(
    "structure/least-volume",
    needs=reduction(),
    paper="Chen and Fuge 2024",
    cost="O(epochs n parameters)",
    oracle="sklearn.decomposition.PCA, where linear",
    invariant=(),
)
class LeastVolumeAE(Reduction):
    """How few numbers does a curved code need, and in which order do they matter?

    Parameters
    ----------
    n_components : int
        m, coordinates of the code to begin with; the fit flattens those it does not need.
    hidden : tuple of int
        Widths of the hidden layers of the encoder, and in reverse of the decoder; none is linear.
    volume : float
        lambda, the weight of the volume against the share of squared length that is lost.
    floor : float
        eta, in units of the points' spread: coordinates far below it are pressed no more.
    epochs, batch_size, learning_rate
        Of Adam, with a rate that rises for a third of the fit and falls to zero.
    random_state : int
        Of the weights and the batches.
    memory : int, float or str, optional
        Budget beyond the points.

    Attributes
    ----------
    scales_ : array or Tensor
        (m,) standard deviation of each coordinate of the code, descending, in the points' units.
    encoder_, decoder_ : torch.nn.Sequential
        The networks, on centred points of mean squared length one.
    n_features_in_ : int
        d.

    Raises
    ------
    InputError
        NaN or Inf, all rows equal, or a parameter that cannot be.
    MemoryBudgetError
        Points that do not fit.

    Notes
    -----
    Trust it where ``scales_`` falls off a cliff, and fit again with other seeds and ``volume``: a
    fit that is too short or a volume too small leaves spare coordinates standing, one too large
    flattens real ones. The count is of coordinates of a flat space that hold the points without a
    cut, not of the intrinsic dimension: 2 for a circle, 3 for a sphere. Computed in float32.
    """

    def __init__(
        self,
        n_components: int,
        *,
        hidden: tuple[int, ...] = (64, 64),
        volume: float = 0.3,
        floor: float = 0.01,
        epochs: int = 300,
        batch_size: int = 256,
        learning_rate: float = 3e-3,
        random_state: int = 0,
        memory: int | float | str | None = None,
    ) -> None:
        self.n_components = n_components
        self.hidden = hidden
        self.volume = volume
        self.floor = floor
        self.epochs = epochs
        self.batch_size = batch_size
        self.learning_rate = learning_rate
        self.random_state = random_state
        self.memory = memory

    def fit(self, x: Any, y: Any = None, *, progress: Progress | None = None) -> Self:
        """Train on (n, d) points, or on a path or source; ``y`` is ignored."""
        source = open_source(x)
        self._check()
        held = source.n * source.dim * (2 * source.dtype.itemsize + 4)
        plan("the points", rows=1, bytes_per_row=held, memory=self.memory)
        points = source.read(self.memory)
        self._mean = points.mean(0)
        self._unit = (points - self._mean).square().sum(1).mean().sqrt()  # root mean square length
        if not float(self._unit) > 0:
            raise InputError("all rows are equal: there is nothing to encode")
        points = ((points - self._mean) / self._unit).float()
        widths = (source.dim, *self.hidden, self.n_components)
        with torch.random.fork_rng(devices=[]):  # the weights are drawn from torch's own generator
            torch.manual_seed(self.random_state)
            self.encoder_ = _layers(widths)
            self.decoder_ = _layers(widths[::-1], contracting=True)
        self.encoder_.to(points.device)
        self.decoder_.to(points.device)
        self._train(points, (progress or Silent()).task("least volume"))
        _freeze(self.decoder_)
        with torch.no_grad():
            codes = torch.cat([self.encoder_(block) for block in points.split(2**14)]).double()
        values, axes = eigh_psd(torch.cov(codes.T, correction=0).reshape(len(codes.T), -1))
        self._center, self._axes = codes.mean(0).to(self._mean), axes.to(self._mean)
        self.scales_ = like(x, values.sqrt().to(self._mean) * self._unit)
        self.n_features_in_ = source.dim
        return self

    def inverse_transform(self, z: Any) -> Any:
        """(m, d) points with these (m, k) codes; of coordinates left out, k < m, the mean."""
        return self._decode(z, self._inverse_transform)

    def n_needed(self, tol: float = 0.05) -> int:
        """How many leading coordinates keep the root mean square error within ``tol`` more?

        The fewest whose successors, all replaced by their means, can move the output by at most
        ``tol`` times the root mean square length of the centred points.
        """
        self._check_fitted()
        if not tol >= 0:
            raise InputError(f"tol={tol!r}: a share of the spread, at least 0")
        scales = torch.as_tensor(self.scales_).double()
        left = scales.square().flip(0).cumsum(0).flip(0).sqrt()  # (m,) from coordinate i on
        return int((left > tol * float(self._unit)).sum())

    def _train(self, points: Tensor, advance: Advance) -> None:
        n, size = len(points), min(self.batch_size, len(points))
        weights = [*self.encoder_.parameters(), *self.decoder_.parameters()]
        total = self.epochs * (n // size)
        adam = torch.optim.Adam(weights, self.learning_rate)
        rate = torch.optim.lr_scheduler.OneCycleLR(adam, self.learning_rate, total_steps=total + 1)
        generator = torch.Generator().manual_seed(self.random_state)
        for epoch in range(self.epochs):
            order = torch.randperm(n, generator=generator)
            for rows in order[: n // size * size].split(size):
                x = points[rows]
                z = self.encoder_(x)
                lost = (self.decoder_(z) - x).square().sum(1).mean()
                (lost + self.volume * volume(z, self.floor)).backward()
                adam.step()
                rate.step()
                adam.zero_grad()
            advance(epoch + 1, self.epochs)

    @torch.no_grad()
    def _transform(self, x: Tensor) -> Tensor:
        z = self.encoder_(((x.to(self._mean) - self._mean) / self._unit).float())
        return ((z.to(self._mean) - self._center) @ self._axes * self._unit).to(x)

    @torch.no_grad()
    def _inverse_transform(self, z: Tensor) -> Tensor:
        if z.shape[1] > self.n_components:
            raise InputError(f"z has {z.shape[1]} columns and the code {self.n_components}")
        code = self._mean.new_zeros(len(z), self.n_components)
        code[:, : z.shape[1]] = z
        code = code / self._unit @ self._axes.T + self._center
        return (self.decoder_(code.float()) * self._unit + self._mean).to(z)

    def _check(self) -> None:
        whole = {"n_components": (self.n_components, 1), "epochs": (self.epochs, 1)}
        whole |= {"batch_size": (self.batch_size, 2)}
        whole |= {f"hidden[{i}]": (width, 1) for i, width in enumerate(self.hidden)}
        for name, (value, least) in whole.items():
            if isinstance(value, bool) or not isinstance(value, int) or value < least:
                raise InputError(f"{name}={value!r}: give a whole number, at least {least}")
        for name in ("volume", "floor", "learning_rate"):
            value = getattr(self, name)
            if not 0 < value < math.inf:
                raise InputError(f"{name}={value!r}: give a number above zero")


def volume(z: Tensor, floor: float) -> Tensor:
    """Geometric mean of sigma_i + floor over the columns of (n, m) codes."""
    variance = z.var(0, correction=0)
    flat = variance == 0  # where the root has no slope
    sigma = variance.masked_fill(flat, 1).sqrt().masked_fill(flat, 0)
    return (sigma + floor).log().mean().exp()


def _layers(widths: tuple[int, ...], *, contracting: bool = False) -> nn.Sequential:
    """Linear layers with leaky rectifiers, which are 1-Lipschitz, in between."""
    layers: list[nn.Module] = []
    for a, b in itertools.pairwise(widths):
        linear = nn.Linear(a, b)
        nn.init.orthogonal_(linear.weight)
        layers += [spectral_norm(linear) if contracting else linear, nn.LeakyReLU(0.2)]
    return nn.Sequential(*layers[:-1])


@torch.no_grad()
def _freeze(decoder: nn.Sequential) -> None:
    """Plain weights: power iteration ends a little below the norm, so divide by what is left."""
    for layer in decoder:
        if isinstance(layer, nn.Linear):
            parametrize.remove_parametrizations(layer, "weight")
            left = float(torch.linalg.matrix_norm(layer.weight.double(), 2))
            layer.weight /= max(1.0, left * (1 + 1e-6))
    decoder.eval()
