"""The update of one frozen tensor: what trains, its matrix, and its product with an input.

An adapter adds an update D to a weight W that stays as it is, so every method here is one class
that says what D is. Where D has a cheap product with an input (`ProductAdapter`), D itself is never
formed while training: of a `LowRankAdapter` D = B A, and the input meets two thin matrices.

Shapes are those of the weight as it is multiplied, (out, in) for a matrix and (out, in, *kernel)
for a convolution, also where a module stores it transposed.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from typing import ClassVar

import torch
from torch import Tensor, nn
from torch.nn.functional import linear

from lowdim.core.linalg import randomized_svd
from lowdim.errors import InputError


class Adapter(nn.Module, ABC):
    """A trainable update of one frozen tensor.

    Its parameters train. Buffers that are drawn from a seed are registered with
    ``persistent=False``: a file holds the seed instead. What else an update rests on (singular
    vectors of the weight, of a gradient) is a persistent buffer, stored with the parameters.

    Parameters
    ----------
    shape : tuple of int
        Of the tensor as it is multiplied: (out, in), (out, in, *kernel), or any other.

    Attributes
    ----------
    mergeable : bool
        Whether the update is one tensor; not where it depends on the input.
    """

    mergeable: ClassVar[bool] = True

    def __init__(self, shape: tuple[int, ...]) -> None:
        super().__init__()
        self.shape = tuple(shape)

    @abstractmethod
    def delta(self) -> Tensor:
        """The update, of shape ``self.shape``."""

    def update(self, weight: Tensor) -> Tensor:
        """The update of this frozen weight, which only the update of few methods depends on."""
        return self.delta()

    def start(self, weight: Tensor, gradient: Tensor | None) -> None:
        """Set what the start takes from the frozen weight, or from the gradient of the loss by it.

        Called once by :func:`lowdim.adapt.attach`, not on loading. It may set parameters and
        buffers of other sizes than ``__init__`` gave them: a file is loaded at its own sizes.
        """
        return

    def factors(self) -> tuple[Tensor, Tensor] | None:
        """B (out, r) and A (r, in) with B A the update as a matrix, where it has low rank."""
        return None

    @property
    def dtype(self) -> torch.dtype:
        """What it computes in; the replicas of DataParallel hold tensors in place of parameters."""
        held = (*self.parameters(), *vars(self).values())
        return next(x.dtype for x in held if isinstance(x, Tensor))

    @property
    def n_trainable(self) -> int:
        """Numbers that train; those that several adapters share count in each."""
        return sum(p.numel() for p in self.parameters())

    def extra_repr(self) -> str:
        """Shape and count."""
        return f"{' x '.join(map(str, self.shape))}, {self.n_trainable:,} trainable"


class ProductAdapter(Adapter):
    """An adapter whose update multiplies inputs without being formed."""

    @abstractmethod
    def forward(self, x: Tensor) -> Tensor:
        """(..., out) the update's product with (..., in) inputs."""

    @abstractmethod
    def rows(self, index: Tensor) -> Tensor:
        """(..., in) rows of the update: what an embedding table adds for these indices."""


class LowRankAdapter(ProductAdapter):
    """An update B A; a subclass gives the two factors.

    Cost of a product with n inputs: 2 n r (in + out) operations beyond making the factors. A
    convolution's update is the matrix (out, in kernel) folded back.
    """

    @abstractmethod
    def factors(self) -> tuple[Tensor, Tensor]:
        """B (out, r) and A (r, in), kernels flattened into in."""

    def delta(self) -> Tensor:
        """B A, folded to the shape of the tensor."""
        b, a = self.factors()
        return (b @ a).view(self.shape)  # (out, r) @ (r, in)

    def forward(self, x: Tensor) -> Tensor:
        """B (A x)."""
        b, a = self.factors()
        return linear(linear(x, a), b)

    def rows(self, index: Tensor) -> Tensor:
        """Rows of B, times A."""
        b, a = self.factors()
        return b[index] @ a


def as_matrix(tensor: Tensor) -> Tensor:
    """(out, in kernel) of a weight (out, in, *kernel)."""
    return tensor.flatten(1)


def matrix_shape(shape: tuple[int, ...]) -> tuple[int, int]:
    """(out, in kernel) of the shape of a weight."""
    if len(shape) < 2:
        raise InputError(f"a tensor of shape {shape} is no matrix: choose a weight")
    return shape[0], math.prod(shape[1:])


def leading_svd(matrix: Tensor, rank: int) -> tuple[Tensor, Tensor, Tensor]:
    """U (m, r), s (r,) and V^T (r, n) of the leading singular directions, in float64.

    A full decomposition where the smaller side is at most 1,024 or at most four times the rank;
    above, a randomised one with four power iterations and r more directions than it returns.
    """
    side = min(matrix.shape)
    if side <= max(1024, 4 * rank):
        u, s, vt = torch.linalg.svd(matrix.double(), full_matrices=False)
        return u[:, :rank].contiguous(), s[:rank], vt[:rank].contiguous()
    found = randomized_svd(matrix.double(), rank, oversample=rank + 10, power=4)
    return found.U.contiguous(), found.S, found.V.T.contiguous()


@torch.no_grad()
def relative_error(update: Tensor, other: Tensor) -> float:
    """Frobenius norm of the difference over that of the first, in float64."""
    norm = float(torch.linalg.vector_norm(update.double()))
    gap = float(torch.linalg.vector_norm(update.double() - other.double()))
    return gap / norm if norm else float(gap > 0)
