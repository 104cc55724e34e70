"""SVFit: train the leading singular values of a weight (Sun et al. 2024), one number a direction.

W = U S V^T; the vectors stay, the r largest values train: D = U_r diag(sigma - s_r) V_r^T. The
change of each value says how much of each direction the task wants more or less of.

Cost: one singular value decomposition a weight at the start; r numbers a weight train, and
r (in + out) are stored with them, since the vectors of equal singular values are no function of
the weight.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from lowdim.adapt.adapter import LowRankAdapter, as_matrix, matrix_shape
from lowdim.adapt.method import Draws, Method, check_size, zeros
from lowdim.adapt.targets import Target
from lowdim.registry import adaptation, method


@method(
    "adapt/svfit",
    needs=adaptation(),
    paper="Sun, Wei, Wu, Shi, He, Ma, Xie and Chen 2024",
    arxiv="2409.05926",
    cost="a singular value decomposition a weight, then 2 n r (in + out)",
)
@dataclass(frozen=True)
class SVFit(Method):
    """Is it enough to turn a weight's own directions up and down?

    Parameters
    ----------
    rank : int
        r, leading singular values that train; at most the smaller side of the weight.

    Notes
    -----
    Trust it for tasks near what the model can do: the update cannot leave the weight's leading
    singular directions. It is the smallest method here, r numbers a weight.
    """

    rank: int = 16

    def adapter(self, target: Target, draws: Draws) -> SVFitAdapter:
        """Without directions until it is started."""
        check_size("rank", self.rank)
        return SVFitAdapter(target.shape, self.rank)

    def count(self, shapes: Sequence[tuple[int, ...]]) -> int:
        """min(r, in, out) each."""
        return sum(min(self.rank, *matrix_shape(shape)) for shape in shapes)


class SVFitAdapter(LowRankAdapter):
    """U_r diag(change) V_r^T.

    Attributes
    ----------
    change : Parameter
        (r,) how much each singular value has moved.
    values : Tensor
        (r,) what they were.
    left, right : Tensor
        (out, r) and (r, in) singular vectors of the weight.
    """

    left: Tensor
    right: Tensor
    values: Tensor

    def __init__(self, shape: tuple[int, ...], rank: int) -> None:
        super().__init__(shape)
        out, width = matrix_shape(shape)
        r = min(rank, out, width)
        self.change: nn.Parameter = zeros(r)
        self.register_buffer("left", torch.zeros(out, r))
        self.register_buffer("right", torch.zeros(r, width))
        self.register_buffer("values", torch.zeros(r))

    def start(self, weight: Tensor, gradient: Tensor | None) -> None:
        """Take the leading singular vectors of the weight."""
        u, s, vt = torch.linalg.svd(as_matrix(weight).double(), full_matrices=False)
        r = len(self.change)
        self.left, self.right, self.values = u[:, :r].float(), vt[:r].float(), s[:r].float()

    def factors(self) -> tuple[Tensor, Tensor]:
        """U_r diag(change), and V_r^T."""
        return self.left * self.change, self.right
