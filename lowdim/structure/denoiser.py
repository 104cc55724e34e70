"""Denoisers of data on a few low-dimensional pieces, and what a trained one has learnt of them.

Wang, Zhang, Zhang, Chen, Ma and Qu 2024, "Diffusion models learn low-dimensional distributions via
subspace clustering": for x_0 = U_k a with normal a the best denoiser of x_t = s x_0 + sigma e
projects on the subspaces, weighted by how likely each is, so that its Jacobian near a point has the
rank of the piece below the point and its leading singular vectors lie along the piece. For a
network the same rank is measured from Jacobian-vector products, forward and backward, and a
randomised SVD (with the tools of ``geometry`` for networks at rest).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.func import functional_call, vjp, vmap

from lowdim.core.estimate import Estimate
from lowdim.core.linalg import Operator, randomized_svd, trace
from lowdim.core.spectrum import Spectrum
from lowdim.core.stacked import Stacked
from lowdim.core.strata import Strata
from lowdim.errors import InputError
from lowdim.geometry.modules import DIRECTIONS, along, as_inputs, at_rest, first_tensor, state_in
from lowdim.registry import method, network
from lowdim.structure.low_rank_gaussians import LowRankGaussians

FIRST = 32  # singular values looked for at first; doubled until they hold the energy


def mixture_denoiser(
    mixture: Strata | LowRankGaussians, x_t: Tensor, *, s: float, sigma: float
) -> Tensor:
    """What was x_0, on average, where x_t = s x_0 + sigma e was seen and x_0 lies on the pieces?

    Parameters
    ----------
    mixture : Strata or LowRankGaussians
        The distribution of x_0: ``model_`` of a fitted `KSubspaces` or `LowRankMixture`, or pieces
        on which x_0 is standard normal along the basis, as in the paper.
    x_t : Tensor
        (d,) or (n, d), in the dtype of the bases.
    s, sigma : float
        Scale of the signal and standard deviation of the noise, both above zero.

    Returns
    -------
    Tensor
        Of the shape of ``x_t``. A function that ``torch.func`` differentiates.

    Notes
    -----
    sum_k w_k [c_k + U_k diag(s l / (s^2 l + sigma^2)) U_k^T (x_t - s c_k)] for variances l along
    the basis, and likewise across it with the noise of the piece; w are the exact responsibilities,
    softmax of the log density of x_t. With l = 1 and no noise that is the paper's
    s / (s^2 + sigma^2) sum_k w_k U_k U_k^T x_t, but with the terms that compare pieces of different
    dimension and size, which the paper does without.
    """
    if not (s > 0 and sigma > 0):
        raise InputError(f"s={s}, sigma={sigma}: both have to be above zero")
    stacked = mixture.stacked if isinstance(mixture, LowRankGaussians) else Stacked(mixture.pieces)
    basis, member = stacked.basis, stacked.member  # (d, R), (R, K)
    if x_t.shape[-1:] != basis.shape[:1] or x_t.dtype != basis.dtype:
        raise InputError(
            f"x_t has shape {tuple(x_t.shape)} and dtype {x_t.dtype}: give (n, {len(basis)}) of "
            f"{basis.dtype}"
        )
    if isinstance(mixture, LowRankGaussians):
        along_basis, across = mixture.values.to(basis), mixture.noise.to(basis)
        shares = mixture.shares.to(basis)
    else:
        along_basis, across = basis.new_ones(basis.shape[1]), basis.new_zeros(member.shape[1])
        shares = (mixture.sizes / mixture.sizes.sum()).to(basis)
    centers = torch.stack([p.center for p in stacked.pieces])  # (K, d)
    spread = s * s * along_basis + sigma * sigma  # (R,) variances of x_t
    noise = s * s * across + sigma * sigma  # (K,)

    z = x_t @ basis - s * (member @ centers * basis.T).sum(1)  # (..., R)
    length = (
        (x_t * x_t).sum(-1, keepdim=True) - 2 * s * x_t @ centers.T + s * s * (centers**2).sum(1)
    )
    squared = length - (z * z) @ member  # (..., K)
    spare = len(basis) - member.sum(0)
    deviance = squared / noise + (z * z / spread + spread.log()) @ member + spare * noise.log()
    w = (shares.log() - deviance / 2).softmax(-1)  # (..., K)

    gain = s * across / noise  # (K,) what is kept across the basis
    extra = s * along_basis / spread - member @ gain  # (R,) and how much more along it
    rebuilt = (w @ member.T * extra * z) @ basis.T  # (..., R) @ (R, d)
    return rebuilt + (w * (1 - s * gain)) @ centers + (w @ gain)[..., None] * x_t


@dataclass(frozen=True, kw_only=True)
class DenoiserRank(Estimate):
    """Numerical rank of the Jacobian; ``value`` is the median over the inputs.

    Attributes
    ----------
    energy : float
        The share of the squared singular values that the rank holds.
    width : int
        Numbers in an input: the rank that is possible.
    """

    energy: float
    width: int


@method(
    "structure/denoiser-rank",
    needs=network(),
    paper="Wang, Zhang, Zhang, Chen, Ma and Qu 2024",
    arxiv="2409.02426",
    cost="O(rank) forward and backward passes an input",
)
def denoiser_rank(
    module: nn.Module | Callable[[Tensor], Tensor], x: Tensor, *, energy: float = 0.99,
    seed: int = 0,
) -> DenoiserRank:  # fmt: skip
    """Along how many directions does a denoiser let its input move, at each input?

    ``per_point`` holds the rank at each row; :func:`denoiser_spectrum` gives the directions.

    Parameters
    ----------
    module : torch.nn.Module or callable
        (n, ...) to (n, ...). A module runs in eval mode and in float64, on copies of its
        parameters; a function gets ``x`` as it is.
    x : Tensor
        (n, ...) inputs, which are noisy points at one noise level.
    energy : float
        Share of the squared singular values, in (0, 1].
    seed : int
        Of the randomised SVD.

    Raises
    ------
    InputError
        NaN or Inf in the inputs, or an energy outside (0, 1].

    Notes
    -----
    Trust it at moderate noise: at little noise the best denoiser is the identity, of full rank, and
    at much noise it is constant, of rank 0. So read it at several levels; a rank that stays over a
    range of them is a dimension. A rank that holds 99% misses directions in which the data hardly
    vary.
    """
    if not 0 < energy <= 1:
        raise InputError(f"energy={energy}: a share in (0, 1]")
    x = as_inputs(x)
    ranks = []
    with _differentiable(module, x) as (function, rows):
        for row in rows:
            spectrum = _spectrum(function, row, energy, seed)
            ranks.append(spectrum.rank_at(energy) if spectrum.total > 0 else 0)
    per_point = torch.tensor(ranks, dtype=torch.float64)
    return DenoiserRank(
        value=float(per_point.quantile(0.5)), n=len(x), seed=seed, exact=False,
        per_point=per_point, energy=energy, width=math.prod(x.shape[1:]),
    )  # fmt: skip


def denoiser_spectrum(
    module: nn.Module | Callable[[Tensor], Tensor], x: Tensor, *, energy: float = 0.99,
    seed: int = 0,
) -> Spectrum:  # fmt: skip
    """Along which directions does a denoiser let one input move, and how far?

    Parameters
    ----------
    module, energy, seed
        As for :func:`denoiser_rank`.
    x : Tensor
        (1, ...) one input.

    Returns
    -------
    Spectrum
        ``values`` are the squared singular values of the Jacobian, as many as hold the energy or
        more, and ``vectors`` (width, r) the right singular vectors: the directions in which an
        image is edited.
    """
    x = as_inputs(x)
    if len(x) != 1 or not 0 < energy <= 1:
        raise InputError(f"x has {len(x)} rows, energy={energy}: give one row, energy in (0, 1]")
    with _differentiable(module, x) as (function, rows):
        return _spectrum(function, rows[0], energy, seed)


@contextmanager
def _differentiable(
    module: nn.Module | Callable[[Tensor], Tensor], x: Tensor
) -> Iterator[tuple[Callable[[Tensor], Tensor], Tensor]]:
    """A function of (1, ...) rows to (1, width), and the rows."""
    if not isinstance(module, nn.Module):
        yield lambda row: module(row).flatten(1), x
        return
    state = state_in(module, torch.float64)
    place = next((v.device for v in state.values()), x.device)
    with at_rest(module):
        yield (
            lambda row: first_tensor(functional_call(module, state, (row,))).flatten(1),
            x.to(place, torch.float64),
        )


def _spectrum(
    function: Callable[[Tensor], Tensor], row: Tensor, energy: float, seed: int
) -> Spectrum:
    """Of the Jacobian at one row, with as many values as hold the energy."""
    point = row[None]
    output, pull = vjp(function, point)[:2]
    shape = output.shape[1], row.numel()

    def matmul(directions: Tensor) -> Tensor:
        moves = directions.T.reshape(-1, 1, *row.shape)  # (k, 1, ...)
        return along(function, point, moves)[:, 0].T  # (width, k)

    def rmatmul(cotangents: Tensor) -> Tensor:
        back = vmap(lambda y: pull(y[None])[0], chunk_size=DIRECTIONS)
        return back(cotangents.T).flatten(1).T  # (d, k)

    jacobian = Operator(shape, matmul, rmatmul, output.dtype, output.device)
    known = min(FIRST, *shape)
    while True:
        found = randomized_svd(jacobian, known, seed=seed)
        values = found.S.double().square()
        rest, spread = 0.0, 0.0
        if known < min(shape):
            rest, spread = trace(lambda v: rmatmul(matmul(v[:, None]))[:, 0], found.V, seed=seed)
        total = float(values.sum()) + max(rest, 0.0)
        if known == min(shape) or float(values.sum()) >= energy * total:
            error = min(found.error**2, found.residual) / max(float(values[0]), 1e-300)
            exact = known == min(shape)
            return Spectrum(
                values, total, shape, found.V, None, None, exact, error, spread
            )  # fmt: skip
        known = min(2 * known, *shape)
