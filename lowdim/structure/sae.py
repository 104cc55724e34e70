"""Sparse autoencoders: each activation as a sum of a few directions, found by a trained encoder.

Modules of one shape: an encoder (d, m) whose preactivations one rule makes sparse, and a decoder
(m, d) of unit rows. The rules: the k largest of each input (Gao et al. 2024), the k n largest of a
batch of n (Bussmann, Leask and Nanda 2024), a gate and a magnitude (Rajamanoharan et al. 2024a), a
rectifier, and a rectifier with a jump (Rajamanoharan et al. 2024b). :mod:`.sae_train` trains them,
:mod:`.saelens` reads and writes them.

Cost: 2 n d m multiply-adds for encoding and decoding n inputs, three times that for a training
step. Memory: the weights and a few (n, m) blocks.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn.functional import normalize

from lowdim.core.random import normal
from lowdim.errors import InputError


class Loss(NamedTuple):
    """What a training step minimises, ``total``, and its parts."""

    total: Tensor
    reconstruction: Tensor
    auxiliary: Tensor


class SAE(nn.Module, ABC):
    """A linear encoder, a rule that makes its output sparse, and a linear decoder.

    A subclass gives the rule (:meth:`activate`) and its auxiliary loss (:meth:`auxiliary`).

    Parameters
    ----------
    dim : int
        d, columns of the inputs.
    width : int
        m, features.
    center_input : bool
        Whether the decoder's bias is taken off the input before it is encoded.
    seed : int
        Of the first directions.

    Attributes
    ----------
    encoder, encoder_bias : Parameter
        (d, m) and (m,).
    decoder, bias : Parameter
        (m, d) unit rows, and (d,).
    """

    def __init__(self, dim: int, width: int, *, center_input: bool = True, seed: int = 0) -> None:
        super().__init__()
        if not (isinstance(dim, int) and isinstance(width, int)) or min(dim, width) < 1:
            raise InputError(f"dim={dim!r}, width={width!r}: give integers of at least 1")
        self.center_input = center_input
        directions = normalize(normal((width, dim), seed))
        self.decoder = nn.Parameter(directions)
        self.encoder = nn.Parameter(directions.T.contiguous())
        self.encoder_bias = nn.Parameter(torch.zeros(width))
        self.bias = nn.Parameter(torch.zeros(dim))

    @property
    def dim(self) -> int:
        """Columns of the inputs."""
        return self.decoder.shape[1]

    @property
    def width(self) -> int:
        """How many features."""
        return self.decoder.shape[0]

    def preactivate(self, x: Tensor) -> Tensor:
        """(n, m) before the rule."""
        x = x - self.bias if self.center_input else x
        return torch.addmm(self.encoder_bias, x, self.encoder)  # (n, d) @ (d, m)

    @abstractmethod
    def activate(self, z: Tensor) -> Tensor:
        """(n, m) codes from the preactivations."""

    def encode(self, x: Tensor) -> Tensor:
        """(n, m) codes, at least zero and mostly zero."""
        return self.activate(self.preactivate(x))

    def decode(self, codes: Tensor) -> Tensor:
        """(n, d) inputs from codes."""
        return torch.addmm(self.bias, codes, self.decoder)  # (n, m) @ (m, d)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """(n, d) reconstruction and (n, m) codes."""
        codes = self.encode(x)
        return self.decode(codes), codes

    def loss(self, x: Tensor) -> Loss:
        """Mean squared distance to the reconstruction, and the auxiliary terms of the paper."""
        z = self.preactivate(x)
        codes = self.activate(z)
        rebuilt = self.decode(codes)
        reconstruction = (x - rebuilt).square().sum(1).mean()
        auxiliary = self.auxiliary(x, z, codes, rebuilt)
        return Loss(reconstruction + auxiliary, reconstruction, auxiliary)

    def auxiliary(self, x: Tensor, z: Tensor, codes: Tensor, rebuilt: Tensor) -> Tensor:
        """What is added to the reconstruction loss."""
        return x.new_zeros(())

    @torch.no_grad()
    def project_gradient(self) -> None:
        """Take off the part of the decoder's gradient that would only change lengths."""
        grad = self.decoder.grad
        if grad is not None:
            grad -= (grad * self.decoder).sum(1, keepdim=True) * self.decoder

    @torch.no_grad()
    def normalize_decoder(self) -> None:
        """Scale the rows of the decoder to length one."""
        self.decoder.copy_(normalize(self.decoder))

    def in_input_units(self) -> list[Tensor]:
        """The tensors that grow with the input, others do not."""
        return [self.bias, self.encoder_bias]

    @torch.no_grad()
    def rescale(self, factor: float) -> None:
        """Become the same network for inputs ``factor`` times as large; codes grow with them."""
        for tensor in self.in_input_units():
            tensor *= factor


