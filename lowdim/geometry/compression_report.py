"""Does text that a model finds hard to predict lie on more dimensions (Cheng et al. 2023)?

For each corpus the intrinsic dimension of its texts' states, layer by layer and by several
estimators, and the bits that the model spends on a token; over corpora, their rank correlation.
The control deals the same states out to the corpora at random: it has to kill the relation.

The paper goes on to predict how fast a model adapts to a corpus; that part is not here.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch import Tensor

from lowdim.battery import Shared
from lowdim.core.estimate import Estimate
from lowdim.core.points import as_points
from lowdim.core.random import integers, permutation
from lowdim.errors import InputError, LowdimError
from lowdim.geometry.token_geometry import Correlation
from lowdim.io.activations import hidden_states, perplexity
from lowdim.io.models import Model
from lowdim.registry import Method, corpora, find, method

ESTIMATORS = (
    "geometry/two-nn",
    "geometry/mle",
    "geometry/participation-ratio",
    "geometry/rank-99",
)
FEWEST_CORPORA = 4
RESAMPLES = 2_000


@dataclass(frozen=True, kw_only=True)
class Compression(Estimate):
    """Dimension against bits per token, over corpora.

    ``value`` is the rank correlation for the first estimator, its dimension averaged over layers.

    Attributes
    ----------
    corpora : tuple of str
        Their names, in the order of ``bits``.
    bits : tuple of float
        Bits per token of each corpus under the model.
    n_each : int
        Texts of each corpus that the dimensions rest on, the same for all.
    dimensions : dict of str to list of list of float
        By estimator: for each layer, a value for each corpus.
    correlation, control : dict of str to Correlation or None
        By estimator, of the dimension averaged over layers; ``control`` with states dealt out at
        random. None where the dimension is the same for all corpora.
    by_layer : dict of str to list of Correlation or None
        By estimator, layer by layer.
    """

    corpora: tuple[str, ...]
    bits: tuple[float, ...]
    n_each: int
    dimensions: dict[str, list[list[float]]] = field(repr=False)
    correlation: dict[str, Correlation | None]
    control: dict[str, Correlation | None]
    by_layer: dict[str, list[Correlation | None]] = field(repr=False)

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON values."""
        plain = super().to_dict()
        for name in ("correlation", "control"):
            plain[name] = {id: c and c.to_dict() for id, c in getattr(self, name).items()}
        plain["by_layer"] = {
            id: [c and c.to_dict() for c in found] for id, found in self.by_layer.items()
        }
        return plain


@method(
    "geometry/compression-report",
    needs=corpora(),
    paper="Cheng, Kervadec and Baroni 2023",
    arxiv="2310.13620",
    cost="one pass of the model over the texts, a search and a spectrum a layer and corpus",
    invariant=(),
    deep=True,
)
def compression_report(
    model: Model,
    corpora: Mapping[str, Sequence[str]],
    *,
    pooling: str = "mean",
    estimators: Sequence[str] = ESTIMATORS,
    memory: int | float | str | None = None,
    seed: int = 0,
) -> Compression:
    """Do corpora that cost a model more bits a token lie on more dimensions inside it?

    Parameters
    ----------
    model : Model
        A causal one.
    corpora : mapping of str to sequence of str
        At least four, each of at least 21 different texts; all are cut to the smallest.
    pooling : {"mean", "last"}
        What a text's point is.
    estimators : sequence of str
        Method ids that read points and give a dimension.
    memory, seed
        Budget; seed of the cut, of the control and of the bootstrap.

    Raises
    ------
    InputError
        Not a causal model, fewer than four corpora, or one with too few texts.

    Notes
    -----
    Trust the sign only where the interval, a bootstrap over corpora, keeps clear of zero and of
    the control: with eight corpora a rank correlation of 0.7 is needed. Texts of unlike length
    differ in dimension and in bits for that reason alone; cut them alike first.
    """
    clouds, bits = {}, []
    for name, texts in corpora.items():
        found = hidden_states(model, texts, pooling=pooling, memory=memory, seed=seed)
        clouds[name] = found.layers
        bits.append(math.log2(perplexity(model, texts, memory=memory).value))
    return relate(clouds, bits, estimators=estimators, memory=memory, seed=seed)


