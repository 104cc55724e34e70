"""How many nats a point does each model of the data need on points it has not seen?

A density is a code: minus its logarithm is the length, in nats, of a point written to a fixed fine
resolution, and on held-out points a length can be compared between models of any kind, since what
a model has too much it pays for. Four kinds are compared, as near to one number of parameters as
their ranks allow:

* **pieces**: a mixture of probabilistic PCA (Tipping and Bishop 1999), one component a piece of
  `Strata`, each with its own rank, noise and share;
* **one subspace**: the same with one piece, at the rank of equal parameter count;
* **one dictionary**: sparse sums of shared atoms, learnt by alternating matching pursuit and least
  squares (Engan et al. 1999). A point is coded in two parts, which atoms and then where: the
  logarithm of the number of supports of at most s atoms for the one that matching pursuit finds,
  and the normal density of D_S a + noise with independent normal coefficients a. It bounds the
  length under the sum over all supports from above;
* **one Gaussian**: all directions, its covariance shrunk to the sphere (Ledoit and Wolf 2004),
  and the same ellipsoid with heavier tails (Student's t).

Noise-free points have densities without bound, so every variance is kept above ``resolution``
squared of the mean variance of a column: lengths are those of points rounded to about that. And
every model may escape, at odds of 1 to n, to one wide round Student's t: else a single point off a
direction that never varied in training would outweigh all others.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from sklearn.covariance import ledoit_wolf
from torch import Tensor

from lowdim.core.points import as_points
from lowdim.core.random import choice
from lowdim.core.spectrum import Spectrum
from lowdim.core.strata import Strata
from lowdim.errors import InputError
from lowdim.structure.omp import SparseCodes, omp
from lowdim.structure.ranks import bic_rank, parameters

RESOLUTION = 1e-3
ROUNDS = 8  # of the dictionary: four times as many gain 3% with few atoms, and overfit with many
DEGREES = (3.0, 4.0, 6.0, 10.0, 20.0, 50.0)  # of Student's t


@dataclass(frozen=True, eq=False)
class Code:
    """What one model needs for the held-out points.

    Attributes
    ----------
    parameters : int
        Its free numbers.
    nats : Tensor
        (m,) float64, minus the logarithm of its density at each held-out point.
    """

    parameters: int
    nats: Tensor

    @property
    def mean(self) -> float:
        """Nats a point."""
        return float(self.nats.mean())


@dataclass(frozen=True, eq=False)
class HeldOut:
    """Codes by the name of their model; ``pieces`` is among them.

    Attributes
    ----------
    codes : mapping of str to Code
        ``pieces``, ``one piece`` (rank by the Bayesian information criterion), ``one subspace``
        (rank of equal parameter count), ``one dictionary``, ``one Gaussian``, ``one Student``.
    """

    codes: Mapping[str, Code]

    def gain(self, name: str) -> tuple[float, float]:
        """Nats a point that the pieces save against a model, and its standard error (paired)."""
        return paired(self.codes[name].nats, self.codes["pieces"].nats)


def paired(theirs: Tensor, ours: Tensor) -> tuple[float, float]:
    """Mean difference of two codes of the same points, and its standard error."""
    saved = theirs - ours
    return float(saved.mean()), float(saved.std()) / math.sqrt(len(saved))


def held_out(
    strata: Strata, train: Any, test: Any, *, resolution: float = RESOLUTION, random_state: int = 0
) -> HeldOut:
    """Code points by K pieces, and by single models with about as many parameters.

    Parameters
    ----------
    strata : Strata
        Pieces found on ``train``, its weights those of the rows of ``train``.
    train, test : array-like
        (n, d) and (m, d) points; nothing is fitted to ``test``.
    resolution : float
        Of the code, in root mean squares of a column.
    random_state : int
        Chooses the rows that the dictionary starts from.

    Raises
    ------
    InputError
        NaN or Inf, columns or rows that do not match, equal points only, fewer than 4 points.

    Notes
    -----
    Cost O(n d^2) and, for the dictionary, 8 times matching pursuit of ``train``. Points are read in
    float64. Where the equal count asks for a rank above what n points carry, (n - 1) // 2, that is
    the rank taken; ``Code.parameters`` states what each has.
    """
    train, test = as_points(train, min_rows=4).double(), as_points(test, name="test").double()
    n, d = train.shape
    floor = noise_floor(train, resolution)
    count = piece_parameters(strata)
    spectrum = Spectrum.of_points(train, vectors=True)
    ranks = range(min(d - 1, (n - 1) // 2) + 1)
    equal = max((q for q in ranks if parameters(q, d) <= count), default=0)
    shares = strata.sizes / len(strata.weights)
    sparsity = max(1, round(float(shares @ shares.new_tensor(strata.dims))))
    codes = {"pieces": Code(count, strata_nats(strata, train, test, floor=floor))}
    for name, rank in (("one piece", bic_rank(spectrum.values, n, d)), ("one subspace", equal)):
        one = Strata.of_labels(train, torch.zeros(n, dtype=torch.int64), rank=rank)
        codes[name] = Code(piece_parameters(one), strata_nats(one, train, test, floor=floor))
    atoms = max(1, min((count - d) // d, n // 2))
    codes["one dictionary"] = _dictionary_code(train, test, atoms, sparsity, floor, random_state)
    codes["one Gaussian"], codes["one Student"] = _elliptical_codes(train, test, floor)
    return HeldOut(codes)


def noise_floor(train: Tensor, resolution: float = RESOLUTION) -> float:
    """Smallest variance that a model may have: ``resolution`` squared of a column's, on average."""
    if not 0 < resolution < 1:
        raise InputError(f"resolution={resolution!r}: give a share of the spread, in (0, 1)")
    variance = float(train.double().var(0, correction=0).mean())
    if not variance > 0:
        raise InputError("all rows are the same: there is nothing to describe")
    return resolution**2 * variance


