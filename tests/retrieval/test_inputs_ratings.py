"""The pickle of ratings is read as data; a program in its place is refused."""

import os
import pickle
from io import BytesIO

import numpy as np
import pytest

from benchmarks.inputs import Unavailable
from benchmarks.inputs_ratings import _Arrays, movielens


class Program:
    def __reduce__(self):
        return os.system, ("echo never",)


def test_any_other_name_is_refused():
    with pytest.raises(pickle.UnpicklingError, match="system is no part of a table"):
        _Arrays(BytesIO(pickle.dumps(Program()))).load()
    with pytest.raises(pickle.UnpicklingError, match="eval is no part of a table"):
        _Arrays(BytesIO(pickle.dumps(eval))).load()


def test_arrays_come_back():
    x = np.arange(6.0).reshape(2, 3)
    data = pickle.dumps(x, protocol=5).replace(b"numpy._core.numeric", b"numpy.core.numeric")
    data = data.replace(b"\x13numpy.core", b"\x12numpy.core")  # the length of the shorter name
    frame = data.index(b"\x95") + 1
    size = int.from_bytes(data[frame : frame + 8], "little") - 1
    data = data[:frame] + size.to_bytes(8, "little") + data[frame + 8 :]
    np.testing.assert_array_equal(_Arrays(BytesIO(data)).load(), x)


@pytest.mark.slow
def test_movielens_is_the_published_one():
    try:
        ratings = movielens()
    except Unavailable as error:
        pytest.skip(str(error))
    assert (len(ratings.rating), ratings.sizes) == (100_004, (671, 9_066))
    assert ratings.ids.amax(0).tolist() == [670, 9_065]
    assert set(ratings.rating.tolist()) == {i / 2 for i in range(1, 11)}
    train, valid, test = ratings.split(0)
    assert len(train.rating) + len(valid.rating) + len(test.rating) == 100_004
