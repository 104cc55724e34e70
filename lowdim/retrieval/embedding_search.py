"""DNIS: which columns of an embedding table does each group of features use?

Cheng et al. 2020. Every block of features (say, of like frequency) has a soft choice of columns,
which is learned on validation data while the table is learned on training data. What is chosen
little is cut, and the table is stored without it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from itertools import cycle
from typing import Any, Self

import torch
from torch import Tensor, nn
from torch.func import functional_call

from lowdim.errors import InputError
from lowdim.registry import method, tables

Batches = Iterable[tuple[Any, Tensor]]
"""(inputs of the model, target), as often as it is iterated."""
Loss = Callable[[Tensor, Tensor], Tensor]
"""Output of the model and target to a number."""


def frequency_blocks(counts: Any, n_blocks: int) -> Tensor:
    """(n,) the block of each feature: equally many in each, block 0 the most frequent."""
    counts = torch.as_tensor(counts)
    if counts.ndim != 1 or not 1 <= n_blocks <= len(counts):
        raise InputError(f"{n_blocks} blocks of counts {tuple(counts.shape)}: give (n,), at most n")
    blocks = torch.empty(len(counts), dtype=torch.int64)
    rank = counts.argsort(descending=True, stable=True)
    blocks[rank] = torch.arange(len(counts)) * n_blocks // len(counts)
    return blocks


class SoftEmbedding(nn.Module):
    """An embedding table whose columns are weighed by block, for the time of the search.

    Parameters
    ----------
    blocks : Tensor
        (n,) int64 block of each feature.
    dim : int
        K, columns at most.

    Attributes
    ----------
    weight : Parameter
        (n, K).
    alpha : Parameter
        (blocks, K) in [0, 1]; all 1 at first, which is the table itself.
    """

    blocks: Tensor

    def __init__(self, blocks: Tensor, dim: int) -> None:
        super().__init__()
        if blocks.ndim != 1 or not len(blocks) or int(blocks.min()) < 0 or dim < 1:
            raise InputError(f"blocks {tuple(blocks.shape)}, dim={dim}: give (n,) from 0, and 1 up")
        self.register_buffer("blocks", blocks.long())
        self.weight = nn.Parameter(torch.randn(len(blocks), dim) / dim**0.5)
        self.alpha = nn.Parameter(torch.ones(int(blocks.max()) + 1, dim))

    def forward(self, ids: Tensor) -> Tensor:
        """(..., K) weighed rows of (...) ids."""
        return self.weight[ids] * self.alpha[self.blocks[ids]]

    @torch.no_grad()
    def strength(self) -> Tensor:
        """(blocks, K) root mean square of what each block has in each column; 0 of empty blocks."""
        squares = (self.weight * self.alpha[self.blocks]).square()
        sums = torch.zeros_like(self.alpha).index_add_(0, self.blocks, squares)
        return (sums / self.sizes().clamp_min(1)[:, None]).sqrt()

    def sizes(self) -> Tensor:
        """(blocks,) features of each."""
        return self.blocks.bincount(minlength=len(self.alpha))


class MixedEmbedding(nn.Module):
    """A table that stores, of each row, no more columns than its group uses.

    Parameters
    ----------
    table : Tensor
        (n, K) rows; what ``kept`` leaves out is not stored.
    groups : Tensor
        (n,) int64 group of each row.
    kept : Tensor
        (groups, K) bool columns of each group; a group with none is stored as nothing.

    Attributes
    ----------
    weight : Parameter
        (numbers stored,) row by row.

    Notes
    -----
    Its rows are those of ``table`` with zeros where nothing is kept, bit by bit, and it can be
    trained on. Beside the numbers there is one place a row and one list of columns a group.
    """

    groups: Tensor
    kept: Tensor
    first: Tensor
    column: Tensor

    def __init__(self, table: Tensor, groups: Tensor, kept: Tensor) -> None:
        super().__init__()
        mask = kept[groups]  # (n, K)
        if mask.shape != table.shape:
            raise InputError(f"table {tuple(table.shape)} and columns {tuple(mask.shape)} differ")
        self.register_buffer("groups", groups.long())
        self.register_buffer("kept", kept)
        sizes = mask.sum(1)
        if not int(sizes.sum()):
            raise InputError("no column is kept: lower the threshold, or raise numbers")
        self.register_buffer("first", sizes.cumsum(0) - sizes)  # (n,) place of each row's numbers
        self.register_buffer("column", (kept.long().cumsum(1) - 1).clamp_min(0))  # (groups, K)
        self.weight = nn.Parameter(table.detach()[mask].clone())

    @classmethod
    def of(
        cls, soft: SoftEmbedding, *, threshold: float | None = None, numbers: int | None = None
    ) -> Self:
        """Cut a searched table: columns whose strength is above ``threshold``, or the strongest.

        Parameters
        ----------
        soft : SoftEmbedding
            After the search.
        threshold : float, optional
            Least root mean square of a column in a block.
        numbers : int, optional
            Most numbers to store, instead of a threshold.
        """
        strength, cost = soft.strength(), soft.sizes()[:, None].expand(soft.alpha.shape)
        if threshold is not None and numbers is None:
            kept = strength > threshold
        elif numbers is not None and threshold is None:
            order = strength.flatten().argsort(descending=True)
            fits = cost.flatten()[order].cumsum(0) <= numbers
            kept = torch.zeros(strength.shape, dtype=torch.bool).flatten()
            kept[order[fits]] = True
            kept = kept.view(strength.shape)
        else:
            raise InputError("give either threshold or numbers")
        return cls(soft.weight * soft.alpha[soft.blocks], soft.blocks, kept)

    def forward(self, ids: Tensor) -> Tensor:
        """(..., K) rows of (...) ids, zeros where nothing is stored."""
        group = self.groups[ids]
        kept = self.kept[group]  # (..., K)
        place = self.first[ids][..., None] + self.column[group]
        return torch.where(kept, self.weight[place.where(kept, 0)], 0)

    @property
    def dims(self) -> list[int]:
        """Columns of each group."""
        return self.kept.sum(1).tolist()


@method(
    "retrieval/embedding-search",
    needs=tables(),
    paper="Cheng et al. 2020",
    arxiv="2006.04466",
    cost="three passes through the model a step, and its gradients twice",
)
def search_dims(
    model: nn.Module, train: Batches, valid: Batches, loss: Loss, *, epochs: int = 5,
    learning_rate: float = 1e-2, alpha_rate: float = 1e-2, weight_decay: float = 0.0,
) -> list[float]:  # fmt: skip
    """Which columns of its embedding tables does each block of features use?

    Parameters
    ----------
    model : nn.Module
        With at least one :class:`SoftEmbedding`; trained in place.
    train, valid : iterable of (inputs, target)
        Batches; the weights learn from ``train``, the choice of columns from ``valid``.
    loss : callable
        (output of the model, target) to a scalar tensor.
    epochs : int
        Passes over ``train``; the batches of ``valid`` go round.
    learning_rate, alpha_rate : float
        Of Adam for the weights and for the choice.
    weight_decay : float
        Of the weights.

    Returns
    -------
    list of float
        Mean validation loss before the search, and after each epoch.

    Raises
    ------
    InputError
        No SoftEmbedding in the model, no batch, or a loss that is not finite.

    Notes
    -----
    The gradient of alpha is that of the validation loss after one more step of the weights, second
    order included. The paper scales it to the gradients of the table; Adam takes care of the scale
    here. Cut the tables with :meth:`MixedEmbedding.of` and train on for an epoch or two. Trust it
    where validation data are plenty: a block of rare features sees few of them.
    """
    soft = [m for m in model.modules() if isinstance(m, SoftEmbedding)]
    if not soft:
        raise InputError(f"{type(model).__name__} has no SoftEmbedding: give it one")
    chosen = {id(m.alpha) for m in soft}
    alphas = {name: p for name, p in model.named_parameters() if id(p) in chosen}
    weights = {name: p for name, p in model.named_parameters() if id(p) not in chosen}
    of_weights = torch.optim.Adam(weights.values(), lr=learning_rate, weight_decay=weight_decay)
    of_alphas = torch.optim.Adam(alphas.values(), lr=alpha_rate)
    history, judges = [mean_loss(model, valid, loss)], cycle(valid)
    for _ in range(epochs):
        for x, y in train:
            slopes = torch.autograd.grad(
                loss(model(x), y), list(weights.values()), create_graph=True
            )
            ahead = {
                name: w - learning_rate * slope
                for (name, w), slope in zip(weights.items(), slopes, strict=True)
            }
            x_valid, y_valid = next(judges)
            judged = loss(functional_call(model, ahead | alphas, (x_valid,)), y_valid)
            for alpha, slope in zip(
                alphas.values(), torch.autograd.grad(judged, list(alphas.values())), strict=True
            ):
                alpha.grad = slope
            of_alphas.step()
            with torch.no_grad():
                for alpha in alphas.values():
                    alpha.clamp_(0, 1)
            train_step(model, of_weights, loss(model(x), y))
        history.append(mean_loss(model, valid, loss))
    return history


def train_step(model: nn.Module, optimizer: torch.optim.Optimizer, loss: Tensor) -> None:
    """One step down a loss, which has to be finite."""
    if not bool(loss.isfinite()):
        raise InputError(f"the training loss is {float(loss.detach())}: lower the learning rate")
    model.zero_grad()
    loss.backward()
    optimizer.step()


@torch.no_grad()
def mean_loss(model: nn.Module, batches: Batches, loss: Loss) -> float:
    """Mean over all targets."""
    sums, n = 0.0, 0
    for x, y in batches:
        sums, n = sums + len(y) * float(loss(model(x), y)), n + len(y)
    if not n:
        raise InputError("there is no batch to measure on: give lists, generators are used up")
    return sums / n
