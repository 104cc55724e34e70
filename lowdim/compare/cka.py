"""Linear centred kernel alignment of two or many representations of the same inputs.

Kornblith et al. 2019, with the unbiased estimator of HSIC (Song et al. 2012) that Nguyen et al.
2021 brought in: the plain form tends to 1 for any two representations once d is near n.

For centred X and Y (rows correspond), p_i = |x_i|^2 and q_i = |y_i|^2, the unbiased estimator
with linear kernels has no need of the n x n kernels:

    n (n - 3) HSIC(X, Y) = |X^T Y|^2 - n/(n-2) sum_i p_i q_i + sum_i p_i sum_i q_i / ((n-1)(n-2))

It equals the inner product of the two kernels after "U-centring", which sets the diagonal to zero
and takes row and column effects off the rest; that side is the cheaper for many wide layers.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from lowdim.core.estimate import Estimate
from lowdim.core.memory import plan
from lowdim.core.points import as_points
from lowdim.errors import InputError
from lowdim.registry import method, pair

ROWS = 256  # rows in a block: its kernels stay in cache, and half of all blocks can be left out


@method(
    "compare/cka",
    needs=pair(),
    paper="Kornblith et al. 2019; Nguyen et al. 2021",
    arxiv="1905.00414",
    cost="O(n d^2) or O(n^2 d), whichever is less",
    invariant=("permutation", "rotation", "translation", "scale"),
)
def cka(
    x: Tensor, y: Tensor, *, debiased: bool = True, memory: int | float | str | None = None
) -> Estimate:
    """How alike are two representations of the same inputs, up to rotation and scale?

    1 for equal ones, about 0 for unrelated ones (slightly below by chance when debiased).

    Parameters
    ----------
    x, y : Tensor
        (n, d1) and (n, d2), rows correspond.
    debiased : bool
        The unbiased estimator; False is the plain one of the first paper.

    Raises
    ------
    InputError
        Different numbers of rows, fewer than 4, or rows that are all equal.

    Notes
    -----
    Trust it for the directions of large variance, which rule it: two layers can agree to 0.99 and
    differ in all that a task reads. Never read the plain form with d near n or above.
    """
    matrix = cka_matrix([x, y], debiased=debiased, memory=memory)
    return Estimate(value=float(matrix[0, 1]), n=len(x))


def cka_matrix(
    layers: Sequence[Any], *, debiased: bool = True, memory: int | float | str | None = None
) -> Tensor:
    """How alike are many representations of the same inputs, each with each?

    Parameters
    ----------
    layers : sequence of array-like
        L of shape (n, d_l), rows correspond.
    debiased : bool
        The unbiased estimator; False is the plain one.
    memory : int, float or str, optional
        Budget of the working blocks.

    Returns
    -------
    Tensor
        (L, L) float64, symmetric, exactly one on the diagonal.

    Notes
    -----
    Products run in the precision of the inputs and are summed in float64. Costs
    n^2 (sum of d_l) or n (sum of d_l)^2 / 2 multiplications, whichever is less.
    """
    xs = [as_points(x, name=f"layers[{i}]", min_rows=4) for i, x in enumerate(layers)]
    n = len(xs[0])
    for i, x in enumerate(xs):
        if len(x) != n:
            raise InputError(f"layers[{i}] has {len(x)} rows and layers[0] {n}: rows correspond")
    xs = [_standardise(x, i) for i, x in enumerate(xs)]
    width = sum(x.shape[1] for x in xs)
    if n * (width + len(xs) ** 2) < width**2 / 2 * (1 if len(xs) > 2 else 2):
        hsic = _from_kernels(xs, debiased, memory)
    else:
        hsic = _from_features(xs, debiased)
    norms = hsic.diagonal()
    for i, norm in enumerate(norms.tolist()):
        if not norm > 0:
            raise InputError(
                f"layers[{i}] has no structure to compare: HSIC with itself is {norm:.2g}"
            )
    return hsic / (norms[:, None] * norms).sqrt()


def _standardise(x: Tensor, i: int) -> Tensor:
    """Centre and scale to mean squared row length one, so that no product over- or underflows."""
    x = x - x.mean(0)
    size = float(torch.linalg.vector_norm(x, dtype=torch.float64)) / math.sqrt(len(x))
    if not size > 0:
        raise InputError(f"layers[{i}] has all rows equal: there is nothing to compare")
    return x / size


def _from_features(xs: list[Tensor], debiased: bool) -> Tensor:
    """HSIC of each pair, up to one common factor, from |X^T Y|^2: never wider than d x d."""
    n = len(xs[0])
    hsic = torch.zeros(len(xs), len(xs), dtype=torch.float64)
    for i, x in enumerate(xs):
        for j, y in enumerate(xs[: i + 1]):
            cross = torch.zeros(x.shape[1], y.shape[1], dtype=torch.float64, device=x.device)
            for a, b in zip(x.split(4096), y.split(4096), strict=True):
                cross += a.T @ b  # (d1, rows) @ (rows, d2)
            hsic[i, j] = hsic[j, i] = cross.square().sum().cpu()
    if debiased:
        p = torch.stack([x.double().square().sum(1) for x in xs]).cpu()  # (L, n)
        total = p.sum(1)
        hsic += total[:, None] * total / ((n - 1) * (n - 2)) - p @ p.T * (n / (n - 2))
    return hsic


def _from_kernels(xs: list[Tensor], debiased: bool, memory: int | float | str | None) -> Tensor:
    """The same from blocks of rows of all kernels at once, upper triangle only."""
    n = len(xs[0])
    rows = plan(
        "cka_matrix", rows=n, bytes_per_row=3 * len(xs) * n * xs[0].element_size(),
        memory=memory, largest=ROWS,
    )  # fmt: skip
    squares = [x.square().sum(1) / (n - 2) for x in xs]  # (n,) row effects, centred x has K 1 = 0
    hsic = torch.zeros(len(xs), len(xs), dtype=torch.float64)
    for start in range(0, n, rows):
        stop = min(start + rows, n)
        kernels = []
        for x, p in zip(xs, squares, strict=True):
            kernel = x[start:stop] @ x[start:].T  # (rows, d) @ (d, n - start)
            if debiased:
                kernel += p[start:stop, None] + (p[start:] - p.sum() / (n - 1))
                kernel.diagonal().zero_()
            kernel[:, stop - start :] *= math.sqrt(2)  # each entry stands for its mirror image too
            kernels.append(kernel.reshape(-1))
        block = torch.stack(kernels)
        hsic += (block @ block.T).double().cpu()  # (L, rows n) @ (rows n, L)
    return hsic
