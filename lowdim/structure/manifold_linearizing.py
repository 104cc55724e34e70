"""Manifold linearizing and clustering: features in flat pieces, memberships from the same rate.

Ding, Tong, Chan, Dai, Ma and Haeffele 2023 make features Z = f(X) of length one and a doubly
stochastic membership P of pairs of points, and raise

    R(Z) - R^c(Z, P),    R^c the mean over j of the rate of the points weighted by P_j,

so that all features spread and those that belong together lie on a subspace. P is the Sinkhorn
projection of the similarities of a second head C = g(X), so both are functions of a point and are
trained on mini-batches. Here the similarity is the *squared* cosine of two rows of C, since a
subspace holds a point and its opposite; the paper's is the cosine. The graph that is cut is P on
the nearest points of each, found a block at a time.

Without an encoder Z is the unit rows, and only the membership is learned: doubly stochastic
subspace clustering. Its head starts at the ridge whitening (X^T X / n + c)^-1/2, in which
independent subspaces are orthogonal. With one, the encoder is trained first to spread its features
(largest R) while two augmented views of a point stay together, and the head starts as its copy.
"""

from __future__ import annotations

from collections.abc import Callable
from copy import deepcopy
from functools import partial
from itertools import pairwise

import numpy as np
import scipy.sparse as sp
import torch
from torch import Tensor, nn
from torch.nn.functional import normalize

from lowdim.core.memory import plan
from lowdim.core.points import distinct, unit_rows
from lowdim.core.shards import Source
from lowdim.core.spectrum import Spectrum
from lowdim.core.strata import Strata
from lowdim.errors import InputError
from lowdim.registry import method, pieces
from lowdim.structure.base import Job
from lowdim.structure.coding_rate import coding_rate, rate_reduction_loss
from lowdim.structure.self_expressive import LinearPieces, factored_graph
from lowdim.structure.sinkhorn import doubly_stochastic, sparse_doubly_stochastic
from lowdim.structure.spectral_graph import spectral_labels

Augment = Callable[[Tensor], Tensor]


def membership(c: Tensor, temperature: float) -> Tensor:
    """(b, b) doubly stochastic: how far each pair of rows belongs together."""
    return doubly_stochastic((c @ c.T).square() / temperature)


