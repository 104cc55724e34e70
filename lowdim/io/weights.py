"""Which weight matrices does a model hold? Listed from the headers, read one at a time.

What counts as a matrix, and how often:

* vectors (norms, biases, one-row matrices), index buffers and attention masks do not;
* a convolution is unfolded to (out, in * kernel), a stack of experts is one matrix an expert;
* a fused projection of queries, keys and values is split where the configuration or the name makes
  the layout certain, and said to be fused where they do not;
* a tied weight counts once, also where the file holds a copy;
* quantised tensors are left out with a note: their integers are not the weights.

Nothing but headers and JSON is read until :meth:`WeightMatrix.load`, save for comparing an
embedding with a matrix of the same shape that may be its copy.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import overload

import torch
from torch import Tensor

from lowdim.errors import InputError
from lowdim.io.config import ModelConfig
from lowdim.io.fused import FUSED, Split, is_transposed, split_of
from lowdim.io.tensors import FLOATS, WHOLE, TensorFile, open_tensors

EMBEDDING = re.compile(
    r"wte|wpe|shared|relative_attention_bias|embed_(in|tokens|positions)|"
    r"(\w+_)?embed(dings?|ding_table)?"
)
"""Modules that look rows up by number."""

NO_WEIGHT = re.compile(
    r"(.*\.)?(attn\.(masked_)?bias|position_ids|token_type_ids|num_batches_tracked|attn_mask|"
    r"relative_position_index|(cos|sin)_cached|\w+_bias|bias)"
)
"""Biases of any shape, masks and index buffers."""

QUANTISER = re.compile(
    r".*(scales?|_scale_inv|qzeros|zeros|zero_point|SCB|g_idx|absmax|quant_map|quant_state\.\w+)"
)
"""What quantised weights are unpacked with."""


@dataclass(frozen=True)
class WeightMatrix:
    """One weight matrix in a file.

    Attributes
    ----------
    name : str
        The tensor's name; ``[q]`` or ``[3]`` after it where it is a part of that tensor.
    kind : str
        ``linear``, ``embedding`` or ``conv``.
    shape : tuple of int
        (out, in); (rows, dim) of an embedding.
    """

    name: str
    kind: str
    shape: tuple[int, int]
    file: TensorFile = field(repr=False)
    tensor: str = field(repr=False)
    transposed: bool = field(default=False, repr=False)
    rows: slice = field(default_factory=lambda: WHOLE, repr=False)
    split: Split | None = field(default=None, repr=False)
    part: int = field(default=0, repr=False)

    def load(self) -> Tensor:
        """(out, in) the matrix itself; half precision is promoted to float32, float64 stays."""
        stored = self.file.read(self.tensor, self.rows)
        if stored.dtype != torch.float64:
            stored = stored.float()
        if self.transposed:
            stored = stored.T
        if self.split is not None:
            stored = self.split.part(stored, self.part)
        return stored.reshape(self.shape)


@dataclass(frozen=True)
class Weights(Sequence[WeightMatrix]):
    """The weight matrices of a model in natural order of name, and what was left out."""

    matrices: tuple[WeightMatrix, ...]
    notes: tuple[str, ...] = ()

    def __len__(self) -> int:
        return len(self.matrices)

    def __iter__(self) -> Iterator[WeightMatrix]:
        return iter(self.matrices)

    @overload
    def __getitem__(self, index: int) -> WeightMatrix: ...
    @overload
    def __getitem__(self, index: slice) -> Sequence[WeightMatrix]: ...
    def __getitem__(self, index: int | slice) -> WeightMatrix | Sequence[WeightMatrix]:
        return self.matrices[index]


def open_weights(path: str | Path) -> Weights:
    """Which weight matrices does a model folder or a weights file hold?

    Parameters
    ----------
    path : str or Path
        A Hugging Face model folder (one file, or shards with their index), a ``.safetensors``
        file, or a torch checkpoint that holds nothing but tensors. The ``config.json`` beside the
        weights, where there is one, says how fused matrices are laid out.

    Returns
    -------
    Weights
        A sequence of :class:`WeightMatrix`; ``notes`` say what was left out or counted once.

    Raises
    ------
    InputError
        Missing files or shards, a damaged file, a pickle, or no matrix at all: the file is named.
    """
    path = Path(path)
    config = ModelConfig.read(path if path.is_dir() else path.parent)
    matrices: list[WeightMatrix] = []
    packed: dict[str, str] = {}  # tensor: its dtype
    for file in open_tensors(path):
        found = {k: v for k, v in file.entries.items() if not _is_no_weight(k, v.shape)}
        here = {k: v.dtype for k, v in found.items() if v.dtype not in FLOATS}
        for tensor, stored in found.items():
            if tensor not in here and not (here and QUANTISER.fullmatch(tensor)):
                matrices += _matrices(file, tensor, stored.shape, config)
        packed |= here
    matrices.sort(key=lambda m: _natural(m.tensor))  # stable: q, k, v stay in order
    matrices, copies = _count_once(matrices)
    if not matrices:
        raise InputError(f"{path} holds no weight matrix{_packed_note(packed, ': ')}")
    notes = [_packed_note(packed)] if packed else []
    notes += [f"{copy} is the same as {of}: counted once" for copy, of in copies.items()]
    if fused := [m.name for m in matrices if m.split is None and _module(m.name) in FUSED]:
        notes.append(f"{len(fused)} fused matrices of unknown layout stay whole: {fused[0]}...")
    return Weights(tuple(matrices), tuple(notes))


def _matrices(
    file: TensorFile, tensor: str, shape: tuple[int, ...], config: ModelConfig
) -> Iterator[WeightMatrix]:
    """The matrices that one tensor holds."""
    module = _module(tensor)
    if len(shape) == 3 and shape[0] == 1 and not tensor.endswith(".weight"):
        shape = shape[1:]  # a bare parameter, such as a table of positions (1, rows, dim)
    if len(shape) == 3 and "experts" in tensor.split("."):
        for i, rows, cols in ((i, *shape[1:]) for i in range(shape[0])):
            here = slice(i, i + 1)
            yield WeightMatrix(f"{tensor}[{i}]", "linear", (rows, cols), file, tensor, rows=here)
        return
    rows, cols = shape[0], math.prod(shape[1:])
    if EMBEDDING.fullmatch(module) or len(shape) > 2:
        kind = "embedding" if len(shape) == 2 else "conv"
        if rows > 1:
            yield WeightMatrix(tensor, kind, (rows, cols), file, tensor)
        return
    transposed = is_transposed(module, (rows, cols), config)
    if transposed:
        rows, cols = cols, rows
    split = split_of(module, (rows, cols), config)
    if split is None:
        yield WeightMatrix(tensor, "linear", (rows, cols), file, tensor, transposed)
        return
    for part, (name, size) in enumerate(zip(split.names, split.sizes, strict=True)):
        yield WeightMatrix(
            f"{tensor}[{name}]",
            "linear",
            (split.groups * size, cols),
            file,
            tensor,
            transposed,
            split=split,
            part=part,
        )


def _is_no_weight(tensor: str, shape: tuple[int, ...]) -> bool:
    is_vector = math.prod(shape) <= max(shape, default=1)
    return is_vector or NO_WEIGHT.fullmatch(tensor) is not None


def _module(tensor: str) -> str:
    """``c_attn`` of ``h.0.attn.c_attn.weight``."""
    return tensor.removesuffix(".weight").rsplit(".", 1)[-1]


def _natural(name: str) -> list[tuple[int, str]]:
    """Sorts layer 2 before layer 10."""
    return [(int(part), "") if part.isdigit() else (0, part) for part in re.split(r"(\d+)", name)]


def _count_once(
    matrices: list[WeightMatrix],
) -> tuple[list[WeightMatrix], dict[str, str]]:
    """Leave out the copies of embeddings: output heads, and the second table of a decoder."""
    copies: dict[str, str] = {}
    embeddings = [m for m in matrices if m.kind == "embedding"]
    for i, table in enumerate(embeddings):
        if table.name in copies:
            continue
        later = embeddings[i + 1 :] + [m for m in matrices if m.kind == "linear"]
        for other in later:
            if other.name not in copies and _equal(other, table):
                copies[other.name] = table.name
    return [m for m in matrices if m.name not in copies], copies


def _equal(a: WeightMatrix, b: WeightMatrix, rows: int = 4096) -> bool:
    stored = a.file.entries[a.tensor]
    if stored != b.file.entries[b.tensor]:
        return False
    blocks = (slice(start, start + rows) for start in range(0, stored.shape[0], rows))
    return all(torch.equal(a.file.read(a.tensor, s), b.file.read(b.tensor, s)) for s in blocks)


def _packed_note(packed: dict[str, str], before: str = "") -> str:
    if not packed:
        return ""
    formats = ", ".join(sorted(set(packed.values())))
    return (
        f"{before}{len(packed)} tensors are quantised or packed ({formats}) and were left out: "
        f"{next(iter(packed))}..."
    )
