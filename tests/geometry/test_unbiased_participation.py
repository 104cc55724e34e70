import itertools

import pytest
import torch

from lowdim.core.spectrum import Spectrum
from lowdim.errors import InputError
from lowdim.geometry import participation_ratio, unbiased_participation
from tests.geometry.manifolds import normal


def unbiased(x, **options):
    return unbiased_participation(x, Spectrum.of_points(x), **options)


def test_equals_the_average_over_all_four_distinct_rows():
    x = normal(7, 5) * torch.arange(1, 6) + 3
    squares = squared = 0.0
    for i, j, k, l in itertools.permutations(range(7), 4):
        a, b = x[i] - x[j], x[k] - x[l]
        squares += float(a @ b) ** 2
        squared += float((a @ a) * (b @ b))
    assert unbiased(x).value == pytest.approx(squared / squares, rel=1e-10)


def test_is_flat_in_the_sample_size_where_the_plain_ratio_is_not():
    d = 60
    for n in (40, 160, 640):
        draws = [normal(n, d, seed) for seed in range(12)]
        mean = torch.tensor([unbiased(x).value for x in draws]).mean()
        plain = participation_ratio(Spectrum.of_points(draws[0])).value
        assert mean == pytest.approx(d, rel=0.06)
        assert plain == pytest.approx(n * d / (n + d), rel=0.06)


def test_isoscore_is_the_same_number_from_0_to_1():
    found = unbiased(normal(500, 20) * torch.tensor([10.0] + [1.0] * 19))
    assert found.isoscore == pytest.approx((found.value - 1) / 19)


def test_far_from_the_origin_and_in_small_blocks():
    x = normal(300, 8)
    assert unbiased(x + 1e5).value == pytest.approx(unbiased(x).value, rel=1e-6)
    assert unbiased(x, memory="1MiB").value == pytest.approx(unbiased(x).value, rel=1e-12)


def test_refuses_what_it_cannot_tell():
    with pytest.raises(InputError, match="centred"):
        unbiased_participation(normal(10, 3), Spectrum.of_points(normal(10, 3), center=False))
    with pytest.raises(InputError):
        unbiased(torch.ones(10, 3))
