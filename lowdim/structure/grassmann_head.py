"""Classes as subspaces: a classifier whose every class is a k-dimensional subspace of features.

The logit of a class is the length of the unit feature's projection on the subspace of the class
(Wang et al. 2023): gamma ||S_c^T x / |x| ||, so k = 1 is |cosine| and a larger k leaves a class
room to vary. The subspaces are points of Grassmann manifolds and are trained on them: the gradient
is projected to the directions that turn the subspace, the step is taken back by QR, and the
momentum goes with it. The same score without training is the oldest subspace classifier there is,
principal directions of each class (Watanabe 1967).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any, Self, overload

import numpy as np
import torch
from sklearn.base import BaseEstimator, ClassifierMixin
from torch import Tensor, nn

from lowdim.core.points import as_points, unit_rows
from lowdim.core.subspace import Subspace
from lowdim.errors import InputError
from lowdim.geometry.labels import as_classes


class GrassmannHead(nn.Module):
    """How much of a feature lies in the subspace of each class?

    Parameters
    ----------
    dim : int
        d, of the features.
    classes : int
        C.
    rank : int
        k dimensions of each class.
    gamma : float
        Scale of the logits, which lie in [0, gamma].

    Attributes
    ----------
    bases : Parameter
        (C, d, k) orthonormal columns; train them by :class:`GrassmannSGD`.
    """

    def __init__(self, dim: int, classes: int, rank: int = 8, *, gamma: float = 25.0) -> None:
        super().__init__()
        if not 1 <= rank <= dim or classes < 1:
            raise InputError(f"rank={rank}, classes={classes}: give 1 to {dim} dimensions a class")
        self.gamma = gamma
        self.bases = nn.Parameter(torch.linalg.qr(torch.randn(classes, dim, rank)).Q)

    def forward(self, x: Tensor) -> Tensor:
        """(n, d) features to (n, C) logits; a feature of zeros has logits of zero."""
        c, d, k = self.bases.shape
        flat = self.bases.transpose(0, 1).reshape(d, c * k)
        seen = (nn.functional.normalize(x) @ flat).view(len(x), c, k)  # (n, d) @ (d, C k)
        return self.gamma * torch.linalg.vector_norm(seen, dim=2)

    def subspaces(self) -> tuple[Subspace, ...]:
        """The C subspaces, for their angles and distances."""
        bases = torch.linalg.qr(self.bases.detach().double()).Q
        return tuple(Subspace(basis, basis.new_zeros(len(basis))) for basis in bases)


class GrassmannSGD(torch.optim.Optimizer):
    """Stochastic gradient descent over subspaces.

    Parameters
    ----------
    params : iterable of Parameter
        (..., d, k) with orthonormal columns, whose loss depends on their span alone.
    lr, momentum : float
        Step length, and how much of the last step is kept.

    Notes
    -----
    A step costs one QR of each basis, which also keeps the columns orthonormal for good.
    """

    def __init__(self, params: Iterable[Any], lr: float = 0.1, momentum: float = 0.9) -> None:
        if not lr > 0 or not 0 <= momentum < 1:
            raise InputError(f"lr={lr}, momentum={momentum}: give lr above 0, momentum in [0, 1)")
        super().__init__(params, {"lr": lr, "momentum": momentum})

    @overload
    def step(self, closure: None = None) -> None: ...

    @overload
    def step(self, closure: Callable[[], float]) -> float: ...

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> float | None:
        """One step; ``closure`` evaluates the loss anew, as everywhere in torch."""
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        for group in self.param_groups:
            for basis in group["params"]:
                if basis.grad is None:
                    continue
                velocity = horizontal(basis, basis.grad)
                if "momentum" in self.state[basis]:
                    velocity = velocity + group["momentum"] * self.state[basis]["momentum"]
                q, r = torch.linalg.qr(basis - group["lr"] * velocity)
                basis.copy_(q * r.diagonal(dim1=-2, dim2=-1).sign()[..., None, :])
                self.state[basis]["momentum"] = horizontal(basis, velocity)
        return loss


def horizontal(basis: Tensor, direction: Tensor) -> Tensor:
    """The part of a (..., d, k) direction that turns the span: D - S S^T D."""
    return direction - basis @ (basis.mT @ direction)


class SubspaceClassifier(ClassifierMixin, BaseEstimator):
    """Which class has the principal directions that hold most of a point?

    Parameters
    ----------
    rank : int
        Directions of each class, fewer where a class has fewer points.

    Attributes
    ----------
    classes_ : ndarray
        The labels, sorted.
    subspaces_ : tuple of Subspace
        Through the origin, one a class.

    Notes
    -----
    Trust it on features whose direction tells the class; a class and its mirror image through the
    origin are one to it. Cost: one spectrum a class.
    """

    def __init__(self, rank: int = 8) -> None:
        self.rank = rank

    def fit(self, x: Any, y: Any) -> Self:
        """Principal directions of the unit rows of each class.

        Raises
        ------
        InputError
            NaN or Inf, a row of zeros, one class only, a rank below one.
        """
        x, code, names = as_classes(x, y)
        labels = np.unique(y.numpy(force=True) if isinstance(y, Tensor) else np.asarray(y))
        if not 1 <= self.rank <= x.shape[1]:
            raise InputError(f"rank={self.rank}: between 1 and {x.shape[1]}, the columns")
        unit, found = unit_rows(x), []
        for label in range(len(names)):
            own = unit[code == label]
            rank = min(self.rank, *own.shape)
            found.append(Subspace.of_points(own, rank=rank, center=False).to(x.dtype))
        self.classes_, self.subspaces_ = labels, tuple(found)
        return self

    def decision_function(self, x: Any) -> Tensor:
        """(n, C) share of each unit row's length within each class, in [0, 1]."""
        if not hasattr(self, "subspaces_"):
            raise InputError("this SubspaceClassifier is not fitted: call fit first")
        unit = unit_rows(as_points(x))
        return torch.stack([s.project(unit).norm(dim=1) for s in self.subspaces_], 1)

    def predict(self, x: Any) -> np.ndarray:
        """(n,) the label of the class that holds most of each point."""
        best = self.decision_function(x).argmax(1)
        return self.classes_[best.numpy(force=True)]
