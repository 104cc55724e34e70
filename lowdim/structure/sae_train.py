"""Train a sparse autoencoder on points that need not fit in memory, and say how good it is.

Adam on batches; the decoder's rows stay unit vectors (their gradient is projected, then they are
normalised), the decoder's bias starts at the geometric median, and the inputs are scaled to mean
squared distance 1 from it while training, so that losses and penalties mean the same for all data.
One epoch is one piece of work that a stopped run need not do again.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Iterator
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

import lowdim
from lowdim.core.memory import plan
from lowdim.core.pieces import Pieces
from lowdim.core.progress import Advance, Progress, Silent
from lowdim.core.random import choice, permutation
from lowdim.core.shards import Source, shards, stamp
from lowdim.errors import InputError
from lowdim.io.write import check_writable
from lowdim.structure.estimator import open_source
from lowdim.structure.sae import SAE

ROWS = 2**14
"""Rows that are shuffled among each other: an epoch visits such blocks in random order."""

SAMPLE = 2**13
"""Rows that the centre and the scale are taken from."""


@dataclass(frozen=True)
class SAEQuality:
    """How well a sparse autoencoder describes points.

    Attributes
    ----------
    explained_variance : float
        One minus the squared distances to the reconstructions over those to the mean.
    l0 : float
        Features in use, mean over the points.
    dead_fraction : float
        Share of the features that no point uses.
    n : int
        Points.
    losses : tuple of float
        Mean training loss of each epoch, relative to the variance; empty where none was run.
    """

    explained_variance: float
    l0: float
    dead_fraction: float
    n: int
    losses: tuple[float, ...] = ()

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON values."""
        return asdict(self)


def train_sae(
    sae: SAE,
    points: Any,
    *,
    epochs: int = 10,
    batch_size: int = 1024,
    lr: float = 1e-3,
    random_state: int = 0,
    progress: Progress | None = None,
    out: str | Path | None = None,
    resume: bool = False,
    memory: int | float | str | None = None,
) -> SAEQuality:
    """Train in place, and say how well the points are described in the end.

    Parameters
    ----------
    sae : SAE
        Its weights change; a decoder bias that is still zero starts at the geometric median.
    points : array-like, path or source
        (n, d) points.
    epochs : int
        Passes over the points.
    batch_size : int
        Rows of one step.
    lr : float
        Adam's, constant and then falling to zero over the last fifth of the steps.
    random_state : int
        Seed of the order of the points.
    progress : Progress, optional
        Where steps are reported to.
    out : path, optional
        Folder for the state after each epoch, three times the weights, under ``.pieces``.
    resume : bool
        Go on from the states that a run of the same start, points and parameters left.
    memory : int, float, str or None
        Budget, see :func:`lowdim.core.memory.budget`.

    Raises
    ------
    InputError
        NaN or Inf in the points, points that are all equal, or a loss that is not finite: the
        step is named.
    MemoryBudgetError
        A block of rows and the codes of a batch do not fit.
    """
    source = open_source(points)
    if source.dim != sae.dim:
        raise InputError(f"x has {source.dim} columns and the autoencoder takes {sae.dim}")
    if min(epochs, batch_size) < 1 or not 0 < lr < math.inf:
        raise InputError(f"epochs={epochs}, batch_size={batch_size}, lr={lr}: must be above zero")
    if resume and out is None:
        raise InputError("resume continues what out= has kept: give that folder")
    rows = min(batch_size, source.n)
    fixed = 4 * (4 * 2 * sae.dim * sae.width + 6 * rows * sae.width)
    plan(
        "training the autoencoder", rows=1, bytes_per_row=16 * min(ROWS, source.n) * sae.dim,
        fixed=fixed, memory=memory,
    )  # fmt: skip
    folder = check_writable(out) if out is not None else None
    key = {
        "points": stamp(source) if folder is not None else None,
        "start": _digest(sae) if folder is not None else None,
        "parameters": [epochs, batch_size, lr, random_state],
        "lowdim": lowdim.__version__,
    }
    pieces = Pieces(folder, key, resume=resume)
    scale = _start(sae, source, random_state, memory)
    run = _Run(sae, source, scale, epochs, batch_size, lr, random_state, memory)
    advance = (progress or Silent()).task("sparse autoencoder")
    losses = []
    sae.rescale(1 / scale)
    try:
        for epoch in range(epochs):
            state = pieces.tensors(f"epoch {epoch}", partial(run.epoch, epoch, advance))
            losses.append(run.restore(state))
            advance((epoch + 1) * run.steps, epochs * run.steps)
    finally:  # a stopped run leaves a network for the inputs as they are
        sae.rescale(scale)
    return replace(evaluate_sae(sae, source, memory=memory), losses=tuple(losses))


@torch.no_grad()
def evaluate_sae(sae: SAE, points: Any, *, memory: int | float | str | None = None) -> SAEQuality:
    """How well does it describe these points, in evaluation mode? One pass.

    Parameters
    ----------
    sae : SAE
        Left in evaluation mode.
    points : array-like, path or source
        (n, d) points, at best others than those it was trained on.
    """
    sae.eval()
    source = open_source(points)
    if source.dim != sae.dim:
        raise InputError(f"the points have {source.dim} columns and the autoencoder {sae.dim}")
    center = sae.bias.double()  # near the points, it keeps the sums below from cancelling
    total, squares, error, active = torch.zeros_like(center), 0.0, 0.0, 0
    fired = torch.zeros(sae.width, dtype=torch.bool, device=center.device)
    for x in blocks(sae, source, memory):
        rebuilt, codes = sae(x)
        away = x.double() - center
        total += away.sum(0)
        squares += float(away.square().sum())
        error += float((x.double() - rebuilt.double()).square().sum())
        fired |= (codes > 0).any(0)
        active += int((codes > 0).sum())
    variance = squares - float(total.square().sum()) / source.n
    explained = 1 - error / variance if variance > 0 else float(error == 0)
    return SAEQuality(explained, active / source.n, 1 - float(fired.double().mean()), source.n)


