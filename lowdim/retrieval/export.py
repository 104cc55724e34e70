"""Codes for other stores: faiss and usearch indexes, NumPy arrays, the transform as ONNX.

What is written is compared with :meth:`Codec.search` or :meth:`Codec.encode` in the same call.
"""

from __future__ import annotations

import json
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from lowdim.core.memory import format_bytes
from lowdim.core.random import choice
from lowdim.errors import InputError, require
from lowdim.io.write import atomic_open, atomic_write, check_writable
from lowdim.retrieval.codec import CELLS, Codec
from lowdim.retrieval.export_faiss import faiss_index
from lowdim.retrieval.export_onnx import onnx_model
from lowdim.retrieval.float_codes import Float32
from lowdim.retrieval.isometry import Isometry
from lowdim.retrieval.metric import as_queries

if TYPE_CHECKING:
    from lowdim.retrieval.index_folder import Index

SAMPLE = 200
"""Queries, or rows, on which what was written is compared."""

K = 10
"""Rows of each result list that are compared."""

ROUNDING = 1e-5
"""Of a score, relative, that is no difference."""

NPZ = """lowdim codes, version 1. Arrays of this file, none of them pickled:
codes (n, bytes) uint8, one row a vector; encoder (d, m), center (d,), decoder (m, d) float32;
code_NAME the tensors of the code; options its other fields, JSON; metric, code, reduction names.
A row x (of length one where metric is cosine) has coordinates z = (x - center) @ encoder, or
x - center without encoder, and its code stands for x^ = center + z^ @ decoder; without decoder rows
and queries are compared as coordinates. z^ is what the code makes of z:
float32, float16, bfloat16: the bytes are z^. float8: times 2^-exponent.
int8, int4: low + (c + 1/2) / top * width with top 255 or 15, of two numbers in a byte the first in
the low half; -rotated: that times rotation transposed.
binary: bit i of a row, lowest first, chooses low[i] or high[i]; that times rotation transposed.
pq: byte i chooses a row of codebooks[i], the runs end to end; opq: that times rotation transposed.
rq: the sum of a row of each of codebooks. Others: see lowdim.retrieval."""


@dataclass(frozen=True)
class Exported:
    """What was written, and how far its answers are ours.

    Attributes
    ----------
    path : Path
        The file.
    bytes : int
        Its size.
    exact : bool
        Whether it ranks as :meth:`Codec.search` does by construction, but for rounding.
    agreement : float
        faiss, usearch: mean share of the 10 it finds that score with us as our 10 best do. onnx:
        share of the coordinates, or of the bytes of codes, that are the same. npz: 1, the arrays
        are ours.
    note : str
        What is to be known of it.
    """

    path: Path
    bytes: int
    exact: bool
    agreement: float
    note: str

    def __str__(self) -> str:
        how = "ranks as lowdim does" if self.exact else f"agrees in {self.agreement:.1%}"
        return f"{self.path} ({format_bytes(self.bytes)}, {how}): {self.note}"


def export(
    index: Index, to: str, out: str | Path, *, dtype: str | None = None, queries: Any = None
) -> Exported:
    """How do other programs search my index?

    As :func:`export_codes` of the codes of an index on disk, in the order of its rows. Where rows
    have ids of their own, these are written to ``ids.npy`` beside it.
    """
    index.check()
    found = export_codes(index.codec, index.codes, to, out, dtype=dtype, queries=queries)
    rows = torch.arange(index.n)
    ids = index.named(rows)
    if isinstance(ids, Tensor) and ids.equal(rows):
        return found
    with atomic_open(Path(out) / "ids.npy") as file:
        np.save(file, np.asarray(ids), allow_pickle=False)
    return replace(found, note=f"{found.note}; ids.npy holds the id of each row number")


