"""Diversity and fidelity of sets of samples."""

from lowdim.diversity.kernel_vendi import vendi_of_order_two, vendi_of_points
from lowdim.diversity.kernels import laplacian, median_gamma, polynomial, rbf
from lowdim.diversity.precision_recall import PrecisionRecall, precision_recall
from lowdim.diversity.sliced_wasserstein import SlicedWasserstein, sliced_wasserstein
from lowdim.diversity.vendi import vendi, vendi_of_kernel, vendi_profile
from lowdim.diversity.von_neumann import von_neumann_entropy, von_neumann_entropy_of

__all__ = [
    "PrecisionRecall",
    "SlicedWasserstein",
    "laplacian",
    "median_gamma",
    "polynomial",
    "precision_recall",
    "rbf",
    "sliced_wasserstein",
    "vendi",
    "vendi_of_kernel",
    "vendi_of_order_two",
    "vendi_of_points",
    "vendi_profile",
    "von_neumann_entropy",
    "von_neumann_entropy_of",
]
