"""Draw the pictures of vector-index.md anew: ``python docs/make_index_images.py out/report.html``.

The report is one of ``lowdim index plan``.
"""

from __future__ import annotations

import sys

from make_images import opened
from make_strata_images import photograph


def main(page_path: str) -> None:
    """Photograph the frontier."""
    with opened(page_path, 1900) as page:
        photograph(page, "#frontier", "index-frontier")


if __name__ == "__main__":
    main(sys.argv[1])
