"""Pieces with a dictionary each: what the sparse mixture and its reference without a network share.

A point x, brought to its leading principal directions and to mean squared length one, has under
piece k the code z_k of s_k atoms and the squared error |x - D_k z_k|^2. It belongs to the pieces in
proportion to

    gate_k(x) exp(-|x - D_k z_k|^2 / 2 sigma^2) (s_k sigma^2)^(s_k / 2)

(see :func:`lowdim.structure.experts.log_joint`). The reference fit alternates matching pursuit,
assignment by this, least-squares dictionaries (MOD, Engan, Aase and Husoy 1999), and a gate by
logistic regression.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np
import torch
from sklearn.linear_model import LogisticRegression
from torch import Tensor
from torch.nn.functional import log_softmax, normalize, one_hot

from lowdim.core.linalg import eigh_psd
from lowdim.core.memory import plan
from lowdim.core.moments import Moments
from lowdim.core.random import choice, normal
from lowdim.core.shards import Source, shards
from lowdim.core.spectrum import Spectrum
from lowdim.core.strata import Strata
from lowdim.core.subspace import Subspace
from lowdim.errors import InputError
from lowdim.registry import method, pieces
from lowdim.structure.base import Job, PieceFinder
from lowdim.structure.experts import blend, log_joint, noise_of, pursue, squared_errors
from lowdim.structure.k_subspaces import KSubspaces
from lowdim.structure.ranks import bic_rank

ROWS = 1024
"""Rows coded at once: what the layers of the encoders hold of them stays in the cache."""

SHARD = 2**15
"""Rows read at once, whatever the memory, so that it does not change the result."""

SAMPLE, FIRST = 2**13, 2000
"""Points that the start is made from, and those among them that K-subspaces starts from."""


class State(NamedTuple):
    """Dictionaries, a linear gate among them, and the noise."""

    atoms: Tensor  # (K, d, m) unit columns
    sparsity: tuple[int, ...]
    weight: Tensor  # (K, d) of the linear gate
    offset: Tensor  # (K,)
    noise: float


class DictionaryFinder(PieceFinder):
    """Finds pieces with a dictionary each; a subclass learns them, and has a gate and an encoder.

    Attributes
    ----------
    chart_ : Subspace
        The principal directions that points are reduced to.
    scale_ : float
        Root mean square length of the reduced points, by which they are divided.
    dictionaries_ : Tensor
        (K, r, m) unit atoms in the reduced coordinates.
    sparsity_ : tuple of int
        s_k.
    noise_ : float
        sigma^2, the variance of the noise in a reduced and scaled coordinate.
    history_ : list of float
        The mean loss after each round or epoch.
    """

    sparsity: int | Sequence[int] | None
    n_atoms: int
    penalty: float
    reduce: int | None
    random_state: int
    memory: int | float | str | None
    chart_: Subspace
    scale_: float
    dictionaries_: Tensor
    sparsity_: tuple[int, ...]
    noise_: float
    history_: list[float]

    def attention(self, x: Any) -> Any:
        """(m, K) shares by the gate alone, before the experts compete."""
        return self._each(x, lambda block: self._log_gates(self._reduced(block)).exp())

    @abstractmethod
    def _log_gates(self, x: Tensor) -> Tensor:
        """(n, K) log of the gate's shares of reduced points."""

    @abstractmethod
    def _codes(self, x: Tensor) -> Tensor:
        """(K, n, m) codes of reduced points."""

    def _shares(self, x: Tensor, codes: Tensor) -> Tensor:
        """(n, K) what each reduced point has of each piece: here the posterior."""
        errors = squared_errors(x, codes, self.dictionaries_)
        return self._log_joint(self._log_gates(x), errors).softmax(1)

    def _log_joint(self, log_gates: Tensor, errors: Tensor) -> Tensor:
        return log_joint(
            log_gates, errors, self.chart_.rank, self.sparsity_, self.noise_, self.penalty
        )

    def _gates(self, x: Tensor) -> Tensor:
        x = self._reduced(x)
        return self._shares(x, self._codes(x))

    def _transform(self, x: Tensor) -> Tensor:
        x = self._reduced(x)
        codes = self._codes(x)  # (K, n, m)
        return blend(self._shares(x, codes), codes)

    def _reconstruct(self, x: Tensor) -> Tensor:
        stacked = self.dictionaries_.mT.flatten(0, 1)  # (K m, r)
        return self.chart_.reconstruct(self.scale_ * (self._transform(x) @ stacked))

    def _reduced(self, x: Tensor) -> Tensor:
        return self.chart_.project(x) / self.scale_

    def _blocks(self, x: Any) -> Iterator[Tensor]:
        for block in super()._blocks(x):
            yield from block.split(ROWS)

    def _fit_chart(self, source: Source) -> None:
        if self.reduce is not None and not (isinstance(self.reduce, int) and self.reduce >= 1):
            raise InputError(f"reduce={self.reduce!r}: give a number of columns, or None for all")
        if not isinstance(self.n_atoms, int) or self.n_atoms < 1:
            raise InputError(f"n_atoms={self.n_atoms!r}: give an integer from 1")
        if not self.penalty >= 0:
            raise InputError(f"penalty={self.penalty!r}: give a number from 0")
        held = source.n * self.n_pieces + SHARD * source.dim * 2
        held = held * source.dtype.itemsize + 16 * self.n_pieces * source.dim**2
        plan("dictionary pieces", rows=1, bytes_per_row=held, memory=self.memory)
        spectrum = Spectrum.of_points(source, vectors=True, memory=self.memory)
        held_energy = int((spectrum.values > 0).sum())
        if not held_energy:
            raise InputError("all points are equal: there are no pieces to find")
        rank = min(self.reduce or source.dim, held_energy)
        self.chart_ = Subspace.of_spectrum(spectrum, rank=rank).to(source.dtype)
        self.scale_ = float(spectrum.values[:rank].sum().sqrt())

    def _start(self, source: Source) -> State:
        """Atoms, sparsity and gate from K-subspaces of a sample."""
        k, m = self.n_pieces, self.n_atoms
        rows = choice(source.n, min(source.n, SAMPLE), self.random_state).sort().values
        x = self._reduced(source.take(rows, self.memory))  # (n', r)
        flat = KSubspaces(k, sample=FIRST, random_state=self.random_state).fit(x.cpu())
        labels, r = flat.strata_.labels.to(x.device), x.shape[1]
        bases, dims = [], []
        for j in range(k):
            own = x[labels == j].double()
            values, vectors = eigh_psd(own.T @ own / max(len(own), 1))  # about the origin
            more = normal((r, max(m - r, 0)), self.random_state, stream=j, device=x.device)
            bases.append(torch.cat([vectors[:, :m].to(x), normalize(more.to(x), dim=0)], 1))
            dims.append(bic_rank(values.cpu(), len(own), r) if len(own) else 1)
        sparsity = self._sparsity(dims)
        if self.sparsity is not None:  # the piece of the smallest dimension has the fewest atoms
            place = np.argsort(np.argsort(sparsity, kind="stable"), kind="stable")
            order = torch.from_numpy(np.argsort(dims, kind="stable")[place])
            bases = [bases[j] for j in order]
            labels = order.argsort().to(x.device)[labels]
        atoms = torch.stack(bases)  # (K, r, m)
        weight, offset = linear_gate(x, labels, k)
        few, own = x[:ROWS], one_hot(labels[:ROWS], k).to(x)
        errors = squared_errors(few, pursue(few, atoms, sparsity, self.memory), atoms)
        return State(atoms, sparsity, weight, offset, noise_of(errors, own, r, sparsity))

    def _sparsity(self, dims: Sequence[int]) -> tuple[int, ...]:
        k, given = self.n_pieces, self.sparsity
        if given is None:
            return tuple(min(max(dim, 1), self.n_atoms) for dim in dims)
        sparsity = (given,) * k if isinstance(given, int) else tuple(given)
        if len(sparsity) != k or not all(
            isinstance(s, int) and 1 <= s <= self.n_atoms for s in sparsity
        ):
            raise InputError(
                f"sparsity={given!r}: give one integer from 1 to n_atoms={self.n_atoms}, or "
                f"{k}, one a piece"
            )
        return sparsity

    def _strata(self, source: Source) -> Strata:
        """Principal pieces of the points that belong to each most, read a shard at a time."""
        sums = [Moments(source.dim) for _ in range(self.n_pieces)]
        weights = []
        for shard in shards(source, SHARD):
            x = shard.read(self.memory)
            weights.append(torch.cat([self._gates(block) for block in x.split(ROWS)]).cpu())
            labels = weights[-1].argmax(1)
            for k in labels.unique().tolist():
                sums[k].update(x[labels == k])
        return Strata(tuple(self._piece(s) for s in sums), torch.cat(weights))

    def _piece(self, sums: Moments) -> Subspace:
        if not sums.count:  # a single point, in the middle of all
            center = self.chart_.center.cpu()
            return Subspace(center.new_zeros(len(center), 0), center)
        spectrum = Spectrum.of_moments(sums, vectors=True)
        rank = bic_rank(spectrum.values, sums.count, sums.dim)
        rank = min(rank, len(spectrum.values))
        return Subspace.of_spectrum(spectrum, rank=rank).to(self.chart_.basis.dtype)


