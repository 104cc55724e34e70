"""The sparse mixture of dictionary experts: a gate by attention, experts that compete.

Li and Sarwate 2025 learn, for each stratum of an embedding space, a dictionary with a sparsity of
its own, and an attention gate that shares a point among them. Their full loss is not known to us;
here are the two that their public code and abstract suggest, in a form in which gate and experts
both learn:

- ``"gated"``: |x - sum_k g_k(x) D_k z_k|^2 / 2, with the gate g. Experts help each other.
- ``"mixture"``: minus the log-likelihood of sum_k g_k(x) p_k(x), where p_k falls with
  |x - D_k z_k|^2 (:func:`lowdim.structure.experts.log_joint`). Experts compete, as Jacobs, Jordan,
  Nowlan and Hinton 1991 showed: the one that explains a point best learns most from it.

The gate is a softmax of affine functions of x, so it parts pieces that lie apart. It cannot part
pieces that meet in the origin, where x and -x belong together: there only the competition does.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Sequence
from functools import partial
from typing import Any, Self

import numpy as np
import torch
from torch import Tensor, nn

from lowdim.core.pieces import Tensors
from lowdim.core.progress import Advance
from lowdim.core.random import permutation
from lowdim.core.shards import Source, shards
from lowdim.core.strata import Strata
from lowdim.core.subspace import Subspace
from lowdim.errors import InputError
from lowdim.registry import method, pieces
from lowdim.structure.base import Job
from lowdim.structure.dictionary_pieces import SHARD, DictionaryFinder
from lowdim.structure.experts import (
    Experts,
    Gate,
    Head,
    blend,
    choose,
    contrast,
    group_ids,
    noise_of,
    pursue,
    squared_errors,
)

ASLEEP = 0.1
"""First step of atoms beyond the number of columns: hardly used until training finds a use."""


@method(
    "structure/moe",
    needs=pieces(),
    paper="Li and Sarwate 2025; Jacobs et al. 1991 for the competition",
    arxiv="2502.13577",
    cost="O(K T m (d + m)) a point and epoch, O(K d^2 + n K) memory",
    oracle="sklearn.linear_model.orthogonal_mp for the codes of one expert",
)
class StratifiedMoE(DictionaryFinder):
    """Which sparse dictionary writes each point best, and how is it shared among them?

    Parameters
    ----------
    n_pieces : int
        K, the experts.
    sparsity : int or sequence of int, optional
        s_k, the atoms that a point uses of one expert: for all, or for each; the paper's seven have
        (8, 12, 16, 20, 24, 28, 32). By default the dimension of the piece that each expert begins
        with (at most ``n_atoms``).
    n_atoms : int
        m, atoms of an expert.
    query_dim : int
        Length of the gate's queries and keys.
    encoder : {"lista", "omp"}
        Learned thresholding layers, or exact orthogonal matching pursuit: dearer by far, and
        nothing to learn in it.
    n_layers : int
        T, layers of the learned encoder.
    loss : {"mixture", "gated"}
        See above.
    penalty : float
        How much an atom in use counts against an expert in the mixture: 1 is a description length,
        0 the error alone, and then the expert of the most atoms takes what two can explain.
    balance : float
        Weight of K sum_k (mean of g_k)^2 - 1, zero where the gate uses all experts equally.
    contrastive : float
        Weight of the contrastive loss of codes, which needs the groups ``y`` in ``fit``.
    threshold : float
        For the contrastive loss a point has the code of the sparsest expert whose share is at least
        this times the largest.
    reduce : int or None
        Principal directions that are kept; None keeps all.
    epochs, batch_size, learning_rate
        Of Adam; the rate falls to zero along a cosine.
    random_state : int
        Of the sample, the keys and the order of the points.
    memory : int, float or str, optional
        Budget. The points are read 32,768 at a time; n K shares are held.

    Attributes
    ----------
    strata_ : Strata
        The principal subspace of the points of each expert, with the rank of the Bayesian
        information criterion; ``weights`` are ``gates(x)``.
    dictionaries_, sparsity_, noise_, chart_, scale_, history_
        See :class:`~lowdim.structure.dictionary_pieces.DictionaryFinder`.
    keys_ : Tensor
        (K, query_dim) keys of the gate.

    Raises
    ------
    InputError
        NaN or Inf, points that are all equal, a parameter that cannot be, groups that are missing.
    MemoryBudgetError
        Before anything is allocated.

    Notes
    -----
    ``attention(x)`` is the paper's gate, softmax_k of (A x + b) . key_k / sqrt(query_dim).
    ``gates(x)`` is what a point has of each expert in ``predict``, ``transform`` and
    ``reconstruct``: the paper's gate under ``loss="gated"``; under ``loss="mixture"`` the
    posterior, which is that gate times the density of the point under each expert, normalised.
    ``transform(x)`` gives (n, K m) codes, each expert's times its share; their product with
    ``dictionaries_.mT.flatten(0, 1)`` is the reconstruction in the reduced and scaled coordinates.

    It begins with :class:`~lowdim.structure.k_subspaces.KSubspaces` of a sample: atoms are the
    principal directions of a piece, each layer of an encoder is a step of hard thresholding, the
    gate is a logistic regression. Every epoch is kept under ``out=``, and a fit that is resumed
    goes on bit for bit. The noise is estimated anew after each epoch.

    Trust it where two values of ``random_state`` give the same pieces, and where it beats
    :class:`DictionaryPieces` on points that were held out. It finds K pieces in any cloud. Under
    ``"gated"`` several experts may share each point: look at the entropy before reading pieces.
    """

    keys_: Tensor

    def __init__(
        self,
        n_pieces: int = 7,
        *,
        sparsity: int | Sequence[int] | None = None,
        n_atoms: int = 32,
        query_dim: int = 128,
        encoder: str = "lista",
        n_layers: int = 5,
        loss: str = "mixture",
        penalty: float = 1.0,
        balance: float = 0.0,
        contrastive: float = 0.0,
        threshold: float = 0.9,
        reduce: int | None = 64,
        epochs: int = 20,
        batch_size: int = 256,
        learning_rate: float = 1e-3,
        random_state: int = 0,
        memory: int | float | str | None = None,
    ) -> None:
        self.n_pieces = n_pieces
        self.sparsity = sparsity
        self.n_atoms = n_atoms
        self.query_dim = query_dim
        self.encoder = encoder
        self.n_layers = n_layers
        self.loss = loss
        self.penalty = penalty
        self.balance = balance
        self.contrastive = contrastive
        self.threshold = threshold
        self.reduce = reduce
        self.epochs = epochs
        self.batch_size = batch_size
        self.learning_rate = learning_rate
        self.random_state = random_state
        self.memory = memory

    def fit(self, x: Any, y: Any = None, **options: Any) -> Self:
        """Find the pieces of (n, d) points.

        Parameters
        ----------
        x : array-like, path or source
            (n, d) points.
        y : array-like, optional
            (n,) the group of each point, or (n, 2) its corpus and its label there; read where
            ``contrastive`` is above zero. Rows of equal ``y`` are one group, so labels of several
            corpora must come with their corpus: see :func:`lowdim.structure.experts.group_ids`.
        **options
            ``progress``, ``out`` and ``resume``, see :class:`~lowdim.structure.base.PieceFinder`.
        """
        self._groups = _groups(y) if self.contrastive else None
        return super().fit(x, **options)

    def fit_predict(self, x: Any, y: Any = None, **options: Any) -> Any:
        """Fit, and give the piece of each point."""
        return self.fit(x, y, **options).labels_

    def _fit(self, source: Source, job: Job) -> Strata:
        self._check(source)
        groups = self._groups
        mark = "" if groups is None else hashlib.sha256(groups.numpy().tobytes()).hexdigest()[:16]
        self._build(job.pieces.tensors("start", partial(self._first, source)))
        net = self._network
        adam = torch.optim.Adam(net.parameters(), lr=self.learning_rate)
        self.history_, advance = [], job.progress.task("experts")
        for epoch in range(self.epochs):
            train = partial(self._epoch, net, adam, source, groups, epoch, advance)
            state = job.pieces.tensors(f"epoch {epoch} {mark}", train)
            _load(net, adam, state)
            loss, self.noise_ = state["loss, noise"].tolist()
            self.history_.append(loss)
            advance((epoch + 1) * source.n, self.epochs * source.n)
        self.dictionaries_ = net.experts.dictionaries.detach()
        self.keys_ = net.gate.keys.detach()
        return self._strata(source)

    def _check(self, source: Source) -> None:
        for name, known in (("encoder", ("lista", "omp")), ("loss", ("mixture", "gated"))):
            if getattr(self, name) not in known:
                given = getattr(self, name)
                raise InputError(f"{name}={given!r}: choose from {', '.join(known)}")
        for name in ("query_dim", "n_layers", "epochs", "batch_size"):
            if not isinstance(getattr(self, name), int) or getattr(self, name) < 1:
                raise InputError(f"{name}={getattr(self, name)!r}: give an integer from 1")
        for name in ("balance", "contrastive", "threshold", "learning_rate"):
            if not getattr(self, name) >= 0:
                raise InputError(f"{name}={getattr(self, name)!r}: give a number from 0")
        if self._groups is not None and len(self._groups) != source.n:
            raise InputError(f"y holds {len(self._groups)} groups for {source.n} points")

    def _first(self, source: Source) -> Tensors:
        """The start: what points are reduced to, and dictionaries and gate of a sample."""
        self._fit_chart(source)
        atoms, sparsity, weight, offset, noise = self._start(source)
        return {
            "center": self.chart_.center, "basis": self.chart_.basis, "atoms": atoms,
            "weight": weight, "offset": offset, "sparsity": torch.tensor(sparsity),
            "scales": torch.tensor([self.scale_, noise], dtype=torch.float64),
        }  # fmt: skip

    def _build(self, start: Tensors) -> None:
        weight = start["weight"]
        self.chart_ = Subspace(start["basis"], start["center"])
        self.scale_, self.noise_ = start["scales"].tolist()
        self.sparsity_ = tuple(start["sparsity"].tolist())
        step = weight.new_ones(self.n_atoms)
        step[self.chart_.rank :] = ASLEEP  # the atoms before are orthonormal
        experts = Experts(start["atoms"], self.sparsity_, self.n_layers, step)
        if self.encoder == "omp":
            experts.analysis.requires_grad_(False)
            experts.mixing.requires_grad_(False)
        gate = Gate(weight, start["offset"], self.query_dim, self.random_state)
        head = Head(self.n_atoms, self.random_state).to(weight).requires_grad_(self.contrastive > 0)
        self._network = Network(experts, gate, head)

    def _epoch(
        self, net: Network, adam: torch.optim.Adam, source: Source, groups: Tensor | None,
        epoch: int, advance: Advance,
    ) -> Tensors:  # fmt: skip
        """One pass over all points: the parameters and the state of Adam after it."""
        for group in adam.param_groups:
            group["lr"] = self.learning_rate * (1 + math.cos(math.pi * epoch / self.epochs)) / 2
        parts = shards(source, SHARD)
        firsts = np.cumsum([0] + [part.n for part in parts])
        total, noise, done = 0.0, 0.0, epoch * source.n
        for i in permutation(len(parts), self.random_state, stream=2 * epoch).tolist():
            x = parts[i].read(self.memory)
            order = permutation(len(x), self.random_state + i, stream=2 * epoch + 1)
            for rows in order.split(self.batch_size):
                batch = self._reduced(x[rows.to(x.device)])
                own = None if groups is None else groups[firsts[i] + rows].to(batch.device)
                adam.zero_grad()
                loss, seen = self._loss(net, batch, own)
                loss.backward()
                adam.step()
                total += float(loss.detach()) * len(rows) / source.n
                noise += seen * len(rows) / source.n
                done += len(rows)
                advance(done, self.epochs * source.n)
        figures = torch.tensor([total, noise], dtype=torch.float64)
        return _state(net, adam) | {"loss, noise": figures}

    def _loss(self, net: Network, x: Tensor, groups: Tensor | None) -> tuple[Tensor, float]:
        """The loss of a batch of reduced points, and the noise seen in it."""
        log_gates, dictionaries = net.gate(x), net.experts.dictionaries
        codes = self._encode(net, x)  # (K, b, m)
        errors = squared_errors(x, codes, dictionaries)  # (b, K)
        gates = log_gates.exp()
        if self.loss == "mixture":
            joint = self._log_joint(log_gates, errors)
            shares, loss = joint.detach().softmax(1), -joint.logsumexp(1).mean()
        else:
            rebuilt = blend(gates, codes) @ dictionaries.mT.flatten(0, 1)  # (b, K m) @ (K m, r)
            shares, loss = gates.detach(), 0.5 * (rebuilt - x).square().sum(1).mean()
        if self.balance:
            loss = loss + self.balance * (self.n_pieces * gates.mean(0).square().sum() - 1)
        if groups is not None:
            chosen = choose(gates, self.sparsity_, self.threshold)
            embedding = net.head((chosen.T[..., None] * codes).sum(0))  # (b, m) -> (b, 64)
            loss = loss + self.contrastive * contrast(embedding, groups)
        return loss, noise_of(errors.detach(), shares, x.shape[1], self.sparsity_)

    def _encode(self, net: Network, x: Tensor) -> Tensor:
        if self.encoder == "lista":
            return net.experts(x)
        return pursue(x, net.experts.dictionaries.detach(), self.sparsity_, self.memory)

    def _shares(self, x: Tensor, codes: Tensor) -> Tensor:
        return self._log_gates(x).exp() if self.loss == "gated" else super()._shares(x, codes)

    @torch.no_grad()
    def _log_gates(self, x: Tensor) -> Tensor:
        return self._network.gate(x)

    @torch.no_grad()
    def _codes(self, x: Tensor) -> Tensor:
        return self._encode(self._network, x)


class Network(nn.Module):
    """All that is learned."""

    def __init__(self, experts: Experts, gate: Gate, head: Head) -> None:
        super().__init__()
        self.experts = experts
        self.gate = gate
        self.head = head


def _state(net: nn.Module, adam: torch.optim.Adam) -> Tensors:
    """Copies of the parameters and of what Adam keeps of each."""
    state = {f"net.{name}": p.detach().clone() for name, p in net.named_parameters()}
    for name, p in net.named_parameters():
        state |= {f"adam.{name}.{key}": v.clone() for key, v in adam.state.get(p, {}).items()}
    return state


def _load(net: nn.Module, adam: torch.optim.Adam, state: Tensors) -> None:
    """Put back what :func:`_state` took."""
    for name, p in net.named_parameters():
        p.data.copy_(state[f"net.{name}"])
        mark = f"adam.{name}."
        kept = {k.removeprefix(mark): v.clone() for k, v in state.items() if k.startswith(mark)}
        if kept:
            adam.state[p] = kept


def _groups(y: Any) -> Tensor:
    """(n,) numbers of the groups, from ids or from pairs."""
    if y is None:
        raise InputError("contrastive learning needs groups: give fit(x, y), one a point")
    try:
        ids = np.asarray(y)
    except ValueError:  # ragged
        ids = np.empty((0, 0, 0))
    if ids.ndim == 2 and ids.shape[1] == 2:
        ids = group_ids(ids[:, 1], ids[:, 0])
    if ids.ndim != 1:
        raise InputError(
            "y: give one group for each point, or its corpus and its label; label 0 of one corpus "
            "is not label 0 of another, so join corpora by group_ids(labels, corpora)"
        )
    return torch.from_numpy(np.unique(ids, return_inverse=True)[1].reshape(-1))
