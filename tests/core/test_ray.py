"""A real Ray cluster of two cores: the same numbers as here, also when workers are killed."""

import os
import time
from functools import partial
from pathlib import Path

import psutil
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch

import lowdim
from lowdim import errors
from lowdim.core import engine as engine_module
from lowdim.core import shards
from lowdim.core.engine import LocalEngine, accumulate, merged, open_engine
from lowdim.core.moments import Moments
from lowdim.core.neighbors import Neighbors
from lowdim.core.ray_engine import RayEngine
from lowdim.core.shards import Held
from lowdim.datasets import cube
from lowdim.errors import InputError, LowdimError, MissingExtraError
from lowdim.io.points import open_points

ray = pytest.importorskip("ray")
X = cube(1200, 4, 12, seed=1)


@pytest.fixture(scope="module")
def cluster():
    made = RayEngine(num_cpus=2, object_store_memory=2**27, include_dashboard=False)
    yield made
    ray.shutdown()


@pytest.fixture(autouse=True)
def small(monkeypatch):
    monkeypatch.setattr(shards, "ROWS", 150)


@pytest.fixture
def folder(tmp_path):
    """Parquet parts of unequal size."""
    path = tmp_path / "points"
    path.mkdir()
    for i, part in enumerate(X.split([500, 100, 600])):
        table = pa.table({"v": list(part.numpy())})
        pq.write_table(table, path / f"part-{i}.parquet", row_group_size=100)
    return path


def killed_once(mark: Path, function, item):
    """The function; the first worker to come for item 3 waits to be killed."""
    if item.start == 450:
        try:
            mark.touch(exist_ok=False)
        except FileExistsError:
            pass
        else:
            mark.write_text(str(os.getpid()))
            time.sleep(60)
    return function(item)


def kill_when_marked(mark: Path, results):
    """Pass the results on, and kill -9 the worker that waits."""
    killed = []
    deadline = time.monotonic() + 30
    while not killed and time.monotonic() < deadline:
        if mark.exists() and mark.read_text():
            worker = psutil.Process(int(mark.read_text()))
            assert "ray" in " ".join([worker.name(), *worker.cmdline()])
            worker.kill()
            killed.append(worker.pid)
        time.sleep(0.01)
    assert killed
    yield from results


def test_results_come_in_order_and_few_are_under_way(cluster):
    drawn = []

    def items():
        for i in range(30):
            drawn.append(i)
            yield i

    results = cluster.map(partial(pow, 2), items())
    assert next(results) == 1
    assert len(drawn) <= 6  # two tasks a core, the one taken, and the next
    assert list(results) == [2**i for i in range(1, 30)]
    assert cluster.tasks == 2


def test_moments_and_spectrum_are_the_same(cluster, folder):
    source = open_points(folder)
    parts = shards.shards(source)
    here = LocalEngine().reduce(partial(Moments, 12), parts)
    there = cluster.reduce(partial(Moments, 12), parts)
    assert there.count == here.count == 1200
    torch.testing.assert_close(there.mean, here.mean, rtol=1e-12, atol=1e-14)
    torch.testing.assert_close(there.scatter, here.scatter, rtol=1e-12, atol=1e-12)
    again = cluster.reduce(partial(Moments, 12), parts)
    assert torch.equal(again.scatter, there.scatter)  # merged in order, whoever was first


def test_a_spectrum_is_made_by_name_of_the_engine(cluster, folder):
    source = open_points(folder)
    there = lowdim.Spectrum.of_points(source, engine="ray")
    assert torch.allclose(there.values, lowdim.Spectrum.of_points(X).values, rtol=1e-9)


def test_neighbours_are_bit_equal(cluster, folder):
    whole = Neighbors.of_points(X, 7, method="exact")
    for points in (open_points(folder), X):
        found = Neighbors.of_points(points, 7, engine=cluster)
        assert torch.equal(found.indices, whole.indices)
        assert torch.equal(found.distances, whole.distances)
    queries = X[:300] + 0.01
    whole = Neighbors.of_points(X, 7, queries=queries, method="exact")
    found = Neighbors.of_points(open_points(folder), 7, queries=queries, engine=cluster)
    assert torch.equal(found.indices, whole.indices)


