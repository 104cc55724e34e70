"""Recall on MiniLM sentence vectors, against sentence-transformers' own codes of the same bytes."""

import numpy as np
import pytest
import torch

from benchmarks.inputs import minilm_embeddings
from lowdim.retrieval import Codec, exact_search, hamming_search

pytestmark = pytest.mark.slow

K = 10


@pytest.fixture(scope="module")
def sentences():
    x = minilm_embeddings(2000)
    return x[:300], x[300:]


def recall(found, truth):
    return float((torch.as_tensor(found)[:, :, None] == truth[:, None]).any(1).float().mean())


def ours(name, q, x, **options):
    codec = Codec(name, **options).fit(x)
    return codec, codec.encode(x)


def test_at_least_as_good_as_sentence_transformers(sentences):
    module = pytest.importorskip("sentence_transformers.util.quantization")
    q, x = sentences
    truth = exact_search(x, q, K)[0]

    theirs = module.quantize_embeddings(x.numpy(), "ubinary")
    asked = module.quantize_embeddings(q.numpy(), "ubinary")
    hamming = recall(hamming_search(torch.from_numpy(theirs), torch.from_numpy(asked), K)[0], truth)
    codec, codes = ours("binary", q, x)
    assert codes.shape == theirs.shape
    assert recall(hamming_search(codes, codec.encode(q), K)[0], truth) > hamming
    binary = recall(codec.search(codes, q, K)[0], truth)
    assert binary > hamming + 0.05

    rows = module.quantize_embeddings(x.numpy(), "int8", calibration_embeddings=x.numpy())
    for query in (
        q.numpy(),
        module.quantize_embeddings(q.numpy(), "int8", calibration_embeddings=x.numpy()),
    ):
        scores = torch.from_numpy(query.astype(np.float32) @ rows.astype(np.float32).T)
        int8 = recall(scores.topk(K).indices, truth)
        codec, codes = ours("int8", q, x)
        assert codes.shape == rows.shape
        assert recall(codec.search(codes, q, K)[0], truth) >= int8


@pytest.mark.parametrize("size", [12, 24, 48, 96])
def test_dealt_out_bits_are_the_best_of_their_size(sentences, size):
    q, x = sentences
    truth = exact_search(x, q, K)[0]

    def found(name, dims):
        codec, codes = ours(name, q, x, reduction="pca", dims=dims)
        assert codec.bytes_per_vector == size
        return recall(codec.search(codes, q, K)[0], truth)

    others = [found("int8", size), found("int4", 2 * size), found("float8", size)]
    if 8 * size <= x.shape[1]:
        others.append(found("binary", 8 * size))
    assert found(f"bits{size}", x.shape[1]) > max(others) - 0.005


@pytest.mark.parametrize(("code", "dims"), [("float32", 48), ("int4", 96), ("bits48", 384)])
def test_cosine_of_what_is_decoded_beats_the_distance_of_coordinates(sentences, code, dims):
    q, x = sentences
    truth = exact_search(x, q, K)[0]
    codec, codes = ours(code, q, x, reduction="pca", dims=dims)
    z = codec.code_.decode(codes)
    near = torch.cdist(codec.map_.reduce(q), z).topk(K, largest=False).indices
    assert recall(codec.search(codes, q, K)[0], truth) > recall(near, truth)
