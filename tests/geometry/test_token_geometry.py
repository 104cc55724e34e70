"""Token clouds of known dimension; the correlation with a planted loss."""

import pytest
import torch

from lowdim import datasets, measure
from lowdim.compare import neighborhood_overlap
from lowdim.errors import InputError
from lowdim.geometry import loss_correlation, token_geometry
from lowdim.geometry.token_geometry import pearson


def test_each_layer_is_what_the_single_measures_say():
    states = [datasets.cube(150, d, 12, seed=d) for d in (2, 6, 3)]
    found = token_geometry(states)
    assert found.peak == 1
    assert found.value == found.dimension[1].value
    for x, dimension, cosine in zip(states, found.dimension, found.cosine, strict=True):
        both = measure(x, "two-nn", "mean-cosine")
        assert dimension.value == both["two-nn"].value
        assert cosine == both["mean-cosine"].value
    assert found.overlap[0] == neighborhood_overlap(states[0], states[1]).value
    assert len(found.to_dict()["dimension"]) == 3


def test_repeated_tokens_are_one_point():
    x = datasets.cube(100, 3, 8, seed=0)
    twice = token_geometry([torch.cat([x, x])])
    assert twice.value == token_geometry([x]).value


def test_a_planted_relation_is_found_and_only_in_its_layer():
    prompts, losses = [], []
    for i in range(24):
        d = 1 + i % 4
        prompts.append(
            token_geometry(
                [datasets.cube(120, 2, 8, seed=100 + i), datasets.cube(120, d, 8, seed=i)]
            )
        )
        losses.append(2.0 + d)
    first, second = loss_correlation(prompts, losses)
    assert second.value > second.low > 0.7
    assert first.low < 0 < first.high


def test_fisher_interval_against_its_formula():
    x = torch.arange(20.0).tolist()
    y = [v + (-1) ** i * 6 for i, v in enumerate(x)]
    found = pearson(x, y)
    z, half = torch.atanh(torch.tensor(found.value)), 1.959964 / 17**0.5
    assert found.low == pytest.approx(float(torch.tanh(z - half)), abs=1e-5)
    assert found.high == pytest.approx(float(torch.tanh(z + half)), abs=1e-5)
    assert pearson([1.0, 1.0, 1.0], [1.0, 2.0, 3.0]) is None


def test_poor_data():
    x = datasets.cube(60, 2, 5, seed=0)
    with pytest.raises(InputError, match="no layers"):
        token_geometry([])
    with pytest.raises(InputError, match=r"states\[1\] has 59 tokens"):
        token_geometry([x, x[:-1]])
    one = token_geometry([x])
    with pytest.raises(InputError, match="four or more"):
        loss_correlation([one] * 3, [1.0] * 3)
