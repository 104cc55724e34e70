"""`Index`: the codes of any number of vectors in a folder, opened without being read.

==============================  ================================================================
``index.json``                  what it is, written last: a folder without it is not finished
``codec/``                      the codec, see :mod:`lowdim.retrieval.files`
``codes/00000.safetensors`` ..  ``codes``, (rows, bytes) uint8, in the order of the rows
``lists/``                      instead of ``codes/`` where there are inverted lists
``ids.npy``                     names of the rows, where they have any
==============================  ================================================================
"""

from __future__ import annotations

import hashlib
import re
from dataclasses import dataclass, field
from functools import cached_property, partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import safe_open
from torch import Tensor

from lowdim.core.blocked import on_threads
from lowdim.core.memory import format_bytes
from lowdim.core.shards import Source
from lowdim.errors import InputError
from lowdim.io.files import reading
from lowdim.io.points import open_points
from lowdim.retrieval import files
from lowdim.retrieval.codec import Codec
from lowdim.retrieval.lists import PROBES, InvertedLists
from lowdim.structure.estimator import open_source

SCHEMA = "lowdim.index/1"
FACTS, BEGUN = "index.json", "build.json"
CODEC, CODES, LISTS, IDS = "codec", "codes", "lists", "ids.npy"
NAMES = re.compile(
    rf"{CODES}/[0-9]{{5,}}\.safetensors|{LISTS}/(codes|lists)\.safetensors|{re.escape(IDS)}"
    rf"|{CODEC}/({re.escape(files.NUMBERS)}|{re.escape(files.FACTS)})"
)
"""What an index may name as its own: nothing outside its folder."""


