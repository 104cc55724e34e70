"""What a plan says of the vectors: directions in use, intrinsic and local dimension, pieces."""

from __future__ import annotations

from statistics import median
from typing import Any

import torch
from torch import Tensor

from lowdim.core.neighbors import Neighbors
from lowdim.core.points import distinct
from lowdim.core.random import permutation
from lowdim.core.spectrum import Spectrum
from lowdim.errors import InputError
from lowdim.geometry.mle import mle
from lowdim.geometry.two_nn import two_nn
from lowdim.retrieval.k_means import k_means, nearest

LOCAL = 4_000
"""Rows for the intrinsic dimension."""

PIECES, PARTED = 16, 20_000
"""Pieces that are looked into, and rows that are cut into them."""

FEWEST = 20
"""Rows below which a piece is left out."""


def structure(
    x: Tensor, *, seed: int = 0, memory: int | float | str | None = None
) -> tuple[dict[str, Any], list[str]]:
    """How many directions do (n, d) vectors use, in all and around each? And what is not known.

    Returns
    -------
    dict, list of str
        ``effective_rank``, ``participation_ratio``, ``rank_90``, ``rank_99``, ``energy`` of
        ``rows`` vectors; ``two_nn``, ``mle`` and quantiles of the ``local`` dimension of
        ``local_rows``; ``strata`` of :func:`strata`; and notes.
    """
    spectrum = Spectrum.of_points(x)
    values: dict[str, Any] = {
        "effective_rank": spectrum.effective_rank(),
        "participation_ratio": spectrum.participation_ratio(),
        "rank_90": spectrum.rank_at(0.9),
        "rank_99": spectrum.rank_at(0.99),
        "energy": (spectrum.values / spectrum.total).tolist(),
        "rows": len(x),
    }
    sample = distinct(x[:LOCAL])[0]
    try:
        neighbors = Neighbors.of_points(sample, 20, memory=memory)
        local = mle(neighbors)
        values["two_nn"] = two_nn(neighbors).to_dict()
        values["mle"] = local.to_dict()
    except InputError as error:
        return values, [f"no intrinsic dimension: {error}"]
    assert local.per_point is not None
    inside = local.per_point[local.per_point.isfinite()]
    shares = torch.tensor([0.1, 0.5, 0.9], dtype=inside.dtype)
    values["local"] = dict(
        zip(("10%", "50%", "90%"), inside.quantile(shares).tolist(), strict=True)
    )
    values["local_rows"] = len(sample)
    values["strata"] = strata(x[:PARTED], sample, local.per_point, seed=seed)
    return values, []


def strata(x: Tensor, sample: Tensor, local: Tensor, *, seed: int = 0) -> dict[str, Any] | None:
    """Do pieces of the vectors use fewer directions than all of them, and each its own number?

    Parameters
    ----------
    x : Tensor
        (n, d) vectors, cut into at most 16 pieces by k-means.
    sample, local : Tensor
        (m, d) vectors and their local dimensions.
    seed : int
        Of the pieces.

    Returns
    -------
    dict or None
        ``pieces``; ``rank_90``, directions with 90% of the variance, of the median piece, and
        ``rank_90_random`` of random sets of the same sizes, which few rows bound alike;
        ``dimension``, least and largest mean of the local dimension in a piece. None for few rows.
    """
    centroids = k_means(x, max(1, min(PIECES, len(x) // FEWEST)), seed=seed)
    labels = nearest(x, centroids)[0]
    shuffled = labels[permutation(len(labels), seed)]
    sizes = labels.bincount(minlength=len(centroids))
    kept = (sizes >= FEWEST).nonzero()[:, 0].tolist()
    where = nearest(sample, centroids)[0]
    means = [float(near[near.isfinite()].mean()) for near in (local[where == p] for p in kept)]
    known = [mean for mean in means if mean == mean]  # NaN where a piece has none of the sample
    if len(kept) < 2 or not known:
        return None
    own, random = (
        median(Spectrum.of_points(x[by == piece]).rank_at(0.9) for piece in kept)
        for by in (labels, shuffled)
    )
    return {
        "pieces": len(kept), "rank_90": own, "rank_90_random": random,
        "dimension": [min(known), max(known)],
    }  # fmt: skip
