"""Errors fall by level, prefixes follow the cosine, hashes spread, and new items are met."""

import pytest
import torch
from sklearn.datasets import load_digits

from lowdim.errors import InputError
from lowdim.retrieval.semantic_ids import (
    NgramEmbedding,
    _mixed,
    ngram_rows,
    prefix_rows,
    semantic_ids,
)


@pytest.fixture(scope="module")
def digits():
    data = load_digits()
    return torch.tensor(data.data).float(), torch.tensor(data.target)


@pytest.fixture(scope="module")
def found(digits):
    return semantic_ids(digits[0], levels=3, codes=16)


def test_errors_fall_and_are_those_of_the_sums(digits, found):
    assert list(found.errors) == sorted(found.errors, reverse=True)
    assert 0 < found.errors[-1] < found.errors[0] < 1
    z = digits[0] - digits[0].mean(0)
    back = found.codebooks[torch.arange(3), found.ids].sum(1)
    assert float((z - back).square().sum() / z.square().sum()) == pytest.approx(
        found.errors[-1], rel=1e-4
    )


def test_a_prefix_is_the_id_of_fewer_levels(digits, found):
    fewer = semantic_ids(digits[0], levels=2, codes=16)
    assert torch.equal(fewer.ids, found.ids[:, :2])
    assert torch.equal(found.of(digits[0][:50]), found.ids[:50])


def test_more_codes_keep_more(digits):
    errors = [semantic_ids(digits[0], levels=2, codes=k).errors[-1] for k in (4, 16, 64)]
    assert errors == sorted(errors, reverse=True)


def test_shared_prefixes_rise_with_the_cosine(found):
    rows = [p.shares for p in found.prefixes if p.pairs >= 200]
    assert len(rows) >= 4
    for level in range(3):
        shares = [shares[level] for shares in rows]
        assert shares == sorted(shares)
    assert all(list(shares) == sorted(shares, reverse=True) for shares in rows)


def test_collisions_are_counted(found):
    whole = [tuple(row) for row in found.ids.tolist()]
    assert found.collisions == sum(whole.count(row) > 1 for row in whole) / len(whole)
    twice = semantic_ids(torch.eye(8).repeat(2, 1), levels=1, codes=8)
    assert twice.collisions == 1.0


def test_levels_are_those_of_faiss_at_equal_size(digits):
    faiss = pytest.importorskip("faiss")
    faiss.omp_set_num_threads(1)
    x = digits[0] - digits[0].mean(0)
    peer = faiss.ResidualQuantizer(64, 3, 4)
    peer.max_beam_size = 1
    peer.train(x.numpy())
    theirs = torch.from_numpy(peer.decode(peer.compute_codes(x.numpy())))
    left = float((x - theirs).square().sum() / x.square().sum())
    assert semantic_ids(digits[0], levels=3, codes=16).errors[-1] < 1.04 * left


def test_the_mixer_is_splitmix64():
    step = 0x9E3779B97F4A7C15
    state = torch.tensor([step - 2**64, 2 * step - 2**64])  # seed 0, two draws
    known = [0xE220A8397B1DCDAF, 0x6E789E6AA1B965F4]
    assert [int(v) % 2**64 for v in _mixed(state)] == known


def test_rows_are_equal_for_equal_pieces_only():
    ids = torch.cartesian_prod(*[torch.arange(8)] * 3)  # all 512
    for n in (1, 2, 3):
        rows = ngram_rows(ids, n, 2**40)
        assert rows.shape == (512, 4 - n)
        assert len(rows.unique()) == (4 - n) * 8**n
    prefixes = prefix_rows(ids, 2**40)
    assert [len(prefixes[:, i].unique()) for i in range(3)] == [8, 64, 512]
    rows = ngram_rows(ids, 2, 97)
    assert rows.min() >= 0
    assert rows.max() < 97
    counts = torch.bincount(ngram_rows(ids, 3, 16)[:, 0], minlength=16)
    assert ((counts - 32).square() / 32).sum() < 38  # chi-square, 15 degrees: p = 0.001


def test_new_items_are_predicted_better_than_from_random_ids(digits, found):
    _, y = digits
    size, seen = 1024, torch.arange(len(y)) % 3 > 0
    ids = torch.randint(16, found.ids.shape, generator=torch.Generator().manual_seed(0))

    def held_out(rows):
        torch.manual_seed(0)
        model = torch.nn.Sequential(NgramEmbedding(rows, size, 16), torch.nn.Linear(16, 10))
        optimizer = torch.optim.Adam(model.parameters(), lr=0.1)
        items = seen.nonzero()[:, 0]
        for _ in range(30):
            loss = torch.nn.functional.cross_entropy(model(items), y[items])
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
        guess = model((~seen).nonzero()[:, 0]).argmax(1)
        return float((guess == y[~seen]).float().mean())

    semantic, random = held_out(prefix_rows(found.ids, size)), held_out(prefix_rows(ids, size))
    assert semantic > 0.7
    assert random < 0.25


def test_bad_input_is_refused():
    with pytest.raises(InputError, match=r"codes=9.* 2 to 8 codes"):
        semantic_ids(torch.randn(8, 3), codes=9)
    with pytest.raises(InputError, match="n=4: ids have 3 codes"):
        ngram_rows(torch.zeros(2, 3, dtype=torch.int64), 4, 10)
    with pytest.raises(InputError, match="2 columns"):
        semantic_ids(torch.randn(8, 3), codes=4).of(torch.randn(2, 2))
