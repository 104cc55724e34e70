"""Prediction of labels that were never trained, by the distances between labels.

Roberts, Li, Adila, Cromp, Huang, Zhao and Sala 2023, "Geometry-Aware Adaptation for Pretrained
Models" (Loki): probabilities p of the trained labels are read as weights of points of a metric
space, and the label predicted is their Frechet mean among all labels,

    argmin_y sum_i p_i d(y, label_i)^2,

one matrix product in place of argmax. The locus of the trained labels is what some p predicts.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np
import torch
from scipy.optimize import linprog
from torch import Tensor

from lowdim.core.estimate import to_json
from lowdim.core.points import as_points
from lowdim.core.progress import Advance
from lowdim.errors import InputError, LowdimError
from lowdim.registry import label_distances, method

TIE = 1e-6
"""Margin, as a share of the largest squared distance, below which the solver can't tell a tie."""


@method(
    "retrieval/frechet-predict",
    needs=label_distances(),
    paper="Roberts et al. 2023",
    arxiv="2307.12226",
    cost="n labels classes multiply-adds",
    invariant=(),
)
def frechet_predict(probabilities: Any, squared_distances: Any) -> Tensor:
    """Which label, trained or not, is nearest to what a classifier says?

    Parameters
    ----------
    probabilities : array-like
        (n, classes) of the trained labels, not negative; a row is divided by its sum.
    squared_distances : array-like
        (labels, classes) of every label to each trained one.

    Returns
    -------
    Tensor
        (n,) int64 row of ``squared_distances`` with the least mean; of equal ones the first.

    Raises
    ------
    InputError
        Negative or NaN values, a row of zeros, other columns.

    Notes
    -----
    A sure classifier is followed: the label of all the weight is its own nearest. With distances of
    1 between all labels it is argmax. Trust it where the classifier is unsure about the right
    things: its probabilities on an unseen label have to surround it, which overconfident ones
    do not, and some labels are never said: :func:`locus` lists those that can be. What it gains on
    unseen labels it pays for with some of the trained ones.
    """
    p = as_points(probabilities, name="probabilities").double()
    squares = as_points(squared_distances, name="squared_distances").to(p)
    if p.shape[1] != squares.shape[1]:
        raise InputError(
            f"probabilities are of {p.shape[1]} classes, squared_distances to {squares.shape[1]}"
        )
    total = p.sum(1, keepdim=True)
    if bool((p < 0).any()) or not bool((total > 0).all()) or bool((squares < 0).any()):
        raise InputError(
            "probabilities and squared distances are not negative, and a row of probabilities is "
            "not all zeros"
        )
    return (p / total @ squares.T).argmin(1)


