"""What every reduction offers beside the scikit-learn contract: checked sizes, and a way back."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from torch import Tensor

from lowdim.core.points import as_points
from lowdim.errors import InputError
from lowdim.structure.estimator import Estimator, like


class Reduction(Estimator):
    """Brings (n, d) points to (n, k) codes.

    A subclass has ``n_components`` among its parameters; one that can go back has
    ``inverse_transform``.
    """

    n_components: int

    def _decode(self, z: Any, function: Callable[[Tensor], Tensor]) -> Any:
        self._check_fitted()
        return like(z, function(as_points(z, name="z")))

    def _check_components(self, largest: int, of: str = "columns") -> None:
        k = self.n_components
        if isinstance(k, bool) or not isinstance(k, int) or not 1 <= k <= largest:
            raise InputError(
                f"n_components={k!r} for {largest} {of}: give an integer from 1 to {largest}"
            )
