from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.neighbors import NearestNeighbors
from torch import Tensor

from lowdim.core import blocked
from lowdim.core.neighbors import Neighbors
from lowdim.errors import InputError, MemoryBudgetError

EXACT = ("exact", "tree")


@pytest.fixture(autouse=True)
def one_thread():
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def normal(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def brute(x: Tensor, k: int, queries: Tensor | None = None) -> tuple[Tensor, Tensor]:
    """All differences in float64, sorted by distance and then by index."""
    rows = (x if queries is None else queries).double()
    distances = torch.cdist(rows, x.double(), compute_mode="donot_use_mm_for_euclid_dist")
    if queries is None:
        distances.fill_diagonal_(torch.inf)
    distances, indices = distances.sort(dim=1, stable=True)
    return distances[:, :k], indices[:, :k]


def clusters(count: int = 5, size: int = 200, d: int = 16) -> Tensor:
    """Clusters of spread 1e-4, 1e3 away from each other and from the origin."""
    centers = 1e3 * torch.randint(-3, 4, (count, d), generator=torch.Generator().manual_seed(3))
    return centers.repeat_interleave(size, 0) + 1e-4 * normal(count * size, d)


def assert_nearest(found: Neighbors, x: Tensor, k: int, queries: Tensor | None = None) -> None:
    distances, indices = brute(x, k, queries)
    torch.testing.assert_close(found.distances.double(), distances, rtol=1.2e-7, atol=0)
    assert torch.equal(found.indices, indices)
    assert found.exact
    assert found.recall is None


@pytest.fixture
def completed(monkeypatch) -> list[int]:
    """How many rows each call of the second pass was given."""
    rows: list[int] = []
    original = blocked.Search.complete

    def spy(self, which, *args, **options):
        rows.append(len(which))
        return original(self, which, *args, **options)

    monkeypatch.setattr(blocked.Search, "complete", spy)
    return rows


ADVERSARIAL = {
    "tight clusters far away": clusters(),
    "offset": 1e3 + 1e-4 * normal(800, 16),
    "more duplicates than candidates": normal(12, 8).repeat(60, 1),
    "all the same": torch.ones(200, 5),
    "some duplicates": torch.cat([torch.zeros(25, 6), normal(400, 6)]),
    "grid": torch.cartesian_prod(*[torch.arange(8.0)] * 3),
    "binary codes": (normal(700, 24) > 0).float(),
    "equidistant": torch.eye(120),
    "one outlier": torch.cat([normal(500, 12), torch.full((1, 12), 1e6)]),
    "squares underflow": torch.cat([1e-25 * normal(200, 3), torch.ones(1, 3), -torch.ones(1, 3)]),
    "squares subnormal": torch.cat([1e-22 * normal(600, 3), torch.ones(1, 3), -torch.ones(1, 3)]),
    "constant columns": torch.cat([normal(300, 3), torch.full((300, 4), 7.0)], 1),
    "one column": 1e4 + 100 * normal(600, 1),
}


@pytest.mark.parametrize("method", EXACT)
@pytest.mark.parametrize("name", ADVERSARIAL)
def test_exact_on_adversarial_points_ties_by_index(name, method):
    x = ADVERSARIAL[name]
    for k in (1, 20):
        assert_nearest(Neighbors.of_points(x, k, method=method), x, k)


def test_second_pass_is_what_makes_tight_clusters_right(completed):
    x = clusters()
    assert_nearest(Neighbors.of_points(x, 20, method="exact"), x, 20)
    assert completed == [len(x)]  # products in float32 can prove nothing here


def test_scattered_points_and_one_outlier_need_no_second_pass(completed):
    x = normal(1500, 32)
    Neighbors.of_points(x, 20, method="exact")
    assert completed == []
    Neighbors.of_points(torch.cat([x, torch.full((1, 32), 1e6)]), 20, method="exact")
    assert sum(completed) <= 1  # the outlier alone


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("method", [*EXACT, "hnsw"])
@pytest.mark.parametrize("points", [normal(300, 12), clusters(3, 60), (normal(300, 16) > 0) * 1.0])
def test_inputs_are_never_changed_and_queries_agree(points, method, dtype):
    if method == "hnsw":
        pytest.importorskip("faiss")
    x = points.to(dtype)
    queries = x[:40].clone()
    kept, kept_queries = x.clone(), queries.clone()
    for given_queries in (None, queries):
        found = Neighbors.of_points(x, 7, queries=given_queries, method=method)
        assert torch.equal(x, kept)
        assert torch.equal(queries, kept_queries)
        assert found.distances.dtype == dtype
        if method != "hnsw":
            distances, indices = brute(kept, 7, given_queries)
            torch.testing.assert_close(found.distances.double(), distances, rtol=1.2e-7, atol=0)
            assert torch.equal(found.indices, indices)


@settings(max_examples=40, deadline=None)
@given(
    n=st.integers(2, 120),
    d=st.integers(1, 9),
    levels=st.sampled_from([1, 2, 5, 10**6]),
    method=st.sampled_from(EXACT),
    seed=st.integers(0, 10**6),
    data=st.data(),
)
def test_any_shape_with_any_ties(n, d, levels, method, seed, data):
    generator = torch.Generator().manual_seed(seed)
    x = torch.randint(0, levels, (n, d), generator=generator).float()
    queries = torch.randint(0, levels, (11, d), generator=generator).float()
    k = data.draw(st.integers(1, n - 1))
    assert_nearest(Neighbors.of_points(x, k, method=method), x, k)
    k = data.draw(st.integers(1, n))
    assert_nearest(Neighbors.of_points(x, k, queries=queries, method=method), x, k, queries)


@pytest.mark.parametrize("k", [1, 20, 130])
def test_many_blocks_agree_with_scikit_learn(monkeypatch, k):
    monkeypatch.setattr(blocked, "BLOCK", 256)
    x, queries = normal(1501, 20), normal(333, 20, seed=1)
    oracle = NearestNeighbors(n_neighbors=k, algorithm="kd_tree").fit(x.double().numpy())
    for given_queries in (None, queries):
        found = Neighbors.of_points(x, k, queries=given_queries, method="exact")
        rows = None if given_queries is None else given_queries.double().numpy()
        distances, indices = oracle.kneighbors(rows)
        np.testing.assert_allclose(found.distances, distances, rtol=1.2e-7)
        np.testing.assert_array_equal(found.indices, indices)


def test_a_small_budget_gives_the_same_bits_and_an_impossible_one_says_so():
    x = torch.cat([normal(600, 40), clusters(2, 60, 40)])
    free = Neighbors.of_points(x, 15, method="exact")
    tight = Neighbors.of_points(x, 15, method="exact", memory="14MiB")
    assert torch.equal(free.distances, tight.distances)
    assert torch.equal(free.indices, tight.indices)
    for method in EXACT:
        with pytest.raises(MemoryBudgetError, match="needs at least"):
            Neighbors.of_points(x, 15, method=method, memory="100kB")


@pytest.mark.parametrize("queries", [None, normal(20, 12, seed=2)])
def test_products_are_made_in_full_precision_whatever_the_user_allows(monkeypatch, queries):
    seen = set()
    original = blocked.half_squares

    def spy(*args):
        seen.add(torch.get_float32_matmul_precision())
        return original(*args)

    monkeypatch.setattr(blocked, "half_squares", spy)
    before = torch.get_float32_matmul_precision()
    try:
        torch.set_float32_matmul_precision("medium")
        Neighbors.of_points(normal(200, 12), 10, queries=queries, method="exact")
        assert torch.get_float32_matmul_precision() == "medium"  # the user's setting is back
    finally:
        torch.set_float32_matmul_precision(before)
    assert seen == {"highest"}


def test_duplicates_alone_need_no_second_pass(completed):
    x = normal(12, 8).repeat(60, 1)
    assert_nearest(Neighbors.of_points(x, 20, method="exact"), x, 20)
    assert_nearest(Neighbors.of_points(x, 20, queries=x[:12], method="exact"), x, 20, x[:12])
    assert completed == []


def test_rounding_bound_holds_for_products():
    x = torch.cat([normal(200, 300), 50 + 1e-3 * normal(200, 300)])
    frame = blocked.Frame.of(x)
    points, norms = frame.place(x, torch.float32)
    h = blocked.half_squares(points, norms, points, norms, points.new_empty(400 * 400)).double()
    true = (torch.cdist(x.double(), x.double(), compute_mode="donot_use_mm_for_euclid_dist")
            * frame.scale) ** 2 / 2  # fmt: skip
    q = 2 * norms.double()
    bound = blocked.rounding(300, torch.float32) * (q[:, None] + q)
    assert bool(((h - true).abs() <= bound).all())


@pytest.mark.parametrize("method", EXACT)
def test_permuting_the_points_permutes_the_distances(method):
    x = torch.cat([normal(400, 6), torch.zeros(5, 6)])
    order = torch.randperm(len(x), generator=torch.Generator().manual_seed(5))
    a, b = (Neighbors.of_points(p, 9, method=method) for p in (x, x[order]))
    assert torch.equal(a.distances[order], b.distances)


@pytest.mark.parametrize("scale", [1e200, 1e-200])
def test_squares_that_overflow_in_float64(scale):
    x = normal(200, 9).double()
    a, b = (Neighbors.of_points(p, 5, method="exact") for p in (x, x * scale))
    torch.testing.assert_close(b.distances / scale, a.distances, rtol=1e-12, atol=0)
    assert torch.equal(a.indices, b.indices)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.int8])
