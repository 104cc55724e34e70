"""The choice, its level, its files: a plan against Codec itself and against simulation."""

import json
import sys
from dataclasses import replace

import numpy as np
import pytest
import torch
from torch.nn.functional import normalize

from lowdim.core.random import choice
from lowdim.errors import InputError
from lowdim.retrieval import plan_steps
from lowdim.retrieval.configurations import (
    Configuration,
    default_configurations,
    default_sizes,
)
from lowdim.retrieval.metric import exact_search
from lowdim.retrieval.plan import choose, mark, plan
from lowdim.retrieval.plan_rows import Plan, PlanRow
from lowdim.retrieval.plan_steps import between, survivors
from lowdim.retrieval.plan_structure import structure
from lowdim.retrieval.recall import lower_bound, recall_at_k

FEW = ["float16", "pca 16, int8", "pca 16, float16", "pca 4, int8"]


def vectors(n=1500, d=32, seed=0):
    g = torch.Generator().manual_seed(seed)
    return torch.randn(n, d, generator=g) * torch.linspace(2, 0.3, d) + 0.2


def few(**options):
    return plan(vectors(), vectors(300, seed=1), configurations=FEW, k=5, **options)


def row(size, recall, *, bound=None, code="int8"):
    return PlanRow(
        configuration=Configuration(code, "pca", size), bytes=size, code_bytes=size, overhead=0,
        stored=size,
        ratio=1, recall=recall, low=recall, high=recall, bound=recall if bound is None else bound,
        selected=recall, rescored=1, query_ms=1, batch_ms=1, build_s=1,
    )  # fmt: skip


def test_rows_are_what_the_codec_itself_finds():
    x, q = vectors(), vectors(300, seed=1)
    made = few()
    confirm = choice(300, 300, 0, stream=1)[150:]
    truth = exact_search(x, q, 5)[0]
    for r in made.rows:
        codec = r.fit(x)
        assert (r.code_bytes, r.overhead) == (codec.bytes_per_vector, codec.overhead)
        assert r.stored == 1500 * r.code_bytes + r.overhead
        assert r.bytes == round(r.stored / 1500)
        ids = codec.search(codec.encode(x), q, 20)[0]
        recall = float(recall_at_k(ids[:, :5], truth)[confirm].mean())
        assert r.recall == pytest.approx(recall, abs=0.005)
        assert r.rescored == pytest.approx(float(recall_at_k(ids, truth)[confirm].mean()), abs=5e-3)
        assert r.low <= r.bound <= r.recall <= r.high
    assert [r.bytes for r in made.rows] == sorted((r.bytes for r in made.rows), reverse=True)


def test_what_is_stored_once_is_shared_by_the_vectors_of_the_index():
    here, large = few(), few(n_index=10**6)
    for a, b in zip(here.rows, large.rows, strict=True):
        assert b.bytes == a.code_bytes == b.code_bytes
        assert a.bytes - a.code_bytes == round(a.overhead / 1500)
    assert any(row.bytes > row.code_bytes for row in here.rows)
    assert (here.n_index, large.n_index, large.n) == (1500, 10**6, 1500)
    assert not here.notes
    with pytest.raises(InputError, match="1500 rows"):
        few(n_index=1499)


def test_a_plan_for_more_vectors_says_what_is_lost_on_those_it_is_not_fitted_to():
    """Fitted to as few rows as there are columns, PCA and its code keep far more of those."""
    x, q = vectors(120, 60), vectors(400, 60, seed=1)
    options = {"configurations": ["pca 40, bits10"], "keep_recall": 0.1, "k": 5}
    assert plan(x, q, **options).fit_gap is None
    made = plan(x, q, n_index=10_000, **options)
    gap = made.fit_gap
    assert gap["rows"] == 60
    assert gap["own"] > gap["others"] + 0.02
    assert f"{gap['others']:.3f} among others" in str(made)
    order = choice(120, 120, 0, stream=2)  # of the sample that is fitted to
    own, others = x[order[:60]], x[order[60:]]
    codec = Configuration.parse("pca 40, bits10").codec().fit(own)
    asked = q[choice(400, 400, 0, stream=1)[200:]]
    for rows, recall in ((own, gap["own"]), (others, gap["others"])):
        found = recall_at_k(
            codec.search(codec.encode(rows), asked, 5)[0], exact_search(rows, asked, 5)[0]
        )
        assert float(found.mean()) == pytest.approx(recall, abs=0.01)
    none = plan(x[:20], q, n_index=10_000, **options | {"configurations": ["int8"], "k": 10})
    assert none.fit_gap is None
    assert any("10 rows are half of all" in note for note in none.notes)


