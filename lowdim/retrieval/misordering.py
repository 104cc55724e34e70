"""How likely is a random projection to turn two rows round, by their ranking margin alone?

Let u and v be a query q and the difference d+ - d- of two rows at length one, so that <u, v> is the
margin mu. Since 4 <Au, Av> is |A(u + v)|^2 - |A(u - v)|^2, their order is kept where both squares
are within 1 +- mu of what they were, and the tails of random projections give the lemma of Luan,
Eisenstein, Toutanova and Collins 2021 (arXiv 2005.00181): k dimensions turn the pair round with a
chance of at most 4 exp(-(k/2)(mu^2/2 - mu^3/3)), for Gaussian entries and for signs.

For Gaussian entries the chance has a closed form, which is ours: A(u + v) and A(u - v) are
independent normals with variances in the ratio 1 + mu to 1 - mu, so it is that of an F(k, k)
variable to lie below (1 - mu)/(1 + mu), the incomplete beta function I_{(1 - mu)/2}(k/2, k/2).
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import torch
from scipy.special import betainc
from torch import Tensor

from lowdim.errors import InputError

LARGEST = 2**30
"""Dimensions beyond which none are named."""


def misordering(margin: Any, dims: int) -> Tensor:
    """How likely does a Gaussian projection to so many dimensions turn pairs round?

    I_{(1 - mu)/2}(k/2, k/2) of each margin mu in [-1, 1], exact: of one dimension the angle over
    pi.
    """
    mu = _checked(margin, dims)
    return torch.from_numpy(np.asarray(betainc(dims / 2, dims / 2, (1 - mu.numpy()) / 2)))


def misordering_bound(margin: Any, dims: int) -> Tensor:
    """At most how likely, by the lemma of Luan et al.? 1 where it says nothing.

    Holds for entries of +-1 as well. Its 4 is a union of four tails, of which two suffice.
    """
    mu = _checked(margin, dims).clamp_min(0)
    return (4 * torch.exp(-dims / 2 * _rate(mu))).clamp_max(1)


def dimension_for(margin: float, error: float = 0.01) -> int:
    """How many dimensions does the lemma ask for, to keep a pair in order but for this chance?

    The least k with 4 exp(-(k/2)(mu^2/2 - mu^3/3)) <= error.

    Parameters
    ----------
    margin : float
        In (0, 1].
    error : float
        In (0, 1).

    Raises
    ------
    InputError
        A margin of zero or less: no projection keeps an order that is not there.
    """
    _check_positive(margin, error)
    return math.ceil(2 * math.log(4 / error) / _rate(margin))


def gaussian_dimension_for(margin: float, error: float = 0.01) -> int | None:
    """How many dimensions does a Gaussian projection take? The least with ``misordering <= error``.

    Arguments as for :func:`dimension_for`; none where it takes more than 2^30.
    """
    _check_positive(margin, error)
    low, high = 0, 1
    while float(misordering(margin, high)) > error:
        low, high = high, 2 * high
        if high > LARGEST:
            return None
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (middle, high) if float(misordering(margin, middle)) > error else (low, middle)
    return high


def _rate(mu: Any) -> Any:
    return mu**2 / 2 - mu**3 / 3


def _checked(margin: Any, dims: int) -> Tensor:
    mu = torch.as_tensor(margin, dtype=torch.float64)
    if dims < 1 or not bool((mu.abs() <= 1).all()):
        raise InputError(f"dims={dims} is 1 or more, and margins lie between -1 and 1")
    return mu


def _check_positive(margin: float, error: float) -> None:
    if not 0 < margin <= 1 or not 0 < error < 1:
        raise InputError(
            f"margin={margin}, error={error}: a margin above 0 and up to 1, an error between 0 and "
            "1: no projection keeps an order that is not there"
        )