def relate(
    clouds: Mapping[str, Sequence[Any]],
    bits: Sequence[float],
    *,
    estimators: Sequence[str] = ESTIMATORS,
    memory: int | float | str | None = None,
    seed: int = 0,
) -> Compression:
    """Does the dimension of each corpus's states, layer by layer, go with its bits per token?

    Parameters
    ----------
    clouds : mapping of str to sequence of array-like
        For each corpus L arrays (n, d_l), one a layer.
    bits : sequence of float
        Bits per token of each corpus, in the same order.

    Notes
    -----
    One neighbour search and one spectrum a corpus and layer, twice for the control.
    """
    if len(clouds) < FEWEST_CORPORA or len(bits) != len(clouds):
        raise InputError(
            f"{len(clouds)} corpora and {len(bits)} figures of bits: "
            f"at least {FEWEST_CORPORA} corpora are compared, one figure each"
        )
    chosen = [find(id) for id in estimators]
    n_each = min(len(layer) for layers in clouds.values() for layer in layers)
    parts = [
        [as_points(x, name=name)[permutation(len(x), seed, i)[:n_each]] for x in layers]
        for i, (name, layers) in enumerate(clouds.items())
    ]
    dealt = permutation(n_each * len(parts), seed, len(parts)).split(n_each)

    dimensions: dict[str, list[list[float]]] = {id: [] for id in estimators}
    random: dict[str, list[list[float]]] = {id: [] for id in estimators}
    for layer in zip(*parts, strict=True):  # one (n_each, d) a corpus
        together = torch.cat(layer)
        for into, points in ((dimensions, layer), (random, [together[rows] for rows in dealt])):
            found = [_read(chosen, x, name, memory) for x, name in zip(points, clouds, strict=True)]
            for id in estimators:
                into[id].append([values[id] for values in found])
    overall = {id: spearman(np.mean(v, 0), bits, seed=seed) for id, v in dimensions.items()}
    first = overall[estimators[0]]
    return Compression(
        value=first.value if first else math.nan,
        low=first.low if first else None,
        high=first.high if first else None,
        n=len(bits), seed=seed, corpora=tuple(clouds), bits=tuple(bits), n_each=n_each,
        dimensions=dimensions, correlation=overall,
        control={id: spearman(np.mean(v, 0), bits, seed=seed) for id, v in random.items()},
        by_layer={
            id: [spearman(row, bits, seed=seed) for row in v] for id, v in dimensions.items()
        },
    )  # fmt: skip


def _read(
    chosen: Sequence[Method], x: Tensor, name: str, memory: int | float | str | None
) -> dict[str, float]:
    nouns = Shared(x, chosen, memory=memory)
    try:
        return {m.id: nouns.run(m).value for m in chosen}
    except LowdimError as error:
        raise InputError(f"corpus {name!r}: {error}") from error


def spearman(x: Any, y: Any, *, seed: int = 0) -> Correlation | None:
    """Do two quantities rank alike? With a bootstrap interval over the items.

    None where one of them is constant. The interval is the percentile one from 2,000 resamples,
    those in which one quantity is constant left out.
    """
    from scipy.stats import rankdata, spearmanr

    x, y = np.asarray(x, float), np.asarray(y, float)
    if len(np.unique(x)) == 1 or len(np.unique(y)) == 1:
        return None
    draws = integers((RESAMPLES, len(x)), len(x), seed).numpy()
    a, b = (rankdata(v[draws], axis=1) for v in (x, y))  # (resamples, n)
    a, b = (v - v.mean(1, keepdims=True) for v in (a, b))
    norm = np.sqrt((a * a).sum(1) * (b * b).sum(1))
    found = (a * b).sum(1)[norm > 0] / norm[norm > 0]
    low, high = np.quantile(found, [0.025, 0.975])
    exact = spearmanr(x, y)
    return Correlation(
        value=float(exact.statistic), n=len(x), p_value=float(exact.pvalue), seed=seed,
        low=float(low), high=float(high),
    )  # fmt: skip
