import json
import math
import warnings

import pytest
import torch
from torch import nn

from lowdim import adapt
from lowdim.adapt import lsr
from lowdim.adapt.kronecker import kronecker_sum
from lowdim.adapt.lsr import LSR, LSRAdapter
from lowdim.adapt.method import Draws, at_budget
from lowdim.adapt.targets import Target
from lowdim.core.random import normal
from lowdim.errors import InputError

SIZES = [
    LSR(2, 3),
    LSR((1, 3), 2),
    LSR((2, 1, 2), 4),
    LSR(3, 1),
    LSR(2, 3, pad=True),
    LSR(2, 2, splits=((3, 8), (6, 5))),
]


SMALL = LSR(2, 3)


def adapter(method=SMALL, out=24, width=30, seed=0) -> LSRAdapter:
    """An adapter that is away from its start."""
    made = method.adapter(Target("query", nn.Linear(width, out)), Draws(seed, "query.weight"))
    for k, p in enumerate(made.parameters()):
        p.data = normal(p.shape, seed, k)
    return made


def test_the_papers_layer_trains_3584_numbers():
    assert LSR(rank=2, terms=16).count([(768, 768)]) == 3584
    assert LSR(rank=4, terms=8).count([(768, 768)]) == 3584
    made = adapter(LSR(2, 16), 768, 768)
    assert [tuple(p.shape) for p in (*made.outer, *made.inner)] == [
        (16, 32, 2), (16, 24, 2), (16, 2, 32), (16, 2, 24),
    ]  # fmt: skip
    assert int(torch.linalg.matrix_rank(made.delta().double(), rtol=1e-6)) == 4


@pytest.mark.parametrize("method", SIZES)
@pytest.mark.parametrize(("out", "width"), [(24, 30), (30, 24)])
def test_count_is_what_trains_and_the_rank_is_bounded(method, out, width):
    made = adapter(method, out, width)
    assert method.count([(out, width)]) == made.n_trainable
    assert method.count([(out, width)] * 3) == 3 * made.n_trainable
    delta = made.delta().detach().double()
    assert delta.shape == (out, width)
    assert int(torch.linalg.matrix_rank(delta, rtol=1e-6)) <= math.prod(method.ranks)


def test_the_update_is_the_product_of_two_sums_and_not_the_sum_of_products():
    made = adapter(LSR(2, 3, alpha=6.0))
    b1, b2, a1, a2 = (p.detach() for p in (*made.outer, *made.inner))
    every = sum(
        torch.kron(b1[i], b2[i]) @ torch.kron(a1[j], a2[j]) for i in range(3) for j in range(3)
    )
    same = sum(torch.kron(b1[i], b2[i]) @ torch.kron(a1[i], a2[i]) for i in range(3))
    assert torch.allclose(made.delta(), 3 * every, rtol=1e-4, atol=1e-4)  # s = alpha / r
    assert not torch.allclose(made.delta(), 3 * same, rtol=0.1, atol=0.1)


MADE, ONE_BY_ONE = math.inf, 0.0  # values of THIN that decide for either


@pytest.mark.parametrize("thin", [MADE, ONE_BY_ONE])
@pytest.mark.parametrize("method", SIZES)
@pytest.mark.parametrize("shape", [(1, 30), (5, 7, 30), (0, 30), (30,)])
def test_unmaterialised_equals_materialised(method, shape, thin, monkeypatch):
    monkeypatch.setattr(lsr, "THIN", thin)
    made = adapter(method)
    x = normal(shape, 5)
    expected = x @ made.delta().T
    assert made(x).shape == expected.shape
    scale = max(float(expected.detach().abs().max()), 1.0) if expected.numel() else 1.0
    assert torch.allclose(made(x) / scale, expected / scale, rtol=0, atol=1e-6)
    index = torch.tensor([[3, 0], [23, 3]])
    assert torch.allclose(made.rows(index), made.delta()[index], rtol=1e-5, atol=1e-4)


@pytest.mark.parametrize("thin", [MADE, ONE_BY_ONE])
@pytest.mark.parametrize("method", SIZES)
def test_gradients_are_exact(method, thin, monkeypatch):
    monkeypatch.setattr(lsr, "THIN", thin)
    made = adapter(method, 12, 15).double()
    x = normal((3, 15), 5, dtype=torch.float64).requires_grad_()
    names = [name for name, _ in made.named_parameters()]

    def run(x, *parameters):
        return torch.func.functional_call(made, dict(zip(names, parameters, strict=True)), (x,))

    assert torch.autograd.gradcheck(run, (x, *made.parameters()))


