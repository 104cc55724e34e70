"""Planted tasks of tiny variance, both limits of the shared encoder, noise in closed form."""

import pytest
import torch

from lowdim.core.subspace import Subspace
from lowdim.errors import InputError
from lowdim.geometry import (
    noise_benefit,
    reconstruction_alignment,
    shared_encoder,
    spectral_band_probe,
)
from tests.geometry.networks import inputs


def planted(column, n=600, d=10, seed=0):
    """Variances 4, 4, 4, then falling; the label is the sign of one coordinate."""
    g = torch.Generator().manual_seed(seed)
    scale = torch.tensor([4.0, 3.8, 3.6] + [0.3 * 0.9**i for i in range(d - 3)]).sqrt().double()
    x = torch.randn(n, d, generator=g).double() * scale
    return x, (x[:, column] > 0).long()


@pytest.mark.parametrize("model", ["linear", "knn"])
@pytest.mark.parametrize(("column", "sign"), [(0, -1), (6, 1)])
def test_the_band_that_holds_the_task_wins(model, column, sign):
    found = spectral_band_probe(*planted(column), share=0.85, model=model)
    assert sign * found.value > 0.15
    assert (found.top if sign < 0 else found.bottom) > 0.75
    assert min(found.top, found.bottom) == pytest.approx(0.5, abs=0.12)
    assert found.top_rank == 3
    assert found.top_rank + found.bottom_rank == 10
    assert 0.85 <= found.top_share < 1


def test_supervised_direction_is_found_where_pca_misses_it():
    x, _ = planted(0)
    y = x[:, 8:9] / x[:, 8].std()
    direction = shared_encoder(x, y, 1, weight=0)[:, 0]
    assert float(direction[8].abs() / direction.norm()) > 0.999
    found = reconstruction_alignment(x, y, 8)
    assert found.shares[2] < 0.05
    assert found.r_squared == pytest.approx(1)
    assert list(found.shares) == sorted(found.shares)


def test_large_weight_is_pca():
    from sklearn.decomposition import PCA

    x, y = planted(5)
    found = Subspace.of_vectors(shared_encoder(x, y[:, None], 3, weight=1e9))
    pca = torch.from_numpy(PCA(3).fit(x).components_.T.copy())
    assert float(found.angles(Subspace.of_vectors(pca)).max()) < 1e-5


def test_encoder_is_no_worse_than_others_at_its_own_objective():
    x, _ = planted(0, n=200)
    x = x - x.mean(0)
    y = x[:, 5:7] / x[:, 5:7].std(0) + 0.1 * inputs(200, 2)
    y = y - y.mean(0)

    def objective(v, weight):
        code = x @ v
        task, itself = (t - code @ torch.linalg.lstsq(code, t).solution for t in (y, x))
        return float(task.square().sum() + weight * itself.square().sum())

    for weight in (0.01, 0.3, 3.0):
        best = objective(shared_encoder(x, y, 3, weight=weight), weight)
        for other in (0.0, 0.01, 0.3, 3.0, 1e6):
            assert best <= objective(shared_encoder(x, y, 3, weight=other), weight) + 1e-8


def test_alignment_is_a_ratio_of_regressions():
    x, _ = planted(0)
    y = x[:, [0, 5]] + torch.randn(600, 2, generator=torch.Generator().manual_seed(1)).double()
    centred = y - y.mean(0)

    def explained(v):
        code = (x - x.mean(0)) @ v
        return float(centred.square().sum() - (
            centred - code @ torch.linalg.lstsq(code, centred).solution
        ).square().sum())  # fmt: skip

    pca = Subspace.of_points(x, rank=2).basis
    expected = explained(pca) / explained(shared_encoder(x, y, 2, weight=0))
    assert reconstruction_alignment(x, y, 2).value == pytest.approx(expected, rel=1e-8)


def test_gaussian_noise_never_helps_and_masking_moves_directions():
    g = torch.Generator().manual_seed(3)
    x = torch.randn(500, 8, generator=g).double() @ torch.randn(8, 8, generator=g).double()
    y = torch.randn(500, 3, generator=g).double() + x[:, :3]
    found = noise_benefit(x, y, 3)
    assert all(gain == pytest.approx(0, abs=1e-9) for gain in found.gaussian.values())
    assert all(abs(gain) > 1e-6 for gain in found.masking.values())
    assert found.clean == pytest.approx(reconstruction_alignment(x, y, 3).value)


def test_bad_input():
    x, y = planted(0)
    with pytest.raises(InputError, match="model='cnn'"):
        spectral_band_probe(x, y, model="cnn")
    with pytest.raises(InputError, match="lower share"):
        spectral_band_probe(x[:, :1], y)
    with pytest.raises(InputError, match="k=11"):
        reconstruction_alignment(x, y, 11)
    with pytest.raises(InputError, match="no task"):
        reconstruction_alignment(x, torch.ones(600), 2)
    with pytest.raises(InputError, match="inside"):
        noise_benefit(x, y, 2, levels=(1.0,))
