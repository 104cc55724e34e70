"""Draw the pictures of strata.md anew: ``python docs/make_strata_images.py out/report.html``.

The report is that of ``python -m benchmarks.domain_files work`` and then ``lowdim strata
work/minilm.npy --labels work/labels.csv --texts work/texts.jsonl --out out``.
"""

from __future__ import annotations

import sys

from make_images import IMAGES, opened
from playwright.sync_api import Page


def main(page_path: str) -> None:
    """Photograph parts of a report of strata."""
    with opened(page_path, 1000) as page:
        photograph(page, "#map", "strata-map")
        page.get_by_role("button", name="label", exact=True).click()
        photograph(page, "#map", "strata-labels")
        photograph(page, "#labels", "strata-contingency")
        photograph(page, "#stability", "strata-stability")


def photograph(page: Page, part: str, name: str) -> None:
    """One section; what it holds is drawn when it comes into view."""
    section = page.locator(part)
    section.scroll_into_view_if_needed()
    page.wait_for_timeout(800)
    section.screenshot(path=IMAGES / f"{name}.png")


if __name__ == "__main__":
    main(sys.argv[1])
