"""Draw the pictures of the docs anew: ``python docs/make_images.py out/report.html``."""

from __future__ import annotations

import shutil
import sys
from pathlib import Path

from playwright.sync_api import sync_playwright

IMAGES = Path(__file__).parent / "images"


def main(page_path: str) -> None:
    """Photograph the head of a report in Chromium."""
    chromium = shutil.which("chromium") or shutil.which("google-chrome")
    with sync_playwright() as p:
        browser = p.chromium.launch(executable_path=chromium, args=["--no-sandbox"])
        page = browser.new_page(viewport={"width": 1180, "height": 1240}, color_scheme="light")
        page.goto(Path(page_path).resolve().as_uri())
        page.wait_for_timeout(500)
        IMAGES.mkdir(exist_ok=True)
        page.screenshot(path=IMAGES / "report.png")
        browser.close()


if __name__ == "__main__":
    main(sys.argv[1])
