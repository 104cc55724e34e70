"""Planted noise rows are dropped, needless columns too; prefixes nest; compact is exact."""

import pytest
import torch
from torch import nn
from torch.nn.functional import mse_loss

from lowdim.core.random import integers, normal
from lowdim.errors import InputError
from lowdim.retrieval import OptEmbedding, opt_embed

EACH, DIM = 30, 6
FIELDS = torch.arange(2).repeat_interleave(EACH)
RANKS = torch.tensor([1, 4])
NOISE = torch.arange(2 * EACH) % EACH >= 20  # a third of the rows says nothing


class Scores(nn.Module):
    def __init__(self):
        super().__init__()
        self.table = OptEmbedding(FIELDS, DIM)

    def forward(self, inputs):
        ids, context = inputs
        return (self.table(ids) * context).sum((1, 2))


def planted(n, seed):
    """Each of two fields adds the product of its vector and a context."""
    truth = normal((2 * EACH, DIM), 0) * (torch.arange(DIM) < RANKS[FIELDS, None])
    truth[:, 0] += truth[:, 0].sign()  # a row that is there can be told from one that is not
    truth = truth.masked_fill(NOISE[:, None], 0)
    ids = torch.stack([integers(n, EACH, seed, 1), EACH + integers(n, EACH, seed, 2)], 1)
    context = normal((n, 2, DIM), seed, 3)
    y = (truth[ids] * context).sum((1, 2)) + 0.1 * normal(n, seed, 4)
    inputs = zip(ids.split(250), context.split(250), strict=True)
    return list(zip(inputs, y.split(250), strict=True))


@pytest.fixture(scope="module")
def searched():
    torch.manual_seed(0)
    model = Scores()
    found = opt_embed(
        model, planted(6000, 1), planted(2000, 2), mse_loss, epochs=15, learning_rate=0.03,
        penalty=0.02, numbers=int(RANKS.sum()) * EACH, generations=6,
    )  # fmt: skip
    return model, found


def test_noise_rows_are_dropped_and_the_others_kept(searched):
    model, _ = searched
    kept = model.table.kept()
    assert float((kept != NOISE).float().mean()) >= 0.98


def test_fields_get_the_columns_they_use(searched):
    _, found = searched
    assert found.dims[0] < found.dims[1]
    assert found.numbers <= int(RANKS.sum()) * EACH
    assert found.loss < 2 * found.full_loss


def test_compact_table_is_the_masked_one(searched):
    model, found = searched
    ids = torch.arange(2 * EACH).view(-1, 2)
    compact = model.table.compact()
    torch.testing.assert_close(compact(ids), model.table(ids), rtol=0, atol=0)
    assert compact.weight.numel() == found.numbers
    assert compact.dims == [*found.dims, 0]


def test_prefixes_nest():
    table = OptEmbedding(FIELDS, DIM)
    rows = []
    for width in (2, 5):
        table.dims.fill_(width)
        rows.append(table(torch.arange(2 * EACH)))
    assert torch.equal(rows[0][:, :2], rows[1][:, :2])
    assert not rows[0][:, 2:].any()
    assert not rows[1][:, 5:].any()


def test_threshold_drops_rows_and_feels_a_slope():
    table = OptEmbedding(torch.zeros(4, dtype=torch.int64), 2)
    with torch.no_grad():
        table.weight.copy_(torch.tensor([[0.1, 0.1], [2, 2], [0.3, 0.1], [0.2, 0.2]]))
        table.threshold.fill_(0.3)
    assert table.kept().tolist() == [False, True, True, True]
    out = table(torch.arange(4))
    assert torch.equal(out[0], torch.zeros(2))
    out.sum().backward()
    # slopes at the lengths less 0.3: -0.1, 3.7, 0.1, 0.1, times the sum of each row
    expected = -(1.6 * 0.2 + 0 * 4 + 1.6 * 0.4 + 1.6 * 0.4)
    assert float(table.threshold.grad[0]) == pytest.approx(expected, rel=1e-4)


def test_same_seed_same_search():
    dims = []
    for _ in range(2):
        torch.manual_seed(1)
        found = opt_embed(
            Scores(), planted(500, 1), planted(250, 2), mse_loss, epochs=1, generations=2
        )
        dims.append(found)
    assert dims[0] == dims[1]


def test_wrong_input_says_so():
    batches = planted(250, 1)
    with pytest.raises(InputError, match="has 0 OptEmbeddings"):
        opt_embed(nn.Linear(2, 2), batches, batches, mse_loss)
    with pytest.raises(InputError, match="one column of each"):
        opt_embed(Scores(), batches, batches, mse_loss, epochs=1, numbers=3)
    with pytest.raises(InputError, match="from 0, and 1 up"):
        OptEmbedding(torch.tensor([-1]), 2)
    model = Scores()
    nn.init.constant_(model.table.threshold, 50)
    with pytest.raises(InputError, match="no row is left"):
        opt_embed(model, batches, batches, mse_loss, epochs=1)
