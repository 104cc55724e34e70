"""`lowdim index` as a user meets it: what it writes and prints, and one line for a mistake."""

from __future__ import annotations

import json
import os
import shlex
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from lowdim.retrieval.codec import Codec
from lowdim.retrieval.metric import exact_search
from lowdim.retrieval.plan_rows import Plan
from tests.test_cli import ctrl_c, run
from tests.test_cli_adapt import one_line

ROOT = Path(__file__).parent.parent

PLAN = ["index", "plan", "vectors.npy", "--queries", "queries.npy"]


def clustered(n, dim, seed):
    """Near a few directions, as embeddings are."""
    draw = np.random.default_rng(seed)
    basis = np.random.default_rng(9).normal(size=(6, dim))
    return (draw.normal(size=(n, 6)) @ basis + 0.1 * draw.normal(size=(n, dim))).astype("float32")


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    folder = tmp_path_factory.mktemp("index")
    x, q = clustered(600, 16, 0), clustered(60, 16, 1)
    np.save(folder / "vectors.npy", x)
    np.save(folder / "queries.npy", q)
    np.savez(folder / "two.npz", a=x, b=x)
    np.save(folder / "narrow.npy", q[:, :8])
    np.save(folder / "few.npy", x[:5])
    np.save(folder / "same.npy", np.ones((600, 16), "float32"))
    np.save(folder / "zero.npy", np.where(np.arange(600)[:, None] == 7, 0, x))
    np.save(folder / "nan.npy", np.where(np.arange(600)[:, None] == 7, np.nan, x))
    np.save(folder / "zeroq.npy", np.where(np.arange(60)[:, None] == 3, 0, q))
    (folder / "empty.npy").write_bytes(b"")
    (folder / "text.npy").write_text("not an array")
    nearest = exact_search(x, q, 1)[0][:, 0].tolist()
    (folder / "qrels.tsv").write_text(
        "".join(f"{i}\t0\t{row}\t1\n" for i, row in enumerate(nearest))
    )
    (folder / "badqrels.tsv").write_text("0\tzero\n")
    (folder / "farqrels.tsv").write_text("99\t0\t3\t1\n")
    return folder


ALSO = ["--configuration", "int8", "--configuration", "pca 6, float16"]


@pytest.fixture
def planned(capsys, here):
    assert run(capsys, *PLAN, *ALSO, "--keep-recall", "0.8", "--out", "out")[0] == 0
    return here


@pytest.fixture
def built(capsys, planned):
    code, printed, err = run(
        capsys, "index", "build", "vectors.npy", "--plan", "out/plan.json", "--out", "i"
    )
    assert (code, err) == (0, "")
    assert "600 x 16" in printed
    return planned


def test_a_plan_writes_itself_a_page_and_the_figures(capsys, here):
    code, printed, err = run(
        capsys, *PLAN, *ALSO, "--keep-recall", "0.8", "--qrels", "qrels.tsv", "--out", "out"
    )
    assert (code, err) == (0, "")
    shown = printed.strip().splitlines()
    assert shown[-1] == "out/report.html"
    assert max(map(len, shown)) <= 80
    assert len(shown) <= 30
    assert "lowdim index build vectors.npy --plan out/plan.json" in printed
    assert {f.name for f in Path("out").iterdir()} == {
        "plan.json",
        "report.html",
        "index-plan.json",
    }
    report, plan = (json.loads(Path(f"out/{n}.json").read_text()) for n in ("index-plan", "plan"))
    assert report["complete"]
    assert report["plan"] == plan
    assert {row["configuration"]["code"] for row in plan["rows"]} == {"int8", "float16"}
    assert plan["best"]["code_bytes"] == 12  # six numbers of two bytes hold what there is
    assert all(0 < row["mrr"] <= 1 for row in plan["rows"])


def test_what_it_says_can_be_typed_again(capsys, planned):
    first = json.loads(Path("out/index-plan.json").read_text())
    command = (planned / "out/report.html").read_text().split("lowdim index plan ")[1]
    command = command.split("</code>")[0].replace("&#39;", "'")
    assert run(capsys, "index", "plan", *shlex.split(command))[0] == 0
    again = json.loads(Path("out/index-plan.json").read_text())
    assert again["options"] == first["options"]
    for a, b in zip(again["plan"]["rows"], first["plan"]["rows"], strict=True):
        assert a["configuration"] == b["configuration"]
        assert (a["recall"], a["low"], a["bound"]) == (b["recall"], b["low"], b["bound"])