def test_half_precision_and_integers_are_promoted(dtype):
    x = (10 * normal(150, 8)).to(dtype)
    found = Neighbors.of_points(x, 4, method="exact")
    assert found.distances.dtype == torch.float32
    assert_nearest(found, x.float(), 4)


def test_hnsw_reports_the_recall_that_a_recount_gives():
    pytest.importorskip("faiss")
    x = (normal(400, 16) > 0).float()  # ties: recall by index is below one
    found = Neighbors.of_points(x, 10, method="hnsw")
    _, true = brute(x, 10)
    hits = (found.indices[:, :, None] == true[:, None]).any(2).double().mean()
    assert not found.exact
    assert found.recall_n == 400  # fewer points than the sample: all of them
    assert found.recall == pytest.approx(float(hits), abs=1e-12)
    assert 0.5 < found.recall < 1
    assert not bool((found.indices == torch.arange(400)[:, None]).any())


def test_auto_is_exact_on_both_sides_of_the_crossover():
    for d in (3, 30):
        x = normal(300, d)
        assert_nearest(Neighbors.of_points(x, 6), x, 6)


def test_head_and_the_facts_beside_the_numbers():
    found = Neighbors.of_points(normal(50, 4), 8)
    first = found.head(3)
    assert (found.k, first.k, first.n_reference, first.dim, len(first)) == (8, 3, 50, 4, 50)
    assert torch.equal(first.indices, found.indices[:, :3])
    for k in (0, 9):
        with pytest.raises(InputError, match="between 1 and 8"):
            found.head(k)


