"""SLTrain: the written-out gradient is autograd's, the rank is full, the support is uniform."""

import math

import pytest
import torch
from torch import Tensor, nn

from lowdim import adapt
from lowdim.adapt import Draws, SLTrain
from lowdim.adapt.sltrain import SLTrainAdapter
from lowdim.errors import InputError
from tests.adapt.sample import loss, tokens, zoo


def made(shape: tuple[int, ...], options: SLTrain, name: str = "x") -> SLTrainAdapter:
    adapter = SLTrainAdapter(shape, options, Draws(0, name)).double()
    with torch.no_grad():
        adapter.b.normal_(generator=torch.manual_seed(1))
        adapter.values.normal_()
    return adapter


def by_dense(adapter: SLTrainAdapter, x: Tensor) -> Tensor:
    return x @ adapter.delta().T


@pytest.mark.parametrize("lead", [(), (5,), (2, 3), (0,)])
def test_product_and_gradients_are_those_of_the_dense_form(lead: tuple[int, ...]) -> None:
    adapter = made((9, 13), SLTrain(2, density=0.2))
    x = torch.randn(*lead, 13, dtype=torch.float64, requires_grad=True)
    weight = torch.randn(*lead, 9, dtype=torch.float64)
    wanted = [x, *adapter.parameters()]
    results = []
    for product in (adapter.forward, lambda x: by_dense(adapter, x)):
        value = product(x)
        results.append([value, *torch.autograd.grad((value.sin() * weight).sum(), wanted)])
    for mine, dense in zip(*results, strict=True):
        torch.testing.assert_close(mine, dense, rtol=1e-10, atol=1e-12)


def test_gradcheck() -> None:
    adapter = made((5, 4), SLTrain(1, density=0.3))
    x = torch.randn(3, 4, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(adapter, (x,))


def test_nothing_of_the_size_of_the_weight_is_kept_for_the_backward_pass() -> None:
    adapter = made((200, 100), SLTrain(2, density=0.01))
    kept: list[int] = []

    def pack(tensor: Tensor) -> Tensor:
        kept.append(tensor.numel())
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        adapter(torch.randn(3, 100, dtype=torch.float64))
    assert max(kept) <= 400  # of 20,000


def test_rows_are_those_of_the_dense_form() -> None:
    adapter = made((30, 7), SLTrain(2, density=0.1))
    index = torch.tensor([[3, 3, 29], [0, 17, 3]])
    assert torch.equal(adapter.rows(index.int()), adapter.rows(index))
    assert adapter.rows(index[:, :0]).shape == (2, 0, 7)
    mine, dense = adapter.rows(index), adapter.delta()[index]
    torch.testing.assert_close(mine, dense)
    weight = torch.randn_like(mine)
    for a, b in zip(
        torch.autograd.grad((mine * weight).sum(), list(adapter.parameters())),
        torch.autograd.grad((dense * weight).sum(), list(adapter.parameters())),
        strict=True,
    ):
        torch.testing.assert_close(a, b)


def test_update_has_full_rank_at_a_density_of_a_few_log_n_over_n() -> None:
    n = 200
    density = 2 * math.log(n) / n
    adapter = made((n, n), SLTrain(1, density=density))
    assert adapter.n_trainable < n * n / 10
    assert int(torch.linalg.matrix_rank(adapter.delta())) == n
    adapter.values.data.zero_()
    assert int(torch.linalg.matrix_rank(adapter.delta())) == 1


def test_support_is_uniform_fixed_by_the_seed_and_not_stored(tmp_path) -> None:
    adapter = made((400, 300), SLTrain(1, density=0.05))
    assert len(adapter.places.flat.unique()) == 6000 == len(adapter.values)
    assert int(adapter.places.flat.min()) >= 0
    assert int(adapter.places.flat.max()) < 120_000
    counts = torch.bincount(adapter.places.flat // 300 // 40, minlength=10).double()
    assert (counts - 600).square().sum() / 600 < 30  # chi-squared of 9 degrees: p = 4e-4
    assert torch.equal(adapter.places.flat, made((400, 300), SLTrain(1, density=0.05)).places.flat)
    other = made((400, 300), SLTrain(1, density=0.05), "y").places.flat
    assert not torch.equal(adapter.places.flat, other)
    assert set(adapter.state_dict()) == {"b", "a", "values"}


def test_count() -> None:
    options = SLTrain(8, density=0.03)
    assert options.count([(768, 768), (30, 5, 3)]) == 8 * 1536 + 17695 + 8 * 45 + round(0.03 * 450)
    assert made((64, 48), options).n_trainable == options.count([(64, 48)])
    assert SLTrain(1, density=1e-9).count([(4, 4)]) == 9
    assert made((4, 4), SLTrain(1, density=1.0)).n_trainable == 8 + 16


def test_start_of_the_paper_trains_from_weights_of_zero() -> None:
    model = nn.Sequential(nn.Linear(64, 32))
    nn.init.zeros_(model[0].weight)
    record = adapt.attach(model, SLTrain(4, density=0.2, spread=1.0), ["0"])
    values = record.pairs()[0][1].values
    assert values.abs().max().item() <= 1 / 8
    assert values.std().item() == pytest.approx(1 / 8 / math.sqrt(3), rel=0.1)
    assert model(torch.ones(2, 64)).std() > 0


def test_a_step_on_the_values_is_the_full_step_at_the_support() -> None:
    model, lr = zoo(), 0.1
    full = adapt.gradients(model, loss, [tokens()], ["query"])["query.weight"].flatten()
    record = adapt.attach(model, SLTrain(1, density=0.4), ["query"], also=["classifier"])
    adapter = record.pairs()[0][1]
    assert isinstance(adapter, SLTrainAdapter)
    loss(model, tokens()).backward()
    torch.optim.SGD(record.adapter_parameters(), lr).step()
    torch.testing.assert_close(adapter.values, -lr * full[adapter.places.flat])


def test_bad_input() -> None:
    for options, match in (
        (SLTrain(density=0.0), r"share in \(0, 1\]"),
        (SLTrain(density=math.nan), r"share in \(0, 1\]"),
        (SLTrain(spread=-1.0), "0 or more"),
        (SLTrain(rank=0), "rank=0"),
        (SLTrain(alpha=math.inf), "alpha=inf"),
    ):
        with pytest.raises(InputError, match=match):
            adapt.attach(zoo(), options, ["query"])
