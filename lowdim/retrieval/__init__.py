"""Embeddings in use: how small can they be, and what does it cost?"""

from lowdim.retrieval.size_recall import SizeRecall, SizeRecallRow, size_recall, smallest

__all__ = ["SizeRecall", "SizeRecallRow", "size_recall", "smallest"]
