"""What makes `Strata` and `Subspace`: dictionaries, mixtures, subspace clustering, reductions."""

from lowdim.structure.base import PieceFinder
from lowdim.structure.ranks import bic_rank

__all__ = ["PieceFinder", "bic_rank"]
