"""A number from points: dimension, isotropy, hubs and copies."""

from lowdim.geometry.activation_geometry import activation_geometry, cluster_task
from lowdim.geometry.betti import betti, betti_by_label, topological_capacity
from lowdim.geometry.class_directions import class_directions, directions_change
from lowdim.geometry.compositionality import coupled_grammar, gzip_complexity, shuffled_words
from lowdim.geometry.compression_report import compression_report
from lowdim.geometry.correlation_integral import correlation_integral
from lowdim.geometry.danco import danco
from lowdim.geometry.dimension import CombinedDimension, dimension, dimension_from
from lowdim.geometry.dimension_profile import dimension_profile
from lowdim.geometry.embedding_tradeoff import (
    choose_sigma,
    embedding_tradeoff,
    gaussian_embedding,
    gaussian_stable_rank,
)
from lowdim.geometry.ess import ess, ess_cosine
from lowdim.geometry.fisher_separability import fisher_separability
from lowdim.geometry.functional_dimension import functional_dimension
from lowdim.geometry.gride import Gride, gride
from lowdim.geometry.hubness import hubness
from lowdim.geometry.knn_graph import knn_graph
from lowdim.geometry.label_dimension import dimension_by_label
from lowdim.geometry.label_trace import enveloping_loss, homogeneity_loss, label_trace, surrogates
from lowdim.geometry.length_distortion import (
    expected_length_distortion,
    length_distortion,
    volume_distortion,
)
from lowdim.geometry.linear import (
    anisotropy,
    early_enrichment,
    isoscore,
    participation_ratio,
    rank_90,
    rank_99,
)
from lowdim.geometry.linear_regions import boundaries_along, boundary_distance, linear_regions
from lowdim.geometry.local_pca import local_pca
from lowdim.geometry.local_rank import local_rank, local_rank_of, token_function
from lowdim.geometry.mada import mada
from lowdim.geometry.magnitude import (
    boundary_points,
    local_magnitude,
    magnitude,
    outlier_score,
)
from lowdim.geometry.magnitude_image import magnitude_image
from lowdim.geometry.magnitude_moments import magnitude_moments, magnitude_subset
from lowdim.geometry.manifold_trajectory import manifold_trajectory, pgd_copies, trajectory_of
from lowdim.geometry.mind_ml import MindML, mind_ml
from lowdim.geometry.mle import mle, mle_levina_bickel
from lowdim.geometry.mom import mom
from lowdim.geometry.near_duplicates import near_duplicates
from lowdim.geometry.ollivier_ricci import (
    neighbor_curvature,
    ollivier_ricci,
    representation_graph,
)
from lowdim.geometry.one_dimension_classifier import one_dimension_classifier
from lowdim.geometry.outlier_dimensions import outlier_dimensions, persistence
from lowdim.geometry.positional import positional_decomposition, query_key_split
from lowdim.geometry.ricci_flow import neighbor_communities, ricci_flow
from lowdim.geometry.spectral_band_probe import (
    noise_benefit,
    reconstruction_alignment,
    shared_encoder,
    spectral_band_probe,
)
from lowdim.geometry.tle import tle
from lowdim.geometry.token_geometry import loss_correlation, token_geometry
from lowdim.geometry.two_nn import two_nn
from lowdim.geometry.unbiased_participation import unbiased_participation
from lowdim.geometry.uniformity import mean_cosine, uniformity, uniformity_of
from lowdim.geometry.vasicek_ratio import vasicek_ratio

__all__ = [
    "CombinedDimension",
    "Gride",
    "MindML",
    "activation_geometry",
    "anisotropy",
    "betti",
    "betti_by_label",
    "boundaries_along",
    "boundary_distance",
    "boundary_points",
    "choose_sigma",
    "class_directions",
    "cluster_task",
    "compression_report",
    "correlation_integral",
    "coupled_grammar",
    "danco",
    "dimension",
    "dimension_by_label",
    "dimension_from",
    "dimension_profile",
    "directions_change",
    "early_enrichment",
    "embedding_tradeoff",
    "enveloping_loss",
    "ess",
    "ess_cosine",
    "expected_length_distortion",
    "fisher_separability",
    "functional_dimension",
    "gaussian_embedding",
    "gaussian_stable_rank",
    "gride",
    "gzip_complexity",
    "homogeneity_loss",
    "hubness",
    "isoscore",
    "knn_graph",
    "label_trace",
    "length_distortion",
    "linear_regions",
    "local_magnitude",
    "local_pca",
    "local_rank",
    "local_rank_of",
    "loss_correlation",
    "mada",
    "magnitude",
    "magnitude_image",
    "magnitude_moments",
    "magnitude_subset",
    "manifold_trajectory",
    "mean_cosine",
    "mind_ml",
    "mle",
    "mle_levina_bickel",
    "mom",
    "near_duplicates",
    "neighbor_communities",
    "neighbor_curvature",
    "noise_benefit",
    "ollivier_ricci",
    "one_dimension_classifier",
    "outlier_dimensions",
    "outlier_score",
    "participation_ratio",
    "persistence",
    "pgd_copies",
    "positional_decomposition",
    "query_key_split",
    "rank_90",
    "rank_99",
    "reconstruction_alignment",
    "representation_graph",
    "ricci_flow",
    "shared_encoder",
    "shuffled_words",
    "spectral_band_probe",
    "surrogates",
    "tle",
    "token_function",
    "token_geometry",
    "topological_capacity",
    "trajectory_of",
    "two_nn",
    "unbiased_participation",
    "uniformity",
    "uniformity_of",
    "vasicek_ratio",
    "volume_distortion",
]
