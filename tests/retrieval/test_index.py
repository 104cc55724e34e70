"""An index on disk answers as its codec does, survives kills, and notices what was changed."""

import errno
import json
import os
import pickle
import random
import re
import shutil
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file, save_file

from lowdim.core import shards
from lowdim.core.random import normal, permutation
from lowdim.errors import DriftWarning, InputError
from lowdim.io import write
from lowdim.retrieval import Codec, Index, build, list_files
from lowdim.retrieval.code import codes
from lowdim.retrieval.configurations import Configuration
from lowdim.retrieval.index_folder import digest
from lowdim.retrieval.plan_rows import Plan, PlanRow

X = normal((530, 12), seed=1) @ normal((12, 12), seed=2)
Q = normal((5, 12), seed=3)
ROOT = Path(__file__).parents[2]
NAMES = sorted(f"{name}4" if kind.sized else name for name, kind in codes().items())
INT8 = Codec("int8", reduction="pca", dims=6)


@pytest.fixture
def vectors(tmp_path, monkeypatch):
    monkeypatch.setattr(shards, "ROWS", 100)
    path = tmp_path / "x.npy"
    np.save(path, X.numpy())
    return path


def same(found, expected):
    return all(torch.equal(a, b) for a, b in zip(found, expected, strict=True))


def contents(folder):
    """Every file; of index.json all but the seconds."""
    found = {p.relative_to(folder).as_posix(): p.read_bytes() for p in folder.rglob("*.*")
             if p.is_file()}  # fmt: skip
    facts = json.loads(found.pop("index.json"))
    assert facts.pop("seconds") > 0
    return found | {"index.json": facts}


@settings(max_examples=12, deadline=None)
@given(
    name=st.sampled_from(NAMES), metric=st.sampled_from(["cosine", "dot", "euclidean"]),
    k=st.integers(1, 60), rows=st.sampled_from([29, 60, 1000]), n=st.integers(60, 120),
    rescore=st.booleans(),
)  # fmt: skip
def test_search_is_that_of_the_codec(tmp_path_factory, name, metric, k, rows, n, rescore):
    folder, x = tmp_path_factory.mktemp("index"), X[:n]
    codec = Codec(name, metric=metric).fit(X)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(shards, "ROWS", rows)
        index = build(x, codec, folder / "i")
    parts = [codec.encode(part) for part in x.split(rows)]
    assert same(index.codes, parts)
    vectors = x if rescore else None
    expected = codec.search(parts, Q, k, rescore=vectors)
    assert same(index.search(Q, k, rescore=vectors), expected)
    assert same(Index.open(folder / "i").search(Q, k, rescore=vectors), expected)


def test_an_index_says_what_it_is(vectors, tmp_path):
    index = build(vectors, INT8, tmp_path / "i")
    assert (index.n, index.dim, index.n_lists, len(index.codes)) == (530, 12, None, 6)
    assert index.nbytes == sum(
        p.stat().st_size for p in (tmp_path / "i").rglob("*") if p.is_file()
    ) - len((tmp_path / "i" / "index.json").read_bytes())  # fmt: skip
    assert re.search(r"530 x 12, pca 6, int8, cosine, \d\.\d KiB\)$", repr(index))
    assert INT8.__dict__.keys() == Codec().__dict__.keys()  # what was given is not fitted


def test_rescoring_reads_the_vectors_that_were_indexed(vectors, tmp_path):
    index = build(vectors, INT8, tmp_path / "i")
    expected = index.codec.search(list(index.codes), Q, 4, rescore=X)
    assert same(index.search(Q, 4, rescore=True), expected)
    assert same(index.search(Q, 4, rescore=vectors, candidates=16), expected)
    every = index.search(Q, 4, rescore=X, candidates=530)
    exact = Codec("float32").fit(X)
    assert torch.equal(every[0], exact.search(exact.encode(X), Q, 4)[0])
    with pytest.raises(InputError, match="rescore has 529 rows and the index 530"):
        index.search(Q, rescore=X[1:])
    np.save(vectors, X.flip(0).numpy())
    with pytest.raises(InputError, match=r"x\.npy has changed since"):
        index.search(Q, rescore=True)
    vectors.unlink()
    with pytest.raises(InputError, match="is gone: give its new path"):
        index.search(Q, rescore=True)
    with pytest.raises(InputError, match="was built from an array: give the vectors"):
        build(X, INT8, tmp_path / "held").search(Q, rescore=True)


