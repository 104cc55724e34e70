"""What every reduction offers: the scikit-learn contract, and the kind of array it was given."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import torch
from sklearn.base import BaseEstimator, TransformerMixin
from torch import Tensor

from lowdim.core.points import as_points
from lowdim.errors import InputError
from lowdim.structure.base import BLOCK, _like, open_source


class Reduction(TransformerMixin, BaseEstimator):
    """Brings (n, d) points to (n, k) codes.

    A subclass has ``n_components`` among its parameters, sets ``n_features_in_`` at the end of its
    ``fit``, and says how a block of points is coded (:meth:`_transform`); one that can go back has
    ``inverse_transform``. Points may be arrays, tensors, a path or a source; what comes back is an
    array where an array was given, and a tensor otherwise.
    """

    n_components: int
    n_features_in_: int

    def transform(self, x: Any) -> Any:
        """(m, k) codes of (m, d) points."""
        return self._each(x, self._transform)

    def _transform(self, x: Tensor) -> Tensor:
        raise NotImplementedError

    def _decode(self, z: Any, function: Callable[[Tensor], Tensor]) -> Any:
        self._check_fitted()
        return _like(z, function(as_points(z, name="z")))

    def _each(self, x: Any, function: Callable[[Tensor], Tensor]) -> Any:
        return _like(x, torch.cat([function(block) for block in self._blocks(x)]))

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

    def _check_components(self, largest: int, of: str = "columns") -> None:
        k = self.n_components
        if isinstance(k, bool) or not isinstance(k, int) or not 1 <= k <= largest:
            raise InputError(
                f"n_components={k!r} for {largest} {of}: give an integer from 1 to {largest}"
            )

    def _check_fitted(self) -> None:
        if not hasattr(self, "n_features_in_"):
            raise InputError(f"this {type(self).__name__} is not fitted: call fit first")
