import numpy as np
import pytest
import torch

from lowdim.core.spectrum import Spectrum
from lowdim.core.strata import Strata
from lowdim.datasets import strata
from lowdim.errors import InputError
from lowdim.structure.base import PieceFinder
from lowdim.structure.ranks import bic_rank, ppca_deviance


class Halves(PieceFinder):
    """Cuts at the sign of the first column."""

    def __init__(self, n_pieces=2, rank=1):
        self.n_pieces = n_pieces
        self.rank = rank

    def _fit(self, source, job):
        x = source.read()
        return Strata.of_labels(x, (x[:, 0] > 0).long(), rank=self.rank, n_pieces=self.n_pieces)


def test_a_finder_keeps_the_kind_it_was_given():
    x = strata(60, (1, 2), 4, separation=3).points
    tensor, array = Halves().fit(x), Halves().fit(x.numpy())
    for name in ("predict", "gates", "transform", "reconstruct"):
        assert isinstance(getattr(tensor, name)(x), torch.Tensor)
        given = getattr(array, name)(x.numpy())
        assert isinstance(given, np.ndarray)
        assert np.array_equal(given, getattr(tensor, name)(x).numpy())
    assert isinstance(array.labels_, np.ndarray)
    assert array.get_params() == {"n_pieces": 2, "rank": 1}


def test_a_file_is_read_as_its_points(tmp_path):
    x = strata(60, (1, 2), 4, separation=3).points
    np.save(tmp_path / "x.npy", x.numpy())
    found = Halves().fit(tmp_path / "x.npy")
    assert torch.equal(found.predict(tmp_path / "x.npy"), Halves().fit(x).predict(x))


def test_score_is_minus_the_mean_squared_distance():
    x = strata(60, (1, 2), 4, separation=3).points
    found = Halves().fit(x)
    nearest = torch.stack([p.residual(x) for p in found.strata_.pieces]).amin(0)
    assert found.score(x) == pytest.approx(-float(nearest.mean()))


def test_mistakes_are_named():
    x = torch.randn(10, 3)
    with pytest.raises(InputError, match="from 1 to 10"):
        Halves(n_pieces=11).fit(x)
    with pytest.raises(InputError, match="not fitted"):
        Halves().predict(x)
    with pytest.raises(InputError, match="2 columns"):
        Halves().fit(x).predict(x[:, :2])


def test_bic_finds_a_planted_rank():
    for noise, n in ((0.0, 100), (0.3, 400)):
        planted = strata(n, (7,), 30, noise=noise, seed=1)
        values = Spectrum.of_points(planted.points).values
        assert bic_rank(values, n, 30) == 7
    flat = torch.randn(500, 30, generator=torch.Generator().manual_seed(0))
    assert bic_rank(Spectrum.of_points(flat).values, 500, 30) == 0


def test_deviance_is_that_of_the_normal_distribution():
    x = torch.randn(50, 5, generator=torch.Generator().manual_seed(2)).double()
    x = x * torch.tensor([3.0, 2, 1, 0.5, 0.4])
    values, vectors = torch.linalg.eigh(torch.cov(x.T, correction=0))
    noise = values[:3].mean()
    model = vectors @ torch.diag(torch.cat([noise.expand(3), values[3:]])) @ vectors.T
    normal = torch.distributions.MultivariateNormal(x.mean(0), model)
    expected = -2 * normal.log_prob(x).mean()
    assert float(ppca_deviance(values.flip(0), 5)[2]) == pytest.approx(float(expected))


@pytest.mark.parametrize("separation", [0.0, 2.0])
def test_planted_strata_are_what_they_say(separation):
    planted = strata(
        900, (1, 3), 6, separation=separation, shared=1, balance=0.5, outliers=0.1, seed=4
    )
    assert (planted.labels == -1).sum() == 90
    assert abs(int((planted.labels == 0).sum()) - 2 * int((planted.labels == 1).sum())) <= 2
    overlap = torch.linalg.svdvals(planted.bases[0].T @ planted.bases[1])
    assert float(overlap[0]) == pytest.approx(1)
    for i, basis in enumerate(planted.bases):
        own = planted.points[planted.labels == i] - planted.centers[i]
        assert torch.allclose(own @ basis @ basis.T, own, atol=1e-12)
        assert float(own.square().sum(1).mean()) == pytest.approx(1, rel=0.2)
        assert float(planted.centers[i].norm()) == pytest.approx(separation)
