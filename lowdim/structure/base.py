"""What every finder of pieces offers: the scikit-learn contract, and a `Strata` as its result."""

from __future__ import annotations

from abc import abstractmethod
from pathlib import Path
from typing import Any, NamedTuple, Self

import torch
from sklearn.base import ClusterMixin
from torch import Tensor

import lowdim
from lowdim.core.pieces import Pieces
from lowdim.core.progress import Progress, Silent
from lowdim.core.shards import Source, stamp
from lowdim.core.strata import Strata
from lowdim.errors import InputError
from lowdim.io.write import check_writable
from lowdim.structure.estimator import Estimator, like, open_source


class Job(NamedTuple):
    """How a long fit is watched, and where its finished pieces are kept."""

    progress: Progress = Silent()
    pieces: Pieces = Pieces(None, {})


class PieceFinder(ClusterMixin, Estimator):
    """Finds K pieces of low dimension in a set of points.

    A subclass has ``n_pieces`` among its parameters and says how it fits (:meth:`_fit`); where its
    pieces are more than the affine subspaces of `Strata`, it says as well how a new point is
    shared among them (:meth:`_gates`), coded (:meth:`_transform`) and rebuilt
    (:meth:`_reconstruct`). A finder that does not stream reads the whole within ``memory=``.

    Attributes
    ----------
    strata_ : Strata
        The pieces, and how far each point of the fit belongs to each.
    labels_ : array or Tensor
        (n,) the piece each point of the fit belongs to most.
    n_features_in_ : int
        Columns of the points it was fitted to.
    """

    n_pieces: int
    strata_: Strata

    def fit(
        self,
        x: Any,
        y: Any = None,
        *,
        progress: Progress | None = None,
        out: str | Path | None = None,
        resume: bool = False,
    ) -> Self:
        """Find the pieces of (n, d) points; ``y`` is ignored.

        Parameters
        ----------
        x : array-like, path or source
            (n, d) points.
        progress : Progress, optional
            Where it is reported to, e.g. within ``lowdim.core.progress.bars()``.
        out : path, optional
            Folder for the finished pieces of a long fit, under ``.pieces``.
        resume : bool
            Go on from the pieces that a fit of the same points with the same parameters left.

        Raises
        ------
        InputError
            NaN or Inf, fewer points than pieces, or a parameter that cannot be.
        MemoryBudgetError
            Points that have to be held at once and do not fit.
        """
        source = open_source(x)
        if not isinstance(self.n_pieces, int) or not 1 <= self.n_pieces <= source.n:
            raise InputError(
                f"n_pieces={self.n_pieces!r} for {source.n} points: give an integer from 1 to "
                f"{source.n}"
            )
        if resume and out is None:
            raise InputError("resume continues what out= has kept: give that folder")
        folder = check_writable(out) if out is not None else None
        key = {
            "points": stamp(source) if folder is not None else None,
            "finder": type(self).__name__,
            "parameters": self.get_params(),
            "lowdim": lowdim.__version__,
        }
        job = Job(progress or Silent(), Pieces(folder, key, resume=resume))
        self.strata_ = self._fit(source, job)
        self.labels_ = like(x, self.strata_.labels)
        self.n_features_in_ = source.dim
        return self

    def fit_predict(self, x: Any, y: Any = None, **options: Any) -> Any:
        """Fit, and give the piece of each point."""
        return self.fit(x, **options).labels_

    def predict(self, x: Any) -> Any:
        """(m,) the piece that each of m points belongs to most."""
        return self._each(x, lambda block: self._gates(block).argmax(1))

    def gates(self, x: Any) -> Any:
        """(m, K) how far each of m points belongs to each piece; rows sum to one."""
        return self._each(x, self._gates)

    def transform(self, x: Any) -> Any:
        """(m, K) squared distance of each point to each piece, unless the finder has a code."""
        return self._each(x, self._transform)

    def reconstruct(self, x: Any) -> Any:
        """(m, d) each point rebuilt from its pieces."""
        return self._each(x, self._reconstruct)

    def score(self, x: Any, y: Any = None) -> float:
        """Minus the mean squared distance of a point to what is rebuilt of it; higher is better."""
        error, n = 0.0, 0
        for block in self._blocks(x):
            left = block - self._reconstruct(block).to(block)
            error += float(left.square().sum(dtype=torch.float64))
            n += len(block)
        return -error / n

    @abstractmethod
    def _fit(self, source: Source, job: Job) -> Strata:
        """The pieces, and the shares of the points of the fit in them."""

    def _gates(self, x: Tensor) -> Tensor:
        labels = self.strata_.assign(x)
        return torch.nn.functional.one_hot(labels, len(self.strata_.pieces)).to(x.dtype)

    def _transform(self, x: Tensor) -> Tensor:
        return self.strata_.squared_distances(x)

    def _reconstruct(self, x: Tensor) -> Tensor:
        return self.strata_.reconstruct(x)