@pytest.mark.parametrize("method", EXACT)
def test_progress_ends_at_its_total(monkeypatch, method):
    monkeypatch.setattr(blocked, "BLOCK", 64)
    seen: list[tuple[int, int]] = []
    Neighbors.of_points(normal(300, 5), 3, method=method, progress=lambda *step: seen.append(step))
    assert seen == sorted(seen)
    assert seen[-1][0] == seen[-1][1] > 0


@pytest.mark.parametrize(
    ("x", "k", "options", "message"),
    [
        (normal(5, 2), 20, {}, "k=20 neighbours need at least 21 points, x has 5"),
        (normal(5, 2), 6, {"queries": normal(3, 2)}, "need at least 6 points, x has 5"),
        (normal(5, 2), 0, {}, "at least 1"),
        (normal(5, 2), 2.0, {}, "whole number"),
        (normal(5, 2), 2, {"queries": normal(3, 4)}, "queries have 4 columns and x has 2"),
        (normal(5, 2), 2, {"method": "magic"}, "choose from auto"),
        (torch.tensor([[0.0], [torch.nan], [1.0]]), 1, {}, "row 1"),
    ],
)
def test_bad_input_says_what_and_where(x, k, options, message):
    with pytest.raises(InputError, match=message):
        Neighbors.of_points(x, k, **options)
