"""How many directions does a weight matrix use? Five read-outs of one spectrum.

All count directions by how the energy (squared singular values) is spread over them, and all are
between 1 and min(shape). They differ in what they let a few strong directions hide: stable rank
looks at the strongest alone, entropy rank and effective rank weigh every direction, rank-90 and
rank-99 answer what a truncation needs. Cost: one pass over the values.

Rudelson & Vershynin 2007 (stable rank); Hill 1973 (numbers of order q); Roy & Vetterli 2007.
"""

from __future__ import annotations

import torch

from lowdim.core.estimate import Estimate
from lowdim.core.spectrum import Spectrum
from lowdim.registry import matrix, method

INVARIANT = ("permutation", "rotation", "scale")


def _read(spectrum: Spectrum, value: float) -> Estimate:
    return Estimate(value=value, n=min(spectrum.shape), exact=spectrum.exact)


@method(
    "spectra/stable-rank",
    needs=matrix(),
    paper="Rudelson & Vershynin 2007",
    arxiv="math/0503442",
    cost="O(1)",
    invariant=INVARIANT,
)
def stable_rank(spectrum: Spectrum) -> Estimate:
    """How many directions as strong as the strongest would carry this energy?

    ``||W||_F^2 / ||W||_2^2``: never above the rank, and hardly moved by small singular values. It
    needs only the largest value and the total, so a truncated spectrum will do.

    Parameters
    ----------
    spectrum : Spectrum
        Squared singular values of the matrix.

    Returns
    -------
    Estimate
        Between 1 and min(shape).

    Raises
    ------
    InputError
        The matrix is all zeros.
    """
    return _read(spectrum, spectrum.stable_rank())


@method(
    "spectra/entropy-rank",
    needs=matrix(),
    paper="Hill 1973",
    cost="O(r)",
    invariant=INVARIANT,
)
def entropy_rank(spectrum: Spectrum) -> Estimate:
    """How many directions share the energy, by the entropy of the shares?

    ``exp(-sum p log p)`` with ``p = sigma^2 / sum sigma^2``: the Hill number of order 1.

    Parameters
    ----------
    spectrum : Spectrum
        All squared singular values of the matrix.

    Returns
    -------
    Estimate
        Between the stable rank and the rank.

    Raises
    ------
    InputError
        The matrix is all zeros, or the spectrum is truncated.
    """
    return _read(spectrum, spectrum.effective_rank(1))


@method(
    "spectra/effective-rank",
    needs=matrix(),
    paper="Roy & Vetterli 2007",
    cost="O(r)",
    invariant=INVARIANT,
)
def effective_rank(spectrum: Spectrum) -> Estimate:
    """How many directions share the singular values, by the entropy of the shares?

    ``exp(-sum p log p)`` with ``p = sigma / sum sigma``: singular values, not energies, so weak
    directions count for more than in the entropy rank, which it never falls below.

    Parameters
    ----------
    spectrum : Spectrum
        All squared singular values of the matrix.

    Returns
    -------
    Estimate
        Between the entropy rank and the rank.

    Raises
    ------
    InputError
        The matrix is all zeros, or the spectrum is truncated.
    """
    sigma = spectrum.probabilities().sqrt()
    return _read(spectrum, float(torch.special.entr(sigma / sigma.sum()).sum().exp()))


@method(
    "spectra/rank-90",
    needs=matrix(),
    paper="Eckart & Young 1936",
    cost="O(r)",
    invariant=INVARIANT,
)
def rank_90(spectrum: Spectrum) -> Estimate:
    """How few directions hold 90% of the energy?

    The smallest rank at which the best low-rank copy leaves a relative error of at most
    ``sqrt(0.1)`` in Frobenius norm.

    Parameters
    ----------
    spectrum : Spectrum
        Squared singular values of the matrix, as many as hold the share.

    Returns
    -------
    Estimate
        An integer from 1 to min(shape).

    Raises
    ------
    InputError
        The matrix is all zeros, or the computed values hold less than the share.
    """
    return _read(spectrum, spectrum.rank_at(0.90))


@method(
    "spectra/rank-99",
    needs=matrix(),
    paper="Eckart & Young 1936",
    cost="O(r)",
    invariant=INVARIANT,
)
def rank_99(spectrum: Spectrum) -> Estimate:
    """How few directions hold 99% of the energy?

    The smallest rank at which the best low-rank copy leaves a relative error of at most 10% in
    Frobenius norm.

    Parameters
    ----------
    spectrum : Spectrum
        Squared singular values of the matrix, as many as hold the share.

    Returns
    -------
    Estimate
        An integer from 1 to min(shape).

    Raises
    ------
    InputError
        The matrix is all zeros, or the computed values hold less than the share.
    """
    return _read(spectrum, spectrum.rank_at(0.99))
