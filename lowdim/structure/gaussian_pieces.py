"""How `KSubspaces` and `LowRankMixture` are fitted: many starts on a sample, then passes over all.

A start draws K seeds, each in proportion to its squared distance from the pieces drawn before, as
k-means++ draws centres (Arthur and Vassilvitskii 2007), and makes a piece of the seed's neighbours:
the points of the smallest angle to it, since lengths say nothing of the piece that a point is on.
The size of the neighbourhood changes from start to start; its dimension is chosen by BIC, and where
ranks are given the largest goes to the piece of most dimensions. Each start descends on the sample;
the best goes on with passes over all points, which are read chunk by chunk and leave only K second
moments behind.
"""

from __future__ import annotations

import math
from abc import abstractmethod
from collections.abc import Callable, Iterable, Sequence
from functools import partial

import torch
from torch import Tensor

from lowdim.core.memory import plan
from lowdim.core.pieces import Tensors
from lowdim.core.random import choice
from lowdim.core.shards import Source
from lowdim.core.spectrum import Spectrum
from lowdim.core.strata import Strata
from lowdim.core.subspace import Subspace
from lowdim.errors import InputError
from lowdim.structure.base import Job, PieceFinder
from lowdim.structure.low_rank_gaussians import LowRankGaussians, Scatter
from lowdim.structure.ranks import bic_rank, parameters

NARROW = 128  # leading directions of the sample that the starts see
LEAST = 1e-60  # variance of points that are all equal
EPS = torch.finfo(torch.float64).eps  # a smaller share of a point is lost among the others