def test_a_budget_gives_the_best_that_fits_and_rows_stand_in_for_queries(capsys, here):
    start = ["index", "plan", "vectors.npy", *ALSO, "--out", "out", "--n-queries", "50"]
    code, printed, _ = run(capsys, *start, "--budget", "13", "--json")
    assert code == 0
    report = json.loads(printed)
    assert report == json.loads(Path("out/index-plan.json").read_text())
    plan = report["plan"]
    assert plan["best"]["configuration"]["dims"] == 6
    assert (plan["n"], plan["n_queries"]) == (550, 50)
    page = Path("out/report.html").read_text()
    assert "rows that were left out" in page
    code, printed, _ = run(capsys, *start, "--budget", "3")
    assert code == 0
    assert "Nothing that was tried fits 3 bytes" in printed
    assert "lowdim index build" not in printed


@pytest.mark.parametrize("ending", ["npz", "tsv", "jsonl"])
def test_a_search_finds_what_the_codec_finds(capsys, built, ending):
    code, printed, err = run(
        capsys,
        "index",
        "search",
        "i",
        "--queries",
        "queries.npy",
        "-k",
        "4",
        "--out",
        f"r.{ending}",
    )
    assert (code, err) == (0, "")
    assert "60 queries, 4 rows of each" in printed
    assert max(map(len, printed.splitlines())) <= 80
    if ending == "npz":
        with np.load("r.npz") as file:
            found = file["ids"].tolist()
    elif ending == "jsonl":
        found = [json.loads(line)["ids"] for line in Path("r.jsonl").read_text().splitlines()]
    else:
        lines = [line.split("\t") for line in Path("r.tsv").read_text().splitlines()[1:]]
        found = [[int(id) for _, _, id, _ in lines[i : i + 4]] for i in range(0, 240, 4)]
        assert [int(line[1]) for line in lines[:4]] == [1, 2, 3, 4]
    codec = Plan.load("out").best.fit("vectors.npy")
    ids, _ = codec.search(codec.encode("vectors.npy"), np.load("queries.npy"), 4)
    assert found == ids.tolist()


def test_rescored_results_are_those_of_exact_search(capsys, built):
    start = ["index", "search", "i", "--queries", "queries.npy", "-k", "4", "--json", "--rescore"]
    code, printed, _ = run(capsys, *start, "--candidates", "60")
    assert code == 0
    found = json.loads(printed)
    truth, scores = exact_search(np.load("vectors.npy"), np.load("queries.npy"), 4)
    assert found["ids"] == truth.tolist()
    assert torch.allclose(torch.tensor(found["scores"]), scores, atol=1e-5)


def test_names_of_rows_and_lists_come_through(capsys, here):
    Path("names.txt").write_text("".join(f"row {i}\n" for i in range(600)))
    options = ["--code", "int8", "--lists", "10", "--ids", "names.txt", "--out", "i"]
    assert run(capsys, "index", "build", "vectors.npy", *options)[0] == 0
    start = ["index", "search", "i", "--queries", "queries.npy", "-k", "3", "--json"]
    code, printed, _ = run(capsys, *start, "--probes", "10")
    assert code == 0
    codec = Codec("int8").fit("vectors.npy")
    ids, _ = codec.search(codec.encode("vectors.npy"), np.load("queries.npy"), 3)
    assert json.loads(printed)["ids"] == [[f"row {i}" for i in line] for line in ids.tolist()]


def test_an_export_says_how_far_it_agrees(capsys, built):
    code, printed, err = run(capsys, "index", "export", "i", "--to", "npz", "--out", "e")
    assert (code, err) == (0, "")
    assert "100.0% as the index itself" in printed
    with np.load("e/codes.npz") as file:
        assert file["codes"].shape == (600, 12)


