"""The command line as a user meets it: what it prints, and one line for every mistake."""

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from lowdim import load_scan
from lowdim.cli import main
from lowdim.datasets import cube


@pytest.fixture
def points(tmp_path):
    path = tmp_path / "points.npy"
    np.save(path, cube(300, 3, 8, seed=0).numpy())
    return path


def run(capsys, *arguments):
    """Exit code, standard output and standard error."""
    with pytest.raises(SystemExit) as stop:
        main([str(a) for a in arguments])
    code = stop.value.code
    captured = capsys.readouterr()
    return code if isinstance(code, int) else (0 if code is None else 1), captured.out, captured.err


def ctrl_c(command, when, **options):
    """Stop a command once something holds: it ends in a line that names --resume, and code 130."""
    child = subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, **options
    )
    deadline = time.monotonic() + 120
    while not when() and time.monotonic() < deadline:
        time.sleep(0.01)
    child.send_signal(signal.SIGINT)
    _, err = child.communicate(timeout=120)
    assert child.returncode == 130, err
    assert "--resume" in err
    assert "Traceback" not in err


def test_measure_prints_a_table_and_json(capsys, points):
    code, out, _ = run(capsys, "measure", points, "two-nn", "isoscore", "vendi")
    assert code == 0
    assert "geometry/two-nn" in out
    code, out, _ = run(capsys, "measure", points, "two-nn", "--json")
    assert 2 < json.loads(out)["geometry/two-nn"]["value"] < 4


def test_methods_lists_every_field(capsys):
    code, out, _ = run(capsys, "methods", "--room", "geometry")
    assert code == 0
    for word in (
        "geometry/two-nn",
        "Facco",
        "1803.06992",
        "cost",
        "needs neighbors(k=2)",
        "oracle",
    ):
        assert word in " ".join(out.split())
    assert "spectra/" not in out
    code, out, _ = run(capsys, "methods", "--json")
    listed = json.loads(out)
    assert {"id", "question", "paper", "cost", "needs", "oracle"} <= set(listed[0])


def test_scan_of_points_writes_a_report(capsys, points, tmp_path):
    labels = tmp_path / "labels.csv"
    labels.write_text("label\n" + "\n".join("ab"[i % 2] for i in range(300)) + "\n")
    out = tmp_path / "out"
    code, printed, _ = run(capsys, "scan", points, "--labels", labels, "--out", out)
    assert code == 0
    assert printed.strip().splitlines()[-1] == str(out / "report.html")
    assert max(len(line) for line in printed.splitlines()[:-1]) <= 80
    scan = load_scan(out)
    assert scan.complete
    assert scan.embedding["labels"]["rows"][0]["label"] == "a"
    assert not (out / ".pieces").exists()


def test_diff_and_its_limit(capsys, points, tmp_path):
    other = tmp_path / "other.npy"
    np.save(other, cube(300, 6, 8, seed=0).numpy())
    for path, out in ((points, "a"), (other, "b")):
        assert run(capsys, "scan", path, "--out", tmp_path / out)[0] == 0
    both = tmp_path / "a", tmp_path / "b" / "scan.json"
    code, out, _ = run(capsys, "diff", *both)
    assert code == 0
    assert "two-nn" in out.lower() or "twonn" in out.lower()
    assert run(capsys, "diff", *both, "--fail-over", "two-nn=100")[0] == 0
    code, _, err = run(capsys, "diff", *both, "--fail-over", "two-nn=0.5")
    assert code == 1
    assert "past the limit" in err
    assert run(capsys, "diff", *both, "--fail-over", "two-nn=5%")[0] == 1


