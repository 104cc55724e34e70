"""The page and the screenful of an index report: drawn whole from its JSON, in a real browser."""

from __future__ import annotations

import json
import math
import shlex

import pytest
from rich.console import Console

from lowdim.report.index_document import IndexReport
from lowdim.report.index_parts import render_fragment, render_index
from lowdim.report.index_words import share, typed
from tests.report.conftest import written
from tests.report.sample import HOSTILE
from tests.report.test_page import Elements, without_plotly

FRONTIER = (("float16", 768, 1.0), ("int8", 384, 0.995), ("pq96", 96, 0.95), ("pq48", 48, 0.9))


def row(code, size, recall, *, frontier=True, judged=False):
    reduced = (
        {"reduction": "none", "dims": None} if size > 200 else {"reduction": "pca", "dims": 192}
    )
    return {
        "configuration": {"code": code, "index": "flat"} | reduced,
        "bytes": size, "code_bytes": size - 33, "overhead": 300_000, "stored": 9_000 * size + 3_000,
        "ratio": 1536 / size,
        "recall": recall, "low": recall - 0.01, "high": min(1.0, recall + 0.01),
        "bound": recall - 0.008, "selected": recall, "rescored": min(1.0, recall + 0.04),
        "ndcg": 0.5 if judged else None, "mrr": 0.4 if judged else None,
        "query_ms": 0.1 + size / 1000, "batch_ms": 0.03 + size / 9000, "build_s": 40 / size,
        "frontier": frontier, "metric": "cosine", "seed": 0,
    }  # fmt: skip


def plan(best="pq96", *, keep_recall=0.94, budget=None, growth=True, judged=False):
    rows = [row(*facts, judged=judged) for facts in FRONTIER]
    rows.insert(2, row("binary", 300, 0.6, frontier=False, judged=judged))
    energy = [math.exp(-i / 60) for i in range(384)]
    estimate = {"value": 19.5, "n": 4_000, "low": 18.1, "high": 21.0, "level": 0.95}
    sizes = [562, 1_125, 2_250, 4_500, 9_000]
    return {
        "schema": "lowdim.plan/1", "lowdim": "0", "metric": "cosine", "k": 10, "n": 9_000,
        "n_index": 9_000, "dim": 384, "n_queries": 1_000, "keep_recall": keep_recall,
        "budget": budget, "seed": 0, "rows": rows, "seconds": 9.0, "notes": [],
        "best": next((r for r in rows if r["configuration"]["code"] == best), None),
        "exact": {"query_ms": 0.8, "bytes": 1536},
        "structure": {
            "effective_rank": 191.8, "participation_ratio": 121.0, "rank_90": 186, "rank_99": 305,
            "energy": [e / sum(energy) for e in energy], "rows": 9_000, "two_nn": estimate,
            "mle": estimate, "local": {"10%": 14.1, "50%": 22.0, "90%": 34.4}, "local_rows": 4_000,
            "strata": {
                "pieces": 16, "rank_90": 152.0, "rank_90_random": 178.5, "dimension": [20.4, 26.2],
            },
        },
        "growth": {
            "sizes": sizes, "measured": [0.97, 0.965, 0.961, 0.956, 0.95], "k": 10, "queries": 250,
            "predicted": [None, None, 0.96, 0.955, 0.951], "error": 0.001,
            "forecast": [[18_000, 0.946], [36_000, 0.941], [90_000, 0.934]],
        } if growth else None,
        "fit_gap": {"rows": 4_500, "own": 0.949, "others": 0.931} if growth else None,
        "screened": [{"configuration": r["configuration"], "bytes": r["bytes"] + 3,
                      "recall": r["recall"] - 0.1} for r in rows],
    }  # fmt: skip


def report(made, name="glosses.npy", **options):
    source = {"kind": "points", "name": name, "path": name, "n": 9_000}
    known = {"queries": "q.npy", "column": None, "metric": "cosine", "k": 10, "out": "out"}
    known |= {"configuration": ["pca 192, pq48", "int8"]}
    return IndexReport(source=source, options=known | options, complete=True, plan=made)


@pytest.fixture(scope="module")
def reports():
    made = {
        "kept": report(plan()),
        "budget": report(plan("pq48", keep_recall=None, budget=64, judged=True), queries=None),
        "nothing": report(plan(None, keep_recall=0.9999, growth=False)),
        "hostile": report(plan(), name=HOSTILE[0], column=HOSTILE[1], queries=HOSTILE[4]),
    }
    made["hostile"].notes = list(HOSTILE)
    return made


@pytest.fixture(scope="module")
def pages(reports, tmp_path_factory):
    return written(tmp_path_factory.mktemp("pages"), reports, render_index)


def ids(html):
    return {attributes.get("id") for _, attributes in Elements(without_plotly(html)).found}


def flat(text):
    return " ".join(str(text).split())


def test_a_page_has_the_sections_that_there_is_anything_for(pages):
    whole = ids((pages / "kept.html").read_text())
    every = {"frontier", "recall", "costs", "growth", "structure", "energy", "measured", "advice"}
    assert every <= whole
    assert ids((pages / "nothing.html").read_text()) & every == every - {"growth", "advice"}


