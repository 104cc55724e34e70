"""Crystals: pairs of points with one and the same difference, before and after distractors go.

In a parallelogram (man, woman, king, queen) two differences are equal. Features that mean nothing
here, the length of the word say, add to every difference of their own accord and hide it. Linear
discriminant analysis of the differences (Li et al. 2024) keeps the directions in which groups of
pairs differ much beside how much pairs of one group do, and so drops such distractors.

Fitted and scored on the same pairs it would find crystals in noise, for there are fewer pairs than
dimensions: here it is fitted to one half of the pairs of each group and scored on the other.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from sklearn.covariance import ledoit_wolf_shrinkage
from torch import Tensor

from lowdim.core.estimate import Estimate
from lowdim.core.linalg import eigh_psd
from lowdim.core.memory import plan
from lowdim.core.neighbors import Neighbors
from lowdim.core.points import as_points, distinct, unit_rows
from lowdim.core.random import permutation
from lowdim.errors import InputError
from lowdim.geometry.labels import as_classes, one_hot
from lowdim.registry import labelled, method


@dataclass(frozen=True, kw_only=True)
class Parallelograms(Estimate):
    """How parallel the differences of one group are; ``value`` is within less across.

    Attributes
    ----------
    within, across : float
        Mean cosine of two differences of one group, and of two groups.
    """

    within: float
    across: float


def parallelogram_score(differences: Any, groups: Any) -> Parallelograms:
    """Do pairs of one group differ in one direction, and other groups in others?

    Parameters
    ----------
    differences : array-like
        (n, d), one point of each pair less the other.
    groups : sequence
        n labels, at least two of them, one with two pairs or more.

    Raises
    ------
    InputError
        A difference of zero, one group only, no group of two pairs.

    Notes
    -----
    O(n d): sums of unit rows hold all cosines. Trust it near 1; in d dimensions random differences
    read 0, give or take 1/sqrt(d) over the number of pairs.
    """
    x, code, _ = as_classes(differences, groups)
    hot = one_hot(code)
    sums = hot.T @ unit_rows(x, name="differences").double()  # (groups, d)
    size, n = hot.sum(0), len(x)
    same = float((size * (size - 1)).sum())
    if not same:
        raise InputError("every group has one pair only: at least one needs two")
    squares = float(sums.square().sum())
    within = (squares - n) / same
    across = (float(sums.sum(0).square().sum()) - squares) / (n * (n - 1) - same)
    return Parallelograms(value=within - across, n=n, within=within, across=across)


@dataclass(frozen=True, eq=False)
class DiscriminantModes:
    """Directions in order of signal over noise.

    Attributes
    ----------
    basis : Tensor
        (d, r) modes, with (shrunk) variance one within groups: not orthogonal to each other.
    ratios : Tensor
        (r,) variance between groups over that within, descending.
    distractors : Tensor
        (d, d) orthonormal, the directions of most spread within groups first.
    """

    basis: Tensor
    ratios: Tensor
    distractors: Tensor

    def transform(self, x: Any) -> Tensor:
        """(m, r) coordinates of points or differences along the modes."""
        return as_points(x).to(self.basis) @ self.basis  # (m, d) @ (d, r)


def lda_project(
    differences: Any, groups: Any, *, components: int | None = None
) -> DiscriminantModes:
    """In which directions do groups of differences differ, beside how each spreads in itself?

    Parameters
    ----------
    differences : array-like
        (n, d), more than there are groups.
    groups : sequence
        n labels, at least two.
    components : int, optional
        r modes; by default groups - 1, all that there are.

    Raises
    ------
    InputError
        One group only, too few differences, groups without any spread, r that does not fit.

    Notes
    -----
    Generalised eigenvectors of the scatter between groups in the scatter within, the latter shrunk
    to its mean variance by Ledoit and Wolf's share, so that it has an inverse where n < d. Costs
    two eigenproblems of order d.
    """
    x, code, names = as_classes(differences, groups)
    x, hot = x.double(), one_hot(code)
    n, d = x.shape
    g = len(names)
    r = min(g - 1, d) if components is None else components
    if n <= g or not 1 <= r <= min(g - 1, d):
        raise InputError(f"{n} differences in {g} groups have no {r} modes in {d} columns")
    means = hot.T @ x / hot.sum(0)[:, None]
    noise = x - means[code]
    within = noise.T @ noise / (n - g)
    level = float(within.trace()) / d
    if not level > 1e-24 * float(x.square().mean()):
        raise InputError("the differences of each group are equal: there is no spread to set off")
    share = ledoit_wolf_shrinkage(noise.numpy(force=True), assume_centered=True)
    values, vectors = eigh_psd(within)
    root = vectors / ((1 - share) * values + share * level).sqrt()  # whitens the noise
    signal = (means[code] - x.mean(0)) @ root
    ratios, modes = eigh_psd(signal.T @ signal / (g - 1))
    return DiscriminantModes(root @ modes[:, :r], ratios[:r], vectors)


@dataclass(frozen=True, kw_only=True)
class Crystals(Estimate):
    """Parallelogram score of held-out pairs along the discriminant modes.

    Attributes
    ----------
    before : float
        Score of the same pairs as they are.
    """

    before: float


@method(
    "structure/crystals",
    needs=labelled(),
    paper="Li et al. 2024",
    arxiv="2410.19750",
    cost="O(n d^2 + d^3)",
    invariant=("rotation", "scale"),
)
def crystals(x: Tensor, y: Any, *, components: int | None = None, seed: int = 0) -> Crystals:
    """Do groups of pairs form parallelograms once distractors are projected out?

    Parameters
    ----------
    x : Tensor
        (n, d) differences of pairs.
    y : sequence
        n labels, the group of each pair; at least two groups of four pairs.
    components : int, optional
        Modes that are kept; groups - 1 by default.
    seed : int
        Of the halves.

    Raises
    ------
    InputError
        A difference of zero, one group only, a group of fewer than four pairs.

    Notes
    -----
    Trust the rise from ``before`` to ``value`` only as one of held-out pairs, which it is: the
    modes of one half of each group are scored on the other, both ways. Random groups read 0.
    """
    x, code, names = as_classes(x, y)
    sizes = torch.bincount(code)
    if int(sizes.min()) < 4:
        few = names[int(sizes.argmin())]
        raise InputError(f"group {few} has {int(sizes.min())} pairs: two halves need four")
    order = permutation(len(x), seed, device=x.device)
    order = order[code[order].argsort(stable=True)]  # shuffled within each group
    place = torch.arange(len(x), device=x.device) - (sizes.cumsum(0) - sizes)[code[order]]
    halves = order[place % 2 == 0], order[place % 2 == 1]
    before, after = [], []
    for fit, held in (halves, halves[::-1]):
        modes = lda_project(x[fit], code[fit], components=components)
        before.append(parallelogram_score(x[held], code[held]).value)
        after.append(parallelogram_score(modes.transform(x[held]), code[held]).value)
    return Crystals(value=sum(after) / 2, n=len(x), before=sum(before) / 2, seed=seed)


@dataclass(frozen=True, eq=False)
class FoundParallelograms:
    """Four corners each, the most parallel first: corner 0 - corner 1 ~ corner 2 - corner 3.

    Attributes
    ----------
    corners : Tensor
        (p, 4) rows of the points.
    cosines : Tensor
        (p,) of the two differences.
    lengths : Tensor
        (p,) the shorter over the longer of them: 1 for a parallelogram, less for a trapezoid.
    """

    corners: Tensor
    cosines: Tensor
    lengths: Tensor


def find_parallelograms(
    x: Any, *, k: int = 4, max_pairs: int = 200_000, memory: int | float | str | None = None
) -> FoundParallelograms:
    """Which pairs of points differ in the same direction?

    Parameters
    ----------
    x : array-like
        (m, d) distinct points.
    k : int
        Differences that each one is compared with: the nearest in direction.
    max_pairs : int
        Most pairs; m of them have m (m - 1) / 2, and all are searched.
    memory : int, float or str, optional
        Budget.

    Raises
    ------
    InputError
        Duplicates, or more pairs than ``max_pairs``: give a part of the points, or the ones after
        :meth:`DiscriminantModes.transform`.

    Notes
    -----
    Two searches among the P pairs, O(P^2 d) work. Trust cosines far above those between shuffled
    columns of the same points: among so many pairs some are parallel by chance.
    """
    x = as_points(x, min_rows=4)
    m, d = x.shape
    if len(distinct(x)[0]) < m:
        raise InputError("some rows are equal: merge duplicates, lowdim.core.points.distinct(x)[0]")
    pairs = m * (m - 1) // 2
    if pairs > max_pairs:
        raise InputError(f"{m} points have {pairs:,} pairs, max_pairs={max_pairs:,}: give fewer")
    plan("find_parallelograms", rows=pairs, bytes_per_row=1, fixed=32 * pairs * d, memory=memory)
    i, j = torch.triu_indices(m, m, 1, device=x.device)
    sides = x[i] - x[j]  # (P, d)
    unit = unit_rows(sides)
    k = min(k, pairs - 1)
    near, against = (
        Neighbors.of_points(unit, k, queries=q, memory=memory).indices for q in (None, -unit)
    )
    one = torch.arange(pairs, device=x.device).repeat_interleave(k).repeat(2)
    other = torch.cat([near.reshape(-1), against.reshape(-1)])
    turned = torch.arange(len(one), device=x.device) >= pairs * k
    c, e = torch.where(turned, j[other], i[other]), torch.where(turned, i[other], j[other])
    corners = torch.stack([i[one], j[one], c, e], 1)
    cosines = (unit[one] * unit[other]).sum(1) * torch.where(turned, -1.0, 1.0)
    size = torch.linalg.vector_norm(sides, dim=1)
    lengths = torch.minimum(size[one], size[other]) / torch.maximum(size[one], size[other])

    apart = (corners[:, :2, None] != corners[:, None, 2:]).all((1, 2))
    corners, cosines, lengths = corners[apart], cosines[apart], lengths[apart]
    order = cosines.argsort(descending=True, stable=True)
    diagonals = corners[order][:, [0, 3, 1, 2]].view(-1, 2, 2).sort(2).values
    code = (diagonals[..., 0] * m + diagonals[..., 1]).sort(1).values  # the same for both readings
    first = np.unique(code.numpy(force=True), axis=0, return_index=True)[1]
    best = order[torch.from_numpy(np.sort(first)).to(order)]
    return FoundParallelograms(corners[best], cosines[best], lengths[best])
