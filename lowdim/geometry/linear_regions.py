"""Linear regions of a ReLU network along paths, and the distance to the nearest boundary.

Hanin and Rolnick 2019 count the regions that a line meets; Tiwari and Konidaris 2022 do so on the
data's manifold. A network of ReLUs is affine between boundaries, so the next crossing on a
straight chord is the least root of all pre-activations, each linear in t: one derivative along
the chord finds it, and the walk goes on from there, region by region, in float64.

Pre-activations are caught where they enter ReLU, leaky ReLU, PReLU, ReLU6, hardtanh, hardsigmoid
or an absolute value, called as a module or as a function.

Cost: one derivative of the network a crossing, all chords at once. Memory: the pre-activations of
a block of chords.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.func import functional_call, jvp
from torch.overrides import TorchFunctionMode

from lowdim.core.estimate import Estimate
from lowdim.core.memory import plan
from lowdim.errors import InputError
from lowdim.geometry.modules import along, as_inputs, at_rest, basis_of, place_of, state_in
from lowdim.registry import method, network

STEP = 1e-9  # share of a chord by which a crossing is passed: narrower regions are not told apart
BENT = 1e-5  # relative departure from a straight line that no rounding explains
AT_ZERO = {
    F.relu, torch.relu, torch.relu_, Tensor.relu, Tensor.relu_, F.leaky_relu, F.prelu,
    torch.prelu, torch.abs, Tensor.abs,
}  # fmt: skip

Preactivations = Callable[[Tensor], Tensor]


@dataclass(frozen=True, kw_only=True)
class LinearRegions(Estimate):
    """Boundaries per unit length; ``per_point`` counts them from each row to the next.

    Attributes
    ----------
    boundaries : int
        How many were crossed on the whole path.
    length : float
        Of the path.
    neurons : int
        Kinks of the activations, which the theory says the density is linear in.
    crossings : Tensor
        (boundaries, 2) chord and position along it in [0, 1], in order.
    """

    boundaries: int
    length: float
    neurons: int
    crossings: Tensor = field(repr=False, compare=False)

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON values, without the single crossings."""
        return {k: v for k, v in super().to_dict().items() if k != "crossings"}


@method(
    "geometry/linear-regions",
    needs=network(),
    paper="Hanin and Rolnick 2019; Tiwari and Konidaris 2022",
    arxiv="2301.00008",
    cost="one derivative of the network a boundary, all chords at once",
    invariant=(),
)
def linear_regions(
    module: nn.Module, x: Tensor, *, memory: int | float | str | None = None
) -> LinearRegions:
    """How many linear pieces does a ReLU network have per unit length of a path?

    Parameters
    ----------
    module : torch.nn.Module
        Piecewise linear; run in eval mode and float64, and left as it was.
    x : Tensor
        (n, ...) points of the path in order; its straight chords are walked exactly.
    memory : int, float or str, optional
        Budget for the pre-activations of a block of chords.

    Raises
    ------
    InputError
        NaN/Inf, a path of length zero, no ReLU-like activation, or pre-activations that bend
        between their boundaries (softmax, GELU, max pooling before an activation).

    Notes
    -----
    Trust it as exact on the chords: regions thinner than 1e-9 of a chord merge with the next, and
    what comes after the last activation (max pooling, softmax) is not looked at. It is the density
    of the path walked: chords between data points run through regions where no data lie, and a
    curve on the data manifold (:func:`boundaries_along`) often meets fewer.
    """
    x = as_inputs(x, min_rows=2)
    x = x.to(place_of(module, x)[0], torch.float64)
    lengths = torch.linalg.vector_norm((x[1:] - x[:-1]).flatten(1), dim=1)
    if not float(lengths.sum()) > 0:
        raise InputError("all rows are equal: the path has no length")
    with preactivations(module) as function:
        neurons = function(x[:1]).shape[1]
        block = plan(
            "linear_regions", rows=len(x) - 1, bytes_per_row=8 * (12 * neurons + 6 * x[0].numel()),
            memory=memory, largest=4096,
        )  # fmt: skip
        found = [
            _walk(function, x[i : i + block], x[i + 1 : i + 1 + block], i)
            for i in range(0, len(x) - 1, block)
        ]
    crossings = torch.cat(found).cpu()
    crossings = crossings[(crossings[:, 0] + crossings[:, 1]).argsort()]
    counts = torch.bincount(crossings[:, 0].long(), minlength=len(x)).double()
    return LinearRegions(
        value=len(crossings) / float(lengths.sum()), n=len(x), boundaries=len(crossings),
        length=float(lengths.sum()), neurons=neurons, crossings=crossings, per_point=counts,
    )  # fmt: skip


def boundaries_along(
    module: nn.Module, curve: Callable[[Tensor], Tensor], *, samples: int = 1000,
) -> Tensor:  # fmt: skip
    """Where along a smooth curve do the activations of a network switch?

    Parameters
    ----------
    module : torch.nn.Module
        With ReLU-like activations; anything may lie between them.
    curve : callable
        (m,) positions in [0, 1] to (m, ...) points.
    samples : int
        Pieces that are searched for changes of sign; a unit that switches twice within one is
        missed.

    Returns
    -------
    Tensor
        Positions in [0, 1], float64, ascending, one a unit and change, found by bisection to
        1e-12.
    """
    t = torch.linspace(0, 1, samples + 1, dtype=torch.float64)

    def points(at: Tensor) -> Tensor:
        return as_inputs(curve(at), name="curve(t)").double()

    with preactivations(module) as function:
        device = place_of(module, t)[0]
        positive = torch.cat([function(points(part).to(device)) > 0 for part in t.split(1024)])
        piece, unit = (positive[1:] != positive[:-1]).nonzero(as_tuple=True)
        low, high, start = t[piece.cpu()], t[piece.cpu() + 1], positive[piece, unit]
        while len(low) and float((high - low).max()) > 1e-12:
            middle = (low + high) / 2
            z = [function(points(part).to(device)) for part in middle.split(1024)]
            same = ((torch.cat(z).gather(1, unit[:, None])[:, 0] > 0) == start).cpu()
            low, high = torch.where(same, middle, low), torch.where(same, high, middle)
    return ((low + high) / 2).sort().values


