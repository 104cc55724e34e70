"""HNSW over what codes stand for."""

from __future__ import annotations

import pytest
import torch

from lowdim.errors import InputError
from lowdim.retrieval.codec import Codec
from lowdim.retrieval.graph import STORAGES, Graph
from lowdim.retrieval.metric import METRICS
from lowdim.retrieval.recall import recall_at_k
from tests.retrieval.test_lists import Q, X, fitted

faiss = pytest.importorskip("faiss")


@pytest.mark.parametrize("metric", METRICS)
def test_finds_what_the_codec_finds_with_its_scores(metric):
    codec = fitted(metric, "float32")
    codes = codec.encode(X)
    graph = Graph.of(codec, codes, queries=Q)
    ids, scores = codec.search(codes, Q, 10)
    found, values = graph.search(Q, 10, effort=200)
    assert recall_at_k(found, ids).mean() > 0.98
    same = found == ids
    torch.testing.assert_close(values[same], scores[same], atol=1e-3, rtol=1e-4)


def test_recall_is_the_share_found_of_those_that_exact_search_finds():
    codec = fitted("cosine", "float32")
    codes = codec.encode(X)
    graph = Graph.of(codec, codes, queries=Q, links=4, effort=8)
    expected = recall_at_k(graph.search(Q, 10)[0], codec.search(codes, Q, 10)[0]).mean()
    assert graph.recall == pytest.approx(float(expected))
    assert graph.recall_n == len(Q)
    assert graph.recall < Graph.of(codec, codes, queries=Q).recall  # poor links find less


@pytest.mark.parametrize("storage", STORAGES)
def test_storages_take_the_bytes_that_are_counted(storage):
    codec = fitted("euclidean", "float32", "none", 24)
    graph = Graph.of(codec, codec.encode(X), storage=storage, links=8)
    assert graph.recall > 0.9
    width = {"float32": 4 * 24, "float16": 2 * 32, "bfloat16": 2 * 32, "int8": 32}[storage]
    whole = len(faiss.serialize_index(graph.index))
    assert graph.bytes_per_vector > width + 2 * 8 * 4  # vectors, and the links of the lowest layer
    assert graph.bytes_per_vector * len(X) == pytest.approx(whole, rel=0.02)


def test_format_of_the_graph_is_that_of_the_code_where_faiss_has_it():
    for code, storage in (("float32", "float32"), ("int8", "int8"), ("binary", "float16")):
        codec = fitted("cosine", code)
        assert Graph.of(codec, codec.encode(X[:300])).storage == storage


def test_fewer_rows_than_wanted_and_bad_arguments():
    codec = Codec("float32", metric="cosine").fit(X[:6])
    codes = codec.encode(X[:6])
    graph = Graph.of(codec, codes)
    ids, scores = graph.search(Q[:3], 6)
    assert ids.sort(1).values.tolist() == [[0, 1, 2, 3, 4, 5]] * 3
    assert (scores.diff(dim=1) <= 0).all()
    with pytest.raises(InputError, match="there are 6 rows"):
        graph.search(Q, 7)
    with pytest.raises(InputError, match="choose from float32"):
        Graph.of(codec, codes, storage="int2")
    with pytest.raises(InputError, match="no codes"):
        Graph.of(codec, codes[:0])