def piece_parameters(strata: Strata) -> int:
    """Free numbers of a mixture of probabilistic PCA: those of its pieces, and their shares."""
    used = (strata.sizes > 0).tolist()
    counts = [parameters(p.rank, p.dim) for p, u in zip(strata.pieces, used, strict=True) if u]
    return int(sum(counts)) + len(counts) - 1


def strata_nats(strata: Strata, train: Tensor, test: Tensor, *, floor: float) -> Tensor:
    """(m,) nats of each test point under the mixture of the pieces, with the escape.

    See :func:`strata_logs` for the densities.
    """
    return _escaped(-strata_logs(strata, train, test, floor=floor).logsumexp(1), train, test)


def _escaped(nats: Tensor, train: Tensor, test: Tensor) -> Tensor:
    """Nats of a model that gives way, once in n + 1 points, to a wide round Student's t."""
    (n, d), mean = train.shape, train.mean(0)
    variance = float((train - mean).square().mean())
    lengths = (test - mean).square().sum(1) / variance
    wide = _student(lengths, d, DEGREES[0], 1.0) + d / 2 * math.log(variance)
    return -torch.logaddexp(math.log(n) - nats, -wide) + math.log(n + 1)


def strata_logs(strata: Strata, train: Tensor, test: Tensor, *, floor: float) -> Tensor:
    """(m, K) log of share times density of each piece at each test point; -inf without points.

    Directions and centres are those of the pieces; variances along and across them, and the
    shares, are those of the (n, d) points in ``train``, weighed by ``strata.weights``.
    """
    if len(strata.weights) != len(train):
        raise InputError(f"{len(strata.weights)} rows of weights for {len(train)} points")
    logs = train.new_full((len(test), len(strata.pieces)), -math.inf)
    for k, piece in enumerate(strata.pieces):
        weight = strata.weights[:, k].to(train.dtype)
        size = float(weight.sum())
        if size == 0:
            continue
        piece = piece.to(train.dtype)
        d, r = piece.dim, piece.rank
        z = piece.project(train)
        moment = (z * weight[:, None]).T @ z / max(size - 1, 1)  # (r, n) @ (n, r)
        values, turn = torch.linalg.eigh(moment)
        values = values.clamp_min(floor)
        nats = d * math.log(2 * math.pi) + values.log().sum()
        nats = nats + ((piece.project(test) @ turn).square() / values).sum(1)
        if r < d:
            free = max(size - r - 1, 1)  # points that the centre and the directions leave
            noise = max(float(weight @ piece.residual(train)) / (free * (d - r)), floor)
            nats = nats + (d - r) * math.log(noise) + piece.residual(test) / noise
        logs[:, k] = math.log(size / len(train)) - nats / 2
    return logs


def _elliptical_codes(train: Tensor, test: Tensor, floor: float) -> tuple[Code, Code]:
    """A normal distribution of shrunk covariance, and Student's t of the same shape."""
    d = train.shape[1]
    covariance, _ = ledoit_wolf(train.numpy(force=True))  # (d, d)
    values, vectors = torch.linalg.eigh(torch.from_numpy(covariance).to(train))
    values = values.clamp_min(floor)
    mean = train.mean(0)
    seen, new = (
        ((x - mean) @ vectors).square().div(values).sum(1) for x in (train, test)
    )  # squared Mahalanobis lengths
    volume = values.log().sum()
    normal = (d * math.log(2 * math.pi) + volume + new) / 2
    scales = {nu: _scale(seen, d, nu) for nu in DEGREES}
    nu = min(DEGREES, key=lambda nu: float(_student(seen, d, nu, scales[nu]).mean()))
    heavy = _student(new, d, nu, scales[nu]) + volume / 2
    count = d + d * (d + 1) // 2
    codes = [_escaped(nats, train, test) for nats in (normal, heavy)]
    return Code(count, codes[0]), Code(count + 2, codes[1])


