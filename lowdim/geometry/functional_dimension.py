"""Functional dimension: how many of a network's parameters move its function (Grigsby et al. 2023).

The rank of the stacked parameter gradients at many inputs. Scaling a hidden ReLU neuron's weights
in by c and out by 1/c changes nothing, so each costs one dimension; what is missing beyond that
are hidden symmetries: dead or always-on neurons, collapsed regions, parameters that could go.

Cost: a gradient of every output at every input, and O(m p^2) for m rows of p parameters. Memory:
two p x p triangles in float64 and a block of gradients; the QR of a tall stack is taken block by
block, which keeps all digits of the small singular values, as a Gram matrix would not.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from itertools import pairwise

import torch
from torch import Tensor, nn
from torch.func import functional_call, jacrev, vmap

from lowdim.core.estimate import Estimate
from lowdim.core.memory import plan
from lowdim.core.random import normal, uniform
from lowdim.errors import InputError
from lowdim.geometry.modules import as_inputs, at_rest, first_tensor, place_of, state_in
from lowdim.registry import method, network

TOLERANCE = 1e-9  # float64 gradients carry about 1e-14, so what is below is zero
FEWEST = 4000  # inputs that are drawn at least: fewer miss small regions
GAP = 1e3  # the least factor between the last singular value that counts and the next
WEIGHTED = (nn.Linear, nn.Conv1d, nn.Conv2d, nn.Conv3d)
HOMOGENEOUS = (nn.ReLU, nn.LeakyReLU, nn.PReLU)  # f(c z) = c f(z) for c > 0
NEUTRAL = (nn.Flatten, nn.Identity, nn.Dropout, nn.MaxPool2d, nn.AvgPool2d)


@dataclass(frozen=True, kw_only=True)
class FunctionalDimension(Estimate):
    """Rank of the parameter gradients; ``value`` is the functional dimension.

    Attributes
    ----------
    parameters : int
        How many numbers the network holds.
    bound : int
        The most that is possible: parameters less hidden neurons.
    deficiency : int
        ``bound`` less ``value``: directions of hidden symmetry.
    gap : float
        Last singular value that counts over the next; infinite where there is none.
    """

    parameters: int
    bound: int
    deficiency: int
    gap: float


@method(
    "geometry/functional-dimension",
    needs=network(),
    paper="Grigsby, Lindsey and Rolnick 2023",
    arxiv="2306.06179",
    cost="O(m p^2) for p parameters and m > p outputs, p x p memory",
)
def functional_dimension(
    module: nn.Module, x: Tensor | None = None, *, hidden: int | None = None, seed: int = 0,
    memory: int | float | str | None = None,
) -> FunctionalDimension:  # fmt: skip
    """How many directions in parameter space change what a network computes?

    Parameters
    ----------
    module : torch.nn.Module
        Run in eval mode and in float64, on copies of its parameters.
    x : Tensor, optional
        (m, ...) inputs; by default :func:`wide_inputs`, 4,000 or enough for four gradients a
        parameter.
    hidden : int, optional
        Hidden neurons (channels) that can be rescaled; counted for a chain of linear,
        convolutional and ReLU-like layers in an ``nn.Sequential``.
    seed : int
        Of the inputs.
    memory : int, float or str, optional
        Budget; two p x p matrices have to fit.

    Raises
    ------
    InputError
        No parameters, or no inputs and a module that does not begin with a linear layer.
    MemoryBudgetError
        Before anything is allocated, with the figure.

    Notes
    -----
    Trust it where ``gap`` is large (below 1,000 a note says so): without a gap the rank is a
    matter of tolerance. It is a maximum over inputs, so a finite sample gives a lower bound, which
    more inputs can only raise; inputs of a data set see fewer of the regions than wide ones and
    answer another question, how many directions matter *on these data*.
    """
    seeded = x is None
    count = sum(p.numel() for p in module.parameters())
    if not count:
        raise InputError("the module has no parameters: its function cannot move")
    if x is None:
        x = wide_inputs(module, max(4 * count, FEWEST), seed=seed)
    x = as_inputs(x)
    device = place_of(module, x)[0]
    x = x.to(device, torch.float64)
    parameters = {k: v.detach().double() for k, v in module.named_parameters()}
    rest = {k: v for k, v in state_in(module, torch.float64).items() if k not in parameters}

    def function(theta: dict[str, Tensor], row: Tensor) -> Tensor:
        return first_tensor(functional_call(module, {**theta, **rest}, (row[None],))).flatten()

    with at_rest(module):
        width = len(function(parameters, x[0]))
        if seeded:
            x = x[: max(-(-4 * count // width), FEWEST)]
        rows = plan(
            "functional_dimension", rows=len(x), bytes_per_row=32 * width * count,
            fixed=32 * count**2, memory=memory, largest=max(64, 2 * count // width),
        )  # fmt: skip
        triangle = x.new_zeros(0, count)
        for block in x.split(rows):
            gradients = vmap(jacrev(function), (None, 0))(parameters, block)  # name: (b, width, .)
            stack = torch.cat([g.flatten(2) for g in gradients.values()], 2).flatten(0, 1)
            triangle = torch.linalg.qr(torch.cat([triangle, _unit(stack, 1)]), mode="r").R
    s = torch.linalg.svdvals(_unit(triangle, 0))  # scaling rows and columns keeps the rank
    rank = int((s > TOLERANCE * s[0]).sum())
    gap = float(s[rank - 1] / s[rank]) if 0 < rank < len(s) and s[rank] > 0 else math.inf
    notes: tuple[str, ...] = ()
    if gap < GAP:
        notes += (f"no clear gap ({gap:.1f}): the rank hangs on the tolerance",)
    if len(x) * width < count:
        notes += (f"{len(x)} inputs give {len(x) * width} gradients for {count} parameters",)
    found = rescalable(module) if hidden is None else hidden
    if found is None:
        notes += ("bound is the parameter count: give hidden=, how many neurons can be rescaled",)
    bound = count - (found or 0)
    return FunctionalDimension(
        value=float(rank), n=len(x), seed=seed if seeded else None, exact=not seeded, notes=notes,
        parameters=count, bound=bound, deficiency=bound - rank, gap=gap,
    )  # fmt: skip


def wide_inputs(module: nn.Module, n: int, *, seed: int = 0) -> Tensor:
    """Draw inputs for a module that begins with a linear layer, near the origin and far from it.

    Normal directions with sizes spread evenly on a log scale from 0.1 to 100, so that they meet
    regions close to all bends of a fresh network and the cones far out.

    Returns
    -------
    Tensor
        (n, in_features) float64.
    """
    first = next((m for m in module.modules() if not any(m.children())), module)
    if not isinstance(first, nn.Linear):
        raise InputError(
            f"the module begins with {type(first).__name__}, not a linear layer: give inputs, x="
        )
    size = 10 ** (3 * uniform((n, 1), seed, stream=1) - 1)
    return size * normal((n, first.in_features), seed, dtype=torch.float64)


def rescalable(module: nn.Module) -> int | None:
    """Count the neurons of a plain chain that can be rescaled; None for any other module."""
    leaves = [m for m in module.modules() if not any(m.children())]
    plain = all(isinstance(m, (*WEIGHTED, *HOMOGENEOUS, *NEUTRAL)) for m in leaves)
    chain = all(isinstance(m, nn.Sequential) for m in module.modules() if any(m.children()))
    if not (plain and chain):
        return None
    spine = [m for m in leaves if isinstance(m, (*WEIGHTED, *HOMOGENEOUS))]
    last = max((i for i, m in enumerate(spine) if isinstance(m, WEIGHTED)), default=0)
    return sum(
        m.weight.shape[0]
        for m, after in pairwise(spine[: last + 1])
        if isinstance(m, WEIGHTED) and isinstance(after, HOMOGENEOUS)
    )


def _unit(a: Tensor, dim: int) -> Tensor:
    """Scale rows or columns to length one; zero ones stay zero."""
    size = torch.linalg.vector_norm(a, dim=dim, keepdim=True)
    return a / torch.where(size > 0, size, 1)
