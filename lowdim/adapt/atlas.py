"""aTLAS: mix task vectors, with a coefficient for each block of each (Zhang et al. 2024).

A task vector is what fine-tuning on some task changed, tau_i = theta_i - theta_0. With those of
several tasks at hand a new one may need no new directions: theta = theta_0 + sum_i Lambda_i tau_i,
Lambda_i one trained number for each block (each weight and each bias), all zero at the start. One
number for a whole vector is plain task arithmetic; K numbers, each for a random share of a
block's entries, is the paper's aTLAS x K.

The vectors are files that :func:`task_vector` writes. An adapter's own file holds the coefficients,
and the paths and hashes of the vectors.

Cost: each step reads all vectors twice and takes gradients of all weights: with three vectors about
twice a step of full fine-tuning. Memory: on the CPU a vector is mapped from its file and takes none
of its own, on an accelerator it is held, n times the weights (half of that as bfloat16); W + D, and
with K > 1 the parts, are one tensor of the size of the weights each.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cache, partial
from itertools import repeat
from pathlib import Path
from typing import Any, ClassVar, Self

import torch
from safetensors.torch import save as dump
from torch import Tensor, nn

from lowdim.adapt.adapter import Adapter
from lowdim.adapt.method import Draws, Method, check_size, zeros
from lowdim.adapt.targets import Target
from lowdim.core import random
from lowdim.core.points import check_finite
from lowdim.errors import InputError
from lowdim.io.files import reading
from lowdim.io.tensors import SafetensorsFile, open_tensors
from lowdim.io.write import atomic_write
from lowdim.registry import adaptation, method

BLOCKS = ("tensor", "model")
BLOCK = 2**20
"""Entries that are mixed at once."""

Weights = nn.Module | Mapping[str, Tensor] | str | Path


@method(
    "adapt/atlas",
    needs=adaptation(),
    paper="Zhang, Albert, Rodriguez-Opazo, van den Hengel and Abbasnejad 2024",
    arxiv="2407.02880",
    cost="all task vectors read, and gradients of all weights, in each step",
)
@dataclass(frozen=True)
class ATLAS(Method):
    """Is a new task a mixture of tasks that are known?

    Parameters
    ----------
    vectors : sequence of str
        Files that :func:`task_vector` wrote.
    blocks : str
        ``tensor``: coefficients for each weight and each bias. ``model``: the same ones for all,
        which is task arithmetic.
    parts : int
        K, random parts that each block is cut into, each with a coefficient.
    sha256 : sequence of str
        Hashes of the files: made where they are not given, checked where they are.

    Notes
    -----
    Trust it with few labels and vectors of related tasks. It cannot leave the span of the vectors:
    where none of them helps the new task, neither does it. Running means of batch norms are no
    parameters, and stay the base's.
    """

    kinds: ClassVar[frozenset[str]] = Method.kinds | {"other"}
    size: ClassVar[str] = "parts"

    vectors: Sequence[str] = ()
    blocks: str = "tensor"
    parts: int = 1
    sha256: Sequence[str] = ()

    def __post_init__(self) -> None:
        if isinstance(self.vectors, str):
            raise InputError(f"vectors={self.vectors!r}: give a list of files")
        vectors = tuple(str(path) for path in self.vectors)
        found = tuple(_hash(path) for path in vectors)
        for path, now, before in zip(vectors, found, self.sha256 or found, strict=True):
            if now != before:
                raise InputError(
                    f"{path} has changed: its hash is {now[:8]}... and not {before[:8]}..., "
                    "give the task vector that the coefficients were trained with"
                )
        object.__setattr__(self, "vectors", vectors)
        object.__setattr__(self, "sha256", found)

    def adapter(self, target: Target, draws: Draws) -> Adapter:
        """Of one tensor."""
        return self.build([target], draws.seed)[0]

    def build(self, targets: Sequence[Target], seed: int) -> list[Adapter]:
        """Adapters with coefficients of their own, or with the same ones."""
        check_size("parts", self.parts)
        if self.blocks not in BLOCKS:
            raise InputError(f"blocks={self.blocks!r}: choose from {', '.join(BLOCKS)}")
        if not self.vectors:
            raise InputError("atlas mixes task vectors: give files that adapt.task_vector wrote")
        files = [SafetensorsFile(Path(path)) for path in self.vectors]
        same = zeros(len(files), self.parts)
        return [
            ATLASAdapter(
                target.shape,
                same if self.blocks == "model" else zeros(len(files), self.parts),
                [_part(file, target) for file in files],
                self._partition(target, seed),
                target.transposed,
            )
            for target in targets
        ]

    def count(self, shapes: Sequence[tuple[int, ...]]) -> int:
        """One for each vector, part and block."""
        n_blocks = len(shapes) if self.blocks == "tensor" else 1
        return len(self.vectors) * self.parts * n_blocks

    def _partition(self, target: Target, seed: int) -> Tensor | None:
        """Which part each entry belongs to."""
        if self.parts == 1:
            return None
        stream = Draws(seed, target.name).stream("parts")
        return random.integers(target.parameter.shape, self.parts, seed, stream).int()


class ATLASAdapter(Adapter):
    """sum_i c_i tau_i, where c_i is one number, or one for each part.

    Attributes
    ----------
    coefficients : Parameter
        (n, K), which several adapters may share.
    vectors : list of Tensor
        In the shapes of the module and as they are stored: they follow the coefficients to a
        device, and are never cast.
    """

    partition: Tensor | None

    def __init__(
        self,
        shape: tuple[int, ...],
        coefficients: nn.Parameter,
        vectors: Sequence[Tensor],
        partition: Tensor | None,
        transposed: bool,
    ) -> None:
        super().__init__(shape)
        self.coefficients = coefficients
        self.vectors = list(vectors)
        self.register_buffer("partition", partition, persistent=False)
        self.transposed = transposed

    def delta(self) -> Tensor:
        """The mixture."""
        mixed: Tensor = _Mixture.apply(self.coefficients, self.partition, *self.vectors)
        return mixed.T if self.transposed else mixed

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> Self:
        super()._apply(fn, recurse)
        self.vectors = [vector.to(self.coefficients.device) for vector in self.vectors]
        return self


class _Mixture(torch.autograd.Function):
    """sum_i c_i tau_i block by block: no copy of a vector that is stored in half precision."""

    @staticmethod
    def forward(
        ctx: Any, coefficients: Tensor, partition: Tensor | None, *vectors: Tensor
    ) -> Tensor:
        ctx.save_for_backward(coefficients, partition, *vectors)
        mixed = coefficients.new_zeros(vectors[0].shape)
        for c, vector in zip(coefficients, vectors, strict=True):
            for part, out, tau in _blocks(partition, mixed, vector):
                out.addcmul_(tau.to(c), c if part is None else c[part])
        return mixed

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        coefficients, partition, *vectors = ctx.saved_tensors
        found = torch.zeros_like(coefficients)
        for c, vector in zip(found, vectors, strict=True):  # <gradient, tau_i> over each part
            for part, g, tau in _blocks(partition, gradient, vector):
                if part is None:
                    c += torch.dot(g, tau.to(c))
                else:
                    c += torch.bincount(part, g * tau.to(c), len(c))
        return found, None, *(None for _ in vectors)


def _blocks(partition: Tensor | None, *tensors: Tensor) -> Iterator[tuple[Any, ...]]:
    """The same entries of each, so few that what is made of them stays in cache."""
    pieces = [x.reshape(-1).split(BLOCK) for x in tensors]
    parts = repeat(None) if partition is None else partition.view(-1).split(BLOCK)
    return zip(parts, *pieces, strict=False)


def task_vector(
    checkpoint: Weights,
    base: Weights,
    file: str | Path,
    *,
    dtype: torch.dtype = torch.float32,
) -> Path:
    """Write what fine-tuning has changed, as a file that :class:`ATLAS` mixes.

    Parameters
    ----------
    checkpoint, base : torch.nn.Module, mapping of str to Tensor, or path
        The fine-tuned model and the one that it came from: models, state dicts, weight files or
        model folders. Names have to be those of the model that is adapted.
    file : path
        A ``.safetensors`` file to write; twice its bytes are held meanwhile.
    dtype : torch.dtype
        Of the file; ``torch.bfloat16`` halves it, at a relative error of 1/256 an entry.

    Returns
    -------
    Path
        The file.

    Raises
    ------
    InputError
        Nothing in common, shapes that differ, or differences that are not finite.

    Notes
    -----
    Names that only one of them has (a new classifier) and whole numbers are left out.
    """
    tuned, before = _tensors(checkpoint), _tensors(base)
    changes = {}
    for name in [name for name in tuned if name in before]:
        new, old = tuned[name](), before[name]()
        if new.shape != old.shape:
            raise InputError(
                f"{name} is {tuple(new.shape)} in the checkpoint and {tuple(old.shape)} in the "
                "base: give the base that it was fine-tuned from"
            )
        if new.is_floating_point():
            change = (new.cpu().double() - old.cpu().double()).to(dtype)
            check_finite(change.reshape(1, -1), f"the change of {name}")
            changes[name] = change
    if not changes:
        raise InputError("the checkpoint and its base have no tensor in common: names differ")
    atomic_write(file, dump(changes))
    return Path(file)


def _tensors(source: Weights) -> dict[str, Callable[[], Tensor]]:
    """What reads each tensor."""
    if isinstance(source, nn.Module):
        source = source.state_dict()
    if isinstance(source, Mapping):
        return {name: x.detach for name, x in source.items()}
    files = open_tensors(Path(source))
    return {name: partial(file.read, name) for file in files for name in file.entries}


def _part(file: SafetensorsFile, target: Target) -> Tensor:
    """The change of one tensor, mapped, as the module stores it."""
    if target.name not in file.entries:
        raise InputError(
            f"{file.path} has no change of {target.name}: leave it out of the targets, or write "
            "the vector from state dicts of this model"
        )
    change, stored = file.read(target.name), tuple(target.parameter.shape)
    if tuple(change.shape) != stored or not change.is_floating_point():
        raise InputError(
            f"{file.path}: the change of {target.name} is {tuple(change.shape)} {change.dtype}, "
            f"and the model has {stored}: give vectors of this architecture"
        )
    check_finite(change.reshape(1, -1), f"{file.path}: {target.name}")
    return change


def _hash(path: str) -> str:
    with reading(Path(path)):
        facts = Path(path).stat()
    return _hash_of(path, facts.st_size, facts.st_mtime_ns)


@cache
def _hash_of(path: str, size: int, modified: int) -> str:
    with reading(Path(path)), open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
