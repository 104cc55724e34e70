"""Stationary representations: encoders that never meet and yet can be searched by each other.

Biondi et al. 2024. The last layer is fixed to the vertices of a regular simplex and never trained,
so every version of an encoder brings a class to the same place. Classes that are yet to come have
a vertex kept for them.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy, normalize

from lowdim.core.estimate import to_json
from lowdim.errors import InputError
from lowdim.registry import encoders, method
from lowdim.retrieval.metric import exact_search


def simplex_classifier(d: int, *, dtype: torch.dtype = torch.float32) -> Tensor:
    """(d + 1, d) unit vertices of a regular simplex: inner products of -1 / d, as far as can be.

    Notes
    -----
    w_i = sqrt(1 + 1/d) e_i - (1 + sqrt(d + 1)) / d^(3/2) 1 for i < d, and w_d = 1 / sqrt(d) 1;
    made in float64 and rounded once.
    """
    if d < 1:
        raise InputError(f"d={d}: a simplex has at least 1 dimension")
    vertices = math.sqrt(1 + 1 / d) * torch.eye(d + 1, d, dtype=torch.float64)
    vertices[:d] -= (1 + math.sqrt(d + 1)) / d**1.5
    vertices[d] = 1 / math.sqrt(d)
    return vertices.to(dtype)


@method(
    "retrieval/simplex-classifier",
    needs=encoders(),
    paper="Pernici et al. 2021; Biondi et al. 2024",
    arxiv="2405.02581",
    cost="O(d^2) a vector; nothing is trained",
)
class SimplexClassifier(nn.Module):
    """How is an encoder trained so that later versions search the store of the earlier ones?

    The head of the training: cosines with d + 1 fixed vertices, times ``scale``, are the logits of
    a cross-entropy. What is stored and searched is the (n, d) input of this head, by cosine.

    Parameters
    ----------
    dim : int
        d, columns of the encoder's output; as many classes and one more can be told apart, those
        that no example has yet included.
    scale : float
        Inverse temperature of the logits.

    Notes
    -----
    Trust it where the versions are trained on the same classes. A later class takes a vertex that
    was free, of which old rows know nothing: on digits, seven classes and then ten, new queries
    found less on the old store than old ones did.
    """

    vertices: Tensor

    def __init__(self, dim: int, *, scale: float = 16.0) -> None:
        super().__init__()
        if not scale > 0:
            raise InputError(f"scale={scale}: give a number above 0")
        self.scale = scale
        self.register_buffer("vertices", simplex_classifier(dim), persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        """(n, d + 1) logits of (n, d) features."""
        return self.scale * normalize(x) @ self.vertices.T


def hoc_loss(new: Tensor, old: Tensor, labels: Tensor, *, scale: float = 10.0) -> Tensor:
    """How far are new features from being nearer to their old selves than to other classes?

    Parameters
    ----------
    new, old : Tensor
        (n, d) features of the same n items, by the encoder in training and by the frozen one.
    labels : Tensor
        (n,) classes.
    scale : float
        Inverse temperature.

    Returns
    -------
    Tensor
        Mean over i of -log softmax of <new_i, old_i> among itself and every <new_i, old_j> of
        another class. An item with no other class in the batch adds 0.

    Notes
    -----
    InfoNCE with the pairs of one class left out: they are given no weight at all, where adding
    exp(0) for each, as a mask by zeros does, would pull every old feature of the class away too.
    """
    if new.shape != old.shape or new.ndim != 2 or labels.shape != new.shape[:1]:
        raise InputError(
            f"new {tuple(new.shape)}, old {tuple(old.shape)} and labels {tuple(labels.shape)}: "
            "give (n, d), (n, d) and (n,)"
        )
    scores = scale * normalize(new) @ normalize(old).T  # (n, n)
    same = labels[:, None] == labels[None]
    own = torch.eye(len(new), dtype=torch.bool, device=new.device)
    scores = scores.masked_fill(same & ~own, -math.inf)
    return cross_entropy(scores, torch.arange(len(new), device=new.device))


@dataclass(frozen=True)
class CompatibilityMatrix:
    """Which versions of an encoder can search the stores of which?

    Attributes
    ----------
    matrix : tuple of tuple of float
        Line t, column s: share of the k rows found that are of the query's class, queries by
        version t and rows by version s, versions in the order of training.
    k, n_queries, n_rows : int
        Of every search.
    """

    matrix: tuple[tuple[float, ...], ...]
    k: int
    n_queries: int
    n_rows: int

    @property
    def ac(self) -> float:
        """Average compatibility: share of pairs t > s where M[t][s] > M[s][s]."""
        m = self.matrix
        better = [m[t][s] > m[s][s] for t in range(len(m)) for s in range(t)]
        return sum(better) / len(better)

    @property
    def aa(self) -> float:
        """Average accuracy: mean of M[t][s] over t >= s."""
        values = [value for t, line in enumerate(self.matrix) for value in line[: t + 1]]
        return sum(values) / len(values)

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON values."""
        return to_json(asdict(self) | {"ac": self.ac, "aa": self.aa})

    def __str__(self) -> str:
        lines = [f"queries by version, rows by version: class of the first {self.k}"]
        lines += ["  " + " ".join(f"{value:.3f}" for value in line) for line in self.matrix]
        return "\n".join([*lines, f"AC {self.ac:.3f}, AA {self.aa:.3f}"])


def compatibility_matrix(
    queries: Sequence[Any], rows: Sequence[Any], query_labels: Any, row_labels: Any, *,
    k: int = 1, metric: str = "cosine",
) -> CompatibilityMatrix:  # fmt: skip
    """Which versions of an encoder can search the stores of which?

    Parameters
    ----------
    queries, rows : sequence of array-like
        T of (m, d) and T of (n, d): the same queries and the same rows by each version, in the
        order of training.
    query_labels, row_labels : array-like
        (m,) and (n,) classes.
    k : int
        Rows found for each query.
    metric : {"cosine", "dot", "euclidean"}
        What near means.

    Raises
    ------
    InputError
        Fewer than two versions, counts or columns that differ, k out of range, NaN or Inf.

    Notes
    -----
    T^2 exact searches. AC asks for a strict gain, as Biondi et al. do: versions of the very same
    quality score 0.
    """
    if len(queries) != len(rows) or len(queries) < 2:
        raise InputError(f"{len(queries)} sets of queries and {len(rows)} of rows: give T of each")
    wanted, classes = torch.as_tensor(query_labels), torch.as_tensor(row_labels)
    if any(len(q) != len(wanted) for q in queries) or any(len(r) != len(classes) for r in rows):
        raise InputError(
            f"there are {len(wanted)} labels of queries and {len(classes)} of rows: "
            "every version has to have as many"
        )

    def quality(q: Any, r: Any) -> float:
        found = exact_search(r, q, k, metric=metric)[0]  # (m, k)
        return float((classes[found] == wanted[:, None]).double().mean())

    matrix = tuple(tuple(quality(q, r) for r in rows) for q in queries)
    return CompatibilityMatrix(matrix, k, len(wanted), len(classes))
