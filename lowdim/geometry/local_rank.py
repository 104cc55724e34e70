"""Local rank: how many directions of the input still move a layer (Patel and Shwartz-Ziv 2024).

The rank of the Jacobian of a layer's pre-activations with respect to the input, averaged over
inputs, bounds the dimension of the image of the data in that layer. The Jacobians are exact:
forward differentiation where the input is narrower than the layers together, reverse where it is
wider. For a large model a sketch takes k random directions of the input instead; by interlacing
its singular values never exceed those of the Jacobian, so it can only count too few.

Cost: min(inputs, sum of widths) derivatives of the network and an SVD a layer and row; k of them
for a sketch. Memory: a block of Jacobians, planned.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn
from torch.func import vjp, vmap

from lowdim.core.estimate import Estimate
from lowdim.core.memory import plan
from lowdim.core.random import normal
from lowdim.errors import InputError
from lowdim.geometry.modules import (
    DIRECTIONS,
    Layers,
    along,
    as_inputs,
    as_layers,
    at_rest,
    basis_of,
    place_of,
    watched,
)
from lowdim.registry import method, network

Function = Callable[[Tensor], Any]


@dataclass(frozen=True, kw_only=True)
class LocalRank(Estimate):
    """Mean rank of the input Jacobian of each layer; ``value`` is that of the lowest.

    Attributes
    ----------
    layers : tuple of str
        In the order in which they run.
    ranks : tuple of float
        Mean over inputs.
    bounds : tuple of int
        What the widths alone allow: the lesser of input and layer, or of the sketch.
    per_input : Tensor
        (layers, n) ranks; ``per_point`` is the row of the lowest layer.
    """

    layers: tuple[str, ...]
    ranks: tuple[float, ...]
    bounds: tuple[int, ...]
    per_input: Tensor = field(repr=False, compare=False)

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON values, without the ranks of each input."""
        return {k: v for k, v in super().to_dict().items() if k != "per_input"}


@method(
    "geometry/local-rank",
    needs=network(),
    paper="Patel and Shwartz-Ziv 2024",
    arxiv="2410.07687",
    cost="min(d, sum of widths) derivatives of the network and an SVD a layer, for each row",
    oracle="product of weights and masks of an MLP",
)
def local_rank(
    module: nn.Module, x: Tensor, *, layers: Sequence[str] | None = None, eps: float = 1e-3,
    relative: bool = True, sketch: int | None = None, seed: int = 0,
    memory: int | float | str | None = None,
) -> LocalRank:  # fmt: skip
    """How many directions of the input does each layer of a network still see?

    Parameters
    ----------
    module : torch.nn.Module
        Run in eval mode on a block of rows at a time, and left as it was.
    x : Tensor
        (n, ...) inputs; a few dozen give the mean well.
    layers : sequence of str, optional
        Names in ``module.named_modules()``; by default all with a weight matrix, before their
        activation.
    eps, relative, sketch, seed, memory
        See :func:`local_rank_of`.

    Raises
    ------
    InputError
        NaN/Inf in ``x``, an unknown layer, ``eps`` below what the precision resolves.
    MemoryBudgetError
        One row's Jacobians do not fit: take a sketch.

    Notes
    -----
    Trust it as an upper bound on the dimension of a layer's image near the data, and for its
    course over training, at one ``eps``; as an absolute number it hangs on ``eps``, since trained
    Jacobians decay without a gap. It looks at single points: data of lower dimension than the
    input give a lower intrinsic dimension than this.
    """
    x = as_inputs(x)
    device, dtype = place_of(module, x)
    with watched(module, layers, dtype=dtype) as function:
        return local_rank_of(
            lambda rows: function(rows)[1], x.to(device, dtype), eps=eps, relative=relative,
            sketch=sketch, seed=seed, memory=memory,
        )  # fmt: skip


