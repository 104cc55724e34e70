"""The few exception types: every message says what was wrong, where, and what to do."""

from __future__ import annotations

import importlib
from types import ModuleType


class LowdimError(Exception):
    """Base of every error that lowdim raises on purpose; the CLI prints it as one line."""


class InputError(LowdimError, ValueError):
    """The data or an argument cannot be used as it is: names the row, column or file."""


class MemoryBudgetError(LowdimError, MemoryError):
    """The call cannot fit the memory budget: names the bytes it needs and the bytes it has."""


class MissingExtraError(LowdimError, ImportError):
    """An optional dependency is absent: names the ``pip install`` line that brings it."""


class DriftWarning(UserWarning):
    """The data is not like what a model was fitted to: says by how much."""


def require(module: str, extra: str) -> ModuleType:
    """Import an optional ``module``, or say which extra of lowdim brings it.

    Raises
    ------
    MissingExtraError
        Naming the one line to run.
    """
    try:
        return importlib.import_module(module)
    except ModuleNotFoundError as error:
        if error.name is None or error.name.split(".")[0] != module.split(".")[0]:
            raise  # the module is there but one of its own needs is not: that is its own story
        raise MissingExtraError(
            f"{module} is not installed: pip install 'lowdim[{extra}]'"
        ) from error
