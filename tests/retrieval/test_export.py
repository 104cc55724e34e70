"""What is written for other programs is read back by them, and answers as we do."""

from __future__ import annotations

import subprocess
import sys
import warnings

import numpy as np
import pytest
import torch

from lowdim.errors import InputError
from lowdim.retrieval.codec import Codec
from lowdim.retrieval.export import export, export_codes
from lowdim.retrieval.isometry import Isometry
from lowdim.retrieval.metric import METRICS, placed
from tests.retrieval.test_lists import Q, X

CODES = (
    "float32", "float16", "bfloat16", "float8", "float8-e5m2", "int8", "int4", "int8-rotated",
    "int4-rotated", "binary", "bits5", "pq5", "opq4", "rq3",
)  # fmt: skip
REDUCTIONS = {"none": 24, "pca": 13}


def fitted(code: str, metric: str, reduction: str = "pca") -> tuple[Codec, torch.Tensor]:
    codec = Codec(code, reduction=reduction, dims=REDUCTIONS[reduction], metric=metric)
    codec.fit(X[:1000] + 0.5)
    return codec, codec.encode(X + 0.5)


def agreement(found, codec, codes) -> float:
    """Share of the rows found that are as good as the 10 best of the decoded vectors."""
    x, q = codec.decode(codes).double(), placed(Q, codec.metric).double()
    scores = -torch.cdist(q, x) if codec.metric == "euclidean" else q @ x.T
    if codec.metric == "cosine":
        scores /= x.norm(dim=1)
    least = scores.topk(10).values[:, -1:]
    reached = scores.gather(1, torch.as_tensor(found).long())
    return float((reached >= least - 1e-5 * least.abs()).double().mean())


@pytest.mark.parametrize("reduction", REDUCTIONS)
@pytest.mark.parametrize("metric", ["dot", "euclidean"])
@pytest.mark.parametrize("code", CODES)
def test_faiss_ranks_the_bytes_of_codes_as_we_do(code, metric, reduction, tmp_path):
    faiss = pytest.importorskip("faiss")
    codec, codes = fitted(code, metric, reduction)
    if code.startswith("bits") and metric == "euclidean":
        with pytest.warns(UserWarning, match="no form of bits5"):
            done = export_codes(codec, codes, "faiss", tmp_path, queries=Q)
        assert done.agreement > 0.97
        return
    done = export_codes(codec, codes, "faiss", tmp_path, queries=Q)
    assert done.exact
    assert done.agreement > 0.995  # but for ties within rounding
    assert done.bytes == done.path.stat().st_size
    index = faiss.read_index(str(done.path))
    assert agreement(index.search(Q.numpy(), 10)[1], codec, codes) == pytest.approx(done.agreement)
    inner = index
    if isinstance(index, faiss.IndexPreTransform):
        inner = faiss.downcast_index(index.index)
    stored = faiss.vector_to_array(inner.codes).reshape(len(codes), -1)
    assert np.array_equal(stored, codes.numpy())


