"""Agreement with scikit-dimension and scikit-learn, batches, and the ends of every rule."""

from functools import partial

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from lowdim.core.spectrum import Spectrum
from lowdim.errors import InputError
from lowdim.geometry import stopping
from tests.geometry.manifolds import normal

RULES = {
    "FO": stopping.fukunaga_olsen,
    "Fan": stopping.fan,
    "maxgap": stopping.largest_gap,
    "ratio": stopping.explained,
    "participation_ratio": stopping.participation,
    "Kaiser": stopping.kaiser,
    "broken_stick": stopping.broken_stick,
}


def draw(n, d, rank, noise, seed=0):
    return normal(n, rank, seed) @ normal(rank, d, seed + 1) + noise * normal(n, d, seed + 2)


@pytest.mark.parametrize("name", RULES)
@pytest.mark.parametrize("seed", range(3))
def test_agrees_with_scikit_dimension(name, seed):
    skdim = pytest.importorskip("skdim")
    x = draw(90, 12, 2 + 2 * seed, 0.3, 10 * seed)
    values = Spectrum.of_points(x).values
    oracle = skdim.id.lPCA(ver=name, alphaRatio=0.95).fit(x.numpy())
    assert float(RULES[name](values)) == pytest.approx(float(oracle.dimension_), rel=1e-12)


@pytest.mark.parametrize(("n", "d"), [(90, 12), (300, 5), (20, 40)])
@pytest.mark.parametrize("rank", [1, 3])
def test_minka_agrees_with_scikit_dimension(n, d, rank):
    skdim = pytest.importorskip("skdim")
    x = draw(n, d, rank, 0.2)
    values = Spectrum.of_points(x).values
    oracle = skdim.id.lPCA(ver="Minka").fit(x.numpy())
    assert int(stopping.minka(values, n=n, dim=d)) == oracle.dimension_


@pytest.mark.parametrize("rank", [1, 2, 5])
def test_minka_agrees_with_scikit_learn(rank):
    decomposition = pytest.importorskip("sklearn.decomposition")
    x = draw(120, 9, rank, 0.3, 5)
    fitted = decomposition.PCA("mle", svd_solver="full").fit(x.numpy())
    found = stopping.minka(Spectrum.of_points(x).values, n=120, dim=9)
    assert int(found) == fitted.n_components_ == rank


spectra = st.lists(st.floats(1e-6, 1), min_size=1, max_size=12).map(
    lambda v: torch.tensor(sorted(v, reverse=True), dtype=torch.float64)
)


@given(spectra, st.floats(1e-12, 1e12))
def test_counts_lie_in_range_and_do_not_see_the_scale(values, scale):
    for name, rule in {**RULES, "Minka": partial(stopping.minka, n=50, dim=14)}.items():
        count = float(rule(values))
        lowest = 0 if name in ("Kaiser", "broken_stick") else 1
        assert lowest <= count <= len(values) + 1e-9
    for name in ("FO", "ratio", "participation_ratio"):
        scaled = values * 2.0 ** round(torch.tensor(scale).log2().item())  # exact
        assert float(RULES[name](scaled)) == float(RULES[name](values))


@pytest.mark.parametrize("name", [*RULES, "Minka"])
def test_a_batch_is_its_rows(name):
    rule = {**RULES, "Minka": partial(stopping.minka, n=40, dim=9)}[name]
    values = torch.rand(5, 3, 9, generator=torch.Generator().manual_seed(1)).double()
    values = values.pow(3).sort(-1, descending=True).values
    values[2, 1, 4:] = 0
    together = rule(values)
    assert together.shape == (5, 3)
    alone = torch.stack([rule(row) for row in values.reshape(15, 9)]).view(5, 3)
    assert torch.allclose(together.double(), alone.double())


@pytest.mark.parametrize("name", RULES)
def test_equal_directions(name):
    count = float(RULES[name](torch.ones(6)))
    ends = {"Kaiser": 0, "broken_stick": 0, "maxgap": 1}
    assert count == pytest.approx(ends.get(name, 6))


@pytest.mark.parametrize("name", RULES)
def test_one_direction(name):
    expected = 0 if name == "Kaiser" else 1
    assert float(RULES[name](torch.ones(1))) == expected


def test_a_zero_ends_the_largest_gap_and_the_rank_of_minka():
    values = torch.tensor([5.0, 4.0, 0.1, 0.0, 0.0])
    assert int(stopping.largest_gap(values)) == 3
    assert int(stopping.minka(torch.tensor([2.0, 0.0, 0.0]), n=9, dim=3)) == 1


@pytest.mark.parametrize("name", RULES)
def test_nothing_to_count(name):
    with pytest.raises(InputError, match="all energies are zero"):
        RULES[name](torch.zeros(4))
