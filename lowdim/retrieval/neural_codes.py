"""Neural codes: which units of a ReLU network an input switches on, as bits.

He, Lei, Ji and Tao 2021, "Neural networks behave as hash encoders": the bits name the linear region
that an input lies in. They find that a wide enough trained network puts nearly every example in a
region of its own (determinism), and inputs of one class in regions whose codes are near each other
(categorisation), so that the codes are a hash for Hamming search at the cost of a forward pass.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from lowdim.core.estimate import Estimate, to_json
from lowdim.core.memory import plan
from lowdim.core.points import distinct
from lowdim.errors import InputError
from lowdim.geometry.linear_regions import preactivations
from lowdim.geometry.modules import as_inputs, place_of, watched
from lowdim.registry import method, network
from lowdim.retrieval.binary_code import hamming_search
from lowdim.retrieval.metric import exact_search
from lowdim.retrieval.packing import pack
from lowdim.retrieval.recall import interval, recall_at_k
from lowdim.structure.agreement import accuracy


@dataclass(frozen=True, kw_only=True)
class NeuralCodes(Estimate):
    """The code of each row; ``value`` is the share of rows that repeat the code of another.

    Attributes
    ----------
    codes : Tensor
        (n, ceil(bits / 8)) uint8, packed as :class:`lowdim.retrieval.BinaryCode` packs, which
        :func:`lowdim.retrieval.hamming_search` and faiss's binary indexes read.
    bits : int
        Kinks of the activations: one a ReLU unit, two a unit of ReLU6 or hardtanh.
    distinct : int
        Codes that differ: linear regions that hold a row.
    """

    codes: Tensor = field(repr=False, compare=False)
    bits: int
    distinct: int

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON values, without the codes."""
        return {k: v for k, v in super().to_dict().items() if k != "codes"}


@method(
    "retrieval/neural-codes",
    needs=network(),
    paper="He et al. 2021",
    arxiv="2101.05490",
    cost="a forward pass in float64; 1 bit a unit and row",
    invariant=(),
)
def neural_codes(
    module: nn.Module, x: Any, *, layers: Sequence[str] | None = None,
    memory: int | float | str | None = None,
) -> NeuralCodes:  # fmt: skip
    """Which units of a ReLU network are on for each input, and do two inputs share a code?

    Parameters
    ----------
    module : torch.nn.Module
        Run in eval mode and float64, and left as it was.
    x : Tensor
        (n, ...) inputs.
    layers : sequence of str, optional
        Of ``module.named_modules()``: a bit says whether an output of theirs is above zero, so
        name ReLUs or what feeds them; one that runs twice counts with its last output. By default
        all ReLU-like activations, called as modules or as functions: then a code is a linear region
        of a network that bends nowhere else (no max pooling, no softmax inside).
    memory : int, float or str, optional
        Budget for the units of a block of rows.

    Returns
    -------
    NeuralCodes
        ``value`` is (n - distinct) / n, the redundancy ratio: 0 where every row has a code of its
        own, near 1 where the network tells few apart.

    Raises
    ------
    InputError
        NaN or Inf, no ReLU-like activation, an unknown layer.

    Notes
    -----
    Trust it as exact in float64: where the network runs in lower precision, an input at a boundary
    may get the bit of the other side. Equal rows share a code whatever the network is, and a note
    counts them. It grows with n, so compare networks on the same rows.
    """
    x = as_inputs(x)
    parts = [(pack(part > 0, 1).cpu(), part.shape[1]) for part in _units(module, x, layers, memory)]
    codes = torch.cat([part for part, _ in parts])
    regions = len(codes.unique(dim=0))
    equal = len(x) - len(distinct(x.flatten(1))[0])
    notes = (f"{equal} rows equal an earlier one, and share its code",) if equal else ()
    return NeuralCodes(
        value=(len(x) - regions) / len(x), n=len(x), codes=codes, bits=parts[0][1],
        distinct=regions, notes=notes,
    )  # fmt: skip


def code_recall(
    module: nn.Module, x: Any, queries: Any, *, layers: Sequence[str] | None = None, k: int = 10,
    metric: str = "cosine", memory: int | float | str | None = None,
) -> Estimate:  # fmt: skip
    """How many of the nearest rows by the units' values do their codes find?

    Parameters
    ----------
    module, layers, memory
        As for :func:`neural_codes`.
    x, queries : Tensor
        (n, ...) and (m, ...) inputs.
    k : int
        Rows wanted for each query.
    metric : {"cosine", "dot", "euclidean"}
        Of the exact search among the values of the same layers: outputs of those named, what enters
        the activations by default.

    Returns
    -------
    Estimate
        Mean recall at k of Hamming search and its 95% interval over queries; ``per_point`` has each
        query's.

    Notes
    -----
    Holds the values of all rows, 4 bytes a unit and row. Of codes at equal distance the smaller row
    is found, so few bits find what comes first.
    """
    units = [
        torch.cat([part.float().cpu() for part in _units(module, as_inputs(some), layers, memory)])
        for some in (x, queries)
    ]
    truth, _ = exact_search(units[0], units[1], k, metric=metric, memory=memory)
    codes, asked = (pack(values > 0, 1) for values in units)
    recalls = recall_at_k(hamming_search(codes, asked, k)[0], truth)
    mean, low, high = interval(recalls)
    return Estimate(value=mean, low=low, high=high, n=len(recalls), per_point=recalls)


