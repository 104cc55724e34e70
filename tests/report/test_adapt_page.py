"""The page and the screenful of an adapt report: drawn whole from its JSON, in a real browser."""

from __future__ import annotations

import json

import pytest
from rich.console import Console

from lowdim.report.adapt_document import AdaptReport
from lowdim.report.adapt_parts import render_adapt, render_fragment
from lowdim.report.adapt_plots import place
from tests.report.conftest import written
from tests.report.sample import HOSTILE
from tests.report.test_page import Elements, without_plotly

SOURCE = {
    "kind": "model", "name": "minilm", "path": "models/minilm", "role": "encoder",
    "architecture": "BertModel", "n_layers": 6, "dim": 384, "parameters": 22_713_216,
    "texts": "train.jsonl", "n": 800, "n_valid": 200, "n_labels": 2, "labels": ["a", "b"],
    "majority": {"label": "a", "share": 0.6},
}  # fmt: skip


def score(value, name="accuracy", reach=0.02):
    ends = {"low": value - reach, "high": value + reach, "n": 200}
    return {"value": value, "name": name, "higher_is_better": name == "accuracy"} | ends


def tensors(kinds=("query", "value"), layers=6):
    return [f"encoder.layer.{i}.attention.self.{kind}" for i in range(layers) for kind in kinds]


def training(names=None, name="accuracy"):
    names = names or [f"{name}.weight" for name in tensors()]
    rows = [
        {
            "name": name, "method": "lsr", "options": {"rank": 2, "terms": 16, "pad": False},
            "shape": [384, 384], "trainable": 2_560, "norm": 1.0 + i, "relative": 0.01 * (i + 1),
            "effective_rank": 3.0 + 0.1 * i,
        }
        for i, name in enumerate(names)
    ]  # fmt: skip
    return {
        "method": "lsr", "chosen": "The usual targets: query, value.", "lr": 1e-3,
        "tuning": {"0.001": 0.8, "1": None}, "after": score(0.9, name),
        "trainable": 30_720, "head": 770, "also": "classifier", "base": 22_565_376,
        "item": "text", "difference": {"value": 0.1, "low": 0.06, "high": 0.14},
        "before": score(0.8, name) | {"what": "a frozen model", "short": "head alone"},
        "scores": [score(v, name) for v in (0.7, 0.85, 0.9)],
        "losses": [{"step": 4 * i, "loss": 1 / i} for i in range(1, 100)],
        "steps": 400, "seconds": 12.5, "rows": rows, "bytes": 130_000,
    }  # fmt: skip


def comparison():
    def row(method, trained, value, difference, verdict):
        facts = {"options": {"rank": 4}, "lr": 1e-3, "trained": trained, "head": 770, "half": 0.01}
        found = {"value": value, "difference": difference, "verdict": verdict, "seconds": 9.0}
        return facts | found | {"method": method, "reach": None if difference is None else 0.02}

    return {
        "score": "accuracy", "higher_is_better": True, "untrained": 0.5, "budget": 20_000,
        "baseline": "lora", "seeds": [0, 1, 2], "epochs": 3, "tuning": {}, "n": 200, "item": "text",
        "rows": [
            row("lora", 18_432, 0.86, None, ""),
            row("lsr", 19_200, 0.89, 0.03, "better"),
            row("svfit", 4_608, 0.83, -0.03, "worse"),
            row("head", 0, 0.85, -0.01, "not distinguishable"),
            row("mos", 19_584, None, None, "diverged in 3 of 3") | {"half": None},
        ],
    }  # fmt: skip


def suggestion():
    rows = [
        {
            "name": name, "shape": [384, 384], "rank": i % 4, "n_trainable": 768 * (i % 4),
            "gain": 0.1 * (i % 4), "total": 0.5, "noise": 0.3, "curve": [0.5, 0.8, 0.95, 1.0],
        }
        for i, name in enumerate(tensors(("query", "key", "value")))
    ]  # fmt: skip
    shares = {"gain": sum(r["gain"] for r in rows), "captured": 0.4, "bound": 3.0}
    counts = {"n_trainable": 19_968, "budget": 20_000, "uniform": 1.0, "uniform_rank": 1}
    return {"method": "lora-ga", "by": "gradients", "batches": 32, "rows": rows} | shares | counts


def dimension(value=200):
    curve = [
        {"dim": dim, "lr": 1e-3, "scores": [v - 0.01, v, v + 0.01]}
        for dim, v in ((0, 0.5), (10, 0.55), (100, 0.75), (200, 0.83), (500, 0.86))
    ]
    full = {"dim": 22_566_146, "lr": 1e-3, "scores": [0.88, 0.9, 0.91]}
    return {
        "value": value, "low": 100, "high": value, "level": 0.75, "target": 0.81, "item": "text",
        "score": "accuracy", "full": full, "curve": curve, "notes": ["a note"],
    }  # fmt: skip


def report(run, **found):
    known = {"options": {"train": "train.jsonl", "lr": "0.001", "option": ["a=1", "b=2"]}}
    return AdaptReport(source=dict(SOURCE), run=run, complete=True, **known, **found)


@pytest.fixture(scope="module")
def reports():
    made = {
        "train": report("train", training=training()),
        "compare": report("compare", comparison=comparison()),
        "suggest": report("suggest", suggestion=suggestion()),
        "dimension": report("dimension", dimension=dimension()),
        "hostile": report("train", training=training([f"{text}.weight" for text in HOSTILE])),
    }
    made["hostile"].source |= {"name": HOSTILE[0], "majority": {"label": HOSTILE[1], "share": 0.5}}
    return made


