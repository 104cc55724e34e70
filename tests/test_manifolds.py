"""The benchmark manifolds are scikit-dimension's in law; seeds and noise do what they say."""

import sys
from types import SimpleNamespace
from unittest import mock

import numpy as np
import pytest
import torch

from lowdim.errors import InputError
from lowdim.manifolds import BENCHMARK, with_noise


@pytest.fixture(scope="module")
def theirs():
    """Truths and samples of scikit-dimension, which wants pandas for printing the truths only."""
    datasets = pytest.importorskip("skdim.datasets")
    table = SimpleNamespace(DataFrame=lambda truth, index: SimpleNamespace(T=truth))
    with mock.patch.dict(sys.modules, pandas=table):
        benchmark = datasets.BenchmarkManifolds(random_state=0)
    return benchmark.truth, benchmark.generate(n=4000)


def test_names_and_truths_are_scikit_dimensions(theirs):
    ours = {m.name: (m.dim, m.ambient) for m in BENCHMARK.values()}
    assert ours == {name: row[:2] for name, row in theirs[0].items()}


@pytest.mark.parametrize("name", BENCHMARK)
def test_samples_have_scikit_dimensions_law(theirs, name):
    """Two-sample Kolmogorov-Smirnov over random projections, norms and gaps between pairs.

    M10 differs in one thing on purpose: theirs cuts the last face short to come to n points.
    """
    from scipy.stats import ks_2samp

    other = theirs[1][name]
    ours = BENCHMARK[name].sample(4000, seed=1).numpy()
    assert ours.shape == other.shape
    order = np.random.default_rng(5)
    directions = order.normal(size=(ours.shape[1], 5))
    mixed = order.permutation(other)
    statistics = [
        *zip((ours @ directions).T, (mixed @ directions).T, strict=True),
        (np.linalg.norm(ours, axis=1), np.linalg.norm(mixed, axis=1)),
        (
            np.linalg.norm(ours[::2] - ours[1::2], axis=1),
            np.linalg.norm(mixed[::2] - mixed[1::2], axis=1),
        ),
    ]
    assert min(ks_2samp(a, b).pvalue for a, b in statistics) > 1e-4


@pytest.mark.parametrize("m", BENCHMARK.values(), ids=lambda m: m.name)
def test_tangent_space_has_the_true_dimension(m):
    """No chart is of lower rank than its dimension: the points span at least that many."""
    x = m.sample(500, seed=2)
    assert x.shape == (500, m.ambient)
    assert int(torch.linalg.matrix_rank(x - x.mean(0), rtol=1e-9)) >= m.dim
    assert torch.equal(x, m.sample(500, seed=2))
    assert not torch.equal(x, m.sample(500, seed=3))


def test_noise_has_the_stated_length_and_leaves_the_points_beneath():
    roll = BENCHMARK["M7_Roll"]
    x, noisy = roll.sample(20_000, seed=1), roll.sample(20_000, noise=0.05, seed=1)
    added, spread = (noisy - x).square().sum(1).mean(), (x - x.mean(0)).square().sum(1).mean()
    assert float((added / spread).sqrt()) == pytest.approx(0.05, rel=0.02)
    with pytest.raises(InputError, match="noise=-1"):
        with_noise(x, -1, torch.Generator())
