"""Embeddings in use: how small can they be, and what does it cost?"""

from lowdim.retrieval.backward_compatible import CompatibleHead
from lowdim.retrieval.binary_code import BinaryCode, hamming_search
from lowdim.retrieval.bits_code import BitsCode
from lowdim.retrieval.codec import Codec
from lowdim.retrieval.compatible import Upgrade, compatible
from lowdim.retrieval.configurations import Configuration
from lowdim.retrieval.cross_recall import Compatibility
from lowdim.retrieval.embedding_search import (
    MixedEmbedding,
    SoftEmbedding,
    frequency_blocks,
    search_dims,
)
from lowdim.retrieval.export import Exported, export, export_codes
from lowdim.retrieval.float_codes import BFloat16, Float8, Float8E5M2, Float16, Float32
from lowdim.retrieval.graph import Graph
from lowdim.retrieval.growth import effective_dimension, false_positive_curve, recall_growth
from lowdim.retrieval.index import build
from lowdim.retrieval.index_folder import Index
from lowdim.retrieval.insertion_order import OrderRecall, insertion_order, recall_by_order
from lowdim.retrieval.learned_maps import autoencoder, supervised, tldr
from lowdim.retrieval.lists import InvertedLists
from lowdim.retrieval.locus import Locus, frechet_predict, locus, next_class
from lowdim.retrieval.map import Map
from lowdim.retrieval.margins import (
    RankingMargins,
    multi_vector_score,
    ranking_margin,
    ranking_margins,
)
from lowdim.retrieval.metric import exact_search
from lowdim.retrieval.misordering import (
    dimension_for,
    gaussian_dimension_for,
    misordering,
    misordering_bound,
)
from lowdim.retrieval.neural_codes import (
    CodeReport,
    NeuralCodes,
    code_recall,
    code_report,
    neural_codes,
)
from lowdim.retrieval.opt_embed import OptEmbedding, TableSearch, opt_embed
from lowdim.retrieval.plan import plan
from lowdim.retrieval.plan_rows import Plan, PlanRow
from lowdim.retrieval.product_codes import ProductCode, RotatedProductCode
from lowdim.retrieval.projections import band, fft, pca_whitened, random, sparse, truncate
from lowdim.retrieval.query_maps import query_aware
from lowdim.retrieval.recall import interval, mrr, ndcg, read_qrels, recall_at_k
from lowdim.retrieval.reduction import Training, none, pca
from lowdim.retrieval.residual_code import ResidualCode
from lowdim.retrieval.scalar_codes import Int4, Int4Rotated, Int8, Int8Rotated
from lowdim.retrieval.semantic_ids import (
    NgramEmbedding,
    SemanticIds,
    ngram_rows,
    prefix_rows,
    semantic_ids,
)
from lowdim.retrieval.size_recall import SizeRecall, SizeRecallRow, size_recall, smallest
from lowdim.retrieval.stationary import (
    CompatibilityMatrix,
    SimplexClassifier,
    compatibility_matrix,
    hoc_loss,
    simplex_classifier,
)
from lowdim.retrieval.strata_code import StrataCode

__all__ = [
    "BFloat16",
    "BinaryCode",
    "BitsCode",
    "CodeReport",
    "Codec",
    "Compatibility",
    "CompatibilityMatrix",
    "CompatibleHead",
    "Configuration",
    "Exported",
    "Float8",
    "Float8E5M2",
    "Float16",
    "Float32",
    "Graph",
    "Index",
    "Int4",
    "Int4Rotated",
    "Int8",
    "Int8Rotated",
    "InvertedLists",
    "Locus",
    "Map",
    "MixedEmbedding",
    "NeuralCodes",
    "NgramEmbedding",
    "OptEmbedding",
    "OrderRecall",
    "Plan",
    "PlanRow",
    "ProductCode",
    "RankingMargins",
    "ResidualCode",
    "RotatedProductCode",
    "SemanticIds",
    "SimplexClassifier",
    "SizeRecall",
    "SizeRecallRow",
    "SoftEmbedding",
    "StrataCode",
    "TableSearch",
    "Training",
    "Upgrade",
    "autoencoder",
    "band",
    "build",
    "code_recall",
    "code_report",
    "compatibility_matrix",
    "compatible",
    "dimension_for",
    "effective_dimension",
    "exact_search",
    "export",
    "export_codes",
    "false_positive_curve",
    "fft",
    "frechet_predict",
    "frequency_blocks",
    "gaussian_dimension_for",
    "hamming_search",
    "hoc_loss",
    "insertion_order",
    "interval",
    "locus",
    "misordering",
    "misordering_bound",
    "mrr",
    "multi_vector_score",
    "ndcg",
    "neural_codes",
    "next_class",
    "ngram_rows",
    "none",
    "opt_embed",
    "pca",
    "pca_whitened",
    "plan",
    "prefix_rows",
    "query_aware",
    "random",
    "ranking_margin",
    "ranking_margins",
    "read_qrels",
    "recall_at_k",
    "recall_by_order",
    "recall_growth",
    "search_dims",
    "semantic_ids",
    "simplex_classifier",
    "size_recall",
    "smallest",
    "sparse",
    "supervised",
    "tldr",
    "truncate",
]
