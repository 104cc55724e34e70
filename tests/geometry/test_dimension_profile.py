"""Layers of known dimension: where the peak is, where the phase begins, who predicts whom."""

import json

import pytest
import torch

from lowdim import datasets, measure
from lowdim.compare import information_imbalance, neighborhood_overlap
from lowdim.core.estimate import to_json
from lowdim.errors import InputError
from lowdim.geometry import dimension_profile
from lowdim.geometry.dimension_profile import phase


def network():
    """Dimensions 1, 2, 5, 4, 1 of nested coordinates, each in ten."""
    x = datasets.cube(800, 5, 5, seed=0)
    return [x[:, :d] @ torch.eye(d, 10).double() for d in (1, 2, 5, 4, 1)]


def test_the_peak_and_its_phase():
    found = dimension_profile(network())
    assert found.phase.peak == 2
    assert (found.phase.onset, found.phase.end) == (2, 3)
    assert found.phase.clear
    assert found.low < found.value < found.high
    assert found.value == pytest.approx(measure(network()[2], "gride")["gride"].value)
    assert found.curve("geometry/rank-99") == [1, 2, 5, 4, 1]
    json.dumps(to_json(found.to_dict()))


def test_overlap_and_imbalance_are_those_of_the_pairs():
    layers = network()
    found = dimension_profile(layers)
    assert found.overlap[1] == neighborhood_overlap(layers[1], layers[2]).value
    pair = information_imbalance(layers[2], layers[-1])
    assert found.to_last[2] == pytest.approx(pair.value)
    assert found.from_last[2] == pytest.approx(pair.reverse)
    assert found.to_first[0] == found.from_first[0] == pytest.approx(2 / 800)
    assert found.to_first[2] < found.from_first[2]  # five coordinates know the first, not back


def test_phase_by_rule():
    assert phase([1, 2, 9, 6, 5, 1, 8]).__dict__ == {
        "peak": 2, "onset": 2, "end": 4, "level": 5, "clear": True,
    }  # fmt: skip
    assert not phase([9, 5, 1]).clear
    assert not phase([1, 2, 1.9], low=[0.9, 1.8, 1.7], high=[1.1, 2.2, 2.1]).clear
    assert phase([1, 3, 1.9], low=[0.9, 2.7, 1.7], high=[1.1, 3.3, 2.1]).clear
    flat = phase([2, 2, 2])
    assert (flat.onset, flat.end, flat.clear) == (0, 2, False)
    with pytest.raises(InputError):
        phase([])


def test_another_measure_may_rule_and_copies_are_merged():
    layers = [torch.cat([x, x[:50]]) for x in network()]
    found = dimension_profile(layers, by="geometry/mle")
    assert found.by == "geometry/mle"
    assert "50 exact duplicates merged" in found.layers[2]["geometry/mle"].notes
    assert found.phase.peak == 2


def test_poor_data():
    x = network()[2]
    with pytest.raises(InputError, match="no layers"):
        dimension_profile([])
    with pytest.raises(InputError, match=r"layers\[1\] has 799 rows"):
        dimension_profile([x, x[:-1]])
    with pytest.raises(InputError, match="neighbours need"):
        dimension_profile([x[:15], x[:15]])