def mistakes(folder: Path):
    """Arguments that are a user's mistake, and a word of the answer."""
    (folder / "empty.npy").touch()
    (folder / "notes.csv").write_text("1,2\n3\n4,5\n")
    (folder / "model.pkl").write_bytes(b"\x80\x04N.")
    np.save(folder / "objects.npy", np.array([[1, 2], [3]], dtype=object), allow_pickle=True)
    np.save(folder / "one.npy", np.ones((1, 4)))
    bad = np.random.default_rng(0).standard_normal((40, 4))
    np.save(folder / "good.npy", bad)
    bad[7, 2] = np.nan
    np.save(folder / "nan.npy", bad)
    save_file(
        {"a.weight": torch.randn(8, 8), "b.weight": torch.randn(8, 8)}, folder / "w.safetensors"
    )
    whole = (folder / "w.safetensors").read_bytes()
    (folder / "cut.safetensors").write_bytes(whole[:-40])
    claims = (folder / "good.npy").read_bytes().replace(b"(40, 4)", b"(99, 4)")
    (folder / "claims.npy").write_bytes(claims)
    (folder / "labels.txt").write_text("a\nb\n")
    (folder / "file").touch()
    (folder / "folder").mkdir()
    return [
        (["measure", "missing.npy"], "does not exist"),
        (["measure", "empty.npy"], "empty"),
        (["measure", "notes.csv"], "line 2"),
        (["measure", "model.pkl"], "pickle"),
        (["measure", "objects.npy"], "pickle"),
        (["measure", "claims.npy"], "99"),
        (["measure", "nan.npy"], "row 7"),
        (["measure", "good.npy", "two-n"], "did you mean"),
        (["measure", "good.npy", "tail-exponent"], "matrix"),
        (["measure", "good.npy", "--memory", "lots"], "2GiB"),
        (["measure", "one.npy", "two-nn"], "at least"),
        (["scan", "cut.safetensors"], "truncated"),
        (["scan", "missing"], "does not exist"),
        (["scan", "folder"], "folder"),
        (["scan", "good.npy", "--labels", "labels.txt"], "2 labels"),
        (["scan", "w.safetensors", "--text", "labels.txt"], "weights alone"),
        (["scan", "good.npy", "--out", "file"], "file"),
        (["diff", "missing.json", "folder"], "does not exist"),
        (["diff", "good.npy", "good.npy"], "cannot be read"),
        (["methods", "--room", "kitchen"], "choose from"),
    ]


def test_every_mistake_ends_in_one_line_and_code_2(capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for arguments, word in mistakes(tmp_path):
        code, _, err = run(capsys, *arguments)
        assert code == 2, arguments
        assert err.count("\n") == 1, (arguments, err)
        assert err.startswith("lowdim: ")
        assert word in err, (arguments, err)
    assert "Traceback" not in err


def test_wrong_option_values_end_in_code_2(capsys, points, tmp_path):
    out = ["--out", tmp_path / "o"]
    for arguments in (
        ["scan", points, "--max-points", "0", *out],
        ["scan", points, "--seed", "-1", *out],
        ["diff", points, points, "--fail-over", "two-nn"],
        ["nonsense"],
    ):
        code, _, err = run(capsys, *arguments)
        assert code == 2, arguments
        assert "Traceback" not in err


@pytest.mark.skipif(not hasattr(os, "geteuid") or os.geteuid() != 0, reason="mounting needs root")
def test_full_disk_is_one_line(capsys, points, tmp_path):
    disk = tmp_path / "disk"
    disk.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=128k", "tmpfs", str(disk)]
    if shutil.which("mount") is None or subprocess.run(mount, capture_output=True).returncode:
        pytest.skip("no tmpfs can be mounted here")
    try:
        code, _, err = run(capsys, "scan", points, "--out", disk / "out")
        assert code == 2
        assert err.count("\n") == 1
        assert "disk full" in err
        assert not (disk / "out" / "report.html").exists()
    finally:
        subprocess.run(["umount", str(disk)], check=True)


def test_ctrl_c_leaves_valid_files_and_resume_continues(tmp_path):
    tensors = {f"layer.{i}.weight": torch.randn(700, 700) for i in range(40)}
    save_file(tensors, tmp_path / "w.safetensors")
    out = tmp_path / "out"
    command = [
        sys.executable,
        "-m",
        "lowdim",
        "scan",
        str(tmp_path / "w.safetensors"),
        "--out",
        str(out),
    ]
    ctrl_c(command, lambda: len(list(out.glob(".pieces/*/*.json"))) >= 3)
    assert not load_scan(out).complete
    kept = {p.name: p.stat().st_mtime_ns for p in out.glob(".pieces/*/*.json")}
    assert 3 <= len(kept) < 40

    done = subprocess.run([*command, "--resume"], capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    scan = load_scan(out)
    assert scan.complete
    assert len(scan.weights) == 40
    assert f"{len(kept)} finished pieces" in " ".join(scan.notes)
