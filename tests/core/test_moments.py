from itertools import pairwise

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from lowdim.core import moments
from lowdim.core.moments import Moments, Variances
from lowdim.core.random import integers, normal, permutation
from lowdim.errors import InputError


def data(n: int = 200, d: int = 6, seed: int = 0) -> torch.Tensor:
    return normal((n, d), seed, dtype=torch.float64) * torch.arange(1, d + 1) + 3


def pieces(x: torch.Tensor, cuts: list[int]) -> list[torch.Tensor]:
    edges = sorted({0, len(x), *(c for c in cuts if c < len(x))})
    return [x[a:b] for a, b in pairwise(edges)]


def assert_same(a: Moments, b: Moments) -> None:
    assert a.count == b.count
    scale = float(a.scatter.abs().max())
    torch.testing.assert_close(a.mean, b.mean, rtol=1e-12, atol=1e-12 * float(a.mean.abs().max()))
    torch.testing.assert_close(a.scatter, b.scatter, rtol=0, atol=1e-12 * scale)


def test_against_numpy():
    x = data()
    m = Moments(6).update(x)
    np.testing.assert_allclose(m.mean, x.numpy().mean(0), rtol=1e-13)
    np.testing.assert_allclose(m.second_moment(), np.cov(x.T.numpy(), bias=True), rtol=1e-12)
    np.testing.assert_allclose(m.second_moment(False), x.T.numpy() @ x.numpy() / 200, rtol=1e-12)
    v = Variances(6).update(x)
    np.testing.assert_allclose(v.second_moment(), x.numpy().var(0), rtol=1e-12)
    np.testing.assert_allclose(v.second_moment(False), (x.numpy() ** 2).mean(0), rtol=1e-12)


@given(cuts=st.lists(st.integers(1, 199), max_size=12), seed=st.integers(0, 50))
@settings(max_examples=40, deadline=None)
@pytest.mark.parametrize("unit", [False, True])
def test_result_does_not_depend_on_the_cut(unit, cuts, seed):
    x = data(seed=seed)
    whole = Moments(6, unit=unit).update(x)
    parts = pieces(x, cuts)
    stream = Moments(6, unit=unit)
    for part in parts:
        stream.update(part)
    assert_same(whole, stream)
    merged = Moments(6, unit=unit)
    for i in permutation(len(parts), seed).tolist():  # in any order
        merged.merge(Moments(6, unit=unit).update(parts[i]))
    assert_same(whole, merged)


def test_inner_blocks_do_not_matter(monkeypatch):
    x = data()
    whole = Moments(6).update(x)
    monkeypatch.setattr(moments, "BLOCK", 60)
    assert_same(whole, Moments(6).update(x))


def test_large_offset_does_not_hurt():
    x = normal((5000, 4), 1, dtype=torch.float64)
    near = Moments(4).update(x).second_moment()
    far = Moments(4)
    for chunk in (x + 1e8).split(700):
        far.update(chunk)
    # x + 1e8 itself is rounded to 1.5e-8
    torch.testing.assert_close(far.second_moment(), near, rtol=0, atol=1e-8)


def test_float32_is_summed_in_float64():
    x = normal((3000, 5), 2) * 1e-3 + 100
    exact = np.cov(x.T.double().numpy(), bias=True)
    np.testing.assert_allclose(Moments(5).update(x).second_moment(), exact, rtol=1e-11, atol=1e-20)


def test_constant_columns_have_exactly_no_spread():
    x = torch.cat([torch.full((7, 2), 0.1), normal((7, 1), 0)], 1)
    m = Moments(3)
    for chunk in x.split(3):
        m.update(chunk)
    assert m.scatter[:2].abs().max() == 0
    assert float(m.scatter[2, 2]) > 0


def test_merge_leaves_the_other_alone_and_takes_empty_ones():
    x = data()
    a, b = Moments(6).update(x[:50]), Moments(6).update(x[50:])
    before = b.scatter.clone()
    Moments(6).merge(b).update(x)  # must not write into what it took from b
    a.merge(b).merge(Moments(6))
    assert torch.equal(b.scatter, before)
    assert b.count == 150
    assert_same(a, Moments(6).update(x))


def test_input_is_left_alone():
    x = data()
    before = x.clone()
    Moments(6).update(x)
    Moments(6, unit=True).update(x)
    assert torch.equal(x, before)


def test_unit_rows():
    x = data().float()
    m = Moments(6, unit=True).update(x)
    assert float(m.second_moment(False).trace()) == pytest.approx(1, abs=1e-14)
    far = Moments(6, unit=True).update(x * 1e30)  # whose squares overflow float32
    torch.testing.assert_close(m.scatter, far.scatter, rtol=0, atol=1e-5 * len(x))


def test_errors_name_the_row_over_all_chunks():
    m = Moments(3).update(torch.ones(10, 3))
    bad = torch.ones(4, 3)
    bad[2, 1] = float("nan")
    with pytest.raises(InputError, match="row 12, column 1"):
        m.update(bad)
    assert m.count == 10  # and the sums are as before
    zero = torch.ones(4, 3)
    zero[3] = 0
    with pytest.raises(InputError, match="row 13 is all zeros"):
        Moments(3, unit=True).update(torch.ones(10, 3)).update(zero)


def test_bad_use():
    with pytest.raises(InputError, match="no rows yet"):
        Moments(3).second_moment()
    with pytest.raises(InputError, match="4 columns and not 3"):
        Moments(3).update(torch.ones(2, 4))
    with pytest.raises(InputError, match="cannot merge"):
        Moments(3).merge(Moments(3, unit=True))
    with pytest.raises(InputError, match="cannot merge"):
        Moments(3).merge(Moments(4))


def test_variances_are_the_diagonal():
    x = integers((300, 5), 100, 0).float()
    full, diagonal = Moments(5), Variances(5)
    for chunk in x.split(37):
        full.update(chunk)
        diagonal.update(chunk)
    torch.testing.assert_close(full.scatter.diagonal(), diagonal.scatter, rtol=1e-12, atol=0)
    assert repr(diagonal) == "Variances(300 rows, 5 columns)"
