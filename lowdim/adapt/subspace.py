"""Training in a random subspace: theta = theta_0 + P z, and only z trains.

Li, Farkhoor, Liu and Yosinski (2018) train d numbers z that move all parameters along the columns
of one fixed random D x d matrix P; Aghajanyan, Zettlemoyer and Gupta (2020) fine-tune language
models that way (DID), or with a learned scale for each tensor besides (SAID): theta_i = theta_0,i +
lambda_i (P z)_i. What is learned is the seed and d numbers, whatever the size of the model.

Cost: a product with P and one with P^T a step, see :mod:`lowdim.adapt.projections`; no D x d matrix
is made unless the projection is dense.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor, nn

from lowdim.adapt.adapter import Adapter
from lowdim.adapt.method import Draws, Method, check_size, zeros
from lowdim.adapt.projections import PROJECTIONS, Projection, rows_of_one_map
from lowdim.adapt.targets import Target
from lowdim.errors import InputError
from lowdim.registry import adaptation, method


@method(
    "adapt/random-subspace",
    needs=adaptation(),
    paper="Li, Farkhoor, Liu and Yosinski 2018; Aghajanyan, Zettlemoyer and Gupta 2020",
    arxiv="2012.13255",
    cost="a product with P and one with its transpose a step: O(D log d) by Fastfood",
)
@dataclass(frozen=True)
class RandomSubspace(Method):
    """How few numbers does the task need, if they move all weights along random directions?

    Parameters
    ----------
    dim : int
        d, trained numbers in all, scales included.
    projection : str
        ``fastfood``, ``dense``, ``sparse`` or ``hashed``: see :mod:`lowdim.adapt.projections`.
    scales : bool
        Whether each tensor has its own learned scale (SAID); without them it is DID.

    Notes
    -----
    Trust it as a measure of the task more than as an adapter: random directions are the cheapest to
    describe, and a method that looks at the model does better with as many numbers. Meant for
    ``targets="all"``. The step size matters: for steps of Adam that are as long in the weights as
    those of full training, multiply its step size by sqrt(D / d). P is one map over all tensors,
    with columns of length one; code in circulation for the second paper scales the part of each
    tensor by itself, so that a bias moves as far as a matrix, and its figures are not comparable.
    """

    dim: int = 1000
    projection: str = "fastfood"
    scales: bool = False

    kinds: ClassVar[frozenset[str]] = frozenset({"linear", "embedding", "convolution", "other"})
    size: ClassVar[str] = "dim"

    def adapter(self, target: Target, draws: Draws) -> Adapter:
        """Of a tensor by itself."""
        return self.build([target], draws.seed)[0]

    def build(self, targets: Sequence[Target], seed: int) -> list[Adapter]:
        """One z for all; each tensor has its own rows of P."""
        dim = self.directions(len(targets))
        parts = rows_of_one_map(
            PROJECTIONS[self.projection], [target.shape for target in targets], dim, seed
        )
        z = zeros(dim)
        return [
            SubspaceAdapter(
                target.shape, part, z, nn.Parameter(torch.ones(())) if self.scales else None
            )
            for target, part in zip(targets, parts, strict=True)
        ]

    def directions(self, n_tensors: int) -> int:
        """Columns of P: what the scales of so many tensors leave of d."""
        check_size("dim", self.dim)
        if self.projection not in PROJECTIONS:
            known = ", ".join(PROJECTIONS)
            raise InputError(f"no projection {self.projection!r}: choose from {known}")
        left = self.dim - n_tensors * self.scales
        if left < 1:
            raise InputError(
                f"dim={self.dim} leaves nothing to train beside the scales of {n_tensors} tensors: "
                f"give at least {n_tensors + 1}, or scales=False"
            )
        return left

    def count(self, shapes: Sequence[tuple[int, ...]]) -> int:
        """d, at most one for each weight."""
        return min(self.dim, sum(math.prod(shape) for shape in shapes))


class SubspaceAdapter(Adapter):
    """Rows of P z, times a scale.

    Attributes
    ----------
    z : Parameter
        (d,) the same object in all adapters.
    scale : Parameter or None
        () lambda of this tensor.
    projection : Projection
        Its rows of P.
    """

    def __init__(
        self,
        shape: tuple[int, ...],
        projection: Projection,
        z: nn.Parameter,
        scale: nn.Parameter | None = None,
    ) -> None:
        super().__init__(shape)
        self.projection, self.z, self.scale = projection, z, scale

    def delta(self) -> Tensor:
        """The rows of P z, scaled."""
        update = self.projection(self.z).view(self.shape)
        return update if self.scale is None else self.scale * update
