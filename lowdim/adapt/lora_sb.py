"""LoRA-SB: r x r numbers between two fixed bases that the first step chose (Ponkshe et al. 2024).

D = B R A with orthonormal B (out, r) and A (r, in), the leading singular vectors of the first step
of full fine-tuning: of the gradient, or of its signs, which Adam's first step is. Only R trains.
The gradient of R is B^T G A^T, and B (B^T G A^T) A is the point of {B R A} closest to G: a step on
R is the best step that this space holds, with no scale to choose.

The paper starts at R = S, with the first step taken: ``step`` is the learning rate of that step,
and the default of 0 starts at the base, bit for bit.

Cost: one decomposition of a gradient a weight (see `leading_svd`); 2 n r (in + out) a product;
r^2 numbers a weight train and r (in + out) are stored with them.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from lowdim.adapt.adapter import LowRankAdapter, as_matrix, leading_svd, matrix_shape
from lowdim.adapt.method import Draws, Method, check_size, zeros
from lowdim.adapt.targets import Target
from lowdim.errors import InputError
from lowdim.registry import adaptation, method


@method(
    "adapt/lora-sb",
    needs=adaptation(),
    paper="Ponkshe, Singhal, Gorbunov, Tumanov, Horvath and Vepakomma 2024",
    arxiv="2411.19557",
    cost="a singular value decomposition of a gradient a weight, then 2 n r (in + out)",
)
@dataclass(frozen=True)
class LoRASB(Method):
    """Is the subspace of the first step enough to fine-tune in?

    Parameters
    ----------
    rank : int
        r; r^2 numbers a weight train. At most the smaller side of a weight is used.
    signs : bool
        Take the bases from the signs of the gradient, Adam's first step, as the authors' code
        does; by default from the gradient, in whose space we saw Adam learn more.
    step : float
        Learning rate of the first step that the start has already taken; 0 starts at the base,
        the learning rate of the training starts as the paper does.

    Notes
    -----
    Trust it where the gradients keep to the subspace of the first: :func:`captured_share` tells,
    of any later gradient, how much. With r the side of a square weight it is full fine-tuning.
    """

    rank: int = 32
    signs: bool = False
    step: float = 0.0

    uses_gradients = True

    def adapter(self, target: Target, draws: Draws) -> LoRASBAdapter:
        """Without bases until it is started."""
        check_size("rank", self.rank)
        if not 0 <= self.step < float("inf"):
            raise InputError(f"step={self.step}: give a learning rate of 0 or more")
        return LoRASBAdapter(target.shape, self)

    @property
    def starts_at_base(self) -> bool:
        """Not where a first step is taken."""
        return self.step == 0

    def count(self, shapes: Sequence[tuple[int, ...]]) -> int:
        """r^2 each, r at most the smaller side."""
        return sum(min(self.rank, *matrix_shape(shape)) ** 2 for shape in shapes)


class LoRASBAdapter(LowRankAdapter):
    """B R A.

    Attributes
    ----------
    r : Parameter
        (r, r) what trains.
    b, a : Tensor
        (out, r) orthonormal columns and (r, in) orthonormal rows, from the first step.
    """

    b: Tensor
    a: Tensor

    def __init__(self, shape: tuple[int, ...], options: LoRASB) -> None:
        super().__init__(shape)
        out, width = matrix_shape(shape)
        r = min(options.rank, out, width)
        self.options = options
        self.r: nn.Parameter = zeros(r, r)
        self.register_buffer("b", torch.zeros(out, r))
        self.register_buffer("a", torch.zeros(r, width))

    def start(self, weight: Tensor, gradient: Tensor | None) -> None:
        """Decompose the first step of full fine-tuning."""
        assert gradient is not None  # attach sees to it
        first = gradient.sign() if self.options.signs else gradient
        u, s, vt = leading_svd(as_matrix(first), len(self.r))
        self.b, self.a = u.to(self.r), vt.to(self.r)
        self.r.copy_(-self.options.step * s.diag())

    def factors(self) -> tuple[Tensor, Tensor]:
        """B R, and A."""
        return self.b @ self.r, self.a  # (out, r) @ (r, r)


@torch.no_grad()
def captured_share(gradient: Tensor, adapter: LoRASBAdapter) -> float:
    """How much of a gradient lies in the space that an adapter moves in?

    Parameters
    ----------
    gradient : Tensor
        Of the loss by the weight, in the weight's shape: see :func:`lowdim.adapt.gradients`, which
        also takes those of a model with adapters attached.
    adapter : LoRASBAdapter
        Started.

    Returns
    -------
    float
        ||B^T G A^T||^2 / ||G||^2 in [0, 1]; 0 of a gradient of zero. A step on R lowers the loss
        by this share of what a step on the whole weight does, to first order. Random bases hold
        r^2 / (in out).
    """
    if tuple(gradient.shape) != adapter.shape:
        raise InputError(f"the gradient has shape {tuple(gradient.shape)}, not {adapter.shape}")
    g = as_matrix(gradient).double()
    b, a = adapter.b.to(g), adapter.a.to(g)
    held = torch.linalg.vector_norm(b.T @ g @ a.T)  # (r, out) @ (out, in) @ (in, r)
    return float(held / torch.linalg.vector_norm(g).clamp_min(torch.finfo(g.dtype).tiny)) ** 2