@dataclass(frozen=True, eq=False)
class Index:
    """Which stored vectors are nearest to mine?

    Attributes
    ----------
    path : Path
        Its folder.
    codec : Codec
        What made the codes.
    n, dim : int
        Rows, and columns of the vectors.
    facts : dict
        ``index.json``.
    verify : bool
        Whether checksums are compared before the first search.

    Notes
    -----
    Opening reads the codec and looks at the size of each file, whatever n is. Codes are mapped
    into memory and read when they are searched. The first search compares the checksum of every
    file, about as long as one search of a flat index takes (1 GB/s and core): a changed byte is an
    error and never a wrong neighbour. A server that verified its files once opens them with
    ``verify=False``.
    """

    path: Path
    codec: Codec
    n: int
    dim: int
    facts: dict[str, Any] = field(repr=False)
    verify: bool = True
    _checked: set[str] = field(default_factory=set, repr=False)

    @classmethod
    def open(cls, folder: str | Path, *, verify: bool = True) -> Index:
        """Open what :func:`lowdim.retrieval.index.build` wrote.

        Raises
        ------
        InputError
            No index, an unfinished one, another schema, a file that is missing or of another size:
            one sentence that names it.
        """
        folder = Path(folder)
        if not (folder / FACTS).exists():
            if (folder / BEGUN).exists():
                raise InputError(f"the index in {folder} is unfinished: resume its build")
            raise InputError(f"{folder} holds no index: there is no {FACTS}, build one first")
        facts = files.read_json(folder / FACTS, SCHEMA, n=int, dim=int, bytes=int, files=dict)
        for name, about in facts["files"].items():
            _check_file(folder, name, about)
        if missing := {f"{CODEC}/{files.NUMBERS}", f"{CODEC}/{files.FACTS}"} - set(facts["files"]):
            raise InputError(f"{folder / FACTS} does not name {min(missing)}: it was changed")
        for name in (f"{CODEC}/{files.FACTS}", f"{CODEC}/{files.NUMBERS}"):
            _compare(folder, (name, facts["files"][name]))
        codec = Codec.load(folder / CODEC)
        if codec.n_features_in_ != facts["dim"]:
            raise InputError(
                f"{folder / CODEC} codes {codec.n_features_in_} columns and {FACTS} says "
                f"{facts['dim']}: they are not of one index"
            )
        return cls(folder, codec, facts["n"], facts["dim"], facts, verify)

    @property
    def nbytes(self) -> int:
        """Bytes of all its files."""
        return sum(about["bytes"] for about in self.facts["files"].values())

    @property
    def n_lists(self) -> int | None:
        """How many inverted lists there are; None where a search reads every row."""
        return self._lists.n_lists if self._has_lists else None

    def __repr__(self) -> str:
        codec, lists = self.codec, ", inverted lists" if self._has_lists else ""
        reduced = "" if codec.reduction == "none" else f"{codec.reduction} {codec.map_.dims}, "
        return (
            f"Index({str(self.path)!r}: {self.n:,} x {self.dim}, {reduced}{codec.code}{lists}, "
            f"{codec.metric}, {format_bytes(self.nbytes)})"
        )

    def search(
        self, queries: Any, k: int = 10, *, rescore: Any = False, candidates: int | None = None,
        probes: int | None = None,
    ) -> tuple[Tensor | np.ndarray, Tensor]:  # fmt: skip
        """Which k rows score best with each query?

        Parameters
        ----------
        queries : array-like
            (m, d).
        k : int
            Rows wanted for each.
        rescore : bool, array-like, path or source
            Rank the best ``candidates`` anew by the vectors themselves: those that the index was
            built from, where they were a file and it is as it was, or those given.
        candidates : int, optional
            How many; 4 k by default.
        probes : int
            Inverted lists that are looked at, where there are any; 16 by default.

        Returns
        -------
        ids, scores
            (m, k) row numbers, or the ids that the index was built with (an array where they are
            text); scores as of :meth:`Codec.search`.

        Raises
        ------
        InputError
            Queries of another dimension, k beyond n, a changed file, vectors that are not those
            that were indexed.
        """
        if self.verify:
            self.check()
        vectors = self._vectors(rescore)
        if self._has_lists:
            rows, scores = self._lists.search(
                queries, k, probes=probes or min(PROBES, self._lists.n_lists), rescore=vectors,
                candidates=candidates or 0,
            )  # fmt: skip
        else:
            rows, scores = self.codec.search(
                self._stored, queries, k, rescore=vectors, candidates=candidates or 0
            )
        return self.named(rows), scores

    @property
    def codes(self) -> tuple[Tensor, ...]:
        """(rows, bytes) uint8 codes in parts, in the order of the rows.

        Mapped from the shards; where there are lists, gathered in memory.
        """
        if not self._has_lists:
            return self._stored
        codes = torch.empty_like(self._stored[0])
        codes[self._lists.rows.long()] = self._stored[0]
        return (codes,)

    @cached_property
    def _stored(self) -> tuple[Tensor, ...]:
        """The codes as they are on disk, mapped."""
        names = sorted(name for name in self.facts["files"] if name.startswith(f"{CODES}/"))
        names = [f"{LISTS}/codes.safetensors"] if self._has_lists else names
        parts = tuple(mapped(self.path / name).get("codes", torch.empty(0)) for name in names)
        for name, part in zip(names, parts, strict=True):
            if part.ndim != 2 or part.dtype != torch.uint8:
                raise InputError(f"{self.path / name} holds no codes: it was changed")
        if (n := sum(len(part) for part in parts)) != self.n:
            raise InputError(
                f"{self.path} holds {n} rows and {FACTS} says {self.n}: it was changed"
            )
        return parts

    def named(self, rows: Tensor) -> Tensor | np.ndarray:
        """The ids of rows; the row numbers themselves where the index has no others."""
        if self._ids is None:
            return rows
        ids = self._ids[rows.numpy()]
        if ids.dtype.kind != "U":
            return torch.where(rows < 0, -1, torch.from_numpy(ids))
        return np.where(rows.numpy() < 0, "", ids)

    @property
    def _has_lists(self) -> bool:
        return f"{LISTS}/lists.safetensors" in self.facts["files"]

    @cached_property
    def _lists(self) -> InvertedLists:
        path = self.path / LISTS / "lists.safetensors"
        found = mapped(path)
        centroids, starts, rows = (found.get(name) for name in ("centroids", "starts", "rows"))
        if centroids is None or starts is None or rows is None:
            raise InputError(f"{path} lacks centroids, starts or rows: it was changed")
        steps = starts.long().diff()
        fit = starts.shape == (len(centroids) + 1,) and rows.shape == (self.n,)
        if not fit or int(steps.min()) < 0 or int(steps.sum()) != self.n or int(starts[0]):
            raise InputError(f"{path} does not share {self.n} rows out to lists: it was changed")
        if int(rows.min()) < 0 or int(rows.max()) >= self.n:
            raise InputError(f"{path} names rows beyond {self.n}: it was changed")
        return InvertedLists(self.codec, centroids, starts, rows, self._stored[0])

    @cached_property
    def _ids(self) -> np.ndarray | None:
        if IDS not in self.facts["files"]:
            return None
        try:
            ids = np.load(self.path / IDS, mmap_mode="r", allow_pickle=False)
        except (OSError, ValueError) as error:
            raise InputError(f"{self.path / IDS} cannot be read: {error}") from error
        if ids.shape != (self.n,) or ids.dtype.kind not in "iU":
            raise InputError(f"{self.path / IDS} does not hold one id for each row: build it again")
        return ids

    def _vectors(self, rescore: Any) -> Source | None:
        """The vectors that candidates are ranked anew by."""
        if rescore is None or rescore is False:
            return None
        given = rescore is not True
        source = open_source(rescore) if given else self._indexed()
        if source.n != self.n:
            raise InputError(f"rescore has {source.n} rows and the index {self.n}")
        return source

    def _indexed(self) -> Source:
        """The vectors that the index was built from."""
        of = self.facts.get("vectors")
        if not isinstance(of, dict) or not isinstance(of.get("path"), str):
            raise InputError(f"{self.path} was built from an array: give the vectors, rescore=x")
        if not Path(of["path"]).exists():
            raise InputError(
                f"{of['path']}, which {self.path} was built from, is gone: give its new path, "
                "rescore=path, or search without"
            )
        source = open_points(of["path"], column=of.get("column"))
        if source.stamp != of.get("stamp"):
            raise InputError(
                f"{of['path']} has changed since {self.path} was built: build it again, or search "
                "without rescore"
            )
        return source.slice(of["start"], of["start"] + self.n)

    def check(self) -> None:
        """Raise where the checksum of a file is not what it was; compared once."""
        left = [item for item in self.facts["files"].items() if item[0] not in self._checked]
        for name in on_threads(partial(_compare, self.path), left, torch.device("cpu")):
            self._checked.add(name)


