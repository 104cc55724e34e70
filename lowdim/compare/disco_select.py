"""Forward selection of features by distance correlation (Das, Kasieczka and Shih 2022).

A feature is worth what it adds where the features kept so far leave a classifier in doubt. So each
round trains one on them, keeps the rows it cannot tell, and adds the candidate that, together with
those kept, has the largest distance correlation with the label on these rows.

This is DisCo-FFS, arXiv:2212.00046, with two choices of ours: scores are out of fold, since a
classifier is never in doubt on rows it has learnt; and the window is a share of the rows rather
than of the scores, so that it never runs empty.

Cost: a cross-validated fit and, for each candidate, one distance correlation on at most
``max_rows`` rows a round.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from lowdim.compare.distance_correlation import distance_correlation
from lowdim.core.points import as_points
from lowdim.core.random import choice
from lowdim.errors import InputError

FOLDS = 3


@dataclass(frozen=True)
class Selection:
    """Features in the order in which they were added.

    Attributes
    ----------
    features : tuple of int
        Columns of x, those of ``start`` first; fewer than asked for where nothing is left to add.
    correlations : tuple of float
        Distance correlation with the label, on the rows in doubt, as each was added.
    accuracies : tuple of float
        Out-of-fold accuracy of the classifier before each was added; chance where none was kept.
    """

    features: tuple[int, ...]
    correlations: tuple[float, ...]
    accuracies: tuple[float, ...]


def disco_select(
    x: Any,
    y: Any,
    n_features: int,
    *,
    classifier: Any = None,
    start: Sequence[int] = (),
    doubtful: float = 0.5,
    max_rows: int = 2000,
    memory: int | float | str | None = None,
    seed: int = 0,
) -> Selection:
    """Which few features tell the labels apart, each adding to the others?

    Parameters
    ----------
    x : array-like
        (n, d) features; each is scaled to unit variance first.
    y : array-like
        (n,) labels.
    n_features : int
        How many to keep in all.
    classifier : scikit-learn classifier, optional
        With ``predict_proba``; histogram gradient boosting by default.
    start : sequence of int
        Features kept from the beginning.
    doubtful : float
        Share of the rows, those with the least gap between their two likeliest labels.
    max_rows : int
        Of the rows in doubt, at most so many random ones are compared.
    memory : int, float or str, optional
        Budget of each distance correlation.
    seed : int
        Of the folds, of the default classifier and of the choice of rows.

    Raises
    ------
    InputError
        Rows that do not correspond, a label with fewer than three rows, too many features.

    Notes
    -----
    Trust the order up to where ``accuracies`` stops to rise. A feature that says something only
    jointly with one not kept yet (the first of an exclusive-or pair) is not seen: give one
    of them in ``start``.
    """
    from sklearn.base import clone
    from sklearn.ensemble import HistGradientBoostingClassifier
    from sklearn.model_selection import StratifiedKFold, cross_val_predict

    x = as_points(x)
    labels, codes = np.unique(np.asarray(y), return_inverse=True)
    counts = np.bincount(codes.ravel(), minlength=len(labels))
    if codes.shape != (len(x),) or len(labels) < 2 or counts.min() < FOLDS:
        raise InputError(
            f"y has shape {codes.shape} and {len(labels)} labels, the rarest {counts.min()} times: "
            f"give one label for each of {len(x)} rows, each of two or more at least {FOLDS} times"
        )
    d = x.shape[1]
    kept = [int(i) for i in start]
    if len(set(kept)) < len(kept) or not all(0 <= i < d for i in kept):
        raise InputError(f"start={list(start)}: give different columns from 0 to {d - 1}")
    if not len(kept) < n_features <= d or not 0 < doubtful <= 1 or max_rows < 4:
        raise InputError(
            f"n_features={n_features}, doubtful={doubtful}, max_rows={max_rows}: give between "
            f"{len(kept) + 1} and {d} features, a share above 0 and 4 rows or more"
        )
    model = classifier or HistGradientBoostingClassifier(max_iter=50, random_state=seed)
    folds = StratifiedKFold(FOLDS, shuffle=True, random_state=seed)
    x, constant = x.double(), x.amin(0) == x.amax(0)
    x = torch.where(constant, 0.0, (x - x.mean(0)) / torch.where(constant, 1.0, x.std(0)))
    targets = torch.nn.functional.one_hot(torch.from_numpy(codes)).double().to(x.device)

    correlations: list[float] = []
    accuracies: list[float] = []
    while len(kept) < n_features:
        rows, accuracy = torch.arange(len(x)), float(counts.max()) / len(x)
        if kept:
            features = x[:, kept].numpy(force=True)
            chances = cross_val_predict(
                clone(model), features, codes, cv=folds, method="predict_proba"
            )  # (n, labels)
            accuracy = float((chances.argmax(1) == codes).mean())
            rows = _in_doubt(torch.from_numpy(chances), doubtful)
        if len(rows) > max_rows:
            rows = rows[choice(len(rows), max_rows, seed, stream=len(kept))]
        rows = rows.to(x.device)
        if bool((targets[rows] == targets[rows[0]]).all()):
            break  # one label only is in doubt: nothing is left to tell apart
        found = {
            i: distance_correlation(x[rows][:, [*kept, i]], targets[rows], memory=memory).value
            for i in range(d)
            if i not in kept and bool((x[rows, i] != x[rows[0], i]).any())
        }
        if not found:
            break  # what is left is constant on the rows in doubt
        best = max(found, key=lambda i: found[i])
        kept.append(best)
        correlations.append(found[best])
        accuracies.append(accuracy)
    return Selection(tuple(kept), tuple(correlations), tuple(accuracies))


def _in_doubt(chances: Tensor, share: float) -> Tensor:
    """Rows with the least gap between their two likeliest labels; at least four of them."""
    first, second = chances.topk(2, 1).values.unbind(1)
    count = max(4, round(share * len(chances)))
    return (first - second).argsort(stable=True)[:count]