def test_codes_are_screened_on_rows_that_they_were_not_fitted_to(monkeypatch):
    """Where most rows of the index will be such; where all are fitted to, on those."""
    seen = []

    def searched(x, *args, **options):
        seen.append(x)
        return exact_search(x, *args, **options)

    monkeypatch.setattr(plan_steps, "SCREENED", 200)
    monkeypatch.setattr(plan_steps, "exact_search", searched)
    monkeypatch.setattr(sys.modules["lowdim.retrieval.plan"], "TRAINED", 400)
    x, q = vectors(), vectors(60, seed=1)
    for rows, shared in ((x, 0), (x[:400], 200)):
        plan(rows, q, k=5)
        fitted = normalize(rows[choice(len(rows), 400, 0, stream=2)][:200], dim=1)
        same = (torch.cdist(seen.pop(0), fitted) < 1e-3).any(1)
        assert int(same.sum()) == shared
        seen.clear()


def test_pieces_of_fewer_directions_are_seen():
    """Sixteen flat pieces of dimension 3 in general position, and one ball of dimension 24."""
    g = torch.Generator().manual_seed(0)
    flat = torch.randn(16, 200, 3, generator=g) @ torch.randn(16, 3, 24, generator=g)
    flat = (flat + 40 * torch.randn(16, 1, 24, generator=g)).flatten(0, 1)
    ball = torch.randn(3200, 24, generator=g)
    parts, none = (
        structure(x[torch.randperm(3200, generator=g)])[0]["strata"] for x in (flat, ball)
    )
    assert parts["rank_90"] <= 3 < parts["rank_90_random"]
    assert parts["dimension"][1] < 4.5
    assert abs(none["rank_90"] - none["rank_90_random"]) <= 2
    assert structure(ball[:22])[0]["strata"] is None


def test_the_frontier_is_what_no_smaller_row_beats():
    rows = mark([row(8, 0.5), row(16, 0.9), row(12, 0.4), row(32, 0.9), row(64, 0.99)])
    assert [(r.bytes, r.frontier) for r in rows] == [
        (64, True), (32, False), (16, True), (12, False), (8, True),
    ]  # fmt: skip


def test_the_sequence_stops_at_its_first_failure():
    rows = mark([row(64, 0.99), row(32, 0.97), row(16, 0.96, bound=0.94), row(8, 0.955)])
    assert choose(rows, 0.95, None)[0].bytes == 32  # 8 bytes would pass, and is not asked
    best, said = choose(rows, 0.995, None)
    assert best is None
    assert "0.990" in said[0]


def test_a_budget_takes_the_best_that_fits():
    rows = mark([row(64, 0.99), row(32, 0.97), row(16, 0.5)])
    assert choose(rows, None, 40)[0].bytes == 32
    best, said = choose(rows, None, 10)
    assert best is None
    assert "takes 16, pca 16, int8" in said[0]


def test_a_wrong_choice_is_made_in_at_most_one_of_twenty():
    """Ten configurations around the target: how often does the chosen one fall short of it?"""
    rng = np.random.default_rng(0)
    target, wrong, repeats = 0.95, 0, 300
    true = np.linspace(0.985, 0.93, 10)
    assert (true < target).sum() == 4
    for _ in range(repeats):
        chances = rng.beta(20, 1, (200, 1))  # some queries are harder for all of them
        chances = 1 - (1 - chances) / (1 / 21) * (1 - true)
        hits = torch.from_numpy(rng.binomial(10, chances.clip(0, 1)) / 10)
        rows = mark(
            [row(100 - i, t, bound=lower_bound(hits[:, i])) for i, t in enumerate(true.tolist())]
        )
        best = choose(rows, target, None)[0]
        wrong += best is not None and best.selected < target
    assert wrong / repeats <= 0.05 + 3 * (0.05 * 0.95 / repeats) ** 0.5


