"""Points whose dimension is known, and estimators' neighbours on them."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from scipy.spatial import cKDTree

from lowdim import datasets
from lowdim.core.neighbors import Neighbors


def normal(n, d, seed=0):
    """(n, d) standard normal."""
    return torch.randn(n, d, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def cube(n, d, seed=0):
    """(n, d) uniform in the unit cube."""
    return torch.rand(n, d, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def flat_torus(n, d, k, seed=0):
    """Neighbours of uniform points on the flat torus: no boundary, no curvature, no bias."""
    points = np.random.default_rng(seed).random((n, d))
    distances, indices = cKDTree(points, boxsize=1).query(points, k + 1)
    own = torch.from_numpy(distances[:, 1:]), torch.from_numpy(indices[:, 1:])
    return Neighbors(*own, n_reference=n, dim=d)


def flat_torus_queries(n, m, d, k, seed=0):
    """Neighbours of n uniform queries among m other uniform points of the flat torus."""
    generator = np.random.default_rng(seed)
    points, queries = generator.random((m, d)), generator.random((n, d))
    distances, indices = cKDTree(points, boxsize=1).query(queries, k)
    return Neighbors(torch.from_numpy(distances), torch.from_numpy(indices), n_reference=m, dim=d)


def coverage(found, truth):
    """Share of intervals that hold the truth, and the stated error over the spread of values."""
    hits = np.mean([e.low <= truth <= e.high for e in found])
    claimed = np.mean([e.standard_error for e in found])
    return hits, claimed / np.std([e.value for e in found], ddof=1)


def known(affine):
    """For a test of ``(x, d)``: points of known dimension, the affine ones of ``affine``."""
    return pytest.mark.parametrize(
        ("x", "d"),
        [
            (datasets.affine(1500, affine, 20), affine),
            (datasets.sphere(1500, 2, 10), 2),
            (datasets.flat_torus(1500, 2, 12), 2),
            (datasets.swiss_roll(1500), 2),
        ],
        ids=["affine", "sphere", "torus", "swiss roll"],
    )