@pytest.mark.parametrize("lists", [None, 9])
def test_ids_stand_for_rows(vectors, tmp_path, lists):
    plain = build(vectors, INT8, tmp_path / "i", lists=lists).search(Q, 7)[0]
    numbers = permutation(530, seed=5) * 10
    index = build(vectors, INT8, tmp_path / "numbers", ids=numbers.numpy(), lists=lists)
    assert torch.equal(index.search(Q, 7)[0], numbers[plain])
    names = [f"näme {i}" for i in numbers.tolist()]
    (tmp_path / "ids.txt").write_text("\n".join(names) + "\n", encoding="utf-8")
    for i, ids in enumerate((names, tmp_path / "ids.txt")):
        found = build(vectors, INT8, tmp_path / str(i), ids=ids, lists=lists).search(Q, 7)[0]
        assert (found == np.array(names)[plain]).all()
    for bad in (names[1:], [0.5] * 530, torch.ones(530, 1).int()):
        with pytest.raises(InputError, match="an integer or a text for each of the 530 vectors"):
            build(vectors, INT8, tmp_path / "bad", ids=bad)


@pytest.mark.parametrize("metric", ["cosine", "dot", "euclidean"])
def test_all_lists_together_answer_as_a_flat_index(vectors, tmp_path, metric):
    codec = Codec("int8", metric=metric).fit(X)
    flat = build(vectors, codec, tmp_path / "flat")
    index = build(vectors, codec, tmp_path / "lists", lists=11)
    assert index.n_lists == 11
    assert not (tmp_path / "lists" / "codes").exists()
    expected = flat.search(Q, 9)
    ids, scores = index.search(Q, 9, probes=11)
    assert torch.equal(ids, expected[0])
    torch.testing.assert_close(scores, expected[1])
    few = index.search(Q, 9, probes=1)
    assert bool((few[1] <= expected[1] + 1e-5).all())
    assert torch.equal(torch.cat(index.codes), torch.cat(flat.codes))  # in the order of the rows
    with pytest.raises(InputError, match="probes=12: there are 11 lists"):
        index.search(Q, 9, probes=12)


SLOW = """
import sys, time, torch
torch.set_num_threads(1)
from lowdim.core import shards
from lowdim.retrieval import Codec, build
shards.ROWS = 100
encode = Codec.encode
def slow(*args):
    time.sleep(0.1)
    return encode(*args)
Codec.encode = slow
lists = int(sys.argv[3]) or None
build(sys.argv[1], Codec("int8", reduction="pca", dims=6), sys.argv[2], lists=lists, resume=True)
"""


@pytest.mark.parametrize("lists", [0, pytest.param(5, marks=pytest.mark.slow)])
def test_killed_and_resumed_it_is_the_same_to_the_byte(vectors, tmp_path, lists):
    out = tmp_path / "out"
    random.seed(lists)
    job = subprocess.Popen([sys.executable, "-c", SLOW, vectors, out, str(lists)], cwd=ROOT)
    goal, deadline = random.randint(1, 3), time.monotonic() + 60
    while len(list(out.glob("codes/0*"))) < goal and time.monotonic() < deadline:
        assert job.poll() is None, "it ended before it was killed"
        time.sleep(0.005)
    time.sleep(random.random() * 0.1)
    job.kill()
    assert job.wait() == -9
    kept = {p: p.stat().st_mtime_ns for p in out.glob("codes/0*")}
    assert goal <= len(kept) < 6
    with pytest.raises(InputError, match="is unfinished: resume its build"):
        Index.open(out)
    with pytest.raises(InputError, match="holds an unfinished index already: resume its build"):
        build(vectors, INT8, out)
    again = []
    build(vectors, INT8, out, lists=lists or None, resume=True,
          progress=lambda done, total: again.append(
              {p: p.stat().st_mtime_ns for p in kept} == kept and total == 6))  # fmt: skip
    assert again == [True] * 6  # what was finished was not made again
    build(vectors, INT8, tmp_path / "whole", lists=lists or None)
    assert contents(out) == contents(tmp_path / "whole")