def blocks(sae: SAE, source: Source, memory: int | float | str | None = None) -> Iterator[Tensor]:
    """The points in the number format of the weights, in blocks whose codes fit the budget."""
    weight = sae.decoder
    rows = plan(
        "encoding", rows=source.n, bytes_per_row=4 * weight.element_size() * sum(weight.shape),
        memory=memory, largest=2**12,
    )  # fmt: skip
    for chunk in source.chunks(memory):
        for x in chunk.split(rows):
            yield x.to(weight)


def geometric_median(x: Tensor, *, n_iter: int = 100) -> Tensor:
    """(d,) the point whose distances to all (n, d) points have the least sum (Weiszfeld 1937)."""
    x = x.double()
    middle = x.mean(0)
    floor = torch.finfo(x.dtype).eps * (x - middle).abs().max().clamp_min(1e-300)
    for _ in range(n_iter):
        weights = 1 / torch.linalg.vector_norm(x - middle, dim=1).clamp_min(floor)
        before, middle = middle, weights @ x / weights.sum()
        if float((middle - before).abs().max()) <= 1e-9 * float((x - middle).abs().max()):
            break
    return middle


class _Run:
    """One training run: batches, steps, and a state that can be kept."""

    def __init__(
        self, sae: SAE, source: Source, scale: float, epochs: int, batch_size: int, lr: float,
        seed: int, memory: int | float | str | None,
    ) -> None:  # fmt: skip
        self.sae, self.scale, self.lr, self.seed, self.memory = sae, scale, lr, seed, memory
        self.shards, self.batch_size = shards(source, ROWS), batch_size
        self.steps = sum(-(-part.n // batch_size) for part in self.shards)  # an epoch
        self.total = epochs * self.steps
        self.optimizer = torch.optim.Adam(sae.parameters(), lr=lr)

    def batches(self, epoch: int) -> Iterator[Tensor]:
        """All points in random order, in batches of nearly one size."""
        order = permutation(len(self.shards), self.seed, 2 * epoch)
        for i, part in enumerate(order.tolist()):
            x = self.shards[part].read(self.memory)
            rows = permutation(len(x), self.seed, 2 * (epoch * len(order) + i) + 1)
            for batch in rows.tensor_split(-(-len(x) // self.batch_size)):
                yield (x[batch.to(x.device)] / self.scale).to(self.sae.decoder)

    def epoch(self, epoch: int, advance: Advance) -> dict[str, Tensor]:
        """Train for one pass; the state after it."""
        sae, mean = self.sae.train(), 0.0
        for i, x in enumerate(self.batches(epoch)):
            step = epoch * self.steps + i
            for group in self.optimizer.param_groups:
                group["lr"] = self.lr * min(1, 5 * (1 - step / self.total))
            loss = sae.loss(x)
            value = float(loss.total.detach())
            if not math.isfinite(value):
                raise InputError(
                    f"the loss is {value} at step {step} of {self.total}: lower lr={self.lr}"
                )
            self.optimizer.zero_grad()
            loss.total.backward()
            sae.project_gradient()
            self.optimizer.step()
            sae.normalize_decoder()
            mean += value / self.steps
            advance(step + 1, self.total)
        return self.state() | {"loss": torch.tensor(mean, dtype=torch.float64)}

    def state(self) -> dict[str, Tensor]:
        """Weights, and what Adam remembers of each."""
        kept = {f"sae.{name}": t for name, t in self.sae.state_dict().items()}
        for name, weight in self.sae.named_parameters():
            kept |= {f"adam.{name}.{k}": v for k, v in self.optimizer.state[weight].items()}
        return kept

    def restore(self, state: dict[str, Tensor]) -> float:
        """Take up a state; the loss of its epoch."""
        own = {n.removeprefix("sae."): t for n, t in state.items() if n.startswith("sae.")}
        self.sae.load_state_dict(own)
        for name, weight in self.sae.named_parameters():
            self.optimizer.state[weight] = {
                "step": state[f"adam.{name}.step"],  # stays on the processor
                "exp_avg": state[f"adam.{name}.exp_avg"].to(weight),
                "exp_avg_sq": state[f"adam.{name}.exp_avg_sq"].to(weight),
            }
        return float(state["loss"])


@torch.no_grad()
def _start(sae: SAE, source: Source, seed: int, memory: int | float | str | None) -> float:
    """Put the bias at the middle of the points; their root mean squared distance from it."""
    rows = choice(source.n, min(source.n, SAMPLE), seed).sort().values
    x = source.take(rows, memory).double()
    middle = geometric_median(x)
    scale = float((x - middle).square().sum(1).mean().sqrt())
    if not 0 < scale < math.inf:
        raise InputError(f"the points lie at mean distance {scale} from their middle: none varies")
    if not bool(sae.bias.any()):
        sae.bias.copy_(middle)
    return scale


def _digest(sae: SAE) -> str:
    """Of the class, its options and every weight."""
    options = {k: v for k, v in vars(sae).items() if isinstance(v, (int, float)) and k[0] != "_"}
    options.pop("training")  # the mode it was left in
    digest = hashlib.sha256(f"{type(sae).__name__} {options}".encode())
    for tensor in sae.state_dict().values():
        digest.update(tensor.numpy(force=True).tobytes())
    return digest.hexdigest()
