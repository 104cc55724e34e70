"""The door for labels and targets: one a row, checked, next to checked points."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor

from lowdim.core.points import as_points
from lowdim.errors import InputError


def as_classes(x: Any, y: Any, *, fewest: int = 2) -> tuple[Tensor, Tensor, list[str]]:
    """Check points and class labels of any kind.

    Returns
    -------
    points : Tensor
        (n, d).
    code : Tensor
        (n,) int64 class of each row, on the device of the points.
    names : list of str
        Of the classes, sorted as the labels sort.

    Raises
    ------
    InputError
        Not one label a row, or fewer than ``fewest`` classes.
    """
    x = as_points(x)
    y = np.asarray(y.cpu() if isinstance(y, Tensor) else y)
    if y.shape != (len(x),):
        raise InputError(f"y has shape {y.shape} for {len(x)} rows: give one label a row")
    names, code = np.unique(y, return_inverse=True)
    if len(names) < fewest:
        raise InputError(f"y holds one class only ({names[0]}): at least {fewest} are needed")
    return x, torch.from_numpy(code.astype(np.int64)).to(x.device), [str(name) for name in names]


def as_targets(x: Any, y: Any) -> tuple[Tensor, Tensor]:
    """Check points and (n,) or (n, t) real targets; both come back on the device of the points."""
    x = as_points(x)
    y = as_points(y, name="y").to(x.device)
    if len(y) != len(x):
        raise InputError(f"y has {len(y)} rows for the {len(x)} of x: give one target a row")
    return x, y.double()


def one_hot(code: Tensor) -> Tensor:
    """(n, classes) float64 of zeros and ones."""
    return torch.nn.functional.one_hot(code).double()