@method(
    "structure/dictionaries",
    needs=pieces(),
    paper="Engan, Aase and Husoy 1999 (MOD); the alternation is ours",
    cost="O(K n m (d + s^2)) a round, O(n K m) memory",
    oracle="sklearn.linear_model.orthogonal_mp for the codes",
)
class DictionaryPieces(DictionaryFinder):
    """Which of K dictionaries writes each point with few atoms, found without a network?

    Parameters
    ----------
    n_pieces : int
        K.
    sparsity : int or sequence of int, optional
        s_k, the atoms a point uses of one dictionary: for all, or for each piece. By default the
        dimension of the piece that each begins with (at most ``n_atoms``).
    n_atoms : int
        m, atoms of a dictionary.
    penalty : float
        How much an atom in use counts against a piece: 1 is a description length, 0 leaves the
        squared error alone, and then the piece of the most atoms takes what two can explain.
    reduce : int or None
        Principal directions that are kept; None keeps all.
    max_iter : int
        Most rounds; it stops where no point changes its piece.
    random_state : int
        Of the sample and of the start.
    memory : int, float or str, optional
        Budget.

    Attributes
    ----------
    dictionaries_, sparsity_, noise_, chart_, scale_
        See :class:`DictionaryFinder`.
    history_ : list of float
        Mean of minus the log of gate times density, up to a constant, in each round.

    Raises
    ------
    InputError
        NaN or Inf, points that are all equal, a sparsity that does not fit.
    MemoryBudgetError
        The codes of all points under all pieces do not fit.

    Notes
    -----
    It begins with :class:`KSubspaces` of a sample: the atoms of a piece are the principal
    directions of its points about the origin. Then each round codes all points under all pieces,
    assigns them, fits each dictionary by least squares and the gate by logistic regression. The
    round of the best assignment is kept. ``gates`` are the posterior, ``attention`` the gate alone.

    Trust it as the measure of what a network adds, and where several values of ``random_state``
    give the same pieces. With more atoms than dimensions of a piece a dictionary can hold a union
    of pieces as well as one: the pieces are then those of the start.
    """

    def __init__(
        self,
        n_pieces: int = 7,
        *,
        sparsity: int | Sequence[int] | None = None,
        n_atoms: int = 32,
        penalty: float = 1.0,
        reduce: int | None = 64,
        max_iter: int = 10,
        random_state: int = 0,
        memory: int | float | str | None = None,
    ) -> None:
        self.n_pieces = n_pieces
        self.sparsity = sparsity
        self.n_atoms = n_atoms
        self.penalty = penalty
        self.reduce = reduce
        self.max_iter = max_iter
        self.random_state = random_state
        self.memory = memory

    def _fit(self, source: Source, job: Job) -> Strata:
        if not isinstance(self.max_iter, int) or self.max_iter < 1:
            raise InputError(f"max_iter={self.max_iter!r}: give an integer from 1")
        self._fit_chart(source)
        size, k, m = source.dtype.itemsize, self.n_pieces, self.n_atoms
        width = source.dim + 3 * k * (m + self.chart_.rank)
        plan(
            "the codes of all points", rows=1, bytes_per_row=source.n * width * size,
            memory=self.memory,
        )  # fmt: skip
        x = self._reduced(source.read(self.memory))
        state, self.history_ = self._start(source), []
        self.sparsity_ = state.sparsity
        labels = torch.full((len(x),), -1, device=x.device)
        advance, best = job.progress.task("dictionaries"), state
        for done in range(self.max_iter):
            self._use(state)
            codes = self._codes(x)  # (K, n, m)
            errors = squared_errors(x, codes, state.atoms)  # (n, K)
            density, found = self._log_joint(self._log_gates(x), errors).max(1)
            self.history_.append(-float(density.mean()))
            if self.history_[-1] == min(self.history_):
                best = state
            advance(done + 1, self.max_iter)
            if torch.equal(found, labels):
                break
            labels = found
            atoms = [
                least_squares_atoms(x, codes[j], labels == j, state.atoms[j]) for j in range(k)
            ]
            noise = noise_of(errors, one_hot(labels, k).to(x), x.shape[1], self.sparsity_)
            gate = linear_gate(x, labels, k)
            state = State(torch.stack(atoms), self.sparsity_, *gate, noise)
        self._use(best)
        return self._strata(source)

    def _use(self, state: State) -> None:
        self.dictionaries_, _, self._weight, self._offset, self.noise_ = state

    def _log_gates(self, x: Tensor) -> Tensor:
        return log_softmax(x @ self._weight.T + self._offset, 1)

    def _codes(self, x: Tensor) -> Tensor:
        return pursue(x, self.dictionaries_, self.sparsity_, self.memory)


