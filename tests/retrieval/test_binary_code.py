"""Signs: their packing, their two values, and Hamming search against faiss."""

import math

import numpy as np
import pytest
import torch

from lowdim.errors import InputError
from lowdim.retrieval import BinaryCode, Codec, hamming_search
from tests.retrieval.code_checks import (
    check_constant,
    check_nothing,
    check_shapes,
    fitted,
    gaussian,
    relative_error,
)


@pytest.mark.parametrize("m", [1, 7, 8, 9, 64, 100])
def test_shapes(m):
    check_shapes("binary", m, -(-m // 8))


def test_constant_and_empty():
    check_constant("binary")
    check_nothing("binary")


@pytest.mark.parametrize("m", [8, 13])
def test_bits_are_signs_as_numpy_packs_them(m):
    z = gaussian(500, m, shift=3.0)
    code = BinaryCode.fit(z, seed=5)
    above = z @ code.rotation > (code.low + code.high) / 2
    assert np.array_equal(code.encode(z), np.packbits(above.numpy(), axis=1, bitorder="little"))
    assert above.float().mean() == pytest.approx(0.5, abs=0.05)


def test_values_are_the_means_of_each_side():
    """Two values of least error: a Gaussian's are +- sqrt(2 / pi), and leave 1 - 2 / pi."""
    z = gaussian(20_000, 6, shift=1.0)
    code = BinaryCode.fit(z)
    half = math.sqrt(2 / math.pi)
    assert torch.allclose((code.high - code.low) / 2, torch.full((6,), half), rtol=0.02)
    assert torch.allclose((code.high + code.low) / 2, torch.ones(6) @ code.rotation, atol=0.03)
    assert relative_error(code, z) == pytest.approx(1 - 2 / math.pi, rel=0.02)


def test_overhead_is_two_values_a_coordinate():
    assert fitted("binary", gaussian(100, 20)).overhead == 2 * 20 * 4


@pytest.mark.parametrize("width", [1, 3, 8])
def test_hamming_search_against_faiss(width):
    faiss = pytest.importorskip("faiss")
    faiss.omp_set_num_threads(1)
    g = torch.Generator().manual_seed(width)
    codes = torch.randint(256, (3000, width), dtype=torch.uint8, generator=g)
    queries = torch.randint(256, (40, width), dtype=torch.uint8, generator=g)
    index = faiss.IndexBinaryFlat(8 * width)
    index.add(codes.numpy())
    theirs, _ = index.search(queries.numpy(), 20)
    ids, distances = hamming_search(codes, queries, 20)
    assert np.array_equal(distances, theirs)
    bits = np.unpackbits((queries[:, None] ^ codes[None]).numpy(), axis=2).sum(2)
    assert np.array_equal(ids, bits.argsort(axis=1, kind="stable")[:, :20])  # ties by row


def test_hamming_search_of_what_it_cannot():
    codes = torch.zeros(4, 2, dtype=torch.uint8)
    with pytest.raises(InputError, match="queries have shape"):
        hamming_search(codes, torch.zeros(1, 3, dtype=torch.uint8))
    with pytest.raises(InputError, match="codes have shape"):
        hamming_search(codes.float(), codes)
    with pytest.raises(InputError, match="k=5"):
        hamming_search(codes, codes, 5)


def clustered(n=3000, d=64, seed=0):
    g = torch.Generator().manual_seed(seed)
    centres = torch.randn(60, d, generator=g) * torch.arange(1, d + 1) ** -0.5
    x = centres[torch.randint(60, (n,), generator=g)] + 0.3 * torch.randn(n, d, generator=g)
    return x + 0.5


def recall(found, truth):
    return float((found[:, :, None] == truth[:, None]).any(1).float().mean())


def test_queries_that_keep_their_bits_find_more_than_hamming():
    x = clustered()
    q, x = x[:200], x[200:]
    codec = Codec("binary").fit(x)
    codes = codec.encode(x)
    unit = torch.nn.functional.normalize
    truth = (unit(q) @ unit(x).T).topk(10).indices
    fine = recall(codec.search(codes, q, 10)[0], truth)
    coarse = recall(hamming_search(codes, codec.encode(q), 10)[0], truth)
    assert fine > coarse + 0.05
    rescored = codec.search(codes, q, 10, rescore=x, candidates=200)[0]
    assert recall(rescored, truth) > fine + 0.1
