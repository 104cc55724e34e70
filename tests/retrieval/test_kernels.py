"""Compiled passes against products of matrices and the bytes of torch: with numba as without."""

import os
import subprocess
import sys

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from lowdim.retrieval import Codec
from lowdim.retrieval.code import FEW, codes, compiles, find_code
from lowdim.retrieval.k_means import nearest
from tests.retrieval.code_checks import fitted, gaussian

pytest.importorskip("numba")
CODED = (
    "float16",
    "bfloat16",
    "float8",
    "float8-e5m2",
    "int8",
    "int4",
    "int8-rotated",
    "bits7",
    "bits20",
)
CPU = torch.device("cpu")


def named(name):
    return f"{name}6" if codes()[name].sized else name


@pytest.fixture
def plainly(monkeypatch):
    """What a function gives where numba is not installed."""

    def of(function, *given):
        with monkeypatch.context() as patch:
            patch.setattr("lowdim.retrieval.code._numba", lambda: False)
            assert not compiles(torch.empty(0))
            return function(*given)

    return of


@pytest.mark.parametrize("name", sorted(codes()))
@pytest.mark.parametrize("n_queries", [1, 2, 3, FEW])
def test_products_are_those_without_numba(name, n_queries, plainly):
    z = gaussian(400, 21, fall=0.5, shift=0.2)
    code = fitted(named(name), z)
    rows, q, shift = code.encode(z), gaussian(n_queries, 21, seed=3), gaussian(1, 21, seed=4)[0]
    for asked in ((q,), (q, shift)):
        fast, slow = code.products(*asked), plainly(code.products, *asked)
        assert torch.allclose(fast(rows), slow(rows), rtol=1e-5, atol=2e-5)
        assert fast(rows[:0]).shape == slow(rows[:0]).shape
        assert torch.allclose(fast(rows[5:9]), fast(rows)[:, 5:9], atol=1e-5)


@pytest.mark.parametrize("name", ["int8", "int4", "float16", "float8", "bits6", "pq6", "binary"])
@pytest.mark.parametrize("metric", ["cosine", "dot", "euclidean"])
@pytest.mark.parametrize("reduction", ["none", "pca", "sparse"])
def test_one_query_finds_the_same_without_numba(name, metric, reduction, plainly):
    x = gaussian(900, 24, fall=0.4, shift=0.3)
    codec = Codec(name, metric=metric, reduction=reduction, dims=24).fit(x)
    rows = codec.encode(x)
    for query in gaussian(3, 24, seed=7):
        ids, scores = codec.search(rows, query[None], 8)
        slow_ids, slow = plainly(codec.search, rows, query[None], 8)
        assert torch.allclose(scores, slow, rtol=1e-4, atol=1e-4)
        apart = (slow[0, :-1] - slow[0, 1:]) > 1e-3
        assert torch.equal(ids[0, :-1][apart], slow_ids[0, :-1][apart])


@pytest.mark.parametrize("name", CODED)
def test_bytes_are_those_without_numba(name, plainly):
    for m in (20, 33):
        z = gaussian(500, m, fall=0.7, shift=0.1)
        z[:, 3] = 0.25
        code = fitted(name, z)
        for x in (z, 1e4 * z, 1e-4 * z, 1e30 * z, 0 * z, -0.0 * z):
            assert torch.equal(code.encode(x), plainly(code.encode, x))


@settings(max_examples=300, deadline=None)
@given(
    bits=st.lists(st.integers(0, 2**32 - 1), min_size=1, max_size=40),
    name=st.sampled_from(["float16", "bfloat16", "float8", "float8-e5m2"]),
)
def test_any_float_is_rounded_as_torch_does(bits, name):
    z = torch.tensor(bits, dtype=torch.uint32).view(torch.float32).nan_to_num()[:, None]
    kind, _ = find_code(name)
    code = kind(1, 0) if name.startswith("float8") else kind(1)
    limits = torch.finfo(kind.dtype)
    expected = z.clamp(limits.min, limits.max).to(kind.dtype).view(torch.uint8)
    assert torch.equal(code.encode(z), expected)


