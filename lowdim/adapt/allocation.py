"""Where should a budget of trained numbers go? Ranks and targets from measured spectra.

The gains of ranks (:mod:`lowdim.adapt.gains`) over what they cost make a knapsack. They are made to
fall with rank, as true ones do (isotonic regression: the slopes of the least concave majorant), and
the budget goes to the largest gain a number, one rank after another. For concave gains that is the
optimum where the next rank costs the same everywhere, and the optimum of the relaxed problem
otherwise, which bounds what is lost.
"""

from __future__ import annotations

import heapq
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from sklearn.isotonic import isotonic_regression
from torch import Tensor, nn

from lowdim.adapt.attach import fitting
from lowdim.adapt.gains import Gains, gradient_gains, input_gains
from lowdim.adapt.method import Method, at_budget, check_size
from lowdim.adapt.targets import Targets, find_targets
from lowdim.core.estimate import to_json
from lowdim.core.progress import Advance
from lowdim.errors import InputError

if TYPE_CHECKING:
    from rich.console import RenderableType


@dataclass(frozen=True)
class Row:
    """What one tensor was given.

    Attributes
    ----------
    name : str
        Of the module.
    shape : tuple of int
        Of its weight.
    rank : int
        0 where it is left out.
    n_trainable : int
        Numbers that its adapter trains.
    gain : float
        What that rank is worth.
    total : float
        What all ranks are worth.
    noise : float or None
        See :class:`Gains`.
    """

    name: str
    shape: tuple[int, ...]
    rank: int
    n_trainable: int
    gain: float
    total: float
    noise: float | None


