"""How near are the nodes of a graph when all paths count? Kernels, plain and logarithmic.

For weights A with degrees D and Laplacian L = D - A (Avrachenkov, Chebotarev and Rubanov 2017):

    walk             (I - t A)^-1,   0 < t < 1 / largest eigenvalue of A
    communicability  exp(t A)
    forest           (I + t L)^-1
    heat             exp(-t L)
    commute          pseudo-inverse of L; twice its distance, times the mean degree, is walked

The logarithmic kernel is the logarithm of each entry, and the distance of a kernel H is
(H_ii + H_jj) / 2 - H_ij. The logarithms of walk and forest make it cutpoint additive: where every
path from i to k passes j, the distances add up exactly (Chebotarev 2011). All entries of the first
four are sums of terms that are not negative and are computed as such, so that a tiny one is right
to its last digits and so is its logarithm. Cost O(n^3), memory six (n, n) matrices: those are what
is asked for.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Any

import torch
from scipy.sparse.csgraph import connected_components
from torch import Tensor

from lowdim.core.estimate import Estimate
from lowdim.core.memory import plan
from lowdim.core.points import as_points
from lowdim.errors import InputError
from lowdim.registry import kernel, method

KINDS = ("walk", "communicability", "forest", "heat", "commute")

TERMS = 20
"""Of the exponential series of a matrix of norm at most 1: what is left out is below 1e-19."""


@dataclass(frozen=True, kw_only=True)
class Proximity(Estimate):
    """The mean distance of two nodes; ``per_point`` is that of each node to all others.

    Attributes
    ----------
    kernel : Tensor
        (n, n) float64, symmetric; its logarithm where that was asked for, -inf between components.
    distance : Tensor
        (n, n) float64; inf between components for logarithmic kernels and commute times.
    t : float
        The parameter in use.
    """

    kernel: Tensor = field(repr=False, compare=False)
    distance: Tensor = field(repr=False, compare=False)
    t: float

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON values; the matrices are left out."""
        slim = super().to_dict()
        return {k: v for k, v in slim.items() if k not in ("kernel", "distance")}


