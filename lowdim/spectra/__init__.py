"""Weights read through their singular values: ranks, noise bulk and outliers, tail exponent.

Importing the room registers its methods.
"""

from lowdim.spectra.init_distance import InitDistance, init_distance
from lowdim.spectra.marchenko_pastur import (
    MarchenkoPastur,
    marchenko_pastur,
    mp_cdf,
    mp_density,
    mp_median,
)
from lowdim.spectra.ranks import effective_rank, entropy_rank, rank_90, rank_99, stable_rank
from lowdim.spectra.tail_exponent import TailFit, tail_exponent

__all__ = [
    "InitDistance",
    "MarchenkoPastur",
    "TailFit",
    "effective_rank",
    "entropy_rank",
    "init_distance",
    "marchenko_pastur",
    "mp_cdf",
    "mp_density",
    "mp_median",
    "rank_90",
    "rank_99",
    "stable_rank",
    "tail_exponent",
]