def test_stopped_while_lists_are_made_it_keeps_the_codes(vectors, tmp_path, monkeypatch):
    whole = build(vectors, INT8, tmp_path / "whole", lists=5)
    with monkeypatch.context() as patch:
        patch.setattr(list_files, "gathered", stopped_after(1, list_files.gathered))
        with pytest.raises(KeyboardInterrupt):
            build(vectors, INT8, tmp_path / "out", lists=5)
    with monkeypatch.context() as patch:
        patch.setattr(Codec, "encode", stopped_after(0, Codec.encode))
        resumed = build(vectors, INT8, tmp_path / "out", lists=5, resume=True)
    assert same(resumed.search(Q), whole.search(Q))
    assert contents(tmp_path / "out") == contents(tmp_path / "whole")


def stopped_after(calls, function):
    """The function, interrupted after so many calls."""
    left = iter(range(calls))

    def stopped(*args):
        if next(left, None) is None:
            raise KeyboardInterrupt
        return function(*args)

    return stopped


def test_a_shard_that_lost_its_end_is_made_again(vectors, tmp_path, monkeypatch):
    whole = build(vectors, INT8, tmp_path / "whole")
    out = tmp_path / "out"
    with monkeypatch.context() as patch:
        patch.setattr(Codec, "encode", stopped_after(3, Codec.encode))
        with pytest.raises(KeyboardInterrupt):
            build(vectors, INT8, out)
    shard = out / "codes" / "00001.safetensors"
    shard.write_bytes(shard.read_bytes()[:-20])
    assert same(build(vectors, INT8, out, resume=True).search(Q), whole.search(Q))
    assert contents(out) == contents(tmp_path / "whole")


def test_a_full_disk_loses_no_shard(vectors, tmp_path, monkeypatch):
    out, replace = tmp_path / "out", os.replace

    def full(old, new):
        if str(new).endswith("00002.safetensors"):
            raise OSError(errno.ENOSPC, "No space left on device", str(old))
        replace(old, new)

    monkeypatch.setattr(write.os, "replace", full)
    with pytest.raises(InputError, match=r"disk full while writing .*00002.* run it again"):
        build(vectors, INT8, out)
    monkeypatch.setattr(write.os, "replace", replace)
    assert len(list((out / "codes").iterdir())) == 2  # and no half a file
    assert build(vectors, INT8, out, resume=True).n == 530


def test_resume_with_other_things_is_refused(vectors, tmp_path, monkeypatch):
    with monkeypatch.context() as patch:
        patch.setattr(Codec, "encode", stopped_after(2, Codec.encode))
        with pytest.raises(KeyboardInterrupt):
            build(vectors, INT8, tmp_path / "begun")
    build(vectors, INT8, tmp_path / "done")
    for folder, state in (("begun", "an unfinished index"), ("done", "an index")):
        for changed, options in (
            ("vectors", {"x": X + 1}),
            ("codec", {"codec": Codec("int8", reduction="pca", dims=6, seed=1)}),
            ("codec", {"codec": Codec("int8", reduction="pca", dims=6).fit(X)}),
            ("lists", {"lists": 3}),
            ("ids", {"ids": range(530)}),
        ):
            given = {"x": vectors, "codec": INT8} | options
            with pytest.raises(InputError, match=f"holds {state} of other {changed}"):
                build(given.pop("x"), given.pop("codec"), tmp_path / folder, resume=True, **given)
        assert build(vectors, INT8, tmp_path / folder, resume=True, memory="1GiB").n == 530


def test_a_build_that_could_not_begin_leaves_the_folder_free(vectors, tmp_path):
    out = tmp_path / "out"
    for codec in (Codec("int9"), Codec("int8", dims=7), Codec("int8").fit(X[:, 1:])):
        with pytest.raises(InputError, match=r"int9|keeps all 12|was fitted to 11"):
            build(vectors, codec, out)
    build(vectors, INT8, out)
    (out / "index.json").unlink()
    with pytest.raises(InputError, match=r"codes is there without index\.json"):
        build(vectors, INT8, out)


