"""Sizes by arithmetic, recall by brute force in numpy and faiss, and no leak of the queries."""

import json
import math

import numpy as np
import pytest
import torch

from lowdim.core.random import permutation
from lowdim.errors import InputError
from lowdim.retrieval import Codec, size_recall, smallest


def clustered(n=1500, d=48, rank=10, seed=0):
    """Unit rows near a few centres, most variance in ``rank`` directions."""
    g = torch.Generator().manual_seed(seed)
    centres = torch.randn(20, rank, generator=g) * 2
    z = centres[torch.randint(20, (n,), generator=g)] + torch.randn(n, rank, generator=g)
    x = z @ torch.randn(rank, d, generator=g) + 0.3 * torch.randn(n, d, generator=g)
    return x / x.norm(dim=1, keepdim=True)


def by_dims(found, name):
    return {row.dims: row for row in found.rows if row.format == name}


def test_sizes_and_ratios():
    found = size_recall(clustered(), dims=[9, 48], n_queries=50)
    sizes = {(row.dims, row.format): row.bytes for row in found.rows}
    assert sizes == {
        (48, "float32"): 192, (48, "float16"): 96, (48, "int8"): 48, (48, "binary"): 6,
        (9, "float32"): 36, (9, "float16"): 18, (9, "int8"): 9, (9, "binary"): 2,
    }  # fmt: skip
    assert all(row.ratio == 192 / row.bytes for row in found.rows)
    assert [row.bytes for row in found.rows] == sorted((r.bytes for r in found.rows), reverse=True)
    assert (found.n_queries, found.n_reference, found.metric) == (50, 1450, "cosine")


def test_full_float32_is_the_truth_itself():
    found = size_recall(clustered(), dims=[48], formats=["float32"])
    assert found.rows[0].recall == 1
    assert 0.98 < found.rows[0].low < 1 == found.rows[0].high
    assert found.n_queries == 300  # a fifth


def scores(queries, rows, metric):
    """(m, n) float64, larger is nearer."""
    if metric == "cosine":
        return queries @ (rows / np.linalg.norm(rows, axis=1, keepdims=True)).T
    return -((queries[:, None] - rows[None]) ** 2).sum(2)


@pytest.mark.parametrize("metric", ["cosine", "euclidean"])
def test_recall_by_brute_force(metric):
    """Each row as what its code stands for, each query as it is: PCA and both searches in numpy."""
    x, k, m = clustered(600, 24), 5, 8
    x = x if metric == "cosine" else 3 * x + 1
    found = size_recall(x, dims=[m, 24], k=k, n_queries=100, seed=3)
    assert found.metric == metric
    order = permutation(600, 3)
    queries, rows = x[order[:100]].double().numpy(), x[order[100:]].double().numpy()

    def recall(stored):
        found = (-scores(queries, r, metric).round(5) for r in (stored, rows))
        best = [np.argsort(x, kind="stable")[:, :k] for x in found]  # few bits tie: the first row
        return np.mean([len(set(a) & set(b)) / k for a, b in zip(*best, strict=True)])

    mean = rows.mean(0)
    basis = np.linalg.svd(rows - mean, full_matrices=False)[2][:m].T
    projected = mean + (rows - mean) @ basis @ basis.T
    hit = 1 / (100 * k) + 1e-9  # of two rows that float32 cannot tell apart
    assert by_dims(found, "float32")[m].recall == pytest.approx(recall(projected), abs=hit)
    for row in found.rows:
        reduction = "none" if row.dims == 24 else "pca"
        codec = Codec(row.format, reduction=reduction, dims=row.dims, metric=metric, seed=3)
        stored = codec.fit(rows).decode(codec.encode(rows)).double().numpy()
        assert row.recall == pytest.approx(recall(stored), abs=hit), row
        assert row.bytes == codec.bytes_per_vector


def test_int8_matches_a_faiss_scalar_quantiser_in_quality():
    faiss = pytest.importorskip("faiss")
    x = clustered(1500, 32, rank=32)
    found = size_recall(x, dims=[32], formats=["int8"], n_queries=200)
    order = permutation(1500, 0)
    queries, rows = x[order[:200]].numpy(), x[order[200:]].numpy()
    flat = faiss.IndexFlatL2(32)
    flat.add(rows)
    index = faiss.IndexScalarQuantizer(32, faiss.ScalarQuantizer.QT_8bit)
    index.train(rows)
    index.add(rows)
    truth, hits = flat.search(queries, 10)[1], index.search(queries, 10)[1]
    recall = np.mean([len(set(a) & set(b)) / 10 for a, b in zip(truth, hits, strict=True)])
    assert found.rows[0].recall >= recall - 0.005
    assert found.rows[0].recall == pytest.approx(recall, abs=0.02)


