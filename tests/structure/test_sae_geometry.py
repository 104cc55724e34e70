"""A planted power is recovered; clumps have less entropy than the normal cloud, which has none."""

import numpy as np
import pytest
import torch

import lowdim
from lowdim.core.spectrum import Spectrum
from lowdim.errors import InputError
from lowdim.structure.sae_geometry import clustering_entropy, sae_geometry, spectrum_slope


def normal(*shape, seed=0):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


@pytest.mark.parametrize("power", [0.5, 1.0, 2.5])
def test_slope_of_an_exact_power_law(power):
    values = torch.arange(1, 41).double() ** -power
    exact = Spectrum(values, float(values.sum()), (100, 40))
    for options in ({}, {"first": 5, "last": 40}):
        found = spectrum_slope(exact, **options)
        assert found.value == pytest.approx(power)
        assert found.r2 == pytest.approx(1)
    assert (found.first, found.last) == (5, 40)


def test_slope_of_a_cloud_agrees_with_a_line_through_its_eigenvalues():
    x = normal(3000, 50) * torch.arange(1, 51) ** -0.6
    found = lowdim.measure(x, "spectrum-slope")["spectrum-slope"]
    values = np.sort(np.linalg.eigvalsh(np.cov(x.numpy().T)))[::-1][:25]
    line = np.polyfit(np.log(np.arange(1, 26)), np.log(values), 1)
    assert found.value == pytest.approx(-line[0])
    assert found.value == pytest.approx(1.2, abs=0.1)
    with pytest.raises(InputError, match="three of the"):
        lowdim.measure(x[:, :2], "spectrum-slope")


def test_a_normal_cloud_has_no_clustering_entropy_and_clumps_have():
    scores = []
    for seed in range(8):
        x = normal(400, 4, seed=seed) @ normal(4, 4, seed=seed + 50)
        scores.append(clustering_entropy(x, draws=10, seed=seed).z_score)
    assert abs(float(np.mean(scores))) < 1
    assert max(map(abs, scores)) < 4
    centres = 4 * normal(5, 4, seed=9)
    clumped = clustering_entropy(normal(400, 4) + centres[torch.arange(400) % 5], draws=10)
    assert clumped.value > 0.3
    assert clumped.z_score > 8
    assert clumped.value == pytest.approx(clumped.raw - clumped.reference)


def test_entropy_of_a_uniform_square_is_known():
    """Normal entropy less log area: log(2 pi e / 12) = 0.353 nats for a square."""
    x = torch.rand(4000, 2, generator=torch.Generator().manual_seed(0)).double()
    found = clustering_entropy(x, draws=5)
    assert found.raw == pytest.approx(np.log(2 * np.pi * np.e / 12), abs=0.05)


def test_entropy_does_not_see_an_affine_map():
    x = normal(300, 3) ** 3
    turned = x @ normal(3, 3, seed=1) + 5
    one, other = (clustering_entropy(v, draws=3) for v in (x, turned))
    assert one.value == pytest.approx(other.value, abs=1e-9)
    assert clustering_entropy(x @ normal(3, 9), draws=3).components == 3


def test_the_whole_geometry_of_a_planted_dictionary():
    g = torch.Generator().manual_seed(3)
    lobe = torch.arange(120) % 2
    topic = (torch.arange(64) % 2).repeat_interleave(16)
    codes = torch.rand(1024, 120, generator=g) < torch.where(lobe == topic[:, None], 0.05, 0.005)
    decoder = torch.randn(120, 12, generator=g) + 3 * torch.randn(2, 12, generator=g)[lobe]
    found = sae_geometry(decoder, codes.float(), n_lobes=2, block=16, permutations=20)
    assert found.lobes.geometry.value > 0.9
    assert found.clumping.z_score > 3
    assert found.slope.value == spectrum_slope(Spectrum.of_points(decoder)).value


def test_bad_input():
    x = normal(30, 3)
    with pytest.raises(InputError, match="draws=1"):
        clustering_entropy(x, draws=1)
    with pytest.raises(InputError, match="k=40"):
        clustering_entropy(x, k=40)
    with pytest.raises(InputError, match="rank 0"):
        clustering_entropy(torch.ones(30, 3))
    with pytest.raises(InputError, match="rows have 1 equals"):
        clustering_entropy(torch.cat([x, x]), k=1)