class GaussianPieces(PieceFinder):
    """Low-rank Gaussian pieces; a subclass says how they share the points and the noise.

    Attributes
    ----------
    model_ : LowRankGaussians
        The pieces with their variances, noise and shares.
    trace_ : Tensor
        (passes,) what the fit makes small, before each pass over all points.
    """

    def __init__(
        self,
        n_pieces: int,
        *,
        ranks: int | Sequence[int] | None = None,
        center: bool = True,
        n_restarts: int = 10,
        max_iter: int = 100,
        tol: float = 1e-5,
        sample: int = 10_000,
        min_noise: float = 1e-6,
        random_state: int = 0,
        memory: int | float | str | None = None,
    ) -> None:
        self.n_pieces = n_pieces
        self.ranks = ranks
        self.center = center
        self.n_restarts = n_restarts
        self.max_iter = max_iter
        self.tol = tol
        self.sample = sample
        self.min_noise = min_noise
        self.random_state = random_state
        self.memory = memory

    @abstractmethod
    def _shares(self, deviance: Tensor) -> Tensor:
        """(m, K) how points of (m, K) deviance are shared among the pieces."""

    @abstractmethod
    def _cost(self, deviance: Tensor) -> Tensor:
        """(m,) what the fit makes small."""

    @abstractmethod
    def _noise(self, left: Tensor, spare: Tensor, totals: Tensor) -> Tensor:
        """(K,) noise variances from the variance left over in the spare directions of pieces."""

    def _fit(self, source: Source, job: Job) -> Strata:
        self._check(source.dim)
        k, size = self.n_pieces, max(min(source.n, self.sample), self.n_pieces)
        moments = 8 * (k + 3) * source.dim**2
        fixed = moments + 24 * size * source.dim + 16 * k * source.n
        plan(f"{k} pieces", rows=1, bytes_per_row=1, fixed=fixed, memory=self.memory)
        rows = choice(source.n, size, self.random_state).sort().values
        sample = source.take(rows, self.memory).double()

        model = self._best_start(sample, job).to(sample.device, source.dtype)
        advance, trace = job.progress.task("passes over the points"), [math.inf]
        for step in range(self.max_iter):
            make = partial(self._pass, source, model, sample)
            found = job.pieces.tensors(f"pass {step}", make)
            trace.append(float(found.pop("objective")))
            advance(step + 1, self.max_iter)
            if trace[-2] - trace[-1] <= self.tol:
                break
            model = LowRankGaussians.of_tensors(found).to(sample.device, source.dtype)
        self.model_, self.trace_ = model, torch.tensor(trace[1:], dtype=torch.float64)
        shares = [self._shares(model.deviance(chunk)) for chunk in source.chunks(self.memory)]
        return Strata(model.pieces, torch.cat(shares).to(source.dtype))

    def _check(self, dim: int) -> None:
        given = self.ranks if isinstance(self.ranks, Sequence) else [self.ranks]
        ranks = [] if self.ranks is None else given
        if any(not isinstance(r, int) or not 0 <= r <= dim for r in ranks):
            raise InputError(f"ranks={self.ranks!r}: give integers from 0 to {dim}, or None")
        if isinstance(self.ranks, Sequence) and len(ranks) != self.n_pieces:
            raise InputError(f"ranks: give {self.n_pieces}, one a piece, and not {len(ranks)}")
        for name in ("n_restarts", "max_iter", "sample"):
            if not isinstance(value := getattr(self, name), int) or value < 1:
                raise InputError(f"{name}={value!r}: give an integer of at least 1")
        for name in ("tol", "min_noise"):
            if not (value := getattr(self, name)) >= 0:
                raise InputError(f"{name}={value!r}: give a number of at least 0")

    def _best_start(self, sample: Tensor, job: Job) -> LowRankGaussians:
        """Descend from every start in the leading directions of the sample, and lift the best."""
        narrow = sample
        if sample.shape[1] > NARROW:
            leading = Spectrum.of_points(
                sample, center=self.center, vectors=True, method="randomized",
                rank=min(NARROW, len(sample)), seed=self.random_state, memory=self.memory,
            )  # fmt: skip
            assert leading.vectors is not None
            narrow = sample @ leading.vectors  # (n, d) @ (d, 128)
        advance = job.progress.task("starts")
        found = []
        for start in range(self.n_restarts):
            make = partial(self._start, narrow, start)
            found.append(job.pieces.tensors(f"start {start}", make))
            advance(start + 1, self.n_restarts)
        best = min(found, key=lambda tensors: float(tensors["objective"]))
        best.pop("objective")
        model = LowRankGaussians.of_tensors(best).to(sample.device, sample.dtype)
        deviance = model.deviance(narrow)
        scatters = [Scatter(sample.shape[1], sample.device) for _ in range(self.n_pieces)]
        _add_up(scatters, sample, self._shares(deviance))
        self._refill(scatters, sample, lambda: deviance)
        return self._model(scatters)

    def _start(self, x: Tensor, start: int) -> Tensors:
        """One descent on the sample, from pieces of neighbours."""
        generator = torch.Generator().manual_seed(self.random_state)
        generator.manual_seed(int(torch.randint(2**62, (start + 1,), generator=generator)[-1]))
        size = len(x) // (self.n_pieces * 2 ** (1 + start % 4))
        middle = x.mean(0) if self.center else torch.zeros_like(x[0])
        far = (x - middle).square().sum(1)
        scatters: list[Scatter] = []
        dims: list[int] = []
        for k in range(self.n_pieces):
            seed = int(torch.multinomial(far.cpu() + LEAST, 1, generator=generator))
            scatters.append(self._around(x, seed, size))
            values, vectors, middle = scatters[k].energies(self.center)
            dims.append(bic_rank(values.cpu(), round(scatters[k].total), len(values)))
            to_piece = Subspace(vectors[:, : dims[k]], middle).residual(x)
            far = torch.minimum(far, to_piece) if k else to_piece
        if isinstance(self.ranks, Sequence):  # the piece of most dimensions to the largest rank
            by_dim = torch.tensor(dims).argsort(stable=True)
            place = torch.tensor(list(self.ranks)).argsort(stable=True).argsort()
            scatters = [scatters[k] for k in by_dim[place].tolist()]
        model, last = self._model(scatters), math.inf
        for _ in range(self.max_iter):
            better, objective = self._step([x], model, x)
            if last - objective <= self.tol:
                break
            model, last = better, objective
        return {**model.tensors(), "objective": torch.tensor(objective, dtype=torch.float64)}

    def _pass(self, source: Source, model: LowRankGaussians, sample: Tensor) -> Tensors:
        better, objective = self._step(source.chunks(self.memory), model, sample)
        kept = better.to(sample.device, source.dtype).tensors()
        return {**kept, "objective": torch.tensor(objective, dtype=torch.float64)}

    def _step(
        self, chunks: Iterable[Tensor], model: LowRankGaussians, sample: Tensor
    ) -> tuple[LowRankGaussians, float]:
        """The pieces that fit best how all points are shared now, and the objective before."""
        cost, n, dim = 0.0, 0, model.pieces[0].dim
        scatters = [Scatter(dim, sample.device) for _ in model.pieces]
        for chunk in chunks:
            deviance = model.deviance(chunk)
            cost, n = cost + float(self._cost(deviance).sum()), n + len(chunk)
            _add_up(scatters, chunk, self._shares(deviance))
        self._refill(scatters, sample, lambda: model.deviance(sample))
        objective = cost / n
        if self.ranks is None:
            numbers = sum(parameters(p.rank, dim) for p in model.pieces)
            objective += float(numbers) * math.log(n) / n
        return self._model(scatters), objective

    def _refill(self, scatters: list[Scatter], x: Tensor, deviance: Callable[[], Tensor]) -> None:
        """A piece without points starts anew around the point that is explained worst."""
        if empty := [k for k, scatter in enumerate(scatters) if scatter.total < 1]:
            size = len(x) // (4 * self.n_pieces)
            worst = self._cost(deviance()).argsort(descending=True)
            for i, k in enumerate(empty):
                scatters[k] = self._around(x, int(worst[i * size % len(x)]), size)

    def _around(self, x: Tensor, seed: int, size: int) -> Scatter:
        """The points of smallest angle to one of them."""
        middle = x.mean(0) if self.center else torch.zeros_like(x[0])
        directions = torch.nn.functional.normalize(x - middle)
        cosines = directions @ directions[seed]  # (n, d) @ (d,)
        cosines = cosines if self.center else cosines.abs()
        near = cosines.topk(min(len(x), max(size, 8))).indices
        scatter = Scatter(x.shape[1], x.device)
        scatter.update(x[near], x.new_ones(len(near)))
        return scatter

    def _model(self, scatters: Sequence[Scatter]) -> LowRankGaussians:
        """Most likely pieces of these moments; ranks by BIC where none are given."""
        dim, device = len(scatters[0].mean), scatters[0].mean.device
        spectra = [s.energies(self.center) for s in scatters]
        totals = torch.tensor([s.total for s in scatters], dtype=torch.float64, device=device)
        ranks = [self._rank(k, values, scatters[k].total) for k, (values, *_) in enumerate(spectra)]
        table = torch.stack([values for values, *_ in spectra])  # (K, d)
        floor = self.min_noise * float(totals @ table.mean(1) / totals.sum()) + LEAST
        kept = (torch.arange(dim) < torch.tensor(ranks)[:, None]).to(device)
        while True:  # a direction no wider than the noise is noise
            spare = (~kept).sum(1)
            noise = self._noise(torch.where(kept, 0.0, table).sum(1), spare, totals)
            noise = noise.clamp_min(floor)
            if bool(((table >= noise[:, None]) | ~kept).all()):
                break
            kept &= table >= noise[:, None]
        pieces = tuple(
            Subspace(vectors[:, :rank], middle, values[:rank].clamp_min(least))
            for (values, vectors, middle), rank, least in zip(spectra, ranks, noise, strict=True)
        )
        return LowRankGaussians(pieces, noise, totals / totals.sum())

    def _rank(self, k: int, values: Tensor, total: float) -> int:
        """The dimension of piece k: what was asked for, as far as it has any, or by BIC."""
        if self.ranks is None:
            return bic_rank(values.cpu(), max(1, round(total)), len(values))
        wanted = self.ranks if isinstance(self.ranks, int) else self.ranks[k]
        return min(wanted, int((values > 0).sum()))

    def _gates(self, x: Tensor) -> Tensor:
        return self._shares(self.model_.deviance(x)).to(x.dtype)

    def _reconstruct(self, x: Tensor) -> Tensor:
        return self.model_.project(x, self._gates(x))


def _add_up(scatters: Sequence[Scatter], x: Tensor, shares: Tensor) -> None:
    """Let each piece take in its share of the points."""
    for scatter, share in zip(scatters, shares.T, strict=True):
        on = share > EPS
        if bool(on.any()):
            scatter.update(x[on], share[on])