def digest(path: Path) -> str:
    """SHA-256 of a file."""
    with reading(path), path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _compare(folder: Path, item: tuple[str, dict[str, Any]]) -> str:
    """The name of a file, whose checksum is what it was."""
    name, about = item
    if digest(folder / name) != about["sha256"]:
        raise InputError(
            f"{folder / name} has changed since the index was built: build it again, or bring the "
            "file back"
        )
    return name


def _check_file(folder: Path, name: str, about: Any) -> None:
    """Raise where a file that the index names is not there in full."""
    if not NAMES.fullmatch(name) or not isinstance(about, dict):
        raise InputError(f"{folder / FACTS} names {name!r}, which is no file of an index")
    if type(about.get("bytes")) is not int or not isinstance(about.get("sha256"), str):
        raise InputError(f"{folder / FACTS} has no size and checksum of {name}: it was changed")
    path = folder / name
    if not path.is_file():
        raise InputError(f"{path} is missing: bring it back, or build the index again")
    if (size := path.stat().st_size) != about["bytes"]:
        raise InputError(
            f"{path} has {size} bytes and was written with {about['bytes']}: it is truncated or "
            "changed, bring it back or build the index again"
        )


def mapped(path: Path) -> dict[str, Tensor]:
    """The tensors of a file, whose pages are read when they are touched."""
    with reading(path), safe_open(path, "pt") as file:
        names = file.keys()
        return {name: file.get_tensor(name) for name in names}
