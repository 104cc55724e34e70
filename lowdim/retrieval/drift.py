"""Do these vectors come from the model that a codec was fitted to?

Two texts of one model differ in where they lie, but spread along much the same directions; another
model of as many columns spreads along directions that have nothing to do with them. Half of the
directions of the training vectors are kept, those of the largest spread, and a new block is asked
how much of its own spread they hold, between chance and what they hold of training vectors that
they were not chosen on.
"""

from __future__ import annotations

import warnings
from dataclasses import dataclass

import torch
from torch import Tensor

from lowdim.core.spectrum import Spectrum
from lowdim.errors import DriftWarning

ROWS = 4096
"""Rows that directions are found from, and as many that say what they hold."""

BLOCK = 1024
"""Rows of a block that are looked at."""

FEWEST = 64
"""Rows below which nothing is said."""

TELLING = 0.1
"""Share above chance below which the training vectors spread too evenly to tell models apart."""

RETAINED = 0.15
"""Least part of the training vectors' share above chance that another text of the model keeps.

Between the least that other kinds of text keep (code, asked about novels) and the most that vectors
of other models do, or the same ones turned: ``python -m benchmarks.index_drift``. A model's own
fine-tune keeps nearly all of it, and is not told apart.
"""

ROUNDING = 1e-9
"""Of the vectors' energy, what the mean of equal float32 vectors is off by, and more."""


@dataclass(frozen=True, eq=False)
class Fingerprint:
    """What the vectors of a model have in common.

    Attributes
    ----------
    basis : Tensor
        (d, r) float16 directions of the largest spread, r = d / 2 or what there are.
    share : float
        Of the spread of training vectors, the part along them.
    """

    basis: Tensor
    share: float

    @classmethod
    def of(cls, x: Tensor) -> Fingerprint | None:
        """That of (n, d) placed vectors; None for few, or where all directions are used alike.

        Costs a d x d spectrum of at most 4,096 rows: 0.1 s for d = 384.
        """
        if len(x) < 2 * FEWEST or x.shape[1] < 2:
            return None
        pairs = x[_spread(len(x) // 2 * 2, 2 * ROWS)].unflatten(0, (-1, 2))
        chosen, others = pairs.unbind(1)
        spectrum = Spectrum.of_points(chosen, vectors=True)
        if spectrum.vectors is None:
            return None
        rank = min(x.shape[1] // 2, len(chosen) - 1)
        basis = spectrum.vectors[:, :rank].half()
        share = held(others, basis)
        telling = share is not None and share - rank / x.shape[1] >= TELLING
        return cls(basis, share) if telling and share is not None else None

    @property
    def chance(self) -> float:
        """What as many random directions hold."""
        return self.basis.shape[1] / self.basis.shape[0]

    def retained(self, x: Tensor) -> float | None:
        """1 for vectors like those of the training, about 0 for another model's; None if few."""
        share = None if len(x) < FEWEST else held(x[_spread(len(x), BLOCK)], self.basis)
        return None if share is None else (share - self.chance) / (self.share - self.chance)

    def check(self, x: Tensor) -> None:
        """Warn where (n, d) placed vectors are not like those of the training."""
        retained = self.retained(x)
        if retained is None or retained >= RETAINED:
            return
        share = self.chance + retained * (self.share - self.chance)
        warnings.warn(
            f"x holds {share:.0%} of its spread in the directions that hold {self.share:.0%} of "
            f"the training vectors' ({self.chance:.0%} is chance): is it of another model, or are "
            "its columns in another order?",
            DriftWarning,
            stacklevel=3,
        )


def held(x: Tensor, basis: Tensor) -> float | None:
    """The part of the spread of (n, d) vectors about their mean along a basis; None without any."""
    moved = x - x.mean(0)
    total = float(moved.square().sum())
    if total <= ROUNDING * float(x.square().sum()):
        return None
    return float((moved @ basis.to(x)).square().sum()) / total


def _spread(n: int, size: int) -> Tensor:
    """``size`` of n row numbers, evenly, or all."""
    return torch.arange(n) if n <= size else torch.arange(size) * n // size
