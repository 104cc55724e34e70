"""Draw the pictures of the docs anew: ``python docs/make_images.py out/report.html``."""

from __future__ import annotations

import shutil
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from playwright.sync_api import Page, sync_playwright

IMAGES = Path(__file__).parent / "images"


@contextmanager
def opened(page_path: str, height: int) -> Iterator[Page]:
    """A report in Chromium, and a folder for its pictures."""
    chromium = shutil.which("chromium") or shutil.which("google-chrome")
    with sync_playwright() as p:
        browser = p.chromium.launch(executable_path=chromium, args=["--no-sandbox"])
        page = browser.new_page(viewport={"width": 1180, "height": height}, color_scheme="light")
        page.goto(Path(page_path).resolve().as_uri())
        IMAGES.mkdir(exist_ok=True)
        yield page
        browser.close()


def main(page_path: str) -> None:
    """Photograph the head of a report."""
    with opened(page_path, 1240) as page:
        page.wait_for_timeout(500)
        page.screenshot(path=IMAGES / "report.png")


if __name__ == "__main__":
    main(sys.argv[1])
