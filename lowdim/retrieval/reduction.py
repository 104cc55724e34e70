"""What reduces: a function from what is known of the vectors to a `Map` of so many coordinates."""

from __future__ import annotations

import difflib
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from lowdim.core.spectrum import Spectrum
from lowdim.errors import InputError
from lowdim.registry import method, methods, vectors
from lowdim.retrieval.map import Map


@dataclass(frozen=True, eq=False)
class Training:
    """What a map is fitted to.

    Attributes
    ----------
    x : Tensor
        (n, d) float32 vectors as they are compared: for cosine of length one.
    metric : str
        cosine, dot or euclidean.
    queries : Tensor or None
        (m, d) placed queries of the kind that will be asked, none of those that judge.
    labels : Tensor or None
        (n,) int64 class of each vector.
    seed : int
        Of all that is drawn.
    """

    x: Tensor
    metric: str = "cosine"
    queries: Tensor | None = None
    labels: Tensor | None = None
    seed: int = 0

    @property
    def dim(self) -> int:
        """d, columns of the vectors."""
        return self.x.shape[1]


Fit = Callable[[Training, int], Map]


@method(
    "retrieval/none",
    needs=vectors(),
    paper="none: the vectors themselves",
    cost="none",
    invariant=(),
)
def none(training: Training, dims: int) -> Map:
    """What does a code cost without any reduction?"""
    if dims != training.dim:
        raise InputError(f"reduction none keeps all {training.dim} columns, not dims={dims}")
    mean = training.x.double().mean(0).float()  # no distance changes, and none cancels
    return Map(None, mean if training.metric == "euclidean" else torch.zeros_like(mean))


@method(
    "retrieval/pca",
    needs=vectors(),
    paper="Pearson 1901",
    cost="O(n d^2) to fit, O(d m) a vector",
    oracle="sklearn.decomposition.PCA",
    invariant=("permutation",),
)
def pca(training: Training, dims: int) -> Map:
    """Which m directions hold the most of the vectors?

    Notes
    -----
    The best m directions for the mean squared error of the vectors, not for their order: compare.
    Trust it where the spectrum falls; coordinates come in order of energy, so a prefix of them is
    the map of fewer dims.
    """
    _, directions, mean = principal(training, dims)
    basis = directions.float()
    return Map(basis, mean.float(), basis.T.contiguous())


def principal(training: Training, dims: int) -> tuple[Tensor, Tensor, Tensor]:
    """(m,) variances along, and (d, m) directions of, the principal axes; (d,) mean. In float64."""
    check_dims(dims, min(len(training.x), training.dim))
    spectrum = Spectrum.of_points(training.x, vectors=True)
    if spectrum.vectors is None or spectrum.mean is None:
        raise InputError("the spectrum of the vectors has no directions")
    return spectrum.values[:dims], spectrum.vectors[:, :dims], spectrum.mean


def reductions() -> Mapping[str, Fit]:
    """Every registered reduction, by name."""
    return {m.name: m.function for m in methods("retrieval") if m.needs == (vectors(),)}


def find_reduction(name: str) -> Fit:
    """The reduction of this name."""
    known = reductions()
    if name not in known:
        close = difflib.get_close_matches(name, known, n=2)
        hint = f"did you mean {' or '.join(close)}? " if close else ""
        raise InputError(f"no reduction {name!r}: {hint}there are {', '.join(known)}")
    return known[name]


def check_dims(dims: int, most: int) -> None:
    """Raise where so many coordinates can't be kept."""
    if isinstance(dims, bool) or not isinstance(dims, int) or not 1 <= dims <= most:
        raise InputError(f"dims={dims!r}: give an integer from 1 to {most}")