def test_two_builds_in_one_folder_do_not_meet(vectors, tmp_path):
    out = tmp_path / "out"
    met = []

    def another(done, total):
        with pytest.raises(InputError, match="another build is at work in"):
            build(vectors, INT8, out, resume=True)
        met.append(done)

    build(vectors, INT8, out, progress=another)
    assert met == [1, 2, 3, 4, 5, 6]


class Sending:
    """An engine whose work and shards travel, as to another process."""

    tasks = 2

    def map(self, function, items):
        return (pickle.loads(pickle.dumps(function))(pickle.loads(pickle.dumps(i))) for i in items)


def test_another_engine_makes_the_same_bytes(vectors, tmp_path):
    build(vectors, INT8, tmp_path / "here")
    build(vectors, INT8, tmp_path / "there", engine=Sending(), memory="64MiB")
    assert contents(tmp_path / "here") == contents(tmp_path / "there")


def test_a_codec_comes_fitted_from_its_folder_or_of_a_plan(vectors, tmp_path):
    codec = Codec("int8", reduction="pca", dims=6).fit(X)
    codec.save(tmp_path / "codec")
    expected = build(vectors, codec, tmp_path / "a").search(Q)
    assert same(build(vectors, tmp_path / "codec", tmp_path / "b").search(Q), expected)
    row = PlanRow(
        configuration=Configuration("int8", "pca", 6, "ivf"), bytes=6, code_bytes=6,
        overhead=1, stored=1, ratio=8.0, recall=1.0, low=1.0, high=1.0, bound=1.0, selected=1.0,
        rescored=1.0, query_ms=1.0, batch_ms=1.0, build_s=1.0,
    )  # fmt: skip
    made = Plan(
        rows=(row,), best=row, metric="cosine", k=3, n=530, n_index=530, dim=12, n_queries=5
    )
    made.save(tmp_path / "plan.json")
    for i, plan in enumerate((made, tmp_path / "plan.json", tmp_path)):
        index = build(vectors, plan, tmp_path / f"plan{i}")
        assert (index.n_lists, index.codec.reduction) == (23, "pca")
        assert torch.equal(index.search(Q, probes=23)[0], expected[0])
    with pytest.raises(InputError, match="the plan chose no configuration"):
        build(vectors, replace(made, best=None), tmp_path / "c")
    graph = replace(row, configuration=Configuration("int8", index="hnsw"))
    with pytest.raises(InputError, match="the plan chose an HNSW graph"):
        build(vectors, replace(made, best=graph), tmp_path / "c")
    with pytest.raises(InputError, match="x has 11 columns and the codec was fitted to 12"):
        build(X[:, 1:], codec, tmp_path / "c")
    with pytest.raises(InputError, match="codec is a int: give a Codec"):
        build(X, 3, tmp_path / "c")


def test_another_models_vectors_are_warned_of_once(vectors, tmp_path):
    codec = Codec("int8").fit(X)
    with pytest.warns(DriftWarning, match="columns in another order") as caught:
        build(X[:, permutation(12, seed=1)], codec, tmp_path / "i")
    assert len([w for w in caught if w.category is DriftWarning]) == 1


def test_bad_vectors_name_their_row(tmp_path, monkeypatch):
    monkeypatch.setattr(shards, "ROWS", 100)
    x = X.clone()
    x[307] = 0
    with pytest.raises(InputError, match="row 307 is all zeros"):
        build(x, Codec("int8", n_train=20, seed=1), tmp_path / "i")
    x[307, 4] = torch.nan
    np.save(tmp_path / "nan.npy", x.numpy())
    with pytest.raises(InputError, match="row 307, column 4"):
        build(tmp_path / "nan.npy", Codec("int8", n_train=20, seed=1), tmp_path / "j")
    for lists in (0, 531):
        with pytest.raises(InputError, match=f"lists={lists}: 530 vectors fill 1 to 530 lists"):
            build(X, INT8, tmp_path / "k", lists=lists)


def facts(folder, **changes):
    path = folder / "index.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


