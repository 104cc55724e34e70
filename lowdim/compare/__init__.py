"""Are two representations the same?"""

from lowdim.compare.cka import cka, cka_matrix
from lowdim.compare.disco_select import Selection, disco_select
from lowdim.compare.distance_correlation import (
    DistanceCorrelation,
    affine_distance_correlation,
    distance_correlation,
)
from lowdim.compare.information_imbalance import imbalances, information_imbalance
from lowdim.compare.neighborhood_overlap import neighborhood_overlap

__all__ = [
    "DistanceCorrelation",
    "Selection",
    "affine_distance_correlation",
    "cka",
    "cka_matrix",
    "disco_select",
    "distance_correlation",
    "imbalances",
    "information_imbalance",
    "neighborhood_overlap",
]
