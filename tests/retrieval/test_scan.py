"""The best k against a stable sort of all scores, whatever the ties, parts, blocks and threads."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from lowdim.retrieval.scan import LISTED, best

CPU = torch.device("cpu")


def sorted_whole(scores, k):
    """(m, k) by a stable sort, -1 and -inf beyond the last row."""
    values, ids = scores.sort(dim=1, descending=True, stable=True)
    short = k - scores.shape[1]
    if short > 0:
        ids = torch.nn.functional.pad(ids, (0, short), value=-1)
        values = torch.nn.functional.pad(values, (0, short), value=-math.inf)
    return ids[:, :k], values[:, :k]


def searched(scores, k, block, cuts=()):
    """The scores read as if they were codes: row i of (n, m)."""
    parts = scores.T.contiguous().tensor_split(cuts)
    return best(parts, lambda rows: rows.T.contiguous(), len(scores), k, block, CPU)


def same(found, truth):
    return torch.equal(found[0], truth[0]) and torch.equal(found[1], truth[1])


@settings(max_examples=60, deadline=None)
@given(
    n=st.integers(1, 700),
    m=st.integers(1, 5),
    k=st.integers(1, 60),
    levels=st.integers(1, 40),
    block=st.integers(1, 300),
    cuts=st.lists(st.integers(0, 700), max_size=3).map(sorted),
    seed=st.integers(0, 9),
)
def test_ties_go_to_the_smaller_row(n, m, k, levels, block, cuts, seed):
    g = torch.Generator().manual_seed(seed)
    scores = torch.randint(-levels, levels, (m, n), generator=g).float()
    cuts = tuple(min(c, n) for c in cuts)
    assert same(searched(scores, k, block, cuts), sorted_whole(scores, k))


@pytest.mark.parametrize("k", [1, 10, 300, 3000])
@pytest.mark.parametrize("order", ["random", "ascending", "descending", "equal"])
def test_every_order_of_the_rows(order, k):
    scores = torch.randn(7, 2900, generator=torch.Generator().manual_seed(0))
    if order == "equal":
        scores = torch.full_like(scores, 0.25)
    elif order != "random":
        scores = scores.sort(1, descending=order == "descending").values
    assert same(searched(scores, k, 512), sorted_whole(scores, k))


@pytest.mark.parametrize("threads", [1, 2, 3])
def test_threads_do_not_change_the_answer(threads):
    scores = torch.randint(0, 900, (3, 14_000), generator=torch.Generator().manual_seed(2)).float()
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        found = searched(scores, 50, 700, (5_000, 5_001))
    finally:
        torch.set_num_threads(before)
    assert same(found, sorted_whole(scores, 50))


def test_one_query_over_more_rows_than_are_listed_at_once():
    n = LISTED + 5_000
    scores = torch.randn(1, n, generator=torch.Generator().manual_seed(1))
    scores[0, [3, n - 1]] = 9.0
    found = searched(scores, 20, 30_000)
    assert same(found, sorted_whole(scores, 20))
    assert found[0][0, :2].tolist() == [3, n - 1]


def test_nothing_to_find():
    ids, values = searched(torch.empty(2, 0), 3, 8)
    assert (ids == -1).all()
    assert values.isneginf().all()
