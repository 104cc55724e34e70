"""What makes `Strata` and `Subspace`: dictionaries, mixtures, subspace clustering, reductions."""

from lowdim.structure.agreement import accuracy, matched
from lowdim.structure.base import PieceFinder
from lowdim.structure.choose import Choice, PieceChoice, choose_pieces
from lowdim.structure.coding_rate import (
    coding_rate,
    compressed_rate,
    label_rate,
    rate_reduction_loss,
    sparse_rate_reduction_loss,
    subspace_rate,
)
from lowdim.structure.crate import CrateBlock, ista_step
from lowdim.structure.crystals import (
    crystals,
    find_parallelograms,
    lda_project,
    parallelogram_score,
)
from lowdim.structure.denoiser import (
    DenoiserRank,
    denoiser_rank,
    denoiser_spectrum,
    mixture_denoiser,
)
from lowdim.structure.description_length import (
    DescriptionLength,
    sae_description_length,
    select_sae,
)
from lowdim.structure.dictionary_pieces import DictionaryPieces
from lowdim.structure.elastic_net import ElasticNetSubspace
from lowdim.structure.experts import group_ids
from lowdim.structure.flagfolds import Flagfold, flagfold_distance, local_flags
from lowdim.structure.flags import Flag, flag_dimension, flag_weights
from lowdim.structure.graph_proximity import Proximity, graph_proximity
from lowdim.structure.grassmann_head import GrassmannHead, GrassmannSGD, SubspaceClassifier
from lowdim.structure.held_out import Code, HeldOut, held_out, strata_nats
from lowdim.structure.k_subspaces import KSubspaces
from lowdim.structure.least_squares_representation import LeastSquaresRepresentation
from lowdim.structure.least_volume import LeastVolumeAE
from lowdim.structure.lobes import (
    Cooccurrence,
    LabelAgreement,
    Lobes,
    cooccurrence,
    label_agreement,
    lobes,
)
from lowdim.structure.local_bases import LocalBases, local_bases
from lowdim.structure.low_rank_gaussians import LowRankGaussians
from lowdim.structure.low_rank_mixture import LowRankMixture
from lowdim.structure.low_rank_representation import LowRankRepresentation
from lowdim.structure.manifold_linearizing import ManifoldLinearizing, mlp_encoder
from lowdim.structure.moe import StratifiedMoE
from lowdim.structure.moe_contrastive import ContrastiveMoE
from lowdim.structure.omp import SparseCodes, omp
from lowdim.structure.privacy_accounting import Guarantee
from lowdim.structure.private_pca import PrivatePCA, captured_energy
from lowdim.structure.ranks import bic_rank
from lowdim.structure.rate_reduction import (
    coding_rate_of_spectrum,
    rate_by_layer,
    rate_reduction,
)
from lowdim.structure.required_n import required_n
from lowdim.structure.rescal import Rescal, rescal
from lowdim.structure.sae import SAE, BatchTopKSAE, GatedSAE, JumpReLUSAE, ReLUSAE, TopKSAE
from lowdim.structure.sae_geometry import (
    SAEGeometry,
    clustering_entropy,
    sae_geometry,
    spectrum_slope,
)
from lowdim.structure.sae_train import SAEQuality, evaluate_sae, train_sae
from lowdim.structure.saelens import NormalizedSAE, load_saelens, save_saelens
from lowdim.structure.save import load_strata, save_strata
from lowdim.structure.select_rank import RankFit, RankSelection, select_rank
from lowdim.structure.sine_k_medoids import SineKMedoids, normalized_width
from lowdim.structure.sinkhorn import doubly_stochastic
from lowdim.structure.sparse_autoencoder import SparseAutoencoder
from lowdim.structure.spectral_graph import spectral_labels
from lowdim.structure.ssc_omp import SparseSubspaceOMP
from lowdim.structure.statistics import StrataStatistics, strata_statistics
from lowdim.structure.stratification import StratificationTest, stratification_test
from lowdim.structure.thresholding import LassoCodes, ista, lasso, soft_threshold, top_k
from lowdim.structure.tldr import TLDR, barlow_twins
from lowdim.structure.top_afa import (
    TopAFA,
    afa_loss,
    coherence,
    coherence_lower_bound,
    top_afa,
    zf_points,
)

__all__ = [
    "SAE",
    "TLDR",
    "BatchTopKSAE",
    "Choice",
    "Code",
    "ContrastiveMoE",
    "Cooccurrence",
    "CrateBlock",
    "DenoiserRank",
    "DescriptionLength",
    "DictionaryPieces",
    "ElasticNetSubspace",
    "Flag",
    "Flagfold",
    "GatedSAE",
    "GrassmannHead",
    "GrassmannSGD",
    "Guarantee",
    "HeldOut",
    "JumpReLUSAE",
    "KSubspaces",
    "LabelAgreement",
    "LassoCodes",
    "LeastSquaresRepresentation",
    "LeastVolumeAE",
    "Lobes",
    "LocalBases",
    "LowRankGaussians",
    "LowRankMixture",
    "LowRankRepresentation",
    "ManifoldLinearizing",
    "NormalizedSAE",
    "PieceChoice",
    "PieceFinder",
    "PrivatePCA",
    "Proximity",
    "RankFit",
    "RankSelection",
    "ReLUSAE",
    "Rescal",
    "SAEGeometry",
    "SAEQuality",
    "SineKMedoids",
    "SparseAutoencoder",
    "SparseCodes",
    "SparseSubspaceOMP",
    "StrataStatistics",
    "StratificationTest",
    "StratifiedMoE",
    "SubspaceClassifier",
    "TopAFA",
    "TopKSAE",
    "accuracy",
    "afa_loss",
    "barlow_twins",
    "bic_rank",
    "captured_energy",
    "choose_pieces",
    "clustering_entropy",
    "coding_rate",
    "coding_rate_of_spectrum",
    "coherence",
    "coherence_lower_bound",
    "compressed_rate",
    "cooccurrence",
    "crystals",
    "denoiser_rank",
    "denoiser_spectrum",
    "doubly_stochastic",
    "evaluate_sae",
    "find_parallelograms",
    "flag_dimension",
    "flag_weights",
    "flagfold_distance",
    "graph_proximity",
    "group_ids",
    "held_out",
    "ista",
    "ista_step",
    "label_agreement",
    "label_rate",
    "lasso",
    "lda_project",
    "load_saelens",
    "load_strata",
    "lobes",
    "local_bases",
    "local_flags",
    "matched",
    "mixture_denoiser",
    "mlp_encoder",
    "normalized_width",
    "omp",
    "parallelogram_score",
    "rate_by_layer",
    "rate_reduction",
    "rate_reduction_loss",
    "required_n",
    "rescal",
    "sae_description_length",
    "sae_geometry",
    "save_saelens",
    "save_strata",
    "select_rank",
    "select_sae",
    "soft_threshold",
    "sparse_rate_reduction_loss",
    "spectral_labels",
    "spectrum_slope",
    "strata_nats",
    "strata_statistics",
    "stratification_test",
    "subspace_rate",
    "top_afa",
    "top_k",
    "train_sae",
    "zf_points",
]