@pytest.fixture(scope="module")
def pages(reports, tmp_path_factory):
    return written(tmp_path_factory.mktemp("pages"), reports, render_adapt)


def ids(html):
    return {attributes.get("id") for _, attributes in Elements(without_plotly(html)).found}


def test_a_page_has_the_sections_of_its_run_and_no_others(pages):
    found = {file.stem: ids(file.read_text()) for file in pages.iterdir()}
    own = {
        "train": {"score", "learning", "size", "targets", "updates", "losses", "epochs"},
        "compare": {"comparison", "methods", "by-count", "differences", "table"},
        "suggest": {"suggestion", "rank-map", "worth", "ranks-table"},
        "dimension": {"dimension", "ladder", "rungs"},
    }
    for name, wanted in own.items():
        assert wanted <= found[name]
        assert not found[name] & set().union(*(own[other] for other in own if other != name))


@pytest.mark.parametrize("name", ["train", "compare", "suggest", "dimension"])
def test_a_screenful_of_eighty_columns(reports, name):
    console = Console(width=80, height=60)
    with console.capture() as captured:
        console.print(reports[name])
    shown = captured.get().splitlines()
    assert len(shown) <= 40
    assert max(map(len, shown)) <= 80


def test_the_page_is_drawn_again_from_its_json(reports):
    for found in reports.values():
        read = json.loads(json.dumps(found.to_dict()))
        assert render_adapt(AdaptReport(**read)) == render_adapt(found)


def test_what_it_says_follows_from_the_figures(reports):
    said = str(reports["train"])
    assert "The adapter helps" in said
    assert "0.14% of the model's 22,565,376" in " ".join(said.split())
    worse = training() | {"difference": {"value": -0.1, "low": -0.2, "high": -0.01}}
    assert "does harm" in str(report("train", training=worse))
    unsure = training() | {"difference": {"value": 0.1, "low": -0.01, "high": 0.2}}
    assert "cannot be told" in str(report("train", training=unsure))
    assert "Best accuracy: 0.89 ± 0.01 by lsr" in str(reports["compare"])
    assert "lora (0.86 ± 0.01): better: lsr; worse: svfit" in " ".join(
        str(reports["compare"]).split()
    )
    assert "d90 = 200" in str(reports["dimension"])
    missed = report("dimension", dimension=dimension(None) | {"high": None})
    assert "No rung up to d = 500" in str(missed)
    assert "as it is" in str(report("dimension", dimension=dimension(0)))
    assert "perplexity falls by 0.1" in " ".join(
        str(report("train", training=training(name="perplexity"))).split()
    )


def test_a_stopped_run_is_said_to_be_incomplete():
    stopped = AdaptReport(source=dict(SOURCE))
    assert "Incomplete" in without_plotly(render_adapt(stopped))
    assert "Incomplete" in str(stopped)


def test_a_comparison_in_which_everything_diverged():
    lost = comparison()
    lost["rows"] = [lost["rows"][-1]]
    found = report("compare", comparison=lost)
    assert "Every run diverged" in str(found)
    assert "table" in ids(render_adapt(found))


def test_the_command_can_be_copied(pages):
    html = (pages / "train.html").read_text()
    assert "lowdim adapt models/minilm --train train.jsonl --lr 0.001 --option a=1" in html
    assert "lowdim adapt dimension models/minilm" in (pages / "dimension.html").read_text()


def test_names_make_no_element(pages, reports):
    plain, hostile = (
        [t for t, _ in Elements((pages / f"{name}.html").read_text()).found]
        for name in ("train", "hostile")
    )
    for tag in ("script", "img", "iframe", "style"):
        assert hostile.count(tag) == plain.count(tag)
    assert "<script" not in render_fragment(reports["hostile"])


def test_place_of_a_tensor():
    assert place("h.3.attn.query.weight") == (3, "attn.query")
    assert place("encoder.layer.11.output.dense") == (11, "output.dense")
    assert place("embeddings.word_embeddings.weight") == (None, "embeddings.word_embeddings")


# --- in a browser -------------------------------------------------------------------------------


@pytest.mark.browser
@pytest.mark.parametrize(
    ("name", "width"),
    [("train", 1200), *((n, 400) for n in ("compare", "suggest", "dimension", "hostile"))],
)
def test_every_plot_is_drawn_without_error_or_request(visit, name, width):
    opened = visit(name, viewport={"width": width, "height": 800})
    opened.scroll_through()
    canvases = opened.page.locator(".canvas").count()
    least = {"train": 5, "compare": 3, "suggest": 2, "dimension": 1, "hostile": 5}
    assert canvases >= least[name]
    assert opened.page.locator(".js-plotly-plot").count() == canvases
    assert opened.errors == []
    assert len(opened.requests) == 1  # the file itself
    assert opened.page.evaluate("document.documentElement.scrollWidth") <= width


@pytest.mark.browser
def test_methods_sort_by_what_was_measured(visit):
    opened = visit("compare")
    header = opened.page.locator("#table thead button.sort")
    header.nth(2).click()  # by score, lowest first; what diverged comes last
    assert opened.column("table", 1) == ["svfit", "head", "lora", "lsr", "mos"]


@pytest.mark.browser
def test_the_target_of_a_dimension_stands_where_it_is(visit):
    opened = visit("dimension")
    opened.scroll_through()
    figure = opened.page.locator("#ladder")
    down = [
        box["x"] + box["width"] / 2
        for path in figure.locator(".shapelayer path").all()
        if (box := path.bounding_box())["height"] > 100
    ]
    reached = figure.locator(".scatterlayer .trace").first.locator(".point").nth(2).bounding_box()
    assert down == [pytest.approx(reached["x"] + reached["width"] / 2, abs=1)]
