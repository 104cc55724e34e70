"""Does closeness in one representation say what is close in another (Glielmo et al. 2022)?

Take each point's nearest neighbour in A and look up its rank among the point's neighbours in B:

    Delta(A -> B) = 2 / n^2 sum_i rank_B(i, nearest neighbour of i in A)

It runs from 2/n, where every nearest neighbour in A is one in B, to about 1, where A says nothing
of B. It is not symmetric: what holds more information predicts what holds less, and not the other
way about. Costs one product of n^2 d in float64 for each side; a block of rows is held at a time.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from lowdim.core.blocked import Frame, half_squares, rounding
from lowdim.core.estimate import Estimate
from lowdim.core.memory import plan
from lowdim.core.neighbors import Neighbors
from lowdim.core.points import as_points
from lowdim.errors import InputError
from lowdim.registry import method, pair

ROWS = 512


@dataclass(frozen=True, kw_only=True)
class Imbalance(Estimate):
    """How badly the first representation predicts the neighbours of the second, and back.

    Attributes
    ----------
    reverse : float
        Delta(y -> x), where ``value`` is Delta(x -> y).
    """

    reverse: float


@method(
    "compare/information-imbalance",
    needs=pair(equal=0.0),
    paper="Glielmo et al. 2022; Cheng et al. 2024",
    arxiv="2104.15079",
    cost="O(n^2 d)",
    invariant=("permutation", "rotation", "translation", "scale"),
)
def information_imbalance(
    x: Tensor, y: Tensor, *, memory: int | float | str | None = None
) -> Imbalance:
    """Does the nearest neighbour in x lie near in y too, from 2/n (always) to 1 (never)?

    ``per_point`` holds 2/n times the rank of each row's neighbour; its mean is ``value``.

    Parameters
    ----------
    x, y : Tensor
        (n, d1) and (n, d2), rows correspond.
    memory : int, float or str, optional
        Budget of the working blocks.

    Raises
    ------
    InputError
        Different numbers of rows, or fewer than 3.

    Notes
    -----
    Trust it to say which of two representations holds what the other lacks; values of small sets
    compare only at one n, since the least possible is 2/n. It looks at one neighbour, so noise at
    the smallest scale reads as information. Points tied in y share the mean of their ranks: a
    constant y reads about 1, as unrelated.
    """
    forward, backward = imbalances([x], y, memory=memory)
    return Imbalance(
        value=float(forward.mean()), reverse=float(backward.mean()), n=len(x),
        per_point=forward[:, 0],
    )  # fmt: skip


def imbalances(
    layers: Sequence[Any], reference: Any, *, memory: int | float | str | None = None
) -> tuple[Tensor, Tensor]:
    """How well do many representations predict one, and how well does it predict each of them?

    Returns
    -------
    to_reference, from_reference : Tensor
        (n, L) float64; the mean of a column is Delta(layer -> reference), Delta(back).
    """
    y = as_points(reference, name="y", min_rows=3)
    xs = [as_points(x, name="x", min_rows=3) for x in layers]
    for x in xs:
        if len(x) != len(y):
            raise InputError(f"x has {len(x)} rows and y {len(y)}: rows correspond")
    near = [Neighbors.of_points(x, 1, memory=memory).indices for x in xs]  # (n, 1) each
    of_y = Neighbors.of_points(y, 1, memory=memory).indices
    forward = ranks(y, torch.cat(near, 1), memory=memory)
    backward = torch.cat([ranks(x, of_y, memory=memory) for x in xs], 1)
    return 2 * forward / len(y), 2 * backward / len(y)


def ranks(x: Tensor, others: Tensor, *, memory: int | float | str | None = None) -> Tensor:
    """At which place does each of some other rows come among the neighbours of a row?

    Parameters
    ----------
    x : Tensor
        (n, d).
    others : Tensor
        (n, m) rows of x, none of them the row itself.

    Returns
    -------
    Tensor
        (n, m) float64, 1 for the nearest; ties, up to the rounding of float64, share their mean.
    """
    n, d = x.shape
    rows = plan(
        "ranks of neighbours", rows=n, bytes_per_row=10 * n, fixed=16 * n * d, memory=memory,
        largest=ROWS,
    )  # fmt: skip
    placed, norms = Frame.of(x).place(x, torch.float64)  # centred: products lose few digits
    slack = 2 * rounding(d, torch.float64) * (norms + norms.max())  # (n,)
    buffer, found = placed.new_empty(rows * n), placed.new_empty(others.shape)
    for start in range(0, n, rows):
        stop = min(start + rows, n)
        gaps = half_squares(placed[start:stop], norms[start:stop], placed, norms, buffer)  # (r, n)
        gaps[torch.arange(stop - start), torch.arange(start, stop)] = torch.inf
        at, loose = gaps.gather(1, others[start:stop]), slack[start:stop, None]
        for column in range(others.shape[1]):
            here = at[:, column, None]
            nearer = (gaps < here - loose).sum(1)
            found[start:stop, column] = (nearer + (gaps <= here + loose).sum(1) + 1) / 2
    return found
