"""The training loop against a plain one, its schedule in closed form, and every way it can stop."""

from __future__ import annotations

import dataclasses
import errno
import math
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from lowdim.adapt import Score, fit, module_task
from lowdim.adapt.fit import Diverged, _share
from lowdim.adapt.module_task import ModuleTask, Pair
from lowdim.errors import InputError


def make_task(*, dropout: float = 0.0, n: int = 24) -> ModuleTask:
    torch.manual_seed(0)
    module = nn.Sequential(
        nn.Linear(4, 8), nn.BatchNorm1d(8), nn.ReLU(), nn.Dropout(dropout), nn.Linear(8, 2)
    )
    x = torch.randn(n, 4)
    y = (x[:, 0] > 0).long()
    return module_task(module, (x, y), (x, y), batch_size=8)


@dataclasses.dataclass(frozen=True)
class Broken(ModuleTask):
    """A task that stops the run in one of its epochs, by what ``error`` says."""

    error: Any = None
    epoch: int = 1

    @classmethod
    def of(cls, task: ModuleTask, error: Any, epoch: int = 1) -> Broken:
        given = {f.name: getattr(task, f.name) for f in dataclasses.fields(task)}
        return cls(**given, error=error, epoch=epoch)

    def batches(self, seed: int, epoch: int) -> Iterator[Pair]:
        for i, batch in enumerate(super().batches(seed, epoch)):
            if epoch == self.epoch and i == 1:
                if isinstance(self.error, BaseException):
                    raise self.error
                yield batch[0] * self.error, batch[1]
            else:
                yield batch


def state(model: nn.Module) -> dict[str, Tensor]:
    return {name: x.clone() for name, x in model.state_dict().items()}


def assert_same(a: dict[str, Tensor], b: dict[str, Tensor]) -> None:
    assert a.keys() == b.keys()
    for name in a:
        torch.testing.assert_close(a[name], b[name], rtol=0, atol=0)


def test_is_the_plain_loop_written_out() -> None:
    task = make_task()
    model, other = task.fresh(), task.fresh().train()
    found = fit(model, task, epochs=2, lr=0.02, weight_decay=0.1, warmup=0.3, clip=0.05, seed=3)
    decays = [p for p in other.parameters() if p.ndim == 2]
    rest = [p for p in other.parameters() if p.ndim == 1]
    optimizer = torch.optim.AdamW([{"params": decays, "weight_decay": 0.1},
                                   {"params": rest, "weight_decay": 0.0}])  # fmt: skip
    shares = [1 / 3, 2 / 3, 1, 3 / 4, 2 / 4, 1 / 4]  # ceil(0.3 * 6) = 2 steps of rise
    losses = []
    for epoch in range(2):
        for x, y in task.batches(3, epoch):
            loss = nn.functional.cross_entropy(other(x), y)
            optimizer.zero_grad()
            loss.backward()
            nn.utils.clip_grad_norm_(other.parameters(), 0.05)
            for group in optimizer.param_groups:
                group["lr"] = 0.02 * shares[len(losses)]
            optimizer.step()
            losses.append(float(loss.detach()))
    torch.testing.assert_close(found.losses, torch.tensor(losses).double())
    for name, x in other.state_dict().items():
        torch.testing.assert_close(model.state_dict()[name], x, msg=name)
    assert found.steps == 6
    assert len(found.scores) == 2
    assert found.score == found.scores[-1] == task.evaluate(model)
    assert not model.training


@pytest.mark.parametrize(("warmup", "total"), [(0.0, 5), (0.06, 100), (0.5, 7), (0.99, 3)])
def test_steps_rise_and_fall_linearly_and_are_never_zero(warmup: float, total: int) -> None:
    shares = torch.tensor([_share(step, total, warmup) for step in range(total)]).double()
    rise = math.ceil(warmup * total)
    assert float(shares.min()) > 0
    assert float(shares.max()) == pytest.approx(1.0 if rise < total else total / (total + 1))
    for part in (shares[:rise], shares[rise:]):
        steps = part.diff()
        torch.testing.assert_close(steps, steps[:1].expand_as(steps))


