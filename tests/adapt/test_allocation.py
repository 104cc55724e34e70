import itertools
import json

import pytest
import torch
from sklearn.datasets import load_digits
from torch import nn
from torch.nn.functional import cross_entropy, mse_loss

from lowdim import adapt
from lowdim.adapt import allocation
from lowdim.adapt.allocation import allocate, suggest
from lowdim.adapt.gains import Gains, gradient_gains, input_gains
from lowdim.adapt.lora_ga import LoRAGA
from lowdim.adapt.lora_sb import LoRASB
from lowdim.core.random import normal, permutation
from lowdim.errors import InputError, MemoryBudgetError


def square(model, batch):
    x, y = batch
    return mse_loss(model(x), y)


def best(gains, counts, budget):
    """The most that any ranks gain, by trying all."""
    most = 0.0
    for ranks in itertools.product(*(range(len(c)) for c in counts)):
        if sum(int(c[r]) for c, r in zip(counts, ranks, strict=True)) <= budget:
            most = max(most, sum(float(g[:r].sum()) for g, r in zip(gains, ranks, strict=True)))
    return most


def concave(shapes, depth, seed):
    """Gains that fall with rank, one tensor a shape."""
    drawn = normal((len(shapes), depth), seed).abs().double().sort(descending=True).values
    return [
        Gains(f"layer.{i}", shape, each, float(each.sum()))
        for i, (shape, each) in enumerate(zip(shapes, drawn, strict=True))
    ]


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize("method", [adapt.SVFit(), LoRAGA()])
def test_greedy_is_the_optimum_where_ranks_cost_the_same(method, seed):
    gains = concave([(9, 8)] * 4, 4, seed)
    unit = method.resized(1).count([(9, 8)])
    counts = [unit * torch.arange(5)] * 4
    for budget in (unit, 3 * unit + unit // 2, 7 * unit, 100 * unit):
        found = allocate(gains, method, budget)
        assert found.gain == pytest.approx(best([g.each for g in gains], counts, budget))
        assert found.n_trainable == unit * sum(found.ranks.values()) <= budget
        assert found.gain <= found.bound * (1 + 1e-12)


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize("method", [LoRAGA(), LoRASB()])
def test_bound_holds_where_ranks_cost_differently(method, seed):
    shapes = [(9, 8), (24, 8), (20, 20)]
    gains = concave(shapes, 4, seed)
    counts = [
        torch.tensor([0] + [method.resized(r).count([s]) for r in range(1, 5)]) for s in shapes
    ]
    for budget in (35, 60, 90):
        found = allocate(gains, method, budget)
        most = best([g.each for g in gains], counts, budget)
        dearest = max(float(g.each[0]) for g in gains)
        assert found.gain <= most * (1 + 1e-12) <= found.bound * (1 + 1e-12)
        assert most <= found.gain + dearest
        assert found.n_trainable <= budget


def test_gains_that_rise_are_pooled():
    rising = Gains("a", (8, 8), torch.tensor([1.0, 3.0, 0.5, -1.0]).double(), 3.5)
    other = Gains("b", (8, 8), torch.tensor([1.5, 1.4]).double(), 2.9)
    falls = allocation._falling(rising.each, torch.ones(4))
    assert falls.tolist() == [2.0, 2.0, 0.5, -1.0]
    found = allocate([rising, other], adapt.SVFit(), 10)
    assert found.ranks == {"a": 3, "b": 2}  # what loses is left out, though there is budget
    assert allocate([rising, other], adapt.SVFit(), 2).ranks == {"a": 2}


def test_gains_are_the_first_order_decrease_on_held_out_batches():
    model = nn.Sequential(nn.Linear(7, 9), nn.Tanh(), nn.Linear(9, 3)).double()
    data = [(normal((20, 7), 1, i).double(), normal((20, 3), 2, i).double()) for i in range(6)]
    gains = gradient_gains(model, square, data, ["0"])[0]
    halves = [data[0::2], data[1::2]]
    grads = [adapt.gradients(model, square, half, "0")["0.weight"].double() for half in halves]
    torch.testing.assert_close(gains.each.sum(), (grads[0] * grads[1]).sum())
    assert gains.total == pytest.approx(float(gains.each.sum()))

    def slope(rank, made, seen, step=1e-5):
        """How fast the mean loss of some batches falls against the gradient of others."""
        u, s, vt = torch.linalg.svd(grads[made], full_matrices=False)
        direction = (u[:, :rank] * s[:rank]) @ vt[:rank]
        losses = []
        for sign in (1, -1):
            with torch.no_grad():
                model[0].weight.add_(sign * step * direction)
                losses.append(sum(square(model, b) for b in halves[seen]) / 3)
                model[0].weight.sub_(sign * step * direction)
        return float(losses[0] - losses[1]) / (2 * step)

    for rank in (1, 3):
        expected = (slope(rank, 0, 1) + slope(rank, 1, 0)) / 2
        assert float(gains.each[:rank].sum()) == pytest.approx(expected, rel=1e-4)


class Branches(nn.Module):
    """Six layers side by side."""

    def __init__(self):
        super().__init__()
        self.branch = nn.ModuleList(nn.Linear(12, 10, bias=False) for _ in range(6))

    def forward(self, x):
        return torch.stack([f(part) for f, part in zip(self.branch, x.unbind(1), strict=True)], 1)


def test_ranks_go_where_the_task_is_and_not_where_the_noise_is():
    model = Branches()
    change = torch.zeros(6, 10, 12)
    u, v = (torch.linalg.qr(normal((n, 3), 0, n)).Q for n in (10, 12))
    change[1] = u[:, :1] @ v[:, :1].T
    change[4] = u[:, 1:] @ v[:, 1:].T  # rank 2
    data = []
    for i in range(24):
        x = normal((40, 6, 12), 1, i)
        weights = torch.stack([f.weight.detach() for f in model.branch]) + change
        noise = 2.5 * normal((40, 6, 10), 2, i)
        noise[:, [0, 2, 3, 5]] *= 2
        data.append((x, torch.einsum("koi,bki->bko", weights, x) + noise))
    budget = 3 * 22
    found = suggest(model, square, data, "branch.*", budget, method=LoRAGA())
    assert found.ranks == {"branch.1": 1, "branch.4": 2}
    assert found.n_trainable == budget
    assert found.uniform is None  # rank 1 everywhere is six
    # the plain norm of the gradient would have chosen the noise
    grads = adapt.gradients(model, square, data, "branch.*")
    norms = torch.stack([g.square().sum() for g in grads.values()])
    assert norms.argmax() not in (1, 4)
    noise = [row.noise for row in found.rows]
    assert max(noise[1], noise[4]) < min(noise[0], noise[2], noise[3], noise[5])
    # and more budget is not wasted on it
    generous = suggest(model, square, data, "branch.*", 12 * 22, method=LoRAGA())
    assert generous.ranks["branch.4"] >= 2
    assert generous.gain > generous.uniform


def digits():
    """A small network that knows half of the digits, and batches of all."""
    x, y = (torch.tensor(a) for a in load_digits(return_X_y=True))
    order = permutation(len(x), 0)
    x, y = (x[order] / 16).float(), y[order]
    torch.manual_seed(0)
    model = nn.Sequential(
        nn.Linear(64, 48), nn.ReLU(), nn.Linear(48, 48), nn.ReLU(), nn.Linear(48, 10)
    )
    optimizer = torch.optim.Adam(model.parameters(), 3e-3)
    known = y < 5
    for _ in range(60):
        optimizer.zero_grad()
        cross_entropy(model(x[known][:500]), y[known][:500]).backward()
        optimizer.step()
    return model, list(zip(x[:960].split(60), y[:960].split(60), strict=True)), (x[960:], y[960:])


def test_first_step_lowers_the_held_out_loss_more_than_one_rank_everywhere():
    model, train, valid = digits()
    shapes = [(48, 64), (48, 48), (10, 48)]
    grads = adapt.gradients(model, entropy, train, nn.Linear)

    def after_step(ranks, step=0.02):
        state = {name: p.clone() for name, p in model.state_dict().items()}
        for name, rank in ranks.items():
            u, s, vt = torch.linalg.svd(grads[f"{name}.weight"], full_matrices=False)
            state[f"{name}.weight"] -= step * (u[:, :rank] * s[:rank]) @ vt[:rank]
        with torch.no_grad():
            return float(
                cross_entropy(torch.func.functional_call(model, state, valid[0]), valid[1])
            )

    before = after_step({})
    for method in (LoRAGA(), LoRASB(), adapt.SVFit()):
        for rank in (1, 2, 4):
            budget = method.resized(rank).count(shapes)
            found = suggest(model, entropy, train, nn.Linear, budget, method=method)
            assert found.uniform_rank == rank
            assert found.n_trainable <= budget
            assert found.gain >= found.uniform
            everywhere = after_step(dict.fromkeys(("0", "2", "4"), rank))
            assert after_step(found.ranks) <= everywhere < before


def entropy(model, batch):
    x, y = batch
    return cross_entropy(model(x), y)


def test_an_allocation_attaches_and_prints():
    model, train, _ = digits()
    before = {name: p.clone() for name, p in model.named_parameters()}
    seen = []
    found = suggest(
        model, entropy, train, nn.Linear, 500, method=LoRAGA(), progress=lambda *at: seen.append(at)
    )
    assert seen == [(i, 16) for i in range(1, 17)]
    assert all(torch.equal(p, before[name]) for name, p in model.named_parameters())
    from rich.console import Console

    console = Console(width=100)
    with console.capture() as captured:
        console.print(found)
    assert "48 x 64" in captured.get()
    assert f"{found.n_trainable:,} of 500 numbers" in captured.get()
    assert "<td>48 x 64</td>" in found._repr_html_()
    facts = json.loads(json.dumps(found.to_dict(), allow_nan=False))
    assert facts["method"] == "lora-ga"
    assert sum(row["n_trainable"] for row in facts["rows"]) == found.n_trainable
    grads = adapt.gradients(model, entropy, train, nn.Linear)
    record = adapt.attach(model, found.mapping, gradients=grads)
    assert record.n_trainable == found.n_trainable
    assert {t.module_name: len(a.a) for t, a in record.pairs()} == found.ranks


def test_a_module_is_not_taken_for_another_whose_name_ends_alike():
    model = nn.Sequential(nn.Linear(8, 8), nn.Sequential(nn.Linear(8, 8), nn.Linear(8, 8)))
    gains = [
        Gains(name, (8, 8), torch.tensor(each).double(), sum(each))
        for name, each in (("0", [3.0, 1.0]), ("1.0", [0.0, 0.0]), ("1.1", [2.0, 2.0]))
    ]
    found = allocate(gains, adapt.SVFit(), 4)
    assert found.ranks == {"0": 2, "1.1": 2}
    record = adapt.attach(model, found.mapping)
    assert {t.module_name for t, _ in record.pairs()} == {"0", "1.1"}
    assert record.n_trainable == found.n_trainable == 4


def test_methods_that_share_what_trains_are_refused():
    class Shared(adapt.SVFit):
        id = "shared"

        def count(self, shapes):
            return self.rank

    with pytest.raises(InputError, match="shares what trains"):
        allocate(concave([(9, 8)] * 2, 3, 0), Shared(), 4)
    with pytest.raises(InputError, match="lsr grows with terms"):
        allocate(concave([(9, 8)] * 2, 3, 0), adapt.LSR(), 4)


def test_input_gains_are_the_squares_of_the_weight_times_the_root_of_the_second_moment():
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(20, 6), nn.ReLU(), nn.Linear(6, 9)).double()
    x = normal((300, 20), 0).double() @ torch.diag(torch.logspace(0, -2, 20).double())
    batches = list(x.split(64))
    first, second = input_gains(model, lambda m, b: m(b), batches, nn.Linear)
    root = torch.linalg.svd(x / 300**0.5, full_matrices=False)
    half = root.Vh.T * root.S @ root.Vh  # C^(1/2)
    values = torch.linalg.svdvals(model[0].weight @ half).square()
    torch.testing.assert_close(first.each, values / values.sum())
    output = (x @ model[0].weight.T).square().sum() / 300
    torch.testing.assert_close(values.sum(), output)
    assert len(second.each) == 6
    found = allocation.suggest_by_inputs(
        model, lambda m, b: m(b), batches, nn.Linear, 5, method=adapt.SVFit()
    )
    assert sum(found.ranks.values()) == found.n_trainable == 5
    every = torch.cat([first.each, second.each]).sort(descending=True).values
    assert found.gain == pytest.approx(float(every[:5].sum()))


