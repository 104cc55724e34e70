"""The contract of a code: coordinates to a few bytes a vector, and back."""

from __future__ import annotations

import difflib
import re
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from dataclasses import dataclass, fields
from functools import cache
from importlib.util import find_spec
from typing import Any, ClassVar, Self

import torch
from torch import Tensor

from lowdim.errors import InputError
from lowdim.registry import methods
from lowdim.retrieval.scan import Scores, in_cache

FEW = 16
"""Most queries for which one compiled pass over codes is faster than a product of matrices."""


@cache
def _numba() -> bool:
    return find_spec("numba") is not None


def compiles(x: Tensor) -> bool:
    """Whether passes over what is on the device of ``x`` can be compiled: `kernels`."""
    return x.device.type == "cpu" and _numba()


@dataclass(frozen=True, eq=False)
class Code(ABC):
    """A fitted code: a frozen dataclass whose fields, tensors and options, are all that it needs.

    A code is asked for by the name it is registered with, ``int8``; one that can be made of any
    size by that name and the bytes of a vector, ``pq48``.
    """

    sized: ClassVar[bool] = False
    """Whether a number of bytes is part of its name."""

    @classmethod
    @abstractmethod
    def fit(cls, z: Tensor, *, size: int | None = None, seed: int = 0) -> Self:
        """Choose ranges, codebooks and the like from (n, m) float32 coordinates.

        ``size`` is the bytes a vector of a code that is ``sized``.
        """

    @property
    @abstractmethod
    def dims(self) -> int:
        """m, the coordinates that it was fitted to."""

    @property
    @abstractmethod
    def bytes_per_vector(self) -> int:
        """Bytes of one row of codes."""

    @abstractmethod
    def encode(self, z: Tensor) -> Tensor:
        """(n, bytes_per_vector) uint8 of (n, m) float32 coordinates."""

    @abstractmethod
    def decode(self, codes: Tensor) -> Tensor:
        """(n, m) float32 that (n, bytes_per_vector) uint8 stand for."""

    @property
    def grain(self) -> int:
        """Fewest rows that are scored together, whatever the number of queries."""
        return 512

    def products(self, queries: Tensor, shift: Tensor | None = None) -> Scores:
        """What makes of codes of z their (q, n) products with (q, m) queries.

        With a (m,) ``shift`` comes one row more, |z + shift|^2. What it gives may be overwritten.
        A code that has a faster way than to decode overrides it, or `one_pass`.
        """
        if len(queries) <= FEW and compiles(queries):
            return self.one_pass(queries, shift)
        return multiplied(self.decode, queries, shift)

    def one_pass(self, queries: Tensor, shift: Tensor | None) -> Scores:
        """The same for few queries, each decoded row touched once."""
        from lowdim.retrieval import kernels

        start = queries.new_zeros(self.dims)
        of_floats = kernels.scanned(kernels.plain, self.dims, queries, shift, start, start + 1)
        return in_cache(lambda codes: of_floats(self.decode(codes)), self.dims)

    @property
    def overhead(self) -> int:
        """Bytes that are stored once, whatever the number of vectors."""
        return sum(x.numel() * x.element_size() for x in self.tensors().values())

    def tensors(self) -> dict[str, Tensor]:
        """Every field that is a tensor, by name."""
        return {name: x for name, x in self._fields().items() if isinstance(x, Tensor)}

    def options(self) -> dict[str, Any]:
        """Every other field: JSON values."""
        return {name: x for name, x in self._fields().items() if not isinstance(x, Tensor)}

    def to(self, device: Any) -> Self:
        """A copy on another device."""
        moved = {name: x.to(device) for name, x in self.tensors().items()}
        return type(self)(**moved, **self.options())

    def _fields(self) -> dict[str, Any]:
        return {field.name: getattr(self, field.name) for field in fields(self)}


def multiplied(decode: Callable[[Tensor], Tensor], queries: Tensor, shift: Tensor | None) -> Scores:
    """As :meth:`Code.products`, by products of matrices: what ``decode`` gives, and queries."""
    if shift is None:
        return in_cache(lambda codes: queries @ decode(codes).T, queries.shape[1])

    def of_rows(codes: Tensor) -> Tensor:
        z = decode(codes)
        found = z.new_empty(len(queries) + 1, len(z))
        torch.mm(queries, z.T, out=found[:-1])
        torch.sum((z + shift).square_(), 1, out=found[-1])
        return found

    return in_cache(of_rows, queries.shape[1])


def codes() -> Mapping[str, type[Code]]:
    """Every registered code, by name."""
    return {
        m.name: m.function
        for m in methods("retrieval")
        if isinstance(m.function, type) and issubclass(m.function, Code)
    }


def find_code(text: str) -> tuple[type[Code], int | None]:
    """The code that ``int8`` or ``pq48`` names, and its bytes a vector where it is sized."""
    known = codes()
    if text in known and not known[text].sized:
        return known[text], None
    match = re.fullmatch(r"(.+?)([0-9]+)", text)
    if match and match[1] in known and known[match[1]].sized:
        return known[match[1]], int(match[2])
    names = sorted(f"{name}N" if kind.sized else name for name, kind in known.items())
    close = difflib.get_close_matches(text, names, n=2)
    hint = f"did you mean {' or '.join(close)}? " if close else ""
    raise InputError(f"no code {text!r}: {hint}there are {', '.join(names)} (N bytes a vector)")
