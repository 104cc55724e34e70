"""Lobes: features that fire together, and whether they lie together (Li et al. 2024).

The tokens are cut into blocks; two features are alike as far as they fire in the same blocks, by
one of five coefficients of the 2 x 2 table of both. Spectral clustering cuts the features into
lobes. Do the lobes lie in places of their own? Adjusted mutual information with the clusters of
the decoder's directions answers, and so do the labels that a logistic regression gives to
directions it was not fitted to, each against random orders of the labels.

Counts are exact integers. Memory: the m x m table, and nothing else of that size but the affinity
made from it; cost: blocks m^2 for the table.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import adjusted_mutual_info_score
from sklearn.model_selection import StratifiedKFold, cross_val_predict
from torch import Tensor

from lowdim.core.estimate import Estimate
from lowdim.core.memory import plan
from lowdim.core.points import as_points, unit_rows
from lowdim.core.random import uniform
from lowdim.errors import InputError
from lowdim.structure.omp import SparseCodes
from lowdim.structure.spectral_graph import spectral_labels

Table = Callable[[Tensor, Tensor, Tensor, float], Tensor]

AFFINITIES: dict[str, Table] = {  # of both, one and the other's counts, and blocks in all
    "phi": lambda both, a, b, n: (n * both - a * b) / (a * (n - a)).sqrt() / (b * (n - b)).sqrt(),
    "jaccard": lambda both, a, b, n: both / (a + b - both),
    "dice": lambda both, a, b, n: 2 * both / (a + b),
    "simple-matching": lambda both, a, b, n: (n - a - b + 2 * both) / n,
    "overlap": lambda both, a, b, n: both / torch.minimum(a, b),
}
"""Coefficients of likeness; all but phi lie in [0, 1], phi is the correlation of two indicators."""

FOLDS = 5  # of the cross-validated logistic regression
PAIR_BYTES = 100  # of the affinity, its sparse form and what is made from it
ROWS = 2**14  # rows of one dense block of firings, at most


@dataclass(frozen=True, eq=False, repr=False)
class Cooccurrence:
    """In how many blocks did each two features fire?

    Attributes
    ----------
    counts : Tensor
        (m, m) symmetric whole numbers; the diagonal counts the blocks of one feature.
    blocks : int
        Blocks in all.
    """

    counts: Tensor
    blocks: int

    @property
    def usable(self) -> Tensor:
        """(m,) whether a feature fires in some blocks but not in all: only these can be alike."""
        own = self.counts.diagonal()
        return (own > 0) & (own < self.blocks)

    def affinity(self, kind: str = "phi") -> Tensor:
        """(m', m') likeness of the usable features, one on the diagonal.

        Parameters
        ----------
        kind : {"phi", "jaccard", "dice", "simple-matching", "overlap"}
        """
        if kind not in AFFINITIES:
            raise InputError(f"kind={kind!r}: choose from {', '.join(AFFINITIES)}")
        both = self.counts[self.usable][:, self.usable]
        own = both.diagonal()
        return AFFINITIES[kind](both, own[:, None], own, float(self.blocks))


def cooccurrence(
    codes: Tensor | SparseCodes, n_features: int | None = None, *, block: int = 256,
    memory: int | float | str | None = None,
) -> Cooccurrence:  # fmt: skip
    """Which features fire in the same stretches of text?

    Parameters
    ----------
    codes : Tensor or SparseCodes
        (n, m) activations of n tokens in their order, or their sparse form; not zero is firing.
    n_features : int, optional
        m, needed with sparse codes.
    block : int
        Tokens of a block; the last one may be shorter.
    memory : int, float or str, optional
        Budget; the table takes 8 m^2 bytes.

    Raises
    ------
    InputError
        NaN or Inf, no block size, a feature beyond ``n_features``.
    MemoryBudgetError
        Where the table does not fit: give fewer features.
    """
    sparse = isinstance(codes, SparseCodes)
    if sparse == (n_features is None):
        raise InputError("give n_features= with sparse codes, and only with them")
    values = as_points(codes.values if isinstance(codes, SparseCodes) else codes, name="codes")
    n, m = len(values), n_features or values.shape[1]
    if block < 1 or (isinstance(codes, SparseCodes) and not bool((codes.index < m).all())):
        raise InputError(f"block={block}, n_features={m}: blocks of 1 or more, features below m")
    n_blocks = -(-n // block)
    step = plan(
        "cooccurrence", rows=n_blocks, bytes_per_row=12 * m + 8 * block * values.shape[1],
        fixed=16 * m * m, memory=memory, largest=ROWS,
    )  # fmt: skip
    counts = torch.zeros(m, m, dtype=torch.float64, device=values.device)
    for first in range(0, n_blocks, step):
        tokens = slice(first * block, (first + step) * block)
        token, feature = values[tokens].nonzero().T
        if isinstance(codes, SparseCodes):  # until here it was a slot
            feature = codes.index[tokens][token, feature]
        fired = torch.zeros(min(step, n_blocks - first), m, device=values.device)
        fired[token // block, feature] = 1
        counts += fired.T @ fired  # exact in float32: at most ROWS of each
    return Cooccurrence(counts, n_blocks)


@dataclass(frozen=True, kw_only=True)
class LabelAgreement(Estimate):
    """Adjusted mutual information of two labellings: 1 where they are one, 0 on average by chance.

    Attributes
    ----------
    z_score : float
        How many standard deviations above its mean over random orders of one of them; 0 where
        no order changes it.
    p_value : float
        Share of those orders, the true one counted, that reach it.
    """

    z_score: float
    p_value: float


def label_agreement(a: Any, b: Any, *, permutations: int = 200, seed: int = 0) -> LabelAgreement:
    """Do two labellings of the same things agree beyond chance?

    Parameters
    ----------
    a, b : array-like
        (n,) labels of any kind.
    permutations : int
        Random orders of ``b``, at least two.
    seed : int
        Of those.

    Notes
    -----
    Trust the p-value down to 1 / (permutations + 1); far out the z-score says more, though its
    null is normal only roughly. AMI is a line in the mutual information for given sizes of the
    labels, so the z-score is that of either.
    """
    one, other = (np.unique(np.asarray(v), return_inverse=True)[1].ravel() for v in (a, b))
    if len(one) != len(other) or not len(one) or permutations < 2:
        raise InputError(
            f"{len(one)} and {len(other)} labels, permutations={permutations}: give a label each "
            "and two permutations or more"
        )
    x, y = torch.from_numpy(one), torch.from_numpy(other)
    true = _mutual_information(x, y)
    orders = uniform((permutations, len(y)), seed).argsort(1)  # one draw: each row is an order
    null = torch.stack([_mutual_information(x, y[order]) for order in orders])
    spread, above = float(null.std()), float(true - null.mean())
    return LabelAgreement(
        value=float(adjusted_mutual_info_score(one, other)), n=len(one), seed=seed,
        z_score=above / spread if spread > 1e-12 else 0.0,
        p_value=(1 + int((null >= true - 1e-12).sum())) / (1 + permutations),
    )  # fmt: skip


def _mutual_information(x: Tensor, y: Tensor) -> Tensor:
    """In nats, of two (n,) integer labellings, up to the entropies, which no order changes."""
    shared = torch.bincount(x * (int(y.max()) + 1) + y).double() / len(x)
    own = [torch.bincount(v).double() / len(v) for v in (x, y)]
    return sum(torch.special.entr(p).sum() for p in own) - torch.special.entr(shared).sum()


@dataclass(frozen=True, eq=False)
class Lobes:
    """Features that fire together, against features that lie together.

    Attributes
    ----------
    features : Tensor
        (m',) which features: those that fire in some blocks but not in all.
    labels, places : Tensor
        (m',) lobe by firing, and cluster by direction, of each.
    geometry : LabelAgreement
        Of these two.
    prediction : LabelAgreement
        Of the lobes and what a logistic regression on the directions says of held-out features.
    accuracy : float
        Mean over lobes of the share of their features that it names right; 1 / lobes by chance.
    """

    features: Tensor = field(repr=False)
    labels: Tensor = field(repr=False)
    places: Tensor = field(repr=False)
    geometry: LabelAgreement
    prediction: LabelAgreement
    accuracy: float


def lobes(
    decoder: Any, table: Cooccurrence, n_lobes: int = 3, *, kind: str = "phi",
    permutations: int = 200, random_state: int = 0, memory: int | float | str | None = None,
) -> Lobes:  # fmt: skip
    """Do features that fire together lie in one part of space?

    Parameters
    ----------
    decoder : array-like
        (m, d), the direction of each feature.
    table : Cooccurrence
        Of the same features.
    n_lobes : int
        How many, of each clustering; at least two.
    kind : str
        Coefficient of likeness, see :data:`AFFINITIES`. Negative phi counts as none (the authors
        add one to all instead).
    permutations, random_state : int
        Of the nulls, and of everything random.
    memory : int, float or str, optional
        Budget; about a hundred bytes for each pair of features.

    Raises
    ------
    InputError
        A direction of zeros, too few usable features, shapes that do not fit.
    MemoryBudgetError
        Too many pairs: give fewer features.

    Notes
    -----
    Trust the z-scores more than the lobes: spectral clustering names ``n_lobes`` parts whether or
    not there are any, and its null is only that they have nothing to do with place.
    """
    directions = as_points(decoder, name="decoder")
    if len(directions) != len(table.counts):
        raise InputError(f"{len(directions)} directions for {len(table.counts)} features")
    features = table.usable.nonzero()[:, 0]
    if n_lobes < 2 or len(features) < FOLDS * n_lobes:
        raise InputError(
            f"{len(features)} features fire in some blocks and not in all: too few for "
            f"n_lobes={n_lobes}, at least 2 lobes and {FOLDS} features each are needed"
        )
    plan("lobes", rows=1, bytes_per_row=PAIR_BYTES * len(features) ** 2, memory=memory)
    unit = unit_rows(directions, name="decoder")[features.to(directions.device)].double()
    labels = spectral_labels(table.affinity(kind).clamp_min(0), n_lobes, random_state=random_state)
    smallest = int(torch.bincount(labels).min())
    if smallest < FOLDS:
        raise InputError(
            f"n_lobes={n_lobes}: one would hold {smallest} features, too few to say where it "
            "lies; ask for fewer lobes"
        )
    places = spectral_labels((unit @ unit.T).clamp_min(0), n_lobes, random_state=random_state)
    model = LogisticRegression(class_weight="balanced", max_iter=1000)
    folds = StratifiedKFold(FOLDS, shuffle=True, random_state=random_state)
    said = cross_val_predict(model, unit.numpy(force=True), labels.numpy(), cv=folds)
    right = torch.from_numpy(said) == labels
    shares = [right[labels == lobe].double().mean() for lobe in labels.unique()]
    options = {"permutations": permutations, "seed": random_state}
    return Lobes(
        features, labels, places, label_agreement(labels, places, **options),
        label_agreement(labels, said, **options), float(torch.stack(shares).mean()),
    )  # fmt: skip
