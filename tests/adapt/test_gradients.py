"""Gradients of the targets: the mean of autograd's, of a model left as it was."""

import math
from collections.abc import Iterator

import pytest
import torch
from torch import Tensor, nn

from lowdim import adapt
from lowdim.adapt import gradients
from lowdim.errors import InputError
from tests.adapt.sample import NAMES, loss, tokens, zoo

TARGETS, BATCH = list(NAMES), tokens(4)


def test_mean_of_the_gradients_of_autograd_in_the_shape_of_the_target() -> None:
    model = zoo()
    batches = [BATCH[:2], BATCH[2:]]
    found = gradients(model, loss, batches, TARGETS)
    value = sum(loss(model, batch) for batch in batches) / 2
    for target in adapt.find_targets(model, TARGETS):
        (expected,) = torch.autograd.grad(value, target.parameter, retain_graph=True)
        expected = expected.T if target.transposed else expected
        assert found[target.name].shape == target.shape
        torch.testing.assert_close(found[target.name], expected)


def test_small_batches_make_up_a_large_one() -> None:
    model = zoo()
    whole = gradients(model, loss, [BATCH], TARGETS)
    parts = gradients(model, loss, BATCH.split(1), TARGETS)
    for name, gradient in whole.items():
        torch.testing.assert_close(parts[name], gradient)


def test_batches_are_taken_one_at_a_time() -> None:
    alive: list[int] = []

    def stream() -> Iterator[Tensor]:
        for i in range(3):
            alive.append(i)
            yield BATCH

    seen: list[tuple[int, int, int]] = []
    gradients(
        zoo(), loss, stream(), TARGETS,
        progress=lambda done, total: seen.append((done, total, len(alive))),
    )  # fmt: skip
    assert seen == [(1, 0, 1), (2, 0, 2), (3, 0, 3)]
    gradients(zoo(), loss, [BATCH], TARGETS, progress=lambda *at: seen.append((*at, 0)))
    assert seen[-1] == (1, 1, 0)


def test_model_is_left_as_it_was_also_on_an_error() -> None:
    model = nn.Sequential(nn.Linear(4, 4), nn.Dropout(0.5), nn.BatchNorm1d(4), nn.Linear(4, 1))
    model.train()
    model[2].eval()  # a frozen norm inside a model in training
    model[0].bias.requires_grad_(False)
    model[3].weight.grad = torch.ones(1, 4)
    state = {name: x.clone() for name, x in model.state_dict().items()}
    x = torch.randn(8, 4)

    def check() -> None:
        assert [m.training for m in model.modules()] == [True, True, True, False, True]
        assert not model[0].bias.requires_grad
        assert model[0].weight.requires_grad
        assert model[0].weight.grad is None
        assert torch.equal(model[3].weight.grad, torch.ones(1, 4))
        assert all(torch.equal(x, state[name]) for name, x in model.state_dict().items())

    first = gradients(model, lambda m, b: m(b).square().mean(), [x], "linear")
    again = gradients(model, lambda m, b: m(b).square().mean(), [x], "linear")
    assert all(torch.equal(first[name], again[name]) for name in first)  # no dropout
    check()
    with pytest.raises(ZeroDivisionError):
        gradients(model, lambda m, b: m(b).sum() / 0 if b is None else 1 / 0, [x], "linear")
    check()


def test_tied_weights_have_one_gradient_each_under_both_names() -> None:
    model = nn.Sequential(nn.Linear(3, 3, bias=False), nn.Tanh(), nn.Linear(3, 3, bias=False))
    model[2].weight = model[0].weight
    x = torch.randn(5, 3)
    found = gradients(model, lambda m, b: m(b).square().mean(), [x, x], ["0", "2"])
    (expected,) = torch.autograd.grad(model(x).square().mean(), model[0].weight)
    torch.testing.assert_close(found["0.weight"], expected)
    torch.testing.assert_close(found["2.weight"], expected)


@pytest.mark.parametrize("method", [adapt.SVFit(4), adapt.SLTrain(2, density=0.1)])
def test_with_adapters_attached_they_are_those_by_the_adapted_weights(
    method: adapt.Method,
) -> None:
    model = zoo()
    record = adapt.attach(model, method, TARGETS)
    with torch.no_grad():
        for parameter in record.adapter_parameters():
            parameter.add_(0.1)
    found = gradients(model, loss, [BATCH], TARGETS)
    assert all(p.requires_grad for p in record.adapter_parameters())
    assert not model.query.weight.requires_grad
    merged = adapt.merge(model)
    expected = gradients(merged, loss, [BATCH], TARGETS)
    for name, gradient in expected.items():
        torch.testing.assert_close(found[name], gradient, rtol=1e-4, atol=1e-6)


def test_half_precision_is_summed_in_float32() -> None:
    model = zoo().bfloat16()
    found = gradients(model, loss, [BATCH] * 3, TARGETS)
    assert {g.dtype for g in found.values()} == {torch.float32}
    one = gradients(model, loss, [BATCH], TARGETS)
    for name, gradient in one.items():
        torch.testing.assert_close(found[name], gradient)


def test_under_no_grad() -> None:
    with torch.no_grad():
        assert gradients(zoo(), loss, [BATCH], TARGETS)["query.weight"].abs().max() > 0


def test_bad_input() -> None:
    def broken(value: float) -> object:
        return lambda model, batch: loss(model, batch) * value

    for given, match in (
        (broken(math.nan), "loss of batch 1 is nan"),
        (lambda model, batch: model(batch), r"of shape \(4, 3\)"),
        (lambda model, batch: torch.tensor(1.0), "does not depend on the targets"),
        (lambda model, batch: model.query(torch.ones(16)).sum(), "not depend on emb.weight"),
    ):
        with pytest.raises(InputError, match=match):
            gradients(zoo(), given, [BATCH], TARGETS)
    with pytest.raises(InputError, match="no batches"):
        gradients(zoo(), loss, [], TARGETS)
    model = nn.Sequential(nn.Linear(1, 1, bias=False))
    nn.init.zeros_(model[0].weight)
    with pytest.raises(InputError, match=r"the gradient of 0\.weight holds"):
        gradients(model, lambda m, b: m(b).abs().sqrt().sum(), [torch.ones(1, 1)], ["0"])
