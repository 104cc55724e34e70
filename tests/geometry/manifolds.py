"""Points whose dimension is known, and estimators' neighbours on them."""

from __future__ import annotations

import numpy as np
import torch
from scipy.spatial import cKDTree

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
