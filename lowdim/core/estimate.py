"""What every measure returns: a number and all that it rests on."""

from __future__ import annotations

import dataclasses
import math
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor


@dataclass(frozen=True, kw_only=True)
class Estimate:
    """One measured number with its interval, sample size, exactness, seed and wall time.

    A method with more to say than one number subclasses this and adds fields; ``value`` stays
    the headline.

    Attributes
    ----------
    value : float
        The headline number.
    low, high : float or None
        Ends of the interval at ``level``; None where the method gives none.
    level : float
        Coverage that the interval aims at (sampling error only, never bias).
    n : int
        How many rows the number rests on, after duplicates or unusable rows were set aside.
    exact : bool
        False where a randomised or approximate step was used.
    seed : int or None
        The seed of that step, or of a bootstrap.
    seconds : float or None
        Wall time of this method alone, the shared search or spectrum not counted.
    notes : tuple of str
        What a careful reader must know ("3 exact duplicates merged").
    per_point : Tensor or None
        (n,) one value a row, where the method is local.
    """

    value: float
    n: int
    low: float | None = None
    high: float | None = None
    level: float = 0.95
    exact: bool = True
    seed: int | None = None
    seconds: float | None = None
    notes: tuple[str, ...] = ()
    per_point: Tensor | None = field(default=None, repr=False, compare=False)

    def __float__(self) -> float:
        return self.value

    def __str__(self) -> str:
        return format_number(self.value) + (f" {self.interval}" if self.interval else "")

    @property
    def interval(self) -> str:
        """The interval as ``[low, high]``, or the empty string."""
        if self.low is None or self.high is None:
            return ""
        return f"[{format_number(self.low)}, {format_number(self.high)}]"

    def replace(self, **changes: Any) -> Estimate:
        """A copy with some fields changed."""
        return dataclasses.replace(self, **changes)

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON values; per-point arrays are left out, absent fields too."""
        items = {f.name: getattr(self, f.name) for f in dataclasses.fields(self)}
        items.pop("per_point")
        if self.low is None and self.high is None:
            items.pop("level")
        return {k: to_json(v) for k, v in items.items() if v is not None and v != ()}

    def _repr_html_(self) -> str:
        rows = "".join(f"<tr><th>{k}</th><td>{v}</td></tr>" for k, v in self.to_dict().items())
        return f"<table>{rows}</table>"


def format_number(value: float) -> str:
    """Four significant digits, integers as they are: the one way numbers are shown."""
    if not math.isfinite(value):
        return str(value)
    if value == int(value) and abs(value) < 1e7:
        return str(int(value))
    return f"{value:.4g}"


def to_json(value: Any) -> Any:
    """Turn tensors, tuples and non-finite floats into what strict JSON can hold."""
    if isinstance(value, Tensor):
        return to_json(value.tolist())
    if isinstance(value, dict):
        return {str(k): to_json(v) for k, v in value.items()}
    if isinstance(value, (list, tuple)):
        return [to_json(v) for v in value]
    if isinstance(value, float) and not math.isfinite(value):
        return None  # JSON has no NaN; a missing number reads as missing
    if isinstance(value, torch.dtype):
        return str(value).removeprefix("torch.")
    return value
