"""What does a transformer add for a token's place, and what for its text (Song and Zhong 2024)?

The hidden states of many contexts, cut to one length, are a two-way table of vectors. Its analysis
of variance takes it apart into orthogonal pieces, h = mean + position_t + context_c + residual:

    mean = average of all h,  position_t = average over contexts of h_t - mean,  context_c alike

so the sums of squares add up exactly. Cost: three passes over the (C, T, d) states in float64,
one context at a time, and T d min(T, d) for the spectrum of the positions.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from lowdim.core.estimate import Estimate, to_json
from lowdim.core.random import normal, permutation
from lowdim.core.spectrum import Spectrum
from lowdim.errors import InputError
from lowdim.registry import method, tokens

FREQUENCIES = 10
SHUFFLES = 20


@dataclass(frozen=True, kw_only=True)
class Positional(Estimate):
    """Hidden states as mean + position + context + residual.

    Attributes
    ----------
    position_share, context_share, residual_share : float
        Of the variance about the mean; they sum to one. ``value`` is the first.
    position_null : float
        What positions explain by chance in states that are all independent: (T-1) / (CT-1).
    stable_rank, rank_95 : float, int
        Of the positions: energy over that of the strongest direction; directions for 95% of it.
    low_frequency : float
        Share of the energy of the positions' Gram matrix in its ``frequencies`` lowest cosine
        frequencies along both axes: near one where positions move along a smooth curve.
    low_frequency_shuffled : float
        The same with the positions in random order, mean of 20 orders.
    incoherence : float
        Largest abs(cosine) between a position and a context: near zero where the two live in
        different directions.
    incoherence_null : float
        The same for random directions of this dimension and in these numbers.
    cluster : float or None
        Mean cosine of contexts of one label less that of contexts of two; None without labels.
    cluster_null : float or None
        The largest of the same for 20 random orders of the labels: above it by chance once in 21.
    mean, positions, contexts : Tensor
        (d,), (T, d), (C, d) float64.
    """

    position_share: float
    context_share: float
    residual_share: float
    position_null: float
    stable_rank: float
    rank_95: int
    frequencies: int
    low_frequency: float
    low_frequency_shuffled: float
    incoherence: float
    incoherence_null: float
    cluster: float | None
    cluster_null: float | None
    mean: Tensor = field(repr=False, compare=False)
    positions: Tensor = field(repr=False, compare=False)
    contexts: Tensor = field(repr=False, compare=False)

    def residual(self, h: Tensor) -> Tensor:
        """(C, T, d) what neither place nor context explains of the states it was made from."""
        return h.double() - self.mean - self.positions - self.contexts[:, None]

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON values, without the vectors."""
        return {
            k: v for k, v in super().to_dict().items() if k not in ("mean", "positions", "contexts")
        }


