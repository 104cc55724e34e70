"""Against ranks from a full sort; what holds more predicts what holds less; ties."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from lowdim.compare import imbalances, information_imbalance
from lowdim.compare.information_imbalance import ranks
from lowdim.errors import InputError, MemoryBudgetError


def draw(n, d, seed=0):
    return torch.randn(n, d, generator=torch.Generator().manual_seed(seed)).double()


def by_sorting(x, y):
    """Delta(x -> y) from two full distance matrices and a double argsort."""
    a, b = (np.linalg.norm(z[:, None] - z[None], axis=2) for z in (x.numpy(), y.numpy()))
    np.fill_diagonal(a, np.inf)
    np.fill_diagonal(b, -1)  # itself at rank zero
    rank = b.argsort(1).argsort(1)
    return 2 * rank[np.arange(len(a)), a.argmin(1)].mean() / len(a)


@settings(max_examples=20, deadline=None)
@given(st.integers(3, 90), st.integers(1, 6), st.integers(1, 6), st.integers(0, 10**6))
def test_agrees_with_a_full_sort(n, d1, d2, seed):
    x, y = draw(n, d1, seed), draw(n, d2, seed + 1)
    y[:, 0] += x[:, 0]
    found = information_imbalance(x, y)
    assert found.value == pytest.approx(by_sorting(x, y), rel=1e-12)
    assert found.reverse == pytest.approx(by_sorting(y, x), rel=1e-12)
    assert float(found.per_point.mean()) == pytest.approx(found.value)


def test_equal_up_to_a_turn_is_the_least_there_is_and_unrelated_is_one():
    x = draw(600, 8)
    turned = 1e3 * x @ torch.linalg.qr(draw(8, 8, 1))[0] + 5
    assert information_imbalance(x, turned).value == 2 / 600
    unrelated = [information_imbalance(x, draw(600, 8, s)).value for s in range(2, 8)]
    assert sum(unrelated) / 6 == pytest.approx(1, abs=0.03)


def test_the_whole_predicts_its_part_and_not_the_other_way():
    whole = draw(1000, 4)
    found = information_imbalance(whole, whole[:, :1])
    assert found.value < 0.3
    assert found.reverse > 0.5


def test_many_at_once_are_the_single_ones_and_blocks_do_not_matter():
    layers = [draw(300, d, d) for d in (3, 5, 9)]
    to, back = imbalances(layers, layers[-1])
    for i, layer in enumerate(layers):
        one = information_imbalance(layer, layers[-1])
        assert float(to[:, i].mean()) == pytest.approx(one.value, rel=1e-14)
        assert float(back[:, i].mean()) == pytest.approx(one.reverse, rel=1e-14)
    x, others = layers[0], (torch.arange(300)[:, None] + torch.tensor([3, 71])) % 300
    assert torch.equal(ranks(x, others), ranks(x, others, memory="100kB"))
    with pytest.raises(MemoryBudgetError):
        ranks(x, others, memory="1kB")


def test_ties_share_their_mean_rank():
    """A constant says nothing of anything: its ranks are the middle and not the first."""
    x = draw(200, 3)
    assert information_imbalance(x, torch.ones(200, 2)).value == pytest.approx(1, abs=0.01)
    line = torch.tensor([[0.0], [1], [2], [3]]).double()
    assert ranks(line, torch.tensor([[1], [2], [3], [2]])).flatten().tolist() == [1, 1.5, 1.5, 1]


def test_poor_data():
    x = draw(20, 3)
    with pytest.raises(InputError, match="x has 20 rows and y 19"):
        information_imbalance(x, x[:-1])
    with pytest.raises(InputError, match="at least 3 rows"):
        information_imbalance(x[:2], x[:2])