@dataclass(frozen=True)
class CodeReport:
    """What simple classifiers read off neural codes, as shares of rows that they get right.

    Attributes
    ----------
    redundancy, redundancy_test : float
        Share of rows that repeat another's code.
    k_means, k_means_test : float
        As many clusters as classes, of either set by itself, matched one to one with the classes
        so that most rows agree (Hungarian algorithm).
    k_nn : float
        Of the test rows, by the majority of the nearest training codes in Hamming distance.
    logistic : float
        Of the test rows, by logistic regression on the bits of the training rows.
    base : float
        Of the test rows, the commonest training class.
    bits, n, n_test, classes : int
        What it rests on.
    """

    redundancy: float
    redundancy_test: float
    k_means: float
    k_means_test: float
    k_nn: float
    logistic: float
    base: float
    bits: int
    n: int
    n_test: int
    classes: int

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON values."""
        return to_json(asdict(self))

    def __str__(self) -> str:
        return (
            f"{self.bits:,} bits, {self.n:,} rows, {self.n_test:,} test rows, {self.classes} "
            f"classes\nrepeat a code: {self.redundancy:.1%}, of the test rows "
            f"{self.redundancy_test:.1%}\nright on test rows: k-NN {self.k_nn:.1%}, logistic "
            f"regression {self.logistic:.1%}, k-means {self.k_means_test:.1%} (training "
            f"{self.k_means:.1%}), commonest class {self.base:.1%}"
        )


def code_report(
    codes: NeuralCodes, y: Any, test: NeuralCodes, y_test: Any, *, k: int = 9, seed: int = 0
) -> CodeReport:
    """What do the codes of a network know of the classes?

    Parameters
    ----------
    codes, test : NeuralCodes
        Of training rows, and of rows that the network has not seen, by the same layers.
    y, y_test : array-like
        (n,) and (m,) labels of any kind.
    k : int
        Neighbours that vote; of classes with equal votes the first wins.
    seed : int
        Of k-means.

    Raises
    ------
    InputError
        Codes of different length, not one label a row, one class only, fewer rows than k.

    Notes
    -----
    The paper's three classifiers; its logistic regression is one against one, this one is
    multinomial. Trust it beside ``base``, and beside the codes of the same network before training:
    random units keep much of the classes too. On digits training brought much of what codes of a
    third hidden layer know of the classes, and little of what those of a first one do. Holds the
    bits as float32.
    """
    if codes.bits != test.bits:
        raise InputError(f"codes of {codes.bits} and {test.bits} bits: give those of one network")
    from sklearn.cluster import KMeans
    from sklearn.linear_model import LogisticRegression

    named, named_test = np.asarray(y), np.asarray(y_test)
    for name, labels, some in (("y", named, codes), ("y_test", named_test, test)):
        if labels.shape != (some.n,):
            raise InputError(f"{name} has shape {labels.shape} for {some.n} codes: one label each")
    names, both = np.unique(np.concatenate([named, named_test]), return_inverse=True)
    given, given_test = both[: codes.n], both[codes.n :]
    if not 2 <= len(names) <= min(codes.n, test.n):
        raise InputError(
            f"{len(names)} classes, {codes.n} and {test.n} codes: give two classes or more, and as "
            "many codes as classes"
        )
    bits, bits_test = _bits(codes), _bits(test)
    grouped = [
        accuracy(KMeans(len(names), n_init=10, random_state=seed).fit_predict(b), labels)
        for b, labels in ((bits, given), (bits_test, given_test))
    ]
    near, _ = hamming_search(codes.codes, test.codes, k)
    votes = (given[near.numpy()][:, :, None] == np.arange(len(names))).sum(1)  # (m, classes)
    logistic = LogisticRegression(max_iter=2000).fit(bits, given)
    return CodeReport(
        redundancy=codes.value, redundancy_test=test.value, k_means=grouped[0],
        k_means_test=grouped[1], k_nn=float(np.mean(votes.argmax(1) == given_test)),
        logistic=float(np.mean(logistic.predict(bits_test) == given_test)),
        base=float(np.mean(np.bincount(given).argmax() == given_test)), bits=codes.bits,
        n=codes.n, n_test=test.n, classes=len(names),
    )  # fmt: skip


def _bits(codes: NeuralCodes) -> np.ndarray:
    """(n, bits) float32 zeros and ones."""
    bits = np.unpackbits(codes.codes.numpy(), axis=1, bitorder="little", count=codes.bits)
    return bits.astype(np.float32)


def _units(
    module: nn.Module, x: Tensor, layers: Sequence[str] | None, memory: int | float | str | None
) -> Iterator[Tensor]:
    """(b, units) float64 values of blocks of rows, in order, on when above zero."""
    x = x.to(place_of(module, x)[0], torch.float64)
    if layers is None:
        with preactivations(module) as function:
            yield from _blocks(function, x, memory)
        return
    with watched(module, layers, dtype=torch.float64) as outputs:
        yield from _blocks(lambda rows: torch.cat([*outputs(rows)[1].values()], 1), x, memory)


def _blocks(
    function: Callable[[Tensor], Tensor], x: Tensor, memory: int | float | str | None
) -> Iterator[Tensor]:
    width = function(x[:1]).shape[1]
    rows = plan(
        "neural codes", rows=len(x), bytes_per_row=8 * (3 * width + x[0].numel()), memory=memory,
        largest=4096,
    )  # fmt: skip
    for part in x.split(rows):
        yield function(part)