class ReLUSAE(SAE):
    """The first form: a rectifier, and ``penalty`` times the sum of the codes as loss.

    Bricken et al. 2023, Cunningham et al. 2023. Codes are shrunk towards zero by the penalty.
    """

    def __init__(
        self, dim: int, width: int, *, penalty: float = 0.2, center_input: bool = True,
        seed: int = 0,
    ) -> None:  # fmt: skip
        super().__init__(dim, width, center_input=center_input, seed=seed)
        self.penalty = _checked(penalty)

    def activate(self, z: Tensor) -> Tensor:
        """Rectify."""
        return z.relu()

    def auxiliary(self, x: Tensor, z: Tensor, codes: Tensor, rebuilt: Tensor) -> Tensor:
        """Penalty times the mean l1 norm."""
        return self.penalty * codes.sum(1).mean()


class JumpReLUSAE(SAE):
    """A rectifier that also drops what is below a threshold of each feature.

    Here the thresholds are fixed: it is what loaded dictionaries and trained `BatchTopKSAE` run as.
    """

    threshold: Tensor

    def __init__(self, dim: int, width: int, *, center_input: bool = True, seed: int = 0) -> None:
        super().__init__(dim, width, center_input=center_input, seed=seed)
        self.register_buffer("threshold", torch.zeros(width))

    def activate(self, z: Tensor) -> Tensor:
        """Keep what is above zero and above its threshold."""
        return z.relu() * (z > self.threshold)

    def in_input_units(self) -> list[Tensor]:
        """Thresholds grow with the input."""
        return [*super().in_input_units(), self.threshold]


