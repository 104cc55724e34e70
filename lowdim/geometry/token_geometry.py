"""The cloud of a prompt's tokens through the layers, and what it says of the model's surprise.

Viswanathan et al. 2025: of each prompt take the states of its tokens as points; their intrinsic
dimension, how many neighbours they keep from layer to layer, and their mean cosine. Over prompts
the dimension goes with the mean loss of the next token. A search of T^2 d a layer and prompt.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

from lowdim.battery import Shared
from lowdim.compare.neighborhood_overlap import shared
from lowdim.core.estimate import Estimate, to_json
from lowdim.core.neighbors import Neighbors
from lowdim.core.points import as_points
from lowdim.errors import InputError
from lowdim.registry import find, layers, method


@dataclass(frozen=True, kw_only=True)
class TokenGeometry(Estimate):
    """One prompt's tokens, layer by layer; ``value`` is the largest dimension.

    Attributes
    ----------
    peak : int
        The layer of that dimension.
    dimension : tuple of Estimate
        L intrinsic dimensions of the token cloud.
    cosine : tuple of float
        L mean cosines over pairs of tokens.
    overlap : tuple of float
        L - 1 shares of the k nearest tokens that a layer has in common with the next.
    """

    peak: int
    dimension: tuple[Estimate, ...]
    cosine: tuple[float, ...]
    overlap: tuple[float, ...]

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON values."""
        return super().to_dict() | {"dimension": [e.to_dict() for e in self.dimension]}


@method(
    "geometry/token-geometry",
    needs=layers(),
    paper="Viswanathan et al. 2025",
    arxiv="2501.10573",
    cost="O(L T^2 d) a prompt",
    invariant=("permutation", "rotation", "scale"),
    deep=True,
)
def token_geometry(
    states: Sequence[Any],
    *,
    by: str = "geometry/two-nn",
    k: int = 10,
    memory: int | float | str | None = None,
    seed: int = 0,
) -> TokenGeometry:
    """On how many dimensions do the tokens of one prompt lie, layer by layer?

    Parameters
    ----------
    states : sequence of array-like
        L of (T, d_l): the states of the prompt's tokens in each layer.
    by : str
        Id of the dimension; it reads points.
    k : int
        Neighbours for the overlap.
    memory, seed
        Budget of a layer; seed of the dimension, where it draws.

    Raises
    ------
    InputError
        No layers, different numbers of tokens, too few of them, or an all-zero state.

    Notes
    -----
    Trust it from some hundred tokens on, for differences between prompts of one length: from 100
    tokens one dimension is uncertain by a fifth. Tokens that repeat a word are one point in the
    embedding layer and are merged there. Leave out a first token that every prompt has. Compare
    with the same prompt with its words shuffled before calling anything a trace of meaning.
    """
    if not len(states):
        raise InputError("there are no layers: give the states of the tokens in each")
    xs = [as_points(x, name=f"states[{i}]") for i, x in enumerate(states)]
    for i, x in enumerate(xs):
        if len(x) != len(xs[0]):
            raise InputError(f"states[{i}] has {len(x)} tokens, states[0] {len(xs[0])}: the same")
    chosen = [find(by), find("geometry/mean-cosine")]
    nouns = [Shared(x, chosen, memory=memory, seed=seed) for x in xs]
    dimension = tuple(of.run(chosen[0]) for of in nouns)
    peak = max(range(len(xs)), key=lambda i: dimension[i].value)
    top, k = dimension[peak], min(k, len(xs[0]) - 1)
    near = [Neighbors.of_points(x, k, memory=memory).indices for x in xs]
    return TokenGeometry(
        value=top.value, low=top.low, high=top.high, n=len(xs[0]), seed=seed, peak=peak,
        notes=top.notes, dimension=dimension,
        cosine=tuple(of.run(chosen[1]).value for of in nouns),
        overlap=tuple(
            float(shared(a, b).mean()) for a, b in pairwise(near)
        ),
    )  # fmt: skip


@dataclass(frozen=True, kw_only=True)
class Correlation(Estimate):
    """A correlation coefficient.

    Attributes
    ----------
    p_value : float
        Chance of one at least this large, either sign, between unrelated quantities.
    """

    p_value: float

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON values."""
        return to_json(super().to_dict())


def loss_correlation(
    prompts: Sequence[TokenGeometry], losses: Sequence[float]
) -> list[Correlation | None]:
    """In which layers have prompts that surprise the model a token cloud of higher dimension?

    Parameters
    ----------
    prompts : sequence of TokenGeometry
        P of them.
    losses : sequence of float
        P mean cross-entropies of the next token.

    Returns
    -------
    list of Correlation or None
        For each layer Pearson's coefficient with Fisher's interval, prompts taken as independent;
        None where one of the two does not vary.
    """
    if len(prompts) != len(losses) or len(prompts) < 4:
        raise InputError(
            f"{len(prompts)} prompts and {len(losses)} losses: one loss a prompt, four or more"
        )
    columns = zip(*([e.value for e in p.dimension] for p in prompts), strict=True)
    return [pearson(column, losses) for column in columns]


def pearson(x: Sequence[float], y: Sequence[float]) -> Correlation | None:
    """How closely do two quantities follow a line? None where one of them is constant."""
    from scipy.stats import pearsonr

    if min(x) == max(x) or min(y) == max(y):
        return None
    found = pearsonr(x, y)
    low, high = found.confidence_interval(0.95)
    finite = math.isfinite(low) and math.isfinite(high)
    return Correlation(
        value=float(found.statistic), n=len(x), p_value=float(found.pvalue),
        low=float(low) if finite else None, high=float(high) if finite else None,
    )  # fmt: skip
