"""How much of this model can go, and what does it cost?"""

from lowdim.compress.low_rank import LowRank, low_rank, output_spectrum

__all__ = ["LowRank", "low_rank", "output_spectrum"]
