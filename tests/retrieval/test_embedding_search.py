"""Planted widths come back; alpha of one is the table; the compact table is the masked one."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn
from torch.nn.functional import embedding, mse_loss

from lowdim.core.random import integers, normal
from lowdim.errors import InputError
from lowdim.retrieval import MixedEmbedding, SoftEmbedding, frequency_blocks, search_dims

RANKS, DIM, EACH = (1, 3, 6), 8, 20


class Scores(nn.Module):
    """The product of a feature's vector with a context that is given."""

    def __init__(self, table):
        super().__init__()
        self.table = table

    def forward(self, inputs):
        ids, context = inputs
        return (self.table(ids) * context).sum(1)


def planted(n, seed):
    """Features of block l use the first RANKS[l] columns."""
    blocks = torch.arange(3).repeat_interleave(EACH)
    truth = normal((3 * EACH, DIM), 0) * (torch.arange(DIM) < torch.tensor(RANKS)[blocks, None])
    ids, context = integers(n, 3 * EACH, seed, 1), normal((n, DIM), seed, 2)
    y = (truth[ids] * context).sum(1) + 0.1 * normal(n, seed, 3)
    inputs = zip(ids.split(250), context.split(250), strict=True)
    return blocks, list(zip(inputs, y.split(250), strict=True))


def test_planted_widths_are_found():
    blocks, train = planted(5000, 1)
    _, valid = planted(2000, 2)
    torch.manual_seed(0)
    model = Scores(SoftEmbedding(blocks, DIM))
    history = search_dims(
        model, train, valid, mse_loss, epochs=12, learning_rate=0.03, alpha_rate=0.03
    )
    assert history[-1] < 0.05 < history[0]
    compact = MixedEmbedding.of(model.table, threshold=0.3)
    assert compact.dims == list(RANKS)
    assert MixedEmbedding.of(model.table, numbers=EACH * sum(RANKS)).dims == list(RANKS)
    assert compact.weight.numel() == EACH * sum(RANKS)


def test_alpha_of_one_is_the_table():
    soft = SoftEmbedding(torch.tensor([0, 1, 0, 2]), 5)
    ids = torch.tensor([[3, 0], [1, 1]])
    assert torch.equal(soft(ids), embedding(ids, soft.weight))


@settings(max_examples=40, deadline=None)
@given(st.integers(0, 10_000), st.integers(1, 6), st.integers(1, 4))
def test_compact_table_is_the_masked_one(seed, dim, n_blocks):
    g = torch.Generator().manual_seed(seed)
    blocks = torch.randint(n_blocks, (9,), generator=g)
    table = torch.randn(9, dim, generator=g)
    kept = torch.rand(n_blocks, dim, generator=g) < 0.5
    mask = kept[blocks]
    if not mask.any():
        with pytest.raises(InputError, match="no column is kept"):
            MixedEmbedding(table, blocks, kept)
        return
    compact = MixedEmbedding(table, blocks, kept)
    ids = torch.randint(9, (4, 3), generator=g)
    assert torch.equal(compact(ids), (table * mask)[ids])
    assert compact.weight.numel() == int(mask.sum())
    compact(torch.arange(9)).sum().backward()  # every number that is stored is one that is trained
    assert torch.equal(compact.weight.grad, torch.ones_like(compact.weight))


def test_alpha_stays_between_0_and_1():
    blocks, train = planted(500, 1)
    model = Scores(SoftEmbedding(blocks, DIM))
    search_dims(model, train, train, mse_loss, epochs=2, alpha_rate=0.5)
    alpha = model.table.alpha.detach()
    assert 0 <= float(alpha.min()) < float(alpha.max()) <= 1


def test_frequency_blocks():
    assert frequency_blocks([5, 100, 7, 1], 2).tolist() == [1, 0, 0, 1]
    assert frequency_blocks(torch.arange(7), 3).bincount().tolist() == [3, 2, 2]
    with pytest.raises(InputError, match="at most n"):
        frequency_blocks([1, 2], 3)


def test_wrong_input_says_so():
    blocks, train = planted(250, 1)
    with pytest.raises(InputError, match="has no SoftEmbedding"):
        search_dims(nn.Linear(2, 2), train, train, mse_loss)
    model = Scores(SoftEmbedding(blocks, DIM))
    with pytest.raises(InputError, match="lower the learning rate"):
        search_dims(model, [(train[0][0], train[0][1] * float("nan"))], train, mse_loss)
    with pytest.raises(InputError, match="either threshold or numbers"):
        MixedEmbedding.of(model.table)
    with pytest.raises(InputError, match="no batch"):
        search_dims(model, train, [], mse_loss)
