"""SVFit: train the leading singular values of a weight (Sun et al. 2024), one number a direction.

W = U S V^T; the vectors stay, the r largest values train: D = U_r diag(sigma - s_r) V_r^T. What
trains is the change sigma - s_r, and it says how much of each direction the task wants more or
less of: :func:`value_moves`. A rank for each weight by its energy: :func:`svfit_by_energy`.

Cost: one singular value decomposition a weight at the start (see `leading_svd`); r numbers a weight
train, and r (in + out) are stored with them, since the vectors of equal singular values are no
function of the weight.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from lowdim.adapt.adapter import LowRankAdapter, as_matrix, leading_svd, matrix_shape
from lowdim.adapt.attach import attached
from lowdim.adapt.method import Draws, Method, check_size, zeros
from lowdim.adapt.targets import Target, Targets, find_targets
from lowdim.core.spectrum import Spectrum
from lowdim.errors import InputError
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
        found = leading_svd(as_matrix(weight), len(self.change))
        self.left, self.values, self.right = (x.to(self.change) for x in found)

    def factors(self) -> tuple[Tensor, Tensor]:
        """U_r diag(change), and V_r^T."""
        return self.left * self.change, self.right


def svfit_by_energy(model: nn.Module, targets: Targets, energy: float = 0.99) -> dict[str, SVFit]:
    """How many singular values of each weight hold this share of its energy?

    Parameters
    ----------
    model : torch.nn.Module
        Without adapters.
    targets : str, type or sequence of them
        See :func:`find_targets`; weights only.
    energy : float
        Share of the squared Frobenius norm, in (0, 1].

    Returns
    -------
    dict of str to SVFit
        By module name, for :func:`lowdim.adapt.attach`.

    Notes
    -----
    Cost: the spectrum of each weight, exact, from its smaller Gram matrix.
    """
    return {
        target.module_name: SVFit(Spectrum.of_matrix(as_matrix(target.weight)).rank_at(energy))
        for target in find_targets(model, targets)
    }


@dataclass(frozen=True)
class ValueMoves:
    """How far training moved the singular values of one weight.

    Attributes
    ----------
    before : Tensor
        (r,) the leading singular values of the base, descending.
    after : Tensor
        (r,) what they are now; a negative one has turned its direction around.
    """

    before: Tensor
    after: Tensor

    @property
    def relative(self) -> Tensor:
        """(r,) after / before - 1, and 0 where both are 0: above 0, the task wants more of it."""
        moved = self.after - self.before
        return torch.where(moved == 0, 0.0, moved / self.before)

    def __str__(self) -> str:
        """The five that moved most, relative to what they were."""
        top = self.relative.abs().argsort(descending=True)[:5].tolist()
        shown = ", ".join(f"{i + 1}: {float(self.relative[i]):+.2%}" for i in top)
        return f"{len(self.before)} singular values, the most moved {shown}"


def value_moves(model: nn.Module) -> dict[str, ValueMoves]:
    """Which singular directions did training turn up, and which down?

    Parameters
    ----------
    model : torch.nn.Module
        With :class:`SVFit` attached.

    Returns
    -------
    dict of str to ValueMoves
        By the name of each weight that SVFit adapts.

    Raises
    ------
    InputError
        No weight has.
    """
    found = {
        target.name: ValueMoves(adapter.values.clone(), (adapter.values + adapter.change).detach())
        for target, adapter in attached(model).pairs()
        if isinstance(adapter, SVFitAdapter)
    }
    if not found:
        raise InputError("no weight of this model is adapted by svfit: attach SVFit first")
    return found
