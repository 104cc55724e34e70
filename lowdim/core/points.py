"""The door for data: whatever the user holds becomes a checked (n, d) float tensor, or an error.

Half precision and integers are promoted to float32 here, once; float64 stays. Nothing is ever
changed in place. NaN and Inf are errors that name the row; exact duplicates are legal and
:func:`distinct` merges them for the methods that need distinct points.
"""

from __future__ import annotations

import warnings
from typing import Any

import numpy as np
import torch
from torch import Tensor

from lowdim.errors import InputError


def as_points(x: Any, *, name: str = "x", min_rows: int = 1, offset: int = 0) -> Tensor:
    """Turn arrays, lists, data frames or tensors into a checked (n, d) float tensor.

    Parameters
    ----------
    x : array-like
        (n, d) numbers; (n,) is read as one column.
    name : str
        What the error messages call it.
    min_rows : int
        The fewest rows that the caller can work with.
    offset : int
        Added to the row an error names, for chunks of a larger source.

    Returns
    -------
    Tensor
        float32 or float64, detached, on the device it was on; shares memory where it can.

    Raises
    ------
    InputError
        Not numeric, not two-dimensional, empty, too few rows, or a NaN/Inf (row and column named).
    """
    x = x if isinstance(x, Tensor) else _from_numpy(x, name)
    x = x.detach()
    if x.ndim == 1:
        x = x[:, None]
    if x.ndim != 2:
        raise InputError(f"{name} has shape {tuple(x.shape)}: give (n points, d columns)")
    if x.shape[0] < max(min_rows, 1) or x.shape[1] == 0:
        raise InputError(
            f"{name} has {x.shape[0]} rows and {x.shape[1]} columns: "
            f"at least {max(min_rows, 1)} rows and 1 column are needed"
        )
    if x.is_complex():
        raise InputError(f"{name} is complex: give real numbers, e.g. real and imaginary columns")
    if x.dtype not in (torch.float32, torch.float64):
        x = x.to(torch.float32 if x.is_floating_point() or x.element_size() < 4 else torch.float64)
    check_finite(x, name, offset)
    return x


def _from_numpy(x: Any, name: str) -> Tensor:
    try:
        array = np.asarray(x)
    except ValueError as error:  # ragged lists
        raise InputError(f"{name} is not a rectangular array of numbers: {error}") from error
    if array.dtype == object or array.dtype.kind in "SUVmM":
        raise InputError(
            f"{name} has dtype {array.dtype}: give a rectangular array of numbers "
            "(object arrays are usually ragged lists or columns of text)"
        )
    if array.dtype.kind == "f" and array.dtype.itemsize > 8:
        array = array.astype(np.float64)  # extended precision, which torch does not know
    if array.dtype.kind == "u" and array.dtype.itemsize > 1:
        array = array.astype(np.float64)
    if not array.dtype.isnative or any(stride < 0 for stride in array.strides):
        array = array.astype(array.dtype.newbyteorder("="), order="C")
    with warnings.catch_warnings():  # torch warns of read-only memory maps; we never write
        warnings.filterwarnings("ignore", message=".*not writable")
        return torch.from_numpy(array)


def check_finite(x: Tensor, name: str = "x", offset: int = 0) -> None:
    """Raise an error that names the first row and column holding NaN or Inf.

    ``offset`` is added to the row named, for chunks of a larger source. Costs one pass for the
    extremes where all is well: NaN spreads to both.
    """
    if torch.isfinite(torch.stack(torch.aminmax(x))).all():
        return
    bad = (~torch.isfinite(x)).nonzero()
    row, column = (int(v) for v in bad[0])
    rows = len(bad[:, 0].unique())
    raise InputError(
        f"{name} holds {x[row, column].item()} at row {row + offset}, column {column} "
        f"({rows} such row{'s' * (rows > 1)}): remove or fill these values first"
    )


def distinct(x: Tensor) -> tuple[Tensor, Tensor]:
    """Merge rows that are exactly equal; -0.0 equals 0.0.

    Returns
    -------
    points : Tensor
        (m, d) the distinct rows in order of first appearance; ``x`` itself when m == n.
    inverse : Tensor
        (n,) int64, ``points[inverse] == x``.

    Notes
    -----
    Rows are sorted by a 64-bit hash of their bits, so the cost is one pass and a sort of n
    integers; rows of equal hash are then compared for real.
    """
    n = len(x)
    unique, inverse, counts = row_keys(x).unique(return_inverse=True, return_counts=True)
    if len(unique) == n:
        return x, torch.arange(n, device=x.device)
    first = torch.full((len(unique),), n, dtype=torch.int64, device=x.device)
    first.scatter_reduce_(0, inverse, torch.arange(n, device=x.device), "amin")
    shared = (counts[inverse] > 1).nonzero()[:, 0]
    if not torch.equal(x[first[inverse[shared]]], x[shared]):  # two rows with one hash
        unique, inverse = x.unique(dim=0, return_inverse=True)
        first = torch.full((len(unique),), n, dtype=torch.int64, device=x.device)
        first.scatter_reduce_(0, inverse, torch.arange(n, device=x.device), "amin")
    order = first.argsort()
    rank = torch.empty_like(order)
    rank[order] = torch.arange(len(order), device=x.device)
    return x[first[order]], rank[inverse]


def row_keys(x: Tensor) -> Tensor:
    """(n,) 64-bit hashes of the rows: equal for equal rows, and nearly always only for those."""
    bits = (x + 0.0).contiguous().view(torch.int64 if x.dtype == torch.float64 else torch.int32)
    generator = torch.Generator().manual_seed(0x9E3779B9)
    odd = torch.randint(-(2**62), 2**62, (x.shape[1],), generator=generator) * 2 + 1
    return (bits.to(torch.int64) * odd.to(x.device)).sum(1)  # wraps modulo 2^64


def unit_rows(x: Tensor, name: str = "x", offset: int = 0) -> Tensor:
    """Scale every row to length one; a zero row has no direction and is an error that names it.

    ``offset`` is added to the row named, for chunks of a larger source.
    """
    largest = x.abs().amax(1, keepdim=True)  # dividing by it first, no square over- or underflows
    if not bool((largest > 0).all()):
        row = int((largest[:, 0] == 0).nonzero()[0]) + offset
        raise InputError(f"{name} row {row} is all zeros: it has no direction, remove it first")
    x = x / largest
    return x / torch.linalg.vector_norm(x, dim=1, keepdim=True)
