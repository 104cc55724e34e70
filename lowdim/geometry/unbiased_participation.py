"""The participation ratio without the bias of a small sample (moments of Himeno and Yamada 2014).

The spectrum of n rows is more spread out than that of their distribution: tr(S^2) is too large by
about tr(S)^2 / n, so n isotropic rows in d dimensions read n d / (n + d) directions instead of d.
tr(Sigma^2) and tr(Sigma)^2 have unbiased estimators, averages over four distinct rows of
((x_i - x_j) . (x_k - x_l))^2 / 4 and |x_i - x_j|^2 |x_k - x_l|^2 / 4, which need only tr(S),
tr(S^2) and the fourth powers of the distances to the mean: one pass over the rows.
"""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from lowdim.core.estimate import Estimate
from lowdim.core.memory import plan
from lowdim.core.points import as_points
from lowdim.core.spectrum import Spectrum
from lowdim.errors import InputError
from lowdim.registry import method, points, spectrum


@dataclass(frozen=True, kw_only=True)
class UnbiasedParticipation(Estimate):
    """How many directions the distribution has, not the sample.

    Attributes
    ----------
    isoscore : float
        (value - 1) / (d - 1): IsoScore without its bias.
    """

    isoscore: float


@method(
    "geometry/unbiased-participation",
    needs=(points(), spectrum(center=True)),
    paper="Himeno and Yamada 2014; Rudman et al. 2022",
    cost="O(nd)",
    invariant=("permutation", "rotation", "translation", "scale"),
)
def unbiased_participation(
    x: Tensor, spectrum: Spectrum, *, memory: int | float | str | None = None
) -> UnbiasedParticipation:
    """How many directions carry weight in the distribution that the rows were drawn from?

    Parameters
    ----------
    x : Tensor
        (n, d), n at least 4.
    spectrum : Spectrum
        Of the same points, centred.
    memory : int, float or str, optional
        Budget of the blocks of rows.

    Raises
    ------
    InputError
        Fewer than 4 rows, rows that are all equal, or so few rows that the estimated square sum
        of the variances is not above zero.

    Notes
    -----
    Trust it where n is below ten times d, which the plain ratio cannot bear: both sums are unbiased
    at every n, their ratio nearly so. It is a noisy number at n of a few dozen, may exceed
    d, and knows nothing of rows that are copies of each other.
    """
    x = as_points(x, min_rows=4)
    n, d = x.shape
    block = plan("fourth moments", rows=n, bytes_per_row=24 * d, memory=memory, largest=2**14)
    mean = spectrum.mean
    if mean is None or spectrum.total == 0:
        raise InputError("unbiased participation needs a centred spectrum of rows that differ")
    fourth = sum(
        float((rows.double() - mean).square().sum(1).square().sum()) for rows in x.split(block)
    )
    scale = n / (n - 1)  # the spectrum divides by n, these moments by n - 1
    trace, squares = spectrum.total * scale, float(spectrum.values.square().sum()) * scale**2
    rest = n * fourth / (n - 1)
    of_squares = (n - 1) * (n - 2) * squares + trace**2 - rest  # both up to one common factor
    squared = 2 * squares + (n * n - 3 * n + 1) * trace**2 - rest
    if of_squares <= 0:
        raise InputError(
            f"{n} rows in {d} dimensions are too few: their variances cannot be told from noise"
        )
    value = squared / of_squares
    isoscore = (value - 1) / (d - 1) if d > 1 else 1.0
    return UnbiasedParticipation(value=value, n=n, exact=spectrum.exact, isoscore=isoscore)
