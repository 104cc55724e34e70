"""Points, atoms and codes that the tests of structure share."""

import torch

from lowdim.datasets import strata


def normal(*shape, seed=0):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def atoms(d, m, seed=0):
    """(d, m) columns of length one."""
    return torch.nn.functional.normalize(normal(d, m, seed=seed), dim=0)


def unit(n, noise=0.3, **options):
    """(n, d) unit rows of planted pieces."""
    return torch.nn.functional.normalize(strata(n, noise=noise, **options).points)


def dense(codes, n):
    """(b, n) the codes of b points over n, with all their zeros."""
    return (
        torch.zeros(len(codes["index"]), n)
        .double()
        .scatter_add(1, codes["index"], codes["values"].double())
    )