def local_rank_of(
    function: Function, x: Tensor, *, eps: float = 1e-3, relative: bool = True,
    sketch: int | None = None, seed: int = 0, memory: int | float | str | None = None,
) -> LocalRank:  # fmt: skip
    """How many directions of the input does each output of a function still see?

    Parameters
    ----------
    function : callable
        (b, ...) rows to a tensor (b, ...), or a dict or list of such; row i of an output depends
        on row i of the input alone.
    x : Tensor
        (n, ...).
    eps : float
        Singular values above it count.
    relative : bool
        ``eps`` is a share of the largest singular value of the same Jacobian.
    sketch : int, optional
        Take so many random directions of the input: the rank is then *at least* the answer. The
        largest singular value is taken as the sketch's times sqrt(d / sketch), its size where
        it stands alone, so that a relative count errs to the low side too.
    seed : int
        Of the directions.
    memory : int, float or str, optional
        Budget for the Jacobians of a block of rows.
    """
    x = as_inputs(x)
    n, d = len(x), math.prod(x.shape[1:])
    with torch.no_grad():
        widths = {name: h.shape[1] for name, h in as_layers(function(x[:1])).items()}
    least = 10 * math.sqrt(max(d, *widths.values())) * torch.finfo(x.dtype).eps
    if relative and not eps >= least:
        raise InputError(f"eps={eps}: {x.dtype} resolves {least:.1g} here, use it or float64")
    if sketch is not None and not 1 <= sketch <= d:
        raise InputError(f"sketch={sketch}: between 1 and the {d} columns of x")
    forward = sketch is not None or d <= sum(widths.values())
    side = min(sketch or d, d)
    rows = plan(
        "local_rank", rows=n, bytes_per_row=4 * x.element_size() * side * sum(widths.values()),
        memory=memory, largest=256,
    )  # fmt: skip
    directions = None
    if forward:
        directions = basis_of(x) if sketch is None else _frame(x, sketch, seed)
    ranks: dict[str, list[Tensor]] = {name: [] for name in widths}
    for block in x.split(rows):
        for name, jacobian in _jacobians(function, block, widths, directions):
            s = torch.linalg.svdvals(jacobian.transpose(0, 1))  # (b, min(side, width))
            cut = s[:, :1] * math.sqrt(d / side) * eps if relative else eps
            ranks[name].append((s > cut).sum(1))
    table = torch.stack([torch.cat(found) for found in ranks.values()]).double().cpu()
    lowest = int(table.mean(1).argmin())
    notes = () if sketch is None else (f"at least: {sketch} of {d} input directions were tried",)
    return LocalRank(
        value=float(table[lowest].mean()), n=n, exact=sketch is None,
        seed=None if sketch is None else seed, notes=notes, per_point=table[lowest],
        layers=tuple(widths), ranks=tuple(table.mean(1).tolist()),
        bounds=tuple(min(side, w) for w in widths.values()), per_input=table,
    )  # fmt: skip


def token_function(model: nn.Module, ids: Tensor, *, position: int = -1) -> tuple[Function, Tensor]:
    """A causal language model as a function of the embedding at one position of its context.

    Parameters
    ----------
    model : transformers.PreTrainedModel
        Run in eval mode; everything before ``position`` is held fixed.
    ids : Tensor
        (1, length) one context.
    position : int
        Where the embedding moves and where the hidden states are read.

    Returns
    -------
    function : callable
        (b, d) embeddings to the hidden states (b, d) of every layer, for :func:`local_rank_of`.
    x : Tensor
        (1, d) the embedding there.
    """
    with at_rest(model):
        context = model.get_input_embeddings()(ids)  # type: ignore[operator]
    place = range(context.shape[1])[position]

    def function(rows: Tensor) -> Layers:
        b = len(rows)
        before, after = context[:, :place].expand(b, -1, -1), context[:, place + 1 :]
        embedded = torch.cat([before, rows[:, None], after.expand(b, -1, -1)], 1)
        with at_rest(model):
            out = model(inputs_embeds=embedded, output_hidden_states=True, use_cache=False)
        return {f"{i}": h[:, place] for i, h in enumerate(out.hidden_states) if i > 0}

    return function, context[:, place]


def _frame(x: Tensor, k: int, seed: int) -> Tensor:
    """(k, 1, ...) random orthonormal directions of the input."""
    d = math.prod(x.shape[1:])
    frame = torch.linalg.qr(normal((d, k), seed, dtype=torch.float64)).Q
    return frame.T.to(x).reshape(k, 1, *x.shape[1:])


def _jacobians(
    function: Function, x: Tensor, widths: dict[str, int], directions: Tensor | None
) -> Iterator[tuple[str, Tensor]]:
    """(side, b, width) or, where the layers are the narrower side, (width, b, d) of each layer."""
    if directions is not None:
        yield from along(lambda rows: as_layers(function(rows)), x, directions).items()
        return
    for name, width in widths.items():

        def layer(rows: Tensor, name: str = name) -> Tensor:
            return as_layers(function(rows))[name]

        pull = vjp(layer, x)[1]
        units = torch.eye(width, dtype=x.dtype, device=x.device)[:, None].expand(-1, len(x), -1)
        yield name, vmap(lambda u, pull=pull: pull(u)[0], chunk_size=DIRECTIONS)(units).flatten(2)
