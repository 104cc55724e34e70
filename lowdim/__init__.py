"""Measure the low-dimensional structure of a neural network, and put it to use.

Four nouns (`Spectrum`, `Neighbors`, `Subspace`, `Strata`) and a few verbs (`scan`, `strata`,
`measure`).
Names are imported when first used, so ``import lowdim`` does not import torch.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"

if TYPE_CHECKING:
    from lowdim.battery import Measurement, measure
    from lowdim.core.estimate import Estimate
    from lowdim.core.neighbors import Neighbors
    from lowdim.core.spectrum import Spectrum
    from lowdim.core.strata import Strata
    from lowdim.core.subspace import Subspace
    from lowdim.registry import method, methods
    from lowdim.report.diff import diff
    from lowdim.report.document import Report, load_scan
    from lowdim.report.scan import scan
    from lowdim.report.strata import strata
    from lowdim.report.strata_document import StrataReport

_HOME = {
    "Spectrum": "core.spectrum",
    "Neighbors": "core.neighbors",
    "Subspace": "core.subspace",
    "Strata": "core.strata",
    "Estimate": "core.estimate",
    "measure": "battery",
    "Measurement": "battery",
    "method": "registry",
    "methods": "registry",
    "scan": "report.scan",
    "strata": "report.strata",
    "diff": "report.diff",
    "StrataReport": "report.strata_document",
    "Report": "report.document",
    "load_scan": "report.document",
}

__all__ = [
    "Estimate",
    "Measurement",
    "Neighbors",
    "Report",
    "Spectrum",
    "Strata",
    "StrataReport",
    "Subspace",
    "diff",
    "load_scan",
    "measure",
    "method",
    "methods",
    "scan",
    "strata",
]


def __getattr__(name: str) -> Any:
    if name in _HOME:
        value = getattr(importlib.import_module(f"lowdim.{_HOME[name]}"), name)
        globals()[name] = value
        return value
    try:  # rooms: lowdim.geometry and the like
        return importlib.import_module(f"lowdim.{name}")
    except ModuleNotFoundError as error:
        if error.name != f"lowdim.{name}":
            raise
    raise AttributeError(f"module 'lowdim' has no attribute {name!r}")


def __dir__() -> list[str]:
    return [*__all__, "__version__"]
