"""Comparisons: peft's counts against peft itself, differences against scipy, and stops."""

from __future__ import annotations

import dataclasses
import json
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from scipy import stats
from torch import nn

from lowdim import adapt
from lowdim.adapt import Contender, compare, module_task, start
from lowdim.adapt.comparison import Comparison, Run, _digits
from lowdim.adapt.module_task import ModuleTask
from lowdim.adapt.peft_methods import PEFT, attach_peft, peft_count, peft_rank
from lowdim.errors import InputError, MissingExtraError

OURS = [adapt.SVFit(4), "head"]


class Net(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.one, self.two = nn.Linear(6, 10), nn.Linear(10, 8)
        self.head = nn.Linear(8, 2)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.head(self.two(self.one(x).relu()).relu())


@pytest.fixture
def task() -> ModuleTask:
    torch.manual_seed(0)
    x = torch.randn(120, 6)
    y = (x[:, 0] + x[:, 1] > 0).long()
    return module_task(Net(), (x[:80], y[:80]), (x[80:], y[80:]), batch_size=40, also=("head",))


@pytest.mark.parametrize("name", PEFT)
def test_counts_of_peft_are_what_peft_trains(task: ModuleTask, name: str) -> None:
    pytest.importorskip("peft")
    shapes = [(10, 6), (8, 10)]
    for budget in (60, 120):
        rank = peft_rank(name, shapes, budget)
        model = task.fresh()
        attach_peft(model, name, task.targets, task=task, rank=rank)
        trained = {n: p.numel() for n, p in model.named_parameters() if p.requires_grad}
        head = sum(v for n, v in trained.items() if n.startswith("head."))
        assert head == 18
        count = sum(trained.values()) - head
        if name == "eva":  # it moves ranks between tensors of different sizes
            assert count <= rank * 2 * 18
        else:
            assert count == peft_count(name, shapes, rank) <= budget
            assert peft_count(name, shapes, rank + 1) > budget or rank in (6, 20)
    with pytest.raises(InputError, match=f"{name} trains .* at rank 1"):
        peft_rank(name, shapes, 1)


@pytest.mark.parametrize("name", PEFT)
def test_adapters_of_peft_start_at_the_base_and_follow_the_seed(
    task: ModuleTask, name: str
) -> None:
    pytest.importorskip("peft")
    x = task.valid[0]
    wanted = task.fresh()(x)
    states = []
    for seed in (0, 0, 1):
        model = task.fresh()
        attach_peft(model, name, task.targets, task=task, rank=2, seed=seed)
        torch.testing.assert_close(model(x), wanted, rtol=1e-4, atol=1e-5)
        states.append(torch.cat([p.flatten() for p in model.state_dict().values()]))
    assert torch.equal(states[0], states[1])
    if name in ("lora", "dora", "rslora"):
        assert not torch.equal(states[0], states[2])


def test_peft_takes_part_beside_ours(task: ModuleTask) -> None:
    pytest.importorskip("peft")
    methods = ["lora", "vera", adapt.SVFit(2), "full", "head"]
    found = compare(task, methods, budget=80, seeds=(0, 1), epochs=2, lr=0.02)
    of = {row.method: row for row in found.rows}
    assert list(of) == ["lora", "vera", "svfit", "full", "head"]
    total = sum(p.numel() for p in Net().parameters())
    assert {row.head for row in found.rows} == {18}
    assert [of[name].trained for name in of] == [68, 18 + 2 * 20, 14, total - 18, 0]
    assert {run.steps for run in found.runs} == {4}
    assert of["lora"].verdict == ""
    assert all(of[name].difference is not None for name in of if name != "lora")


def test_every_method_sees_the_same_batches(
    task: ModuleTask, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[torch.Tensor] = []
    loss = ModuleTask.loss

    def watched(self: ModuleTask, model: nn.Module, batch: Any) -> torch.Tensor:
        seen.append(batch[0])
        return loss(self, model, batch)

    monkeypatch.setattr(ModuleTask, "loss", watched)
    compare(task, [*OURS, "full"], budget=80, seeds=(3, 4), epochs=1, lr=0.02)
    runs = [torch.stack(seen[i : i + 2]) for i in range(0, len(seen), 2)]
    for method in (1, 2):
        for seed in (0, 1):
            assert torch.equal(runs[2 * method + seed], runs[seed])
    assert not torch.equal(runs[0], runs[1])


def test_a_stopped_comparison_goes_on_where_it_was(
    task: ModuleTask, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    options = {"budget": 80, "seeds": (0, 1), "epochs": 1, "lr": (0.01, 0.02)}
    wanted = compare(task, OURS, **options, baseline="head")
    fits: list[int] = []
    stop_after = 3

    def counted(*args: Any, **given: Any) -> Any:
        if len(fits) == stop_after:
            raise KeyboardInterrupt
        fits.append(1)
        return adapt.fit(*args, **given)

    monkeypatch.setattr(sys.modules["lowdim.adapt.compare"], "fit", counted)
    with pytest.raises(KeyboardInterrupt):
        compare(task, OURS, **options, baseline="head", out=tmp_path)
    stop_after = 100
    found = compare(task, OURS, **options, baseline="head", out=tmp_path, resume=True)
    assert len(fits) == 2 * (2 + 2)  # none was made twice
    for a, b in zip(found.runs, wanted.runs, strict=True):
        assert dataclasses.replace(a, seconds=0) == dataclasses.replace(b, seconds=0)
    assert found.tuning == wanted.tuning
    stored = json.loads((tmp_path / "comparison.json").read_text())
    assert stored == found.to_dict()
    more = compare(task, [*OURS, "full"], **options, baseline="head", out=tmp_path, resume=True)
    assert len(fits) == 8 + 4  # of the new method alone
    assert more.runs[:4] == found.runs
    with pytest.raises(InputError, match="svfit trains"):  # before anything is trained
        compare(task, OURS, **(options | {"budget": 1}), out=tmp_path / "other")
    assert len(fits) == 12


def test_step_sizes_are_chosen_without_the_held_out_data(task: ModuleTask) -> None:
    x, y = task.valid
    task = dataclasses.replace(task, batch_size=8)
    other = dataclasses.replace(task, valid=(x * 100, 1 - y))
    options = {"budget": 80, "seeds": (0,), "epochs": 4, "lr": (1e-5, 0.05)}
    a, b = (compare(data, ["full"], **options) for data in (task, other))
    assert a.tuning == b.tuning
    assert set(a.tuning["full"]) == {"1e-05", "0.05"}
    assert a.tuning["full"]["0.05"] > a.tuning["full"]["1e-05"]
    assert [run.lr for run in a.runs] == [run.lr for run in b.runs] == [0.05]
    assert "chosen on a fifth of the training data: full 0.05" in str(a)


def test_a_start_from_data_sees_none_of_what_a_step_size_is_chosen_on(
    task: ModuleTask, monkeypatch: pytest.MonkeyPatch
) -> None:
    sizes = []

    def watched(data: ModuleTask, *args: Any, **given: Any) -> Any:
        sizes.append(len(data.train[0]))
        return start(data, *args, **given)

    monkeypatch.setattr(sys.modules["lowdim.adapt.compare"], "start", watched)
    compare(task, ["lora-ga"], budget=200, seeds=(0,), epochs=1, lr=(0.01, 0.02))
    assert sizes == [64, 64, 80]


def test_bars_say_which_run_they_are_of(task: ModuleTask) -> None:
    said: list[str] = []

    class Watch:
        def task(self, what: str) -> Any:
            said.append(what)
            return lambda done, total: None

    compare(task, OURS, budget=80, seeds=(7,), epochs=1, lr=0.01, progress=Watch())
    assert said == ["svfit, lr 0.01, seed 7: training", "head, lr 0.01, seed 7: training"]


def test_what_diverges_is_recorded_and_not_chosen(task: ModuleTask) -> None:
    methods = ["full", Contender("full", "wild"), "head"]
    rates = {"wild": 1e30, "full": (1e30, 0.01), "head": 0.01}
    options = {"budget": 80, "seeds": (0, 1), "epochs": 3, "baseline": "head"}
    found = compare(task, methods, lr=rates, **options)
    full, wild, head = found.rows
    assert wild.verdict == "diverged in 2 of 2"
    assert (wild.value, wild.difference) == (None, None)
    assert wild.trained == full.trained > 0 == head.trained
    assert all("at step" in str(run.diverged) for run in found.runs if run.method == "wild")
    assert (full.lr, found.tuning["full"]["1e+30"]) == (0.01, None)
    assert "diverged in 2 of 2" in str(found)
    json.dumps(found.to_dict(), allow_nan=False)


def test_a_score_that_is_not_finite_is_a_divergence(
    task: ModuleTask, monkeypatch: pytest.MonkeyPatch
) -> None:
    evaluate = ModuleTask.evaluate

    def infinite(self: ModuleTask, model: nn.Module) -> adapt.Score:
        return dataclasses.replace(evaluate(self, model), value=float("inf"))

    monkeypatch.setattr(ModuleTask, "evaluate", infinite)
    found = compare(task, ["full"], budget=80, seeds=(0,), epochs=1, lr=0.01)
    assert found.runs[0].diverged == "the score is inf"
    assert found.rows[0].verdict == "diverged in 1 of 1"


def made(scores: dict[str, torch.Tensor], *, higher: bool = True) -> Comparison:
    """A comparison of (seeds, items) outcomes."""
    runs = tuple(
        Run(name, seed, 0.1, 5, 2, score=float(row.mean()), per_item=row.tolist())
        for name, rows in scores.items()
        for seed, row in enumerate(rows)
    )
    return Comparison("accuracy" if higher else "squared error", higher, 0.5, 10, "lora",
                      tuple(range(5)), 3, runs, {}, {name: {} for name in scores})  # fmt: skip


def test_intervals_are_students_over_seeds_and_normal_over_items() -> None:
    torch.manual_seed(0)
    a, b = torch.rand(5, 1).double().expand(5, 40), torch.rand(5, 1).double().expand(5, 40)
    row = made({"lora": a, "other": b}).rows[1]
    low, high = stats.ttest_rel(b[:, 0], a[:, 0]).confidence_interval(0.95)
    assert (row.difference - row.reach, row.difference + row.reach) == pytest.approx((low, high))
    low, high = stats.ttest_1samp(b[:, 0], 0).confidence_interval(0.95)
    assert (row.value - row.half, row.value + row.half) == pytest.approx((low, high))
    items = torch.rand(1, 40).double().expand(5, 40)  # every seed alike: only the items vary
    row = made({"lora": torch.zeros(5, 40).double(), "other": items}).rows[1]
    error = 1.959964 * float(items[0].std()) / 40**0.5
    assert (row.half, row.reach) == pytest.approx((0, error), abs=1e-9)


def test_a_difference_covers_the_truth_as_often_as_it_says() -> None:
    """Over seeds and items drawn anew, the interval misses a true difference of zero rarely."""
    generator = torch.Generator().manual_seed(0)
    misses = 0
    for _ in range(300):
        seeds = 0.05 * torch.randn(5, 1, generator=generator, dtype=torch.float64)
        items = 0.3 * torch.randn(1, 60, generator=generator, dtype=torch.float64)
        noise = 0.3 * torch.randn(5, 60, generator=generator, dtype=torch.float64)
        row = made({"lora": torch.zeros(5, 60).double(), "other": seeds + items + noise}).rows[1]
        misses += abs(row.difference) > row.reach
    assert misses <= 0.05 * 300 + 3 * (300 * 0.05 * 0.95) ** 0.5


@pytest.mark.parametrize("higher", [True, False])
def test_verdicts(higher: bool) -> None:
    torch.manual_seed(0)
    base = 0.01 * torch.rand(5, 30).double()
    found = made({"lora": base, "more": base + 1, "same": base.flip(0)}, higher=higher)
    verdicts = [row.verdict for row in found.rows]
    assert verdicts == ["", "better" if higher else "worse", "not distinguishable"]
    one = made({"lora": base[:1], "more": base[:1] + 1})
    assert one.rows[1].verdict == "one seed: not judged"
    assert one.rows[1].difference == pytest.approx(1)
    assert one.rows[1].reach is None


def test_the_table_is_at_most_80_columns_wide() -> None:
    names = ["lora", "a method with a very long name", *(f"method {i}" for i in range(12))]
    torch.manual_seed(0)
    found = made({name: 1234.5 * torch.rand(5, 30).double() for name in names})
    lines = str(found).splitlines()
    assert max(map(len, lines)) <= 80
    assert sum("not distinguishable" in line for line in lines) > 5


def test_numbers_of_the_table_are_short_and_whole() -> None:
    wanted = {0.912345: "0.9123", 2028.4: "2,028", 0.00123456: "0.001235", 0.0: "0.000"}
    assert {x: _digits(x, 4) for x in wanted} == wanted
    assert _digits(684.4, 2) == "684"
    assert _digits(-0.0030123, 3, "+") == "-0.00301"
    assert _digits(0.5, 3, "+") == "+0.500"
    assert _digits(1.5e-9, 2) == "1.5e-09"


def test_names_budgets_and_targets_of_their_own(task: ModuleTask) -> None:
    methods = [
        Contender("svfit", budget=9),
        Contender("svfit", "svfit one", targets=["one"]),
    ]
    found = compare(task, methods, budget=14, seeds=(0,), epochs=1, lr=0.01)
    assert [(row.method, row.trained) for row in found.rows] == [("svfit", 8), ("svfit one", 6)]
    assert found.rows[1].options["targets"] == ["one.weight"]


def test_methods_that_start_from_data_are_given_it(task: ModuleTask) -> None:
    model, other = task.fresh(), task.fresh()
    record = start(task, model, adapt.LoRAGA(2), task.targets, seed=3)
    batches = [*task.batches(3, 0)]  # two, fewer than the eight that are read at most
    given = adapt.gradients(other, task.loss, batches, task.targets)
    wanted = adapt.attach(other, adapt.LoRAGA(2), task.targets, gradients=given, also=["head"],
                          seed=3)  # fmt: skip
    assert record.also == wanted.also == ["head"]
    for (_, a), (_, b) in zip(record.pairs(), wanted.pairs(), strict=True):
        assert all(torch.equal(a.state_dict()[k], v) for k, v in b.state_dict().items())
    found = compare(task, ["lora-ga", "strata"], budget=200, seeds=(0,), epochs=1, lr=0.01)
    assert all(run.score is not None for run in found.runs)


@pytest.mark.parametrize(
    ("methods", "options", "message"),
    [
        ([], {}, "at least one of each"),
        (["full"], {"seeds": ()}, "at least one of each"),
        (["svfit", adapt.SVFit(3)], {}, "svfit is there twice"),
        (["full"], {"seeds": (1, 1)}, "1 is there twice"),
        (["svfitt"], {}, "did you mean svfit"),
        (["full"], {"lr": {"head": 0.1}}, "lr names no step size for full"),
        (["full"], {"lr": []}, "lr is empty for full"),
        (["full"], {"epochs": 0}, "epochs=0"),
        (["svfit"], {"budget": 1}, "svfit trains 2 numbers"),
    ],
)
def test_bad_input(task: ModuleTask, methods: list, options: dict, message: str) -> None:
    with pytest.raises(InputError, match=message):
        compare(task, methods, **({"budget": 80, "epochs": 1, "lr": 0.1} | options))


def test_a_task_without_a_head_has_no_run_of_the_head_alone(task: ModuleTask) -> None:
    with pytest.raises(InputError, match="no head of its own"):
        compare(dataclasses.replace(task, also=()), ["head"], budget=80)


def test_without_peft_its_extra_is_named(task: ModuleTask, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "peft", None)
    with pytest.raises(MissingExtraError, match=r"pip install 'lowdim\[peft\]'"):
        compare(task, ["full", "lora"], budget=80)


def test_what_peft_cannot_adapt_is_said_first() -> None:
    pytest.importorskip("peft")
    x, y = torch.randn(8, 1, 5, 5), torch.arange(8) % 2
    module = nn.Sequential(nn.Conv2d(1, 2, 3), nn.Flatten(), nn.Linear(18, 2))
    task = module_task(module, (x, y), (x, y), targets=["0"])
    with pytest.raises(InputError, match=r"pissa of peft adapts linear tensors and 0\.weight"):
        compare(task, ["lora", "pissa"], budget=80)
    found = compare(task, ["lora"], budget=80, seeds=(0,), epochs=1, lr=0.01)
    assert found.rows[0].trained == 2 * (9 + 2)


def test_eva_says_which_batches_are_too_small(task: ModuleTask) -> None:
    pytest.importorskip("peft")
    small = dataclasses.replace(task, batch_size=2)
    with pytest.raises(InputError, match="eva at rank 2 needs 4 rows a batch"):
        attach_peft(small.fresh(), "eva", task.targets, task=small, rank=2)
