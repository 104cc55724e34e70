"""How much longer or shorter does a network make a curve (Hanin, Jeong and Rolnick 2022)?

The image of a path is measured as a fine polyline, layer by layer. For ReLU networks with He
initialisation the expected distortion of length does not grow with depth: a direction's squared
length is multiplied in each hidden layer of width n by (2/n) chi^2 with Binomial(n, 1/2) degrees
of freedom, independent of all else, since a neuron's sign is independent of the size of its
derivative. The expectation of the root of the product is a product of finite sums, which
:func:`expected_length_distortion` evaluates; the paper prints the leading order exp(-5/8 sum 1/n).

Cost: ``samples`` forward passes a chord, or d derivatives a point for volumes.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from scipy.special import gammaln
from torch import Tensor, nn

from lowdim.core.estimate import Estimate
from lowdim.core.memory import plan
from lowdim.core.random import normal
from lowdim.errors import InputError
from lowdim.geometry.modules import along, as_inputs, place_of, watched
from lowdim.registry import method, network


@dataclass(frozen=True, kw_only=True)
class LengthDistortion(Estimate):
    """Length of the image of a path over the length of the path; ``value`` is the output's.

    Attributes
    ----------
    layers : tuple of str
        Layers with a weight matrix, as they run.
    ratios : tuple of float
        The same for their outputs, before the activation.
    at_initialisation : float or None
        What a fresh network of these widths has in expectation (He variance, output layer
        1/fan-in); None for a module that is not a chain of linear layers and ReLU.
    """

    layers: tuple[str, ...]
    ratios: tuple[float, ...]
    at_initialisation: float | None


@method(
    "geometry/length-distortion",
    needs=network(),
    paper="Hanin, Jeong and Rolnick 2022",
    arxiv="2102.10492",
    cost="samples forward passes a row",
    invariant=(),
)
def length_distortion(
    module: nn.Module, x: Tensor, *, layers: Sequence[str] | None = None, samples: int = 64,
    memory: int | float | str | None = None,
) -> LengthDistortion:  # fmt: skip
    """How much longer does a network make the path from each input to the next?

    ``per_point`` holds the ratio of the chord that begins at each row, 0 for the last row.

    Parameters
    ----------
    module : torch.nn.Module
        Run in eval mode and left as it was.
    x : Tensor
        (n, ...) points of a path in order: a curve, or data points, whose chords then count.
    layers : sequence of str, optional
        Names in ``module.named_modules()``; by default all with a weight matrix.
    samples : int
        Pieces of each chord; the length of the polyline rises towards the true one with it.
    memory : int, float or str, optional
        Budget for the points of a block of chords.

    Raises
    ------
    InputError
        NaN/Inf, fewer than two rows, or a path of length zero.

    Notes
    -----
    Trust it to compare checkpoints on the same path, or a network with its own initialisation; the
    value depends on the path, and chords between data leave the data manifold. A linear network
    has |W u| exactly. It is a length, so it says nothing of folding: a curve may be long and
    tangled in few dimensions.
    """
    x = as_inputs(x, min_rows=2)
    if samples < 1:
        raise InputError(f"samples={samples}: at least one piece a chord")
    device, dtype = place_of(module, x)
    x = x.to(device, dtype)
    step = torch.linalg.vector_norm((x[1:] - x[:-1]).flatten(1), dim=1, dtype=torch.float64)
    if not float(step.sum()) > 0:
        raise InputError("all rows are equal: the path has no length")
    t = torch.linspace(0, 1, samples + 1, device=device, dtype=dtype)
    t = t.reshape(1, -1, *[1] * (x.ndim - 1))
    with watched(module, layers, dtype=dtype) as function:
        output, found = function(x[:1])
        width = x[0].numel() + output.shape[1] + 2 * sum(h.shape[1] for h in found.values())
        block = plan(
            "length_distortion", rows=len(step), memory=memory, largest=1024,
            bytes_per_row=3 * (samples + 1) * width * x.element_size(),
        )  # fmt: skip
        lengths = {name: torch.zeros((), dtype=torch.float64) for name in found}
        images = []
        for a, b in zip(x[:-1].split(block), x[1:].split(block), strict=True):
            line = torch.lerp(a[:, None], b[:, None], t)  # (chords, samples + 1, ...)
            output, found = function(line.flatten(0, 1))
            images.append(_lengths(output, len(a)))
            for name, h in found.items():
                lengths[name] = lengths[name] + _lengths(h, len(a)).sum().cpu()
    image, total = torch.cat(images), float(step.sum())
    ratio = torch.where(step > 0, image / step.clamp_min(1e-300), 0).cpu()
    return LengthDistortion(
        value=float(image.sum()) / total, n=len(x), layers=tuple(lengths),
        ratios=tuple(float(v) / total for v in lengths.values()),
        at_initialisation=_fresh(module), per_point=torch.cat([ratio, ratio.new_zeros(1)]),
    )  # fmt: skip


def expected_length_distortion(widths: Sequence[int]) -> float:
    """How much does a fresh ReLU network stretch a short curve in expectation?

    Parameters
    ----------
    widths : sequence of int
        Input, hidden layers, output. Weights are normal with variance 2/fan-in (1/fan-in for the
        output layer), biases zero or symmetric.

    Notes
    -----
    Exact at every width, by the law in the module's docstring.
    """
    n0, *hidden, n_last = widths
    log = math.log(_mean_chi(n_last) / math.sqrt(n0))
    for n in hidden:
        b = np.arange(1, n + 1)  # neurons that are on
        pick = gammaln(n + 1) - gammaln(b + 1) - gammaln(n - b + 1) - n * math.log(2)
        chi = np.exp(gammaln((b + 1) / 2) - gammaln(b / 2) + pick) * math.sqrt(2)
        log += math.log(math.sqrt(2 / n) * float(chi.sum()))
    return math.exp(log)


def volume_distortion(module: nn.Module, x: Tensor, d: int, *, seed: int = 0) -> Estimate:
    """How much does a network stretch the volume of random d-dimensional patches?

    Parameters
    ----------
    module : torch.nn.Module
        Run in eval mode.
    x : Tensor
        (n, ...) where; one random patch each.
    d : int
        Dimension; 1 is length. Above the output's width the volume is zero.
    seed : int
        Of the directions.

    Returns
    -------
    Estimate
        Mean of sqrt(det((J Q)^T J Q)); ``per_point`` has every one.
    """
    x = as_inputs(x)
    width = x[0].numel()
    if not 1 <= d <= width:
        raise InputError(f"d={d}: between 1 and the {width} columns of x")
    device, dtype = place_of(module, x)
    frames = torch.linalg.qr(normal((len(x), width, d), seed, dtype=torch.float64)).Q
    directions = frames.permute(2, 0, 1).reshape(d, *x.shape).to(device, dtype)
    with watched(module, dtype=dtype) as function:
        image = along(lambda rows: function(rows)[0], x.to(device, dtype), directions)
    stretch = torch.linalg.svdvals(image.transpose(0, 1).double())  # (n, min(d, output))
    volume = stretch.prod(1) if stretch.shape[1] == d else torch.zeros(len(x))
    return Estimate(
        value=float(volume.mean()), n=len(x), seed=seed, exact=False, per_point=volume.cpu()
    )


def _lengths(points: Tensor, chords: int) -> Tensor:
    """(chords,) length of each polyline."""
    line = points.unflatten(0, (chords, -1)).double()
    return torch.linalg.vector_norm(line.diff(dim=1), dim=2).sum(1)


def _mean_chi(n: int) -> float:
    """Mean length of a standard normal vector."""
    return math.sqrt(2) * math.exp(math.lgamma((n + 1) / 2) - math.lgamma(n / 2))


def _fresh(module: nn.Module) -> float | None:
    leaves = [m for m in module.modules() if not any(m.children())]
    kinds = [type(m) for m in leaves if not isinstance(m, (nn.Flatten, nn.Identity, nn.Dropout))]
    chain = all(isinstance(m, nn.Sequential) for m in module.modules() if any(m.children()))
    if not chain or kinds[::2] != [nn.Linear] * len(kinds[::2]) or len(kinds) % 2 == 0:
        return None
    if kinds[1::2] != [nn.ReLU] * (len(kinds) // 2):
        return None
    linear = [m for m in leaves if isinstance(m, nn.Linear)]
    return expected_length_distortion([linear[0].in_features, *(m.out_features for m in linear)])