@dataclass(frozen=True)
class Locus:
    """The labels that can be predicted from some labels.

    Attributes
    ----------
    labels : tuple of int
        That some probabilities predict, ties included.
    ties : tuple of int
        Those of them that never win but in a tie with another label.
    trained : tuple of int
        The labels that probabilities are of.
    margins : Tensor
        (all labels,) float64: the most by which probabilities can prefer a label to all others, as
        a share of the largest squared distance; negative where it always loses.
    """

    labels: tuple[int, ...]
    ties: tuple[int, ...]
    trained: tuple[int, ...]
    margins: Tensor = field(repr=False, compare=False)

    @property
    def is_cover(self) -> bool:
        """Whether every label can be predicted, ties included."""
        return len(self.labels) == len(self.margins)

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON values."""
        return to_json(asdict(self) | {"is_cover": self.is_cover})


@method(
    "retrieval/locus",
    needs=label_distances(),
    paper="Roberts et al. 2023",
    arxiv="2307.12226",
    cost="a linear program of (labels) x (trained) numbers a label",
    oracle="vertices of trees",
    invariant=(),
)
def locus(distances: Any, trained: Sequence[int], *, progress: Advance | None = None) -> Locus:
    """Which labels can a classifier of some labels predict by their distances?

    Parameters
    ----------
    distances : array-like
        (labels, labels) symmetric, zero on the diagonal; not squared.
    trained : sequence of int
        Labels that the classifier gives probabilities of.
    progress : callable, optional
        Called with (labels done, labels).

    Raises
    ------
    InputError
        Distances that are none, a label that is not there or named twice.

    Notes
    -----
    Label y can be predicted when some p >= 0 of sum 1 has sum_i p_i (d(y', i)^2 - d(y, i)^2) >= 0
    for all other y': a linear program whose largest least value is the margin, and decides it but
    for the solver's 1e-7. A margin within 1e-6 of zero is a tie, which :func:`frechet_predict`
    gives to the first label. Trust it for what is possible, not for what is likely: the
    probabilities that predict a label may be none that the classifier ever gives.
    """
    squares, given = _checked(distances, trained)
    margins = torch.empty(len(squares), dtype=torch.float64)
    for label in range(len(squares)):
        margins[label] = _margin(squares, given, label)
        if progress is not None:
            progress(label + 1, len(squares))
    return Locus(
        labels=tuple(np.flatnonzero(margins >= -TIE).tolist()),
        ties=tuple(np.flatnonzero(margins.abs() <= TIE).tolist()),
        trained=tuple(given), margins=margins,
    )  # fmt: skip


def next_class(
    distances: Any, trained: Sequence[int], *, progress: Advance | None = None
) -> tuple[int, int]:
    """Which label, trained next, brings the most others within reach?

    Arguments as for :func:`locus`; ``progress`` counts the labels that are not trained.

    Returns
    -------
    label, gained : int
        Its number, and how many labels its locus has more, itself included where it was out of
        reach; of equal gains the first label.

    Raises
    ------
    InputError
        As :func:`locus`, or all labels can be predicted already.

    Notes
    -----
    A linear program for every label that is not trained and every one out of reach. On a tree it is
    the label farthest from the locus, which is what the paper takes there; greedy elsewhere. More
    labels never make a locus smaller: those added may get no weight.
    """
    found = locus(distances, trained)
    squares, given = _checked(distances, trained)
    out = sorted(set(range(len(squares))) - set(found.labels))
    if not out:
        raise InputError(f"all {len(squares)} labels can be predicted: no label adds one")
    untrained = [label for label in range(len(squares)) if label not in given]
    gains: dict[int, int] = {}
    for label in untrained:
        gains[label] = sum(_margin(squares, [*given, label], y) >= -TIE for y in out)
        if progress is not None:
            progress(len(gains), len(untrained))
    best = max(gains, key=lambda label: gains[label])
    return best, gains[best]


def _margin(squares: np.ndarray, trained: list[int], label: int) -> float:
    """Largest t with D2[label] p + t <= D2[other] p for all others, p in the simplex."""
    others = np.delete(squares, label, 0)[:, trained]
    if not len(others):
        return 1.0
    columns = np.hstack([squares[label, trained] - others, np.ones((len(others), 1))])
    simplex = np.r_[np.ones(len(trained)), 0.0][None]
    solved = linprog(
        -np.eye(1, len(trained) + 1, len(trained))[0], columns, np.zeros(len(others)), simplex,
        [1.0], [(0, None)] * len(trained) + [(None, None)], method="highs",
    )  # fmt: skip
    if not solved.success:
        raise LowdimError(f"the linear program of label {label} was not solved: {solved.message}")
    return float(solved.x[-1])


def _checked(distances: Any, trained: Sequence[int]) -> tuple[np.ndarray, list[int]]:
    """Squared distances as shares of the largest, and the trained labels."""
    d = as_points(distances, name="distances").double().numpy(force=True)
    if d.shape[0] != d.shape[1] or (d < 0).any() or d.diagonal().any():
        raise InputError(
            f"distances have shape {d.shape}: give every label to every label, none negative, and "
            "zero of each to itself"
        )
    if not np.allclose(d, d.T, rtol=1e-5, atol=1e-6 * d.max()):
        raise InputError("distances are not symmetric: give (d + d.T) / 2 if that is meant")
    labels = [int(label) for label in trained]
    if not labels or len(set(labels)) < len(labels) or not 0 <= min(labels) <= max(labels) < len(d):
        raise InputError(f"trained={labels}: name labels from 0 to {len(d) - 1}, each once")
    return (d / max(d.max(), 1e-300)) ** 2, labels
