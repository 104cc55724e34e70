import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from lowdim.core.points import as_points, check_finite, distinct, unit_rows
from lowdim.core.random import integers, normal, permutation
from lowdim.errors import InputError


@pytest.mark.parametrize(
    ("given_dtype", "dtype"),
    [
        (torch.float16, torch.float32), (torch.bfloat16, torch.float32),
        (torch.float32, torch.float32), (torch.float64, torch.float64),
        (torch.int8, torch.float32), (torch.int16, torch.float32), (torch.bool, torch.float32),
        (torch.int32, torch.float64), (torch.int64, torch.float64),
    ],
)  # fmt: skip
def test_dtypes_are_promoted_without_loss(given_dtype, dtype):
    x = torch.tensor([[0, 1], [1, 0]]).to(given_dtype)
    points = as_points(x)
    assert points.dtype == dtype
    assert torch.equal(points.to(given_dtype), x)


def test_numpy_kinds():
    for array in (
        np.arange(6.0).reshape(3, 2)[::-1],  # negative strides
        np.arange(6, dtype=">f4").reshape(3, 2),  # the other byte order
        np.arange(6, dtype=np.uint16).reshape(3, 2),
        np.arange(6, dtype=np.longdouble).reshape(3, 2),
        np.asfortranarray(np.arange(6.0).reshape(3, 2)),
    ):
        np.testing.assert_array_equal(as_points(array).numpy(), array.astype(np.float64))
    frozen = np.arange(6.0).reshape(3, 2)
    frozen.flags.writeable = False
    for view in (frozen, frozen[:, :1], frozen.T):
        np.testing.assert_array_equal(as_points(view).numpy(), view)


def test_lists_vectors_and_gradients():
    assert as_points([[1, 2], [3, 4]]).shape == (2, 2)
    assert as_points([1.0, 2, 3]).shape == (3, 1)
    x = torch.ones(2, 2, requires_grad=True)
    assert not as_points(x).requires_grad


def test_memory_is_shared_where_it_can_be():
    x = torch.ones(3, 2)
    assert as_points(x).data_ptr() == x.data_ptr()
    array = np.ones((3, 2))
    assert as_points(array).numpy().__array_interface__["data"] == array.__array_interface__["data"]


@pytest.mark.parametrize(
    ("x", "message"),
    [
        ([[1, 2], [3]], "rectangular"),
        (np.array([[1, None]], dtype=object), "dtype object"),
        ([["a", "b"]], "dtype <U1"),
        (np.zeros((2, 2, 2)), r"shape \(2, 2, 2\)"),
        (np.zeros(()), "shape"),
        (np.zeros((0, 3)), "0 rows"),
        (np.zeros((3, 0)), "0 columns"),
        (torch.ones(2, 2) * 1j, "complex"),
    ],
)
def test_bad_input(x, message):
    with pytest.raises(InputError, match=message):
        as_points(x)


def test_too_few_rows_and_the_name():
    with pytest.raises(InputError, match="weights has 2 rows and 1 columns: at least 3"):
        as_points([1.0, 2], name="weights", min_rows=3)


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_non_finite_values_are_named(value):
    x = np.zeros((9, 4), dtype=np.float32)
    x[4, 3] = x[7, 0] = value
    with pytest.raises(InputError, match=r"row 4, column 3 \(2 such rows\)"):
        as_points(x)
    with pytest.raises(InputError, match=r"row 104, column 3"):
        as_points(x, offset=100)


def test_infinities_of_both_signs_and_large_finite_values():
    with pytest.raises(InputError, match="row 0"):
        check_finite(torch.tensor([[np.inf, -np.inf]]))
    largest = torch.finfo(torch.float64).max
    check_finite(torch.full((3, 2), largest, dtype=torch.float64))  # whose sum overflows


@given(n=st.integers(1, 60), d=st.integers(1, 4), seed=st.integers(0, 1000))
@settings(max_examples=60, deadline=None)
def test_distinct_agrees_with_numpy(n, d, seed):
    x = integers((n, d), 3, seed).float()
    points, inverse = distinct(x)
    assert torch.equal(points[inverse], x)
    assert len(points) == len(np.unique(x.numpy(), axis=0))
    first = [int((inverse == i).nonzero()[0]) for i in range(len(points))]
    assert first == sorted(first)  # in order of first appearance


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_distinct_details(dtype):
    x = torch.tensor([[0.0, 1], [-0.0, 1], [1, 0], [1, 0]], dtype=dtype)
    points, inverse = distinct(x)
    assert inverse.tolist() == [0, 0, 1, 1]
    assert points.tolist() == [[0, 1], [1, 0]]
    unlike = normal((50, 3), 0).to(dtype)
    assert distinct(unlike)[0] is unlike
    near = torch.tensor([[1.0], [1.0]], dtype=dtype)
    near[1] = torch.nextafter(near[1], torch.tensor(2.0, dtype=dtype))
    assert len(distinct(near)[0]) == 2
    shuffled = torch.cat([unlike, unlike])[permutation(100, 1)].T.contiguous().T  # strided
    assert len(distinct(shuffled)[0]) == 50


def test_unit_rows():
    x = torch.tensor([[3.0, 4], [1e30, 1e30], [-1e-30, 0], [1e-42, 0]])
    unit = unit_rows(x)
    torch.testing.assert_close(unit.norm(dim=1), torch.ones(4))
    torch.testing.assert_close(unit[0], torch.tensor([0.6, 0.8]))
    assert unit[2, 0] == -1
    with pytest.raises(InputError, match="row 1 is all zeros"):
        unit_rows(torch.tensor([[1.0], [0.0]]))
    with pytest.raises(InputError, match="y row 11 is all zeros"):
        unit_rows(torch.tensor([[1.0], [0.0]]), "y", 10)