@pytest.mark.parametrize("name", ["float8", "float8-e5m2"])
def test_ties_go_to_the_even_number(name):
    """Halfway between each two neighbours of the format."""
    kind, _ = find_code(name)
    every = torch.arange(127, dtype=torch.uint8).view(kind.dtype).float()
    middle = ((every[1:] + every[:-1]) / 2)[every[1:].isfinite(), None]
    found = kind(1, 0).encode(torch.cat([middle, -middle]))
    assert (found % 2 == 0).all()


@pytest.mark.parametrize("name", ["int8", "int4", "float16", "bits6", "pq6"])
def test_codes_of_another_width_are_refused(name):
    """A kernel checks no bounds, so what calls it does."""
    z = gaussian(300, 12)
    code = fitted(name, z)
    with pytest.raises(RuntimeError, match=r"shape|divisible"):
        code.products(z[:1])(code.encode(z)[:, :-1].contiguous())


def test_rows_that_are_not_in_order_in_memory():
    z = gaussian(300, 12)
    code = fitted("int8", z)
    rows = code.encode(z)
    wide = torch.cat([rows, rows], 1)
    found = code.products(z[:1])
    assert torch.equal(found(wide[::2, 12:]), found(rows[::2].contiguous()))
    assert torch.equal(code.encode(z.T.contiguous().T), rows)


def test_infinite_and_undefined_halves_stay_what_they_are():
    code = fitted("float16", gaussian(10, 3))
    rows = torch.tensor([[float("inf"), 1, 1], [float("nan"), 1, 1]]).half().view(torch.uint8)
    found = code.products(torch.ones(1, 3))(rows)[0]
    assert found[0].isinf()
    assert found[1].isnan()


def test_nothing_is_compiled_where_there_is_no_place_to_keep_it(tmp_path):
    """Neither beside the file nor in a home: compiled for the process alone."""
    program = (
        "from numba.core import caching\n"
        "caching.CacheImpl._locator_classes = []\n"
        "import torch\n"
        "from lowdim.retrieval.scalar_codes import Int8\n"
        "z = torch.randn(50, 4)\n"
        "code = Int8.fit(z)\n"
        "print(torch.allclose(code.products(z[:1])(code.encode(z)), z[:1] @ z.T, atol=0.1))\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=True,
        env=os.environ | {"OMP_NUM_THREADS": "1"},
    )  # fmt: skip
    assert done.stdout.strip() == "True"


@pytest.mark.parametrize(("n", "d", "k"), [(300, d, 37) for d in (1, 2, 3, 4, 5, 8, 31, 32)]
                         + [(5, 8, 1), (1, 1, 1), (0, 4, 3), (1100, 8, 256)])  # fmt: skip
def test_the_nearest_point_is_that_of_float64(n, d, k):
    g = torch.Generator().manual_seed(d)
    x, points = torch.randn(n, d, generator=g) + 3, torch.randn(k, d, generator=g) + 3
    labels, half = nearest(x, points)
    true = torch.cdist(x.double(), points.double()).square() / 2
    assert labels.shape == half.shape == (n,)
    torch.testing.assert_close(half.double(), true.amin(1), atol=1e-4, rtol=0)
    chosen = true[torch.arange(n), labels]
    torch.testing.assert_close(chosen, true.amin(1), atol=1e-4, rtol=0)


def test_of_equal_points_the_first_is_nearest():
    points = gaussian(6, 8)[[2, 0, 2, 1, 0, 2]]
    assert nearest(points, points)[0].tolist() == [0, 1, 0, 3, 1, 0]
    assert nearest(torch.zeros(3, 8), torch.zeros(4, 8))[0].tolist() == [0, 0, 0]
    assert nearest(torch.zeros(1, 4), torch.tensor([[0.0] * 4, [-0.0] * 4]))[0].tolist() == [0]
