"""Sparse autoencoders with the scikit-learn contract: codes of a few features for each point.

Training is :func:`lowdim.structure.sae_train.train_sae`, the modules are those of
:mod:`lowdim.structure.sae`. Cost: 6 n d m multiply-adds an epoch.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any, Self

import torch
from torch import Tensor

from lowdim.core.memory import plan
from lowdim.core.points import as_points
from lowdim.core.progress import Progress
from lowdim.errors import InputError
from lowdim.registry import method, reduction
from lowdim.structure.estimator import Estimator, like, open_source
from lowdim.structure.sae import KINDS, TopKSAE
from lowdim.structure.sae_train import evaluate_sae, train_sae


@method(
    "structure/sae",
    needs=reduction(),
    paper="Gao et al. 2024; Bussmann, Leask and Nanda 2024; Rajamanoharan et al. 2024",
    arxiv="2406.04093",
    cost="6 n d m multiply-adds an epoch",
)
class SparseAutoencoder(Estimator):
    """Which few directions is each activation a sum of?

    Parameters
    ----------
    n_features : int, optional
        m, the directions; four times the columns by default.
    kind : str
        ``topk``, ``batchtopk``, ``gated`` or ``relu``.
    k : int
        Directions in use by a point (top-k), or by the mean point (batch-top-k).
    penalty : float
        What a unit of code costs, in units of the points' spread (gated, relu).
    epochs, batch_size, lr
        As for :func:`train_sae`.
    random_state : int
        Seed of the start and of the order.
    memory : int, float, str or None
        Budget, see :func:`lowdim.core.memory.budget`.

    Attributes
    ----------
    sae_ : SAE
        The module.
    quality_ : SAEQuality
        Explained variance, L0 and dead features on the points of the fit.
    n_features_in_ : int
        Columns of the points it was fitted to.

    Notes
    -----
    Trust it where the explained variance holds on points it was not trained on and few features
    are dead; the directions of two seeds differ, and features split as their number grows, so no
    single one is "the" direction of a concept.
    """

    def __init__(
        self, *, n_features: int | None = None, kind: str = "topk", k: int = 32,
        penalty: float = 0.2, epochs: int = 10, batch_size: int = 1024, lr: float = 1e-3,
        random_state: int = 0, memory: int | float | str | None = None,
    ) -> None:  # fmt: skip
        self.n_features = n_features
        self.kind = kind
        self.k = k
        self.penalty = penalty
        self.epochs = epochs
        self.batch_size = batch_size
        self.lr = lr
        self.random_state = random_state
        self.memory = memory

    def fit(
        self, x: Any, y: Any = None, *, progress: Progress | None = None,
        out: str | Path | None = None, resume: bool = False,
    ) -> Self:  # fmt: skip
        """Train on (n, d) points, an array, a path or a source; ``y`` is ignored.

        Raises
        ------
        InputError
            As :func:`train_sae`, or a parameter that cannot be.
        """
        source = open_source(x)
        if self.kind not in KINDS:
            raise InputError(f"kind={self.kind!r}: choose from {', '.join(KINDS)}")
        width = 4 * source.dim if self.n_features is None else self.n_features
        kind = KINDS[self.kind]
        option = {"k": self.k} if issubclass(kind, TopKSAE) else {"penalty": self.penalty}
        self.sae_ = kind(source.dim, width, seed=self.random_state, **option)
        self.quality_ = train_sae(
            self.sae_, source, epochs=self.epochs, batch_size=self.batch_size, lr=self.lr,
            random_state=self.random_state, progress=progress, out=out, resume=resume,
            memory=self.memory,
        )  # fmt: skip
        self.n_features_in_ = source.dim
        return self

    def transform(self, x: Any) -> Any:
        """(n, m) codes."""
        self._check_fitted()
        source, width = open_source(x), self.sae_.width
        plan("the codes", rows=1, bytes_per_row=8 * source.n * width, memory=self.memory)
        return self._each(x, self._transform)

    def inverse_transform(self, codes: Any) -> Any:
        """(n, d) points from codes."""
        self._check_fitted()
        held = as_points(codes, name="codes")
        if held.shape[1] != self.sae_.width:
            raise InputError(f"codes have {held.shape[1]} columns and {self.sae_.width} features")
        with torch.no_grad():
            return like(codes, self.sae_.decode(held.to(self.sae_.decoder)))

    def score(self, x: Any, y: Any = None) -> float:
        """Explained variance of points; higher is better, 1 is exact."""
        self._check_fitted()
        return evaluate_sae(self.sae_, x, memory=self.memory).explained_variance

    @torch.no_grad()
    def _transform(self, x: Tensor) -> Tensor:
        rows = x.to(self.sae_.decoder).split(2**12)
        return torch.cat([self.sae_.encode(block) for block in rows])
