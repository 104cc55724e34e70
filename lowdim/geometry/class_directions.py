"""Angle, length and margin of each sample against its class (after Li et al. 2022, on pruning).

At the last layer the logit of class c is <f, w_c> + b_c = |f| |w_c| cos(angle) + b_c, so a sample
is right by its angle to the class direction, by its length, or by neither; the margin is the
signed distance to the nearest decision boundary. Two models (dense and pruned, clean and corrupted
inputs) are compared sample by sample.

Cost: one product of features and directions, O(n d classes).
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from lowdim.core.estimate import Estimate
from lowdim.core.points import as_points
from lowdim.errors import InputError
from lowdim.geometry.labels import as_classes, as_targets, one_hot
from lowdim.registry import labelled, method


@dataclass(frozen=True, kw_only=True)
class ClassDirections(Estimate):
    """Where each sample lies against its class; ``value`` is the mean margin.

    Attributes
    ----------
    accuracy : float
        Share of samples with a positive margin.
    mean_angle, mean_length : float
        Radians between feature and class direction; norm of the feature.
    angles, lengths : Tensor
        (n,); ``per_point`` has the margins.
    """

    accuracy: float
    mean_angle: float
    mean_length: float
    angles: Tensor = field(repr=False, compare=False)
    lengths: Tensor = field(repr=False, compare=False)

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON values, without those of each sample."""
        return {k: v for k, v in super().to_dict().items() if k not in ("angles", "lengths")}


@method(
    "geometry/class-directions",
    needs=labelled(),
    paper="Li et al. 2022",
    arxiv="2206.07918",
    cost="O(n d classes)",
    invariant=("permutation", "rotation"),
)
def class_directions(
    x: Tensor, y: Any, *, weight: Tensor | None = None, bias: Tensor | None = None
) -> ClassDirections:
    """Is a sample right by its direction or by its length, and by how much?

    Parameters
    ----------
    x : Tensor
        (n, d) features that enter the last layer.
    y : sequence
        n labels; with ``weight`` they are rows of it, 0 to classes - 1.
    weight, bias : Tensor, optional
        (classes, d) and (classes,) of the last layer. Without them the classifier is the nearest
        class mean m_c, which is linear too: w_c = m_c, b_c = -|m_c|^2 / 2.

    Raises
    ------
    InputError
        Not one label a row, one class only without ``weight``, labels that are no rows of it,
        shapes that do not fit, two equal class directions.

    Notes
    -----
    Trust it on the features that enter the real last layer, with its weights; margins are lengths
    in that layer's units, so compare two models by sign, accuracy and angle and not by size. With
    class means of few samples each the margins are optimistic: they were fitted to the same rows.
    """
    if weight is None:
        x, code, _ = as_classes(x, y)
        f = x.double()
        hot = one_hot(code)  # (n, classes)
        w = hot.T @ f / hot.sum(0)[:, None]
        b = -w.square().sum(1) / 2
    else:
        x, target = as_targets(x, y)
        f, code = x.double(), target[:, 0].long()
        w = as_points(weight, name="weight").to(f)
        b = torch.zeros(len(w)).to(f) if bias is None else as_points(bias, name="bias")[:, 0].to(f)
        if w.shape[1] != f.shape[1] or len(b) != len(w):
            raise InputError(
                f"weight {tuple(w.shape)} and bias ({len(b)},) do not fit features of {f.shape[1]}"
            )
        outside = (target[:, 0] != code) | (code < 0) | (code >= len(w))
        if bool(outside.any()) or target.shape[1] != 1:
            raise InputError(f"with weight= the labels are its rows, integers 0 to {len(w) - 1}")
    logits = f @ w.T + b  # (n, d) @ (d, classes)
    between = torch.cdist(w, w)[code]  # (n, classes) |w_y - w_j|
    own = torch.zeros_like(logits, dtype=torch.bool).scatter_(1, code[:, None], True)
    if bool((between[~own] == 0).any()):
        raise InputError("two classes have the same direction: no boundary lies between them")
    gap = logits.gather(1, code[:, None]) - logits
    margin = torch.where(own, torch.inf, gap / torch.where(own, 1, between)).amin(1)
    length = torch.linalg.vector_norm(f, dim=1)
    cosine = (f * w[code]).sum(1) / (length * torch.linalg.vector_norm(w[code], dim=1))
    angle = torch.where(length > 0, cosine.clamp(-1, 1).acos(), torch.pi / 2)
    return ClassDirections(
        value=float(margin.mean()), n=len(f), accuracy=float((margin > 0).double().mean()),
        mean_angle=float(angle.mean()), mean_length=float(length.mean()), angles=angle,
        lengths=length, per_point=margin,
    )  # fmt: skip


@dataclass(frozen=True, kw_only=True)
class DirectionsChange(Estimate):
    """From one model to another on the same samples; ``value`` is the change of accuracy.

    Attributes
    ----------
    lost, gained : Tensor
        Rows that were right and are wrong, and the reverse.
    angle, length, margin : float
        Mean changes.
    follows_angle, follows_length : float
        Correlation over samples of the change of margin with that of the angle and of the length;
        NaN where one of them does not vary.
    """

    lost: Tensor
    gained: Tensor
    angle: float
    length: float
    margin: float
    follows_angle: float
    follows_length: float


def directions_change(before: ClassDirections, after: ClassDirections) -> DirectionsChange:
    """Which samples did pruning or corruption flip, and by angle or by length?

    Parameters
    ----------
    before, after : ClassDirections
        Of the same samples in the same order.

    Raises
    ------
    InputError
        Different numbers of samples.
    """
    if before.n != after.n:
        raise InputError(f"{before.n} samples before and {after.n} after: rows correspond")
    assert before.per_point is not None  # class_directions always fills it
    assert after.per_point is not None
    angle, length = after.angles - before.angles, after.lengths - before.lengths
    margin = after.per_point - before.per_point
    was, now = before.per_point > 0, after.per_point > 0
    return DirectionsChange(
        value=after.accuracy - before.accuracy, n=before.n, lost=(was & ~now).nonzero()[:, 0],
        gained=(now & ~was).nonzero()[:, 0], angle=float(angle.mean()),
        length=float(length.mean()), margin=float(margin.mean()),
        follows_angle=float(torch.corrcoef(torch.stack([margin, angle]))[0, 1]),
        follows_length=float(torch.corrcoef(torch.stack([margin, length]))[0, 1]),
    )  # fmt: skip
