"""The page of a strata report in a real browser: drawn whole, offline, and nothing in it is run."""

from __future__ import annotations

import re

import pytest
import torch

import lowdim
from lowdim.report.strata_parts import render_strata
from tests.report.conftest import written
from tests.report.sample import HOSTILE
from tests.report.strata_sample import labelled, planted, registered
from tests.report.test_page import Elements, contrast, without_plotly


@pytest.fixture(scope="module")
def reports():
    x = planted()
    labels, texts = labelled(x)
    worst = [HOSTILE[i % len(HOSTILE)] for i in range(360)]
    with registered():
        made = {
            "plain": lowdim.strata(
                x.points, text=texts, labels=labels, pieces=3, method="test-means"
            ),
            "hostile": lowdim.strata(
                x.points, text=worst, labels=worst, pieces=3, method="test-means"
            ),
            "bare": lowdim.strata(x.points[:60], pieces=1, method="test-means"),
        }
    made["hostile"].source["name"] = HOSTILE[0]
    return made


@pytest.fixture(scope="module")
def pages(reports, tmp_path_factory):
    return written(tmp_path_factory.mktemp("pages"), reports, render_strata)


def test_every_section_is_there_or_left_out(pages):
    html = {
        name: without_plotly((pages / f"{name}.html").read_text()) for name in ("plain", "bare")
    }
    ids = {name: {a.get("id") for _, a in Elements(h).found} for name, h in html.items()}
    whole = {"map", "pieces", "labels", "sharing", "between", "stability", "about"}
    assert whole | {"texts", "about-pieces", "contingency", "agreement"} <= ids["plain"]
    assert {"map", "pieces", "sharing", "about"} <= ids["bare"]
    assert not {"labels", "between", "stability", "texts", "about-pieces"} & ids["bare"]


def test_the_words_of_a_text_make_no_element(pages):
    plain, hostile = (
        [t for t, _ in Elements((pages / f"{name}.html").read_text()).found]
        for name in ("plain", "hostile")
    )
    for tag in ("script", "img", "iframe", "style"):
        assert hostile.count(tag) == plain.count(tag)


def test_a_stopped_run_is_drawn_as_far_as_it_came():
    report = lowdim.StrataReport(source={"kind": "points", "name": "x.npy", "n": 9, "dim": 2})
    html = without_plotly(render_strata(report))
    assert "Incomplete" in html
    assert "strata.json" in html
    assert "scan" not in re.sub(r"<style>.*?</style>|<script.*?</script>", "", html, flags=re.S)


# --- in a browser -------------------------------------------------------------------------------


@pytest.mark.browser
@pytest.mark.parametrize("name", ["plain", "hostile", "bare"])
def test_every_plot_is_drawn_without_error_or_request(visit, name):
    opened = visit(name)
    opened.scroll_through()
    canvases = opened.page.locator(".canvas").count()
    assert canvases >= (3 if name == "bare" else 9)
    assert opened.page.locator(".js-plotly-plot").count() == canvases
    assert opened.errors == []
    assert len(opened.requests) == 1  # the file itself
    if name == "hostile":
        assert opened.page.locator("h1").inner_text() == HOSTILE[0]


@pytest.mark.browser
def test_buttons_colour_the_map_by_piece_label_and_dimension(visit):
    opened = visit("plain")
    figure = opened.page.locator("#points-map")
    figure.locator(".main-svg").first.wait_for(state="attached")
    buttons = figure.locator("button[data-chooses]")
    assert buttons.all_inner_texts() == ["piece", "label", "local dimension"]
    assert figure.locator(".scatterlayer .trace").count() == 3
    for place, traces in ((2, 1), (1, 3)):
        buttons.nth(place).click()
        assert figure.locator(".scatterlayer .trace").count() == traces
        pressed = [b.get_attribute("aria-pressed") for b in buttons.all()]
        assert pressed == ["true" if i == place else "false" for i in range(3)]
    assert opened.errors == []


@pytest.mark.browser
def test_a_point_tells_its_text_and_label(visit):
    page = visit("plain").page
    figure = page.locator("#points-map")
    figure.scroll_into_view_if_needed()
    dot = figure.locator(".scatterlayer .point").first
    dot.wait_for(state="attached")
    box = dot.bounding_box()
    page.mouse.move(box["x"] + box["width"] / 2, box["y"] + box["height"] / 2)
    hover = figure.locator(".hovertext")
    hover.first.wait_for(state="attached")
    said = hover.first.text_content()
    assert "plain thing" in said
    assert any(name in said for name in ("animal", "food", "motion"))


@pytest.mark.browser
@pytest.mark.parametrize("name", ["plain", "hostile"])
def test_a_phone_shows_no_sideways_scroll(visit, name):
    opened = visit(name, viewport={"width": 400, "height": 800}, is_mobile=True, has_touch=True)
    opened.scroll_through()
    assert opened.page.evaluate("document.documentElement.scrollWidth") <= 400


@pytest.mark.browser
@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_the_pressed_button_can_be_read(visit, scheme):
    page = visit("plain", color_scheme=scheme).page
    for pressed in ("true", "false"):
        button = f'button[aria-pressed="{pressed}"]'
        assert contrast(page, button, button) >= 4.5


def test_the_report_draws_the_same_page_again(reports):
    same = render_strata(reports["plain"]) == render_strata(reports["plain"])
    assert same
    assert torch.is_tensor(reports["plain"].assignments["piece"])  # left as it was
