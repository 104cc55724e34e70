"""Agreement with scikit-dimension patch by patch, and ranks of known manifolds."""

from functools import partial

import pytest
import torch

from lowdim import datasets
from lowdim.core.neighbors import Neighbors
from lowdim.errors import InputError
from lowdim.geometry import local_pca, stopping
from tests.geometry.manifolds import cube, normal


def read(x, k=30, **options):
    return local_pca(x, Neighbors.of_points(x, k), k=k, **options)


@pytest.mark.parametrize(
    ("name", "rule"),
    [
        ("FO", stopping.fukunaga_olsen),
        ("Fan", stopping.fan),
        ("ratio", stopping.explained),
        ("participation_ratio", stopping.participation),
        ("Minka", partial(stopping.minka, n=25, dim=10)),
    ],
)
def test_agrees_with_scikit_dimension(name, rule):
    skdim = pytest.importorskip("skdim")
    x = datasets.sphere(60, 4, 10) + 0.03 * normal(60, 10, 9)
    found = Neighbors.of_points(x, 25)
    oracle = skdim.id.lPCA(ver=name, alphaRatio=0.95)
    oracle.fit_pw(x.numpy(), precomputed_knn=found.indices.numpy(), n_neighbors=25)
    ours = local_pca(x, found, k=25, rule=rule).per_point
    assert ours.tolist() == pytest.approx(oracle.dimension_pw_.tolist(), rel=1e-9)


def test_a_gap_is_not_found_at_the_number_of_points():
    """25 centred points have rank 24 whatever they are; scikit-dimension reads that as a gap."""
    x = normal(80, 3) @ normal(3, 60, 1) + 1e-3 * normal(80, 60, 2)
    assert read(x, 25, rule=stopping.largest_gap).value == 3


@pytest.mark.parametrize("d", [1, 2, 5, 10])
def test_flat_data_read_their_rank_at_every_point(d):
    x = datasets.cube(500, d, 15)
    found = read(x)
    assert found.value == pytest.approx(d, abs=0.05)
    assert found.low <= found.value <= found.high


@pytest.mark.parametrize(
    ("x", "d"),
    [
        (datasets.sphere(1500, 5, 12), 5),
        (datasets.flat_torus(1500, 2, 8), 2),
        (datasets.swiss_roll(1500), 2),
    ],
    ids=["sphere", "torus", "roll"],
)
def test_curved_data(x, d):
    assert read(x).value == pytest.approx(d, rel=0.02)


def test_high_dimension_needs_more_neighbours_and_says_so():
    x = datasets.affine(700, 25, 40)
    short = read(x, 30)
    assert "raise k" in short.notes[-1]
    assert short.value < 23
    long = read(x, 120)
    assert long.value == pytest.approx(25, abs=0.1)
    assert long.notes == ()


def test_local_rank_tells_a_sheet_from_a_ball():
    sheet = torch.cat([cube(300, 2), torch.zeros(300, 4).double()], 1)
    local = read(torch.cat([sheet, cube(600, 6, 1) + 5])).per_point
    assert torch.equal(local[:300], torch.full((300,), 2.0).double())
    assert float(local[300:].median()) == 6


@pytest.mark.parametrize(
    "make",
    [lambda s: datasets.cube(400, 3, 6, seed=s) + 0.06 * normal(400, 6, 100 + s)],
)
def test_stated_error_is_that_of_repeated_draws(make):
    found = [read(make(s)) for s in range(40)]
    spread = torch.tensor([f.value for f in found]).std()
    claimed = torch.tensor([f.standard_error for f in found]).mean()
    assert 0.7 < float(claimed / spread) < 2


def test_queries_in_a_reference_set():
    x = datasets.cube(600, 4, 9)
    at, reference = x[:100], x[100:]
    found = local_pca(reference, Neighbors.of_points(reference, 30, queries=at), queries=at)
    assert found.value == pytest.approx(4, abs=0.05)
    assert found.n == 100


def test_bad_input():
    x = normal(60, 4)
    with pytest.raises(InputError, match="k=2"):
        read(x, 2)
    with pytest.raises(InputError, match="keeps no direction"):
        read(x, rule=lambda values: torch.zeros(len(values)))