def listed(folder, old, new):
    found = json.loads((folder / "index.json").read_text())["files"]
    about = found.pop(old)
    facts(folder, files=found | ({new: about} if new else {}))


def flip(path):
    data = bytearray(path.read_bytes())
    data[-3] ^= 4
    path.write_bytes(data)


SHARD = "codes/00003.safetensors"
TAMPERED = {
    "nothing": (lambda f: (f / "index.json").unlink(), "holds no index: there is no index.json"),
    "empty": (lambda f: (f / "index.json").write_text(""), "index.json cannot be read"),
    "schema": (lambda f: facts(f, schema="x/1"), "reads 'lowdim.index/1'$"),
    "newer": (lambda f: facts(f, schema="lowdim.index/2"), "update lowdim"),
    "n": (lambda f: facts(f, n=531), "holds 530 rows and index.json says 531"),
    "no n": (lambda f: facts(f, n="many"), "no 'n' that can be used"),
    "dim": (lambda f: facts(f, dim=13), "codes 12 columns and index.json says 13"),
    "a shard gone": (lambda f: (f / SHARD).unlink(), f"{SHARD} is missing"),
    "truncated": (lambda f: os.truncate(f / SHARD, 99), "99 bytes and was written with"),
    "a bit": (lambda f: flip(f / SHARD), f"{SHARD} has changed since"),
    "codec": (lambda f: flip(f / "codec" / "codec.safetensors"), "codec.safetensors has changed"),
    "a shard less": (lambda f: listed(f, SHARD, None), "holds 430 rows and index.json says 530"),
    "outside": (lambda f: listed(f, SHARD, "codes/../../x"), "which is no file of an index"),
    "no codec": (lambda f: listed(f, "codec/codec.json", None), "does not name codec/codec.json"),
    "no sums": (lambda f: facts(f, files={SHARD: {}}), "has no size and checksum of"),
}  # fmt: skip


@pytest.mark.parametrize("case", TAMPERED)
def test_a_folder_that_was_changed_is_one_sentence(vectors, tmp_path, case):
    folder = tmp_path / "i"
    build(vectors, INT8, folder)
    change, message = TAMPERED[case]
    change(folder)
    with pytest.raises(InputError, match=message) as error:
        Index.open(folder).search(Q)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("name", "change", "message"),
    [
        ("rows", lambda x: x + 1, "names rows beyond 530"),
        ("rows", lambda x: x[1:], "does not share 530 rows out"),
        ("starts", lambda x: x.flip(0), "does not share 530 rows out"),
        ("starts", lambda x: x + 1, "does not share 530 rows out"),
        ("other", lambda x: x, "lacks centroids, starts or rows"),
    ],
)
def test_lists_that_do_not_fit_are_refused(vectors, tmp_path, name, change, message):
    build(vectors, INT8, tmp_path / "i", lists=5)
    path = tmp_path / "i" / "lists" / "lists.safetensors"
    stored = load_file(path)
    changed = {name: change(stored[name]).clone()} if name in stored else {"starts": None}
    found = {key: x for key, x in (stored | changed).items() if x is not None}
    save_file(found, path)
    about = {"bytes": path.stat().st_size, "sha256": digest(path)}
    before = json.loads((tmp_path / "i" / "index.json").read_text())["files"]
    facts(tmp_path / "i", files=before | {"lists/lists.safetensors": about})
    with pytest.raises(InputError, match=message):
        Index.open(tmp_path / "i").search(Q)


def test_checksums_are_left_out_on_request(vectors, tmp_path):
    build(vectors, INT8, tmp_path / "i")
    flip(tmp_path / "i" / SHARD)
    index = Index.open(tmp_path / "i", verify=False)
    assert index.search(Q)[0].shape == (5, 10)
    with pytest.raises(InputError, match=f"{SHARD} has changed"):
        index.check()


def test_an_index_that_is_moved_is_the_same(vectors, tmp_path):
    expected = build(vectors, INT8, tmp_path / "i").search(Q, rescore=True)
    shutil.move(tmp_path / "i", tmp_path / "moved")
    assert same(Index.open(tmp_path / "moved").search(Q, rescore=True), expected)