def export_codes(
    codec: Codec, codes: Tensor | Sequence[Tensor], to: str, out: str | Path, *,
    dtype: str | None = None, queries: Any = None, seed: int = 0,
) -> Exported:  # fmt: skip
    """How do other programs search my codes?

    Parameters
    ----------
    codec : Codec
        A fitted one.
    codes : Tensor or sequence of Tensor
        (n, bytes) uint8 in the order of the rows, or parts of it.
    to : {"faiss", "usearch", "npz", "onnx"}
        For whom.
    out : path
        Folder for ``index.faiss``, ``index.usearch`` with ``query.npz``, ``codes.npz`` or
        ``transform.onnx``.
    dtype : {"float32", "float16"}, optional
        faiss and usearch: store the decoded vectors in this format; by default faiss gets the bytes
        of the codes where it has a form for them, and usearch float16 (float32 for that code).
    queries : array-like, optional
        (m, d) on which the agreement is measured; decoded rows by default.
    seed : int
        Of the rows that the agreement is measured on.

    Returns
    -------
    Exported

    Raises
    ------
    InputError
        Another ``to`` or ``dtype``, codes of another codec, no codes, a folder that cannot be
        written.
    MissingExtraError
        Without the package that the format is of.

    Notes
    -----
    With ``dot`` and ``euclidean`` faiss ranks the bytes as we do. With ``cosine`` ours divides by
    the length of the decoded vector, which a product of faiss cannot: there the bytes of int8, pq,
    ... agree with us in part, which ``agreement`` says, and ``dtype="float32"`` in all; floats are
    stored with length one and agree to rounding. The rows of an index of ``cosine`` or ``dot``
    cannot be added to by faiss itself, whose transform is that of queries.
    """
    writers: dict[str, Callable[..., Exported]] = {
        "faiss": _faiss, "usearch": _usearch, "npz": _npz, "onnx": _onnx,
    }  # fmt: skip
    if to not in writers:
        raise InputError(f"to={to!r}: choose from {', '.join(writers)}")
    if dtype not in (None, "float32", "float16"):
        raise InputError(f"dtype={dtype!r}: choose from float32, float16")
    whole = codes if isinstance(codes, Tensor) else torch.cat(list(codes))
    if not len(whole):
        raise InputError("there are no codes to export")
    asked = _asked(codec, whole, queries, seed)
    return writers[to](codec, whole, check_writable(out), dtype, asked)


def _asked(codec: Codec, codes: Tensor, queries: Any, seed: int) -> Tensor:
    """(m, d) queries to compare on."""
    if queries is not None:
        return as_queries(queries, codec.metric, codec.n_features_in_)
    rows = choice(len(codes), min(SAMPLE, len(codes)), seed)
    decoded = codec.decode(codes[rows])
    if codec.map_.decoder is None and codec.map_.encoder is not None:
        raise InputError("this reduction has no way back to make queries: give queries=")
    return as_queries(decoded, codec.metric, codec.n_features_in_)


def _agreement(codec: Codec, codes: Tensor, asked: Tensor, found: np.ndarray) -> float:
    """Share of what was found that scores as our k best do: many rows may have one code."""
    ids = torch.from_numpy(found.astype(np.int64))
    rows, where = ids.clamp_min(0).unique(return_inverse=True)
    scores = codec.as_scores(codec.scorer(asked)(codes[rows]), asked).gather(1, where)
    least = codec.search(codes, asked, found.shape[1])[1][:, -1:]
    good = (scores >= least - ROUNDING * least.abs()) & (ids >= 0)
    return float(good.double().mean())


def _faiss(codec: Codec, codes: Tensor, out: Path, dtype: str | None, asked: Tensor) -> Exported:
    faiss = require("faiss", "faiss")
    index, exact, note = faiss_index(codec, codes, dtype)
    path = out / "index.faiss"
    atomic_write(path, faiss.serialize_index(index).tobytes())
    size = path.stat().st_size
    if dtype is None and note.startswith("decoded") and codec.bytes_per_vector < codec.map_.dims:
        warnings.warn(
            f"faiss has no form of {codec.code} with metric {codec.metric}: {note}, "
            f"{format_bytes(size)} instead of {format_bytes(codes.numel())}",
            stacklevel=3,
        )
    found = index.search(asked.numpy(), min(K, len(codes)))[1]
    return Exported(path, size, exact, _agreement(codec, codes, asked, found), note)


