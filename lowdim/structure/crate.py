"""CRATE: a transformer block that compresses tokens in K subspaces, then makes them sparse.

One block (Yu et al. 2023) takes a step down the compressed rate of the tokens in the subspaces
U_k, which is attention with query = key = value = U_k^T z, and a step of iterative
shrinkage-thresholding (ISTA) towards a sparse non-negative code in a dictionary D. So each layer
can be read by :func:`lowdim.structure.subspace_rate` of its own bases, and by the share of zeros.

As in the authors' code tokens pass a layer norm before each step and the inner products are
divided by sqrt(p); as in the paper, and not in that code, the heads' outputs return through the
same bases U_k.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from lowdim.errors import InputError


def ista_step(
    z: Tensor, target: Tensor, dictionary: Tensor, *, step: float, penalty: float
) -> Tensor:
    """One step down 1/2 |target - D z|^2 + penalty |z|_1 over z >= 0, for rows z.

    Parameters
    ----------
    z : Tensor
        (..., m) codes, at least zero.
    target : Tensor
        (..., d) what is coded.
    dictionary : Tensor
        (d, m).
    step : float
        The objective does not rise where this is at most 1 / ||D||_2^2.
    penalty : float
        Weight of the sizes.
    """
    residual = target - z @ dictionary.T  # (..., m) @ (m, d)
    return torch.relu(z + step * (residual @ dictionary - penalty))


class CrateBlock(nn.Module):
    """How would a transformer block look that does nothing but compress and sparsify?

    Parameters
    ----------
    dim : int
        d, of the tokens.
    heads, head_dim : int
        K subspaces of p dimensions.
    kappa : float
        Length of the step of compression.
    step, penalty : float
        Of the ISTA step; 0.1 as in the authors' code.

    Attributes
    ----------
    bases : Parameter
        (K, d, p), orthonormal at the start.
    dictionary : Parameter
        (d, d), orthogonal at the start.
    """

    def __init__(
        self, dim: int, heads: int, head_dim: int, *,
        kappa: float = 1.0, step: float = 0.1, penalty: float = 0.1,
    ) -> None:  # fmt: skip
        super().__init__()
        if not 1 <= head_dim <= dim or heads < 1:
            raise InputError(f"heads={heads}, head_dim={head_dim}: give 1 to {dim} dimensions")
        self.kappa, self.step, self.penalty = kappa, step, penalty
        self.norms = nn.ModuleList([nn.LayerNorm(dim), nn.LayerNorm(dim)])
        starts = [nn.init.orthogonal_(torch.empty(dim, head_dim)) for _ in range(heads)]
        self.bases = nn.Parameter(torch.stack(starts))
        self.dictionary = nn.Parameter(nn.init.orthogonal_(torch.empty(dim, dim)))

    def compress(self, z: Tensor) -> Tensor:
        """Multi-head subspace self-attention of (..., n, d) tokens: sum_k U_k SSA_k."""
        seen = z[..., None, :, :] @ self.bases  # (..., 1, n, d) @ (K, d, p)
        alike = torch.softmax(seen @ seen.mT * self.bases.shape[2] ** -0.5, -1)  # (..., K, n, n)
        return (alike @ seen @ self.bases.mT).sum(-3)

    def forward(self, z: Tensor) -> Tensor:
        """(..., n, d) tokens to tokens of the same shape, none below zero."""
        z = z + self.kappa * self.compress(self.norms[0](z))
        target = self.norms[1](z)
        return ista_step(target, target, self.dictionary, step=self.step, penalty=self.penalty)
