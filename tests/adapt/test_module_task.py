"""Tasks of tensors: batches, scores against scipy, and a network that learns."""

from __future__ import annotations

import pytest
import torch
from scipy.stats import binomtest
from torch import nn

from lowdim import adapt
from lowdim.adapt import fit, module_task
from lowdim.adapt.task import accuracy, fingerprint, squared_error
from lowdim.errors import InputError


def images(n: int = 60) -> tuple[torch.Tensor, torch.Tensor]:
    """Bright above or bright below."""
    generator = torch.Generator().manual_seed(0)
    y = torch.arange(n) % 2
    x = 0.3 * torch.randn(n, 1, 6, 6, generator=generator)
    x[y == 0, :, :3] += 1
    x[y == 1, :, 3:] += 1
    return x, y


class Net(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.body = nn.Sequential(nn.Conv2d(1, 4, 3), nn.ReLU(), nn.Flatten(), nn.Linear(64, 16))
        self.head = nn.Linear(16, 2)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.head(self.body(x).relu())


@pytest.fixture
def net() -> Net:
    torch.manual_seed(0)
    return Net()


def test_every_item_is_in_one_batch_of_an_epoch(net: Net) -> None:
    x, y = torch.arange(23.0)[:, None], torch.arange(23) % 2
    task = module_task(nn.Linear(1, 2), (x, y), (x, y), batch_size=5, targets="linear")
    orders = []
    for seed, epoch in ((0, 0), (0, 1), (1, 0), (0, 0)):
        parts = list(task.batches(seed, epoch))
        assert len(parts) == task.n_batches() == 5
        assert {len(part[0]) for part in parts} == {4, 5}  # never a last batch of one
        order = torch.cat([part[0][:, 0] for part in parts])
        assert torch.equal(order.sort().values, x[:, 0])
        assert torch.equal(torch.cat([part[1] for part in parts]), order.long() % 2)
        orders.append(order.tolist())
    assert orders[0] == orders[3]
    assert len({tuple(order) for order in orders}) == 3


def test_adapters_learn_through_convolutions(net: Net) -> None:
    task = module_task(net, images(), images(30), also=("head",), batch_size=10)
    assert task.targets == ("body.0", "body.3")
    model = task.fresh()
    before = fingerprint(net.state_dict().values())
    attached = adapt.attach(model, adapt.SVFit(4), task.targets, also=task.also)
    assert attached.n_trainable == 8
    found = fit(model, task, epochs=6, lr=0.05)
    assert found.losses[-6:].mean() < 0.3 * found.losses[:6].mean()
    assert found.score.value == 1.0
    assert fingerprint(net.state_dict().values()) == before
    assert fingerprint(task.fresh().state_dict().values()) == before


@pytest.mark.parametrize(("right", "n"), [(0, 5), (5, 5), (1, 2), (871, 1000)])
def test_accuracy_has_wilsons_interval(right: int, n: int) -> None:
    score = accuracy(torch.arange(n) < right)
    wanted = binomtest(right, n).proportion_ci(method="wilson")
    assert (score.value, score.n) == (right / n, n)
    assert (score.low, score.high) == pytest.approx((wanted.low, wanted.high), abs=1e-6)
    assert score.per_item.mean() == pytest.approx(score.value)


def test_numbers_are_scored_by_their_squared_error() -> None:
    torch.manual_seed(0)
    x = torch.randn(40, 3)
    y = x @ torch.randn(3, 2) + 0.1 * torch.randn(40, 2)
    task = module_task(nn.Linear(3, 2), (x, y), (x, y), targets="all")
    model = task.fresh()
    score = task.evaluate(model)
    assert (score.name, score.higher_is_better, score.n) == ("squared error", False, 40)
    assert score.value == pytest.approx(float((model(x) - y).square().mean().detach()))
    found = fit(model, task, epochs=300, lr=0.05)
    best = torch.linalg.lstsq(torch.cat([x, torch.ones(40, 1)], 1), y).solution
    least = float((torch.cat([x, torch.ones(40, 1)], 1) @ best - y).square().mean())
    assert found.score.value == pytest.approx(least, rel=1e-2)


def test_the_interval_of_a_squared_error_is_normal() -> None:
    score = squared_error(torch.tensor([0.0, 1.0, 2.0, 3.0]))
    half = 1.959964 * (5 / 3) ** 0.5 / 2
    assert (score.value, score.high - 1.5) == pytest.approx((1.5, half))
    assert score.low == max(0.0, 1.5 - half)


def test_evaluation_leaves_the_mode(net: Net) -> None:
    task = module_task(net, images(), images(10))
    for training in (True, False):
        model = task.fresh().train(training)
        task.evaluate(model)
        assert model.training is training


def test_tuning_holds_out_a_fifth_of_the_training_data(net: Net) -> None:
    x = torch.arange(50.0).reshape(50, 1)
    y = torch.arange(50) % 2
    task = module_task(nn.Linear(1, 2), (x, y), (x[:5] + 1000, y[:5]), targets="linear")
    inner = task.tuning()
    assert len(inner.train[0]) == 40
    assert len(inner.valid[0]) == 10
    both = torch.cat([inner.train[0], inner.valid[0]])[:, 0]
    assert torch.equal(both.sort().values, x[:, 0])
    assert torch.equal(inner.valid[1], inner.valid[0][:, 0].long() % 2)
    assert torch.equal(inner.valid[0], task.tuning().valid[0])


def test_a_loss_of_ones_own(net: Net) -> None:
    def hinge(outputs: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
        return (1 - outputs[:, 0] * (1 - 2.0 * y)).relu().mean()

    task = module_task(net, images(), images(10), loss=hinge)
    batch = next(task.batches(0, 0))
    assert torch.equal(task.loss(net, batch), hinge(net(batch[0]), batch[1]))


def test_keys_tell_data_and_models_apart(net: Net) -> None:
    x, y = images()
    keys = {
        module_task(net, (x, y), (x, y)).key,
        module_task(net, (x + 1, y), (x, y)).key,
        module_task(net, (x, y), (x, 1 - y)).key,
        module_task(net, (x, y), (x, y), batch_size=3).key,
        module_task(Net(), (x, y), (x, y)).key,
    }
    assert len(keys) == 5
    assert module_task(net, (x.clone(), y), (x, y)).key in keys


def test_bad_input(net: Net) -> None:
    x, y = images()
    bad = x.clone()
    bad[3, 0, 0, 2] = float("nan")
    cases = [
        ({"train": (x, y[:-1])}, "train has 60 inputs and 59 targets"),
        ({"valid": (x[:1], y[:1])}, "valid has 1 items"),
        ({"train": (bad, y)}, "train inputs holds nan at row 3, column 2"),
        ({"valid": (x, y.float())}, "one has classes and the other numbers"),
        ({"batch_size": 0}, "batch_size=0"),
    ]
    for changes, message in cases:
        given = {"train": (x, y), "valid": (x, y)} | changes
        with pytest.raises(InputError, match=message):
            module_task(net, given.pop("train"), given.pop("valid"), **given)
    with pytest.raises(InputError, match="no linear layer or convolution"):
        module_task(nn.LayerNorm(3), (x, y), (x, y))
    task = module_task(nn.Linear(3, 1), (torch.ones(4, 3), torch.ones(4)),
                       (torch.ones(4, 3), torch.ones(4)))  # fmt: skip
    with pytest.raises(InputError, match=r"gives \(4, 1\) for targets of \(4,\)"):
        task.evaluate(task.fresh())
