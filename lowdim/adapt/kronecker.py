"""Sums of Kronecker products: made, multiplied with inputs, and how sides are split for them.

A sum of t Kronecker products is kept as its factors, factor k being (t, m_k, n_k): a matrix
(m_1 m_2 ..., n_1 n_2 ...) of t times the sum of m_k n_k numbers.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import cache

import torch
from torch import Tensor

from lowdim.errors import InputError

Sides = tuple[int, ...]


def kronecker_sum(factors: Sequence[Tensor]) -> Tensor:
    """(m1 m2 ..., n1 n2 ...) sum over i of the Kronecker products of ``factors[k][i]``.

    Factor k is (t, m_k, n_k). With two factors one matrix product, of t times the numbers made.
    """
    *first, last = factors
    product = first[0]
    for f in first[1:]:  # (t, m, n), (t, p, q) -> (t, m p, n q)
        product = torch.einsum("tmn,tpq->tmpnq", product, f).flatten(3).flatten(1, 2)
    return torch.einsum("tmn,tpq->mpnq", product, last).flatten(2).flatten(0, 1)


def kronecker_apply(factors: Sequence[Tensor], x: Tensor) -> Tensor:
    """(n, m1 m2 ...) product of :func:`kronecker_sum` with (n, n1 n2 ...) inputs, one by one.

    For two factors the sum over i of F1_i X F2_i^T, X being an input folded to (n1, n2).
    """
    n, left, done = len(x), x.shape[1], 1
    y = x[:, None]  # (n, terms, rest, in, done): the last axis that is not done meets its factor
    for f in reversed(factors[1:]):
        left //= f.shape[2]
        y = torch.einsum("ntlqd,tpq->ntlpd", y.reshape(n, y.shape[1], left, f.shape[2], done), f)
        done *= f.shape[1]
    f = factors[0]
    y = torch.einsum("ntqd,tpq->npd", y.reshape(n, y.shape[1], f.shape[2], done), f)
    return y.reshape(n, f.shape[1] * done)


def operations(factors: Sequence[Tensor], n: int) -> tuple[int, int]:
    """Multiplications of n inputs with the sum: made as a matrix, and factor by factor."""
    terms = len(factors[0])
    heights, widths = [f.shape[1] for f in factors], [f.shape[2] for f in factors]
    one_by_one = sum(
        math.prod(widths[: k + 1]) * math.prod(heights[k:]) for k in range(len(factors))
    )
    return (terms + n) * math.prod(heights) * math.prod(widths), n * terms * one_by_one


@cache
def split_side(size: int, ranks: tuple[int, ...] = (1, 1), padded: bool = False) -> Sides:
    """Factors of a side, or of the next larger number that has better ones.

    Those with the least sum of r_k n_k, which is what a sum of Kronecker products stores a term;
    of equals the least product, then the largest first.
    """
    if len(ranks) == 1:
        return (size,)
    # the sum is least where all r_k n_k are alike; rounded up that is a split, so none costs more
    even = (size * math.prod(ranks)) ** (1 / len(ranks))
    most = sum(r * math.ceil(even / r) for r in ranks) // ranks[0] if padded else size
    splits = [
        (first, *split_side(-(-size // first), ranks[1:], padded))
        for first in range(1, min(most, size) + 1)
        if padded or size % first == 0
    ]
    return min(splits, key=lambda s: (split_cost(s, ranks), math.prod(s), [-side for side in s]))


def even_split(what: str, size: int, remedy: str, ranks: tuple[int, ...] = (1, 1)) -> Sides:
    """Factors of a side, or an error where they store more than twice what padding it would.

    ``what`` names the side in the message, and ``remedy`` says how it is padded.
    """
    sides, better = split_side(size, ranks), split_side(size, ranks, True)
    stored, instead = split_cost(sides, ranks), split_cost(better, ranks)
    if stored > 2 * instead:
        raise InputError(
            f"{what} is {size}, which at best splits into {_times(sides)}: {remedy} to "
            f"{math.prod(better)} = {_times(better)}, {instead} numbers a term in place of {stored}"
        )
    return sides


def split_cost(sides: Sides, ranks: tuple[int, ...]) -> int:
    """Numbers that a term stores for a side: the sum of r_k n_k."""
    return sum(r * side for r, side in zip(ranks, sides, strict=True))


def _times(sides: Sides) -> str:
    return " x ".join(map(str, sides))
