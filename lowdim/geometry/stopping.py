"""How many leading eigenvalues to keep: the classical rules, each a function of a spectrum.

Every rule takes (..., r) eigenvalues in descending order, one spectrum or a batch of them, such as
``Spectrum.values`` or the local spectra of :func:`lowdim.geometry.local_pca`, and gives (...)
counts. None of them sees the scale.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from lowdim.errors import InputError

TINY = torch.finfo(torch.float64).tiny


def fukunaga_olsen(values: Tensor, *, alpha: float = 0.05) -> Tensor:
    """How many eigenvalues exceed ``alpha`` times the largest (Fukunaga and Olsen 1971)?

    Notes
    -----
    k points spread evenly over d directions have a smallest eigenvalue of about
    ((1 - sqrt(d/k)) / (1 + sqrt(d/k)))^2 of the largest, so 0.05 counts all of them up to d = 0.4 k
    and leaves out noise below a twentieth of the patch's variance per direction.
    """
    values = _checked(values)
    return (values > alpha * values[..., :1]).sum(-1)


def fan(values: Tensor, *, gap: float = 10.0, share: float = 0.8, signal: float = 0.95) -> Tensor:
    """At the first great gap, or where most of the variance is held (Fan et al. 2010)?

    The mean of the tail beyond a ``signal`` of the variance is taken for noise and subtracted; the
    count ends at the first ratio above ``gap``, or once ``share`` of what is left is held.
    """
    values = _checked(values)
    tail = _first(_held(values) > signal)[..., None] <= torch.arange(values.shape[-1]).to(values)
    noise = (values * tail).sum(-1, keepdim=True) / tail.sum(-1, keepdim=True)
    left = values - noise
    held = left.cumsum(-1) > share * left.sum(-1, keepdim=True)
    held[..., :-1] |= left[..., :-1] / left[..., 1:] > gap
    held[..., -1] = True  # a flat spectrum has nothing above its tail
    return _first(held) + 1


def largest_gap(values: Tensor) -> Tensor:
    """Before the largest ratio of one eigenvalue to the next; a first zero ends the count."""
    values = _checked(values)
    if values.shape[-1] == 1:
        return torch.ones(values.shape[:-1], dtype=torch.int64, device=values.device)
    ratios = values[..., :-1] / values[..., 1:]
    return _first(ratios == ratios.nan_to_num(nan=0.0, posinf=math.inf).amax(-1, keepdim=True)) + 1


def explained(values: Tensor, *, share: float = 0.95) -> Tensor:
    """How few eigenvalues hold this share of the variance?"""
    return _first(_held(_checked(values)) >= share * (1 - 1e-12)) + 1


def participation(values: Tensor) -> Tensor:
    """(sum)^2 / sum of squares, a real number; k points lower d even directions to dk / (d + k)."""
    values = _checked(values)
    return values.sum(-1).square() / values.square().sum(-1)


def kaiser(values: Tensor) -> Tensor:
    """How many eigenvalues exceed their mean (Kaiser 1960)?"""
    values = _checked(values)
    return (values > values.mean(-1, keepdim=True)).sum(-1)


def broken_stick(values: Tensor) -> Tensor:
    """How many lead the lengths of a stick broken at random (Frontier 1976)?

    The i-th longest of r pieces has mean length (1/i + ... + 1/r) / r. Zero where even the first
    does not reach its piece.
    """
    values = _checked(values)
    r = values.shape[-1]
    pieces = (1 / torch.arange(1, r + 1).to(values)).flip(0).cumsum(0).flip(0) / r  # (r,)
    below = pieces > values / values.sum(-1, keepdim=True)
    return torch.where(below.any(-1), _first(below), r)


def minka(values: Tensor, *, n: int, dim: int) -> Tensor:
    """Which rank has the greatest evidence under probabilistic PCA (Minka 2000)?

    Laplace's approximation of the evidence of each rank from 1 to that of the data less one.

    Parameters
    ----------
    values : Tensor
        (..., r) eigenvalues of the covariance, those beyond r being zero.
    n, dim : int
        Rows and columns behind them.

    Notes
    -----
    Needs room for (..., r, r) numbers.
    """
    values = _checked(values)
    values = values / values[..., :1]
    r = values.shape[-1]
    rank = (values > dim * torch.finfo(torch.float64).eps).sum(-1)  # (...)
    order = torch.arange(1, r + 1).to(values)  # (r,) the candidates k
    rest = dim - order  # directions left to noise
    value, later = values[..., :, None], values[..., None, :]  # (..., i, j)
    above = torch.ones(r, r, device=values.device).triu(1).bool()  # i < j
    apart = torch.where(above, _log(value - later), 0.0)
    zeros = (dim - r) * _log(values)  # pairs with the eigenvalues beyond r
    both = torch.where(above, -_log(value) - _log(later), 0.0)
    pairs = (apart.sum(-1) + zeros).cumsum(-1) + (apart + both).sum(-2).cumsum(-1)

    noise = (values.sum(-1, keepdim=True) - values.cumsum(-1)).clamp_min(0) / rest.clamp_min(1)
    to_noise = _log((value - noise[..., None, :]) / (value * noise[..., None, :]).clamp_min(TINY))
    pairs = pairs + rest * torch.where(above | above.T.logical_not(), to_noise, 0.0).sum(-2)

    free = dim * order - order * (order + 1) / 2  # parameters of the basis
    half = (dim + 1 - order) / 2
    prior = (torch.lgamma(half) - half * math.log(math.pi)).cumsum(0) - order * math.log(2)
    evidence = (
        prior
        - n / 2 * _log(values).cumsum(-1)
        - n / 2 * rest * _log(noise)
        + (free + order) / 2 * math.log(2 * math.pi)
        - (free * math.log(n) + pairs) / 2
        - order / 2 * math.log(n)
    )
    evidence = evidence.masked_fill(order >= rank[..., None], -math.inf)
    return torch.where(rank < 2, rank, evidence.argmax(-1) + 1)


def _checked(values: Tensor) -> Tensor:
    if values.shape[-1] == 0 or not bool((values[..., 0] > 0).all()):
        raise InputError("all energies are zero: every row is the same, so there is no spread")
    return values.double()


def _held(values: Tensor) -> Tensor:
    """Cumulative share of the variance, (..., r)."""
    return values.cumsum(-1) / values.sum(-1, keepdim=True)


def _first(condition: Tensor) -> Tensor:
    """Index of the first place where the condition holds, along the last axis."""
    return condition.int().argmax(-1)


def _log(x: Tensor) -> Tensor:
    return x.clamp_min(TINY).log()