def test_more_bytes_find_more():
    found = size_recall(clustered(rank=40), dims=[4, 12, 24, 48])
    for name in ("float32", "float16", "int8", "binary"):
        recalls = [row.recall for _, row in sorted(by_dims(found, name).items())]
        assert recalls == sorted(recalls)
    full = {name: by_dims(found, name)[48].recall for name in ("float16", "int8", "binary")}
    assert full["float16"] > 0.99
    assert full["int8"] > 0.95
    assert 10 / found.n_reference < full["binary"] < full["int8"]


def test_data_of_few_directions_need_few_dimensions():
    g = torch.Generator().manual_seed(0)
    x = torch.randn(1000, 6, generator=g) @ torch.randn(6, 40, generator=g) + 5
    found = size_recall(x, dims=[6], formats=["float32"])
    assert found.rows[0].recall > 0.995
    assert found.metric == "euclidean"


def test_queries_take_no_part_in_the_fit():
    """A wild query must not stretch the grid of int8: the recall of the others stays."""
    x = 2 * clustered()
    order = permutation(len(x), 0)
    spoiled = x.clone()
    spoiled[order[0]] *= 1e4
    clean, other = (
        size_recall(v, dims=[48], formats=["int8"], n_queries=100).rows[0].recall
        for v in (x, spoiled)
    )
    assert abs(clean - other) <= 1 / 100 + 1e-9


def test_float16_saturates_and_constant_columns_survive():
    x = clustered(300, 8).double() * 1e7
    x[:, 3] = 0
    for row in size_recall(x, dims=[4, 8], n_queries=40).rows:
        assert 0 <= row.low <= row.recall <= row.high <= 1


def test_intervals_cover_the_recall_of_all_queries():
    """Sixty small samples of queries against one large one."""
    x = clustered(4000, 32, rank=24)
    options = {"dims": [12], "formats": ["float32"], "k": 10}
    truth = np.mean(
        [size_recall(x, seed=s, n_queries=800, **options).rows[0].recall for s in (0, 1)]
    )
    small = [size_recall(x, seed=s, n_queries=50, **options).rows[0] for s in range(2, 62)]
    assert sum(row.low <= truth <= row.high for row in small) >= 51


def test_smallest_wants_the_lower_end_above_the_target():
    found = size_recall(clustered(rank=40), dims=[8, 24, 48])
    best = smallest(found.rows, recall=0.9)
    assert best.low >= 0.9
    assert all(row.bytes >= best.bytes for row in found.rows if row.low >= 0.9)
    assert smallest(found.rows, recall=1.0) is None


def test_default_ladder_and_json():
    found = size_recall(clustered(500, 100), formats=["int8"])
    assert sorted(by_dims(found, "int8")) == [16, 32, 64, 96, 100]
    again = json.loads(json.dumps(found.to_dict()))
    assert again["rows"][0] == {
        "dims": 100, "format": "int8", "bytes": 100, "ratio": 4.0,
        "recall": found.rows[0].recall, "low": found.rows[0].low, "high": found.rows[0].high,
    }  # fmt: skip
    assert "recall@10" in str(found)
    assert math.isfinite(again["rows"][0]["recall"])


def test_same_seed_same_numbers():
    a, b, c = (size_recall(clustered(), dims=[8], seed=s, n_queries=60) for s in (1, 1, 2))
    assert a == b != c


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"k": 200}, "k=200"),
        ({"dims": [100]}, "dims=100"),
        ({"dims": [0]}, "dims=0"),
        ({"formats": ["int4"]}, "int4"),
    ],
)
def test_bad_options(options, message):
    with pytest.raises(InputError, match=message):
        size_recall(clustered(200, 16), **options)


def test_memory_changes_no_figure():
    x = clustered()
    assert size_recall(x, dims=[8, 48]) == size_recall(x, dims=[8, 48], memory="16MiB")


def test_bad_points():
    with pytest.raises(InputError, match="at least 5 rows"):
        size_recall(torch.ones(2, 3))
