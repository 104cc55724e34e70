"""How many bits does a point take, sent as the code of a sparse autoencoder?

Ayonrinde, Pearce and Sharkey 2024 ("Interpretability as Compression"): features are sent one by
one, each by an entropy code of its own, so a point costs the sum of the entropies of its quantised
activations. A wide dictionary pays for saying which few features are on, a narrow one for having
too many on, and at equal distortion the fewest bits are a choice of width.

Activations are quantised with one step for all features (in units of unit decoder rows), the
coarsest that keeps the distortion. Cost: one encoding of the points and, for each of some 15
steps, a sparse decoding and a sort of the activations in use. Memory: these, 24 bytes each.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.nn.functional import embedding_bag

from lowdim.core.estimate import Estimate
from lowdim.core.memory import budget, format_bytes
from lowdim.core.shards import Source
from lowdim.errors import InputError, MemoryBudgetError
from lowdim.structure.estimator import open_source
from lowdim.structure.sae import SAE
from lowdim.structure.sae_train import blocks

HALVINGS = 30
"""Of the largest activation: the finest step that is tried."""

BISECTIONS = 5
"""Between two steps a factor of two apart."""


class Rate(NamedTuple):
    """One point of a rate-distortion curve.

    ``step`` of the quantiser, ``bits`` a vector, ``adaptive_bits`` a vector, and ``distortion``
    as a share of the variance.
    """

    step: float
    bits: float
    adaptive_bits: float
    distortion: float


@dataclass(frozen=True, kw_only=True)
class DescriptionLength(Estimate):
    """``value`` is in bits a vector, and infinite where the distortion cannot be kept.

    Attributes
    ----------
    adaptive_bits : float
        What an arithmetic coder takes that starts without tables and learns them on the way
        (Krichevsky and Trofimov 1981); above ``value`` by what the tables cost, which is small
        where there are many points.
    distortion : float
        Reached, as a share of the variance.
    step : float
        Of the quantiser.
    curve : tuple of Rate
        All steps that were tried, the coarsest first.
    """

    adaptive_bits: float = math.inf
    distortion: float = math.nan
    step: float = math.nan
    curve: tuple[Rate, ...] = field(default=(), repr=False)


class SAEChoice(NamedTuple):
    """Name of the autoencoder of least bits, and the description length of each."""

    best: Any
    lengths: dict[Any, DescriptionLength]


@torch.no_grad()
def sae_description_length(
    sae: SAE, x: Any, *, distortion: float, memory: int | float | str | None = None
) -> DescriptionLength:
    """How many bits a point, at this distortion, does the code of an autoencoder take?

    Parameters
    ----------
    sae : SAE
        In evaluation mode; left so.
    x : array-like, path or source
        (n, d) points, at best others than it was trained on.
    distortion : float
        The most that may be lost, as a share of the variance of the points: what the autoencoder
        loses anyway and what quantising adds.
    memory : int, float, str or None
        Budget, see :func:`lowdim.core.memory.budget`.

    Raises
    ------
    InputError
        NaN or Inf, columns that do not fit, points that are all equal, a distortion not in (0, 1).
    MemoryBudgetError
        The activations in use do not fit.

    Notes
    -----
    Trust differences between autoencoders at one distortion, not the number itself: features are
    coded as if independent, so what they know of each other is paid twice, and the decoder's own
    bits are left out, as amortised over many points. Entropies are those of the n points
    themselves and too low where features fire a handful of times; ``adaptive_bits`` errs on the
    other side, and where the two order autoencoders differently there are too few points.
    """
    if not isinstance(sae, SAE):
        raise InputError(
            f"a {type(sae).__name__} cannot rebuild points from codes alone: give an SAE"
        )
    if not 0 < distortion < 1:
        raise InputError(f"distortion={distortion!r}: give a share of the variance, within (0, 1)")
    source = open_source(x)
    if source.dim != sae.dim:
        raise InputError(f"x has {source.dim} columns and the autoencoder takes {sae.dim}")
    codes = _Codes(sae.eval(), source, memory)
    kept = codes.error(None) / codes.variance
    if kept > distortion:
        note = f"loses {kept:.3g} of the variance before anything is quantised"
        return DescriptionLength(
            value=math.inf, n=source.n, adaptive_bits=math.inf, distortion=kept, notes=(note,)
        )
    curve, good = [], None
    for i in range(HALVINGS):  # the first power of two that is fine enough
        curve.append(codes.rate(codes.largest / 2**i))
        if curve[-1].distortion <= distortion:
            good = curve[-1]
            break
    if good is None:
        raise InputError(
            f"distortion={distortion!r} is within rounding of what the autoencoder loses, "
            f"{kept:.6g}: allow a little more"
        )
    fine, coarse = good.step, 2 * good.step if len(curve) > 1 else good.step
    for _ in range(BISECTIONS if coarse > fine else 0):
        curve.append(codes.rate(math.sqrt(fine * coarse)))
        if curve[-1].distortion <= distortion:
            good, fine = curve[-1], curve[-1].step
        else:
            coarse = curve[-1].step
    return DescriptionLength(
        value=good.bits, n=source.n, adaptive_bits=good.adaptive_bits, step=good.step,
        distortion=good.distortion, curve=tuple(sorted(curve, reverse=True)),
    )  # fmt: skip


def select_sae(
    saes: Mapping[Any, SAE], x: Any, *, distortion: float, memory: int | float | str | None = None
) -> SAEChoice:
    """Which of these autoencoders describes the points in the fewest bits?

    Parameters
    ----------
    saes : mapping
        By name, e.g. by width; of equal bits the first.
    x, distortion, memory
        As for :func:`sae_description_length`.

    Raises
    ------
    InputError
        None of them keeps the distortion.
    """
    lengths = {
        name: sae_description_length(sae, x, distortion=distortion, memory=memory)
        for name, sae in saes.items()
    }
    best = min(lengths, key=lambda name: lengths[name].value, default=None)
    if best is None or math.isinf(lengths[best].value):
        least = min((found.distortion for found in lengths.values()), default=math.nan)
        raise InputError(
            f"no autoencoder of {len(lengths)} keeps the distortion {distortion}: the least is "
            f"{least:.3g}"
        )
    return SAEChoice(best, lengths)


class _Codes:
    """The activations in use, block by block: feature, value, and where each row begins."""

    def __init__(self, sae: SAE, source: Source, memory: int | float | str | None) -> None:
        self.sae, self.source, self.memory, self.n = sae, source, memory, source.n
        self.rows = self.sae.decoder.double()
        self.lengths = torch.linalg.vector_norm(self.rows, dim=1)
        self.blocks: list[tuple[Tensor, Tensor, Tensor]] = []
        held, available = 0, budget(memory)
        first, squares = None, 0.0
        total = torch.zeros(sae.dim, dtype=torch.float64, device=self.rows.device)
        for x in blocks(sae, source, memory):
            codes = sae.encode(x)
            row, feature = codes.nonzero(as_tuple=True)
            starts = torch.searchsorted(row, torch.arange(len(x), device=row.device))
            values = codes[row, feature].double() * self.lengths[feature]
            self.blocks.append((feature, values, starts))
            held += 24 * len(feature)
            if held > available:
                raise MemoryBudgetError(
                    f"the activations in use of a part of {self.n:,} points take "
                    f"{format_bytes(held)} and may use {format_bytes(available)}: raise memory=, "
                    "or measure a sample of the points"
                )
            first = x[0].double() if first is None else first
            away = x.double() - first
            total += away.sum(0)
            squares += float(away.square().sum())
        self.variance = squares - float(total.square().sum()) / self.n
        if not self.variance > 0:
            raise InputError("the points are all equal: they have no variance to describe")
        self.largest = max(
            (float(values.abs().max()) for _, values, _ in self.blocks if len(values)), default=1.0
        )

    def error(self, step: float | None) -> float:
        """Sum of squared distances to what is rebuilt from quantised, or from exact, values."""
        unit = self.rows / self.lengths.clamp_min(torch.finfo(torch.float64).tiny)[:, None]
        bias, error = self.sae.bias.double(), 0.0
        of_points = blocks(self.sae, self.source, self.memory)
        for x, (feature, values, starts) in zip(of_points, self.blocks, strict=True):
            levels = values if step is None else (values / step).round() * step
            rebuilt = embedding_bag(feature, unit, starts, mode="sum", per_sample_weights=levels)
            error += float((x.double() - rebuilt - bias).square().sum())
        return error

    def rate(self, step: float) -> Rate:
        """Bits and distortion at one step."""
        span = 2 * (round(self.largest / step) + 1)  # levels, from -span / 2
        keys, counts = [], []
        for feature, values, _ in self.blocks:
            level = (values / step).round().long()
            key = feature * span + level + span // 2
            key, count = key[level != 0].unique(return_counts=True)
            keys.append(key)
            counts.append(count)
        key, place = torch.cat(keys).unique(return_inverse=True)
        count = torch.zeros(len(key), dtype=torch.int64, device=key.device)
        count.scatter_add_(0, place, torch.cat(counts))
        bits, adaptive = _lengths_of(key // span, count.double(), self.n, self.sae.width)
        return Rate(step, bits / self.n, adaptive / self.n, self.error(step) / self.variance)


def _lengths_of(feature: Tensor, count: Tensor, n: int, width: int) -> tuple[float, float]:
    """Bits of all points: by the entropies of the features, and by an adaptive coder of each.

    ``count`` (l,) says how often a level other than zero occurs in its ``feature`` (l,).
    """
    on = count.new_zeros(width).scatter_add(0, feature, count)  # (m,)
    levels = count.new_zeros(width).scatter_add(0, feature, torch.ones_like(count)) + 1
    zero = n - on
    logs = torch.special.xlogy(count, count).sum() + torch.special.xlogy(zero, zero).sum()
    entropy = (width * n * math.log(n) - float(logs)) / math.log(2)
    half = math.lgamma(0.5)  # a level seen c times has chance (c + 1/2) / (n + levels / 2)
    gains = (torch.lgamma(count + 0.5) - half).sum() + (torch.lgamma(zero + 0.5) - half).sum()
    start = (torch.lgamma(n + levels / 2) - torch.lgamma(levels / 2)).sum()
    return max(entropy, 0.0), float(start - gains) / math.log(2)
