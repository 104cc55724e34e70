"""The measures agree with the functions, and labels count only beyond chance."""

import pytest
import torch

import lowdim
from lowdim.core.points import unit_rows
from lowdim.datasets import strata
from lowdim.errors import InputError
from lowdim.structure.coding_rate import coding_rate
from lowdim.structure.rate_reduction import rate_by_layer, rate_reduction


def normal(*shape, seed=0):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def test_measure_agrees_with_the_function_and_knows_its_largest_value():
    x = normal(80, 6)
    found = lowdim.measure(x, "coding-rate")["coding-rate"]
    assert found.value == pytest.approx(float(coding_rate(unit_rows(x))))
    assert found.share < 1
    axes = torch.eye(6).repeat(5, 1)
    assert lowdim.measure(axes, "coding-rate")["coding-rate"].share == pytest.approx(1)
    few = lowdim.measure(torch.eye(6)[:3], "coding-rate")["coding-rate"]
    assert few.share == pytest.approx(1)
    assert few.value == pytest.approx(float(coding_rate(torch.eye(6)[:3])))


def test_labels_of_planted_pieces_save_more_than_chance_and_random_ones_do_not():
    planted = strata(400, (2, 3, 4), 20, seed=1)
    found = rate_reduction(planted.points, planted.labels)
    assert found.value > 3 * found.chance
    assert found.p_value == pytest.approx(0.05)
    assert found.value == pytest.approx(found.rate - found.compressed)
    order = torch.randperm(400, generator=torch.Generator().manual_seed(2))
    shuffled = rate_reduction(planted.points, planted.labels[order], permutations=39)
    assert shuffled.value < 0.2 * found.value
    assert shuffled.p_value > 0.05


def test_rates_by_layer_follow_the_classes_as_they_part():
    code = torch.arange(120) % 2
    base, shift = normal(120, 5), torch.zeros(2, 5).double()
    shift[0, 0], shift[1, 1] = 1.0, 1.0
    layers = [base + s * shift[code] for s in (0.0, 3.0, 9.0)]
    found = rate_by_layer([*layers, layers[-1].relu()], code)
    shares = [f.value / f.rate for f in found[:3]]
    assert shares == sorted(shares)
    assert found[2].chance is None
    assert found[0].zeros == 0
    assert found[3].zeros == pytest.approx(float((layers[2] <= 0).double().mean()))


def test_bad_input():
    with pytest.raises(InputError, match="all zeros"):
        rate_reduction(torch.zeros(4, 2), [0, 1, 0, 1])
    with pytest.raises(InputError, match="one class"):
        rate_reduction(normal(5, 3), torch.zeros(5))
    with pytest.raises(InputError, match="eps=0"):
        rate_reduction(normal(5, 3), [0, 1, 0, 1, 1], eps=0)
