"""The page opens offline in a real browser, shows every section, and nothing in it is run."""

from __future__ import annotations

import dataclasses
import json
import math
import re
from html.parser import HTMLParser
from pathlib import Path

import pytest

from lowdim.report import plots, words
from lowdim.report.document import Report
from lowdim.report.page import render, render_summary
from tests.report.conftest import Visit, written
from tests.report.sample import HOSTILE, PAPERS, sample_report


def without_plotly(html: str) -> str:
    """The page without plotly.js, whose five megabytes hold every word."""
    before, _, rest = html.partition('<script type="text/plain" id="plotly">')
    return before + rest.partition("</script>")[2]


def drawn(report: Report) -> str:
    return without_plotly(render(report))


class Elements(HTMLParser):
    """Every start tag with its attributes, as a browser's parser would see them."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.found: list[tuple[str, dict[str, str | None]]] = []
        self.feed(html)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.found.append((tag, dict(attrs)))


def test_the_same_report_gives_the_same_page() -> None:
    same = render(sample_report()) == render(sample_report())
    assert same  # a difference of five megabytes would take pytest minutes to print


def test_a_report_survives_its_json() -> None:
    report = sample_report(deep=True)
    assert drawn(Report(**json.loads(json.dumps(report.to_dict())))) == drawn(report)


def test_nothing_is_loaded_from_anywhere() -> None:
    elements = Elements(drawn(sample_report())).found
    assert not [
        tag for tag, attrs in elements if "src" in attrs or tag in ("link", "iframe", "object")
    ]
    assert not [attrs for _, attrs in elements if any(name.startswith("on") for name in attrs)]
    policy = next(a["content"] for t, a in elements if t == "meta" and "http-equiv" in a)
    assert policy is not None
    assert "default-src 'none'" in policy
    assert "script-src 'sha256-" in policy


def test_hostile_strings_make_no_element() -> None:
    plain, hostile = (
        [t for t, _ in Elements(render(sample_report(hostile=h))).found] for h in (False, True)
    )
    for tag in ("script", "img", "iframe", "style"):
        assert hostile.count(tag) == plain.count(tag)
    summary = Elements(render_summary(sample_report(hostile=True))).found
    assert {"script", "img", "bold"}.isdisjoint(tag for tag, _ in summary)


def test_the_data_are_json_that_no_parser_can_leave() -> None:
    data = re.search(
        r'<script type="application/json" id="data">(.*?)</script>',
        drawn(sample_report(hostile=True)),
        re.S,
    )
    assert data is not None
    assert not set("<>&") & set(data[1])
    parsed = json.loads(data[1])
    assert set(parsed["methods"]) == set(PAPERS)
    assert parsed["figures"]["map/0"]["data"]


def test_a_link_that_is_no_web_address_is_dropped() -> None:
    report = sample_report()
    report.methods["geometry/two-nn"]["link"] = "javascript:alert(3)"
    html = drawn(report)
    assert "javascript:alert" not in html.replace("\\u003a", ":")
    assert Elements(html).found  # parses


@pytest.mark.parametrize("absent", ["weights", "layers", "embedding", "advice", "deep"])
def test_an_absent_section_is_left_out(absent: str) -> None:
    empty = None if absent in ("embedding", "deep") else []
    report = dataclasses.replace(sample_report(deep=True), **{absent: empty})
    ids = {attrs.get("id") for _, attrs in Elements(drawn(report)).found}
    assert absent not in ids
    assert {"weights", "layers", "embedding", "advice", "deep", "about"} - {absent} <= ids


@pytest.mark.parametrize(
    "absent", ["positional", "profile", "tokens", "compression", "local_rank", "claims", "points"]
)
def test_every_part_of_a_deep_scan_may_be_missing(absent: str) -> None:
    report = sample_report(deep=True)
    assert report.deep is not None
    del report.deep[absent]
    html = drawn(report)
    assert 'id="deep"' in html
    verdicts = ("does not agree", "cannot be told")
    assert all((verdict in html) is (absent != "claims") for verdict in verdicts)


def test_a_claims_link_that_is_no_web_address_is_dropped() -> None:
    assert 'href="https://arxiv.org/abs/2310.04861" rel' in drawn(sample_report(deep=True))
    found = Elements(drawn(sample_report(deep=True, hostile=True))).found
    links = [attrs["href"] or "" for _, attrs in found if "href" in attrs]
    assert not [link for link in links if "alert(4)" in link]


def test_an_almost_empty_report_is_drawn() -> None:
    report = Report(source={"kind": "points", "name": "x.npy", "n": 3, "dim": 2})
    html = drawn(report)
    assert "Incomplete" in html
    assert "x.npy" in render_summary(report)
    assert "Incomplete" not in drawn(dataclasses.replace(report, complete=True))


def test_every_optional_part_of_the_embedding_may_be_null() -> None:
    report = sample_report()
    assert report.embedding is not None
    for key in ("local_dimension", "hubness", "labels", "size_recall", "map", "near_duplicates"):
        report.embedding[key] = None
    for estimate in report.embedding["estimates"].values():
        estimate["value"] = None
    assert "–" in drawn(report)


def test_nan_is_shown_as_missing_and_never_written() -> None:
    report = sample_report(n_weights=2)
    report.weights[0]["estimates"]["spectra/init-distance"]["value"] = math.nan
    html = drawn(report)
    assert "NaN" not in html.split('id="data">')[1].split("</script>")[0]


def test_a_measure_nobody_knows_is_shown_with_its_metadata() -> None:
    report = sample_report(n_layers=3)
    for layer in report.layers:
        layer["estimates"]["elsewhere/my-new-measure"] = {"value": 1.25, "n": 9, "twist": 3.5}
    report.methods["elsewhere/my-new-measure"] = {
        "question": "Is it new?", "paper": "Someone 2030", "link": "https://example.org/new",
        "cost": "O(1)",
    }  # fmt: skip
    html = drawn(report)
    assert "My new measure" in html
    assert "Is it new?" in html
    assert "https://example.org/new" in html


def test_interpolated_energy_is_close_to_the_true_curve() -> None:
    values = [1 / (1 + i) ** 1.3 for i in range(2000)]
    index = sorted({round(2000 ** (j / 127)) for j in range(128)})
    spectrum = {"index": index, "values": [values[i - 1] for i in index], "total": sum(values)}
    positions, share = plots.held(spectrum)
    truth = [sum(values[:i]) / sum(values) for i in positions]
    assert share == pytest.approx(truth, abs=2e-3)
    assert max(share) <= 1


def test_groups_in_a_legend_look_different() -> None:
    looks = [plots.marker(place, size=5) for place in range(plots.LONGEST_LEGEND)]
    assert len({(look["color"], look["symbol"]) for look in looks}) == len(looks)
    assert len({look["color"] for look in looks[:12]}) == 12


def test_plotly_reads_no_markup_from_the_scan() -> None:
    for text in HOSTILE:
        drawn = plots.safe(text)
        assert "<" not in drawn
        assert "$" not in drawn
        assert len(drawn) < 400


def test_the_sentences_carry_the_figures() -> None:
    report = sample_report()
    said = " ".join(words.sentences(report))
    assert report.embedding is not None
    for id in ("geometry/two-nn", "geometry/mle", "geometry/rank-99"):
        assert words.number(report.embedding["estimates"][id]["value"]) in said
    report.embedding["labels"]["p_value"] = 0.4
    assert "do not clearly differ" in words.chance(report.embedding["labels"])
    assert 3 <= len(words.sentences(report)) <= 5


# --- in a browser -------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def pages(tmp_path_factory: pytest.TempPathFactory) -> Path:
    reports = {
        "plain": sample_report(deep=True),
        "hostile": sample_report(hostile=True, deep=True),
        "large": sample_report(n_weights=210, n_layers=31),
        "incomplete": dataclasses.replace(sample_report(n_weights=3), complete=False),
    }
    return written(tmp_path_factory.mktemp("pages"), reports, render)


@pytest.mark.browser
@pytest.mark.parametrize("name", ["plain", "hostile"])
def test_every_plot_is_drawn_without_error_or_request(visit, name: str) -> None:
    opened = visit(name)
    opened.scroll_through()
    canvases = opened.page.locator(".canvas").count()
    assert canvases >= 20
    assert opened.page.locator(".js-plotly-plot").count() == canvases
    assert opened.errors == []
    assert [url for url in opened.requests if not url.startswith("file://")] == []
    assert len(opened.requests) == 1  # the file itself
    if name == "hostile":
        assert opened.page.locator("h1").inner_text() == HOSTILE[0]
        assert opened.page.locator("img").count() == 0


@pytest.mark.browser
def test_plots_wait_until_they_are_near(visit) -> None:
    opened = visit("plain")
    opened.page.wait_for_load_state("load")
    assert opened.page.locator(".js-plotly-plot").count() < opened.page.locator(".canvas").count()


@pytest.mark.browser
def test_a_column_sorts_by_number_both_ways_and_by_keyboard(visit) -> None:
    opened = visit("plain")
    header = opened.page.locator("#size-recall-table th").nth(2)
    header.locator("button").click()
    rising = [float(text.replace(",", "")) for text in opened.column("size-recall-table", 3)]
    assert rising == sorted(rising)
    assert [str(v) for v in rising] != sorted(str(v) for v in rising)  # lexical order differs
    assert header.get_attribute("aria-sort") == "ascending"
    header.locator("button").focus()
    opened.page.keyboard.press("Enter")
    falling = [float(text.replace(",", "")) for text in opened.column("size-recall-table", 3)]
    assert falling == sorted(rising, reverse=True)
    assert header.get_attribute("aria-sort") == "descending"
    other = opened.page.locator("#size-recall-table th").nth(4)
    other.locator("button").click()
    assert header.get_attribute("aria-sort") == "none"


@pytest.mark.browser
def test_a_missing_number_sorts_last_both_ways(browser, tmp_path: Path) -> None:
    report = sample_report(n_weights=5)
    report.weights[2]["estimates"]["spectra/stable-rank"]["value"] = None
    file = tmp_path / "missing.html"
    file.write_text(render(report), encoding="utf-8")
    opened = Visit(browser, file)
    for _ in range(2):
        opened.page.locator("#weights-table th").nth(4).locator("button").click()
        assert opened.column("weights-table", 5)[-1] == "–"
    opened.context.close()


def luminance(colour: str) -> float:
    """Relative luminance of ``rgb(r, g, b)``, as WCAG 2 defines it."""
    channels = [int(c) / 255 for c in re.findall(r"\d+", colour)[:3]]
    linear = [c / 12.92 if c <= 0.03928 else ((c + 0.055) / 1.055) ** 2.4 for c in channels]
    return sum(w * c for w, c in zip((0.2126, 0.7152, 0.0722), linear, strict=True))


def contrast(page, text: str, back: str = "body") -> float:
    """Contrast ratio of an element's text against another element's background."""
    read = "(e, name) => getComputedStyle(e)[name]"
    a = luminance(page.locator(text).first.evaluate(read, "color"))
    b = luminance(page.locator(back).first.evaluate(read, "backgroundColor"))
    return (max(a, b) + 0.05) / (min(a, b) + 0.05)


@pytest.mark.browser
@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_text_is_readable_in_light_and_dark(visit, scheme: str) -> None:
    page = visit("plain", color_scheme=scheme).page
    back = luminance(page.locator("body").evaluate("e => getComputedStyle(e).backgroundColor"))
    assert back < 0.05 if scheme == "dark" else back > 0.9
    for text in ("body", ".quiet", ".note", "td small", "#weights-table a", ".lede"):
        assert contrast(page, text) >= 4.5, text
    for text in (".card h3", ".card p", ".card .kind"):
        assert contrast(page, text, ".card") >= 4.5, text
    assert contrast(page, ".copy", ".copy") >= 4.5


@pytest.mark.browser
def test_the_button_turns_the_page_and_its_plots_dark(visit) -> None:
    opened = visit("plain", color_scheme="light")
    page = opened.page
    page.locator("#energy .canvas").scroll_into_view_if_needed()
    tick = page.locator("#energy .xtick text").first
    tick.wait_for(state="attached")
    before = tick.evaluate("e => getComputedStyle(e).fill")
    page.locator("#theme").click()
    body = page.locator("body").evaluate("e => getComputedStyle(e).backgroundColor")
    assert luminance(body) < 0.05
    after = page.locator("#energy .xtick text").first.evaluate("e => getComputedStyle(e).fill")
    assert luminance(after) > luminance(before) + 0.1
    page.locator("#theme").click()
    body = page.locator("body").evaluate("e => getComputedStyle(e).backgroundColor")
    assert luminance(body) > 0.9


@pytest.mark.browser
@pytest.mark.parametrize("name", ["plain", "hostile", "large"])
def test_a_phone_shows_no_sideways_scroll(visit, name: str) -> None:
    opened = visit(name, viewport={"width": 375, "height": 800}, is_mobile=True, has_touch=True)
    if name == "plain":
        opened.scroll_through()
    assert opened.page.evaluate("document.documentElement.scrollWidth") <= 375
    box = opened.page.locator("#weights-table .scroll")
    assert box.evaluate("e => e.scrollWidth > e.clientWidth")  # the wide table scrolls by itself


@pytest.mark.browser
def test_a_number_is_explained_with_its_paper(visit) -> None:
    page = visit("plain", has_touch=True).page
    header = page.locator('#layers-table th [data-method="geometry/two-nn"]')
    cell = page.locator("#layers-table tbody tr").first.locator("td").nth(1)
    explain = page.locator("#explain")
    header.scroll_into_view_if_needed()
    for reach in (header.hover, cell.hover, header.tap, header.focus):
        reach()
        explain.wait_for(state="visible")
        for part in PAPERS["geometry/two-nn"][:2]:  # question and paper
            assert part in explain.inner_text()
        assert explain.locator("a").get_attribute("href") == "https://arxiv.org/abs/1803.06992"
        if reach != header.focus:
            page.keyboard.press("Escape")
            explain.wait_for(state="hidden")
            page.mouse.move(0, 0)
            page.evaluate("document.activeElement.blur()")
    assert header.get_attribute("aria-describedby") == "explain"
    page.keyboard.press("Tab")  # on into the link
    assert explain.locator("a").evaluate("e => e === document.activeElement")
    page.keyboard.press("Escape")
    explain.wait_for(state="hidden")


@pytest.mark.browser
def test_every_number_of_the_measure_tables_has_an_explanation(visit) -> None:
    page = visit("plain").page
    for table in ("layers-table", "weights-table"):
        headers = page.locator(f"#{table} th button").all()
        named = {h.get_attribute("data-method") for h in headers}
        ids = {id for id in PAPERS if page.locator(f'#{table} [data-method="{id}"]').count()}
        assert named - {None} == ids
        assert len(ids) >= 8
    rows = page.locator("#estimates tbody tr")
    assert rows.locator("[data-method]").count() == rows.count()


@pytest.mark.browser
def test_the_reader_chooses_what_a_plot_shows(visit) -> None:
    opened = visit("plain")
    page = opened.page
    page.locator("#map .canvas").scroll_into_view_if_needed()
    page.locator("#map .main-svg").first.wait_for(state="attached")
    assert page.locator("#map .scatterlayer .trace").count() == 8  # one a label
    page.locator("#map select").select_option(label="local dimension")
    assert page.locator("#map .scatterlayer .trace").count() == 1
    third = page.locator("#weights-table tbody a").nth(2)
    name = third.inner_text()
    third.click()
    page.locator("#spectrum .main-svg").first.wait_for(state="attached")
    assert page.locator("#spectrum select").evaluate("e => e.selectedOptions[0].text") == name
    assert opened.errors == []


@pytest.mark.browser
def test_two_hundred_matrices_stay_usable(visit) -> None:
    opened = visit("large")
    opened.page.set_default_timeout(20_000)
    rows = opened.page.locator("#weights-table tbody tr")
    assert rows.count() == 210
    opened.page.locator("#weights-table th").nth(4).locator("button").click()
    column = [float(text) for text in opened.column("weights-table", 5)]
    assert column == sorted(column)
    opened.page.locator("#weights-table input").fill("layer.34.")
    assert len([row for row in rows.all() if row.is_visible()]) == 6
    assert opened.errors == []


@pytest.mark.browser
def test_an_incomplete_report_says_so(visit) -> None:
    banner = visit("incomplete").page.locator(".banner").first
    assert banner.is_visible()
    assert "stopped" in banner.inner_text()
    assert visit("plain").page.locator("header > .banner").count() == 0


@pytest.mark.browser
def test_it_prints_light_and_whole(visit, tmp_path: Path) -> None:
    opened = visit("plain", color_scheme="dark")
    pdf = opened.page.pdf(path=tmp_path / "report.pdf")
    assert pdf.startswith(b"%PDF")
    assert opened.page.locator(".js-plotly-plot").count() == opened.page.locator(".canvas").count()
    body = opened.page.locator("body").evaluate("e => getComputedStyle(e).backgroundColor")
    assert luminance(body) < 0.05  # back to what it was
    assert opened.errors == []
