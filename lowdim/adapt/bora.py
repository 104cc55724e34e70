"""BoRA: a low-rank change of direction, and norms for outputs and inputs (Wang et al. 2024).

DoRA writes a weight as directions times norms, one for each output, and trains the directions by
low rank and the norms apart. BoRA has norms for the inputs too. Of V = W + (alpha / r) B A, the
rows are brought to the norms (1 + p_i) ||W_i.||, then the columns of the result to the norms
(1 + q_j) ||W_.j||, with p (out,), q (in,), B and A trained and p, q, B zero at the start: then
every factor is exactly one and the update exactly zero.

The paper's abstract and summaries name two trained magnitudes and two normalisations. That rows
come first, that norms are constants in the backward pass (as in DoRA) and that changes relative to
the base train are choices of ours; a line that is zero in the base has no direction and is left
unnormalised. With ``sides="out"`` it is DoRA as in peft.

Cost: W + D is formed in each forward pass, from the weight and about six passes over its size;
two matrices of its size are kept for the backward pass.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from lowdim.adapt.adapter import Adapter, as_matrix, matrix_shape
from lowdim.adapt.method import Draws, Method, check_positive, check_size, zeros
from lowdim.adapt.targets import Target
from lowdim.errors import InputError
from lowdim.registry import adaptation, method

SIDES = ("both", "out", "in")


@method(
    "adapt/bora",
    needs=adaptation(),
    paper="Wang, Fan, Bao, Jiang and Song 2024",
    arxiv="2412.06441",
    cost="the weight is formed in each pass: r in out operations, and two copies of it",
    oracle="peft.LoraConfig(use_dora=True)",
)
@dataclass(frozen=True)
class BoRA(Method):
    """Does it help to train norms of outputs and inputs apart from their directions?

    Parameters
    ----------
    rank : int
        r of the change of direction.
    alpha : float
        The change is scaled by alpha / r.
    sides : {"both", "out", "in"}
        Which norms train: of rows, of columns, or both. ``"out"`` is DoRA as peft has it.

    Notes
    -----
    Trust it as a version of the method and not as the authors' code, which we have not seen: the
    order of the two normalisations is ours. It is slower than LoRA, since the weight is formed.
    """

    rank: int = 8
    alpha: float = 16.0
    sides: str = "both"

    def adapter(self, target: Target, draws: Draws) -> BoRAAdapter:
        """A drawn uniformly as in LoRA, all else zero."""
        check_size("rank", self.rank)
        check_positive("alpha", self.alpha)
        if self.sides not in SIDES:
            raise InputError(f"sides={self.sides!r}: choose from {', '.join(SIDES)}")
        return BoRAAdapter(target.shape, self, draws)

    def count(self, shapes: Sequence[tuple[int, ...]]) -> int:
        """Two factors each, r (in + out), and a number for each line that is normalised."""
        by_out = self.rank + (self.sides != "in")
        by_in = self.rank + (self.sides != "out")
        return sum(by_out * out + by_in * width for out, width in map(matrix_shape, shapes))


class BoRAAdapter(Adapter):
    """The update that depends on the weight: normalised directions less the weight.

    Attributes
    ----------
    b, a : Parameter
        (out, r) and (r, in).
    out_change, in_change : Parameter or None
        (out,) and (in,) relative change of the norms of rows and columns.
    """

    def __init__(self, shape: tuple[int, ...], options: BoRA, draws: Draws) -> None:
        super().__init__(shape)
        out, width = matrix_shape(shape)
        r = options.rank
        self.scale = options.alpha / r
        self.b: nn.Parameter = zeros(out, r)
        self.a = nn.Parameter(draws.uniform("a", (r, width), 1 / math.sqrt(width)))
        self.out_change = zeros(out) if options.sides != "in" else None
        self.in_change = zeros(width) if options.sides != "out" else None

    def delta(self) -> Tensor:
        """Not without the weight."""
        raise InputError("the update of bora depends on the weight: call update(weight)")

    def update(self, weight: Tensor) -> Tensor:
        """The adapted weight less the weight."""
        w = as_matrix(weight).to(self.a.dtype).contiguous()  # equal sums in equal order
        v = w + self.scale * (self.b @ self.a)  # (out, r) @ (r, in)
        if self.out_change is not None:
            v = _rescaled(v, w, self.out_change, 1)
        if self.in_change is not None:
            v = _rescaled(v, w, self.in_change, 0)
        return (v - w).view(self.shape)


def _rescaled(v: Tensor, w: Tensor, change: Tensor, dim: int) -> Tensor:
    """Bring the norms of v along ``dim`` to those of w times 1 + change."""
    with torch.no_grad():  # norms are constants in the backward pass
        new, base = (torch.linalg.vector_norm(x, dim=dim) for x in (v, w))
        ratio = torch.where((new > 0) & (base > 0), base / new, 1.0)
    return v * (ratio * (1 + change)).unsqueeze(dim)
