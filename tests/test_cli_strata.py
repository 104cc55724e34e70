"""`lowdim strata` as a user meets it: what it writes and prints, and one line for a mistake."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest

from lowdim.structure.save import load_strata
from tests.report.strata_sample import labelled, planted, registered
from tests.test_cli import ctrl_c, run

ROOT = Path(__file__).parent.parent

SLOW = """
import sys, time, torch
torch.set_num_threads(1)
from tests.report import strata_sample
fit = strata_sample.Means._fit
def slowly(self, source, job):
    time.sleep(0.5)
    return fit(self, source, job)
strata_sample.Means._fit = slowly
from lowdim.cli import main
with strata_sample.registered():
    main(sys.argv[1:])
"""


@pytest.fixture(scope="module", autouse=True)
def finders():
    with registered():
        yield


@pytest.fixture
def files(tmp_path):
    x = planted(90)
    labels, texts = labelled(x)
    np.save(tmp_path / "x.npy", x.points.numpy())
    (tmp_path / "labels.csv").write_text("label\n" + "\n".join(labels) + "\n")
    lines = [json.dumps({"text": text}) for text in texts]
    (tmp_path / "docs.jsonl").write_text("\n".join(lines) + "\n")
    (tmp_path / "short.txt").write_text("a\nb\n")
    return tmp_path


def test_it_writes_a_page_the_figures_the_rows_and_the_pieces(capsys, files):
    out = files / "out"
    code, printed, _ = run(
        capsys, "strata", files / "x.npy", "--labels", files / "labels.csv", "--texts",
        files / "docs.jsonl", "--pieces", "3", "--method", "test-means", "--out", out,
    )  # fmt: skip
    assert code == 0
    lines = printed.strip().splitlines()
    assert lines[-1] == str(out / "report.html")
    assert max(len(line) for line in lines[:-1]) <= 80
    assert {f.name for f in out.iterdir()} == {
        "report.html", "strata.json", "assignments.parquet", "strata"
    }  # fmt: skip
    data = json.loads((out / "strata.json").read_text())
    assert data["complete"]
    assert data["labels"]["nmi"] == pytest.approx(1)
    kept = load_strata(out / "strata")
    piece = pq.read_table(out / "assignments.parquet")["piece"].to_pylist()
    assert piece == kept.labels.tolist()


def test_every_mistake_ends_in_one_line_and_code_2(capsys, files, monkeypatch):
    monkeypatch.chdir(files)
    start = ["strata", "x.npy", "--pieces", "2", "--method", "test-means"]
    for arguments, word in (
        (["--labels", "short.txt"], "2 labels"),
        (["--texts", "short.txt"], "2 texts for 90 points"),
        (["--pieces", "91"], "at most 90"),
        (["--pieces", "several"], "or auto"),
        (["--pieces", "0"], "from 1"),
        (["--layer", "3"], "points have no layers"),
        (["--method", "test-meens"], "choose from"),
        (["--method", "two-nn"], "is no finder of pieces"),
        (["--method", "test-missing"], "pip install"),
        (["--labels", "missing.csv"], "missing.csv"),
        (["--out", "x.npy"], "x.npy"),
        (["--memory", "lots"], "memory"),
    ):
        code, _, err = run(capsys, *start, *arguments)
        assert code == 2, arguments
        assert err.count("\n") == 1, (arguments, err)
        assert err.startswith("lowdim: ")
        assert word in err, (arguments, err)
    code, _, err = run(capsys, "strata", "missing.npy", "--method", "test-means")
    assert (code, err.count("\n")) == (2, 1)
    assert "does not exist" in err


def test_ctrl_c_leaves_finished_parts_and_resume_continues(files):
    out = files / "out"
    command = [
        sys.executable, "-c", SLOW, "strata", str(files / "x.npy"), "--pieces", "3",
        "--method", "test-means", "--out", str(out),
    ]  # fmt: skip
    ctrl_c(command, lambda: len(list(out.glob(".pieces/*/stability*"))) >= 2, cwd=ROOT)
    partial = json.loads((out / "strata.json").read_text())
    assert not partial["complete"]
    assert len(partial["pieces"]["rows"]) == 3
    kept = len(list(out.glob(".pieces/*/*.*")))
    assert kept >= 8

    done = subprocess.run(
        [*command, "--resume"], capture_output=True, text=True, timeout=300, cwd=ROOT
    )
    assert done.returncode == 0, done.stderr
    whole = json.loads((out / "strata.json").read_text())
    assert whole["complete"]
    assert f"{kept} finished parts" in " ".join(whole["notes"])
    assert whole["pieces"] == partial["pieces"]
    assert not (out / ".pieces").exists()
