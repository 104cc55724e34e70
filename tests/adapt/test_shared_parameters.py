import copy

import pytest
import torch
from sklearn.datasets import load_digits
from torch import nn

from lowdim import adapt
from lowdim.adapt import SharedParameters, module_task
from lowdim.errors import InputError
from tests.adapt.descent import INDEX, train
from tests.adapt.sample import NAMES, loss, zoo

pytestmark = pytest.mark.filterwarnings("ignore:classifier stays frozen")
TARGETS = list(NAMES)
N = sum(zoo().get_parameter(f"{name}.weight").numel() for name in TARGETS)


def shared(numbers: int, model: nn.Module | None = None) -> nn.Module:
    model = zoo() if model is None else model
    adapt.attach(model, SharedParameters(numbers), TARGETS, seed=3)
    return model


def maps(model):
    """(n, m) lambda S of all tensors, dense."""
    parts = []
    for _, adapter in adapt.attached(model).pairs():
        unit = torch.eye(adapter.projection.dim)
        columns = [
            adapter.scale * adapter.projection(e * adapter.projection.load.sqrt()) for e in unit
        ]
        parts.append(torch.stack(columns, 1))
    return torch.cat(parts)


def test_every_weight_reads_one_number_and_the_load_is_even():
    model = shared(100)
    s = maps(model)
    assert ((s != 0).sum(1) == 1).all()
    load = (s != 0).sum(0)
    assert int(load.sum()) == N
    assert int(load.max() - load.min()) <= 1
    gram = s.T @ s  # orthogonal columns: sums of lambda^2
    (_, adapter), *_ = adapt.attached(model).pairs()
    torch.testing.assert_close(gram, torch.diag(adapter.weights))
    values = s @ adapter.shared
    weights = [
        t.weight if t.tensor != "weight" else _now(t) for t, _ in adapt.attached(model).pairs()
    ]
    torch.testing.assert_close(torch.cat([w.flatten() for w in weights]), values)


def _now(target):
    weight = getattr(target.module, target.tensor)
    return weight.T if target.transposed else weight


def test_one_number_a_weight_is_ordinary_training():
    plain, ours = zoo(), shared(N)
    plain.requires_grad_(False)
    for name in TARGETS:
        plain.get_parameter(f"{name}.weight").requires_grad_(True)
    torch.testing.assert_close(ours(INDEX), plain(INDEX))
    for _ in range(4):
        assert train(ours, 3) == pytest.approx(train(plain, 3), rel=1e-5)
    torch.testing.assert_close(ours(INDEX), plain(INDEX), rtol=1e-4, atol=1e-5)


def test_a_step_is_the_projection_of_the_ordinary_step():
    model = shared(100)
    s = maps(model).detach()
    weights = [_now(t).detach().clone() for t, _ in adapt.attached(model).pairs()]
    free = zoo()
    for (target, _), w in zip(adapt.attached(model).pairs(), weights, strict=True):
        stored = free.get_parameter(target.name)
        stored.data = (w.T if target.transposed else w).clone()
    loss(free, INDEX).backward()
    grads = [free.get_parameter(t.name).grad for t, _ in adapt.attached(model).pairs()]
    pairs = zip(adapt.attached(model).pairs(), grads, strict=True)
    g = torch.cat([(x.T if t.transposed else x).flatten() for (t, _), x in pairs])

    loss(model, INDEX).backward()
    m = adapt.attached(model).adapter_parameters()[0]
    torch.testing.assert_close(m.grad, (s.T @ g) / (s.T @ s).diag(), rtol=1e-4, atol=1e-7)
    projected = s @ torch.linalg.lstsq(s, g[:, None]).solution.squeeze(1)
    torch.testing.assert_close(s @ m.grad, projected, rtol=1e-4, atol=1e-6)


def test_step_does_not_depend_on_the_spread_of_the_numbers():
    """Ten times the numbers at a tenth of the lambdas is the same model and the same step."""
    a = shared(100)
    b = copy.deepcopy(a)
    (_, first), *_ = adapt.attached(b).pairs()
    with torch.no_grad():
        first.shared *= 10
        for _, adapter in adapt.attached(b).pairs():
            adapter.scale /= 10
        for weights in {id(x.weights): x.weights for _, x in adapt.attached(b).pairs()}.values():
            weights /= 100
    torch.testing.assert_close(a(INDEX), b(INDEX))
    assert train(a) == pytest.approx(train(b), rel=1e-5)


def test_start_is_as_spread_out_as_the_models_own():
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(100, 200), nn.ReLU(), nn.Linear(200, 100))
    spread = [model[i].weight.std().item() for i in (0, 2)]
    adapt.attach(model, SharedParameters(1000), ["0", "2"])
    for i, before in zip((0, 2), spread, strict=True):
        assert model[i].weight.std().item() == pytest.approx(before, rel=0.1)


def test_life(tmp_path):
    model = shared(100)
    record = adapt.attached(model)
    assert record.n_trainable == 100 == record.groups[0].method.count([(N, 1)])
    before, first = zoo()(INDEX), loss(model, INDEX).item()
    assert train(model, 20, 0.2) < first
    after = model(INDEX)
    assert torch.equal(copy.deepcopy(model)(INDEX), after)
    adapt.save(model, tmp_path)
    assert (tmp_path / "adapter.safetensors").stat().st_size < 600
    loaded = zoo()
    adapt.load(loaded, tmp_path)
    assert torch.equal(loaded(INDEX), after)
    torch.testing.assert_close(adapt.merge(loaded)(INDEX), after)
    assert torch.equal(adapt.detach(model)(INDEX), before)


def test_bad_input_is_named():
    with pytest.raises(InputError, match="at most"):
        shared(N + 1)
    with pytest.raises(InputError, match="numbers=0"):
        shared(0)
    model = zoo()
    nn.init.zeros_(model.line.weight)
    with pytest.raises(InputError, match=r"line\.weight is zero"):
        shared(100, model)
    with pytest.raises(InputError, match="of kind other"):
        adapt.attach(zoo(), SharedParameters(100), "all")


@pytest.mark.slow
def test_a_wide_net_that_shares_beats_a_narrow_one_of_the_same_count():
    """148 numbers on digits: about 0.84 against 0.2 (296: 0.89 and 0.7; 592: 0.92 and 0.91)."""
    x, y = load_digits(return_X_y=True)
    x, y = torch.tensor(x).float() / 16, torch.tensor(y)

    def task(width):
        net = nn.Sequential(nn.Linear(64, width), nn.ReLU(), nn.Linear(width, 10))
        return module_task(net, (x[:1000], y[:1000]), (x[1000:], y[1000:]), batch_size=100)

    for seed in (0, 1, 2):
        torch.manual_seed(seed)
        narrow, wide = task(2), task(128)
        model = wide.fresh()
        adapt.attach(model, SharedParameters(2 * (64 + 10)), ["0", "2"], seed=seed)
        ours = adapt.fit(model, wide, epochs=20, lr=0.1, seed=seed).score.value
        theirs = max(
            adapt.fit(narrow.fresh(), narrow, epochs=20, lr=lr, seed=seed).score.value
            for lr in (0.01, 0.03, 0.1)
        )
        assert ours > 0.75
        assert ours > theirs + 0.2
