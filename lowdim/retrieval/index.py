"""Build an index: fit a codec and code vectors shard by shard, so that a kill loses one shard.

Every shard is a file that appears whole or not at all. What was begun, and from what, is written
first, so other vectors or another codec never go on with an index that is not theirs.
"""

from __future__ import annotations

import copy
import hashlib
import io
import math
import os
import shutil
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from sklearn.base import clone

import lowdim
from lowdim.core.engine import Engine, open_engine, watched
from lowdim.core.memory import budget, plan
from lowdim.core.progress import Advance
from lowdim.core.shards import Source, shards, stamp
from lowdim.errors import InputError
from lowdim.io.points import PointSource
from lowdim.io.text import read_column
from lowdim.io.write import atomic_write, check_writable
from lowdim.retrieval import files
from lowdim.retrieval.codec import Codec
from lowdim.retrieval.drift import BLOCK
from lowdim.retrieval.index_folder import (
    BEGUN,
    CODEC,
    CODES,
    FACTS,
    IDS,
    LISTS,
    SCHEMA,
    Index,
    digest,
    mapped,
)
from lowdim.retrieval.list_files import write_lists
from lowdim.retrieval.metric import placed
from lowdim.retrieval.plan_rows import Plan
from lowdim.structure.estimator import open_source

BUILD = "lowdim.index-build/1"


def build(
    x: Any, codec: Codec | Plan | str | Path, out: str | Path, *, ids: Any = None,
    lists: int | None = None, resume: bool = False, engine: Any = None,
    memory: int | float | str | None = None, progress: Advance | None = None,
) -> Index:  # fmt: skip
    """How do I make these vectors an index that fits on disk and in memory?

    Parameters
    ----------
    x : array-like, path or source
        (n, d) vectors; a file is streamed and never held.
    codec : Codec, Plan or path
        A codec, fitted to ``x`` where it is not yet; a plan, whose choice is taken; or a folder
        that one of them was saved to, or a ``plan.json``.
    out : path
        The folder of the index.
    ids : array-like or path, optional
        (n,) integers or texts that a search gives instead of row numbers; of a file (.txt, .csv,
        .parquet, .jsonl with a field ``id``) they are texts.
    lists : int, optional
        Inverted lists, of which a search looks at a few; none by default, and sqrt(n) where a plan
        chose them.
    resume : bool
        Go on with what an earlier build of the same vectors and codec left in ``out``.
    engine : Engine, str or None
        Where shards are coded, see :func:`lowdim.core.engine.open_engine`.
    memory : int, float, str or None
        Budget of working memory, see :func:`lowdim.core.memory.budget`.
    progress : callable, optional
        Called with (done, total) shards.

    Raises
    ------
    InputError
        Vectors that can't be coded (the row is named), an index in ``out`` already, an unfinished
        one of other vectors or of another codec, another build at work there, a full disk.

    Notes
    -----
    One pass over the vectors, after that of the fit; the same arguments give the same bytes,
    however often it was stopped. 65,536 rows are a shard. With lists the codes are written twice,
    the second time list by list.
    """
    begun = time.perf_counter()
    source = open_source(x)
    codec, with_lists = _chosen(codec)
    if lists is None and with_lists:
        lists = round(math.sqrt(source.n))
    if lists is not None and not 1 <= lists <= source.n:
        raise InputError(f"lists={lists}: {source.n} vectors fill 1 to {source.n} lists")
    names = None if ids is None else _names(ids, source.n)
    parts = shards(source)
    key = {
        "schema": BUILD,
        "vectors": stamp(source),
        "codec": _key(codec),
        "lists": lists,
        "ids": None if names is None else hashlib.sha256(names).hexdigest(),
        "shards": [part.n for part in parts],
    }
    out = check_writable(out)
    with _alone(out):
        before = _before(out, key, resume)
        if before == FACTS:
            return Index.open(out)
        if before is None:
            _fitted(codec, source, parts[0], memory).save(out / CODEC)
            files.write_json(out / BEGUN, key)
        for unfinished in out.glob("*/.lowdim-*.tmp"):
            unfinished.unlink()
        fitted = Codec.load(out / CODEC)
        paths = _all_coded(fitted, parts, out / CODES, open_engine(engine), memory, progress)
        if lists is not None:
            codes = [mapped(path)["codes"] for path in paths]
            paths = write_lists(out / LISTS, fitted, codes, lists, memory)
        paths += [out / CODEC / files.NUMBERS, out / CODEC / files.FACTS]
        if names is not None:
            atomic_write(out / IDS, names)
            paths.append(out / IDS)
        found = {path.relative_to(out).as_posix(): _about(path) for path in paths}
        facts = {
            "schema": SCHEMA,
            "lowdim": lowdim.__version__,
            "n": source.n,
            "dim": source.dim,
            "bytes": sum(about["bytes"] for about in found.values()),
            "bytes_per_vector": fitted.bytes_per_vector,
            "vectors": _where(source),
            "build": key,
            "files": found,
            "seconds": round(time.perf_counter() - begun, 3),
        }
        files.write_json(out / FACTS, facts)
        (out / BEGUN).unlink()
        if lists is not None:
            shutil.rmtree(out / CODES)
    return Index.open(out)