def test_inputs_meet_single_factors_where_that_is_far_cheaper(monkeypatch):
    thick, thin = adapter(LSR(16, 1), 1024, 1024), adapter(LSR(2, 16), 1024, 1024)
    x = normal((512, 1024), 5)
    expected = x @ thick.delta().T

    def make(factors):
        raise AssertionError("the sum was made")

    monkeypatch.setattr(lsr, "kronecker_sum", make)
    assert torch.allclose(thick(x), expected, atol=1e-4 * float(expected.detach().abs().max()))
    with pytest.raises(AssertionError):
        thin(x)


def test_what_is_kept_for_the_backward_pass_is_that_of_lora():
    made = adapter(LSR(2, 16), 96, 96)
    x = normal((500, 96), 0).requires_grad_()
    kept: dict[int, int] = {}

    def keep(t: torch.Tensor) -> torch.Tensor:
        kept[t.data_ptr()] = t.numel()
        return t

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda t: t):
        made(x)
    by_input = sum(count for at, count in kept.items() if at != x.data_ptr() and count >= 500)
    assert by_input <= 500 * 4 + 2 * 4 * 96 + made.n_trainable  # A x; A, B; the factors


class Net(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        conv1d = pytest.importorskip("transformers").pytorch_utils.Conv1D
        self.table = nn.Embedding(40, 12)
        self.query = nn.Linear(12, 24)
        self.mlp = conv1d(20, 24)
        self.conv = nn.Conv2d(4, 6, 3)

    def forward(self, index: torch.Tensor) -> torch.Tensor:
        x = self.mlp(self.query(self.table(index)))  # (n, 20, 20)
        return self.conv(x.unflatten(2, (4, 5)).movedim(2, 1))


ALL = ["table", "query", "mlp", "conv"]


def network() -> tuple[Net, torch.Tensor]:
    torch.manual_seed(0)
    return Net().eval(), torch.randint(0, 40, (3, 20))


@pytest.mark.parametrize("method", [LSR(2, 3), LSR((1, 2, 1), 2), LSR(2, 5, pad=True)])
def test_every_kind_of_layer_starts_at_the_base_trains_merges_and_comes_back(method, tmp_path):
    net, index = network()
    base = net(index)
    record = adapt.attach(net, method, ALL, seed=3)
    assert torch.equal(net(index), base)
    assert record.n_trainable == method.count([(40, 12), (24, 12), (20, 24), (6, 4, 3, 3)])
    optimizer = torch.optim.Adam(record.adapter_parameters(), lr=1e-2)
    target = normal(base.shape, 1)
    first = float((base - target).square().mean().detach())
    for _ in range(40):
        loss = (net(index) - target).square().mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    assert float(loss.detach()) < 0.95 * first
    after = net(index).detach()
    adapt.save(net, tmp_path)
    other, _ = network()
    adapt.load(other, tmp_path)
    assert torch.equal(other(index), after)
    adapt.merge(other)
    assert torch.allclose(other(index), after, atol=1e-5)
    assert torch.equal(adapt.detach(net)(index), base)


def test_exports_as_stock_lora_that_peft_loads(tmp_path):
    peft = pytest.importorskip("peft")
    net, index = network()
    adapt.attach(net, LSR(2, 3, alpha=4.0, start="paper"), ALL)
    found = adapt.to_lora(net, tmp_path)
    assert set(found.ranks.values()) == {4}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        theirs = peft.PeftModel.from_pretrained(network()[0], tmp_path)
    assert torch.allclose(theirs(index), net(index), atol=1e-5)


def test_the_start_has_loras_spread_and_one_step_moves_b_as_far():
    target = Target("query", nn.Linear(768, 768))
    made = LSR(2, 16).adapter(target, Draws(0, "query.weight"))
    b, a = made.factors()
    assert not bool(b.any())
    assert float(a.detach().std()) == pytest.approx((3 * 768) ** -0.5, rel=0.1)
    with torch.no_grad():  # a step of Adam: every number of the first factor moves by lr
        made.outer[0] += 1e-3 * normal(made.outer[0].shape, 1).sign()
        b, _ = made.factors()
    assert float(b.std()) == pytest.approx(1e-3, rel=0.1)


def test_the_papers_start_is_off_the_base_by_what_it_gives():
    target = Target("query", nn.Linear(768, 768))
    delta = LSR(2, 16, start="paper").adapter(target, Draws(0, "query.weight")).delta()
    # s = 8192 / 2; entries of A and B have variance t 1e-8, a product of them sums r^2
    expected = 4096 * 2 * 16 * 1e-8
    assert float(delta.detach().std()) == pytest.approx(expected, rel=0.15)


def test_random_parts_are_those_of_the_seed_and_the_name():
    target = Target("query", nn.Linear(12, 12))
    first, again, other = (LSR(2, 3).adapter(target, Draws(1, name)) for name in "aab")
    pairs = zip(first.parameters(), again.parameters(), strict=True)
    assert all(torch.equal(p, q) for p, q in pairs)
    assert not torch.equal(first.inner[0], other.inner[0])
    assert not torch.equal(first.inner[0], first.inner[1].mT)


def test_terms_beyond_every_matrix_are_left_out():
    assert LSR(2, 12).count([(12, 12)]) == LSR(2, 6).count([(12, 12)])  # 2 * min(4, 3)
    # with so many, any factors of rank 4 are reached
    b, a = normal((12, 4), 0), normal((4, 12), 1)
    assert adapter(LSR(2, 99), 12, 12).approximate((b, a), steps=0, starts=1) < 1e-5


def test_options_come_back_from_json_equal():
    method = LSR((2, 3), 4, splits=((4, 6),), pad=True)
    again = adapt.make_method("lsr", json.loads(json.dumps(method.options())))
    assert again == method
    assert hash(again) == hash(method)


def test_budget_is_kept_by_terms():
    shapes = [(768, 768)] * 24
    chosen = at_budget(LSR(), shapes, 50_000)
    assert chosen.terms == 9
    assert chosen.count(shapes) == 24 * 9 * 224 <= 50_000


@pytest.mark.parametrize("method", [LSR(2, 2), LSR((1, 3), 2), LSR(2, 3, pad=True, alpha=5.0)])
def test_an_update_of_the_family_is_recovered(method):
    planted = adapter(method, 24, 30).delta().detach()
    fresh = adapter(method, 24, 30, seed=1)
    assert fresh.approximate(planted) < 1e-5
    assert torch.allclose(fresh.delta(), planted, atol=1e-4 * float(planted.abs().max()))


def test_a_lora_pair_comes_as_near_as_its_product_and_no_nearer_than_its_rank_allows():
    b, a = normal((24, 6), 0), normal((6, 30), 1)
    fresh = adapter(LSR(2, 3))
    error = fresh.approximate((b, a))
    assert error == pytest.approx(adapter(LSR(2, 3)).approximate(b @ a), rel=1e-3)
    energy = torch.linalg.svdvals(b.double() @ a.double()).square()
    assert error >= float((energy[4:].sum() / energy.sum()).sqrt())  # Eckart and Young
    assert error < 1


def test_bad_options_and_sizes_are_named():
    linear = Target("query", nn.Linear(30, 24))
    for call, message in [
        (lambda: LSR(terms=0), "terms=0"),
        (lambda: LSR(rank=True), "rank=True"),
        (lambda: LSR(rank=(3,)), "at least two"),
        (lambda: LSR(start="x"), "start='x'"),
        (lambda: LSR(alpha=math.nan), "alpha=nan"),
        (lambda: LSR(rank=2.5), "rank=2.5"),
        (lambda: LSR(splits=((2, 2, 6),)), "2 factors for each"),
        (lambda: LSR(splits=(32, 24)), r"as in \(\(32, 24\),\)"),
        (lambda: LSR(splits=((-2, -12),)), "splits=-2"),
        (
            lambda: LSR(splits=((5, 5),)).build([linear], 0),
            r"\(5, 5\), and the sides are \[24, 30\]",
        ),
        (lambda: LSR().count([(8,)]), "no matrix"),
        (lambda: LSR().count([(768, 769)]), "input side of a tensor .* 769 x 1.* pad=True .* 775"),
        (lambda: LSR().count([(50257, 768)]), "output side .* 50257"),
        (lambda: LSR(rank=5).adapter(linear, Draws(0, "")), "24 x 30"),
        (lambda: adapter().approximate(torch.zeros(24, 30)), "zero"),
        (lambda: adapter().approximate(torch.ones(30, 24)), r"\(30, 24\)"),
        (lambda: adapter().approximate(torch.full((24, 30), math.nan)), "nan at row 0"),
        (lambda: adapter(LSR((2, 2, 2))).approximate(torch.ones(24, 30)), "two factors"),
    ]:
        with pytest.raises(InputError, match=message):
            call()
    assert LSR(pad=True).count([(768, 769)]) == 16 * 2 * (56 + 56)
    net = nn.Sequential(nn.Linear(101, 8))
    with pytest.raises(InputError, match=r"the input side of 0\.weight is 101"):
        adapt.attach(net, LSR(), nn.Linear)
    assert all(p.requires_grad for p in net.parameters())


def test_padding_is_cut_off():
    made = adapter(LSR(2, 3, pad=True), 23, 29)
    b, a = made.factors()
    assert b.shape == (23, 4)
    assert a.shape == (4, 29)
    assert torch.allclose(a, kronecker_sum(made.inner)[:, :29])
