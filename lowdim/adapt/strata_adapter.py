"""Strata adapters: one small low-rank adapter a stratum of the inputs.

Activations lie near several low-dimensional pieces, and what a task wants of a layer may differ
from piece to piece. With shares g_k(x) of an input in K strata,

    y = W x + sum_k g_k(x) B_k A_k x,

which is worked out as one LoRA of rank K r with a mask between its two products: A x is viewed as
(K, r), each row is scaled by its share, and B (out, K r) follows. So it costs one LoRA of the same
count and a gate of a few columns (:mod:`lowdim.adapt.strata_gate`), where K adapters in a loop
would read the input K times. The strata come from :mod:`lowdim.structure` and stay as they are
while the adapters train.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, NoReturn

import torch
from torch import Tensor, nn
from torch.nn.functional import linear

from lowdim.adapt.adapter import ProductAdapter, matrix_shape
from lowdim.adapt.attach import attached
from lowdim.adapt.inputs import Sample, watch_inputs
from lowdim.adapt.method import Draws, Method, check_size, zeros
from lowdim.adapt.strata_gate import Gate
from lowdim.adapt.targets import Target
from lowdim.core.progress import Advance
from lowdim.core.strata import Strata
from lowdim.errors import InputError
from lowdim.registry import adaptation, method
from lowdim.structure.base import PieceFinder
from lowdim.structure.k_subspaces import KSubspaces

WIDEST = 16  # principal directions that a gate reads, where nothing is said


@method(
    "adapt/strata",
    needs=adaptation(),
    paper="lowdim; a LoRA (Hu et al. 2021) a stratum",
    arxiv="2106.09685",
    cost="2 n K r (in + out) and a gate of 2 n p in",
    oracle="peft.LoraConfig for one stratum",
)
@dataclass(frozen=True)
class StrataLoRA(Method):
    """Does each stratum of the inputs want an update of its own?

    Parameters
    ----------
    rank : int
        r, of each stratum's update.
    pieces : int
        K, strata of the inputs of each layer.
    temperature : float
        0 gives each input to one stratum; above it shares are softmax(score / temperature), the
        posterior of the strata at 1 where they are normal distributions.

    Notes
    -----
    ``attach``, then :func:`fit_gates`, then train. Nothing can be merged or exported: the update
    depends on the input. A gradient passes through soft shares as well.

    Trust it where the strata are real (:func:`lowdim.structure.choose_pieces` on a layer's inputs
    finds several) and overlap in direction, so that one linear map cannot tell them apart: strata
    that span different subspaces are told apart by the A of one LoRA of the same count too.
    """

    rank: int = 2
    pieces: int = 4
    temperature: float = 0.0

    kinds = frozenset({"linear"})

    def adapter(self, target: Target, draws: Draws) -> StrataAdapter:
        """A drawn as in LoRA, B zero, strata not known yet."""
        if type(target.module) is not nn.Linear and not target.transposed:
            raise InputError(
                f"{target.module_name} is a {type(target.module).__name__}: strata adapters sit "
                "beside plain linear layers, leave it out"
            )
        check_size("rank", self.rank, min(target.shape))
        check_size("pieces", self.pieces)
        if not 0 <= self.temperature < math.inf:
            raise InputError(f"temperature={self.temperature}: give a number of at least 0")
        return StrataAdapter(target.shape, self, draws)

    def count(self, shapes: Sequence[tuple[int, ...]]) -> int:
        """K r (in + out) each."""
        return self.pieces * self.rank * sum(sum(matrix_shape(shape)) for shape in shapes)


class StrataAdapter(ProductAdapter):
    """sum_k g_k(x) B_k A_k x.

    Attributes
    ----------
    a : Parameter
        (K r, in) the A_k below each other.
    b : Parameter
        (out, K r) the B_k side by side.
    gate : Gate
        g, which does not train.
    """

    mergeable = False

    def __init__(self, shape: tuple[int, ...], options: StrataLoRA, draws: Draws) -> None:
        super().__init__(shape)
        out, width = matrix_shape(shape)
        self.pieces, self.rank = options.pieces, options.rank
        inner = self.pieces * self.rank
        self.a = nn.Parameter(draws.uniform("a", (inner, width), 1 / math.sqrt(width)))
        self.b = zeros(out, inner)
        self.gate = Gate(width, self.pieces, options.temperature)

    def forward(self, x: Tensor) -> Tensor:
        """One LoRA with the shares between its products."""
        shares = self.gate(x)  # (..., K)
        z = linear(x, self.a).unflatten(-1, (self.pieces, self.rank))  # (..., K, r)
        return linear((z * shares[..., None]).flatten(-2), self.b)

    def stratum(self, k: int) -> tuple[Tensor, Tensor]:
        """B_k (out, r) and A_k (r, in): the update that the inputs of stratum k get."""
        own = slice(k * self.rank, (k + 1) * self.rank)
        return self.b[:, own], self.a[own]

    def delta(self) -> NoReturn:
        """No one matrix."""
        raise InputError("a strata adapter has no one update: stratum(k) gives that of a stratum")

    def rows(self, index: Tensor) -> NoReturn:
        """No embedding is adapted."""
        raise InputError("a strata adapter needs inputs that are vectors: adapt linear layers")


def fit_gates(
    model: nn.Module,
    loss: Callable[[nn.Module, Any], Any],
    batches: Iterable[Any],
    *,
    finder: PieceFinder | None = None,
    directions: int | None = None,
    sample: int = 4096,
    seed: int = 0,
    progress: Advance | None = None,
) -> dict[str, Strata]:
    """Which strata do the inputs of each adapted layer lie on?

    Parameters
    ----------
    model : torch.nn.Module
        With strata adapters attached; run in evaluation mode without their updates.
    loss : callable
        ``loss(model, batch)``, or anything that runs the model.
    batches : iterable
        A few batches of the task; padding is left out where the model is given an
        ``attention_mask``.
    finder : PieceFinder, optional
        What finds the strata, cloned for each layer and given its number of pieces; by default
        ``KSubspaces`` that chooses their dimensions.
    directions : int, optional
        p, principal directions of the inputs that the strata are found in and gated by; by default
        16, or K r where that is less, so that a gate never adds more than a sixth to the work.
    sample : int
        Inputs of each layer that are held and fitted to, drawn uniformly from all.
    seed : int
        Of the sample and the default finder.
    progress : callable, optional
        ``progress(done, total)`` after the fit of each layer.

    Returns
    -------
    dict of str to Strata
        What was found, by the name of the adapted tensor, in principal coordinates: sizes,
        dimensions, angles. Layers that see the same tensor share one.

    Raises
    ------
    InputError
        No strata adapters, no batches, inputs that are not finite, or fewer than pieces.

    Notes
    -----
    Cost: one forward pass of each batch, ``sample`` x in numbers for each distinct input, and one
    fit of it. :meth:`Gate.take` sets a gate by hand, :func:`given_shares` goes round all of them.
    """
    pairs = [(t, a) for t, a in attached(model).pairs() if isinstance(a, StrataAdapter)]
    if not pairs:
        raise InputError("the model has no strata adapters: attach StrataLoRA first")
    if directions is not None:
        check_size("directions", directions)
    check_size("sample", sample)
    finder = finder or KSubspaces(1, n_restarts=4, random_state=seed)
    samples = {target.name: Sample(sample, seed) for target, _ in pairs}
    none = torch.zeros(1, 1)
    with given_shares(model, none):  # no updates: B A x times 0
        leaders = watch_inputs(
            model, loss, batches, [t for t, _ in pairs], lambda name, x: samples[name].take(x)
        )
    fitted: dict[tuple[str, int], tuple[Gate, Strata]] = {}
    found: dict[str, Strata] = {}
    for done, (target, adapter) in enumerate(pairs, 1):
        key = leaders[target.name], adapter.pieces
        if key not in fitted:
            rows, width = samples[key[0]].rows, directions or min(WIDEST, len(adapter.a))
            fitted[key] = adapter.gate, adapter.gate.fit(rows, finder, directions=width)
        gate, found[target.name] = fitted[key]
        adapter.gate.copy(gate)
        if progress is not None:
            progress(done, len(pairs))
    return found


@contextmanager
def given_shares(model: nn.Module, shares: Tensor) -> Iterator[None]:
    """Let shares from elsewhere gate all strata adapters of a model, for the forward passes within.

    Parameters
    ----------
    model : torch.nn.Module
        With strata adapters attached.
    shares : Tensor
        (b, K) of the items of a batch, or (1, K) for all: such as the ``gates`` of a finder of
        :mod:`lowdim.structure` at the embeddings of b texts.
    """
    gates = [a.gate for _, a in attached(model).pairs() if isinstance(a, StrataAdapter)]
    for gate in gates:
        gate.given = shares
    try:
        yield
    finally:
        for gate in gates:
            gate.given = None
