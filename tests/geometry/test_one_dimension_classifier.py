"""Every threshold is tried, a planted coordinate is found, and a rotation hides it."""

import pytest
import torch

from lowdim.errors import InputError
from lowdim.geometry import one_dimension_classifier
from lowdim.geometry.one_dimension_classifier import _stumps


def labelled_sample(n=300, d=8, seed=0):
    g = torch.Generator().manual_seed(seed)
    x = torch.randn(n, d, generator=g).double()
    return x, (x[:, 5] + 0.5 * torch.randn(n, generator=g).double() > 0.3).long()


def exhaustive(x, y, classes):
    """Best training accuracy of each coordinate over every threshold and pair of classes."""
    best = []
    for column in x.T:
        cuts = column.tolist()
        best.append(
            max(
                float(((column <= t) * (y == a) + (column > t) * (y == b)).double().mean())
                for t in cuts for a in range(classes) for b in range(classes)
            )
        )  # fmt: skip
    return best


@pytest.mark.parametrize("classes", [2, 3])
def test_threshold_scan_is_exhaustive(classes):
    g = torch.Generator().manual_seed(classes)
    x = torch.randint(0, 12, (40, 5), generator=g).double()  # many ties
    y = torch.randint(0, classes, (40,), generator=g)
    assert _stumps(x, y, classes, None)[0].tolist() == pytest.approx(exhaustive(x, y, classes))
    small = _stumps(x, y, classes, 8 * 40 * 12 * 2)
    assert all(map(torch.equal, small, _stumps(x, y, classes, None)))


def test_rules_are_those_of_decision_stumps():
    tree = pytest.importorskip("sklearn.tree")
    x, y = labelled_sample()
    accuracy, threshold, low, high = _stumps(x, y, 2, None)
    stump = tree.DecisionTreeClassifier(max_depth=1).fit(x[:, 5:6], y)
    assert float(accuracy[5]) >= stump.score(x[:, 5:6], y)
    said = torch.where(x <= threshold, low, high)
    assert torch.allclose((said == y[:, None]).double().mean(0), accuracy)


def test_planted_coordinate_is_found_and_a_rotation_hides_it():
    x, y = labelled_sample(2000, 30)
    found = one_dimension_classifier(x, y)
    assert found.coordinate == 5
    assert found.threshold == pytest.approx(0.3, abs=0.2)
    assert found.classes == ("0", "1")
    assert found.value > found.rotated + 0.05
    assert found.value > found.median + 0.2
    assert abs(found.full - found.value) < 0.05
    assert found.accuracies.argmax() == 5
    assert found.median == pytest.approx(found.base, abs=0.06)


def test_named_classes_and_bad_labels():
    x, y = labelled_sample()
    words = ["no", "yes"]
    found = one_dimension_classifier(x, [words[i] for i in y])
    assert found.classes == ("no", "yes")
    assert found.value == one_dimension_classifier(x, y).value
    with pytest.raises(InputError, match="one class"):
        one_dimension_classifier(x, torch.zeros(300))
    with pytest.raises(InputError, match="one label a row"):
        one_dimension_classifier(x, y[:-1])
    with pytest.raises(InputError, match="held_out"):
        one_dimension_classifier(x, y, held_out=1.0)