def mlp_encoder(
    dim: int, *, hidden: int = 256, features: int = 32, layers: int = 2, seed: int = 0
) -> nn.Sequential:
    """A perceptron from ``dim`` columns to ``features``, with weights drawn from ``seed``."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        widths = [dim] + [hidden] * layers
        parts: list[nn.Module] = []
        for a, b in pairwise(widths):
            parts += [nn.Linear(a, b), nn.ReLU()]
        return nn.Sequential(*parts, nn.Linear(widths[-1], features))


def noise_and_dropout(x: Tensor) -> Tensor:
    """A view of each point: a tenth of its numbers at zero, noise of a tenth of their spread."""
    kept = torch.rand_like(x) > 0.1
    return x * kept + 0.1 * x.std() * torch.randn_like(x)


@method(
    "structure/mlc",
    needs=pieces(),
    paper="Ding et al. 2023",
    arxiv="2301.01805",
    cost="batch x d^3 a step of training, 2 n^2 d flops for the graph",
)
class ManifoldLinearizing(LinearPieces):
    """Which pieces do the points fill, and in which features are those pieces flat?

    ``transform`` gives the features; ``strata_`` are subspaces of them, to which new points go.

    Parameters
    ----------
    n_pieces : int
        K.
    encoder : torch.nn.Module, optional
        (b, d) -> (b, p), e.g. :func:`mlp_encoder`; it is copied and not changed. Without one the
        features are the unit rows.
    augment : callable, optional
        (b, d) -> (b, d) a random view of each point, for an encoder; by default noise and dropout.
    eps : float
        Distortion of the rate: about the noise in a unit row, 0.5 as in the papers.
    temperature : float
        Of the membership: low for few partners a point.
    warm_up, epochs : int
        Passes of training the encoder alone, and of the whole.
    batch_size, learning_rate
        Of Adam.
    n_neighbors : int
        Partners of each point in the graph.
    rank : int, optional
        Dimension of every piece in feature space; by default each piece's own, by the BIC.
    random_state : int
        Of batches, views and the spectral clustering.
    memory : int, float or str, optional
        Budget of working memory.

    Attributes
    ----------
    encoder_, head_ : torch.nn.Module
        f and g.
    membership_ : scipy.sparse.csr_array
        (m, m) doubly stochastic; m is the number of different points, which is n as a rule.
    losses_ : list of float
        R^c - R, in nats a point, mean over each epoch.

    Notes
    -----
    Trust it without an encoder where pieces are linear subspaces. With an encoder what is flat is
    what the views say: they have to change what does not matter and nothing else, and noise with
    dropout is a poor substitute for what is known of images or text. Compare with KMeans.
    """

    encoder_: nn.Module
    head_: nn.Module

    def __init__(
        self,
        n_pieces: int = 8,
        *,
        encoder: nn.Module | None = None,
        augment: Augment | None = None,
        eps: float = 0.5,
        temperature: float = 0.1,
        warm_up: int = 20,
        epochs: int = 5,
        batch_size: int = 256,
        learning_rate: float = 1e-3,
        n_neighbors: int = 32,
        rank: int | None = None,
        random_state: int = 0,
        memory: int | float | str | None = None,
    ) -> None:
        self.n_pieces = n_pieces
        self.encoder = encoder
        self.augment = augment
        self.eps = eps
        self.temperature = temperature
        self.warm_up = warm_up
        self.epochs = epochs
        self.batch_size = batch_size
        self.learning_rate = learning_rate
        self.n_neighbors = n_neighbors
        self.rank = rank
        self.random_state = random_state
        self.memory = memory

    def _fit(self, source: Source, job: Job) -> Strata:
        if not (self.temperature >= 0.01 and self.eps > 0 and self.learning_rate > 0):
            raise InputError(
                f"temperature={self.temperature}, eps={self.eps}, learning_rate="
                f"{self.learning_rate}: give at least 0.01, and numbers above zero"
            )
        if self.batch_size < 2 or min(self.epochs, self.warm_up) < 0:
            raise InputError(
                f"batch_size={self.batch_size}, epochs={self.epochs}, warm_up={self.warm_up}: "
                "give at least two points a batch, and counts from 0"
            )
        n, d = source.n, source.dim
        plan("the points", rows=1, bytes_per_row=32 * n * d, memory=self.memory)
        x, inverse = distinct(source.read(self.memory))
        if len(x) < max(self.n_pieces, 2):
            raise InputError(f"{len(x)} different points: too few for {self.n_pieces} pieces")
        if self.encoder is None:
            self.encoder_, self.head_ = nn.Identity(), _whitening(unit_rows(x), self.memory)
        else:
            self.encoder_ = deepcopy(self.encoder).to(x.dtype).requires_grad_()
            self._train("warm-up", self.warm_up, [self.encoder_], self._spread, x, job)
            self.head_ = deepcopy(self.encoder_)
        modules = [self.encoder_, self.head_]
        self.losses_ = self._train("linearizing", self.epochs, modules, self._loss, x, job)
        nn.ModuleList(modules).requires_grad_(False)
        with torch.no_grad():
            z, c = (normalize(torch.cat([f(b) for b in x.split(4096)])) for f in modules)
        near = factored_graph(c, c, self.n_neighbors, job, memory=self.memory)
        near.data = np.exp((near.data.astype(np.float64) ** 2 - 1) / self.temperature)
        both = near.maximum(near.T) + sp.eye_array(len(x))  # a point and itself: exp(0)
        self.membership_ = sparse_doubly_stochastic(both)
        labels = spectral_labels(self.membership_, self.n_pieces, random_state=self.random_state)
        aside = labels < 0
        strata = self._pieces(z[~aside], labels[~aside])
        if bool(aside.any()):  # too small to be a piece: each point goes to the likeliest one
            labels[aside] = self._deviance(strata, z[aside]).argmin(1)
        return self._pieces(z[inverse], labels[inverse])

    def _spread(self, x: Tensor) -> Tensor:
        """Minus the rate of the features, and how far two views of a point are apart."""
        augment = self.augment or noise_and_dropout
        a, b = (normalize(self.encoder_(augment(x))) for _ in range(2))
        apart = (1 - (a * b).sum(1)).mean()
        return a.shape[1] * apart - (coding_rate(a, self.eps) + coding_rate(b, self.eps)) / 2

    def _loss(self, x: Tensor) -> Tensor:
        if self.encoder is not None:
            x = (self.augment or noise_and_dropout)(x)
        z, c = normalize(self.encoder_(x)), normalize(self.head_(x))
        return rate_reduction_loss(z, membership(c, self.temperature), self.eps)

    def _train(
        self,
        what: str,
        epochs: int,
        modules: list[nn.Module],
        loss: Callable[[Tensor], Tensor],
        x: Tensor,
        job: Job,
    ) -> list[float]:
        """Adam; after each epoch all that the next one starts from is kept."""
        both = nn.ModuleList(modules)
        optimizer = torch.optim.Adam(both.parameters(), lr=self.learning_rate)

        def epoch(seed: int) -> dict[str, Tensor]:
            losses = []
            with torch.random.fork_rng(devices=[]):
                torch.manual_seed(seed)
                for rows in torch.randperm(len(x)).split(self.batch_size):
                    if len(rows) < 2:  # a single point belongs with itself: nothing to learn
                        continue
                    value = loss(x[rows])
                    optimizer.zero_grad()
                    value.backward()
                    optimizer.step()
                    losses.append(float(value.detach()))
            steps = {
                f"adam {i} {name}": part
                for i, state in optimizer.state_dict()["state"].items()
                for name, part in state.items()
            }
            mean = torch.tensor(losses, dtype=torch.float64).mean()
            return {"loss": mean, **both.state_dict(), **steps}

        report, losses = job.progress.task(what), []
        both.train()
        for i in range(epochs):
            seed = self.random_state * 10_007 + i
            kept = dict(job.pieces.tensors(f"{what} {i}", partial(epoch, seed)))
            losses.append(float(kept.pop("loss")))
            state: dict[int, dict[str, Tensor]] = {}
            for key in [k for k in kept if k.startswith("adam ")]:
                _, place, name = key.split(" ")
                state.setdefault(int(place), {})[name] = kept.pop(key)
            both.load_state_dict(kept)
            groups = optimizer.state_dict()["param_groups"]
            optimizer.load_state_dict({"state": state, "param_groups": groups})
            report(i + 1, epochs)
        both.eval()
        return losses

    @torch.no_grad()
    def _transform(self, x: Tensor) -> Tensor:
        return normalize(self.encoder_(x.to(self.strata_.pieces[0].basis)))

    def _gates(self, x: Tensor) -> Tensor:
        return super()._gates(self._transform(x))

    def _reconstruct(self, x: Tensor) -> Tensor:
        if self.encoder is None:
            return super()._reconstruct(x)
        raise InputError("features of an encoder have no way back: reconstruct needs encoder=None")


def _whitening(x: Tensor, memory: int | float | str | None) -> nn.Linear:
    """(X^T X / n + c)^-1/2 with c a tenth of the mean energy, as a layer that can be trained."""
    spectrum = Spectrum.of_points(x, center=False, vectors=True, memory=memory)
    assert spectrum.vectors is not None
    d, v = x.shape[1], spectrum.vectors  # (d, r)
    ridge = 0.1 * spectrum.total / d
    weight = torch.eye(d).to(v) * ridge**-0.5
    weight = weight + v @ torch.diag((spectrum.values + ridge) ** -0.5 - ridge**-0.5) @ v.T
    layer = nn.Linear(d, d, bias=False).to(x)
    layer.weight = nn.Parameter(weight.to(x))
    return layer
