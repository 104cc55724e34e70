"""Are two representations the same?"""

from lowdim.compare.cka import cka, cka_matrix

__all__ = ["cka", "cka_matrix"]
