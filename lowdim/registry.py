"""One line makes a method known to the CLI, the docs and the common battery of tests.

    @method("geometry/two-nn", needs=neighbors(k=2), paper="Facco et al. 2017", ...)
    def two_nn(neighbors: Neighbors, *, discard: float = 0.1) -> Estimate: ...

A method is a pure function. ``needs`` says which shared nouns it reads, in the order of its
positional arguments; :func:`lowdim.measure` makes each noun once and hands it to all. Packages
outside register theirs by an entry point in the group ``lowdim.methods`` that names a module.

This module imports neither torch nor any room: a listing of it costs nothing until asked for.
"""

from __future__ import annotations

import importlib
import inspect
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import cache
from importlib.metadata import entry_points
from types import MappingProxyType
from typing import Any, TypeVar

from lowdim.errors import InputError

ROOMS = ("geometry", "diversity", "spectra", "compare", "structure", "adapt", "retrieval")
"""Rooms whose modules register methods when they are imported."""

Function = TypeVar("Function", bound=Callable[..., Any])


@dataclass(frozen=True)
class Need:
    """A noun that a method reads, and how it has to be made."""

    noun: str
    options: MappingProxyType[str, Any] = field(default_factory=lambda: MappingProxyType({}))

    def __str__(self) -> str:
        options = ", ".join(f"{k}={v}" for k, v in self.options.items())
        return f"{self.noun}({options})" if options else self.noun


def neighbors(k: int) -> Need:
    """Distances to the k nearest distinct points."""
    return Need("neighbors", MappingProxyType({"k": k}))


def spectrum(*, center: bool = True, unit: bool = False, vectors: bool = False) -> Need:
    """Spectrum of the second moment; ``unit`` scales the rows to length one first."""
    options = {"center": center, "unit": unit} | ({"vectors": True} if vectors else {})
    return Need("spectrum", MappingProxyType(options))


def points(*, distinct: bool = False) -> Need:
    """The points themselves; ``distinct`` merges equal rows, as the neighbours do."""
    return Need("points", MappingProxyType({"distinct": True} if distinct else {}))


def matrix() -> Need:
    """Spectrum of one weight matrix, values being squared singular values."""
    return Need("matrix")


def pair(*, equal: float = 1.0) -> Need:
    """Two sets of points whose rows correspond; ``equal`` is the value of two equal sets."""
    return Need("pair", MappingProxyType({"equal": equal}))


def samples() -> Need:
    """Two sets of points of one space whose rows do not correspond."""
    return Need("samples")


def labelled() -> Need:
    """Points and a label or a target of each: two arguments, ``x`` and ``y``."""
    return Need("labelled")


def layers() -> Need:
    """Several representations of the same rows, in the order of the network."""
    return Need("layers")


def tokens() -> Need:
    """(contexts, positions, d) hidden states."""
    return Need("tokens")


def network() -> Need:
    """A torch module and its (n, ...) inputs: two arguments, ``module`` and ``x``."""
    return Need("network")


def image() -> Need:
    """(height, width) or (height, width, channels) intensities."""
    return Need("image")


def corpora() -> Need:
    """A causal language model and sets of texts by name: two arguments."""
    return Need("corpora")


def kernel() -> Need:
    """(n, n) similarities or distances, symmetric."""
    return Need("kernel")


def pieces() -> Need:
    """Points, cut into pieces by the estimator that is registered: a class, made by keywords."""
    return Need("pieces")


def reduction() -> Need:
    """Points, brought to fewer columns by the estimator that is registered: a class."""
    return Need("reduction")


def adaptation() -> Need:
    """A model's weights, adapted by the method that is registered: a class of options."""
    return Need("adaptation")


def vectors() -> Need:
    """Embedding vectors (a ``Training``), brought to fewer coordinates by a map."""
    return Need("vectors")


def coordinates() -> Need:
    """Coordinates of vectors, stored in few bytes by the code that is registered: a class."""
    return Need("coordinates")


def encoders() -> Need:
    """Vectors of the same items, or of one task, by an old encoder and a new one."""
    return Need("encoders")


def tables() -> Need:
    """Embedding tables of a recommender, trained with the model that reads them."""
    return Need("tables")


def rows() -> Need:
    """Vectors, whose rows are put in an order."""
    return Need("rows")


def similarities() -> Need:
    """Similarity of each query to the row that it should find."""
    return Need("similarities")


def queried() -> Need:
    """Rows, and queries that look for them: two arguments."""
    return Need("queried")