def _usearch(codec: Codec, codes: Tensor, out: Path, dtype: str | None, asked: Tensor) -> Exported:
    usearch = require("usearch.index", "usearch")
    isometry = Isometry.of(codec)
    dtype = dtype or ("float32" if isinstance(codec.code_, Float32) else "float16")
    measure = "l2sq" if codec.metric == "euclidean" else "ip"
    kind = {"float32": "f32", "float16": "f16"}[dtype]
    index = usearch.Index(ndim=isometry.dims, metric=measure, dtype=kind)
    threads, first = torch.get_num_threads(), 0
    for block in codes.split(max(1, 16 * CELLS // isometry.dims)):
        y = isometry.rows(codec.code_.decode(block)).numpy()
        index.add(np.arange(first, first + len(y)), y, threads=threads)
        first += len(y)
    path = out / "index.usearch"
    atomic_write(path, bytes(index.save()))
    _write_npz(out / "query.npz", {"matrix": isometry.matrix, "bias": isometry.bias})
    y = isometry.queries(asked).numpy()
    found = index.search(y, min(K, len(codes)), threads=threads).keys.reshape(len(y), -1)
    size = path.stat().st_size + (out / "query.npz").stat().st_size
    note = (
        f"decoded to {dtype} in a graph that finds most; ask it for q @ matrix + bias of query.npz"
        + (", q of length one" if isometry.unit else "")
    )
    return Exported(path, size, False, _agreement(codec, codes, asked, found), note)


def _npz(codec: Codec, codes: Tensor, out: Path, dtype: str | None, asked: Tensor) -> Exported:
    map, code = codec.map_, codec.code_
    ways = {"encoder": map.encoder, "center": map.center, "decoder": map.decoder}
    tensors = {name: x for name, x in ways.items() if x is not None}
    tensors |= {f"code_{name}": x for name, x in code.tensors().items()}
    rotation = getattr(code, "rotation", None)
    if rotation is not None:
        tensors["code_rotation"] = rotation
    texts = {
        "format": NPZ, "options": json.dumps(code.options()), "metric": codec.metric,
        "code": codec.code, "reduction": codec.reduction,
    }  # fmt: skip
    path = out / "codes.npz"
    _write_npz(path, {"codes": codes, **tensors}, texts)
    return Exported(path, path.stat().st_size, True, 1.0, "its array 'format' says how to read it")


def _onnx(codec: Codec, codes: Tensor, out: Path, dtype: str | None, asked: Tensor) -> Exported:
    onnx = require("onnx", "onnx")
    model = onnx_model(codec)
    path = out / "transform.onnx"
    atomic_write(path, model.SerializeToString())
    names = [output.name for output in model.graph.output]
    run = require("onnx.reference", "onnx").ReferenceEvaluator(onnx.load(str(path)))
    given = dict(zip(names, run.run(None, {"vectors": asked.numpy()}), strict=True))
    if "codes" in given:
        theirs = np.ascontiguousarray(given["codes"]).view(np.uint8)
        same = theirs == codec.encode(asked).numpy()
    else:
        same = np.isclose(given["coordinates"], codec.map_.reduce(asked).numpy(), atol=1e-5)
    note = f"input vectors (n, {codec.n_features_in_}), outputs {', '.join(names)}"
    return Exported(path, path.stat().st_size, False, float(same.mean()), note)


def _write_npz(path: Path, tensors: dict[str, Tensor], texts: dict[str, str] | None = None) -> None:
    with atomic_open(path) as file:
        arrays = {name: x.numpy(force=True) for name, x in tensors.items()}
        arrays |= {name: np.array(text) for name, text in (texts or {}).items()}
        np.savez(file, allow_pickle=False, **arrays)
