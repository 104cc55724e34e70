"""Similarities of points with ones on the diagonal, as functions of two sets of rows.

Each of these returns ``kernel(a, b) -> (len(a), len(b))`` in float64, positive semi-definite
on any set of points; a function of your own with the same signature serves as well.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from lowdim.core.points import unit_rows
from lowdim.core.random import integers
from lowdim.errors import InputError

Kernel = Callable[[Tensor, Tensor], Tensor]


def rbf(gamma: float) -> Kernel:
    """Gaussian similarity exp(-gamma |a - b|^2); see :func:`median_gamma` for the scale."""
    _check(gamma)

    def kernel(a: Tensor, b: Tensor) -> Tensor:
        a, b = _about(a, b)
        half = a.square().sum(1)[:, None] + b.square().sum(1) - 2 * (a @ b.T)
        return torch.exp(-gamma * half.clamp_min(0))

    return kernel


def laplacian(gamma: float) -> Kernel:
    """Laplacian similarity exp(-gamma sum_j |a_j - b_j|); costs several times the Gaussian one."""
    _check(gamma)

    def kernel(a: Tensor, b: Tensor) -> Tensor:
        return torch.exp(-gamma * torch.cdist(a.double(), b.double(), p=1))

    return kernel


def polynomial(degree: int = 3, offset: float = 1.0) -> Kernel:
    """((cos + offset) / (1 + offset))^degree of the cosine; degree 1, offset 0 is the cosine."""
    if degree < 1 or degree != int(degree) or not offset >= 0:
        raise InputError(
            f"degree={degree}, offset={offset}: give a whole degree of at least 1 and an offset "
            "that is not negative, or the kernel is not positive semi-definite"
        )

    def kernel(a: Tensor, b: Tensor) -> Tensor:
        cosine = unit_rows(a.double()) @ unit_rows(b.double()).T
        return ((cosine + offset) / (1 + offset)) ** degree

    return kernel


def median_gamma(x: Tensor, *, seed: int = 0) -> float:
    """The ``gamma`` that gives two rows at the median distance a similarity of exp(-1/2).

    Read off 2,000 random pairs of rows. Use one value for all sets that are compared.
    """
    i, j = integers((2, 2000), len(x), seed, device=x.device)
    apart = (x[i].double() - x[j].double()).square().sum(1)
    median = float(apart[apart > 0].median()) if bool((apart > 0).any()) else 0.0
    if not median > 0:
        raise InputError("no two of 2,000 random pairs of rows differ: there is no scale to read")
    return 0.5 / median


def _check(gamma: float) -> None:
    if not 0 < gamma < float("inf"):
        raise InputError(f"gamma={gamma}: give a positive number, one over a squared distance")


def _about(a: Tensor, b: Tensor) -> tuple[Tensor, Tensor]:
    """Float64 rows about the first one: products of far away points lose their differences."""
    return a.double() - b[0], b.double() - b[0]
