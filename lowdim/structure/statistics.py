"""What is said of strata once they are found: the statistics of Li and Sarwate 2025, checked.

Of the assignment: contingency with labels, entropy of the gates, use of the experts, separation of
the pieces. Of the pieces: intrinsic dimension by the paper's rule (the fewest principal directions
with 75% of the variance) and by estimators that know curvature, sparsity in use. Of the experts:
distances and angles between dictionaries, lengths of the keys.
"""

from __future__ import annotations

import dataclasses
import math
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from scipy.optimize import linear_sum_assignment
from sklearn import metrics
from torch import Tensor

from lowdim.battery import measure
from lowdim.core.estimate import to_json
from lowdim.core.memory import plan
from lowdim.core.spectrum import Spectrum
from lowdim.core.strata import Strata
from lowdim.core.subspace import Subspace
from lowdim.errors import InputError
from lowdim.structure.base import PieceFinder
from lowdim.structure.estimator import open_source

ESTIMATORS = ("two-nn", "mle", "gride")
SILHOUETTE = 5000
"""Points whose silhouette is averaged; it takes all distances between them."""


@dataclass(frozen=True, eq=False)
class StrataStatistics:
    """The pieces in figures. K pieces, L labels; what does not apply is None.

    Attributes
    ----------
    n : int
        Points.
    sizes : Tensor
        (K,) points that belong to each piece most.
    utilisation : Tensor
        (K,) mean share of each piece.
    entropy : float
        Mean entropy of the gates, in nats.
    relative_entropy : float
        The same over log K: 0 where every point is on one piece, 1 where all share all.
    entropies : Tensor
        (n,) of each point; not in :meth:`to_dict`.
    attention_entropy : float or None
        Mean entropy of the gate alone, before the experts compete.
    gates_by_piece : Tensor
        (K, K) mean gates of the points of each piece.
    dimensions : dict
        By rule (``bic``, ``pca75`` and those of :mod:`lowdim.geometry`) the K dimensions; None for
        a piece that has too few points.
    weighted_sparsity : list or None
        For each piece the mean of sum_k gate_k s_k over its points.
    separation : dict
        ``silhouette`` (-1 to 1, higher is better), ``davies_bouldin`` (from 0, lower is better),
        ``calinski_harabasz`` (from 0, higher is better); None with fewer than two pieces in use.
    piece_angles : Tensor
        (K, K) smallest principal angle between pieces, in radians.
    piece_distances : Tensor
        (K, K) chordal distance between the directions of pieces.
    dictionary_distances : Tensor or None
        (K, K) |D_k - D_l|_F of the unit atoms in the order in which they are stored, as in the
        paper; the order and the signs of atoms mean nothing.
    matched_distances : Tensor or None
        (K, K) the least of these over all orders and signs of the atoms.
    span_angles : Tensor or None
        (K, K, q) principal angles between the spans of dictionaries, ascending; inf where there are
        fewer than the most. Spans of many atoms in few columns meet in any case.
    key_norms : Tensor or None
        (K,) lengths of the gate's keys.
    labels : list or None
        The L labels, sorted.
    contingency : Tensor or None
        (K, L) points on a piece with a label.
    entropy_by_label : list or None
        (L,) mean entropy of the gates.
    gates_by_label : Tensor or None
        (L, K) mean gates.
    nmi, ari : float or None
        Normalised mutual information and adjusted Rand index of pieces and labels.
    notes : tuple of str
        What a careful reader must know.
    """

    n: int
    sizes: Tensor
    utilisation: Tensor
    entropy: float
    relative_entropy: float
    entropies: Tensor = field(repr=False)
    attention_entropy: float | None
    gates_by_piece: Tensor
    dimensions: dict[str, list[float | None]]
    weighted_sparsity: list[float | None] | None
    separation: dict[str, float | None]
    piece_angles: Tensor
    piece_distances: Tensor
    dictionary_distances: Tensor | None
    matched_distances: Tensor | None
    span_angles: Tensor | None
    key_norms: Tensor | None
    labels: list[Any] | None
    contingency: Tensor | None
    entropy_by_label: list[float] | None
    gates_by_label: Tensor | None
    nmi: float | None
    ari: float | None
    notes: tuple[str, ...]

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON values; what holds one number a point is left out."""
        items = {f.name: getattr(self, f.name) for f in dataclasses.fields(self)}
        items.pop("entropies")
        return {name: to_json(value) for name, value in items.items()}


def strata_statistics(
    x: Any,
    model: Strata | PieceFinder,
    labels: Any = None,
    *,
    memory: int | float | str | None = None,
) -> StrataStatistics:
    """What do the pieces look like in figures?

    Parameters
    ----------
    x : array-like, path or source
        (n, d) points.
    model : PieceFinder or Strata
        A fitted finder, whose gates are taken at ``x``, or strata whose weights are of these rows.
    labels : array-like, optional
        (n,) known labels.
    memory : int, float or str, optional
        Budget: the points are held, and the neighbours of each piece searched for.

    Raises
    ------
    InputError
        Weights or labels of another number of rows; a finder that is not fitted.
    MemoryBudgetError
        The points do not fit.

    Notes
    -----
    Trust dimensions where rules agree. ``pca75`` is small wherever the variance is uneven, and
    depends on the scale of the columns. Separation figures suppose round clusters: pieces that
    cross have poor ones, however real they are.
    """
    source = open_source(x)
    plan("the points", rows=1, bytes_per_row=2 * source.n * source.dim * source.dtype.itemsize,
         memory=memory)  # fmt: skip
    points = source.read(memory).cpu()
    if isinstance(model, Strata):
        strata, gates = model, model.weights.cpu()
    else:
        gates = model.gates(points).cpu()
        strata = model.strata_
    if len(gates) != len(points):
        raise InputError(f"the strata are of {len(gates)} points, x has {len(points)}")
    k = gates.shape[1]
    pieces = gates.argmax(1)
    entropies = torch.special.entr(gates.double()).sum(1)
    sparsity, keys = getattr(model, "sparsity_", None), getattr(model, "keys_", None)
    in_use = None if sparsity is None else gates.double() @ torch.tensor(sparsity).double()
    dimensions, notes = _dimensions(points, pieces, strata, memory)
    return StrataStatistics(
        n=len(points),
        sizes=pieces.bincount(minlength=k),
        utilisation=gates.double().mean(0),
        entropy=float(entropies.mean()),
        relative_entropy=float(entropies.mean()) / math.log(k) if k > 1 else 0.0,
        entropies=entropies,
        attention_entropy=_attention_entropy(model, points),
        gates_by_piece=_means(gates.double(), pieces, k),
        dimensions=dimensions,
        weighted_sparsity=None if in_use is None else to_json(_means(in_use, pieces, k)),
        separation=_separation(points, pieces),
        piece_angles=strata.angles(),
        piece_distances=strata.distances(),
        **_of_dictionaries(getattr(model, "dictionaries_", None)),
        key_norms=None if keys is None else keys.norm(dim=1).cpu(),
        **_of_labels(gates.double(), pieces, entropies, labels),
        notes=notes,
    )


def _means(values: Tensor, groups: Tensor, k: int) -> Tensor:
    """(k, ...) mean of the rows of each group; nan for a group without rows."""
    return torch.stack([values[groups == j].mean(0) for j in range(k)])


def _attention_entropy(model: Strata | PieceFinder, x: Tensor) -> float | None:
    attention = getattr(model, "attention", None)
    return None if attention is None else float(torch.special.entr(attention(x)).sum(1).mean())


def _dimensions(
    x: Tensor, pieces: Tensor, strata: Strata, memory: int | float | str | None
) -> tuple[dict[str, list[float | None]], tuple[str, ...]]:
    found: dict[str, list[float | None]] = {"bic": list(strata.dims), "pca75": []}
    found |= {name: [] for name in ESTIMATORS}
    notes = []
    for k in range(len(strata.pieces)):
        own = x[pieces == k]
        spectrum = Spectrum.of_points(own, memory=memory) if len(own) else None
        known = spectrum is not None and spectrum.total > 0
        found["pca75"].append(spectrum.rank_at(0.75) if known and spectrum else None)
        for name in ESTIMATORS:
            try:
                found[name].append(float(measure(own, name, memory=memory)[name].value))
            except InputError as error:
                found[name].append(None)
                notes.append(f"piece {k}: no {name} dimension ({error})")
    return found, tuple(notes)


def _separation(x: Tensor, pieces: Tensor) -> dict[str, float | None]:
    names = ("silhouette", "davies_bouldin", "calinski_harabasz")
    points, labels = x.numpy(), pieces.numpy()
    if not 2 <= len(np.unique(labels)) < len(points):
        return dict.fromkeys(names)
    few = min(SILHOUETTE, len(points))
    rows = np.random.default_rng(0).permutation(len(points))[:few]
    parts = len(np.unique(labels[rows]))
    silhouette = metrics.silhouette_score(points[rows], labels[rows]) if 2 <= parts < few else None
    values = (
        silhouette,
        metrics.davies_bouldin_score(points, labels),
        metrics.calinski_harabasz_score(points, labels),
    )
    return {name: v if v is None else float(v) for name, v in zip(names, values, strict=True)}


def _of_dictionaries(dictionaries: Tensor | None) -> dict[str, Any]:
    if dictionaries is None:
        return dict.fromkeys(("dictionary_distances", "matched_distances", "span_angles"))
    atoms = torch.nn.functional.normalize(dictionaries.double().cpu(), dim=1)  # (K, d, m)
    k, _, m = atoms.shape
    spans = [Subspace.of_vectors(a) for a in atoms]
    stored, matched = torch.zeros(k, k).double(), torch.zeros(k, k).double()
    angles = torch.full((k, k, max(s.rank for s in spans)), math.inf, dtype=torch.float64)
    for i in range(k):
        for j in range(k):
            likeness = (atoms[i].T @ atoms[j]).abs()
            rows, columns = linear_sum_assignment(-likeness.numpy())
            between = spans[i].angles(spans[j])
            stored[i, j] = torch.linalg.matrix_norm(atoms[i] - atoms[j])
            matched[i, j] = (2 * m - 2 * likeness[rows, columns].sum()).clamp_min(0).sqrt()
            angles[i, j, : len(between)] = between
    return {"dictionary_distances": stored, "matched_distances": matched, "span_angles": angles}


def _of_labels(gates: Tensor, pieces: Tensor, entropies: Tensor, labels: Any) -> dict[str, Any]:
    names = ("labels", "contingency", "entropy_by_label", "gates_by_label", "nmi", "ari")
    if labels is None:
        return dict.fromkeys(names)
    known = np.asarray(labels)
    if known.shape != (len(pieces),):
        raise InputError(f"labels have shape {known.shape}: give {len(pieces)}, one a point")
    values, inverse = np.unique(known, return_inverse=True)
    codes = torch.from_numpy(inverse.reshape(-1))
    shape = gates.shape[1], len(values)
    count = (pieces * shape[1] + codes).bincount(minlength=math.prod(shape)).view(shape)
    return {
        "labels": values.tolist(),
        "contingency": count,
        "entropy_by_label": _means(entropies, codes, len(values)).tolist(),
        "gates_by_label": _means(gates, codes, len(values)),
        "nmi": float(metrics.normalized_mutual_info_score(codes, pieces)),
        "ari": float(metrics.adjusted_rand_score(codes, pieces)),
    }