@pytest.mark.parametrize("code", ["int8", "int4", "pq5", "rq3", "float8"])
def test_faiss_decodes_the_bytes_to_what_we_decode(code, tmp_path):
    faiss = pytest.importorskip("faiss")
    codec, codes = fitted(code, "dot", "none")
    index = faiss.read_index(str(export_codes(codec, codes, "faiss", tmp_path).path))
    decoded = index.reconstruct_n(0, len(codes))
    torch.testing.assert_close(torch.from_numpy(decoded), codec.decode(codes), atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("code", CODES)
def test_faiss_with_cosine_is_exact_where_decoded_and_measured_where_not(code, tmp_path):
    pytest.importorskip("faiss")
    codec, codes = fitted(code, "cosine")
    decoded = export_codes(codec, codes, "faiss", tmp_path, dtype="float32", queries=Q)
    assert decoded.exact
    assert decoded.agreement > 0.995
    assert export_codes(codec, codes, "faiss", tmp_path, dtype="float16").agreement > 0.97
    with warnings.catch_warnings():
        warnings.simplefilter("error")  # whatever the code, its own bytes are enough
        own = export_codes(codec, codes, "faiss", tmp_path, queries=Q)
    assert own.exact == (code == "float32")
    wider = 1.1 * codes.numel()  # floats have the centre's direction as one coordinate more
    table = 4 * 256 * codec.map_.dims if code.startswith("float8") else 0
    assert own.bytes < wider + 2 * codec.overhead + table + 4_000


def test_cosines_of_faiss_are_ours(tmp_path):
    faiss = pytest.importorskip("faiss")
    codec, codes = fitted("float32", "cosine")
    index = faiss.read_index(str(export_codes(codec, codes, "faiss", tmp_path).path))
    values, ids = index.search(7 * Q.numpy(), 5)
    expected_ids, expected = codec.search(codes, Q, 5)
    assert np.mean(ids == expected_ids.numpy()) > 0.99
    torch.testing.assert_close(torch.from_numpy(values), expected, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("metric", METRICS)
def test_usearch_opens_and_finds(metric, tmp_path):
    usearch = pytest.importorskip("usearch.index")
    codec, codes = fitted("int8", metric)
    done = export_codes(codec, codes, "usearch", tmp_path, queries=Q)
    assert done.agreement > 0.9
    index = usearch.Index.restore(str(done.path))
    way = np.load(tmp_path / "query.npz")
    asked = placed(Q, metric).numpy() @ way["matrix"] + way["bias"]
    found = index.search(asked, 10).keys.astype(np.int64)
    assert agreement(found, codec, codes) == pytest.approx(done.agreement, abs=0.02)


@pytest.mark.parametrize("code", ["int8", "binary", "pq5"])
def test_npz_holds_what_its_format_says(code, tmp_path):
    codec, codes = fitted(code, "euclidean")
    done = export_codes(codec, codes, "npz", tmp_path)
    held = np.load(done.path, allow_pickle=False)
    assert "x^ = center + z^ @ decoder" in str(held["format"])
    if code == "int8":
        z = held["code_low"] + (held["codes"] + 0.5) / 255 * held["code_width"]
    elif code == "binary":
        bits = np.unpackbits(held["codes"], axis=1, bitorder="little")[:, :13]
        z = np.where(bits, held["code_high"], held["code_low"]) @ held["code_rotation"].T
    else:
        runs = [book[c] for book, c in zip(held["code_codebooks"], held["codes"].T, strict=True)]
        widths = [3, 3, 3, 2, 2]  # 13 coordinates in 5 runs
        z = np.concatenate([r[:, :w] for r, w in zip(runs, widths, strict=True)], 1)
    x = held["center"] + z @ held["decoder"]
    torch.testing.assert_close(torch.from_numpy(x).float(), codec.decode(codes), atol=1e-4, rtol=0)


RUN = """
import sys, numpy as np, onnxruntime
session = onnxruntime.InferenceSession(sys.argv[1])
names = [output.name for output in session.get_outputs()]
given = session.run(None, {"vectors": np.load(sys.argv[2])})
np.savez(sys.argv[3], **dict(zip(names, given)))
"""


@pytest.mark.parametrize("metric", ["cosine", "euclidean"])
@pytest.mark.parametrize("code", ["float16", "int8", "int4", "int4-rotated", "binary", "pq5"])
def test_onnx_runs_as_we_do(code, metric, tmp_path):
    pytest.importorskip("onnx")
    codec, codes = fitted(code, metric)
    done = export_codes(codec, codes, "onnx", tmp_path)
    assert done.agreement > 0.999
    np.save(tmp_path / "x.npy", Q.numpy())
    result = subprocess.run(  # onnxruntime and usearch do not get along in one process
        [sys.executable, "-c", RUN, done.path, tmp_path / "x.npy", tmp_path / "y.npz"],
        capture_output=True,
        text=True,
    )
    if "No module named 'onnxruntime'" in result.stderr:
        pytest.skip("onnxruntime is not installed")
    assert result.returncode == 0, result.stderr
    given = np.load(tmp_path / "y.npz")
    q = placed(Q, metric)
    z = codec.map_.reduce(q)
    torch.testing.assert_close(torch.from_numpy(given["coordinates"]), z, atol=1e-5, rtol=1e-5)
    asked = Isometry.of(codec).queries(q)
    torch.testing.assert_close(torch.from_numpy(given["query"]), asked, atol=1e-5, rtol=1e-5)
    if code == "pq5":
        assert "codes" not in given
    else:
        theirs = np.ascontiguousarray(given["codes"]).view(np.uint8)
        assert np.mean(theirs == codec.encode(Q).numpy()) > 0.998  # but at the edge of a step


@pytest.mark.parametrize("lists", [None, 12])
def test_index_on_disk_is_exported_in_the_order_of_its_rows(lists, tmp_path):
    faiss = pytest.importorskip("faiss")
    from lowdim.retrieval.index import build

    codec, codes = fitted("int8", "euclidean")
    index = build(X + 0.5, codec, tmp_path / "index", lists=lists)
    done = export(index, "faiss", tmp_path / "out", queries=Q)
    found = faiss.read_index(str(done.path)).search(Q.numpy(), 10)[1]
    assert agreement(found, codec, codes) > 0.995
    assert "ranks as lowdim does" in str(done)


def test_bad_arguments(tmp_path):
    codec, codes = fitted("int8", "dot")
    with pytest.raises(InputError, match="choose from faiss"):
        export_codes(codec, codes, "parquet", tmp_path)
    with pytest.raises(InputError, match="choose from float32"):
        export_codes(codec, codes, "npz", tmp_path, dtype="int2")
    with pytest.raises(InputError, match="no codes"):
        export_codes(codec, codes[:0], "npz", tmp_path)
    with pytest.raises(InputError, match="this codec makes"):
        export_codes(codec, codes[:, :3], "npz", tmp_path)
    with pytest.raises(InputError, match="columns"):
        export_codes(codec, codes, "npz", tmp_path, queries=Q[:, :3])


@pytest.mark.parametrize("metric", METRICS)
@pytest.mark.parametrize("reduction", ["random", "pca-whitened"])
def test_maps_of_every_kind_are_exported(reduction, metric, tmp_path):
    """A way back that is no rotation, and none at all."""
    faiss = pytest.importorskip("faiss")
    codec = Codec("int8", reduction=reduction, dims=9, metric=metric).fit(X + 0.5)
    codes = codec.encode(X + 0.5)
    done = export_codes(codec, codes, "faiss", tmp_path, dtype="float32", queries=Q)
    assert done.exact
    found = faiss.read_index(str(done.path)).search(Q.numpy(), 10)[1]
    own_space = codec.map_.decoder is None
    if own_space:
        assert done.agreement > 0.995
    else:
        assert agreement(found, codec, codes) > 0.995
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        own = export_codes(codec, codes, "faiss", tmp_path, queries=Q)
    assert own.exact == (metric == "dot" or (metric == "euclidean" and codec.map_.orthonormal))
    assert own.agreement > (0.995 if own.exact else 0.3)
