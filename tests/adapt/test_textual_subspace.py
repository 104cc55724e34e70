"""Textual subspace: the projected step, the span of real words, and the exact start."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import nn

from lowdim import adapt
from lowdim.adapt.textual_subspace import TextualSubspace, new_directions
from lowdim.errors import InputError

ROWS, DIM = 60, 20


def a_table(seed=0):
    return nn.Embedding.from_pretrained(
        torch.randn(ROWS, DIM, generator=torch.Generator().manual_seed(seed))
    )


def attach(method, seed=0):
    net = nn.Sequential(a_table(seed))
    record = adapt.attach(net, method, [nn.Embedding])
    return net, record.pairs()[0][1]


def everything(net):
    return net(torch.arange(ROWS))


@pytest.mark.parametrize("init", [None, [5, 9]])
def test_starts_as_the_word_it_is_told(init):
    net, _ = attach(TextualSubspace([3, 40], init))
    table = a_table().weight
    found = everything(net)
    expected = table.clone()
    if init:
        expected[[3, 40]] = table[init]
        assert torch.allclose(found, expected, atol=1e-6)
        found[[3, 40]] = expected[[3, 40]]
    assert torch.equal(found, expected)  # every other row bit for bit, all of them without init


@pytest.mark.parametrize("rank", [1, 4, DIM])
def test_a_step_on_w_is_the_projected_step_on_v(rank):
    _, adapter = attach(TextualSubspace([3], [5], rank=rank))
    adapter.double()
    g = torch.randn(DIM, dtype=torch.float64)  # gradient of some loss by the word
    index = torch.tensor([3])
    before = adapter.rows(index).detach()
    (adapter.rows(index)[0] @ g).backward()
    eta = 0.1
    with torch.no_grad():
        adapter.change -= eta * adapter.change.grad
    v = adapter.basis[0]  # (r, dim)
    expected = before - eta * (v.T @ v @ g)
    assert torch.allclose(adapter.rows(index), expected, rtol=0, atol=1e-12)


def test_the_word_is_w_times_the_words_and_stays_in_their_span():
    net, adapter = attach(TextualSubspace([3, 40], [5, 9], rank=4))
    nn.init.normal_(adapter.change)
    table = a_table().weight.double()
    for token, w, words in zip((3, 40), adapter.weights, adapter.words, strict=True):
        v = net(torch.tensor([token]))[0].double()
        assert torch.allclose(v, w.double() @ table[words], atol=1e-5)
        basis, _ = torch.linalg.qr(table[words].T)
        assert torch.allclose(basis @ (basis.T @ v), v, atol=1e-5)
        assert torch.linalg.matrix_rank(table[words]) == 4


@pytest.mark.parametrize("metric", ["cosine", "euclidean"])
def test_words_are_the_start_and_its_nearest(metric):
    _, adapter = attach(TextualSubspace([3], [5], rank=5, metric=metric))
    table = a_table().weight.double()
    if metric == "cosine":
        near = nn.functional.cosine_similarity(table, table[5:6])
    else:
        near = -(table - table[5]).norm(dim=1)
    near[3] = -torch.inf  # the word that is learned is no neighbour
    assert adapter.words[0].tolist() == near.argsort(descending=True)[:5].tolist()


def test_at_full_rank_any_word_is_reached():
    net, adapter = attach(TextualSubspace([3], [5], rank=DIM))
    wanted = torch.randn(DIM, dtype=torch.float64)
    basis = adapter.basis[0].double()
    w = torch.linalg.solve(basis.T, wanted)
    adapter.change.data = (w - torch.eye(DIM)[0].double())[None].float()
    assert torch.allclose(net(torch.tensor([3]))[0].double(), wanted, atol=1e-4)


def test_words_in_the_span_of_nearer_ones_are_passed_over():
    table = a_table()
    with torch.no_grad():
        table.weight[10] = 2 * table.weight[5]  # the same direction: nearest of all by cosine
        table.weight[0] = 0  # padding
    net = nn.Sequential(table)
    record = adapt.attach(net, TextualSubspace([3], [5], rank=6), [nn.Embedding])
    words = record.pairs()[0][1].words[0].tolist()
    assert words[0] == 5
    assert not {10, 0, 3} & set(words)
    assert torch.linalg.matrix_rank(table.weight[words]) == 6


def test_new_directions_are_those_that_raise_the_rank():
    g = torch.Generator().manual_seed(0)
    rows = torch.randn(20, 3, generator=g, dtype=torch.float64) @ torch.randn(
        3, 8, generator=g, dtype=torch.float64
    )
    rows[7] = torch.randn(8, generator=g, dtype=torch.float64)
    assert new_directions(rows, 8).tolist() == [0, 1, 2, 7]
    assert new_directions(rows, 2).tolist() == [0, 1]
    assert new_directions(torch.zeros(3, 4, dtype=torch.float64), 2).tolist() == []


def test_rows_products_and_delta_agree():
    _, adapter = attach(TextualSubspace([3, 40], [5, 9], rank=4))
    nn.init.normal_(adapter.change)
    delta = adapter.delta()
    assert (delta.abs().sum(1) > 0).nonzero()[:, 0].tolist() == [3, 40]
    index = torch.tensor([[3, 1, 40], [0, 3, 3]])
    assert torch.equal(adapter.rows(index), delta[index])
    x = torch.randn(2, 5, DIM)
    assert torch.allclose(adapter(x), x @ delta.T, atol=1e-5)
    adapter.double()

    assert torch.autograd.gradcheck(lambda _: adapter.rows(index), adapter.change)


def test_life_of_an_adapter(tmp_path):
    net = nn.Sequential(a_table(), nn.Linear(DIM, 3))
    base, x = copy.deepcopy(net), torch.tensor([[1, 3], [40, 2]])
    method = TextualSubspace([3, 40], rank=4)
    record = adapt.attach(net, method, [nn.Embedding])
    assert torch.equal(net(x), base(x))
    assert record.n_trainable == 8 == method.count([(ROWS, DIM)])
    optimizer = torch.optim.SGD([p for p in net.parameters() if p.requires_grad], 0.5)
    for _ in range(3):
        optimizer.zero_grad()
        net(x).square().mean().backward()
        optimizer.step()
    moved = (net(x) - base(x)).abs().sum(-1) > 0
    assert moved.tolist() == [[False, True], [True, False]]
    adapt.save(net, tmp_path)
    again = copy.deepcopy(base)
    loaded = adapt.load(again, tmp_path)
    assert torch.equal(again(x), net(x))
    assert loaded.groups[0].method == method
    assert torch.equal(loaded.pairs()[0][1].words, record.pairs()[0][1].words)
    adapt.merge(again)
    assert torch.allclose(again(x), net(x), atol=1e-6)
    assert torch.equal(adapt.detach(net)(x), base(x))


@pytest.mark.parametrize(
    ("method", "says"),
    [
        (TextualSubspace(), "name the rows"),
        (TextualSubspace([3, 3]), "each once"),
        (TextualSubspace([60]), "no row 60: rows are 0 to 59"),
        (TextualSubspace([3], [-1]), "no row -1"),
        (TextualSubspace([3, 4], [5]), "1 words for 2 tokens"),
        (TextualSubspace([3], rank=21), "rank=21: at most 20"),
        (TextualSubspace([3], rank=8, neighbors=6), "6 nearest span 7 directions"),
        (TextualSubspace([3], neighbors=0), "neighbors=0"),
        (TextualSubspace([3], metric="dot"), "metric='dot'"),
    ],
)
def test_bad_options_are_named(method, says):
    with pytest.raises(InputError, match=says):
        attach(method)


def test_bad_tables_are_named():
    table = a_table()
    table.weight[5] = 0
    with pytest.raises(InputError, match="word 5: row 0 is all zeros"):
        adapt.attach(nn.Sequential(table), TextualSubspace([3], [5]), [nn.Embedding])
    table.weight[7, 2] = float("nan")
    with pytest.raises(InputError, match="table holds nan at row 7, column 2"):
        adapt.attach(nn.Sequential(table), TextualSubspace([3], [6]), [nn.Embedding])
    with pytest.raises(InputError, match="of kind linear"):
        adapt.attach(nn.Sequential(nn.Linear(4, 4)), TextualSubspace([3]), "linear")