class TopKSAE(SAE):
    """The k largest preactivations of each input, rectified (Gao et al. 2024).

    The auxiliary loss asks the dead features, those that have not fired for ``dead_after`` inputs,
    to rebuild what the others left: the ``aux_k`` most active of them, weight ``aux_weight``,
    relative to what is left.

    Parameters
    ----------
    k : int
        Features an input may use.
    aux_k : int, optional
        By default half the columns, as in the paper.
    aux_weight : float
        1/32 in the paper.
    dead_after : int
        Inputs without firing; 10 million in the paper, for runs of billions.
    """

    quiet: Tensor

    def __init__(
        self, dim: int, width: int, k: int = 32, *, aux_k: int | None = None,
        aux_weight: float = 1 / 32, dead_after: int = 20_000, center_input: bool = True,
        seed: int = 0,
    ) -> None:  # fmt: skip
        super().__init__(dim, width, center_input=center_input, seed=seed)
        if not isinstance(k, int) or not 1 <= k <= width:
            raise InputError(f"k={k!r}: give an integer from 1 to {width}, the features")
        self.k, self.aux_weight, self.dead_after = k, aux_weight, dead_after
        self.aux_k = max(dim // 2, 1) if aux_k is None else aux_k
        self.register_buffer("quiet", torch.zeros(width, dtype=torch.int64))

    def activate(self, z: Tensor) -> Tensor:
        """Keep the k largest of each row, where above zero."""
        values, index = z.topk(self.k, dim=1)
        return torch.zeros_like(z).scatter(1, index, values.relu())

    def auxiliary(self, x: Tensor, z: Tensor, codes: Tensor, rebuilt: Tensor) -> Tensor:
        """How badly the dead features rebuild what is left; counts who fired while training."""
        if self.training:
            self.quiet += len(x)
            self.quiet[(codes > 0).any(0)] = 0
        dead = (self.quiet > self.dead_after).nonzero()[:, 0]
        if not len(dead):
            return x.new_zeros(())
        values, index = z[:, dead].topk(min(self.aux_k, len(dead)), dim=1)
        revived = torch.zeros_like(z[:, dead]).scatter(1, index, values.relu())
        left = (x - rebuilt).detach()
        missed = (left - revived @ self.decoder[dead]).square().sum()
        return self.aux_weight * missed / left.square().sum().clamp_min(1e-30)


class BatchTopKSAE(TopKSAE):
    """The k n largest preactivations of a batch of n, so that hard inputs may use more.

    Bussmann, Leask and Nanda 2024. In training mode the batch is one; in evaluation mode what
    counts is a threshold, the running mean of the smallest code kept, so that a code does not
    depend on the company its input is in. Auxiliary loss as in `TopKSAE`.
    """

    threshold: Tensor

    def __init__(self, dim: int, width: int, k: int = 32, **options: Any) -> None:
        super().__init__(dim, width, k, **options)
        self.register_buffer("threshold", torch.tensor(-1.0, dtype=torch.float64))

    def activate(self, z: Tensor) -> Tensor:
        """Keep the k n largest of the batch, or what is above the threshold."""
        if not self.training:
            if self.threshold < 0:
                raise InputError("this BatchTopKSAE has no threshold yet: train it first")
            return z * (z > self.threshold)
        flat = z.relu().flatten()
        values, index = flat.topk(self.k * len(z))
        self._learn(values.detach())
        return torch.zeros_like(flat).scatter(0, index, values).view_as(z)

    def _learn(self, kept: Tensor) -> None:
        """Running mean of the smallest code, over about the last 10 batches."""
        if bool((kept > 0).any()):
            smallest = kept[kept > 0].min().double()
            self.threshold.copy_(
                smallest if self.threshold < 0 else 0.9 * self.threshold + 0.1 * smallest
            )

    def in_input_units(self) -> list[Tensor]:
        """The threshold grows with the input."""
        return [*super().in_input_units(), self.threshold]


class GatedSAE(SAE):
    """One direction decides whether a feature is on, a scaled copy of it how much.

    Rajamanoharan et al. 2024a: magnitudes are not shrunk, since the penalty falls on the gates
    alone. Loss: reconstruction, ``penalty`` times the sum of the rectified gates, and the
    reconstruction from these gates by a decoder that is not moved by it.
    """

    def __init__(
        self, dim: int, width: int, *, penalty: float = 0.2, center_input: bool = True,
        seed: int = 0,
    ) -> None:  # fmt: skip
        super().__init__(dim, width, center_input=center_input, seed=seed)
        self.penalty = _checked(penalty)
        self.log_scale = nn.Parameter(torch.zeros(width))
        self.magnitude_bias = nn.Parameter(torch.zeros(width))

    def activate(self, z: Tensor) -> Tensor:
        """Magnitudes where the gate, which is z, is above zero."""
        gates = z - self.encoder_bias  # both paths share the product
        magnitudes = (gates * self.log_scale.exp() + self.magnitude_bias).relu()
        return magnitudes * (z > 0)

    def auxiliary(self, x: Tensor, z: Tensor, codes: Tensor, rebuilt: Tensor) -> Tensor:
        """The penalty on the gates, and what they rebuild with a frozen decoder."""
        gates = z.relu()
        frozen = torch.addmm(self.bias.detach(), gates, self.decoder.detach())
        return self.penalty * gates.sum(1).mean() + (x - frozen).square().sum(1).mean()

    def in_input_units(self) -> list[Tensor]:
        """Both biases of the encoder grow with the input."""
        return [*super().in_input_units(), self.magnitude_bias]


def _checked(penalty: float) -> float:
    if not 0 <= penalty < float("inf"):
        raise InputError(f"penalty={penalty!r}: give a number of at least zero")
    return penalty


KINDS: dict[str, type[SAE]] = {
    "topk": TopKSAE,
    "batchtopk": BatchTopKSAE,
    "gated": GatedSAE,
    "relu": ReLUSAE,
}
"""What can be trained, by name."""