def least_squares_atoms(x: Tensor, codes: Tensor, own: Tensor, atoms: Tensor) -> Tensor:
    """(d, m) unit atoms that fit the piece's own points to their codes; unused ones stay."""
    z = codes[own]  # (n_k, m)
    used = (z != 0).any(0)
    if not bool(used.any()):
        return atoms
    fitted = torch.linalg.lstsq(z[:, used].cpu(), x[own].cpu(), driver="gelsd").solution.T.to(x)
    found = atoms.clone()
    alive = torch.linalg.vector_norm(fitted, dim=0) > 0
    found[:, used.nonzero()[alive, 0]] = normalize(fitted[:, alive], dim=0)
    return found


def linear_gate(x: Tensor, labels: Tensor, k: int) -> tuple[Tensor, Tensor]:
    """(K, d) weights and (K,) offsets of a logistic regression of the labels.

    A label without points has a share of about 1 / (n + 1); a label alone has all.
    """
    present = labels.unique().tolist()
    weight = x.new_zeros(k, x.shape[1])
    offset = x.new_full((k,), -float(np.log(len(x) + 1)))
    if len(present) == 1:
        offset[present] = 0
        return weight, offset
    model = LogisticRegression(max_iter=1000).fit(x.numpy(force=True), labels.numpy(force=True))
    coefficients, intercepts = model.coef_, model.intercept_
    if len(present) == 2:  # scikit-learn keeps the difference of the two
        coefficients = np.concatenate([-coefficients, coefficients]) / 2
        intercepts = np.concatenate([-intercepts, intercepts]) / 2
    weight[present] = torch.as_tensor(coefficients).to(x)
    offset[present] = torch.as_tensor(intercepts).to(x)
    return weight, offset
