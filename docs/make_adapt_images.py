"""Draw the pictures of adapt.md anew: ``python docs/make_adapt_images.py pages/sst2/report.html``.

The report is one of ``python -m benchmarks.adapt_quality --pages pages``.
"""

from __future__ import annotations

import sys

from make_images import opened
from make_strata_images import photograph


def main(page_path: str) -> None:
    """Photograph the comparison of methods."""
    with opened(page_path, 1000) as page:
        photograph(page, "#comparison", "adapt-comparison")


if __name__ == "__main__":
    main(sys.argv[1])
