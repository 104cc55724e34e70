"""Randomised parameter sharing: train a model whose weights all read from m shared numbers.

Desai and Shrivastava (2023): w_i = lambda s_i M[h(i)], with one lambda a layer, a random sign and a
balanced random map h, so that each of the m numbers serves n / m weights, give or take one. At
m = n the map is one to one and training is ordinary training. It replaces the weights rather than
adding to them: the model is trained from its random start.

Two choices are ours, where the paper's could not be checked. A layer's lambda is the root mean
square of its start, and M starts as the sum of the w_i / lambda that it serves over the square root
of their number: as spread out as they were, and exactly they at m = n. The gradient of M_j is
divided by the sum of lambda^2 over the weights it serves, so that a step of gradient descent moves
the weights by the projection of the ordinary step onto what sharing can express, whatever the
lambdas.

Cost: O(n) a step beyond the model's own; m numbers train.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from lowdim.adapt.adapter import Adapter
from lowdim.adapt.method import Draws, Method, check_size, zeros
from lowdim.adapt.projections import HashedProjection, rows_of_one_map
from lowdim.adapt.targets import Target
from lowdim.errors import InputError
from lowdim.registry import adaptation, method


@method(
    "adapt/shared-parameters",
    needs=adaptation(),
    paper="Desai and Shrivastava 2023",
    arxiv="2310.11611",
    cost="O(n) a step for n weights",
)
@dataclass(frozen=True)
class SharedParameters(Method):
    """How small can a model be stored if it is trained so from the start, at its full width?

    Parameters
    ----------
    numbers : int
        m, shared by all weights; at most as many as there are weights.

    Notes
    -----
    Trust it for training from scratch with gradient descent: it throws away what a pretrained model
    knows unless m = n. Steps of Adam are steps of M, which move a layer's weights by lambda times
    as much. Biases and norms stay as they are. The model is stored as m numbers and the seed,
    beside its random start, which the lambdas are taken from. A step takes as much memory and time
    as that of the full model, and a little more: what shrinks is the file.
    """

    numbers: int = 1000

    size: ClassVar[str] = "numbers"

    @property
    def starts_at_base(self) -> bool:
        """It starts from shared numbers of its own."""
        return False

    def adapter(self, target: Target, draws: Draws) -> Adapter:
        """Of a tensor by itself."""
        return self.build([target], draws.seed)[0]

    def build(self, targets: Sequence[Target], seed: int) -> list[Adapter]:
        """One M for all; each tensor has its own rows of the map."""
        shapes = [target.shape for target in targets]
        check_size("numbers", self.numbers, sum(math.prod(shape) for shape in shapes))
        parts = rows_of_one_map(HashedProjection, shapes, self.numbers, seed)
        shared = zeros(self.numbers)
        weights = torch.zeros(self.numbers)  # sum of lambda^2 over what each number serves
        adapters = [
            SharedAdapter(target, part, shared, weights)
            for target, part in zip(targets, parts, strict=True)
        ]
        for adapter, part in zip(adapters, parts, strict=True):
            weights += adapter.scale**2 * part.columns().bincount(minlength=self.numbers)
        return list(adapters)

    def count(self, shapes: Sequence[tuple[int, ...]]) -> int:
        """m, at most one for each weight."""
        return min(self.numbers, sum(math.prod(shape) for shape in shapes))


class SharedAdapter(Adapter):
    """lambda S M - W: what it adds to a weight takes its place.

    Attributes
    ----------
    shared : Parameter
        (m,) M, the same object in all adapters.
    weights : Tensor
        (m,) what the gradient of M is divided by.
    scale : float
        lambda, its root mean square.
    """

    weights: Tensor

    def __init__(
        self, target: Target, projection: HashedProjection, shared: nn.Parameter, weights: Tensor
    ) -> None:
        super().__init__(target.shape)
        self.projection, self.shared = projection, shared
        self.scale = float(target.weight.double().square().mean().sqrt())
        if not 0 < self.scale < math.inf:
            raise InputError(
                f"{target.name} is zero or not finite: sharing scales by the spread of the start"
            )
        self.register_buffer("weights", weights, persistent=False)

    def start(self, weight: Tensor, gradient: Tensor | None) -> None:
        """Add the part of M that this weight gives."""
        unscaled = weight.flatten().to(self.shared) / self.scale
        self.shared.add_(self.projection.transpose(unscaled))

    def delta(self) -> Tensor:
        """Refused: it depends on the weight."""
        raise InputError("the update of shared-parameters depends on the weight: call update()")

    def update(self, weight: Tensor) -> Tensor:
        """What takes the weight to lambda S M."""
        shared = _DividedGradient.apply(self.shared, self.weights)
        unscaled = shared * self.projection.load.to(shared).sqrt()  # P's columns have length one
        return self.scale * self.projection(unscaled).view(self.shape) - weight


class _DividedGradient(torch.autograd.Function):
    """The identity, with its gradient divided."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, by: Tensor) -> Tensor:
        ctx.save_for_backward(by)
        return x.view_as(x)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None]:
        (by,) = ctx.saved_tensors
        return grad / by, None