def test_keeping_a_recall_and_fitting_a_budget():
    kept = few(keep_recall=0.9)
    assert kept.best is not None
    assert kept.best.bound >= 0.9
    assert all(r.bytes >= kept.best.bytes for r in kept.rows if r.frontier and r.bound >= 0.9)
    fits = few(budget=20)
    assert str(fits.best.configuration) == "pca 16, int8"
    assert few().best is None


def test_the_default_grid_finds_a_small_choice():
    x = vectors(1200, 16) @ torch.randn(16, 48, generator=torch.Generator().manual_seed(5))
    made = plan(x, keep_recall=0.8, n_queries=240, k=5)
    assert (made.n, made.n_queries, made.dim) == (960, 240, 48)
    assert made.best is not None
    assert made.best.bytes <= 48
    assert len(made.screened) > len(made.rows) >= 5
    codec = made.best.fit(x)
    assert codec.encode(x[:7]).shape == (7, made.best.code_bytes)
    assert made.structure["effective_rank"] < 17
    assert made.growth["sizes"][-1] == 960


def test_configurations_of_exactly_a_size_and_their_names():
    for size in default_sizes(64):
        for c in default_configurations(64, 1000, [size]):
            assert (
                Configuration.parse(str(c))
                == c
                == Configuration(**json.loads(json.dumps(c.to_dict())))
            )
            codec = c.codec().fit(vectors(400, 64))
            assert codec.bytes_per_vector == size
    assert default_sizes(64) == [128, 96, 64, 48, 32, 24, 16, 12, 8]
    assert default_sizes(64, budget=20) == [20, 16, 12, 8]
    assert str(Configuration("int8", "pca", 16, "ivf")) == "pca 16, int8, ivf"


@pytest.mark.parametrize("text", ["", "pca 4 4, int8", "a, b, int8", "ivf", "pca 16, int9"])
def test_what_is_no_configuration(text):
    with pytest.raises(InputError):
        Configuration.parse(text)


def test_survivors_are_the_frontier_thinned():
    scored = [(Configuration("int8", "pca", i), s, r) for i, (s, r) in enumerate(
        [(64, 0.99), (60, 0.98), (32, 0.9), (16, 0.7), (33, 0.5)], start=1)]  # fmt: skip
    assert [c.dims for c in survivors(scored, 9)] == [4, 3, 2, 1]
    assert [c.dims for c in survivors(scored, 3)] == [4, 3, 1]
    noise = [(Configuration("int8", "pca", i), 10 * i, 0.999 + 0.0004 * i) for i in (1, 2, 3, 3)]
    assert [c.dims for c in survivors(noise, 9)] == [1, 3]  # the best stays, once
    assert between([(64, 0.99), (32, 0.9), (16, 0.7)], 0.85) == [45, 25, 20]
    assert between([(64, 0.99), (32, 0.9)], 0.999) == [51, 40]


def test_lists_on_top_of_a_code():
    made = plan(
        vectors(2000), vectors(100, seed=1), configurations=["int8", "int8, ivf"], k=5
    )  # fmt: skip
    lists, flat = sorted(made.rows, key=lambda r: r.configuration.index, reverse=True)
    assert lists.configuration.index == "ivf"
    assert lists.bytes > flat.bytes
    assert 0.5 < lists.recall <= flat.recall + 1e-9


def test_judgements_beside_recall():
    x, q = vectors(), vectors(60, seed=1)
    truth = exact_search(x, q, 5)[0]
    qrels = {i: {int(rows[0]): 1.0} for i, rows in enumerate(truth)}
    made = plan(x, q, configurations=FEW, k=5, qrels=qrels)
    assert made.exact["ndcg"] == made.exact["mrr"] == 1
    by_size = {r.code_bytes: r for r in made.rows}
    assert by_size[4].mrr < by_size[64].mrr
    assert "nDCG" in str(made)
    with pytest.raises(InputError, match="give queries="):
        plan(x, qrels=qrels)


