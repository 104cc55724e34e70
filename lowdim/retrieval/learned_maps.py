"""Maps that are trained: to rank as the vectors do, to keep neighbours, to tell classes apart."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn.functional import kl_div

from lowdim.core.linalg import eigh_psd
from lowdim.core.moments import Moments
from lowdim.core.random import choice, integers
from lowdim.errors import InputError
from lowdim.registry import method, vectors
from lowdim.retrieval.map import Map
from lowdim.retrieval.metric import exact_search
from lowdim.retrieval.reduction import Training, check_dims, pca
from lowdim.structure.tldr import TLDR

ROWS = 20_000
"""Vectors that `tldr` is trained on, at most."""

SHRINKAGE = 1e-3
"""Of the variance within classes in `supervised`: no direction is without any."""

ANCHORS, FEW = 8192, 1024
"""Queries that are learnt from at most, and below which vectors make up the number; where no
queries are given, as many vectors as queries at most."""

NEIGHBORS = 16
"""True neighbours of an anchor that candidates are drawn from."""

BATCH, DRAWN = 256, 7
"""Anchors of a batch, and neighbours of each: all anchors rank the neighbours of all."""

STEPS, RATE = 200, 3e-3
"""Of Adam, with a rate that rises for a third of the fit and falls to zero."""

HEAT = 0.6
"""A row e times as likely is ahead by this many standard deviations of the scores of a query."""


@method(
    "retrieval/autoencoder",
    needs=vectors(),
    paper="our own: a linear autoencoder with the listwise loss of Cao, Qin, Liu et al. 2007",
    cost="8,192 exact searches and 200 steps of O(2,000 d m) to fit, O(d m) a vector",
    invariant=(),
)
def autoencoder(training: Training, dims: int) -> Map:
    """Which m coordinates keep the order of what is near, rather than the vectors themselves?

    Notes
    -----
    With the squared error a linear autoencoder is PCA. Here encoder, decoder and centre start there
    and are trained so that scores by the decoded vectors give the shares that the true scores give:
    least Kullback-Leibler divergence of softmax(score / heat) over rows near to any query of the
    batch. Queries, or vectors in their place, are ranked exactly once.

    Trust it with cosine or dot at few dims, d / 4 or less, where it finds more than ``pca`` and at
    many dims less (``python -m benchmarks.index_methods``), and with queries only for queries of
    their kind. Its coordinates are not in order: a prefix is no map of fewer.
    """
    start = pca(training, dims)
    assert start.encoder is not None
    assert start.decoder is not None
    x, anchors, own = training.x, *_anchors(training)
    near, _ = exact_search(x, anchors, min(NEIGHBORS, len(x)), metric=training.metric)
    unit = x.square().sum(1).mean().sqrt().clamp_min(1e-30)  # so that RATE has no units
    x, anchors = x / unit, anchors / unit
    some = x[choice(len(x), min(len(x), 1024), training.seed, device=x.device)]
    heat = HEAT * _scores(anchors[:1024], some, training.metric).std(1).mean()
    if not float(heat) > 1e-6:
        raise InputError("all vectors score alike with all queries: there is no order to keep")

    encoder, center, decoder = weights = [
        w.clone().requires_grad_() for w in (start.encoder, start.center / unit, start.decoder)
    ]
    adam = torch.optim.Adam(weights, RATE)
    rate = torch.optim.lr_scheduler.OneCycleLR(adam, RATE, total_steps=STEPS + 1)
    batches = integers((STEPS, BATCH), len(anchors), training.seed, device=x.device)
    slots = integers((STEPS, BATCH, DRAWN), near.shape[1], training.seed, 1, device=x.device)
    for batch, slot in zip(batches, slots, strict=True):
        rows = near[batch].gather(1, slot).flatten()  # (BATCH * DRAWN,)
        itself = own[batch][:, None] == rows
        map_ = Map(encoder, center, decoder)
        true = _scores(anchors[batch], x[rows], training.metric) / heat
        found = _decoded_scores(anchors[batch], map_.reduce(x[rows]), map_, training.metric) / heat
        got, wanted = (s.masked_fill(itself, -1e4).log_softmax(1) for s in (found, true))
        loss = kl_div(got, wanted, reduction="batchmean", log_target=True)
        adam.zero_grad()
        loss.backward()
        adam.step()
        rate.step()
    return Map(encoder.detach(), center.detach() * unit, decoder.detach())


def _anchors(training: Training) -> tuple[Tensor, Tensor]:
    """What is to be ranked for: (a, d) vectors, and (a,) the row of ``x`` that each is, or -1."""
    x, queries, seed = training.x, training.queries, training.seed
    given = 0 if queries is None else min(len(queries), ANCHORS)
    wanted = ANCHORS if queries is None else max(0, FEW - given)
    rows = choice(len(x), min(len(x), wanted), seed, device=x.device)
    if queries is None:
        return x[rows], rows
    asked = queries[choice(len(queries), given, seed, device=x.device)]
    return torch.cat([asked, x[rows]]), torch.cat([rows.new_full((given,), -1), rows])


def _scores(q: Tensor, x: Tensor, metric: str) -> Tensor:
    """(m, n) what orders the rows of ``x`` for each query; they are placed."""
    found = q @ x.T
    return found - x.square().sum(1) / 2 if metric == "euclidean" else found


def _decoded_scores(q: Tensor, z: Tensor, map_: Map, metric: str) -> Tensor:
    """The same of the vectors that (n, m) coordinates stand for, at the cost of m columns."""
    back, center = map_.decoder, map_.center
    assert back is not None
    found = torch.addmm((q @ center)[:, None], q @ back.T, z.T)
    squares = (z @ (back @ back.T) * z).sum(1) + 2 * z @ (back @ center) + center @ center
    if metric == "cosine":
        return found * squares.clamp_min(1e-12).rsqrt()
    return found - squares / 2 if metric == "euclidean" else found


@method(
    "retrieval/tldr",
    needs=vectors(),
    paper="Kalantidis, Lassance, Almazan and Larlus 2022",
    arxiv="2110.09455",
    cost="20,000 neighbour searches and 10 passes over as many vectors to fit, O(d m) a vector",
    invariant=(),
)
def tldr(training: Training, dims: int) -> Map:
    """Which m columns keep each vector and its neighbours alike, and say nothing twice?

    Notes
    -----
    A short fit of the linear encoder of :class:`lowdim.structure.TLDR`; rows and queries are
    compared in its space, where scores are not those of the vectors, and it finds fewer of the true
    neighbours than ``pca`` (``python -m benchmarks.index_methods``). Trust it with relevance
    judgements that say it helps, for features not trained for retrieval.
    """
    check_dims(dims, min(len(training.x), training.dim))
    x = training.x[choice(len(training.x), min(len(training.x), ROWS), training.seed)]
    found = TLDR(dims, epochs=10, projector=256, random_state=training.seed).fit(x)
    weight, bias = (torch.as_tensor(w).double() for w in (found.components_, found.intercept_))
    center = -torch.linalg.pinv(weight) @ bias  # (m, d), (m,)
    return Map(weight.T.float().contiguous(), center.float())


@method(
    "retrieval/supervised",
    needs=vectors(),
    paper="Fisher 1936; Rao 1948",
    cost="O(n d^2 + d^3) to fit, O(d m) a vector",
    oracle="sklearn.discriminant_analysis.LinearDiscriminantAnalysis",
    invariant=("permutation",),
)
def supervised(training: Training, dims: int) -> Map:
    """Which m directions tell the classes of the labels apart?

    Notes
    -----
    Linear discriminant analysis: directions of the most variance between classes where that within
    is the same all round, at most one less than there are classes; rows and queries are compared
    there. The variance within is shrunk by a thousandth towards its mean. Trust it where what is
    sought are rows of the same class and classes to come are those of the labels; it drops all that
    tells rows of one class apart.
    """
    if training.labels is None:
        raise InputError("reduction supervised needs the class of each vector: fit(x, y=labels)")
    x = training.x
    classes, labels, counts = training.labels.unique(return_inverse=True, return_counts=True)
    check_dims(dims, min(training.dim, len(classes) - 1))
    means = torch.zeros(len(classes), training.dim, dtype=torch.float64, device=x.device)
    means = means.index_add_(0, labels, x.double()) / counts[:, None]  # (C, d)
    within = Moments(training.dim, device=x.device)
    for part, label in zip(x.split(2**14), labels.split(2**14), strict=True):
        within.update(part - means[label])
    noise = within.second_moment()
    share = SHRINKAGE * noise.trace() / training.dim
    values, axes = eigh_psd((1 - SHRINKAGE) * noise + share * torch.eye(training.dim).to(noise))
    if not float(values[-1]) > 0:
        raise InputError("the vectors of each class are all equal: nothing varies within a class")
    whiten = axes / values.sqrt()  # (d, d)
    mean = counts.double() @ means / len(x)
    between = (means - mean) * counts.double().sqrt()[:, None] @ whiten  # (C, d)
    directions = torch.linalg.svd(between, full_matrices=False).Vh[:dims].T
    return Map((whiten @ directions).float().contiguous(), mean.float())