def test_bad_input():
    model, train, _ = digits()
    ask = {"method": adapt.SVFit()}
    with pytest.raises(InputError, match="1 batches: give two"):
        suggest(model, entropy, train[:1], nn.Linear, 50, **ask)
    with pytest.raises(InputError, match="the cheapest rank trains 58 numbers"):
        suggest(model, entropy, train, nn.Linear, 50, method=LoRAGA())
    thin = nn.Sequential(nn.Linear(64, 1))
    with pytest.raises(InputError, match="lora-ga trains nothing of 0"):
        suggest(thin, lambda m, b: m(b[0]).sum(), train, ["0"], 50, method=LoRAGA())
    with pytest.raises(InputError, match="budget=0"):
        suggest(model, entropy, train, nn.Linear, 0, **ask)
    with pytest.raises(InputError, match="no module"):
        suggest(model, entropy, train, ["nothing"], 50, **ask)
    with pytest.raises(InputError, match=r"0\.bias is of kind other: leave it out"):
        suggest(model, entropy, train, "all", 50, **ask)
    with pytest.raises(InputError, match=r"0\.bias is no weight"):
        gradient_gains(model, entropy, train, "all")
    with pytest.raises(MemoryBudgetError):
        suggest(model, entropy, train, nn.Linear, 50, memory=1000, **ask)
    with pytest.raises(InputError, match="no rank gains anything"):
        suggest(model, lambda m, b: 0 * m(b[0]).sum(), train, nn.Linear, 50, **ask)
    with pytest.raises(InputError, match="the output of 0 is zero"):
        input_gains(model, lambda m, b: m(0 * b[0]), train, ["0"])
    convolution = nn.Sequential(nn.Conv1d(2, 3, 1))
    with pytest.raises(InputError, match=r"0\.weight is no linear layer"):
        input_gains(convolution, lambda m, b: m(b), [torch.ones(1, 2, 4)], ["0"])
