"""A long measure that is killed goes on where it stopped, and ends with the same numbers."""

import json
import random
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch

import lowdim
from lowdim.cli import main
from lowdim.core import shards
from lowdim.datasets import cube
from lowdim.errors import InputError, MemoryBudgetError
from lowdim.io.points import open_points

NAMES = ("participation-ratio", "vendi", "two-nn", "mle")
X = cube(1500, 4, 10, seed=1)
ROOT = Path(__file__).parent.parent

SLOW = """
import sys, time, torch
torch.set_num_threads(1)
import lowdim
from lowdim import nouns
from lowdim.core import shards, streamed
shards.ROWS = 200
def slowly(function):
    def slow(*args):
        time.sleep(0.1)
        return function(*args)
    return slow
nouns._sums = slowly(nouns._sums)
streamed.Nearest.block = slowly(streamed.Nearest.block)
points, out, reference, *names = sys.argv[1:]
lowdim.measure(points, *names, out=out, resume=True, reference=int(reference) or None)
"""


@pytest.fixture
def points(tmp_path, monkeypatch):
    monkeypatch.setattr(shards, "ROWS", 200)
    path = tmp_path / "points.npy"
    np.save(path, torch.cat([X, X[:20]]).numpy())
    return path


def finished(out):
    return [f for f in out.rglob("*.safetensors") if not f.name.startswith(".lowdim-")]


def assert_same(found, expected):
    assert list(found) == list(expected)
    for id in expected:
        assert found[id].value == pytest.approx(expected[id].value, rel=1e-12)
        assert (found[id].n, found[id].notes) == (expected[id].n, expected[id].notes)


@pytest.mark.parametrize("reference", [0, pytest.param(400, marks=pytest.mark.slow)])
def test_killed_at_random_points_it_loses_the_piece_in_hand_at_most(points, tmp_path, reference):
    out = tmp_path / "out"
    random.seed(reference)
    have = 0
    for _ in range(2):
        job = subprocess.Popen(
            [sys.executable, "-c", SLOW, points, out, str(reference), *NAMES], cwd=ROOT
        )
        goal, deadline = have + random.randint(1, 5), time.monotonic() + 60
        while len(finished(out)) < goal and job.poll() is None and time.monotonic() < deadline:
            time.sleep(0.005)
        time.sleep(random.random() * 0.1)
        job.kill()
        assert job.wait() == -9, "it ended before it was killed"
        assert len(finished(out)) >= goal  # and none of those before is gone
        have = len(finished(out))
    options = {"reference": reference or None}
    found = lowdim.measure(points, *NAMES, out=out, resume=True, **options)
    assert found.reused == have
    assert_same(found, lowdim.measure(points, *NAMES, **options))


@pytest.mark.parametrize("reference", [None, 400])
def test_scores_are_written_by_row(points, tmp_path, reference):
    out = tmp_path / "out"
    found = lowdim.measure(points, *NAMES, out=out, reference=reference)
    table = pq.read_table(out / "scores")
    assert table.schema.names == ["row", "geometry/mle"]
    assert len(list((out / "scores").iterdir())) == len(shards.shards(open_points(points))) == 8
    assert table["row"].to_pylist() == list(range(1520))
    expected = lowdim.measure(points, *NAMES, reference=reference)["mle"].per_point
    scores = torch.tensor(table["geometry/mle"].to_pylist(), dtype=torch.float64)
    torch.testing.assert_close(scores, expected.double(), rtol=1e-12, atol=0)
    assert torch.equal(scores[:20], scores[1500:])  # copies of rows score as those do
    kept = json.loads((out / "measure.json").read_text())
    assert kept["geometry/mle"]["value"] == found["mle"].value


def test_pieces_of_other_points_seeds_or_references_are_not_used(points, tmp_path):
    out = tmp_path / "out"
    lowdim.measure(points, "mle", out=out, reference=400)
    assert lowdim.measure(points, "mle", out=out, reference=400, resume=True).reused == 9
    for options in ({"seed": 1, "reference": 400}, {"reference": 500}, {}):
        assert lowdim.measure(points, "mle", out=out, resume=True, **options).reused == 0
    np.save(points, X.numpy())
    assert lowdim.measure(points, "mle", out=out, reference=400, resume=True).reused == 0
    again = lowdim.measure(points, "two-nn", "vendi", out=out, resume=True, memory="1GiB")
    assert again.reused == 0
    assert lowdim.measure(X, "vendi", out=tmp_path / "t").reused == 0
    assert lowdim.measure(X, "vendi", out=tmp_path / "t", resume=True).reused == 8
    assert lowdim.measure(X + 1, "vendi", out=tmp_path / "t", resume=True).reused == 0


def test_references_are_not_their_own_neighbours(points):
    found = lowdim.measure(points, "mle", "two-nn", reference=1000)
    whole = lowdim.measure(points, "mle", "two-nn")
    for id in whole:  # the same manifold at two thirds of the density
        assert found[id].value == pytest.approx(whole[id].value, rel=0.1)
        assert not found[id].exact
        assert "of 1,520 rows" in found[id].notes[0]
    assert found["mle"].per_point.shape == (1520,)
    more = lowdim.measure(points, "mle", reference=5000)  # as many as there are: all
    assert more["mle"].value == whole["mle"].value


def test_methods_that_look_for_no_neighbours_do_not_see_the_references(points):
    names = [
        m.id
        for m in lowdim.methods()
        if not m.deep and {need.noun for need in m.needs} <= {"points", "spectrum"}
    ]
    found = lowdim.measure(points, *names, reference=400)
    whole = lowdim.measure(points, *names)
    for id in names:
        assert found[id].value == whole[id].value
        assert (found[id].n, found[id].notes) == (whole[id].n, whole[id].notes)


def test_what_cannot_be_had_is_said_before_the_work(points, tmp_path, monkeypatch):
    with pytest.raises(MemoryBudgetError, match="needs all 1,520 points in memory"):
        lowdim.measure(points, "outlier-dimensions", "near-duplicates", memory="100KiB")
    with pytest.raises(InputError, match="compares the points with their own neighbours"):
        lowdim.measure(points, "near-duplicates", reference=400)
    with pytest.raises(InputError, match="give that folder"):
        lowdim.measure(points, "mle", resume=True)
    with pytest.raises(InputError, match="reference=5"):
        lowdim.measure(points, "mle", reference=5)
    found = lowdim.measure(points, reference=400)  # all that can be had
    assert "geometry/near-duplicates" in found.skipped
    assert "geometry/near-duplicates" not in found
    assert "geometry/mle" in found
    assert "geometry/near-duplicates" in repr(found)


def test_command_line(points, tmp_path, capsys):
    out = tmp_path / "out"
    line = ["measure", points, "mle", "vendi", "--out", out, "--reference", 400, "--json"]
    for extra in ([], ["--resume", "--engine", "local"]):
        with pytest.raises(SystemExit) as stop:
            main([str(a) for a in [*line, *extra]])
        assert stop.value.code in (None, 0)
    captured = capsys.readouterr()
    assert "finished pieces of an earlier run used" in captured.err
    assert captured.out.count("neighbours among 400 of 1,520 rows") == 2
    with pytest.raises(SystemExit) as stop:
        main(["measure", str(points), "--engine", "dask"])
    assert stop.value.code == 2
    assert "choose local, ray" in capsys.readouterr().err