def boundary_distance(
    module: nn.Module, x: Tensor, *, tangents: Tensor | None = None,
    memory: int | float | str | None = None,
) -> Estimate:  # fmt: skip
    """How far is each input from the nearest boundary of its linear region?

    Parameters
    ----------
    module : torch.nn.Module
        Piecewise linear, as for :func:`linear_regions`.
    x : Tensor
        (n, ...).
    tangents : Tensor, optional
        (n, k, ...) orthonormal directions at each row: distance within their span only, which is
        never less than the distance in the whole space.
    memory : int, float or str, optional
        Budget for the derivatives of a block of rows.

    Returns
    -------
    Estimate
        Mean over rows; ``per_point`` has each distance, infinite where no boundary can be met.

    Notes
    -----
    min_j |z_j| / ||P grad z_j|| over all kinks j, exact: a region is an intersection of half
    spaces, and the nearest of their planes bounds it at that point.
    """
    x = as_inputs(x)
    x = x.to(place_of(module, x)[0], torch.float64)
    with preactivations(module) as function:
        neurons = function(x[:1]).shape[1]
        c = x[0].numel() if tangents is None else tangents.shape[1]
        rows = plan(
            "boundary_distance", rows=len(x), bytes_per_row=8 * 3 * c * neurons, memory=memory,
            largest=256,
        )  # fmt: skip
        found = []
        for start in range(0, len(x), rows):
            part = x[start : start + rows]
            moves = basis_of(part)
            if tangents is not None:
                moves = tangents[start : start + rows].to(x).transpose(0, 1)  # (k, b, ...)
            slope = torch.linalg.vector_norm(along(function, part, moves), dim=0)  # (b, neurons)
            gap = function(part).abs() / slope
            found.append(torch.where(slope > 0, gap, math.inf).amin(1))
    distance = torch.cat(found).cpu()
    return Estimate(value=float(distance.mean()), n=len(x), per_point=distance)


def _walk(function: Preactivations, a: Tensor, b: Tensor, first: int) -> Tensor:
    """(crossings, 2) chord and position of every boundary on the chords from ``a`` to ``b``."""
    chord = torch.arange(len(b), device=a.device)
    chord = chord[(a[: len(b)] != b).flatten(1).any(1)]
    t = a.new_zeros(len(chord))
    crossed = torch.full_like(chord, -1)  # unit that was crossed last
    expected: Tensor | None = None
    found = [a.new_zeros(0, 2)]
    while len(chord):
        start, move = a[chord], b[chord] - a[chord]
        z, slope = jvp(function, (torch.addcmul(start, _like(t, move), move),), (move,))[:2]
        if expected is not None:
            off = ((z - expected).abs().amax(1) / z.abs().amax(1).clamp_min(1e-30)).amax()
            if float(off) > BENT:
                raise InputError(
                    "the network bends between its ReLU boundaries (softmax, GELU or max pooling?):"
                    " chords are exact for piecewise linear ones only, use boundaries_along"
                )
        wait = torch.where(z * slope < 0, -z / slope, math.inf)
        again = (wait < 10 * STEP) & (torch.arange(z.shape[1], device=a.device) == crossed[:, None])
        wait, crossed = wait.masked_fill(again, math.inf).min(1)
        going = t + wait < 1
        at_end = t < 1  # one look at the end point itself, to see that the last piece is straight
        found.append(torch.stack([first + chord[going].double(), (t + wait)[going]], 1))
        later = torch.where(going, t + wait + STEP, torch.ones_like(t))
        expected = (z + slope * (later - t)[:, None])[at_end]
        chord, t, crossed = chord[at_end], later[at_end], crossed[at_end]
    return torch.cat(found)


def _like(t: Tensor, x: Tensor) -> Tensor:
    return t.reshape(-1, *[1] * (x.ndim - 1)).expand_as(x)


class _Kinks(TorchFunctionMode):
    """Collect what enters piecewise linear activations, shifted so that every kink is at zero."""

    def __init__(self) -> None:
        super().__init__()
        self.found: list[Tensor] = []

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        kinks: tuple[float, ...] = ()
        if func in AT_ZERO:
            kinks = (0.0,)
        elif func is F.relu6:
            kinks = (0.0, 6.0)
        elif func is F.hardsigmoid:
            kinks = (-3.0, 3.0)
        elif func is F.hardtanh:
            ends = dict(zip(("input", "min_val", "max_val"), args, strict=False)) | kwargs
            kinks = (ends.get("min_val", -1.0), ends.get("max_val", 1.0))
        for kink in kinks:
            self.found.append(((args[0] if args else kwargs["input"]) - kink).flatten(1))
        return func(*args, **kwargs)


@contextmanager
def preactivations(module: nn.Module) -> Iterator[Preactivations]:
    """Yield a function from float64 inputs to (n, kinks) what enters activations, kinks at zero."""
    state = state_in(module, torch.float64)

    def function(x: Tensor) -> Tensor:
        with _Kinks() as kinks:
            functional_call(module, state, (x,))
        if not kinks.found:
            raise InputError("the module calls no ReLU-like activation: it is one linear piece")
        return torch.cat(kinks.found, 1)

    with at_rest(module):
        yield function
