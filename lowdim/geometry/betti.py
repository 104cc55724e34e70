"""Betti numbers of a point cloud: pieces, loops and voids that last (Guss and Salakhutdinov 2018).

Balls grow around the points; persistent homology (Vietoris-Rips, by ripser) records at which
radius each piece, loop or void appears and goes. Features of the shape last long, those of the
sampling die soon: in each dimension the bars are sorted by the logarithm of death over birth and
cut at the widest gap, where that gap is wide enough to be one. Several spread-out subsamples vote.
Cost: ripser on ``size`` points a subsample, growing steeply with ``max_dim``.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from lowdim.core.estimate import Estimate
from lowdim.core.points import as_points
from lowdim.core.random import integers, permutation
from lowdim.errors import InputError, require
from lowdim.geometry.magnitude import distances
from lowdim.registry import method, points

LONG = (3.0, 2.0, 1.3, 1.3)
"""Death over birth that a bar of each dimension needs: above what the sampling of a disc, a ball or
a torus gave (1.9 for pieces, 1.7 for loops, 1.1 for voids) and below what their features gave."""


@dataclass(frozen=True, kw_only=True)
class Betti(Estimate):
    """Betti numbers; ``value`` is their sum, ``n`` the points that they were read off.

    Attributes
    ----------
    numbers : tuple of int
        Pieces, loops, voids, ...: what most subsamples say.
    agreement : float
        Share of the subsamples that say exactly this.
    size : int
        Points in a subsample.
    """

    numbers: tuple[int, ...]
    agreement: float
    size: int


@method(
    "geometry/betti",
    needs=points(distinct=True),
    paper="Guss and Salakhutdinov 2018; Bauer 2021",
    arxiv="1802.04443",
    cost="ripser on 5 subsamples of 200 points",
    oracle="ripser",
    invariant=("rotation", "translation", "scale"),
    deep=True,
)
def betti(
    x: Any, *, max_dim: int = 1, size: int = 200, subsamples: int = 5, seed: int = 0
) -> Betti:
    """Of how many pieces is the cloud, and how many loops or voids does it hold?

    Parameters
    ----------
    x : array-like
        (n, d) points.
    max_dim : int
        Highest dimension: 0 pieces, 1 loops, 2 voids (slow: use 100 to 150 points).
    size : int
        Points in a subsample: each the farthest from those before, from half of the points drawn
        at random, so that the shape is covered evenly.
    subsamples : int
        How many vote.
    seed : int
        Draws them.

    Raises
    ------
    MissingExtraError
        Without ripser.
    InputError
        Fewer than four points, or a setting out of range.

    Notes
    -----
    Trust it where ``agreement`` is above 0.8 and the shape is clean and of low dimension: noise
    fills loops, and a few far points are pieces of their own. Bars count as long by a rule of ours
    (death well above birth, and beyond the widest gap); the diagrams themselves are ripser's.
    """
    x = as_points(x, min_rows=4).double()
    if not (0 <= max_dim <= 3 and size >= 4 and subsamples >= 1):
        raise InputError(
            f"max_dim={max_dim}, size={size}, subsamples={subsamples}: max_dim lies between 0 and "
            "3, size is at least 4, and there is at least one subsample"
        )
    ripser = require("ripser", "topology").ripser
    votes: Counter[tuple[int, ...]] = Counter()
    half = max(4, len(x) // 2)
    for stream in range(subsamples):
        drawn = x[permutation(len(x), seed, stream).to(x.device)[:half]]
        table = distances(*2 * (spread_out(drawn, size),)).numpy(force=True)
        np.fill_diagonal(table, 0.0)
        table = (table + table.T) / 2
        diagrams = ripser(table, maxdim=max_dim, distance_matrix=True)["dgms"]
        nearest = (table + np.diag(np.full(len(table), np.inf))).min(1)
        votes[
            tuple(
                long_bars(bars, float(nearest.max()), longer)
                for bars, longer in zip(diagrams, LONG, strict=False)
            )
        ] += 1
    numbers, count = votes.most_common(1)[0]
    return Betti(
        value=float(sum(numbers)), n=len(x), exact=False, seed=seed, numbers=numbers,
        agreement=count / subsamples, size=min(size, half),
    )  # fmt: skip


def betti_by_label(x: Any, labels: Any, **options: Any) -> dict[Any, Betti]:
    """What are the Betti numbers of each class? Options are those of :func:`betti`."""
    x, labels = as_points(x), np.asarray(labels)
    if labels.shape != (len(x),):
        raise InputError(f"x has {len(x)} rows and labels have shape {labels.shape}: one a row")
    return {
        label: betti(x[torch.from_numpy(labels == label)], **options)
        for label in np.unique(labels).tolist()
    }


def spread_out(x: Tensor, size: int) -> Tensor:
    """Up to ``size`` rows, each the farthest from those before (Gonzalez 1985)."""
    gaps = torch.full((len(x),), torch.inf, dtype=x.dtype, device=x.device)
    rows = [0]
    for _ in range(min(size, len(x)) - 1):
        gaps = torch.minimum(gaps, torch.linalg.vector_norm(x - x[rows[-1]], dim=1))
        rows.append(int(gaps.argmax()))
    return x[rows]


def long_bars(bars: NDArray[np.float64], spacing: float, longer: float) -> int:
    """How many bars of a diagram outlast the sampling?

    Parameters
    ----------
    bars : array
        (m, 2) birth and death.
    spacing : float
        The largest distance of a point to its nearest: pieces are all born at 0, and count from
        here.
    longer : float
        Death over birth that a bar needs.
    """
    endless = int(np.isinf(bars[:, 1]).sum())
    finite = bars[np.isfinite(bars[:, 1])]
    birth = np.maximum(finite[:, 0], spacing)
    lives = np.sort(np.log(np.maximum(finite[:, 1] / birth, 1.0)))[::-1]
    lives = np.append(lives, 0.0)  # what is at its birth already dead
    steps = lives[:-1] - lives[1:]
    steps[lives[:-1] < np.log(longer)] = 0.0  # only below a bar that is long may the cut be
    if not len(steps) or steps.max() == 0:
        return endless
    return endless + int(steps.argmax()) + 1


def planted_shapes(n: int, pieces: int, rings: bool, *, seed: int = 0) -> tuple[Tensor, Tensor]:
    """(n, 2) points and labels: class 1 is ``pieces`` discs or rings, class 0 what is around them.

    The Betti numbers of class 1 are (pieces, 0) for discs and (pieces, pieces) for rings.
    """
    generator = torch.Generator().manual_seed(seed)
    side = int(np.ceil(np.sqrt(pieces)))
    x = torch.rand(n, 2, generator=generator, dtype=torch.float64) * side
    cell = x.floor()
    radius = torch.linalg.vector_norm(x - cell - 0.5, dim=1)
    inside = (radius < 0.35) & (cell[:, 0] * side + cell[:, 1] < pieces)
    return x / side, (inside & ((radius > 0.18) | (not rings))).long()


def topological_capacity(
    widths: tuple[int, ...] = (2, 4, 8, 16),
    pieces: tuple[int, ...] = (1, 2, 4),
    *,
    depth: int = 2,
    rings: bool = False,
    runs: int = 5,
    n: int = 500,
    steps: int = 500,
    error: float = 0.02,
    seed: int = 0,
) -> Tensor:
    """How wide must a network be to tell a class of so many pieces from what is around it?

    Parameters
    ----------
    widths : tuple of int
        Hidden units of each of ``depth`` tanh layers.
    pieces : tuple of int
        Number of discs or rings of one class.
    runs : int
        Networks trained for each pair, each on a sample of its own.
    n, steps : int
        Points, all in one batch, and Adam steps at 0.02.
    error : float
        Largest share of training points misclassified that counts as learned.

    Returns
    -------
    Tensor
        (len(widths), len(pieces)) share of the networks that learned.

    Notes
    -----
    It says what training reaches in so many steps, not what a network could express.
    """
    learned = torch.zeros(len(widths), len(pieces), dtype=torch.float64)
    for i, width in enumerate(widths):
        for j, count in enumerate(pieces):
            for run in range(runs):
                draw = int(integers(1, 2**31, seed, (i * len(pieces) + j) * runs + run))
                x, y = planted_shapes(n, count, rings, seed=draw)
                wrong = _train(2 * x - 1, y, width, depth, steps, draw)
                learned[i, j] += (wrong <= error) / runs
    return learned


def _train(x: Tensor, y: Tensor, width: int, depth: int, steps: int, seed: int) -> float:
    """Share of the points that a freshly trained network misclassifies."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        sizes = [x.shape[1], *[width] * depth]
        layers: list[torch.nn.Module] = []
        for fan_in, fan_out in pairwise(sizes):
            layers += [torch.nn.Linear(fan_in, fan_out), torch.nn.Tanh()]
        net = torch.nn.Sequential(*layers, torch.nn.Linear(sizes[-1], 2)).to(x)
    optimizer = torch.optim.Adam(net.parameters(), lr=0.02)
    for _ in range(steps):
        optimizer.zero_grad()
        torch.nn.functional.cross_entropy(net(x), y).backward()
        optimizer.step()
    with torch.no_grad():
        return float((net(x).argmax(1) != y).double().mean())
