"""Planted features that no linear correlation sees, and bad input."""

import pytest
import torch
from sklearn.linear_model import LogisticRegression

from lowdim.compare import disco_select
from lowdim.errors import InputError


def draw(n, d, seed=0):
    return torch.randn(n, d, generator=torch.Generator().manual_seed(seed)).double()


def test_finds_a_planted_feature_without_linear_correlation():
    x = draw(600, 6)
    y = (x[:, 4].square() > 0.45).long()
    assert abs(float(torch.corrcoef(torch.stack([x[:, 4], y.double()]))[0, 1])) < 0.1
    found = disco_select(x, y, 2)
    assert found.features[0] == 4
    assert found.accuracies[1] > 0.95 > 0.6 > found.accuracies[0]


def test_given_one_of_an_exclusive_or_pair_finds_the_other():
    x = draw(500, 8, 1)
    y = ["odd" if a else "even" for a in (x[:, 2] * x[:, 5] > 0).tolist()]
    assert disco_select(x, y, 2, start=[2]).features == (2, 5)


def test_a_copy_of_a_kept_feature_is_left_for_a_weaker_new_one():
    """On all rows a copy of the strong one beats the weak; on the rows in doubt it says nothing."""
    strong, weak, noise = draw(900, 1), draw(900, 1, 1), draw(900, 3, 2)
    y = (2.5 * strong + weak)[:, 0] > 0
    x = torch.cat([strong, strong + 0.01 * noise[:, :1], weak, noise], 1)
    found = disco_select(x, y, 2, classifier=LogisticRegression(), doubtful=0.2)
    assert found.features[0] in (0, 1)
    assert found.features[1] == 2


def test_scale_and_repetition_change_nothing():
    x = draw(300, 4)
    y = x[:, 1] + 0.3 * draw(300, 1, 1)[:, 0] > 0
    found = disco_select(x, y, 2, classifier=LogisticRegression())
    scaled = x * torch.tensor([1, 1e-3, 1e5, 1]) - 4
    again = disco_select(scaled, y, 2, classifier=LogisticRegression())
    assert again.features == found.features
    assert disco_select(x, y, 2, classifier=LogisticRegression()) == found


def test_constant_features_are_never_chosen():
    x = draw(60, 2)
    x = torch.cat([torch.full((60, 1), 0.1), x, torch.zeros(60, 1)], 1)
    found = disco_select(x, x[:, 1] > 0, 4, classifier=LogisticRegression())
    assert sorted(found.features) == [1, 2]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"y": torch.arange(19) % 2}, r"y has shape \(19,\)"),
        ({"y": torch.zeros(20)}, "1 labels"),
        ({"n_features": 9}, "n_features=9"),
        ({"start": [0, 0]}, r"start=\[0, 0\]"),
        ({"doubtful": 0.0}, "doubtful=0.0"),
    ],
)
def test_bad_options_are_refused(options, message):
    given = {"y": torch.arange(20) % 2, "n_features": 2} | options
    with pytest.raises(InputError, match=message):
        disco_select(draw(20, 3), given.pop("y"), given.pop("n_features"), **given)
