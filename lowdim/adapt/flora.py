"""FLoRA: an update that is small in every direction of a tensor (Si et al. 2024): Tucker form.

D = s G x_1 U_1 x_2 ... x_N U_N for a tensor of N modes: a core G (r_1, ..., r_N) and a factor U_n
(d_n, r_n) for each mode, all trained, the core from zero. A convolution (out, in, *kernel) keeps
its kernel as modes of their own instead of being flattened; of a matrix D = s U_1 G U_2^T is LoRA
with a free core between its factors. Either way D has low rank as a matrix too, r_1 at most, so it
multiplies inputs and is exported as LoRA is.

The higher-order singular value decomposition (De Lathauwer et al. 2000) of an update that exists
gives the ranks to use, a start, and a bound on what the ranks lose.

Cost: 2 n r_1 (in + out) operations on n inputs, and the core times the factors of all modes but
the first, about 2 (in kernel) r_1 r_2; sum of d_n r_n + prod of r_n numbers train.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn

from lowdim.adapt.adapter import LowRankAdapter
from lowdim.adapt.method import Draws, Method, check_size, zeros
from lowdim.adapt.targets import Target
from lowdim.core.points import check_finite
from lowdim.errors import InputError
from lowdim.registry import adaptation, method


@method(
    "adapt/flora",
    needs=adaptation(),
    paper="Si, Wang, Yang, Xu, Li, Dai, Qiao, Yang and Shen 2024",
    arxiv="2405.14739",
    cost="2 n r (in + out) + 2 in kernel r^2",
    oracle="tensorly.tucker_to_tensor",
)
@dataclass(frozen=True)
class FLoRA(Method):
    """Is the update of a convolution small in its channels and in its kernel alike?

    Parameters
    ----------
    rank : int or sequence of int
        One rank for every mode, cut to what the mode can hold; or one for each mode (out, in,
        *kernel), as :meth:`Tucker.ranks_within` proposes.
    scale : float
        s, which the update is multiplied by.

    Notes
    -----
    Trust it for convolutions, where a factor for the kernel costs next to nothing. Of a matrix it
    is LoRA with r^2 more numbers and the same rank: there LoRA is as good.

    Factors start as normals of variance 1 / (2 r_n), the choice of the authors' code.
    """

    rank: int | Sequence[int] = 8
    scale: float = 1.0

    def __post_init__(self) -> None:
        if not isinstance(self.rank, int):
            object.__setattr__(self, "rank", tuple(self.rank))

    def adapter(self, target: Target, draws: Draws) -> FLoRAAdapter:
        """With a zero core."""
        return FLoRAAdapter(target.shape, self._ranks(target.shape), self.scale, draws)

    def count(self, shapes: Sequence[tuple[int, ...]]) -> int:
        """Core and factors of each."""
        return sum(_count(shape, self._ranks(shape)) for shape in shapes)

    def _ranks(self, shape: tuple[int, ...]) -> tuple[int, ...]:
        if not math.isfinite(self.scale) or self.scale == 0:
            raise InputError(f"scale={self.scale}: give a finite number that is not zero")
        if isinstance(self.rank, int):
            check_size("rank", self.rank)
            return tuple(min(self.rank, most) for most in largest_ranks(shape))
        return check_ranks(self.rank, shape)


class FLoRAAdapter(LowRankAdapter):
    """s G x_1 U_1 x_2 ... x_N U_N.

    Attributes
    ----------
    core : Parameter
        (r_1, ..., r_N) G.
    modes : ParameterList
        (d_n, r_n) U_n.
    """

    def __init__(
        self, shape: tuple[int, ...], ranks: tuple[int, ...], scale: float, draws: Draws
    ) -> None:
        super().__init__(shape)
        self.scale = scale
        self.core: nn.Parameter = zeros(*ranks)
        self.modes = nn.ParameterList(
            draws.normal(f"mode {n}", (size, rank), std=(2 * rank) ** -0.5)
            for n, (size, rank) in enumerate(zip(shape, ranks, strict=True))
        )

    def factors(self) -> tuple[Tensor, Tensor]:
        """U_1, and the unfolding of the core times all other factors."""
        first, *others = self.modes
        a = mode_products(self.scale * self.core.movedim(0, -1), others)  # (r_1, in, *kernel)
        return first, a.flatten(1)

    @torch.no_grad()
    def set_delta(self, delta: Tensor) -> Tucker:
        """Start from an update that exists: become its truncated HOSVD at these ranks.

        Parameters
        ----------
        delta : Tensor
            Of the shape of the weight.

        Returns
        -------
        Tucker
            What it became; its ``bound`` says what the ranks lose at most.

        Raises
        ------
        InputError
            Another shape, NaN or Inf.
        """
        if tuple(delta.shape) != self.shape:
            raise InputError(f"the update has shape {tuple(delta.shape)} and not {self.shape}")
        found = hosvd(delta).cut(tuple(self.core.shape))
        self.core.copy_(found.core / self.scale)
        for mode, factor in zip(self.modes, found.factors, strict=True):
            mode.copy_(factor)
        return found


@dataclass(frozen=True, eq=False)
class Tucker:
    """A tensor as a core and an orthonormal factor for each mode.

    Attributes
    ----------
    core : Tensor
        (r_1, ..., r_N), float64.
    factors : tuple of Tensor
        (d_n, r_n), orthonormal columns.
    values : tuple of Tensor
        All singular values of each unfolding of the tensor it was made from, descending; those
        within rounding of zero are zero.
    """

    core: Tensor
    factors: tuple[Tensor, ...]
    values: tuple[Tensor, ...]

    @property
    def ranks(self) -> tuple[int, ...]:
        """Ranks of the modes."""
        return tuple(self.core.shape)

    @property
    def bound(self) -> float:
        """Upper bound of the Frobenius error: root of the sum of all squared values left out."""
        left = [v[r:].square().sum() for v, r in zip(self.values, self.ranks, strict=True)]
        return float(sum(left)) ** 0.5

    def tensor(self) -> Tensor:
        """(d_1, ..., d_N) core times factors."""
        return mode_products(self.core, self.factors)

    def cut(self, ranks: Sequence[int]) -> Tucker:
        """Keep the leading directions of each mode; error at most sqrt(N) times the least."""
        ranks = check_ranks(ranks, tuple(len(f) for f in self.factors))
        if any(r > known for r, known in zip(ranks, self.ranks, strict=True)):
            raise InputError(f"ranks={ranks}: only {self.ranks} are known here")
        core = self.core[tuple(slice(r) for r in ranks)]
        factors = tuple(f[:, :r] for f, r in zip(self.factors, ranks, strict=True))
        return replace(self, core=core, factors=factors)

    def ranks_within(self, error: float) -> tuple[int, ...]:
        """Which ranks lose at most this share of the norm? Each mode may lose an equal part.

        Parameters
        ----------
        error : float
            In [0, 1), relative, Frobenius; 0 gives the multilinear rank itself.
        """
        if not 0 <= error < 1:
            raise InputError(f"error={error}: give a share of the norm, at least 0 and below 1")
        ranks = []
        for values in self.values:
            lost = values.square().flip(0).cumsum(0).flip(0)  # by keeping 0, 1, ... directions
            allowed = error**2 / len(self.values) * lost[0]
            ranks.append(max(1, int((lost > allowed).sum())))
        return tuple(ranks)


@torch.no_grad()
def hosvd(tensor: Tensor) -> Tucker:
    """How small is this update in each of its modes?

    Parameters
    ----------
    tensor : Tensor
        (d_1, ..., d_N), e.g. a fine-tuned weight less its base.

    Returns
    -------
    Tucker
        Exact, at full ranks; see :meth:`Tucker.cut` and :meth:`Tucker.ranks_within`.

    Raises
    ------
    InputError
        No numbers, NaN or Inf.

    Notes
    -----
    De Lathauwer, De Moor and Vandewalle 2000, in float64. A mode of a tensor with D entries costs
    about 4 D min(d_n, D / d_n) operations.
    """
    if tensor.ndim == 0 or not tensor.numel():
        raise InputError(f"a tensor of shape {tuple(tensor.shape)} has no modes: give a weight")
    check_finite(tensor.reshape(len(tensor), -1), "the update")
    tensor = tensor.double()
    factors, values = zip(*(_mode(tensor, n) for n in range(tensor.ndim)), strict=True)
    return Tucker(mode_products(tensor, [u.T for u in factors]), factors, values)


def _mode(tensor: Tensor, n: int) -> tuple[Tensor, Tensor]:
    """Left singular vectors and singular values of the unfolding of a mode."""
    unfolding = tensor.movedim(n, 0).reshape(tensor.shape[n], -1)  # (d_n, D / d_n)
    rounding = max(unfolding.shape) * torch.finfo(tensor.dtype).eps
    if unfolding.shape[0] < unfolding.shape[1]:  # the right vectors are not needed
        unfolding = torch.linalg.qr(unfolding.T, mode="r").R.T
    u, s, _ = torch.linalg.svd(unfolding, full_matrices=False)
    return u, torch.where(s > rounding * s[0], s, 0.0)


def mode_products(core: Tensor, factors: Sequence[Tensor]) -> Tensor:
    """Multiply the first modes of a tensor by (d, r) factors; these modes then come last."""
    for factor in factors:
        core = torch.tensordot(core, factor, ([0], [1]))  # all N of them: again in order
    return core


def largest_ranks(shape: tuple[int, ...]) -> tuple[int, ...]:
    """Most directions that each mode can hold: its size, or the product of the others'."""
    return tuple(min(size, math.prod(shape) // size) for size in shape)


def check_ranks(ranks: Sequence[int], shape: tuple[int, ...]) -> tuple[int, ...]:
    """One rank a mode that it can hold, or an error that names the mode."""
    if len(ranks) != len(shape):
        raise InputError(f"{len(ranks)} ranks for the {len(shape)} modes of {shape}: one a mode")
    for n, (rank, most) in enumerate(zip(ranks, largest_ranks(shape), strict=True)):
        check_size(f"rank[{n}]", rank, most)
    return tuple(ranks)


def _count(shape: tuple[int, ...], ranks: tuple[int, ...]) -> int:
    return math.prod(ranks) + sum(d * r for d, r in zip(shape, ranks, strict=True))
