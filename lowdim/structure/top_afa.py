"""How many features should an input use? As many as give the code the length of the input.

Lee et al. 2025, "Evaluating and Designing Sparse Autoencoders by Approximating
Quasi-Orthogonality". Where z = sum_i f_i w_i with unit rows w_i whose inner products are at most
eps in size,

    abs(|z|^2 - |f|^2) = abs(sum_{i != j} f_i f_j <w_i, w_j>) <= eps (|f|_1^2 - |f|^2),

so a code should have the length of what it stands for: too few features and it is shorter. Read
backwards, the same line bounds eps from below (the inequality is elementary; the form of the bound
is ours). Cost: sorting the codes, O(n m log m); the rest is one pass.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import torch
from torch import Tensor

from lowdim.core.estimate import Estimate
from lowdim.core.points import as_points
from lowdim.errors import InputError

if TYPE_CHECKING:
    from lowdim.structure.sae import SAE

BLOCK = 2048
"""Rows of a block of inner products."""


class TopAFA(NamedTuple):
    """(n, m) codes with all but the first k of each row zero, and (n,) these k."""

    codes: Tensor
    counts: Tensor


def top_afa(codes: Tensor, decoder: Tensor, x_centred: Tensor) -> TopAFA:
    """Keep, of each input, the largest activations whose length is nearest to that of the input.

    Parameters
    ----------
    codes : Tensor
        (n, m) activations before any selection, at least zero.
    decoder : Tensor
        (m, d) rows; activations count times their lengths.
    x_centred : Tensor
        (n, d) inputs less the decoder's bias.

    Returns
    -------
    TopAFA
        Differentiable in the codes; k from 0, for an input at the bias, to the activations above
        zero. Among lengths that are equally near, the fewest features.

    Raises
    ------
    InputError
        Shapes that do not fit, NaN or Inf, or a code below zero.

    Notes
    -----
    Trust the count where the dictionary is nearly orthogonal among the features in use, and what
    should be off is off or large: a missing bit of length is filled up with ever so many small
    activations (raw correlations with 2,500 random rows in 2,048 columns, 8 of them in use: the
    count is off by 2.4 in the mean).
    """
    _check(codes, decoder, x_centred)
    order = (codes * _lengths(decoder)).sort(1, descending=True)
    squares = order.values.square().cumsum(1)  # (n, m)
    reached = torch.cat([torch.zeros_like(squares[:, :1]), squares], 1).sqrt()
    target = torch.linalg.vector_norm(x_centred, dim=1, keepdim=True)
    counts = (reached - target).abs().argmin(1)
    rank = torch.arange(codes.shape[1], device=codes.device).expand_as(codes)
    kept = torch.zeros_like(codes, dtype=torch.bool)
    kept = kept.scatter(1, order.indices, rank < counts[:, None])
    return TopAFA(codes * kept, counts)


def afa_loss(codes: Tensor, decoder: Tensor, x: Tensor) -> Tensor:
    """Mean squared difference of the lengths of codes and inputs; added to the training loss.

    The paper's code compares with the length of the input as it is, not less the bias.
    """
    _check(codes, decoder, x)
    lengths = torch.linalg.vector_norm(codes * _lengths(decoder), dim=1)
    return (lengths - torch.linalg.vector_norm(x, dim=1)).square().mean()


@torch.no_grad()
def zf_points(x: Tensor, sae: SAE) -> tuple[Tensor, Tensor]:
    """(n,) lengths of the inputs, and (n,) of their codes with the bias as one more feature.

    The points of the ZF plot: below the diagonal the autoencoder activates too little.
    """
    x = as_points(x).to(sae.decoder)
    codes = sae.encode(x) * _lengths(sae.decoder)
    bias = torch.linalg.vector_norm(sae.bias).expand(len(x), 1)
    return torch.linalg.vector_norm(x, dim=1), torch.linalg.vector_norm(
        torch.cat([codes, bias], 1), dim=1
    )


def coherence_lower_bound(z: Tensor, f: Tensor) -> Estimate:
    """How coherent must a dictionary be that turns these codes into these points?

    Parameters
    ----------
    z : Tensor
        (n, d) points rebuilt from the codes, without the bias: ``f @ decoder``.
    f : Tensor
        (n, m) codes, in units of unit rows: activations times the lengths of their rows.

    Returns
    -------
    Estimate
        ``value`` is at most the largest absolute inner product of two rows; ``per_point`` what
        each point alone shows, zero for one with a single feature.

    Notes
    -----
    Trust it as a bound only for the reconstruction itself: the input has an error besides.
    """
    z, f = as_points(z, name="z"), as_points(f, name="f")
    if len(z) != len(f):
        raise InputError(f"z has {len(z)} rows and f {len(f)}: one code a point is needed")
    scale = f.abs().amax(1, keepdim=True).clamp_min(torch.finfo(f.dtype).tiny).double()
    z, f = z.double() / scale, f.double() / scale
    squares = f.square().sum(1)
    pairs = f.abs().sum(1).square() - squares  # sum over i != j of |f_i f_j|
    several = (f != 0).sum(1) > 1
    gap = (z.square().sum(1) - squares).abs()
    bound = torch.where(several, gap / torch.where(several, pairs, 1), 0)
    return Estimate(value=float(bound.max()), n=len(f), per_point=bound)


def coherence(decoder: Tensor) -> float:
    """Largest absolute cosine between two rows of an (m, d) decoder, in blocks of rows."""
    rows = as_points(decoder, name="decoder", min_rows=2)
    lengths = torch.linalg.vector_norm(rows, dim=1, keepdim=True)
    if not bool((lengths > 0).all()):
        raise InputError("a row of the decoder is all zeros: it has no direction")
    rows, largest = rows / lengths, 0.0
    for start in range(0, len(rows), BLOCK):
        cosines = (rows[start : start + BLOCK] @ rows[start:].T).abs()  # (b, d) @ (d, m - start)
        cosines.fill_diagonal_(0)
        largest = max(largest, float(cosines.max()))
    return largest


def _lengths(decoder: Tensor) -> Tensor:
    return torch.linalg.vector_norm(decoder, dim=1)


def _check(codes: Tensor, decoder: Tensor, x: Tensor) -> None:
    shapes = tuple(codes.shape), tuple(decoder.shape), tuple(x.shape)
    if [len(s) for s in shapes] != [2, 2, 2] or shapes != (
        (len(x), len(decoder)),
        (len(decoder), x.shape[1]),
        (len(x), x.shape[1]),
    ):
        raise InputError(
            f"codes {shapes[0]}, decoder {shapes[1]} and x {shapes[2]} do not fit: give (n, m), "
            "(m, d) and (n, d)"
        )
    for name, tensor in (("codes", codes), ("decoder", decoder), ("x", x)):
        as_points(tensor, name=name)
    if bool((codes < 0).any()):
        raise InputError("codes are below zero somewhere: give them after the rectifier")
