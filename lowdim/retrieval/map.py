"""`Map`: vectors to fewer coordinates and back, the same for rows and queries: what reduces."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor


@dataclass(frozen=True, eq=False)
class Map:
    """z = (x - center) @ encoder, and back x^ = center + z @ decoder.

    Rows are scored by the metric between the query and x^, which needs no more than m coordinates:
    <q, x^> = <q, center> + <q @ decoder.T, z>.

    Attributes
    ----------
    encoder : Tensor or None
        (d, m). None: the coordinates are those of x itself, moved by the centre.
    center : Tensor
        (d,).
    decoder : Tensor or None
        (m, d). None: there is no way back, so rows and queries are compared where the map brings
        them (a learned space, a whitened one), as if ``decoder`` were the identity there.
    """

    encoder: Tensor | None
    center: Tensor
    decoder: Tensor | None = None

    def __post_init__(self) -> None:
        """In rows, as files have them: products of another layout differ in the last bit."""
        for name in ("encoder", "center", "decoder"):
            x = getattr(self, name)
            object.__setattr__(self, name, None if x is None else x.contiguous())

    @property
    def dims(self) -> int:
        """m, the coordinates that are kept."""
        return len(self.center) if self.encoder is None else self.encoder.shape[1]

    @property
    def dim(self) -> int:
        """d, the columns of the vectors."""
        return len(self.center)

    @cached_property
    def orthonormal(self) -> bool:
        """Whether lengths of z are lengths of what it stands for."""
        if self.decoder is None:
            return True
        gram = self.decoder @ self.decoder.T
        return bool((gram - torch.eye(self.dims).to(gram)).abs().max() < 1e-4)

    def reduce(self, x: Tensor) -> Tensor:
        """(n, m) coordinates of (n, d) placed vectors."""
        moved = x - self.center
        return moved if self.encoder is None else moved @ self.encoder

    def restore(self, z: Tensor) -> Tensor:
        """(n, d) what (n, m) coordinates stand for; themselves where there is no way back."""
        if self.decoder is not None:
            return z @ self.decoder + self.center
        return z + self.center if self.encoder is None else z

    def to(self, device: torch.device | str) -> Map:
        """A copy on another device."""
        encoder = None if self.encoder is None else self.encoder.to(device)
        decoder = None if self.decoder is None else self.decoder.to(device)
        return Map(encoder, self.center.to(device), decoder)

    @property
    def overhead(self) -> int:
        """Bytes of its numbers; the way back is not stored twice where it is the transpose."""
        once = 0 if self.encoder is None else self.encoder.numel()
        back = 0 if self.decoder is None or self.orthonormal else self.decoder.numel()
        return 4 * (once + back + len(self.center))
