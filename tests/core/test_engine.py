"""What every engine does, and the searches that run on one: the same numbers as in memory."""

import numpy as np
import pytest
import torch

from lowdim.core import pieces as pieces_module
from lowdim.core import shards, streamed
from lowdim.core.engine import LocalEngine, accumulate, merged, open_engine
from lowdim.core.moments import Moments
from lowdim.core.neighbors import Neighbors
from lowdim.core.pieces import Pieces
from lowdim.core.shards import Held
from lowdim.errors import InputError, MemoryBudgetError
from lowdim.io.points import open_points
from tests.core.test_neighbors import ADVERSARIAL, assert_nearest, normal


@pytest.fixture(autouse=True)
def small(monkeypatch):
    """Shards and blocks so small that there are many."""
    monkeypatch.setattr(shards, "ROWS", 350)
    monkeypatch.setattr(streamed, "LARGEST", 170)


def test_engines_by_name():
    assert isinstance(open_engine(), LocalEngine)
    assert isinstance(open_engine("local"), LocalEngine)
    engine = LocalEngine()
    assert open_engine(engine) is engine
    with pytest.raises(InputError, match="choose local, ray"):
        open_engine("dask")


def test_merges_of_shards_are_one_pass():
    x = normal(1000, 6) + 5
    parts = shards.shards(Held(x))
    assert len(parts) == 3
    one = LocalEngine().reduce(lambda: Moments(6), parts)
    many = merged(lambda: Moments(6), (accumulate(lambda: Moments(6), part) for part in parts))
    for found in (one, many):
        assert found.count == 1000
        np.testing.assert_allclose(
            found.second_moment(), np.cov(x.double().T, bias=True), rtol=1e-12
        )


@pytest.mark.parametrize("name", ADVERSARIAL)
def test_streamed_search_is_bit_equal_to_the_one_in_memory(name):
    x = ADVERSARIAL[name]
    for k in (1, 20):
        whole = Neighbors.of_points(x, k, method="exact")
        found = Neighbors.of_points(x, k, engine="local")
        assert torch.equal(found.indices, whole.indices)
        assert torch.equal(found.distances, whole.distances)
        queries = x[::3].clone()
        whole = Neighbors.of_points(x, k, queries=queries, method="exact")
        found = Neighbors.of_points(x, k, queries=Held(queries))
        assert torch.equal(found.indices, whole.indices)
        assert torch.equal(found.distances, whole.distances)


def test_a_twin_that_was_no_candidate_is_at_distance_zero():
    # float32 products lose the equal point among others near it and far from the centre
    x = ADVERSARIAL["tight clusters far away"]
    assert_nearest(Neighbors.of_points(x[:300], 1, queries=x[:300] + 0), x[:300], 1, x[:300])


@pytest.mark.parametrize("memory", [None, "32MiB"])
def test_files_are_searched_as_tensors_are(tmp_path, memory):
    x = normal(700, 9)
    np.save(tmp_path / "x.npy", x.numpy())
    source = open_points(tmp_path / "x.npy")
    found = Neighbors.of_points(source, 5, memory=memory)
    assert_nearest(found, x, 5)
    assert found.n_reference == 700
    assert_nearest(Neighbors.of_points(source, 5, queries=x[:9], memory=memory), x, 5, x[:9])
    assert_nearest(Neighbors.of_points(x, 5, queries=source, memory=memory), x, 5, x)
    part = Neighbors.of_points(source.slice(100, 400), 5, memory=memory)
    assert_nearest(part, x[100:400], 5)  # rows are numbered from the first of the slice


def test_faults_are_named(tmp_path):
    x = normal(300, 4)
    with pytest.raises(InputError, match="have 3 columns and x has 4"):
        Neighbors.of_points(Held(x), 5, queries=x[:, :3], engine="local")
    with pytest.raises(InputError, match="at least 301 points, x has 300"):
        Neighbors.of_points(Held(x), 300, engine="local")
    with pytest.raises(InputError, match="in memory: choose exact or hnsw"):
        Neighbors.of_points(x, 5, engine="local", method="tree")
    with pytest.raises(MemoryBudgetError, match="the 5 nearest"):
        Neighbors.of_points(x, 5, engine="local", memory="10KiB")


def test_one_graph_a_shard_finds_what_one_graph_does(monkeypatch):
    pytest.importorskip("faiss")
    monkeypatch.setattr(streamed, "GRAPH", 600)
    x = normal(2000, 16)
    found = Neighbors.of_points(x, 10, method="hnsw", engine="local")
    true = Neighbors.of_points(x, 10)
    assert not found.exact
    assert found.recall_n == 500
    hits = (found.indices[:, :, None] == true.indices[:, None]).any(2).double().mean()
    assert found.recall == pytest.approx(float(hits), abs=0.01)
    assert found.recall > 0.95
    assert not bool((found.indices == torch.arange(2000)[:, None]).any())
    kept = found.indices == true.indices
    torch.testing.assert_close(found.distances[kept], true.distances[kept], rtol=0, atol=0)


def test_pieces_are_used_and_damaged_ones_made_again(tmp_path):
    x = normal(600, 6)
    whole = Neighbors.of_points(x, 5)
    first = Pieces(tmp_path, {"x": 1})
    Neighbors.of_points(x, 5, pieces=first)
    assert first.reused == 0
    files = sorted(first.folder.iterdir())
    assert len(files) == 2
    files[0].write_bytes(files[0].read_bytes()[:-7])  # its end is lost
    again = Pieces(tmp_path, {"x": 1}, resume=True)
    found = Neighbors.of_points(x, 5, pieces=again)
    assert again.reused == 1
    assert torch.equal(found.indices, whole.indices)
    assert torch.equal(found.distances, whole.distances)
    assert Pieces(tmp_path, {"x": 2}, resume=True).folder != again.folder
    assert list(Pieces(tmp_path, {"x": 1}).folder.iterdir()) == []  # not resumed: made anew
    assert pieces_module.Pieces(None, {}).tensors("a", lambda: {"b": x})["b"] is x


def test_truncated_json_pieces_are_made_again(tmp_path):
    pieces = Pieces(tmp_path, {})
    assert pieces.json("a", lambda: {"v": float("nan")}) == {"v": None}
    (file,) = pieces.folder.iterdir()
    file.write_text('{"v":')
    assert pieces.json("a", lambda: [1]) == [1]
    assert pieces.json("a", lambda: [2]) == [1]
    assert pieces.reused == 1
