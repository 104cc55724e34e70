from itertools import permutations

import numpy as np
import pytest

from lowdim.errors import InputError
from lowdim.structure.agreement import accuracy, matched


def test_renamed_pieces_agree_wholly():
    truth = np.array(["a", "b", "b", "c"])
    pieces, classes, share = matched([7, 3, 3, 5], truth)
    assert share == 1
    assert dict(zip(pieces.tolist(), classes.tolist(), strict=True)) == {0: 1, 1: 2, 2: 0}


def test_best_of_all_matches():
    rng = np.random.default_rng(0)
    found, truth = rng.integers(0, 4, 60), rng.integers(0, 4, 60)
    best = max(np.mean(np.array(p)[found] == truth) for p in permutations(range(4)))
    assert accuracy(found, truth) == pytest.approx(best)


def test_fewer_pieces_than_classes_leave_classes_out():
    assert accuracy([0, 0, 0, 0], [0, 0, 1, 2]) == 0.5


def test_lengths_must_match():
    with pytest.raises(InputError, match="two of length n"):
        accuracy([0, 1], [0])
