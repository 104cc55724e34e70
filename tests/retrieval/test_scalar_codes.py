"""int8 and int4, byte for byte against faiss, and what their ranges and rotations are worth."""

import numpy as np
import pytest
import torch

from lowdim.retrieval import Codec, Int4, Int4Rotated, Int8, Int8Rotated
from lowdim.retrieval.scalar_codes import random_rotation
from tests.retrieval.code_checks import (
    check_constant,
    check_nothing,
    check_shapes,
    fitted,
    gaussian,
    relative_error,
)

NAMES = ("int8", "int4", "int8-rotated", "int4-rotated")


def faiss_quantizer(code):
    faiss = pytest.importorskip("faiss")
    faiss.omp_set_num_threads(1)
    kind = faiss.ScalarQuantizer.QT_8bit if code.bits == 8 else faiss.ScalarQuantizer.QT_4bit
    found = faiss.ScalarQuantizer(code.dims, kind)
    faiss.copy_array_to_vector(torch.cat([code.low, code.width]).numpy(), found.trained)
    return found


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("m", [1, 2, 7, 64])
def test_shapes(name, m):
    check_shapes(name, m, m if "8" in name else (m + 1) // 2)


@pytest.mark.parametrize("name", NAMES)
def test_constant_and_empty(name):
    check_constant(name)
    check_nothing(name)


@pytest.mark.parametrize("m", [1, 5, 15, 16, 32, 100, 384])
@pytest.mark.parametrize("kind", [Int8, Int4])
def test_bytes_and_values_of_faiss(kind, m):
    """Also beyond the range, on constant columns, and for every width of its vector units."""
    z = gaussian(2000, m, fall=0.3, shift=0.1)
    z[:, 0] = 0.25
    code = kind.fit(z[:500])
    theirs = faiss_quantizer(code)
    far = 3 * z + gaussian(2000, m, seed=1)
    for x in (z, far):
        codes = theirs.compute_codes(x.numpy())
        assert np.array_equal(code.encode(x), codes)
        assert np.allclose(code.decode(code.encode(x)), theirs.decode(codes), atol=1e-6)


def test_faiss_reads_our_codes_in_an_index():
    faiss = pytest.importorskip("faiss")
    faiss.omp_set_num_threads(1)
    x = gaussian(600, 24)
    for name, kind in (
        ("int8", faiss.ScalarQuantizer.QT_8bit),
        ("int4", faiss.ScalarQuantizer.QT_4bit),
    ):
        codec = Codec(name, metric="dot").fit(x)
        codes = codec.encode(x)
        index = faiss.IndexScalarQuantizer(24, kind, faiss.METRIC_INNER_PRODUCT)
        trained = torch.cat([codec.code_.low, codec.code_.width]).numpy()
        faiss.copy_array_to_vector(trained, index.sq.trained)
        index.is_trained = True
        index.add_sa_codes(codes.numpy())
        theirs, ids = index.search(x[:20].numpy(), 5)
        found, scores = codec.search(codes, x[:20], 5)
        assert np.allclose(scores, theirs, atol=1e-4)
        assert (found.numpy() == ids).mean() > 0.97  # but for ties in the last bit


@pytest.mark.parametrize("kind", [Int8, Int4])
def test_less_error_than_the_ranges_of_faiss(kind):
    faiss = pytest.importorskip("faiss")
    faiss.omp_set_num_threads(1)
    z = gaussian(3000, 16, fall=0.5)
    z = z + 0.2 * z**3
    qt = faiss.ScalarQuantizer.QT_8bit if kind is Int8 else faiss.ScalarQuantizer.QT_4bit
    theirs = faiss.ScalarQuantizer(16, qt)
    theirs.train(z.numpy())
    error = np.square(theirs.decode(theirs.compute_codes(z.numpy())) - z.numpy()).sum()
    code = kind.fit(z)
    ours = float((code.decode(code.encode(z)) - z).square().sum())
    assert ours < (1 if kind is Int8 else 0.6) * error


def test_errors_of_a_gaussian():
    """Max 1960: 0.01154 of the variance is left by 16 values, 0.0000871 by 256."""
    z = gaussian(20_000, 8, shift=-2.0)
    assert relative_error(Int4.fit(z), z) == pytest.approx(0.01154, rel=0.03)
    assert relative_error(Int8.fit(z), z) == pytest.approx(8.71e-5, rel=0.15)
    assert relative_error(Int4Rotated.fit(z), z) == pytest.approx(0.01154, rel=0.03)
    assert relative_error(Int8Rotated.fit(z), z) == pytest.approx(8.71e-5, rel=0.15)


@pytest.mark.parametrize("m", [1, 2, 50])
def test_random_rotation(m):
    turn = random_rotation(m, 3)
    assert torch.allclose(turn.double().T @ turn.double(), torch.eye(m).double(), atol=1e-6)
    assert torch.equal(turn, random_rotation(m, 3))
    if m > 1:
        assert not torch.allclose(turn, random_rotation(m, 4), atol=0.1)


def test_rotations_are_uniform():
    """Haar: entries average 0, also the diagonal, which QR alone leaves of one sign."""
    mean = torch.stack([random_rotation(4, seed) for seed in range(400)]).mean(0)
    assert mean.abs().max() < 4 * 0.5 / 20  # standard deviation 1/2 each, over sqrt(400)


def test_rotation_mends_rare_large_values():
    """Rows with one large coordinate each: a grid must be coarse, unless they are spread."""
    z = 0.1 * gaussian(2000, 64)
    z[torch.arange(2000), torch.randint(64, (2000,))] += 5
    assert relative_error(fitted("int4-rotated", z), z) < relative_error(fitted("int4", z), z)


def test_the_seed_of_the_rotation_is_part_of_the_code():
    z = gaussian(200, 12)
    one, two = fitted("int8-rotated", z, seed=1), fitted("int8-rotated", z, seed=2)
    assert (one.options(), two.options()) == ({"seed": 1}, {"seed": 2})
    assert not torch.equal(one.encode(z), two.encode(z))
    assert one.overhead == 2 * 12 * 4
    assert torch.allclose(one.decode(one.encode(z)), two.decode(two.encode(z)), atol=0.1)


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("metric", ["cosine", "dot", "euclidean"])
def test_search_ranks_the_decoded_vectors(name, metric):
    x = gaussian(400, 12, shift=0.2)
    codec = Codec(name, metric=metric).fit(x)
    codes = codec.encode(x)
    found, scores = codec.search(codes, x[:30], 5)
    y, q = codec.decode(codes).double(), x[:30].double()
    if metric == "cosine":
        y, q = y / y.norm(dim=1, keepdim=True), q / q.norm(dim=1, keepdim=True)
    every = -torch.cdist(q, y) if metric == "euclidean" else q @ y.T
    expected = every.topk(5).values
    assert torch.allclose(scores.double(), expected, atol=2e-3 if metric == "euclidean" else 1e-4)
    assert torch.allclose(every.gather(1, found), expected, atol=1e-4)