def test_only_matrices_decay() -> None:
    task = dataclasses.replace(make_task(), loss_function=lambda out, y: 0 * out.sum())
    model = task.fresh()
    start = state(model)
    fit(model, task, epochs=1, lr=0.1, weight_decay=0.5, warmup=0.0)
    kept = math.prod(1 - 0.5 * 0.1 * share for share in (3 / 3, 2 / 3, 1 / 3))
    for name, p in model.named_parameters():
        torch.testing.assert_close(p.detach(), start[name] * (kept if p.ndim > 1 else 1))


def test_frozen_parameters_stay() -> None:
    task = make_task()
    model = task.fresh().requires_grad_(False)
    start = state(model)
    model[4].requires_grad_(True)
    fit(model, task, epochs=1)
    moved = {name for name, p in model.named_parameters() if not torch.equal(p, start[name])}
    assert moved == {"4.weight", "4.bias"}


@pytest.mark.parametrize("error", [KeyboardInterrupt(), OSError("power")])
def test_a_run_that_is_resumed_equals_an_unbroken_one(tmp_path: Path, error: BaseException) -> None:
    task = make_task(dropout=0.5)
    whole = task.fresh()
    wanted = fit(whole, task, epochs=4, lr=0.05, seed=1)
    with pytest.raises(type(error)):
        fit(task.fresh(), Broken.of(task, error, 2), epochs=4, lr=0.05, seed=1, out=tmp_path)
    torch.randn(7)  # another process has drawn other numbers
    model = task.fresh()
    found = fit(model, task, epochs=4, lr=0.05, seed=1, out=tmp_path, resume=True)
    assert_same(state(model), state(whole))
    assert torch.equal(found.losses, wanted.losses)
    assert found.scores == wanted.scores
    for a, b in zip(found.scores, wanted.scores, strict=True):
        assert torch.equal(a.per_item, b.per_item)


def test_a_finished_run_is_read_back_without_a_step(tmp_path: Path) -> None:
    task = make_task()
    model, other = task.fresh(), task.fresh()
    wanted = fit(model, task, epochs=2, out=tmp_path)
    never = Broken.of(task, AssertionError("a batch was asked for"), epoch=0)
    found = fit(other, never, epochs=2, out=tmp_path, resume=True)
    assert_same(state(other), state(model))
    assert torch.equal(found.losses, wanted.losses)
    assert found.seconds == wanted.seconds


def test_without_resume_a_run_starts_anew(tmp_path: Path) -> None:
    task = make_task()
    first = fit(task.fresh(), task, epochs=1, out=tmp_path)
    assert torch.equal(fit(task.fresh(), task, epochs=1, out=tmp_path).losses, first.losses)


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_divergence_names_the_step_and_goes_back_to_the_checkpoint(
    tmp_path: Path, bad: float
) -> None:
    task, states = make_task(), []

    def keep(model: nn.Module) -> Score:
        states.append(state(model))
        return task.evaluate(model)

    broken = Broken.of(task, bad)
    object.__setattr__(broken, "evaluate", keep)
    model = task.fresh()
    with pytest.raises(Diverged, match=r"step 5 of 9.*epoch 1, is in") as caught:
        fit(model, broken, epochs=3, out=tmp_path)
    assert str(tmp_path) in str(caught.value)
    assert_same(state(model), states[0])
    again = task.fresh()
    with pytest.raises(Diverged, match="step 5 of 9"):
        fit(again, broken, epochs=3, out=tmp_path, resume=True)
    assert_same(state(again), states[0])
    assert len(states) == 1


def test_divergence_without_a_folder_names_the_step() -> None:
    task = Broken.of(make_task(), float("nan"), epoch=0)
    with pytest.raises(Diverged, match=r"the loss is nan at step 2 of 3: lower lr") as caught:
        fit(task.fresh(), task, epochs=1)
    assert "checkpoint" not in str(caught.value)