def test_graphs_state_their_recall(cluster, folder, monkeypatch):
    pytest.importorskip("faiss")
    from lowdim.core import streamed

    monkeypatch.setattr(streamed, "GRAPH", 500)
    found = Neighbors.of_points(open_points(folder), 7, method="hnsw", engine=cluster)
    true = Neighbors.of_points(X, 7).indices
    hits = (found.indices[:, :, None] == true[:, None]).any(2).double().mean()
    assert found.recall == pytest.approx(float(hits), abs=0.02)
    assert found.recall > 0.95


@pytest.mark.parametrize("reference", [None, 300])
def test_measure_gives_the_same_numbers(cluster, folder, tmp_path, reference):
    names = ("participation-ratio", "vendi", "two-nn", "mle")
    here = lowdim.measure(folder, *names, reference=reference)
    there = lowdim.measure(folder, *names, reference=reference, engine="ray", out=tmp_path / "out")
    for id in here:
        assert there[id].value == pytest.approx(here[id].value, rel=1e-9)
        assert there[id].n == here[id].n
    scores = pq.read_table(tmp_path / "out" / "scores")
    assert scores["row"].to_pylist() == list(range(1200))
    written = torch.tensor(scores["geometry/mle"].to_pylist())
    torch.testing.assert_close(written.double(), here["mle"].per_point.double(), rtol=1e-6, atol=0)


def test_a_killed_worker_changes_no_number(cluster, folder, tmp_path):
    parts = shards.shards(open_points(folder))
    assert [p.start for p in parts].count(450) == 0
    parts = [open_points(folder).slice(a, a + 150) for a in range(0, 1200, 150)]
    sums = partial(accumulate, partial(Moments, 12))
    expected = merged(partial(Moments, 12), map(sums, parts))
    mark = tmp_path / "waits"
    results = cluster.map(partial(killed_once, mark, sums), parts)
    first = next(results)  # the work is under way
    found = merged(partial(Moments, 12), [first, *kill_when_marked(mark, results)])
    assert found.count == 1200
    torch.testing.assert_close(found.scatter, expected.scatter, rtol=1e-12, atol=1e-12)
    assert torch.equal(found.mean, expected.mean) or torch.allclose(found.mean, expected.mean)


def always_dies(item):
    os.kill(os.getpid(), 9)


def test_a_shard_that_kills_every_worker_ends_in_one_sentence(cluster):
    engine = RayEngine(retries=1)
    with pytest.raises(LowdimError, match="died 2 times on one shard"):
        list(engine.map(always_dies, [1]))


def test_what_a_worker_raises_is_what_comes_back(cluster, tmp_path):
    x = X.clone()
    x[700, 3] = torch.inf
    import numpy as np

    np.save(tmp_path / "x.npy", x.numpy())
    with pytest.raises(InputError, match="row 700, column 3") as caught:
        lowdim.measure(tmp_path / "x.npy", "participation-ratio", engine=cluster)
    assert "\n" not in str(caught.value)
    zero = X.clone()
    zero[333] = 0
    with pytest.raises(InputError, match="row 333 is all zeros"):
        lowdim.measure(zero, "vendi", engine=cluster)


def test_without_ray_one_line_says_what_to_install(monkeypatch):
    def missing(module, extra):
        raise MissingExtraError(f"{module} is not installed: pip install 'lowdim[{extra}]'")

    monkeypatch.setattr("lowdim.core.ray_engine.require", missing)
    with pytest.raises(errors.MissingExtraError, match=r"lowdim\[ray\]"):
        open_engine("ray")
    assert engine_module.open_engine("local").tasks == 1
    assert Held(X).n == 1200
