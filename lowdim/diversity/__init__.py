"""Diversity of a set of samples."""

from lowdim.diversity.vendi import vendi, vendi_of_kernel
from lowdim.diversity.von_neumann import von_neumann_entropy, von_neumann_entropy_of

__all__ = ["vendi", "vendi_of_kernel", "von_neumann_entropy", "von_neumann_entropy_of"]