def test_a_finite_loss_with_an_infinite_gradient_stops_too() -> None:
    def root(out: Tensor, y: Tensor) -> Tensor:
        return (out * 0).sum().sqrt()  # 0, with an infinite slope

    task = dataclasses.replace(make_task(), loss_function=root)
    with pytest.raises(Diverged, match="the gradient is not finite at step 1"):
        fit(task.fresh(), task, epochs=1)


def test_a_full_disk_is_one_sentence_and_the_last_checkpoint_stays(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    task = make_task()
    synced = []

    def full(file: int) -> None:
        synced.append(file)
        if len(synced) == 2:
            raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", full)
        with pytest.raises(InputError, match=r"disk full while writing .*checkpoint"):
            fit(task.fresh(), task, epochs=3, out=tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["checkpoint.safetensors"]
    wanted = fit(task.fresh(), task, epochs=3)
    found = fit(task.fresh(), task, epochs=3, out=tmp_path, resume=True)
    assert torch.equal(found.losses, wanted.losses)


def test_a_checkpoint_of_another_run_is_refused(tmp_path: Path) -> None:
    task = make_task()
    fit(task.fresh(), task, epochs=2, out=tmp_path)
    other = make_task(n=32)
    for model, data, lr in ((task.fresh(), task, 0.1), (other.fresh(), other, 1e-3)):
        with pytest.raises(InputError, match="is of another run"):
            fit(model, data, epochs=2, lr=lr, out=tmp_path, resume=True)
    moved = task.fresh()
    moved[4].weight.data += 1
    with pytest.raises(InputError, match="is of another run"):
        fit(moved, task, epochs=2, out=tmp_path, resume=True)


def test_a_damaged_checkpoint_is_named(tmp_path: Path) -> None:
    task = make_task()
    fit(task.fresh(), task, epochs=1, out=tmp_path)
    path = tmp_path / "checkpoint.safetensors"
    path.write_bytes(path.read_bytes()[:100])
    with pytest.raises(InputError, match="safetensors cannot be read"):
        fit(task.fresh(), task, epochs=1, out=tmp_path, resume=True)


def test_the_callers_random_numbers_are_left_alone() -> None:
    task = make_task(dropout=0.5)
    before = torch.get_rng_state()
    fit(task.fresh(), task, epochs=1)
    assert torch.equal(torch.get_rng_state(), before)


def test_seeds_change_the_run_and_repeat_it() -> None:
    task = make_task(dropout=0.5)
    a, b, c = (fit(task.fresh(), task, epochs=1, seed=s).losses for s in (0, 0, 1))
    assert torch.equal(a, b)
    assert not torch.equal(a, c)


def test_progress_is_told_of_every_step() -> None:
    seen: list[tuple[int, int]] = []

    class Watch:
        def task(self, what: str) -> Any:
            return lambda done, total: seen.append((done, total))

    task = make_task()
    fit(task.fresh(), task, epochs=2, progress=Watch())
    assert seen == [(i, 6) for i in range(1, 7)]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"epochs": 0}, "epochs=0"),
        ({"lr": 0.0}, "lr=0.0"),
        ({"lr": float("nan")}, "lr=nan"),
        ({"lr": 1e38}, "the lr at most"),
        ({"clip": 0.0}, "clip=0.0"),
        ({"weight_decay": -1.0}, "weight_decay=-1.0"),
        ({"warmup": 1.0}, "warmup=1.0"),
    ],
)
def test_options_out_of_range(options: dict[str, Any], message: str) -> None:
    task = make_task()
    with pytest.raises(InputError, match=message):
        fit(task.fresh(), task, **options)


def test_what_cannot_train() -> None:
    task = make_task()
    with pytest.raises(InputError, match="nothing of the model trains"):
        fit(task.fresh().requires_grad_(False), task)
    with pytest.raises(InputError, match=r"0\.weight would train in torch\.float16"):
        fit(task.fresh().half(), task)


def test_score_order() -> None:
    high = Score(0.9, "accuracy", True, 0.8, 1.0, 10, torch.ones(10))
    low = dataclasses.replace(high, value=0.5)
    assert high.beats(low)
    assert not low.beats(high)
    assert dataclasses.replace(low, higher_is_better=False).beats(high)
