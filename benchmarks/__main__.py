"""Run every benchmark, each in a process of its own, so that one's memory is not another's peak."""

from __future__ import annotations

import subprocess
import sys

NAMES = (
    "neighbors",
    "battery",
    "dimension_speed",
    "dimension_accuracy",
    "dimension_blind",
    "vendi",
    "fidelity",
    "tail",
    "scan",
    "curvature",
    "magnitude",
    "scale",
    "strata_planted",
    "strata_domains",
    "strata_scale",
    "stratification",
    "subspace_clustering",
    "omp",
    "private_pca",
    "tldr",
    "adapt_speed",
    "fastfood",
    "adapt_quality",
    "index_codes",
    "index_search",
    "index_storage",
    "index_methods",
    "index_frontier",
    "index_promise",
    "index_plan_speed",
    "index_scale",
    "index_order",
    "index_compatible",
    "index_drift",
    "index_tables",
)

if __name__ == "__main__":
    chosen = sys.argv[1:] or NAMES
    failed = [
        n for n in chosen if subprocess.run([sys.executable, "-m", f"benchmarks.{n}"]).returncode
    ]
    sys.exit(f"failed: {', '.join(failed)}" if failed else 0)
