"""What a short description of a model says of its error on new data.

A model that training picks from a finite class, fixed before the data is seen, cannot look much
better on n training items than it is: of 2^b models, by sqrt((b ln 2 + ln(1 / delta)) / (2 n)) with
probability 1 - delta. One trained in a random subspace is a seed and d numbers, so b grows with d,
however many weights it has (the point of Aghajanyan, Zettlemoyer and Gupta 2020).
"""

from __future__ import annotations

import math

from torch import Tensor

from lowdim.adapt.method import check_size
from lowdim.errors import InputError


def generalization_bound(
    dim: int, n: int, *, bits: int = 32, delta: float = 0.05, choices: int = 1
) -> float:
    """How far can the error of a model of d numbers lie above its error on the training data?

    With probability at least 1 - delta over the draw of the training data, for all models that the
    numbers can describe at once (so for the trained one): Hoeffding's inequality and a union bound
    over 2^(d bits) models,

        error <= training error + sqrt((d bits ln 2 + ln(choices / delta)) / (2 n)).

    Parameters
    ----------
    dim : int
        d, trained numbers, scales included.
    n : int
        Training items, drawn independently.
    bits : int
        A number is stored in: 32, or fewer after :func:`quantized`, whose one scale is counted too.
    delta : float
        Chance that it fails.
    choices : int
        How many subspaces (dimensions, seeds) the model was picked from after a look at the data.

    Returns
    -------
    float
        Of any loss in [0, 1], such as the share of wrong answers; above 1 it says nothing.

    Raises
    ------
    InputError
        Options out of range.

    Notes
    -----
    It holds for the model with the numbers as they are stored, and only if nothing else depends on
    the training data: not the base, the seed, or statistics of batch norms. It is the plain bound
    for a finite class, not that of Aghajanyan et al., of the same order sqrt(d / n). At 32 bits it
    needs more than 11 items for each number to say anything.
    """
    for name, value in (("dim", dim), ("n", n), ("bits", bits), ("choices", choices)):
        check_size(name, value)
    if not 0 < delta < 1 or bits > 32:
        raise InputError(f"delta={delta}, bits={bits}: delta lies between 0 and 1, bits up to 32")
    length = dim * bits + (32 if bits < 32 else 0)
    return math.sqrt((length * math.log(2) + math.log(choices / delta)) / (2 * n))


def quantized(z: Tensor, bits: int) -> Tensor:
    """What is left of numbers that are stored in few bits each, with one float32 scale for all?

    Rounded to the nearest of 2^bits - 1 even steps from -max |z| to max |z|; bits from 2 to 31.
    """
    if not 2 <= bits <= 31:
        raise InputError(f"bits={bits}: give 2 to 31")
    steps = 2 ** (bits - 1) - 1
    scale = z.detach().abs().max()
    if not bool(scale.isfinite()):
        raise InputError("the numbers are not finite: the training diverged")
    return z.detach() if scale == 0 else (z.detach() / scale * steps).round() / steps * scale