def label_distances() -> Need:
    """Distances between labels, some of which a classifier was trained on."""
    return Need("label_distances")


@dataclass(frozen=True)
class Method:
    """All that is known of a registered method; calling it calls the function."""

    id: str
    function: Callable[..., Any]
    needs: tuple[Need, ...]
    paper: str
    arxiv: str | None
    cost: str
    oracle: str | None
    invariant: frozenset[str]
    deep: bool

    @property
    def room(self) -> str:
        """``geometry`` of ``geometry/two-nn``."""
        return self.id.split("/")[0]

    @property
    def name(self) -> str:
        """``two-nn`` of ``geometry/two-nn``."""
        return self.id.split("/")[1]

    @property
    def question(self) -> str:
        """The question it answers: the first line of its docstring."""
        return (inspect.getdoc(self.function) or "").split("\n")[0]

    @property
    def link(self) -> str | None:
        """Address of the paper, where it is on arXiv."""
        return f"https://arxiv.org/abs/{self.arxiv}" if self.arxiv else None

    def __call__(self, *args: Any, **options: Any) -> Any:
        """Call the function itself."""
        return self.function(*args, **options)

    def to_dict(self) -> dict[str, Any]:
        """Plain values, for ``lowdim methods --json`` and the report's tooltips."""
        return {
            "id": self.id,
            "question": self.question,
            "paper": self.paper,
            "link": self.link,
            "cost": self.cost,
            "needs": [str(need) for need in self.needs],
            "oracle": self.oracle,
            "invariant": sorted(self.invariant),
            "deep": self.deep,
        }


_METHODS: dict[str, Method] = {}


def method(
    id: str,
    *,
    needs: Need | tuple[Need, ...],
    paper: str,
    cost: str,
    arxiv: str | None = None,
    oracle: str | None = None,
    invariant: tuple[str, ...] = ("permutation",),
    deep: bool = False,
) -> Callable[[Function], Function]:
    """Register a pure function under ``room/name``; the function itself is returned unchanged.

    Parameters
    ----------
    id : str
        ``room/name``, both lower case with hyphens.
    needs : Need or tuple of Need
        The nouns of its positional arguments, in their order.
    paper, arxiv : str
        Where the method comes from.
    cost : str
        Work and memory beyond the shared nouns, e.g. ``"O(n log n)"``.
    oracle : str, optional
        The independent implementation that the tests compare with.
    invariant : tuple of str
        What leaves the value unchanged and is tested: any of permutation, rotation, translation,
        scale, row-scale.
    deep : bool
        Too dear to be read along with the others: run only when it is asked for by name, or by
        ``lowdim scan --deep``.
    """

    def register(function: Function) -> Function:
        if _METHODS.get(id) is not None and _METHODS[id].function is not function:
            other = _METHODS[id].function
            raise InputError(f"method id {id!r} is taken by {other.__module__}.{other.__name__}")
        given = needs if isinstance(needs, tuple) else (needs,)
        _METHODS[id] = Method(
            id, function, given, paper, arxiv, cost, oracle, frozenset(invariant), deep
        )
        return function

    return register


@cache
def _load() -> None:
    """Import what registers methods: the rooms, then packages outside."""
    for name in ROOMS:
        importlib.import_module(f"lowdim.{name}")
    for entry in entry_points(group="lowdim.methods"):
        entry.load()


def methods(room: str | None = None) -> list[Method]:
    """Every registered method, in order of id; ``room`` keeps one room's."""
    _load()
    rooms = sorted({m.room for m in _METHODS.values()})
    if room is not None and room not in rooms:
        raise InputError(f"no room {room!r}: choose from {', '.join(rooms)}")
    return [m for id, m in sorted(_METHODS.items()) if room in (None, m.room)]


def find(name: str, known: Sequence[Method] | None = None) -> Method:
    """The method with this id, or with this short name where only one of ``known`` has it."""
    known = methods() if known is None else known
    hits = [m for m in known if name in (m.id, m.name)]
    if len(hits) == 1:
        return hits[0]
    if hits:
        raise InputError(f"{name!r} is in several rooms: {', '.join(m.id for m in hits)}")
    import difflib

    names = [m.id for m in known] + [m.name for m in known]
    close = difflib.get_close_matches(name, names, n=3)
    hint = f"did you mean {' or '.join(close)}? " if close else ""
    raise InputError(f"no method {name!r}: {hint}`lowdim methods` lists them")