def test_a_plan_comes_back_from_its_file(tmp_path):
    made = few(keep_recall=0.9, out=tmp_path)
    again = Plan.load(tmp_path)
    assert again == made
    assert json.loads((tmp_path / "plan.json").read_text())["best"]["configuration"]["code"]
    assert not (tmp_path / ".pieces").exists()
    assert max(len(line) for line in str(made).splitlines()) <= 80
    text = (tmp_path / "plan.json").read_text()
    for damaged in (
        text[:100],
        "[]",
        '{"schema": "lowdim.plan/0"}',
        text.replace('"rows"', '"row"'),
    ):
        (tmp_path / "plan.json").write_text(damaged)
        with pytest.raises(InputError):
            Plan.load(tmp_path)


def test_what_was_done_is_not_done_again(tmp_path, monkeypatch):
    first, calls = plan_steps.measure, []

    def counted(trained, c, *rest):
        calls.append(str(c))
        if len(calls) == 3:
            raise KeyboardInterrupt
        return first(trained, c, *rest)

    monkeypatch.setattr(plan_steps, "measure", counted)
    with pytest.raises(KeyboardInterrupt):
        few(out=tmp_path)
    made = few(out=tmp_path, resume=True)
    assert calls == [FEW[0], FEW[1], FEW[2], FEW[2], FEW[3]]
    same = few()
    assert [replace(r, query_ms=0, batch_ms=0, build_s=0) for r in made.rows] == [
        replace(r, query_ms=0, batch_ms=0, build_s=0) for r in same.rows
    ]


def test_a_file_is_planned_as_its_rows_are(tmp_path):
    x = vectors()
    np.save(tmp_path / "x.npy", x.numpy())
    streamed = plan(tmp_path / "x.npy", configurations=FEW, k=5, n_queries=100)
    held = plan(x, configurations=FEW, k=5, n_queries=100)
    assert [r.recall for r in streamed.rows] == pytest.approx([r.recall for r in held.rows])
    assert streamed.n == held.n == 1400


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"keep_recall": 0.9, "budget": 8}, "one of the two"),
        ({"keep_recall": 1.0}, "below 1"),
        ({"keep_recall": 0.999}, "give 5406 or more"),
        ({"budget": 0}, "at least 1"),
        ({"k": 1500}, "k=1500"),
        ({"metric": "angle"}, "metric='angle'"),
        ({"resume": True}, "out="),
        ({"configurations": []}, "no configuration"),
        ({"configurations": ["pca 99, int8"]}, "dims=99"),
    ],
)
def test_bad_options(options, message):
    with pytest.raises(InputError, match=message):
        plan(vectors(), vectors(300, seed=1), **{"k": 5, **options})


@pytest.mark.parametrize(
    ("x", "q", "message"),
    [
        (torch.ones(50, 4), None, "all rows are equal"),
        (vectors(50), vectors(10, 8), "8 columns"),
        (vectors(50), vectors(1), "at least two"),
        (vectors(6), None, "hold out"),
        (vectors(50).index_fill(0, torch.tensor([7]), 0), vectors(9), "row 7"),
        (vectors(50).index_fill(0, torch.tensor([7]), torch.nan), vectors(9), "row 7"),
        (torch.empty(0, 4), None, "row"),
    ],
)
def test_bad_vectors(x, q, message):
    with pytest.raises(InputError, match=message):
        plan(x, q, k=3)


def test_duplicates_constant_columns_and_half_precision_are_planned():
    x = vectors(300, 8)
    x[:, 3] = 0
    x = torch.cat([x, x]).half()
    before = x.clone()
    made = plan(x, configurations=["float16", "pca 4, int8"], k=4, n_queries=60)
    assert made.rows[0].recall > 0.9
    assert torch.equal(x, before)
