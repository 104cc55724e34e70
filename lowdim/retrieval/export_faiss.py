"""Codes as an index that faiss opens: the same bytes, under faiss's own names.

Floats and integers are ``IndexScalarQuantizer``. What else is made of a table of values for each
number is ``IndexPQ``: product codes as they are; float8 with the 256 values of the format as the
points of each coordinate; binary and ``bitsN`` with two points a bit. Queries are turned into the
coordinates that are stored by an ``IndexPreTransform``, so the index takes vectors as they come.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import singledispatch
from typing import Any

import torch
from torch import Tensor

from lowdim.errors import require
from lowdim.retrieval.binary_code import BinaryCode
from lowdim.retrieval.bits_code import BitsCode
from lowdim.retrieval.code import Code
from lowdim.retrieval.codec import CELLS, Codec
from lowdim.retrieval.float_codes import BFloat16, Float8Code, Float16, Float32
from lowdim.retrieval.isometry import Isometry
from lowdim.retrieval.product_codes import ProductCode, RotatedProductCode, filled
from lowdim.retrieval.residual_code import ResidualCode
from lowdim.retrieval.scalar_codes import RotatedScalarCode, ScalarCode

WIDE = (Float32, Float16, BFloat16)
"""Codes that cost nothing to decode."""


@dataclass(frozen=True, eq=False)
class Stored:
    """What faiss holds of a code, and how it becomes coordinates: z = offset + s @ turn.

    Attributes
    ----------
    index : faiss.Index
        Trained, with no rows yet.
    turn : Tensor
        (stored, m).
    isometric : bool
        Whether distances of s are distances of z.
    """

    index: Any
    turn: Tensor
    isometric: bool = True


@singledispatch
def stored(code: Code, measure: int) -> Stored | None:
    """The form that faiss has for a code, or None."""
    return None


@stored.register
def _(code: Float32, measure: int) -> Stored:
    faiss = require("faiss", "faiss")
    return Stored(faiss.IndexFlat(code.dims, measure), torch.eye(code.dims))


@stored.register(Float16)
@stored.register(BFloat16)
def _(code: Float16 | BFloat16, measure: int) -> Stored:
    kind = "QT_fp16" if isinstance(code, Float16) else "QT_bf16"
    return Stored(_scalar(code.dims, kind, measure), torch.eye(code.dims))


@stored.register
def _(code: ScalarCode, measure: int) -> Stored:
    index = _scalar(code.dims, f"QT_{code.bits}bit", measure)
    _copy(torch.cat([code.low, code.width]), index.sq.trained)
    if isinstance(code, RotatedScalarCode):
        return Stored(index, code.rotation.T)
    return Stored(index, torch.eye(code.dims))


@stored.register
def _(code: Float8Code, measure: int) -> Stored:
    every = torch.arange(256, dtype=torch.uint8)[:, None].expand(-1, code.dims)
    values = code.decode(every.contiguous()).nan_to_num(0.0, 0.0, 0.0).T[:, :, None]  # (m, 256, 1)
    return Stored(_product(values, measure), torch.eye(code.dims))


@stored.register
def _(code: BinaryCode, measure: int) -> Stored:
    width = 8 * code.bytes_per_vector  # faiss counts whole bytes; what fills the last one is zero
    values = torch.zeros(width, 2, 1)
    values[: code.dims, :, 0] = torch.stack([code.low, code.high], 1)
    return Stored(_product(values, measure), torch.eye(width)[:, : code.dims] @ code.rotation.T)


@stored.register
def _(code: BitsCode, measure: int) -> Stored:
    """A coordinate is its start and what each of its bits adds: <q, z> is a sum over bits."""
    bits = 8 * code.bytes_per_vector
    place = torch.arange(bits)
    single = torch.zeros(bits + 1, code.bytes_per_vector, dtype=torch.uint8)
    single[place, place // 8] = (1 << place % 8).byte()  # one bit set in each row, none in the last
    values = code.decode(single)
    table = torch.tensor([0.0, 1.0])[:, None].expand(bits, 2, 1)
    return Stored(_product(table, measure), values[:-1] - values[-1], isometric=False)


@stored.register
def _(code: ResidualCode, measure: int) -> Stored:
    faiss = require("faiss", "faiss")
    levels, points, m = code.codebooks.shape
    bits = points.bit_length() - 1
    search = faiss.AdditiveQuantizer.ST_decompress
    index = faiss.IndexResidualQuantizer(m, levels, bits, measure, search)
    _copy(code.codebooks.flatten(), index.rq.codebooks)
    index.rq.is_trained = index.is_trained = True
    return Stored(index, torch.eye(m))


@stored.register
def _(code: ProductCode, measure: int) -> Stored:
    runs = filled(code.dims, code.bytes_per_vector).flatten()  # where shorter runs have no column
    turn = torch.eye(len(runs))[:, runs]
    if isinstance(code, RotatedProductCode):
        turn = turn @ code.rotation.T
    return Stored(_product(code.codebooks, measure), turn)


def faiss_index(codec: Codec, codes: Tensor, dtype: str | None) -> tuple[Any, bool, str]:
    """The index, whether it ranks as :meth:`Codec.search` does, and what is to be known of it.

    ``dtype`` float32 or float16 stores what the codes stand for, None the codes themselves.
    """
    faiss = require("faiss", "faiss")
    faiss.omp_set_num_threads(torch.get_num_threads())
    map, metric = codec.map_, codec.metric
    measure = faiss.METRIC_L2 if metric == "euclidean" else faiss.METRIC_INNER_PRODUCT
    form = stored(codec.code_, measure) if dtype is None else None
    if metric == "cosine" and isinstance(codec.code_, WIDE):
        form = None  # vectors of length one take as many bytes, and rank alike
    if metric == "euclidean" and form is not None and not (form.isometric and map.orthonormal):
        form = None  # distances of what is stored are not those of what it stands for
    if form is None:
        wide = "float32" if isinstance(codec.code_, Float32) else "float16"
        return _decoded(codec, codes, dtype or wide, measure)
    index = form.index
    index.codes.resize(codes.numel())
    faiss.copy_array_to_vector(codes.flatten().numpy(), index.codes)
    index.ntotal = len(codes)
    if map.decoder is not None:
        matrix = form.turn @ map.decoder
    else:
        matrix = form.turn if map.encoder is None else form.turn @ map.encoder.T
    moved = metric == "euclidean" or map.decoder is None
    bias = -(matrix @ map.center) if moved else torch.zeros(len(matrix))
    whole = _behind(matrix, bias, index, unit=metric == "cosine")
    if metric == "dot":
        return whole, True, "the codes' own bytes; scores are ours but for a constant of the query"
    if metric == "euclidean":
        return (
            whole,
            True,
            "the codes' own bytes; squared distances but for a constant of the query",
        )
    return whole, False, (
        "the codes' own bytes; ranks by the product with the decoded vector, which here would be "
        "divided by its length: dtype='float32' stores vectors of length one, and ranks alike"
    )  # fmt: skip


def _decoded(codec: Codec, codes: Tensor, dtype: str, measure: int) -> tuple[Any, bool, str]:
    faiss = require("faiss", "faiss")
    isometry = Isometry.of(codec)
    flat = dtype == "float32"
    index = (
        faiss.IndexFlat(isometry.dims, measure)
        if flat
        else _scalar(isometry.dims, "QT_fp16", measure)
    )
    for block in codes.split(max(1, 16 * CELLS // isometry.dims)):
        index.add(isometry.rows(codec.code_.decode(block)).numpy())
    whole = _behind(isometry.matrix.T, isometry.bias, index, unit=isometry.unit)
    return whole, flat, f"decoded to {dtype} in coordinates in which products are those of ours"


def _behind(matrix: Tensor, bias: Tensor, index: Any, *, unit: bool) -> Any:
    """The index behind q -> matrix @ q + bias, and, for cosines, q -> q / |q| before that."""
    faiss = require("faiss", "faiss")
    if matrix.shape == (index.d, index.d) and matrix.equal(torch.eye(index.d)) and not bias.any():
        return (
            faiss.IndexPreTransform(faiss.NormalizationTransform(index.d), index) if unit else index
        )
    linear = faiss.LinearTransform(matrix.shape[1], matrix.shape[0], True)
    _copy(matrix.flatten(), linear.A)
    _copy(bias, linear.b)
    linear.is_trained = True
    whole = faiss.IndexPreTransform(linear, index)
    if unit:
        whole.prepend_transform(faiss.NormalizationTransform(whole.d))
    return whole


def _scalar(m: int, kind: str, measure: int) -> Any:
    faiss = require("faiss", "faiss")
    index = faiss.IndexScalarQuantizer(m, getattr(faiss.ScalarQuantizer, kind), measure)
    index.is_trained = True
    return index


def _product(values: Tensor, measure: int) -> Any:
    """An ``IndexPQ`` of (M, points, width) values."""
    faiss = require("faiss", "faiss")
    runs, points, width = values.shape
    index = faiss.IndexPQ(runs * width, runs, points.bit_length() - 1, measure)
    _copy(values.flatten(), index.pq.centroids)
    index.is_trained = True
    return index


def _copy(values: Tensor, vector: Any) -> None:
    faiss = require("faiss", "faiss")
    faiss.copy_array_to_vector(values.float().contiguous().numpy(), vector)