def _scale(lengths: Tensor, d: int, nu: float) -> float:
    """Scale of Student's t by expectation and maximisation, from squared lengths of scale one."""
    scale = 1.0
    for _ in range(20):
        scale = float(((nu + d) / (nu + lengths / scale) * lengths).mean()) / d
    return scale


def _student(lengths: Tensor, d: int, nu: float, scale: float) -> Tensor:
    """Minus the log-density of a d-dimensional t at squared lengths, shape of determinant one."""
    constant = math.lgamma(nu / 2) - math.lgamma((nu + d) / 2)
    constant += d / 2 * math.log(nu * math.pi * scale)
    return constant + (nu + d) / 2 * torch.log1p(lengths / (nu * scale))


def _dictionary_code(
    train: Tensor, test: Tensor, atoms: int, sparsity: int, floor: float, seed: int
) -> Code:
    """Nats of a support, then of the point given its support."""
    (n, d), mean = train.shape, train.mean(0)
    sparsity = min(sparsity, atoms, d)
    x, new = train - mean, test - mean
    dictionary, codes = _learn(x, atoms, sparsity, seed)
    used = torch.zeros(atoms, dtype=x.dtype)
    energy = used.scatter_add(0, codes.index.flatten(), codes.values.flatten().square())
    times = used.scatter_add(0, codes.index.flatten(), (codes.values != 0).double().flatten())
    variance = (energy / times.clamp_min(1)).clamp_min(floor)  # (m,) of a coefficient in use
    left = (x - codes.decode(dictionary)).square().sum() / n
    noise = max(float(left) / max(d - sparsity, 1), floor)
    # the point given its support is normal with covariance noise I + D_S V D_S'
    support = omp(new, dictionary, sparsity)
    index, live = support.index, support.values != 0
    both = live[:, :, None] & live[:, None]  # (m, s, s): a slot not in use is a column of zeros
    inner = (dictionary.T @ dictionary)[index[:, :, None], index[:, None]] * both
    inner = inner + noise * torch.diag_embed(1 / variance[index])
    factor = torch.linalg.cholesky(inner)
    along = (new @ dictionary).gather(1, index) * live  # (m, s)
    along = torch.linalg.solve_triangular(factor, along[:, :, None], upper=False)
    quadratic = (new.square().sum(1) - along.square().sum((1, 2))) / noise
    volume = (d - sparsity) * math.log(noise) + variance[index].log().sum(1)
    volume = volume + 2 * factor.diagonal(dim1=1, dim2=2).log().sum(1)
    which = math.log(sum(math.comb(atoms, j) for j in range(sparsity + 1)))
    nats = which + (d * math.log(2 * math.pi) + volume + quadratic) / 2
    nats = _escaped(nats, train, test)
    return Code(d + atoms * d + 1, nats)  # atoms of length one, each with a variance


def _learn(x: Tensor, atoms: int, sparsity: int, seed: int) -> tuple[Tensor, SparseCodes]:
    """Atoms by the method of optimal directions, from random rows; unused ones take a bad row."""
    alive = x[x.square().sum(1) > 0]
    start = alive[choice(len(alive), min(atoms, len(alive)), seed).to(alive.device)]
    dictionary = torch.nn.functional.normalize(start).T  # (d, m)
    for _ in range(ROUNDS):
        codes = omp(x, dictionary, sparsity)
        dense = codes.dense(dictionary.shape[1])  # (n, m)
        left = (x - codes.decode(dictionary)).square().sum(1)
        gram = dense.T @ dense
        gram = gram + 1e-9 * gram.trace() / len(gram) * torch.eye(len(gram)).to(gram)
        dictionary = torch.linalg.solve(gram, dense.T @ x).T  # (d, m)
        length = dictionary.norm(dim=0)
        idle = (length <= 1e-9 * length.max()).nonzero()[:, 0]
        worst = left.argsort(descending=True)[: len(idle)]
        dictionary[:, idle] = x[worst].T
        dictionary = torch.nn.functional.normalize(dictionary, dim=0)
    return dictionary, omp(x, dictionary, sparsity)