# --- mistakes -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("arguments", "word"),
    [
        (["missing.npy"], "missing.npy"),
        (["empty.npy"], "empty"),
        (["text.npy"], "text.npy"),
        (["two.npz"], "column"),
        (["two.npz", "--column", "c"], "'c'"),
        (["vectors.npy", "--column", "c"], "column"),
        (["nan.npy"], "row 7"),
        (["zero.npy"], "row 7"),
        (["same.npy"], "equal"),
        (["few.npy", "--keep-recall", "0.9"], "k=10"),
        (["vectors.npy", "--queries", "narrow.npy"], "8 columns"),
        (["vectors.npy", "--queries", "zeroq.npy"], "3"),
        (["vectors.npy", "--queries", "gone.npy"], "gone.npy"),
        (["vectors.npy", "--metric", "hamming"], "cosine, dot"),
        (["vectors.npy", "-k", "600"], "k=600"),
        (["vectors.npy", "-k", "0"], "k=0"),
        (["vectors.npy", "--keep-recall", "98"], "keep_recall=98"),
        (["vectors.npy", "--keep-recall", "0.99"], "give"),
        (["vectors.npy", "--keep-recall", "0.9", "--budget", "8"], "one of the two"),
        (["vectors.npy", "--budget", "0"], "budget=0"),
        (["vectors.npy", "--n-queries", "9"], "n_queries"),
        (["vectors.npy", "--qrels", "gone.tsv"], "gone.tsv"),
        (["vectors.npy", "--qrels", "badqrels.tsv"], "line 1"),
        (["vectors.npy", "--qrels", "farqrels.tsv"], "query 99"),
        (["vectors.npy", "--configuration", "int9"], "did you mean"),
        (["vectors.npy", "--configuration", "pca 99, int8"], "dims=99"),
        (["vectors.npy", "--seed", "-1"], "seed=-1"),
        (["vectors.npy", "--memory", "lots"], "memory"),
        (["vectors.npy", "--out", "vectors.npy"], "vectors.npy"),
    ],
)
def test_every_mistake_in_a_plan_ends_in_one_line_and_code_2(capsys, here, arguments, word):
    start = ["index", "plan", "--queries", "queries.npy", "--configuration", "int8", "--out", "out"]
    one_line(run(capsys, *start, *arguments), arguments, word)


@pytest.mark.parametrize(
    ("arguments", "word"),
    [
        ([], "plan"),
        (["--plan", "out/plan.json", "--code", "int8"], "not both"),
        (["--reduction", "pca"], "code"),
        (["--plan", "gone.json"], "gone.json"),
        (["--plan", "qrels.tsv"], "qrels.tsv"),
        (["--code", "int9"], "did you mean"),
        (["--code", "int8", "--reduction", "pcaa"], "did you mean pca"),
        (["--code", "int8", "--reduction", "pca", "--dims", "17"], "dims=17"),
        (["--code", "int8", "--metric", "near"], "metric"),
        (["--code", "int8", "--lists", "0"], "lists=0"),
        (["--code", "int8", "--ids", "gone.txt"], "gone.txt"),
        (["--code", "int8", "--memory", "lots"], "memory"),
        (["--code", "int8", "--out", "vectors.npy"], "vectors.npy"),
    ],
)
def test_every_mistake_in_a_build_ends_in_one_line_and_code_2(capsys, here, arguments, word):
    one_line(run(capsys, "index", "build", "vectors.npy", *arguments), arguments, word)


def test_every_mistake_in_a_search_or_an_export_ends_in_one_line_and_code_2(capsys, built):
    for index, arguments, word in (
        ("gone", ["--queries", "queries.npy"], "gone"),
        ("out", ["--queries", "queries.npy"], "no index"),
        ("i", ["--queries", "gone.npy"], "gone.npy"),
        ("i", ["--queries", "narrow.npy"], "8 columns"),
        ("i", ["--queries", "zeroq.npy"], "3"),
        ("i", ["--queries", "queries.npy", "-k", "601"], "k=601"),
        ("i", ["--queries", "queries.npy", "--out", "r.csv"], ".jsonl"),
        ("i", ["--queries", "queries.npy", "--out", "gone/r.tsv"], "gone"),
        ("i", ["--queries", "queries.npy", "--probes", "3"], "inverted lists"),
        ("i", ["--queries", "queries.npy", "--candidates", "9"], "--rescore"),
    ):
        one_line(run(capsys, "index", "search", index, *arguments), arguments, word)
    for arguments, word in (
        (["i", "--to", "milvus"], "milvus"),
        (["gone", "--to", "npz"], "gone"),
        (["i", "--to", "npz", "--out", "qrels.tsv"], "qrels.tsv"),
        (["i", "--to", "npz", "--queries", "narrow.npy"], "8 columns"),
    ):
        one_line(run(capsys, "index", "export", *arguments), arguments, word)
    codes = next(Path("i/codes").iterdir())
    codes.write_bytes(codes.read_bytes()[:-1])
    one_line(run(capsys, "index", "search", "i", "--queries", "queries.npy"), "cut", "truncated")