def _chosen(codec: Any) -> tuple[Codec, bool]:
    """The codec, and whether it comes with inverted lists."""
    if isinstance(codec, (str, Path)):
        folder = Path(codec)
        if (folder / files.FACTS).exists():
            return Codec.load(folder), False
        codec = Plan.load(folder)
    if isinstance(codec, Codec):
        return codec, False
    if not isinstance(codec, Plan):
        raise InputError(
            f"codec is a {type(codec).__name__}: give a Codec, a Plan or the path of one"
        )
    if codec.best is None:
        raise InputError(
            "the plan chose no configuration: plan with a recall or a budget that one reaches, or "
            "give a Codec"
        )
    chosen = codec.best.configuration
    if chosen.index == "hnsw":
        raise InputError(
            "the plan chose an HNSW graph, which an index on disk does not have: build with "
            "plan.best.configuration.codec() and export the index"
        )
    return chosen.codec(metric=codec.metric, seed=codec.seed), chosen.index == "ivf"


def _key(codec: Codec) -> Any:
    """All that the codes depend on beyond the vectors."""
    params = {name: getattr(codec, name) for name in files.PARAMS}
    if not hasattr(codec, "n_features_in_"):
        return params
    return params | {"fitted": files.codec_digest(codec)}


def _before(out: Path, key: dict[str, Any], resume: bool) -> str | None:
    """What an earlier build of the same got to: index.json, build.json or None; else an error."""
    if (out / FACTS).exists():
        found, state = FACTS, "an index"
        before = files.read_json(out / FACTS, SCHEMA, build=dict)["build"]
    elif (out / BEGUN).exists():
        found, state = BEGUN, "an unfinished index"
        before = files.read_json(out / BEGUN, BUILD)
    else:
        for name in (CODES, LISTS):
            if (out / name).exists():
                raise InputError(
                    f"{out / name} is there without {FACTS}: choose another folder, or remove it"
                )
        return None
    if not resume:
        raise InputError(f"{out} holds {state} already: resume its build, or choose another folder")
    for name, value in key.items():
        if before.get(name) != value:
            raise InputError(
                f"{out} holds {state} of other {name}: choose another folder, or remove it"
            )
    return found


def _fitted(codec: Codec, source: Source, first: Source, memory: int | float | str | None) -> Codec:
    """The codec as it was given, looked at whether it is for such vectors, or fitted now."""
    if not hasattr(codec, "n_features_in_"):
        return clone(codec).set_params(memory=memory).fit(source)
    if codec.n_features_in_ != source.dim:
        raise InputError(
            f"x has {source.dim} columns and the codec was fitted to {codec.n_features_in_}"
        )
    if codec.fingerprint_ is not None:
        some = first.take(torch.arange(0, first.n, max(1, first.n // BLOCK)), memory)
        codec.fingerprint_.check(placed(some, codec.metric))
    return codec


def _all_coded(
    codec: Codec, parts: Sequence[Source], folder: Path, engine: Engine,
    memory: int | float | str | None, progress: Advance | None,
) -> list[Path]:  # fmt: skip
    """Each shard in a file, made where it is not there."""
    worker = copy.copy(codec)
    worker.memory = budget(memory) // engine.tasks
    worker.fingerprint_ = None  # one warning is enough
    held = 3 * max(part.n for part in parts) * codec.bytes_per_vector
    plan("a shard of codes", rows=1, bytes_per_row=held, memory=worker.memory)
    folder.mkdir(exist_ok=True)
    made = engine.map(partial(_coded, worker, folder), enumerate(parts))
    return list(watched(made, len(parts), progress))


def _coded(codec: Codec, folder: Path, item: tuple[int, Source]) -> Path:
    i, part = item
    path = folder / f"{i:05d}.safetensors"
    if not _is_whole(path, (part.n, codec.bytes_per_vector)):
        atomic_write(path, save({"codes": codec.encode(part)}))
    return path


def _is_whole(path: Path, shape: tuple[int, int]) -> bool:
    with suppress(FileNotFoundError, SafetensorError), safe_open(path, "pt") as file:
        return tuple(file.get_slice("codes").get_shape()) == shape
    return False


def _about(path: Path) -> dict[str, Any]:
    return {"bytes": path.stat().st_size, "sha256": digest(path)}


def _where(source: Source) -> dict[str, Any] | None:
    """Where the vectors can be read again."""
    if not isinstance(source, PointSource):
        return None
    return {
        "path": str(source.path.resolve()), "column": source.column, "start": source.start,
        "stamp": source.stamp,
    }  # fmt: skip


def _names(ids: Any, n: int) -> bytes:
    """An .npy of one id for each row."""
    array = np.asarray(
        read_column(Path(ids), None, default="id") if isinstance(ids, (str, Path)) else ids
    )
    if array.shape != (n,) or array.dtype.kind not in "iuU":
        raise InputError(
            f"ids have shape {array.shape} of {array.dtype}: give an integer or a text for each of "
            f"the {n} vectors"
        )
    file = io.BytesIO()
    np.save(file, array if array.dtype.kind == "U" else array.astype(np.int64), allow_pickle=False)
    return file.getvalue()


@contextmanager
def _alone(folder: Path) -> Iterator[None]:
    """One build at a time; the system lets go of the lock when a process ends, however it does."""
    import fcntl

    handle = os.open(folder, os.O_RDONLY)
    try:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise InputError(
                f"another build is at work in {folder}: wait for it, or choose another folder"
            ) from None
        yield
    finally:
        os.close(handle)
