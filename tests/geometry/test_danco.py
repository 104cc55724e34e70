"""The statistics against scikit-dimension, the divergences against quadrature, and known balls."""

import math

import numpy as np
import pytest
import torch
from scipy import stats
from scipy.integrate import quad

from lowdim import datasets
from lowdim.core.neighbors import Neighbors
from lowdim.errors import InputError
from lowdim.geometry import danco
from lowdim.geometry.danco import _BALLS, divergence, statistics
from tests.geometry.manifolds import normal


def read(x, k=10, **options):
    return danco(x, Neighbors.of_points(x, k + 1), k=k, **options)


@pytest.mark.parametrize("d", [2, 6])
def test_statistics_agree_with_scikit_dimension(d):
    """Concentration, and a likelihood of the norms no lower than its optimiser reached.

    Its mean angle takes the arc tangent of a quotient, which ours does not.
    """
    skdim = pytest.importorskip("skdim")
    x = datasets.sphere(150, d, 9)
    oracle = skdim.id.DANCo()
    oracle._k = 10
    expected = oracle._dancoDimEstNoCalibration(x.numpy(), 9)
    found = Neighbors.of_points(x, 11)
    seen, _ = statistics(x, found, 10)
    rhos = (found.distances[:, 0] / found.distances[:, 10]).numpy()
    ours, theirs = (oracle._lld(d, rhos, 150) for d in (seen[0], expected["dhat"]))
    assert ours >= theirs - 1e-9 * abs(theirs)
    assert seen[0] == pytest.approx(expected["dhat"], rel=0.02)
    assert seen[2] == pytest.approx(expected["mu_tau"], rel=1e-9)


def test_angle_is_the_direction_of_the_mean_resultant():
    x = normal(40, 8)
    found = Neighbors.of_points(x, 6)
    angles = []
    for row in range(40):
        v = x[found.indices[row, :5]] - x[row]
        cosines = torch.nn.functional.cosine_similarity(v[:, None], v[None], dim=2)
        first, second = torch.triu_indices(5, 5, 1)
        angles.append(stats.circmean(cosines[first, second].clamp(-1, 1).acos().numpy()))
    assert statistics(x, found, 5)[0][1] == pytest.approx(np.mean(angles), rel=1e-9)


@pytest.mark.parametrize("k", [2, 5, 10])
@pytest.mark.parametrize(("dim", "ball"), [(3.0, 4.0), (8.0, 5.5), (2.0, 2.0)])
def test_divergence_is_that_of_the_two_laws(k, dim, ball):
    seen, other = np.array([dim, 1.4, 2.5]), np.array([ball, 1.5, 4.0])

    def log_density(r, d):
        return math.log(k * d) + (d - 1) * math.log(r) + (k - 1) * math.log1p(-(r**d))

    norms = quad(
        lambda r: math.exp(log_density(r, dim)) * (log_density(r, dim) - log_density(r, ball)),
        0, 1,
    )[0]  # fmt: skip
    p, q = stats.vonmises(2.5, 1.4), stats.vonmises(4.0, 1.5)
    angles = quad(lambda t: p.pdf(t) * (p.logpdf(t) - q.logpdf(t)), 1.4 - np.pi, 1.4 + np.pi)[0]
    assert divergence(seen, other, k) == pytest.approx(norms + angles, rel=1e-6)


def test_divergence_agrees_with_scikit_dimension_up_to_its_constant():
    skdim = pytest.importorskip("skdim")
    oracle = skdim.id.DANCo()
    oracle._k = 10
    rows = [np.array(row) for row in ([4.8, 1.2, 5.8], [4.0, 1.4, 2.0], [9.0, 1.5, 3.0])]
    kept = [dict(zip(("dhat", "mu_nu", "mu_tau"), row, strict=True)) for row in rows]
    constant = (1 / np.arange(1, 11)).sum() + 9 / 10
    for i in range(3):
        for j in range(3):
            expected = oracle._KL(kept[i], kept[j]) - constant
            assert divergence(rows[i], rows[j], 10) == pytest.approx(expected, abs=1e-9)


@pytest.mark.parametrize("d", [1, 2, 5, 10, 20])
def test_balls_and_spheres(d):
    assert read(datasets.ball(600, d, 24)).value == pytest.approx(d, rel=0.1)
    assert read(datasets.sphere(600, d, 24)).value == pytest.approx(d, rel=0.15)


def test_a_ball_hardly_diverges_and_a_normal_cloud_does():
    ball, cloud = read(datasets.ball(600, 10, 12)), read(datasets.affine(600, 10, 12))
    assert ball.divergence < 0.01 < 0.04 < cloud.divergence
    assert ball.from_norms < 9 < ball.value


def test_between_one_and_the_number_of_columns():
    """A minimum at an end has no slope to tell its error by."""
    for x, end in ((torch.rand(100, 1).double(), 1), (normal(300, 5), 5)):
        found = read(x)
        assert found.value == end
        assert found.low is found.high is found.standard_error is None
        assert "an end of the range" in found.notes[0]


def test_stated_error_is_that_of_repeated_draws_of_data_and_balls():
    found = [read(datasets.ball(250, 4, 6, seed=s), seed=s) for s in range(30)]
    spread = torch.tensor([f.value for f in found]).std()
    claimed = torch.tensor([f.standard_error for f in found]).mean()
    assert 0.6 < float(claimed / spread) < 1.8


def test_balls_are_kept_and_the_seed_decides():
    x = datasets.ball(120, 3, 5)
    first = read(x, seed=11)
    kept = len(_BALLS)
    assert read(x, seed=11).value == first.value
    assert len(_BALLS) == kept
    other = read(x, seed=12)
    assert other.value != first.value
    assert other.value == pytest.approx(first.value, rel=0.25)


def test_bad_input():
    x = normal(60, 3)
    for k in (1, 31):
        with pytest.raises(InputError, match=f"k={k}"):
            read(x, k)
    with pytest.raises(InputError, match="grid"):
        read(torch.eye(20).double())