@method(
    "geometry/positional",
    needs=tokens(),
    paper="Song and Zhong 2024",
    arxiv="2310.04861",
    cost="O(CTd + Td min(T, d))",
    invariant=("rotation", "translation", "scale"),
)
def positional_decomposition(
    h: Tensor,
    *,
    labels: Sequence[Any] | None = None,
    frequencies: int | None = None,
    seed: int = 0,
) -> Positional:
    """Which share of the hidden states is a token's place, and is that part smooth and apart?

    Parameters
    ----------
    h : Tensor
        (C, T, d) states of C contexts at T positions, all of one length.
    labels : sequence, optional
        One topic a context, for ``cluster``.
    frequencies : int, optional
        How many frequencies count as low, the constant one aside; by default the paper's 10, or
        T/8 where that is less.
    seed : int
        Of the random orders and random directions that the figures are compared with.

    Raises
    ------
    InputError
        Not three axes, fewer than 2 contexts or 3 positions, NaN or Inf (its place is named), or
        states that are all equal.

    Notes
    -----
    Trust it against its own controls, from about 20 contexts on: with few, part of the residual
    passes for position (``position_null``). Leave out a first token that is the same in every
    text: its state can be longer than all others together, and then it is all that this sees.
    Positions are averages over what stands there, so if texts start alike, so do their states.
    """
    states = _check(h)
    c, t, d = states.shape
    if labels is not None and len(labels) != c:
        raise InputError(f"there are {len(labels)} labels for {c} contexts: one each")
    positions = torch.zeros(t, d, dtype=torch.float64, device=states.device)
    contexts = positions.new_empty(c, d)
    for i, context in enumerate(states):  # (T, d) in float64, one at a time
        positions += context.double() / c
        contexts[i] = context.double().mean(0)
    mean = positions.mean(0)
    positions, contexts = positions - mean, contexts - mean
    residual = sum(
        float((x.double() - mean - positions - own).square().sum())
        for x, own in zip(states, contexts, strict=True)
    )
    parts = (c * float(positions.square().sum()), t * float(contexts.square().sum()), residual)
    total = sum(parts)
    if not total > 0:
        raise InputError("all states are equal: there is no variance to take apart")
    low = min(frequencies or max(1, min(FREQUENCIES, t // 8)), t - 1)
    moved = parts[0] > 1e-20 * total  # else positions are rounding, and have no shape
    spectrum = Spectrum.of_points(positions, center=False) if moved else None
    orders = [permutation(t, seed, i).to(states.device) for i in range(SHUFFLES)]
    shuffled = sum(low_frequency_share(positions[order], low) for order in orders) / SHUFFLES
    random = (normal((n, d), seed, SHUFFLES + i) for i, n in enumerate((t, c)))
    cluster, cluster_null = _cluster(contexts, labels, seed) if labels is not None else (None, None)
    return Positional(
        value=parts[0] / total,
        n=c * t,
        seed=seed,
        position_share=parts[0] / total,
        context_share=parts[1] / total,
        residual_share=parts[2] / total,
        position_null=(t - 1) / (c * t - 1),
        stable_rank=spectrum.stable_rank() if spectrum else 0.0,
        rank_95=spectrum.rank_at(0.95) if spectrum else 0,
        frequencies=low,
        low_frequency=low_frequency_share(positions, low),
        low_frequency_shuffled=shuffled,
        incoherence=_largest_cosine(positions, contexts),
        incoherence_null=_largest_cosine(*random),
        cluster=cluster,
        cluster_null=cluster_null,
        mean=mean,
        positions=positions,
        contexts=contexts,
    )


def low_frequency_share(positions: Tensor, frequencies: int) -> float:
    """How smooth is a curve of T points: the share of its Gram matrix in low cosine frequencies?

    The cosine transform C (orthonormal, DCT-II) of the Gram matrix on both sides is C G C^T with
    the energy of G; its low block is (C P)(C P)^T for the low rows of C, the constant one left out
    since the mean is gone.
    """
    t = len(positions)
    place = (torch.arange(t, dtype=torch.float64, device=positions.device) + 0.5) * math.pi / t
    wave = torch.arange(1, frequencies + 1, dtype=torch.float64, device=positions.device)
    low = math.sqrt(2 / t) * torch.cos(wave[:, None] * place) @ positions  # (K, T) @ (T, d)
    energy = _gram_energy(positions)
    return _gram_energy(low) / energy if energy > 0 else 0.0


def _gram_energy(x: Tensor) -> float:
    """Squared Frobenius norm of x x^T, by the smaller of its two Gram matrices."""
    return float((x @ x.T if len(x) <= x.shape[1] else x.T @ x).square().sum())


def _largest_cosine(a: Tensor, b: Tensor) -> float:
    a, b = (torch.nn.functional.normalize(x, dim=1) for x in (a, b))
    return float((a @ b.T).abs().max())


def _cluster(
    contexts: Tensor, labels: Sequence[Any], seed: int
) -> tuple[float | None, float | None]:
    """Mean cosine within labels less between them, and the largest of it by chance.

    Both are None where there is one kind of pair only.
    """
    unit = torch.nn.functional.normalize(contexts, dim=1)
    cosine = unit @ unit.T  # (C, C)
    names = {label: i for i, label in enumerate(dict.fromkeys(labels))}
    code = torch.tensor([names[label] for label in labels], device=contexts.device)
    pair = ~torch.eye(len(code), dtype=torch.bool, device=contexts.device)
    if len(names) in (1, len(code)):
        return None, None

    def score(code: Tensor) -> float:
        same = code[:, None] == code
        return float(cosine[same & pair].mean() - cosine[~same].mean())

    orders = (permutation(len(code), seed, 2 * SHUFFLES + i) for i in range(SHUFFLES))
    return score(code), max(score(code[order.to(code.device)]) for order in orders)


def _check(h: Any) -> Tensor:
    states = torch.as_tensor(h).detach()
    if states.ndim != 3 or states.is_complex():
        raise InputError(f"h has shape {tuple(states.shape)}: give (contexts, positions, d) states")
    if states.shape[0] < 2 or states.shape[1] < 3 or states.shape[2] == 0:
        raise InputError(
            f"h has {states.shape[0]} contexts of {states.shape[1]} positions in "
            f"{states.shape[2]} dimensions: at least 2 contexts of 3 positions are needed"
        )
    if not bool(torch.isfinite(torch.stack(torch.aminmax(states))).all()):
        c, t, column = (~torch.isfinite(states)).nonzero()[0].tolist()
        raise InputError(
            f"h holds {float(states[c, t, column])} at context {c}, position {t}, column {column}: "
            "remove or fill such values first"
        )
    return states


@dataclass(frozen=True, kw_only=True)
class QueryKeySplit(Estimate):
    """Scores of queries with keys, taken apart by what each side holds.

    Attributes
    ----------
    shares : dict of str to float
        Share of the energy of each term, ``position-position``, ``position-context`` (a query's
        place with a key's context), ``context-position``, ``context-context``; they sum to one
        and ``value`` is the first.
    terms : dict of str to Tensor
        (T, T), (T, C), (C, T), (C, C) scores.
    """

    shares: dict[str, float]
    terms: dict[str, Tensor] = field(repr=False, compare=False)

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON values, without the scores."""
        return {k: to_json(v) for k, v in super().to_dict().items() if k != "terms"}


def query_key_split(found: Positional, weight: Tensor) -> QueryKeySplit:
    """Does an attention head look at places or at contents?

    Parameters
    ----------
    found : Positional
        The decomposition of the head's inputs.
    weight : Tensor
        (d, d) the head's W_Q^T W_K: the score of a query x with a key y is x^T weight y. Of a
        model with rotary positions this is the part at distance zero.

    Returns
    -------
    QueryKeySplit
        Energies are mean squares over all pairs of places and contexts. Within one context the
        two terms in which the key's side is its context are the same for every key, and the
        softmax does not see them: compare the first and the third.
    """
    parts = {"position": found.positions, "context": found.contexts}
    w = torch.as_tensor(weight).detach().double()
    if w.shape != (len(found.mean), len(found.mean)):
        raise InputError(
            f"weight has shape {tuple(w.shape)}: give W_Q^T W_K, ({len(found.mean)} squared)"
        )
    terms = {f"{a}-{b}": x @ w @ y.T for a, x in parts.items() for b, y in parts.items()}
    energy = {name: float(scores.square().mean()) for name, scores in terms.items()}
    total = sum(energy.values())
    if not total > 0:
        raise InputError("all scores are zero: there is nothing to attribute")
    shares = {name: e / total for name, e in energy.items()}
    return QueryKeySplit(value=shares["position-position"], n=found.n, shares=shares, terms=terms)