@pytest.mark.parametrize("name", ["kept", "budget", "nothing", "hostile"])
def test_a_screenful_of_eighty_columns(reports, name):
    console = Console(width=80, height=60)
    with console.capture() as captured:
        console.print(reports[name])
    shown = captured.get().splitlines()
    assert len(shown) <= 40 or name == "hostile"
    assert max(map(len, shown)) <= 80


def test_the_page_is_drawn_again_from_its_json(reports):
    for found in reports.values():
        read = json.loads(json.dumps(found.to_dict()))
        assert render_index(IndexReport(**read)) == render_index(found)


def test_what_it_says_follows_from_the_figures(reports):
    said = flat(reports["kept"])
    assert "96 bytes a vector keep 95.0% of recall@10 (at least 94.2% with 95% confidence)" in said
    assert "16 times smaller than float32: pca 192, pq96" in said
    assert "> pca 192, pq96" in said
    assert "94.6% at 18,000, 94.1% at 36,000, 93.4% at 90,000 vectors" in said
    assert "off by at most 0.1 points" in said
    assert "Fitted to 4,500 rows, the choice keeps 94.9% among these and 93.1% among" in said
    missed = flat(reports["nothing"])
    assert "Nothing that was tried keeps 99.99% of recall@10 with 95% confidence" in missed
    assert "float16 comes nearest with 100%, surely 99.2%" in missed
    assert "lowdim index build" not in missed
    assert "best recall@10 in 64 bytes" in flat(reports["budget"])
    neither = flat(report(plan(None, keep_recall=None)))
    assert "From 48 to 768 bytes a vector, 90.0% to 100% of recall@10" in neither


def test_a_share_is_never_said_to_be_whole_when_it_is_not():
    assert [share(v) for v in (1.0, 0.99996, 0.5)] == ["100%", "99.9%", "50.0%"]


def test_a_plan_with_judgements_has_their_columns(pages):
    assert ">nDCG<" in (pages / "budget.html").read_text()
    assert ">nDCG<" not in (pages / "kept.html").read_text()


def test_commands_are_for_a_shell_whatever_the_names(pages, reports):
    html = (pages / "kept.html").read_text()
    wanted = "lowdim index plan glosses.npy --queries q.npy --metric cosine --k 10 --out out"
    assert f"{wanted} --configuration &#39;pca 192, pq48&#39; --configuration int8" in html
    assert "--code pq48" in html  # its smaller neighbour can be built as well
    words = ["lowdim", "index", "build", "a --b $HOME 'x'.npy", "--out", "index/"]
    for width in (10, 200):
        assert [w for w in shlex.split(typed(words, width)) if w != "\n"] == words


def test_a_stopped_run_is_said_to_be_incomplete():
    stopped = report(None)
    stopped.complete = False
    assert "Incomplete" in without_plotly(render_index(stopped))
    assert "Incomplete" in str(stopped)


def test_names_make_no_element(pages, reports):
    plain, hostile = (
        [t for t, _ in Elements((pages / f"{name}.html").read_text()).found]
        for name in ("kept", "hostile")
    )
    for tag in ("script", "img", "iframe", "style"):
        assert hostile.count(tag) == plain.count(tag)
    assert "<script" not in render_fragment(reports["hostile"])


# --- in a browser -------------------------------------------------------------------------------


@pytest.mark.browser
@pytest.mark.parametrize(
    ("name", "width"),
    [("kept", 1200), *((n, 400) for n in ("nothing", "hostile"))],
)
def test_every_plot_is_drawn_without_error_or_request(visit, name, width):
    opened = visit(name, viewport={"width": width, "height": 800})
    opened.scroll_through()
    for button in opened.page.locator("[data-chooses]").all():
        button.click()
    canvases = opened.page.locator(".canvas").count()
    assert canvases == (2 if name == "nothing" else 3)
    assert opened.page.locator(".js-plotly-plot").count() == canvases
    assert opened.errors == []
    assert len(opened.requests) == 1  # the file itself
    assert opened.page.evaluate("document.documentElement.scrollWidth") <= width


@pytest.mark.browser
def test_the_ring_is_about_the_choice_and_the_line_at_what_was_asked(visit):
    opened = visit("kept", viewport={"width": 1200, "height": 900})
    opened.scroll_through()
    figure = opened.page.locator("#recall")

    def middle(box):
        return box["x"] + box["width"] / 2, box["y"] + box["height"] / 2

    dots = figure.locator(".scatterlayer .trace")
    ring = middle(dots.last.locator(".point").bounding_box())
    among = [middle(p.bounding_box()) for p in figure.locator(".scatterlayer .point").all()]
    assert sum(math.dist(ring, dot) < 1 for dot in among) == 2  # itself and the dot of the choice
    asked = middle(figure.locator(".shapelayer path").first.bounding_box())[1]
    highest = [y for _, y in among]
    assert ring[1] < asked < max(highest)


@pytest.mark.browser
def test_configurations_sort_by_what_they_cost(visit):
    opened = visit("kept")
    header = opened.page.locator("#costs thead button.sort")
    header.nth(1).click()
    assert opened.column("costs", 2) == ["48", "96", "300", "384", "768"]
