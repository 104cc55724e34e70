"""The measured parts of a strata report: pieces, map, sharing, distances between; all JSON values.

Everything here reads at most the rows it is given, which is a sample where the points are many; the
report says so once, and where a part looks at fewer rows still it says how many.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from lowdim.core.random import choice
from lowdim.core.spectrum import Spectrum
from lowdim.core.strata import Strata
from lowdim.core.subspace import Subspace
from lowdim.geometry.label_dimension import dimension_by_label
from lowdim.geometry.nearest import Z95
from lowdim.nouns import Shared
from lowdim.registry import find
from lowdim.report.sections import attempt, histogram, measured
from lowdim.structure.ranks import bic_rank

MAP_POINTS = 3_000
FEWEST_TSNE = 100
TSNE_DIMS = 50
ENERGY = 0.75
"""A piece's PCA dimension is the least number of directions with this share of its variance."""
EXAMPLES = 3
LABELS_DRAWN = 12
HARD = 1e-6


@dataclass(frozen=True)
class Sharing:
    """How far the piece of each point is in doubt.

    Attributes
    ----------
    kind : {"entropy", "margin", "distance"}
        Gate entropy where points are shared among pieces; for methods that give each point to one
        piece the margin (b - a) / max(a, b), with a its distance to its own piece and b to the
        nearest other; the distance itself where there is but one piece.
    values : Tensor
        (n,) of that.
    doubt : Tensor
        (n,) the same turned so that more is nearer to a border.
    other : Tensor or None
        (n,) the piece that comes second.
    distance : Tensor
        (n,) to its own piece.
    """

    kind: str
    values: Tensor
    doubt: Tensor
    other: Tensor | None
    distance: Tensor


