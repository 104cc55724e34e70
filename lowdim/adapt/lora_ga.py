"""LoRA-GA: a LoRA whose first step is the best that its rank allows (Wang, Yu and Li 2024).

With the gradient G = U S V^T, A_0 holds the first r right singular vectors and B_0 the next r left
ones, both times out^(1/4) / gamma^(1/2). A first step of gradient descent then moves the weight
along G A_0^T A_0 + B_0 B_0^T G, which is a multiple of the best approximation of G of rank 2r:
exactly, to first order in the step. The offset that the start would bring is taken off:

    D = eta (B A - B_0 A_0) = eta (b (A_0 + a) + B_0 a),    eta = alpha / r^(1/2),

where what trains is b = B - B_0 and a = A - A_0, both zero at the start. The paper subtracts
eta B_0 A_0 from the weight instead; here the weight stays, the update is zero bit for bit at the
start, and weight decay pulls towards the base rather than towards W - eta B_0 A_0.

Cost: one decomposition of a gradient a weight (see `leading_svd`); a product with n inputs takes
4 n r (in + out) operations, twice LoRA's. As many numbers as train are stored beside them.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from lowdim.adapt.adapter import LowRankAdapter, as_matrix, leading_svd, matrix_shape
from lowdim.adapt.method import Draws, Method, check_positive, check_size, zeros
from lowdim.adapt.targets import Target
from lowdim.errors import InputError
from lowdim.registry import adaptation, method


@method(
    "adapt/lora-ga",
    needs=adaptation(),
    paper="Wang, Yu and Li 2024",
    arxiv="2407.05000",
    cost="a singular value decomposition of a gradient a weight, then 4 n r (in + out)",
    oracle="peft.LoraGAConfig (directions)",
)
@dataclass(frozen=True)
class LoRAGA(Method):
    """Does LoRA learn faster when its first step follows the full gradient?

    Parameters
    ----------
    rank : int
        r; at most half the smaller side of a weight is used.
    alpha : float
        The update is scaled by alpha / r^(1/2).
    gamma : float
        The start is scaled by out^(1/4) / gamma^(1/2): larger starts smaller. The authors use 16
        for a T5 and 64 for a Llama 2.

    Notes
    -----
    Trust it for a faster start than LoRA's, and for no richer set of updates. The gradients have
    to be those of the task, over a few hundred examples. The defaults are the authors'; on a small
    network their start is large beside the weight: try a smaller alpha along with learning rates.
    """

    rank: int = 8
    alpha: float = 16.0
    gamma: float = 16.0

    uses_gradients = True

    def adapter(self, target: Target, draws: Draws) -> LoRAGAAdapter:
        """Without directions until it is started."""
        check_size("rank", self.rank)
        check_positive("alpha", self.alpha)
        check_positive("gamma", self.gamma)
        if min(matrix_shape(target.shape)) < 2:
            raise InputError(
                f"{target.name} of shape {target.shape} has one singular direction, lora-ga needs "
                "two: leave it out"
            )
        return LoRAGAAdapter(target.shape, self.rank, self.alpha, self.gamma)

    def count(self, shapes: Sequence[tuple[int, ...]]) -> int:
        """Two factors each, r (in + out), r at most half the smaller side."""
        sides = [matrix_shape(shape) for shape in shapes]
        return sum(min(self.rank, min(side) // 2) * sum(side) for side in sides)


class LoRAGAAdapter(LowRankAdapter):
    """eta ((B_0 + b) (A_0 + a) - B_0 A_0), of rank 2r at most.

    Attributes
    ----------
    b, a : Parameter
        (out, r) and (r, in) how far the factors have moved.
    b0, a0 : Tensor
        (out, r) and (r, in) the factors at the start, from the gradient.
    """

    b0: Tensor
    a0: Tensor

    def __init__(self, shape: tuple[int, ...], rank: int, alpha: float, gamma: float) -> None:
        super().__init__(shape)
        out, width = matrix_shape(shape)
        r = min(rank, min(out, width) // 2)
        self.eta = alpha / math.sqrt(r)
        self.size = out**0.25 / math.sqrt(gamma)
        self.b: nn.Parameter = zeros(out, r)
        self.a: nn.Parameter = zeros(r, width)
        self.register_buffer("b0", torch.zeros(out, r))
        self.register_buffer("a0", torch.zeros(r, width))

    def start(self, weight: Tensor, gradient: Tensor | None) -> None:
        """Take the singular vectors of the gradient: the right ones first, then the left ones."""
        assert gradient is not None  # attach sees to it
        r = len(self.a)
        u, _, vt = leading_svd(as_matrix(gradient), 2 * r)
        self.b0 = (u[:, r:] * self.size).to(self.b)
        self.a0 = (vt[:r] * self.size).to(self.a)

    def factors(self) -> tuple[Tensor, Tensor]:
        """The stacks eta [b, B_0] and [A_0 + a; a]: exactly zero where b and a are."""
        b = torch.cat([self.b, self.b0], 1)  # (out, 2r)
        a = torch.cat([self.a0 + self.a, self.a])  # (2r, in)
        return self.eta * b, a
