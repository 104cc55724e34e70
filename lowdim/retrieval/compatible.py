"""`compatible`: a new encoder's queries on the store of the old one, whose rows stay as they are.

Both encoders are run on the same sample of texts. From these pairs an affine map is fitted in
closed form; which one, and how strongly it is shrunk, is decided by what the mapped queries find
among old vectors. Nothing of the store is encoded again.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Self

import torch
from sklearn.base import BaseEstimator
from torch import Tensor

from lowdim.core.random import permutation
from lowdim.errors import InputError
from lowdim.registry import encoders, method
from lowdim.retrieval.cross_recall import Compatibility, Trial, difference, share
from lowdim.retrieval.metric import check_metric, placed
from lowdim.retrieval.pair_maps import WAYS, Affine, Pairs, maps
from lowdim.retrieval.recall import recall_at_k
from lowdim.structure.estimator import like, open_source


class Upgrade(BaseEstimator):
    """How do a new encoder's queries search a store of old vectors?

    Parameters
    ----------
    metric : {"cosine", "dot", "euclidean"}
        What the store compares by.
    k : int
        Length of the result lists that are compared.
    ways : sequence of str, optional
        Some of identity, orthogonal, ridge, low-rank, transposed; by default all that dimensions
        and metric allow.
    n_pairs : int
        Pairs that are used at most, drawn at random.
    n_queries : int
        Pairs held out as queries, at most a fifth: half of them choose, half measure.
    seed : int
        Of these draws.
    memory : int, float, str or None
        Budget of each search.

    Attributes
    ----------
    report_ : Compatibility
        What was measured, with maps that were fitted to other pairs than were searched.
    queries_ : Affine
        New queries to the old space, fitted to all pairs.
    rows_ : Affine
        Old rows to the new space, likewise.
    n_features_in_ : int
        d_new.

    Notes
    -----
    ``ridge`` gives the expected old vector of a query, so it imitates the old encoder's scores;
    ``transposed`` gives every old row the score that the new encoder is expected to give it.
    Without labels the new encoder judges, which takes it for the better one of the two. Trust it
    for texts like those of the pairs: a field with no pair has no promise.
    """

    report_: Compatibility
    queries_: Affine
    rows_: Affine
    n_features_in_: int

    def __init__(
        self, *, metric: str = "cosine", k: int = 10, ways: Sequence[str] | None = None,
        n_pairs: int = 20_000, n_queries: int = 1_000, seed: int = 0,
        memory: int | float | str | None = None,
    ) -> None:  # fmt: skip
        self.metric = metric
        self.k = k
        self.ways = ways
        self.n_pairs = n_pairs
        self.n_queries = n_queries
        self.seed = seed
        self.memory = memory

    def fit(self, x: Any, y: Any, *, labels: Any = None) -> Self:
        """Choose, measure and fit the maps.

        Parameters
        ----------
        x, y : array-like, path or source
            (n, d_new) and (n, d_old) vectors of the same n texts, in the same order.
        labels : array-like, optional
            (n,) class of each, which judge in place of the new encoder.

        Raises
        ------
        InputError
            Row counts that differ, too few rows for k, vectors that are all equal, an unknown way,
            NaN or Inf, a zero vector with cosine.
        """
        new, old, classes = self._placed_pairs(x, y, labels)
        ways = self._ways(new.shape[1] == old.shape[1])
        held_out = min(self.n_queries, len(new) // 5)
        trial = Trial(new, old, classes, held_out // 2, self.k, self.metric, self.memory)
        self.report_ = _measured(trial, ways, self.seed)
        everything = Pairs.of(new, old)
        self.queries_ = maps(everything, ways)[self.report_.way]
        self.rows_ = maps(everything.swapped, ways)[self.report_.way_back]
        self.n_features_in_ = new.shape[1]
        return self

    def transform(self, x: Any) -> Any:
        """(m, d_old) queries for the old store, of (m, d_new) queries of the new encoder."""
        self._check_fitted()
        return self._each(x, self.queries_)

    def inverse_transform(self, x: Any) -> Any:
        """(m, d_new) rows for a store of the new space, of (m, d_old) rows of the old."""
        self._check_fitted()
        return self._each(x, self.rows_)

    def _each(self, x: Any, affine: Affine) -> Any:
        source = open_source(x)
        if source.dim != len(affine.weight):
            raise InputError(f"x has {source.dim} columns and the map takes {len(affine.weight)}")
        parts, first = [], 0
        for chunk in source.chunks(self.memory):
            parts.append(affine(placed(chunk, self.metric, offset=first)))
            first += len(chunk)
        return like(x, torch.cat(parts))

    def _placed_pairs(self, x: Any, y: Any, labels: Any) -> tuple[Tensor, Tensor, Tensor | None]:
        """New and old vectors in random order, and their classes."""
        check_metric(self.metric)
        new, old = open_source(x), open_source(y)
        if new.n != old.n:
            raise InputError(f"{new.n} new vectors and {old.n} old: give those of the same texts")
        rows = permutation(new.n, self.seed)[: self.n_pairs]
        least = 20 + 5 * self.k
        if self.k < 1 or self.n_queries < 4 or len(rows) < least:
            raise InputError(
                f"{len(rows)} pairs, k={self.k}, n_queries={self.n_queries}: give at least "
                f"{max(least, 25)} pairs, k from 1, and 4 queries"
            )
        vectors = []
        for name, source in (("new", new), ("old", old)):
            v = placed(source.take(rows), self.metric, f"{name} (in random order)")
            if bool((v == v[0]).all()):
                raise InputError(f"all {name} vectors are equal: there is nothing to find")
            vectors.append(v)
        if labels is None:
            return vectors[0], vectors[1], None
        classes = torch.as_tensor(labels)
        if classes.shape != (new.n,):
            raise InputError(f"labels have shape {tuple(classes.shape)}: give ({new.n},)")
        return vectors[0], vectors[1], classes[rows]

    def _ways(self, same_width: bool) -> list[str]:
        barred = {"identity"} - ({"identity"} if same_width else set())
        barred |= {"transposed"} if self.metric == "euclidean" else set()  # no score is linear
        allowed = [way for way in WAYS if way not in barred]
        ways = allowed if self.ways is None else list(self.ways)
        wrong = [way for way in ways if way not in allowed]
        if wrong or set(ways) <= {"transposed"}:
            raise InputError(
                f"ways={ways}: here choose from {', '.join(allowed)}, and not transposed alone"
            )
        return ways

    def _check_fitted(self) -> None:
        if not hasattr(self, "n_features_in_"):
            raise InputError("this Upgrade is not fitted: call fit first")


def _measured(trial: Trial, ways: list[str], seed: int) -> Compatibility:
    """Choose the maps by some queries, and measure them by others."""
    queries, curve = trial.measuring, []
    for n in _ladder(trial.n_fit):
        tried = maps(trial.pairs(n), ways)
        best = trial.best(trial.on_old, tried)
        new_old = trial.on_old(queries, tried[best[0]])
        curve.append((n, share(new_old)))
    back = maps(trial.pairs(trial.n_fit).swapped, [way for way in ways if way != "transposed"])
    way_back = trial.best(trial.on_moved, back)[0]
    before = trial.search(trial.old[queries], trial.old)  # what the old system returns
    after = trial.search(tried[best[0]](trial.new[queries]), trial.old)
    old_old = trial.judge(queries, before)
    new_new = trial.judge(queries, trial.search(trial.new[queries], trial.new))
    return Compatibility(
        judge="new" if trial.classes is None else "labels", metric=trial.metric, k=trial.k,
        old_old=share(old_old), new_old=share(new_old),
        new_moved=share(trial.on_moved(queries, back[way_back])), new_new=share(new_new),
        agreement=share(recall_at_k(after, before)), gain=difference(new_old - old_old),
        way=best[0], way_back=way_back,
        ways={name: share(trial.on_old(queries, tried[name])) for name in best},
        curve=tuple(curve), n_queries=trial.n_queries,
        n_rows=trial.n_rows, n_pairs=trial.n_fit, seed=seed,
    )  # fmt: skip


def _ladder(n: int) -> list[int]:
    """64, 128, 256 ... below n, and n."""
    steps = [64]
    while steps[-1] < n:
        steps.append(2 * steps[-1])
    return [*steps[:-1], n]


@method(
    "retrieval/compatible",
    needs=encoders(),
    paper="criterion: Shen et al. 2020; maps: Schoenemann 1966, Izenman 1975",
    arxiv="2003.11942",
    cost="O(n d^2 + d^3), and a search of the sample for each map tried",
)
def compatible(old: Any, new: Any, *, labels: Any = None, **options: Any) -> Upgrade:
    """Can a new encoder search the old one's store, with nothing in it encoded again?

    Parameters
    ----------
    old, new : array-like, path or source
        (n, d_old) and (n, d_new) vectors of the same n texts.
    labels : array-like, optional
        (n,) classes that judge what is found; the new encoder's own neighbours otherwise.
    **options
        Of :class:`Upgrade`.

    Returns
    -------
    Upgrade
        ``transform`` new queries and search the old codes with them; ``report_`` says what they
        find and whether the criterion of compatibility holds.

    Notes
    -----
    Trust it where ``report_.verdict`` is ``holds``. At most ``n_pairs`` rows are searched there: a
    larger store is a harder search for both systems.

    Examples
    --------
    >>> import torch
    >>> old = torch.randn(1000, 8, generator=torch.Generator().manual_seed(0))
    >>> turned = old @ torch.linalg.qr(torch.arange(64.0).reshape(8, 8) + torch.eye(8))[0]
    >>> found = compatible(old, turned)
    >>> found.report_.new_old.mean > 0.99
    True
    """
    return Upgrade(**options).fit(new, old, labels=labels)