@method(
    "structure/graph-proximity",
    needs=kernel(),
    paper="Avrachenkov, Chebotarev and Rubanov 2017; Chebotarev 2011",
    cost="O(n^3) work, O(n^2) memory",
    oracle="scipy.linalg.expm",
    deep=True,
)
def graph_proximity(
    adjacency: Any,
    *,
    kind: str = "walk",
    t: float | None = None,
    log: bool = True,
    memory: int | float | str | None = None,
) -> Proximity:
    """How near are the nodes of a graph to each other, all paths between them counted?

    Parameters
    ----------
    adjacency : array-like or scipy.sparse array
        (n, n) symmetric weights, not negative; the diagonal is not read.
    kind : {"walk", "communicability", "forest", "heat", "commute"}
        See the module.
    t : float, optional
        How far paths reach. By default 1/2 over the largest eigenvalue of A for walk, 1 over it
        for communicability, and 1 over the mean degree for forest and heat; commute has none.
    log : bool
        Take the logarithm of the kernel. Not for commute, whose kernel has negative entries.
    memory : int, float or str, optional
        Budget.

    Raises
    ------
    InputError
        Not square, not symmetric, negative or non-finite weights, no edge, or a ``t`` that the
        kernel does not exist at or overflows.
    MemoryBudgetError
        48 n^2 bytes do not fit.

    Notes
    -----
    Trust it to compare kernels on one graph: logarithmic ones separate communities better as a
    rule, the more so where degrees differ. For spectral clustering use exp(-distance) of a
    logarithmic kernel, which is the plain kernel with its diagonal scaled to one.
    """
    if kind not in KINDS:
        raise InputError(f"kind={kind!r}: choose from {', '.join(KINDS)}")
    if kind == "commute" and (log or t is not None):
        raise InputError("kind='commute' has no t and a kernel with negative entries: log=False")
    n = adjacency.shape[0] if hasattr(adjacency, "shape") else len(adjacency)
    plan("graph_proximity", rows=1, bytes_per_row=48 * n * n, memory=memory)
    a = _weights(adjacency)
    degree = a.sum(1)
    largest = float(torch.linalg.eigvalsh(a)[-1])
    if t is None:
        t = {"walk": 0.5 / largest, "communicability": 1 / largest, "commute": math.nan}.get(
            kind, n / float(degree.sum())
        )
    elif not (t > 0 and math.isfinite(t)) or (kind == "walk" and t * largest >= 1):
        limit = f", below 1 / {largest:.6g}" if kind == "walk" else ""
        raise InputError(f"t={t}: give a positive number{limit} for kind={kind!r}")
    eye = torch.eye(n, dtype=torch.float64)
    laplacian = torch.diag(degree) - a
    if kind == "walk":
        found = _inverse(eye - t * a)
    elif kind == "forest":
        found = _inverse(eye + t * laplacian)
    elif kind == "communicability":
        found = _exponential(t * a, 0.0)
    elif kind == "heat":
        top = float(degree.max())  # exp(-t L) = exp(-t top) exp(t (top I - L)), all terms positive
        found = _exponential(t * (top * eye - laplacian), t * top)
    else:
        found = torch.linalg.pinv(laplacian, hermitian=True)
    if not bool(torch.isfinite(found).all()):
        raise InputError(f"t={t}: the {kind} kernel overflows float64, give a smaller one")
    component = torch.from_numpy(connected_components(a.numpy(), directed=False)[1])
    apart = component[:, None] != component
    found = torch.where(apart, 0.0, (found + found.T) / 2)
    if log:
        if bool((found <= 0)[~apart].any()):
            raise InputError(f"t={t}: the {kind} kernel is zero in float64, give a larger one")
        found = found.log()
    own = found.diagonal()
    distance = ((own[:, None] + own) / 2 - found).fill_diagonal_(0)
    if kind == "commute":
        distance[apart] = math.inf
    mean = distance.sum(1) / max(n - 1, 1)
    return Proximity(
        value=float(mean.mean()), n=n, per_point=mean, kernel=found, distance=distance, t=t
    )


def _weights(adjacency: Any) -> Tensor:
    """(n, n) float64 weights without a diagonal, on the CPU."""
    dense = adjacency.toarray() if hasattr(adjacency, "toarray") else adjacency
    a = as_points(dense, name="adjacency").double().cpu().clone()
    if a.shape[0] != a.shape[1]:
        raise InputError(f"adjacency has shape {tuple(a.shape)}: give (n, n) weights")
    a.fill_diagonal_(0)
    if bool((a < 0).any()) or not bool(a.any()):
        raise InputError("adjacency has a negative weight, or no edge: give weights from 0")
    if float((a - a.T).abs().max()) > 1e-6 * float(a.max()):
        raise InputError("adjacency is not symmetric: give A + A^T")
    return (a + a.T) / 2


def _inverse(m: Tensor) -> Tensor:
    """Inverse of a symmetric M-matrix, each entry to nearly full relative precision.

    Gauss-Jordan elimination without pivoting: off the diagonal all numbers stay of one sign, so
    that nothing cancels.
    """
    m = m.clone()
    for i in range(len(m)):
        pivot = m[i, i].clone()
        row, column = m[i] / pivot, m[:, i].clone()
        m -= column[:, None] * row
        m[i], m[:, i] = row, -column / pivot
        m[i, i] = 1 / pivot
    return m


def _exponential(m: Tensor, shift: float) -> Tensor:
    """exp(m) exp(-shift) of a matrix without negative entries, by squaring its series.

    Squared often enough that the norm is at most 1, and that of the n - 1 steps between any two
    nodes one at most, on average, is left to a factor: entries far off are not lost with the terms.
    """
    squarings = math.ceil(math.log2(max(float(m.sum(1).max()), len(m), 1)))
    m, result = m / 2**squarings, torch.eye(len(m), dtype=m.dtype)
    for term in range(TERMS, 0, -1):  # Horner
        result = torch.eye(len(m), dtype=m.dtype) + m @ result / term
    result = result * math.exp(-shift / 2**squarings)
    for _ in range(squarings):
        result = result @ result
    return result
