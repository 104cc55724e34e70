"""The Vendi scores: an effective number of different items (Friedman and Dieng 2023).

With K a similarity of n items, K_ii = 1, the score of order q is the Hill number of the eigenvalues
of K / n. For cosine similarity K / n = Z Z^T / n with unit rows Z, whose non-zero eigenvalues are
those of the second moment Z^T Z / n: no n x n matrix is formed, and the score of order 2 is
the participation ratio of that moment.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from lowdim.core.estimate import Estimate
from lowdim.core.points import as_points
from lowdim.core.spectrum import Spectrum
from lowdim.errors import InputError
from lowdim.registry import kernel, method, spectrum


@method(
    "diversity/vendi",
    needs=spectrum(center=False, unit=True),
    paper="Friedman and Dieng 2023; Pasarkar and Dieng 2023",
    arxiv="2210.02410",
    cost="O(d)",
    oracle="vendi_score.vendi",
    invariant=("permutation", "rotation", "scale", "row-scale"),
)
def vendi(spectrum: Spectrum, *, q: float = 1.0) -> Estimate:
    """How many different items is the set worth, by cosine similarity?

    n orthogonal rows count n, copies count once, two unrelated halves add up.

    Parameters
    ----------
    spectrum : Spectrum
        Second moment of unit rows about the origin.
    q : float
        Order in [0, inf]: 0 counts every direction, 1 is the published score, 2 the participation
        ratio, inf looks at the largest mode only. Small q hears rare items, large q copies.

    Notes
    -----
    Trust it for comparing sets of the same n in the same embedding. It cannot exceed min(n, d) and
    depends on the offset: embeddings that share a mean direction read low however varied they are.
    """
    return Estimate(value=spectrum.effective_rank(q), n=spectrum.shape[0], exact=spectrum.exact)


def vendi_profile(spectrum: Spectrum, orders: Sequence[float] = (0, 0.5, 1, 2, math.inf)) -> Tensor:
    """How does the number of different items fall as copies are given more weight?

    Parameters
    ----------
    spectrum : Spectrum
        Second moment of unit rows about the origin.
    orders : sequence of float
        In [0, inf].

    Returns
    -------
    Tensor
        (len(orders),) float64 Hill numbers, falling as the order rises: flat where all items are
        equally frequent, steep where a few make up most of the set.
    """
    return torch.tensor([spectrum.effective_rank(q) for q in orders], dtype=torch.float64)


@method(
    "diversity/vendi-of-kernel",
    needs=kernel(),
    paper="Friedman and Dieng 2023; Pasarkar and Dieng 2023",
    arxiv="2210.02410",
    cost="O(n^3), O(n^2) for q = 2",
    oracle="vendi_score.vendi",
)
def vendi_of_kernel(kernel: Any, *, q: float = 1.0) -> Estimate:
    """How many different items is the set worth, by a matrix of similarities?

    Parameters
    ----------
    kernel : array-like
        (n, n) symmetric positive semi-definite, ones on the diagonal.
    q : float
        Order in [0, inf]; q = 2 costs O(n^2), every other an O(n^3) decomposition.

    Raises
    ------
    InputError
        Not square, not symmetric, a diagonal other than one, or a negative eigenvalue.

    Notes
    -----
    Trust it as far as the similarity: it decides what counts as different. For more rows than an
    n x n matrix allows, :func:`~lowdim.diversity.vendi_of_points` takes the similarity as a
    function.
    """
    k = as_points(kernel, name="kernel").double()
    n = len(k)
    if k.shape != (n, n):
        raise InputError(f"kernel has shape {tuple(k.shape)}: give (n, n) similarities")
    # similarities that were computed in float32 differ by about 1e-6 across the diagonal
    gap, diagonal = float((k - k.T).abs().max()), (k.diagonal() - 1).abs()
    if gap > 1e-5:
        raise InputError(f"kernel is not symmetric: mirrored entries differ by up to {gap:.2g}")
    if float(diagonal.max()) > 1e-5:
        i = int(diagonal.argmax())
        raise InputError(
            f"kernel has {float(k[i, i]):.6g} at ({i}, {i}): scale it so that its diagonal is one"
        )
    if q == 2:
        return Estimate(value=float(n * n / k.square().sum()), n=n)
    values = torch.linalg.eigvalsh((k + k.T) / 2).flip(0) / n
    if float(values[-1]) < -1e-6:
        raise InputError(
            f"kernel has the negative eigenvalue {float(values[-1]) * n:.3g}: it is not positive "
            "semi-definite, so no similarity between points, and has no Vendi score"
        )
    noise = values[0] * n * torch.finfo(values.dtype).eps
    values = torch.where(values > noise, values, 0.0)
    spectrum = Spectrum(values=values, total=float(values.sum()), shape=(n, n))
    return Estimate(value=spectrum.effective_rank(q), n=n)
