"""Closed forms of the linear read-outs, and the published steps of IsoScore."""

import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from lowdim.core.spectrum import Spectrum
from lowdim.errors import InputError
from lowdim.geometry import (
    anisotropy,
    early_enrichment,
    isoscore,
    participation_ratio,
    rank_90,
    rank_99,
)


def with_energies(energies, n=1000):
    """A spectrum with these energies, as of n centred points."""
    values = torch.as_tensor(energies, dtype=torch.float64).sort(descending=True).values
    return Spectrum(values=values, total=float(values.sum()), shape=(n, len(values)))


def published_isoscore(x):
    """The steps of the paper, one by one, with no participation ratio in sight."""
    d = x.shape[1]
    variances = np.linalg.eigvalsh(np.cov(x.T))
    normalised = math.sqrt(d) * variances / np.linalg.norm(variances)
    defect = np.linalg.norm(normalised - 1) / math.sqrt(2 * (d - math.sqrt(d)))
    share = (d - defect**2 * (d - math.sqrt(d))) ** 2 / d**2
    return (d * share - 1) / (d - 1)


@given(st.integers(2, 40), st.data())
def test_k_equal_directions_of_d(d, data):
    k = data.draw(st.integers(1, d))
    spectrum = with_energies([3.0] * k + [0.0] * (d - k))
    assert participation_ratio(spectrum).value == pytest.approx(k)
    assert isoscore(spectrum).value == pytest.approx((k - 1) / (d - 1), abs=1e-12)
    assert anisotropy(spectrum).value == pytest.approx(1 / k)
    assert rank_99(spectrum).value == math.ceil(0.99 * k - 1e-9)
    assert rank_90(spectrum).value == math.ceil(0.9 * k - 1e-9)


@pytest.mark.parametrize("d", [2, 3, 10, 100])
def test_early_enrichment_of_one_direction_and_of_all(d):
    one = early_enrichment(with_energies([1.0] + [0.0] * (d - 1)))
    assert one.value == pytest.approx((1 - 1 / d) ** 2)
    assert one.sum_form == pytest.approx(1 - 1 / d)
    even = early_enrichment(with_energies([2.0] * d))
    assert even.value == pytest.approx(0, abs=1e-12)
    assert even.sum_form == pytest.approx(0, abs=1e-12)


def test_isoscore_is_the_published_one():
    g = torch.Generator().manual_seed(0)
    x = torch.randn(300, 8, generator=g).double() * torch.arange(1, 9) + 5
    assert isoscore(Spectrum.of_points(x)).value == pytest.approx(
        published_isoscore(x.numpy()), abs=1e-12
    )


def test_one_column_is_evenly_used():
    line = Spectrum.of_points(torch.arange(9.0)[:, None])
    assert isoscore(line).value == 1
    assert participation_ratio(line).value == 1
    assert anisotropy(line).value == 1
    assert anisotropy(line).null == 1
    assert early_enrichment(line).value == 0


@pytest.mark.parametrize("ratio", [1, 4, 20])
def test_isotropic_data_read_what_the_docstrings_say(ratio):
    d = 150
    n = ratio * d
    x = torch.randn(n, d, generator=torch.Generator().manual_seed(1)).double()
    spectrum = Spectrum.of_points(x)
    assert participation_ratio(spectrum).value == pytest.approx(n * d / (n + d), rel=0.03)
    found = anisotropy(spectrum)
    assert found.value == pytest.approx(found.null, rel=0.1)


def test_few_rows_are_noted():
    x = torch.randn(10, 30, generator=torch.Generator().manual_seed(2))
    found = participation_ratio(Spectrum.of_points(x))
    assert found.value <= 9
    assert found.notes == ("10 rows show at most 9 of 30 directions",)
    assert early_enrichment(Spectrum.of_points(x)).value < 1  # the missing directions hold nothing


@pytest.mark.parametrize(
    "read", [participation_ratio, rank_90, rank_99, anisotropy, isoscore, early_enrichment]
)
def test_constant_data_are_refused(read):
    with pytest.raises(InputError, match="all energies are zero"):
        read(Spectrum.of_points(torch.ones(20, 3)))
