"""One coordinate and one threshold as a classifier (Rudman et al. 2023).

Fine-tuned models can keep a task in a single outlier coordinate. Every coordinate is tried with
every threshold, in one sorted pass; the best is set beside a linear classifier on all coordinates,
the median coordinate, and the best coordinate of a random rotation, which keeps all that a
subspace knows and takes away what an axis knows.

Cost: a sort of every column and one logistic regression. Memory: a block of sorted columns.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from lowdim.core.estimate import Estimate
from lowdim.core.memory import plan
from lowdim.core.random import normal, permutation
from lowdim.errors import InputError
from lowdim.geometry.labels import as_classes
from lowdim.registry import labelled, method


@dataclass(frozen=True, kw_only=True)
class OneDimension(Estimate):
    """How well one coordinate with one threshold tells classes apart; ``value`` is its accuracy.

    All accuracies are on rows held out from the choice of coordinate and threshold.

    Attributes
    ----------
    coordinate : int
        The best on the training rows.
    threshold : float
        Between two training values.
    classes : tuple of str
        Said at or below the threshold, and above it.
    full : float
        Of a linear classifier on all coordinates.
    median : float
        Of the median coordinate, each with its own threshold.
    rotated : float
        Of the best coordinate after a random rotation, chosen in the same way.
    base : float
        Of always saying the commonest class.
    accuracies : Tensor
        (d,) of every coordinate.
    """

    coordinate: int
    threshold: float
    classes: tuple[str, str]
    full: float
    median: float
    rotated: float
    base: float
    accuracies: Tensor = field(repr=False, compare=False)

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON values, without the accuracy of each coordinate."""
        return {k: v for k, v in super().to_dict().items() if k != "accuracies"}


@method(
    "geometry/one-dimension-classifier",
    needs=labelled(),
    paper="Rudman et al. 2023",
    arxiv="2310.17715",
    cost="O(n d (log n + classes)) and one logistic regression",
    oracle="sklearn.tree.DecisionTreeClassifier(max_depth=1)",
    invariant=(),
)
def one_dimension_classifier(
    x: Tensor, y: Any, *, held_out: float = 0.3, seed: int = 0,
    memory: int | float | str | None = None,
) -> OneDimension:  # fmt: skip
    """Can one coordinate with one threshold do the task of the whole vector?

    Parameters
    ----------
    x : Tensor
        (n, d).
    y : sequence
        n labels; with more than two classes a rule can say two of them.
    held_out : float
        Share of the rows that accuracies are measured on.
    seed : int
        Of the split and of the rotation.
    memory : int, float or str, optional
        Budget for the sorted blocks of coordinates.

    Raises
    ------
    InputError
        Not one label a row, one class only, or too few rows to split.

    Notes
    -----
    Trust it beside ``rotated``: a best coordinate that a random rotation matches says that many
    directions know the task, not that this axis is special. The best of d coordinates on the
    training rows is chosen among d, its held-out accuracy is fair. With d far above n the best is
    luck: read ``base`` and ``median`` too.
    """
    from sklearn.linear_model import LogisticRegression

    x, code, names = as_classes(x, y)
    n_test = round(held_out * len(x))
    if not 0 < n_test < len(x) - 1:
        raise InputError(f"held_out={held_out} of {len(x)} rows leaves no rows on one side")
    order = permutation(len(x), seed, device=x.device)
    test, train = order[:n_test], order[n_test:]
    rule = _stumps(x[train], code[train], len(names), memory)
    held = _accuracies(x[test], code[test], rule)
    best = int(rule[0].argmax())

    turn = torch.linalg.qr(normal((x.shape[1], x.shape[1]), seed, 1, dtype=torch.float64)).Q.to(x)
    turned = x @ turn  # (n, d) @ (d, d)
    rule_turned = _stumps(turned[train], code[train], len(names), memory)
    held_turned = _accuracies(turned[test], code[test], rule_turned)

    common = int(torch.bincount(code[train]).argmax())
    scale = x[train].std(0).clamp_min(torch.finfo(x.dtype).tiny)
    z = ((x - x[train].mean(0)) / scale).cpu().numpy()
    said = torch.full_like(code[test], common)
    if len(code[train].unique()) > 1:
        fit = LogisticRegression(max_iter=500).fit(z[train.cpu()], code[train].cpu())
        said = torch.from_numpy(fit.predict(z[test.cpu()])).to(code)
    return OneDimension(
        value=float(held[best]), n=len(x), seed=seed, coordinate=best,
        threshold=float(rule[1][best]),
        classes=(names[int(rule[2][best])], names[int(rule[3][best])]),
        full=float((code[test] == said).double().mean()), median=float(held.median()),
        rotated=float(held_turned[int(rule_turned[0].argmax())]),
        base=float((code[test] == common).double().mean()), accuracies=held.cpu(),
    )  # fmt: skip


def _stumps(
    x: Tensor, code: Tensor, classes: int, memory: int | float | str | None
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """(d,) training accuracy, threshold, class at or below it and class above, all thresholds seen.

    In sorted order the best class on each side of a cut is the commonest there, so two running
    counts of classes hold the accuracy of every threshold.
    """
    n, d = x.shape
    block = plan(
        "one_dimension_classifier", rows=d, bytes_per_row=8 * n * (3 * classes + 4), memory=memory
    )
    found = []
    for columns in x.split(block, dim=1):
        values, order = columns.sort(0)  # (n, b)
        hot = torch.nn.functional.one_hot(code[order], classes)  # (n, b, classes)
        below = hot.cumsum(0)
        left, low = below.max(2)
        right, high = (below[-1] - below).max(2)
        cut = torch.ones_like(left, dtype=torch.bool)
        cut[:-1] = values[1:] > values[:-1]  # equal values stay together
        hits, at = torch.where(cut, left + right, -1).max(0)
        at = at[None]
        here, after = values.gather(0, at), values.gather(0, (at + 1).clamp_max(n - 1))
        between = here + (after - here) / 2
        between = torch.where(between < after, between, here)[0]
        classes_at = low.gather(0, at)[0], high.gather(0, at)[0]
        found.append((hits.double() / n, between, *classes_at))
    accuracy, threshold, low, high = (torch.cat(part) for part in zip(*found, strict=True))
    return accuracy, threshold, low, high


def _accuracies(x: Tensor, code: Tensor, rule: tuple[Tensor, Tensor, Tensor, Tensor]) -> Tensor:
    said = torch.where(x <= rule[1], rule[2], rule[3])  # (n, d)
    return (said == code[:, None]).double().mean(0)