def test_a_mistake_leaves_an_older_report_as_it_was(capsys, planned):
    before = Path("out/index-plan.json").read_text()
    assert run(capsys, *PLAN, "--configuration", "int9", "--out", "out")[0] == 2
    assert Path("out/index-plan.json").read_text() == before


def test_without_plotly_a_plan_says_what_to_install_before_it_works(capsys, here, monkeypatch):
    monkeypatch.setitem(sys.modules, "plotly", None)
    one_line(run(capsys, *PLAN, "--out", "out"), "plotly", "lowdim[report]")
    assert not Path("out").exists()


def test_help_is_there_and_costs_no_torch(capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "80")
    _, group, _ = run(capsys, "index", "--help")
    assert all(name in group for name in ("plan", "build", "search", "export"))
    for name, word in (
        ("plan", "--keep-recall"),
        ("build", "--reduction"),
        ("search", "--rescore"),
    ):
        _, whole, _ = run(capsys, "index", name, "--help")
        assert word in whole
        assert max(map(len, whole.splitlines())) <= 80
    light = "import sys, lowdim.cli; assert not {'torch', 'transformers'} & set(sys.modules)"
    subprocess.run([sys.executable, "-c", light], check=True, cwd=ROOT)


# --- stopped ------------------------------------------------------------------------------------

SLOW = """
import sys, time, torch
torch.set_num_threads(1)
from lowdim.retrieval.codec import Codec
encode = Codec.encode
def slowly(self, x):
    time.sleep(0.5)
    return encode(self, x)
Codec.encode = slowly
from lowdim.core import shards
shards.ROWS = 100
from lowdim.cli import main
main(sys.argv[1:])
"""


def slow(arguments, here, when):
    command = [sys.executable, "-c", SLOW, *arguments]
    ctrl_c(command, when, cwd=here, env=os.environ | {"PYTHONPATH": str(ROOT)})


def test_ctrl_c_keeps_configurations_and_resume_continues(capsys, here):
    options = [*PLAN, *ALSO, "--keep-recall", "0.8", "--out", "out"]
    slow(options, here, lambda: any(Path("out").glob(".pieces/*/*int8*")))
    assert not json.loads(Path("out/index-plan.json").read_text())["complete"]
    assert run(capsys, *options, "--resume")[0] == 0
    assert not Path("out/.pieces").exists()
    resumed = json.loads(Path("out/plan.json").read_text())
    assert run(capsys, *options[:-1], "fresh")[0] == 0
    whole = json.loads(Path("fresh/plan.json").read_text())
    for a, b in zip(resumed["rows"], whole["rows"], strict=True):
        assert (a["configuration"], a["recall"]) == (b["configuration"], b["recall"])


@pytest.mark.slow  # seconds of starting; that a kill loses one shard is tested of the library
def test_ctrl_c_keeps_shards_and_resume_continues(capsys, here):
    options = ["index", "build", "vectors.npy", "--code", "int8", "--out", "i"]
    slow(options, here, lambda: any(Path("i").glob("codes/*.safetensors")))
    unfinished = run(capsys, "index", "search", "i", "--queries", "queries.npy")
    one_line(unfinished, "unfinished", "unfinished")
    again = [sys.executable, "-c", SLOW.replace("0.5", "0"), *options, "--resume"]
    subprocess.run(again, check=True, cwd=here, env=os.environ | {"PYTHONPATH": str(ROOT)})
    assert run(capsys, "index", "search", "i", "--queries", "queries.npy")[0] == 0
    assert len(list(Path("i/codes").iterdir())) == 6
