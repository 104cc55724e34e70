"""The map of least error as queries see it.

A query q reads a vector x only through <q, x>, so what a map loses of it, e = x - x^, costs
E <q, e>^2 = E e' S e, S the second moment of the queries: |S^(1/2) e|^2. With y = S^(1/2) (x - c)
that is the squared error of y, which among maps of m coordinates the principal directions V of y
make least, y^ = y V V' (Eckart and Young). In terms of x the encoder is S^(1/2) V and the decoder
V' S^(-1/2): an oblique projection, and PCA where S is a multiple of the identity.
"""

from __future__ import annotations

from sklearn.covariance import ledoit_wolf_shrinkage
from torch import Tensor, eye

from lowdim.core.linalg import eigh_psd
from lowdim.core.moments import Moments
from lowdim.errors import InputError
from lowdim.registry import method, vectors
from lowdim.retrieval.map import Map
from lowdim.retrieval.reduction import Training, check_dims

ROWS = 10_000
"""Queries that the shrinkage is chosen from: more of them need next to none."""


@method(
    "retrieval/query-aware",
    needs=vectors(),
    paper="our own: Eckart and Young 1936 in the norm of the queries; Ledoit and Wolf 2004",
    cost="O((n + queries) d^2 + d^3) to fit, O(d m) a vector",
    invariant=("permutation",),
)
def query_aware(training: Training, dims: int) -> Map:
    """Which m coordinates hold the most of what the queries ask about?

    Notes
    -----
    Among all affine maps to m coordinates and back, that of the least mean of <q, x - x^>^2 over
    queries q and vectors x. Where no queries are given the vectors stand in for them, which leaves
    next to nothing to gain. Few queries are shrunk towards no preference, which is PCA. Trust it
    where the queries given are of the kind to come and differ from the vectors, as words do from
    the definitions they look for (``python -m benchmarks.index_methods``).
    """
    check_dims(dims, min(len(training.x), training.dim))
    x = Moments(training.dim, device=training.x.device).update(training.x)
    queries = training.x if training.queries is None else training.queries
    values, axes = eigh_psd(shrunk_second_moment(queries))
    if not float(values[-1]) > 0:
        raise InputError("all queries are zero: there is nothing that they ask about")
    root = axes * values.sqrt() @ axes.T  # S^(1/2), (d, d)
    covariance = root @ x.second_moment() @ root
    directions = eigh_psd((covariance + covariance.T) / 2)[1][:, :dims]  # V, (d, m)
    encoder = (root @ directions).float().contiguous()
    decoder = (directions.T @ (axes / values.sqrt() @ axes.T)).float().contiguous()
    return Map(encoder, x.mean.float(), decoder)


def shrunk_second_moment(queries: Tensor) -> Tensor:
    """(d, d) float64: (1 - a) S + a (tr S / d) I, positive definite unless all queries are zero.

    Ledoit and Wolf's a, about no centre: what makes the expected squared error least. At least a
    millionth, so that a direction that no query asks about counts little and not nothing.
    """
    n, d = queries.shape
    moment = Moments(d, device=queries.device).update(queries).second_moment(center=False)
    sample = queries[:ROWS].double().cpu().numpy()
    share = 1.0  # one query says nothing of how queries are spread
    if n > 1:
        share = max(1e-6, float(ledoit_wolf_shrinkage(sample, assume_centered=True)))
    return (1 - share) * moment + share * moment.trace() / d * eye(d).to(moment)