def apart(strata: Strata, x: Tensor, labels: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """(m,) distance to the own piece, to the nearest other piece, and which that is."""
    distances = torch.stack([piece.residual(x) for piece in strata.pieces], 1).double().sqrt()
    own = distances.gather(1, labels[:, None])  # (m, 1)
    nearest, other = distances.scatter(1, labels[:, None], torch.inf).min(1)
    return own[:, 0], nearest, other


def margins(own: Tensor, nearest: Tensor) -> Tensor:
    """(b - a) / max(a, b): the simplified silhouette (Hruschka et al. 2004) with distances to
    pieces; 0 where both are zero.
    """
    largest = torch.maximum(own, nearest)
    return torch.where(largest > 0, (nearest - own) / largest, 0.0)


def share(strata: Strata, x: Tensor, rows: Tensor) -> Sharing:
    """How far are points between pieces? ``x`` holds the points with numbers ``rows``."""
    weights = strata.weights[rows]
    own, nearest, other = apart(strata, x, strata.labels[rows])
    if len(strata.pieces) == 1:
        return Sharing("distance", own, own, None, own)
    if float(strata.weights.amax(1).min()) < 1 - HARD:
        entropy = torch.special.entr(weights.double()).sum(1)
        return Sharing("entropy", entropy, entropy, weights.topk(2, dim=1).indices[:, 1], own)
    margin = margins(own, nearest)
    return Sharing("margin", margin, -margin, other, own)


def piece_rows(
    x: Tensor,
    labels: Tensor,
    strata: Strata,
    sharing: Sharing,
    texts: Sequence[str] | None,
    names: Sequence[str] | None,
    rows: Tensor,
    notes: list[str],
    memory: int | float | str | None,
    seed: int,
) -> dict[str, Any]:
    """Size and dimension of every piece, its texts in the middle and at the border.

    Maximum likelihood is read at one number of points for all pieces, since its bias depends on
    it; TwoNN, the PCA rule and the BIC rank on all points of the piece.
    """
    equal = attempt(
        lambda: dimension_by_label(x, labels.tolist(), seed=seed, memory=memory),
        notes,
        "dimension of the pieces",
    )
    by_piece = {int(row.label): row for row in equal.rows} if equal is not None else {}
    two_nn = find("geometry/two-nn")
    found = []
    for k, piece in enumerate(strata.pieces):
        at = (labels == k).nonzero()[:, 0]
        row: dict[str, Any] = {"piece": k, "n": len(at), "share": len(at) / len(x)}
        row |= {"size": float(strata.sizes[k]), "rank": piece.rank, "estimates": {}}
        row |= {"pca": None, "bic": None}
        if len(at) > 1:
            spectrum = Spectrum.of_points(x[at], memory=memory)
            row["pca"] = spectrum.rank_at(ENERGY) if spectrum.total else 0
            row["bic"] = bic_rank(spectrum.values, len(at), x.shape[1])
            shared = Shared(x[at], [two_nn], memory=memory, seed=seed)
            row["estimates"] = measured([two_nn], shared.run, notes, f"piece {k}")
        if equal is not None and (one := by_piece.get(k)) is not None and one.value is not None:
            ends = {"low": one.low, "high": one.high, "n": equal.n_each}
            row["estimates"]["geometry/mle"] = {"value": one.value} | ends
        row["doubt"] = float(sharing.values[at].mean()) if len(at) else None
        row |= examples(at, sharing, texts, names, rows)
        found.append(row)
    test = None
    if equal is not None and equal.p_value is not None:
        test = {"p_value": equal.p_value, "n_each": equal.n_each, "method": equal.method}
    return {"rows": found, "equal": test}


def examples(
    at: Tensor,
    sharing: Sharing,
    texts: Sequence[str] | None,
    names: Sequence[str] | None,
    rows: Tensor,
) -> dict[str, Any]:
    """The points of a piece that are most surely in it, and those nearest to its border."""
    order = np.lexsort((sharing.distance[at].numpy(), sharing.doubt[at].numpy()))
    sure = at[torch.from_numpy(order)].tolist()
    count = min(EXAMPLES, (len(sure) + 1) // 2)

    def said(i: int) -> dict[str, Any]:
        entry: dict[str, Any] = {"row": int(rows[i]), "value": float(sharing.values[i])}
        entry["text"] = texts[i] if texts is not None else None
        entry["label"] = names[i] if names is not None else None
        entry["other"] = int(sharing.other[i]) if sharing.other is not None else None
        return entry

    return {
        "typical": [said(i) for i in sure[:count]],
        "borderline": [said(i) for i in sure[::-1][: min(count, len(sure) - count)]],
    }


def gate(sharing: Sharing, names: Sequence[str] | None) -> dict[str, Any]:
    """How the doubt is spread over all points, and label by label."""
    values = sharing.values
    section: dict[str, Any] = {"kind": sharing.kind, "all": _spread("all points", values)}
    section["labels"] = []
    if names is not None and len(set(names)) > 1:
        code, index = np.unique(np.asarray(names), return_inverse=True)
        sizes = np.bincount(index)
        for i in np.argsort(-sizes, kind="stable")[:LABELS_DRAWN]:
            member = torch.from_numpy(index == i)
            section["labels"].append(_spread(str(code[i]), values[member]))
        section["n_labels"] = len(code)
    return section


def _spread(name: str, values: Tensor) -> dict[str, Any]:
    n, mean = len(values), float(values.mean())
    reach = Z95 * float(values.std()) / math.sqrt(n) if n > 1 else 0.0
    entry = {"label": name, "n": n, "value": mean, "low": mean - reach, "high": mean + reach}
    return entry | {"histogram": histogram(values)}


def between(strata: Strata) -> dict[str, Any] | None:
    """Distances and smallest principal angles between pieces; nothing where there is one."""
    if len(strata.pieces) < 2:
        return None
    centers = torch.stack([piece.center for piece in strata.pieces]).double()
    angles = torch.rad2deg(strata.angles())
    point = torch.tensor([piece.rank == 0 for piece in strata.pieces])
    angles[point] = angles[:, point] = torch.nan  # a piece without directions has no angle
    return {
        "centers": torch.cdist(centers, centers, compute_mode="donot_use_mm_for_euclid_dist"),
        "directions": strata.distances(),
        "angles": angles,
    }


def point_map(
    x: Tensor,
    labels: Tensor,
    names: Sequence[str] | None,
    texts: Sequence[str] | None,
    local: Tensor | None,
    rows: Tensor,
    seed: int,
) -> dict[str, Any]:
    """A plane for at most 3,000 points: t-SNE of their 50 leading principal coordinates.

    Principal directions alone where there are fewer than 100 points, or two columns.
    """
    at = choice(len(x), min(len(x), MAP_POINTS), seed=seed).sort().values
    rank = min(TSNE_DIMS, *x[at].shape)
    plane = Subspace.of_points(x[at], rank=rank)
    z = plane.project(x[at])  # (m, d) @ (d, 50)
    section: dict[str, Any] = {"n": len(at), "of": len(x)}
    if len(at) >= FEWEST_TSNE and rank > 2:
        from sklearn.manifold import TSNE

        section |= {"method": "t-SNE", "perplexity": 30.0, "dims": rank}
        section["energy"] = plane.energy_held if plane.total else None
        embedding = TSNE(init="pca", perplexity=30.0, random_state=seed % 2**32)
        z = torch.from_numpy(embedding.fit_transform(z.float().numpy()))
    else:
        held = plane.values[:2].sum() if plane.values is not None else 0.0
        section |= {"method": "PCA", "energy": float(held) / plane.total if plane.total else None}
        z = torch.nn.functional.pad(z[:, :2], (0, max(0, 2 - rank)))
    picked = at.tolist()
    section |= {"x": z[:, 0].tolist(), "y": z[:, 1].tolist(), "row": rows[at].tolist()}
    section["piece"] = labels[at].tolist()
    section["label"] = [names[i] for i in picked] if names is not None else None
    section["text"] = [texts[i] for i in picked] if texts is not None else None
    section["local_dimension"] = local[at].tolist() if local is not None else None
    return section
