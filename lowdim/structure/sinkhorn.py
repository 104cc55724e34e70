"""The doubly stochastic matrix nearest to similarities, in the sense of entropy (Sinkhorn 1967).

For symmetric logits L the matrix P_ij = exp(L_ij + f_i + f_j) with rows and columns that sum to
one is that of largest <P, L> + entropy. Each step moves f half of the way to where the rows would
sum to one (Knight, Ruiz and Ucar 2014), which keeps P symmetric and converges linearly.
"""

from __future__ import annotations

import numpy as np
import scipy.sparse as sp
from torch import Tensor

from lowdim.errors import InputError

STEPS = 1000


def doubly_stochastic(logits: Tensor, *, tolerance: float = 1e-6) -> Tensor:
    """Which symmetric matrix with rows that sum to one is nearest to exp(logits)?

    Parameters
    ----------
    logits : Tensor
        (n, n) symmetric; gradients flow to them through every step. Cost: n^2 a step, and as many
        numbers held for the gradient.
    tolerance : float
        Largest deviation of a row from one.

    Raises
    ------
    InputError
        Not square, or no convergence within 1,000 steps.
    """
    if logits.ndim != 2 or logits.shape[0] != logits.shape[1]:
        raise InputError(f"logits have shape {tuple(logits.shape)}: give (n, n)")
    f = -logits.logsumexp(1) / 2
    for _ in range(STEPS):
        row = f + (logits + f).logsumexp(1)  # log of the sum of each row
        if float(row.detach().exp().sub(1).abs().max()) <= tolerance:
            return (logits + f + f[:, None]).exp()
        f = f - row / 2
    raise InputError(
        f"the rows are not within {tolerance} of one after {STEPS} steps: raise the temperature"
    )


def sparse_doubly_stochastic(graph: sp.sparray, *, tolerance: float = 1e-6) -> sp.csr_array:
    """The same of a sparse symmetric matrix, on the places it has.

    Parameters
    ----------
    graph : sparse array
        (n, n) symmetric, not negative, with a positive diagonal: then such a matrix exists.
    tolerance : float
        Largest deviation of a row from one.
    """
    a = sp.csr_array(graph, dtype=np.float64)
    if (a.data < 0).any() or not (a.diagonal() > 0).all():
        raise InputError("the graph has a negative weight, or a node without a loop")
    scale = 1 / np.sqrt(np.asarray(a.sum(axis=1)).ravel())
    for _ in range(STEPS):
        row = scale * (a @ scale)
        if np.abs(row - 1).max() <= tolerance:
            return sp.csr_array(sp.diags_array(scale) @ a @ sp.diags_array(scale))
        scale = scale / np.sqrt(row)
    raise InputError(f"the rows are not within {tolerance} of one after {STEPS} steps")
