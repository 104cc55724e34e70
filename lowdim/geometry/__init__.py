"""A number from points: dimension, isotropy, hubs and copies."""

from lowdim.geometry.hubness import hubness
from lowdim.geometry.label_dimension import dimension_by_label
from lowdim.geometry.linear import (
    anisotropy,
    early_enrichment,
    isoscore,
    participation_ratio,
    rank_90,
    rank_99,
)
from lowdim.geometry.mle import mle
from lowdim.geometry.near_duplicates import near_duplicates
from lowdim.geometry.outlier_dimensions import outlier_dimensions
from lowdim.geometry.two_nn import two_nn
from lowdim.geometry.unbiased_participation import unbiased_participation
from lowdim.geometry.uniformity import mean_cosine, uniformity, uniformity_of
from lowdim.geometry.vasicek_ratio import vasicek_ratio

__all__ = [
    "anisotropy",
    "dimension_by_label",
    "early_enrichment",
    "hubness",
    "isoscore",
    "mean_cosine",
    "mle",
    "near_duplicates",
    "outlier_dimensions",
    "participation_ratio",
    "rank_90",
    "rank_99",
    "two_nn",
    "unbiased_participation",
    "uniformity",
    "uniformity_of",
    "vasicek_ratio",
]
