import math

import pytest
import torch
from sklearn.datasets import load_digits
from torch import nn

from lowdim import adapt
from lowdim.adapt import generalization_bound, module_task, quantized
from lowdim.errors import InputError


def test_bound_is_hoeffdings_over_a_finite_class():
    found = generalization_bound(100, 10_000)
    assert found == pytest.approx(math.sqrt((3200 * math.log(2) + math.log(20)) / 20_000))
    many = generalization_bound(99, 10_000, bits=32, delta=0.05 / 2**32)
    assert generalization_bound(99, 10_000, choices=2**32) == pytest.approx(many)
    assert generalization_bound(10, 500, bits=4) < generalization_bound(10, 500, bits=8)
    for options in ({"delta": 0}, {"bits": 33}, {"choices": 0}):
        with pytest.raises(InputError):
            generalization_bound(10, 100, **options)


def test_bound_holds_for_all_models_of_a_class_at_once():
    """Of 2^8 models, drawn data makes the luckiest look better; how much is bounded."""
    generator = torch.Generator().manual_seed(0)
    n, bits = 60, 8
    n_bits = 2 * n * generalization_bound(1, n) ** 2 - math.log(20)  # what the formula counts
    assert n_bits / math.log(2) == pytest.approx(32)
    bound = math.sqrt((bits * math.log(2) + math.log(20)) / (2 * n))  # the same for fewer bits
    errors = torch.rand(500, 2**bits, n, generator=generator) < 0.5
    gaps = (0.5 - errors.double().mean(2)).amax(1)
    assert float((gaps > bound).double().mean()) <= 0.05
    assert float(gaps.mean()) > bound / 2  # and it is not far off


def test_bound_lies_above_the_measured_gap():
    x, y = load_digits(return_X_y=True)
    x, y = torch.tensor(x).float() / 16, torch.tensor(y)
    torch.manual_seed(0)
    net = nn.Sequential(nn.Linear(64, 16), nn.ReLU(), nn.Linear(16, 10))
    task = module_task(net, (x[:1000], y[:1000]), (x[1000:], y[1000:]), batch_size=100)
    model = task.fresh()
    record = adapt.attach(model, adapt.RandomSubspace(dim=60), "all")
    adapt.fit(model, task, epochs=20, lr=0.3)
    (z,) = record.adapter_parameters()
    z.data = quantized(z, 8)
    train_error = float((model(x[:1000]).argmax(1) != y[:1000]).double().mean())
    test_error = 1 - task.evaluate(model).value
    bound = generalization_bound(60, 1000, bits=8)
    assert train_error < 0.4
    assert test_error - train_error < bound < 0.45


def test_quantized_numbers_take_few_values_near_the_old_ones():
    z = torch.randn(1000)
    for bits in (2, 5, 8):
        few = quantized(z, bits)
        assert len(few.unique()) <= 2**bits - 1
        step = float(z.abs().max()) / (2 ** (bits - 1) - 1)
        assert float((few - z).abs().max()) <= step / 2 * (1 + 1e-5)
    assert torch.equal(quantized(torch.zeros(3), 4), torch.zeros(3))
    with pytest.raises(InputError, match="bits=1"):
        quantized(z, 1)
    with pytest.raises(InputError, match="not finite"):
        quantized(z / 0, 4)
