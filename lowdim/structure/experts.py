"""The parts of a mixture of dictionary experts: encoders, gate, competition, choice, contrast.

An expert k writes a point as ``x ~ D_k z_k`` with unit atoms (d, m) and ``s_k`` non-zeros in
``z_k``. Two encoders find the code: orthogonal matching pursuit, and T unrolled steps of
thresholding with weights of their own (LISTA, Gregor and LeCun 2010), where "keep the s_k largest"
has the identity as its derivative. A gate shares a point among the experts by the scaled dot
product of a query A x + b with one key for each (as attention does).

Points are taken to be scaled to mean squared length one.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.functional import log_softmax, normalize, one_hot

from lowdim.core.random import normal
from lowdim.errors import InputError
from lowdim.structure.omp import omp

LEAST_NOISE = 1e-4
"""Least variance of the noise of a whole point, whose mean squared length is one."""

HIDDEN = 32, 64
"""Widths of the layers of the head."""


class Experts(nn.Module):
    """K dictionaries of unit atoms, each with an encoder of T layers.

    At the start a layer is one step of iterative hard thresholding, z + step D^T (x - D z), which
    for orthonormal atoms and a step of one is the best code of s_k atoms at once.

    Parameters
    ----------
    atoms : Tensor
        (K, d, m), columns of any length but zero.
    sparsity : sequence of int
        s_k, the atoms of an expert that a point uses.
    n_layers : int
        T.
    step : Tensor, optional
        (m,) of each atom; by default 1 / |D_k|^2, with which the steps converge.
    """

    def __init__(
        self, atoms: Tensor, sparsity: Sequence[int], n_layers: int, step: Tensor | None = None
    ) -> None:
        super().__init__()
        atoms = normalize(atoms, dim=1)
        if step is None:
            step = torch.linalg.matrix_norm(atoms, 2)[:, None].square().reciprocal()
        analysis = step[..., None] * atoms.mT  # (K, m, d)
        mixing = torch.eye(atoms.shape[2]).to(atoms) - analysis @ atoms
        self.sparsity = tuple(sparsity)
        self.atoms = nn.Parameter(atoms)
        self.analysis = nn.Parameter(analysis.repeat(n_layers, 1, 1, 1))  # (T, K, m, d)
        self.mixing = nn.Parameter(mixing.repeat(n_layers - 1, 1, 1, 1))  # (T - 1, K, m, m)

    @property
    def dictionaries(self) -> Tensor:
        """(K, d, m) unit atoms."""
        return normalize(self.atoms, dim=1)

    def forward(self, x: Tensor) -> Tensor:
        """(K, n, m) codes of (n, d) points, s_k non-zeros each: z <- keep(W_t x + S_t z)."""
        layers, k, m, d = self.analysis.shape
        seen = x @ self.analysis.view(-1, d).T  # (n, d) @ (d, T K m)
        seen = seen.view(-1, layers, k, m).permute(1, 2, 0, 3)  # (T, K, n, m)
        codes = keep(seen[0], self.sparsity)
        for first, mixing in zip(seen[1:], self.mixing, strict=True):
            codes = keep(first + codes @ mixing.mT, self.sparsity)  # (K, n, m) @ (K, m, m)
        return codes


class Gate(nn.Module):
    """The attention gate: softmax over k of (A x + b) . key_k / sqrt(query_dim).

    It starts as a given linear classifier; its keys are standard normal.

    Parameters
    ----------
    weight, offset : Tensor
        (K, d) and (K,) of the classifier whose logits it begins with.
    query_dim : int
        Length of queries and keys; with fewer than K the start is only near the classifier.
    seed : int
        Of the keys.
    """

    def __init__(self, weight: Tensor, offset: Tensor, query_dim: int, seed: int) -> None:
        super().__init__()
        keys = normal((len(weight), query_dim), seed, device=weight.device).to(weight)
        back = math.sqrt(query_dim) * torch.linalg.pinv(keys)  # (query_dim, K)
        self.keys = nn.Parameter(keys)
        self.weight = nn.Parameter(back @ weight)  # A, (query_dim, d)
        self.bias = nn.Parameter(back @ offset)

    def forward(self, x: Tensor) -> Tensor:
        """(n, K) logarithms of the shares."""
        query = x @ self.weight.T + self.bias  # (n, d) @ (d, query_dim)
        return log_softmax(query @ self.keys.T / math.sqrt(self.keys.shape[1]), 1)


class Head(nn.Module):
    """What turns a code into the embedding that is contrasted: two layers, m to 32 to 64."""

    def __init__(self, n_atoms: int, seed: int) -> None:
        super().__init__()
        hidden, out = HIDDEN
        first = normal((hidden, n_atoms), seed, stream=1) * math.sqrt(2 / n_atoms)
        self.first = nn.Parameter(first)
        self.first_bias = nn.Parameter(torch.zeros(hidden))
        self.second = nn.Parameter(normal((out, hidden), seed, stream=2) / math.sqrt(hidden))
        self.second_bias = nn.Parameter(torch.zeros(out))

    def forward(self, codes: Tensor) -> Tensor:
        """(n, 64) embeddings of (n, m) codes."""
        hidden = (codes @ self.first.T + self.first_bias).relu()
        return hidden @ self.second.T + self.second_bias


def keep(values: Tensor, sparsity: Sequence[int]) -> Tensor:
    """(K, n, m) values with all but the s_k largest of each row set to zero.

    The derivative is the identity (straight-through), so that an atom which is not chosen still
    learns that it should be.
    """
    sizes, s = values.detach().abs(), torch.tensor(sparsity, device=values.device)
    if sizes.is_cpu:  # numpy sorts short rows eight times as fast as torch finds their largest
        ordered = torch.from_numpy(np.sort(sizes.numpy(), axis=2))
    else:
        ordered = sizes.sort(2).values
    place = (sizes.shape[2] - s)[:, None, None].expand(-1, sizes.shape[1], 1)
    kept = sizes >= ordered.gather(2, place)  # (K, n, m) >= (K, n, 1)
    tied = kept.sum(2) > s[:, None]
    for k in tied.any(1).nonzero()[:, 0].tolist():  # rows with several at the limit
        first = sizes[k, tied[k]].topk(sparsity[k]).indices
        kept[k, tied[k]] = torch.zeros_like(kept[k, tied[k]]).scatter_(1, first, True)
    return values.where(kept, values - values.detach())  # zero, with the derivative of the value


def pursue(
    x: Tensor, dictionaries: Tensor, sparsity: Sequence[int], memory: int | float | str | None
) -> Tensor:
    """(K, n, m) codes of (n, d) points by orthogonal matching pursuit, s_k atoms or fewer."""
    m = dictionaries.shape[2]
    return torch.stack(
        [omp(x, d, s, memory=memory).dense(m) for d, s in zip(dictionaries, sparsity, strict=True)]
    )


def blend(shares: Tensor, codes: Tensor) -> Tensor:
    """(n, K m) codes of all experts side by side, each times its (n, K) share."""
    return (shares.T[..., None] * codes).transpose(0, 1).flatten(1)


def squared_errors(x: Tensor, codes: Tensor, dictionaries: Tensor) -> Tensor:
    """(n, K) squared distance of each point to what each expert makes of it."""
    return (codes @ dictionaries.mT - x).square().sum(2).T  # (K, n, m) @ (K, m, d)


def log_joint(
    log_gates: Tensor,
    errors: Tensor,
    dim: int,
    sparsity: Sequence[int],
    noise: float,
    penalty: float,
) -> Tensor:
    """(n, K) log of gate_k(x) times the density of a (dim,) point x under expert k.

    Noise of variance ``noise`` in each coordinate gives -error / (2 noise). A code of s numbers
    drawn with variance 1/s (so that points have squared length one) spreads the density over s
    more dimensions: it costs s log(1 / (s noise)) / 2, the price of s atoms, times ``penalty``.
    Without it whatever several experts can explain goes to the one with the most atoms.
    """
    s = torch.tensor(sparsity).to(errors)
    price = 0.5 * penalty * s * (-(s * noise).log()).clamp_min(0)
    width = 0.5 * dim * math.log(2 * math.pi * noise)
    return log_gates - errors / (2 * noise) - price - width


def noise_of(errors: Tensor, shares: Tensor, dim: int, sparsity: Sequence[int]) -> float:
    """Variance in a coordinate, from (n, K) squared errors; an expert of s atoms leaves dim - s."""
    spare = (dim - torch.tensor(sparsity).to(errors)).clamp_min(1)
    noise = float((shares * errors).sum() / (shares @ spare).sum())
    return max(noise, LEAST_NOISE / dim)


def choose(gates: Tensor, sparsity: Sequence[int], threshold: float) -> Tensor:
    """(n, K) one expert for each point: the sparsest of those that are eligible.

    Eligible are those with at least ``threshold`` times the largest share; ties go to the larger
    share. Forward it is one-hot, backward it is the soft gate (straight-through).
    """
    shares = gates.detach()
    s = torch.tensor(sparsity).to(gates)
    eligible = shares >= threshold * shares.amax(1, keepdim=True)
    rank = torch.where(eligible, s - shares / 2, math.inf)  # a share of at most 1 breaks ties only
    hard = one_hot(rank.argmin(1), len(s)).to(gates)
    return hard + (gates - shares)


def contrast(embedding: Tensor, groups: Tensor, margin: float = 1.0) -> Tensor:
    """Mean over all pairs: squared distance in a group, squared shortfall of the margin between.

    Hadsell, Chopra and LeCun 2006.
    """
    distance = torch.cdist(embedding, embedding, compute_mode="donot_use_mm_for_euclid_dist")
    same = groups[:, None] == groups
    return torch.where(same, distance, (margin - distance).clamp_min(0)).square().mean()


def group_ids(labels: Any, corpora: Any) -> np.ndarray:
    """Which group is each row of several corpora in? One number for each pair (corpus, label).

    Label 0 of one corpus is not label 0 of another: labels of corpora that were joined must be
    told apart by their corpus before anything is pulled together by them.

    Parameters
    ----------
    labels, corpora : array-like
        (n,) the label of each row in its own corpus, and the corpus.

    Returns
    -------
    ndarray
        (n,) int64, 0, 1, ... in the order of the sorted pairs.
    """
    codes = [np.unique(np.asarray(v), return_inverse=True)[1] for v in (corpora, labels)]
    if codes[0].shape != codes[1].shape or codes[0].ndim != 1:
        raise InputError(
            f"labels and corpora of shapes {codes[1].shape} and {codes[0].shape}: give one of each "
            "for every row"
        )
    return np.unique(np.stack(codes, 1), axis=0, return_inverse=True)[1].reshape(-1)