@dataclass(frozen=True)
class Allocation:
    """A rank for each tensor, at one budget.

    Attributes
    ----------
    method : Method
        What is resized.
    budget : int
        Numbers that may train.
    rows : tuple of Row
        One a tensor, in the order of the model.
    bound : float
        No allocation at this budget is worth more.
    uniform : float or None
        What one rank for all tensors is worth at this budget; None where not even rank 1 fits.
    uniform_rank : int or None
        That rank.
    """

    method: Method
    budget: int
    rows: tuple[Row, ...]
    bound: float
    uniform: float | None
    uniform_rank: int | None

    @property
    def ranks(self) -> dict[str, int]:
        """Rank of each module that is adapted."""
        return {row.name: row.rank for row in self.rows if row.rank}

    @property
    def mapping(self) -> dict[str, Method]:
        """Method of each module that is adapted: what :func:`lowdim.adapt.attach` takes."""
        return {name: self.method.resized(rank) for name, rank in self.ranks.items()}

    @property
    def n_trainable(self) -> int:
        """Numbers that train in all."""
        return sum(row.n_trainable for row in self.rows)

    @property
    def gain(self) -> float:
        """What the ranks are worth together."""
        return sum(row.gain for row in self.rows)

    @property
    def captured(self) -> float:
        """Share of what all ranks of all tensors are worth."""
        return self.gain / self._whole

    @property
    def _whole(self) -> float:
        """A total below what its first ranks gain is noise."""
        return sum(max(row.total, row.gain) for row in self.rows)

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON values."""
        values = {
            "method": self.method.id,
            "options": self.method.options(),
            "budget": self.budget,
            "n_trainable": self.n_trainable,
            "captured": self.captured,
            "gain": self.gain,
            "bound": self.bound,
            "uniform": self.uniform,
            "uniform_rank": self.uniform_rank,
            "rows": [vars(row) for row in self.rows],
        }
        return to_json(values)

    def _cells(self) -> list[tuple[str, ...]]:
        return [
            (
                row.name,
                " x ".join(map(str, row.shape)),
                str(row.rank or "-"),
                f"{row.n_trainable:,}",
                f"{row.gain / self._whole:.1%}",
                f"{max(row.total, row.gain) / self._whole:.1%}",
                "" if row.noise is None else f"{row.noise:.0%}",
            )
            for row in self.rows
        ]

    def _summary(self) -> str:
        text = (
            f"{self.method.id}: {self.n_trainable:,} of {self.budget:,} numbers on "
            f"{len(self.ranks)} of {len(self.rows)} tensors get {self.captured:.1%} of what there "
            "is to gain"
        )
        if self.uniform is not None:
            share = self.uniform / self._whole
            text += f"; rank {self.uniform_rank} everywhere gets {share:.1%}"
        return text

    def __rich__(self) -> RenderableType:
        from rich.console import Group
        from rich.table import Table

        table = Table(box=None, pad_edge=False, header_style="bold")
        table.add_column(HEAD[0], overflow="fold")
        for title in HEAD[1:]:
            table.add_column(title, justify="right", no_wrap=True)
        for cells in self._cells():
            table.add_row(*cells)
        return Group(table, self._summary())

    def _repr_html_(self) -> str:
        rows = [f"<tr>{''.join(f'<td>{c}</td>' for c in cells)}</tr>" for cells in self._cells()]
        head = "".join(f"<th>{title}</th>" for title in HEAD)
        return f"<table><tr>{head}</tr>{''.join(rows)}</table><p>{self._summary()}</p>"


HEAD = ("target", "shape", "rank", "trained", "gets", "holds", "noise")


def suggest(
    model: nn.Module,
    loss: Callable[[nn.Module, Any], Tensor],
    batches: Iterable[Any],
    targets: Targets,
    budget: int,
    *,
    method: Method,
    max_rank: int = 64,
    memory: int | float | str | None = None,
    progress: Advance | None = None,
) -> Allocation:
    """Which tensors should be adapted, at which ranks, for the loss to fall fastest?

    Parameters
    ----------
    model : torch.nn.Module
        Without adapters; left as it was.
    loss : callable
        ``loss(model, batch)``, the mean over a batch.
    batches : iterable
        At least two, better dozens: every other one is held out from the choice of directions.
    targets : str, type or sequence of them
        Weights to choose among, see :func:`find_targets`.
    budget : int
        Numbers that may train in all.
    method : Method
        What is allocated: any that grows with a ``rank``; its other options are kept.
    max_rank : int
        Largest rank of a tensor.
    memory : int, float or str, optional
        Budget of the gradients: 8 bytes for each number of the targets.
    progress : callable, optional
        ``progress(done, total)`` after each batch.

    Returns
    -------
    Allocation
        Its ``mapping`` is what :func:`lowdim.adapt.attach` takes; it prints as a table.

    Raises
    ------
    InputError
        A method or targets that do not fit, a budget below the cheapest rank, one batch, or
        gradients of which nothing repeats from one half of the batches to the other.
    MemoryBudgetError
        The gradients do not fit.

    Notes
    -----
    Cost: a forward and backward pass of each batch, and two singular value decompositions a
    target (randomised where the smaller side is above 1,024). Budget is left over where no further
    rank gains anything on held-out batches.

    Trust it for methods whose update can be any of its rank and whose start or first steps follow
    the gradient (LoRA-GA, LoRA-SB), under an optimiser that moves all tensors at one rate. It
    looks one step ahead: what only pays together with another change is not seen, and Adam
    rescales what the gradients weigh.
    """
    check_allocation(
        method, [t.shape for t in fitting(method, find_targets(model, targets))], budget
    )
    gains = gradient_gains(
        model, loss, batches, targets, max_rank=max_rank, memory=memory, progress=progress
    )
    return allocate(gains, method, budget)


def suggest_by_inputs(
    model: nn.Module,
    loss: Callable[[nn.Module, Any], Any],
    batches: Iterable[Any],
    targets: Targets,
    budget: int,
    *,
    method: Method,
    max_rank: int = 64,
    memory: int | float | str | None = None,
) -> Allocation:
    """At which ranks do adapters reach most of what each layer does to its inputs?

    For methods that train a weight's own leading directions (SVFit). The gain of rank r is the
    share of the mean squared output W x that r directions hold: the squared singular values of
    W C^(1/2), C = E[x x^T]. Every layer counts alike; no label or gradient is used.

    Parameters, result and errors as :func:`suggest`; targets are linear layers, and ``loss`` is
    anything that runs the model. Memory is in^2 float64 numbers a distinct input.

    Trust it to spread a budget over layers by how concentrated their use is, not to find the layers
    that a task needs: only gradients know the task.
    """
    check_allocation(
        method, [t.shape for t in fitting(method, find_targets(model, targets))], budget
    )
    gains = input_gains(model, loss, batches, targets, max_rank=max_rank, memory=memory)
    return allocate(gains, method, budget)


def allocate(gains: Sequence[Gains], method: Method, budget: int) -> Allocation:
    """Which ranks gain most at this budget?

    Parameters
    ----------
    gains : sequence of Gains
        What ranks are worth, by whatever measure.
    method : Method
        What they cost: any that grows with a ``rank``.
    budget : int
        Numbers that may train in all.

    Notes
    -----
    O(sum of ranks times log n). See the module for when this is the optimum; ``bound`` says how far
    from it the result can be.
    """
    shapes = [g.shape for g in gains]
    check_allocation(method, shapes, budget)
    counts = [_counts(method, g) for g in gains]  # (R + 1,) each
    falling = [_falling(g.each, c.diff()) for g, c in zip(gains, counts, strict=True)]

    def worth(ranks: Sequence[int]) -> float:
        return sum(float(f[:r].sum()) for f, r in zip(falling, ranks, strict=True))

    ranks, bound = _greedy(falling, counts, budget)
    if not any(ranks):
        raise InputError(
            "no rank gains anything on batches held out: give more or larger batches, or a loss "
            "that these targets can change"
        )
    uniform = uniform_rank = None
    if method.resized(1).count(shapes) <= budget:
        uniform_rank = getattr(at_budget(method, shapes, budget), method.size)
        everywhere = [min(uniform_rank, len(f)) for f in falling]
        uniform = worth(everywhere)
        if uniform > worth(ranks):  # what greedy leaves over can be as much as one rank
            ranks = everywhere
    rows = tuple(
        Row(g.name, g.shape, r, int(c[r]), float(f[:r].sum()), g.total, g.noise)
        for g, f, c, r in zip(gains, falling, counts, ranks, strict=True)
    )
    return Allocation(method, budget, rows, bound, uniform, uniform_rank)


def check_allocation(method: Method, shapes: Sequence[tuple[int, ...]], budget: int) -> None:
    """Raise where no ranks can be allocated to these tensors."""
    check_size("budget", budget)
    if method.size != "rank":
        raise InputError(f"{method.id} grows with {method.size}: ranks cannot be allocated to it")
    each = [method.resized(1).count([shape]) for shape in shapes]
    if method.resized(1).count(shapes) != sum(each):
        raise InputError(f"{method.id} shares what trains among tensors: choose one rank for all")
    if min(each) > budget:
        raise InputError(f"the cheapest rank trains {min(each):,} numbers: give a budget of that")


def _greedy(
    falling: Sequence[Tensor], counts: Sequence[Tensor], budget: int
) -> tuple[list[int], float]:
    """Ranks by the largest gain a number, and what no ranks can exceed."""
    ranks, left, worth, bound = [0] * len(falling), budget, 0.0, None
    rates = [f / c.diff() for f, c in zip(falling, counts, strict=True)]
    queue = [(-float(rate[0]), i) for i, rate in enumerate(rates)]  # of the next rank of each
    heapq.heapify(queue)
    while queue:
        price, i = heapq.heappop(queue)
        if price >= 0:
            break
        r = ranks[i]
        cost = int(counts[i][r + 1] - counts[i][r])
        if cost > left:  # up to here the relaxed problem does the same; it takes a part of this one
            bound = worth - price * left if bound is None else bound
            continue
        ranks[i], left, worth = r + 1, left - cost, worth + float(falling[i][r])
        if r + 1 < len(rates[i]):
            heapq.heappush(queue, (-float(rates[i][r + 1]), i))
    return ranks, worth if bound is None else bound


def _counts(method: Method, gains: Gains) -> Tensor:
    """(R + 1,) numbers that train at each rank, from 0, as far as they grow."""
    ranks = range(1, len(gains.each) + 1)
    counts = torch.tensor([0] + [method.resized(r).count([gains.shape]) for r in ranks])
    grows = counts.diff().sign().cumprod(0)
    if not bool(grows[0]):
        raise InputError(f"{method.id} trains nothing of {gains.name}: leave it out")
    return counts[: 1 + int(grows.sum())]


def _falling(each: Tensor, costs: Tensor) -> Tensor:
    """(R,) gains with the gain a number made to fall: slopes of the least concave majorant."""
    rate = isotonic_regression(
        (each[: len(costs)] / costs).numpy(), sample_weight=costs.double().numpy(), increasing=False
    )
    return torch.tensor(rate.tolist(), dtype=torch.float64) * costs
