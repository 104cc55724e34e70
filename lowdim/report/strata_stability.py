"""Do the pieces come back from another seed, or from half of the points (Hennig 2007)?"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from sklearn.metrics import adjusted_rand_score
from torch import Tensor

from lowdim.core.pieces import Pieces
from lowdim.core.progress import Progress
from lowdim.core.random import choice
from lowdim.structure.base import PieceFinder

STABLE_ROWS = 5_000
SEEDS = 3
HALVES = 6
SHARE = 0.5
STABLE, PATTERN = 0.75, 0.6
"""Hennig's reading of the mean Jaccard index: a valid piece, and the least that is a pattern."""


def stability(
    make: Callable[[int], PieceFinder],
    x: Tensor,
    labels: Tensor,
    n_pieces: int,
    pieces: Pieces,
    progress: Progress,
    seed: int,
) -> dict[str, Any]:
    """Refit with other seeds and on halves of the points, and compare with the pieces found.

    Parameters
    ----------
    make : callable
        A finder for a seed, not fitted.
    x, labels : Tensor
        (n, d) points and (n,) the piece each was found on; at most 5,000 of them are used.

    Returns
    -------
    dict
        ``seeds`` and ``halves``: pairwise adjusted Rand indices, the pieces found first, each pair
        on the points that both saw; ``jaccard``: for every piece its mean over the halves, None
        where no half holds a point of it.
    """
    rows = choice(len(x), min(len(x), STABLE_ROWS), seed=seed).sort().values
    x, first = x[rows], labels[rows].numpy()
    half = max(n_pieces, round(SHARE * len(x)))
    draws = [(f"seed {seed + i}", torch.arange(len(x)), seed + i) for i in range(1, SEEDS + 1)]
    draws += [
        (f"half {i}", choice(len(x), half, seed=seed, stream=i).sort().values, seed)
        for i in range(1, HALVES + 1)
    ]
    report, refits = progress.task("stability"), []
    for done, (name, at, start) in enumerate(draws):
        report(done, len(draws))

        def fit(at: Tensor = at, start: int = start) -> dict[str, Tensor]:
            found = make(start % 2**32).fit(x[at]).strata_.labels
            return {"labels": found}

        found = np.full(len(x), -1)
        found[at.numpy()] = pieces.tensors(f"stability/{name}", fit)["labels"].numpy()
        refits.append(found)
    report(len(draws), len(draws))
    return {
        "n": len(x),
        "half": half,
        "seeds": _pairwise([first, *refits[:SEEDS]]),
        "halves": _pairwise([first, *refits[SEEDS:]]),
        "jaccard": [_returns(first == k, refits[SEEDS:]) for k in range(n_pieces)],
    }


def _pairwise(runs: list[np.ndarray]) -> list[list[float | None]]:
    """Adjusted Rand index of each two runs on the points that both saw (-1 is unseen)."""
    k = len(runs)
    matrix: list[list[float | None]] = [[1.0] * k for _ in range(k)]
    for i in range(k):
        for j in range(i):
            both = (runs[i] >= 0) & (runs[j] >= 0)
            value = float(adjusted_rand_score(runs[i][both], runs[j][both])) if both.any() else None
            matrix[i][j] = matrix[j][i] = value
    return matrix


def _returns(member: np.ndarray, refits: list[np.ndarray]) -> float | None:
    """Mean over refits of the largest Jaccard index of the piece with any piece found there."""
    best = []
    for found in refits:
        seen = found >= 0
        mine = member & seen
        if not mine.any():
            continue
        others = (found == k for k in np.unique(found[mine]))
        best.append(max(float((mine & o).sum() / (mine | o).sum()) for o in others))
    return float(np.mean(best)) if best else None
