"""Reports opened in a real browser: a module has a fixture ``pages``, the folder of its pages."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

BROWSERS = ("chromium", "chromium-browser", "google-chrome")
CHROMIUM = next((found for name in BROWSERS if (found := shutil.which(name))), None)


@pytest.fixture(scope="module")
def browser() -> Iterator[object]:
    playwright = pytest.importorskip("playwright.sync_api")
    if CHROMIUM is None:
        pytest.skip("no Chromium on this machine")
    with playwright.sync_playwright() as running:
        opened = running.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        yield opened
        opened.close()


def written(folder: Path, reports: dict[str, object], render: Callable[..., str]) -> Path:
    """The pages of reports by name, in a folder."""
    for name, report in reports.items():
        (folder / f"{name}.html").write_text(render(report), encoding="utf-8")
    return folder


class Visit:
    """One page, with all that it said and asked for on the way."""

    def __init__(self, browser, file: Path, **options) -> None:
        self.context = browser.new_context(**options)
        self.page = self.context.new_page()
        self.errors: list[str] = []
        self.requests: list[str] = []
        self.page.on("console", lambda message: self.errors.append(message.text))
        self.page.on("pageerror", lambda error: self.errors.append(str(error)))
        self.page.on("dialog", lambda dialog: self.errors.append("a dialog opened"))
        self.page.on("request", lambda request: self.requests.append(request.url))
        self.page.goto(file.as_uri())

    def scroll_through(self) -> None:
        """Bring every plot near the screen, one after the other."""
        for canvas in self.page.locator(".canvas").all():
            canvas.scroll_into_view_if_needed()
            canvas.locator(".main-svg").first.wait_for(state="attached")

    def column(self, table: str, place: int) -> list[str]:
        """Texts of a column in the order of its rows."""
        cells = self.page.locator(f"#{table} tbody tr td:nth-child({place})")
        return [text.split("\n")[0] for text in cells.all_inner_texts()]


@pytest.fixture
def visit(browser, pages: Path) -> Iterator[object]:
    visits: list[Visit] = []

    def open_page(name: str, **options) -> Visit:
        visits.append(Visit(browser, pages / f"{name}.html", **options))
        return visits[-1]

    yield open_page
    for opened in visits:
        opened.context.close()
