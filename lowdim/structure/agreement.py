"""How well do pieces that were found agree with known ones?"""

from __future__ import annotations

from typing import Any

import numpy as np
from scipy.optimize import linear_sum_assignment
from sklearn.metrics.cluster import contingency_matrix

from lowdim.errors import InputError


def matched(found: Any, truth: Any) -> tuple[np.ndarray, np.ndarray, float]:
    """Match pieces to classes one to one so that most points agree (Kuhn 1955).

    Parameters
    ----------
    found, truth : array-like
        (n,) labels of any kind.

    Returns
    -------
    pieces, classes : ndarray
        Matched pairs, as positions in the sorted distinct labels of each; where their numbers
        differ the surplus is left out.
    accuracy : float
        Share of the points on a matched pair.

    Raises
    ------
    InputError
        Labels of different length, or none.
    """
    found, truth = np.asarray(found), np.asarray(truth)
    if found.shape != truth.shape or found.ndim != 1 or not len(found):
        raise InputError(f"labels of shapes {found.shape} and {truth.shape}: give two of length n")
    table = contingency_matrix(truth, found)  # (classes, pieces)
    classes, pieces = linear_sum_assignment(-table)
    return pieces, classes, float(table[classes, pieces].sum() / len(found))


def accuracy(found: Any, truth: Any) -> float:
    """Share of points on the right piece, after the best one-to-one match of pieces to classes."""
    return matched(found, truth)[2]
