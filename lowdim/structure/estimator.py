"""What every estimator here offers: points block by block, and the kind of array it was given."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from sklearn.base import BaseEstimator, TransformerMixin
from torch import Tensor

from lowdim.core.shards import Source, as_source, is_source
from lowdim.errors import InputError

BLOCK = 2**22  # numbers in one block of rows


class Estimator(TransformerMixin, BaseEstimator, ABC):
    """A scikit-learn estimator of (n, d) points: arrays, tensors, a path or a source.

    A subclass sets ``n_features_in_`` at the end of its ``fit`` and says what becomes of a block
    of points (:meth:`_transform`). What a method gives back is an array where it was given an
    array, and a tensor otherwise.
    """

    n_features_in_: int

    def transform(self, x: Any) -> Any:
        """(m, k) codes of (m, d) points."""
        return self._each(x, self._transform)

    @abstractmethod
    def _transform(self, x: Tensor) -> Tensor:
        """(m, k) codes of one block."""

    def _each(self, x: Any, function: Callable[[Tensor], Tensor]) -> Any:
        return like(x, torch.cat([function(block) for block in self._blocks(x)]))

    def _blocks(self, x: Any) -> Iterator[Tensor]:
        self._check_fitted()
        source = open_source(x)
        if source.dim != self.n_features_in_:
            raise InputError(
                f"x has {source.dim} columns and {type(self).__name__} was fitted to "
                f"{self.n_features_in_}"
            )
        for chunk in source.chunks(getattr(self, "memory", None)):
            yield from chunk.split(max(1, BLOCK // source.dim))

    def _check_fitted(self) -> None:
        if not hasattr(self, "n_features_in_"):
            raise InputError(f"this {type(self).__name__} is not fitted: call fit first")


def open_source(x: Any) -> Source:
    """Points as a source: a path is opened, an open source taken as it is, all else checked."""
    if isinstance(x, (str, Path)):
        from lowdim.io.points import open_points

        return open_points(x)
    return as_source(x)


def like(x: Any, result: Tensor) -> Tensor | np.ndarray:
    """A tensor for tensors, paths and sources; an array for arrays, frames and lists."""
    kept = isinstance(x, (Tensor, str, Path)) or is_source(x)
    return result if kept else result.detach().cpu().numpy()
