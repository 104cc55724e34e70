"""OptEmbed: which rows of an embedding table to keep, and how many columns each field needs.

Lyu et al. 2022. Rows are kept while they are longer than a threshold that their field learns; one
table serves all widths, since it is trained with random prefixes of its columns; then widths are
searched by evolution on validation data, without training again.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import pad

from lowdim.core.random import integers, uniform
from lowdim.errors import InputError
from lowdim.registry import method, tables
from lowdim.retrieval.embedding_search import Batches, Loss, MixedEmbedding, mean_loss, train_step

MUTATION = 0.1
"""Chance that a field of a child has dims of its own."""


class _Step(torch.autograd.Function):
    """1 above zero, with a long-tailed slope: 2 - 4 |x| to 0.4, 0.4 to 1, then 0.

    The slope is that of dynamic sparse training (Liu et al. 2020).
    """

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        ctx.save_for_backward(x)
        return (x > 0).to(x.dtype)

    @staticmethod
    def backward(ctx: Any, *slopes: Any) -> Tensor:
        (x,), (slope,) = ctx.saved_tensors, slopes
        size = x.abs()
        near, far = 2 - 4 * size, torch.where(size <= 1, 0.4, 0.0)
        return slope * torch.where(size <= 0.4, near, far)


class OptEmbedding(nn.Module):
    """An embedding table of several fields that learns which rows and columns it needs.

    Parameters
    ----------
    fields : Tensor
        (n,) int64 field of each row: the fields share one table, and ids are rows of it.
    dim : int
        K, columns at most.

    Attributes
    ----------
    weight : Parameter
        (n, K).
    threshold : Parameter
        (fields,) a row is kept while the sum of its absolute values is above its field's.
    dims : Tensor
        (fields,) int64 columns in use, the first ones of each field.
    """

    fields: Tensor
    dims: Tensor

    def __init__(self, fields: Tensor, dim: int) -> None:
        super().__init__()
        if fields.ndim != 1 or not len(fields) or int(fields.min()) < 0 or dim < 1:
            raise InputError(f"fields {tuple(fields.shape)}, dim={dim}: give (n,) from 0, and 1 up")
        count = int(fields.max()) + 1
        self.register_buffer("fields", fields.long())
        self.register_buffer("dims", torch.full((count,), dim))
        self.weight = nn.Parameter(torch.randn(len(fields), dim) / dim**0.5)
        self.threshold = nn.Parameter(torch.zeros(count))

    def forward(self, ids: Tensor) -> Tensor:
        """(..., K) rows of (...) ids: zeros where the row is dropped or the column is not used."""
        rows, field = self.weight[ids], self.fields[ids]
        keep = _Step.apply(rows.abs().sum(-1) - self.threshold[field])  # (...)
        return rows * keep[..., None] * self.columns()[field]

    def columns(self) -> Tensor:
        """(fields, K) bool columns in use."""
        return torch.arange(self.weight.shape[1], device=self.dims.device) < self.dims[:, None]

    @torch.no_grad()
    def kept(self) -> Tensor:
        """(n,) bool rows that are above their threshold."""
        return self.weight.abs().sum(1) > self.threshold[self.fields]

    def penalty(self) -> Tensor:
        """Sum of exp(-threshold): falls as thresholds rise."""
        return (-self.threshold).exp().sum()

    def numbers(self, dims: Tensor) -> int:
        """How many numbers the table stores with so many columns of each field."""
        rows = self.fields[self.kept()].bincount(minlength=len(dims))
        return int(rows @ dims)

    def compact(self) -> MixedEmbedding:
        """The same table, without the rows and columns that are not used."""
        dropped = len(self.dims)  # a group of its own, that keeps nothing
        groups = torch.where(self.kept(), self.fields, dropped)
        columns = self.columns()
        return MixedEmbedding(self.weight, groups, pad(columns, (0, 0, 0, 1)))


@dataclass(frozen=True)
class TableSearch:
    """What was found.

    Attributes
    ----------
    dims : tuple of int
        Columns of each field.
    rows : int
        Rows that are kept.
    numbers : int
        Numbers stored.
    loss, full_loss : float
        Validation loss with these dims, and with all columns of the rows kept.
    """

    dims: tuple[int, ...]
    rows: int
    numbers: int
    loss: float
    full_loss: float


@method(
    "retrieval/opt-embed",
    needs=tables(),
    paper="Lyu et al. 2022",
    arxiv="2208.04482",
    cost="one training, and population x generations passes over the validation data",
)
def opt_embed(
    model: nn.Module, train: Batches, valid: Batches, loss: Loss, *, epochs: int = 5,
    learning_rate: float = 1e-2, weight_decay: float = 0.0, penalty: float = 1e-4,
    numbers: int | None = None, population: int = 20, generations: int = 10, seed: int = 0,
) -> TableSearch:  # fmt: skip
    """Which rows and how many columns of each field does an embedding table need?

    Parameters
    ----------
    model : nn.Module
        With one :class:`OptEmbedding`, whose rows, thresholds and ``dims`` are set in place.
    train, valid : iterable of (inputs, target)
        Batches.
    loss : callable
        (output of the model, target) to a scalar tensor.
    epochs, learning_rate, weight_decay : int, float, float
        Of Adam; thresholds do not decay.
    penalty : float
        Weight of :meth:`OptEmbedding.penalty`: the larger, the fewer rows stay.
    numbers : int, optional
        Most numbers that the table may store.
    population, generations : int
        Of the search for dims.
    seed : int
        Of random prefixes and of evolution.

    Raises
    ------
    InputError
        Not one OptEmbedding in the model, no batch, no row left, or fewer numbers than one column
        takes.

    Notes
    -----
    The paper searches by the AUC and without a bound on size; here by the loss, among tables of at
    most ``numbers``. Then :meth:`OptEmbedding.compact` and train on, or from scratch. Trust the
    rows it drops only as far as the loss does not move: rare rows stay short for want of examples.
    """
    found = [m for m in model.modules() if isinstance(m, OptEmbedding)]
    if len(found) != 1:
        raise InputError(f"{type(model).__name__} has {len(found)} OptEmbeddings: give it one")
    table = found[0]
    _supernet(model, table, train, loss, epochs, learning_rate, weight_decay, penalty, seed)
    if not bool(table.kept().any()):
        raise InputError(f"penalty={penalty}: no row is left, lower it")
    whole = torch.full_like(table.dims, table.weight.shape[1])
    most = table.numbers(whole) if numbers is None else numbers
    if (least := table.numbers(torch.ones_like(whole))) > most:
        raise InputError(f"numbers={most}: one column of each field takes {least}")

    def score(dims: Tensor) -> float:
        table.dims.copy_(dims)
        return mean_loss(model, valid, loss)

    full = score(whole)
    best, found_loss = _evolved(table, score, most, population, generations, seed)
    table.dims.copy_(best)
    return TableSearch(
        tuple(best.tolist()), int(table.kept().sum()), table.numbers(best), found_loss, full
    )


def _supernet(
    model: nn.Module, table: OptEmbedding, train: Batches, loss: Loss, epochs: int,
    learning_rate: float, weight_decay: float, penalty: float, seed: int,
) -> None:  # fmt: skip
    """Train with a random number of columns for each field in each batch."""
    others = [p for p in model.parameters() if p is not table.threshold]
    optimizer = torch.optim.Adam(others, lr=learning_rate, weight_decay=weight_decay)
    optimizer.add_param_group({"params": [table.threshold], "weight_decay": 0.0})
    fields, dim = len(table.dims), table.weight.shape[1]
    step = 0
    for _ in range(epochs):
        for x, y in train:
            table.dims.copy_(1 + integers(fields, dim, seed, start=step * fields))
            step += 1
            train_step(model, optimizer, loss(model(x), y) + penalty * table.penalty())


def _evolved(
    table: OptEmbedding, score: Callable[[Tensor], float], most: int, population: int,
    generations: int, seed: int,
) -> tuple[Tensor, float]:  # fmt: skip
    """Dims of least loss among those tried that store at most so many numbers."""
    fields, dim = len(table.dims), table.weight.shape[1]
    drawn = 1 + integers((population, fields), dim, seed, 1)
    scores: dict[tuple[int, ...], float] = {}
    for generation in range(generations):
        for i, dims in enumerate(drawn):
            fitting = _fitted(table, dims, most, seed, generation * population + i)
            if fitting not in scores:
                scores[fitting] = score(torch.tensor(fitting))
        ranked = sorted(scores, key=lambda dims: scores[dims])
        parents = torch.tensor(ranked[: max(2, population // 4)])
        shape = (population, fields)
        which = integers((2, population), len(parents), seed, 2, generation * 2 * population)
        start = generation * population * fields
        cross = uniform(shape, seed, 3, start) < 0.5
        children = torch.where(cross, parents[which[0]], parents[which[1]])
        mutates = uniform(shape, seed, 4, start) < MUTATION
        drawn = torch.where(mutates, 1 + integers(shape, dim, seed, 5, start), children)
    best = min(scores, key=lambda dims: scores[dims])
    return torch.tensor(best), scores[best]


def _fitted(table: OptEmbedding, dims: Tensor, most: int, seed: int, draw: int) -> tuple[int, ...]:
    """Dims, less a column of a random field at a time, until they store at most so many numbers."""
    dims, fields = dims.clone(), len(dims)
    step = 0
    while table.numbers(dims) > most:
        if step % 64 == 0:
            fall = integers(64, fields, seed, 6 + draw, start=step)
        field = fall[step % 64]
        dims[field] = max(1, int(dims[field]) - 1)
        step += 1
    return tuple(dims.tolist())
