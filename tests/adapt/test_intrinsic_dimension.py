import copy
import json
import math
import sys

import pytest
import torch
from sklearn.datasets import load_digits
from torch import nn

from lowdim import adapt
from lowdim.adapt import Score, module_task
from lowdim.adapt.intrinsic_dimension import _Ladder, intrinsic_dimension
from lowdim.errors import InputError

MODULE = sys.modules[intrinsic_dimension.__module__]  # the package's name for it is the function's


class Groups(nn.Module):
    """A thousand parameters in ten groups; all that matters is the sum of each."""

    def __init__(self):
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(1000))

    def forward(self):
        return self.weight.view(10, 100).sum(1)


class GroupsTask:
    """Li et al.'s toy problem: sums 1 ... 10, so that ten directions are needed, and suffice."""

    also = ()
    targets = ()
    key = "groups"

    def fresh(self, seed=0):
        return Groups()

    def n_batches(self):
        return 250

    def batches(self, seed, epoch):
        return iter([None] * self.n_batches())

    def loss(self, model, batch):
        return (model() - torch.arange(1.0, 11)).square().sum()

    def evaluate(self, model):
        value = float(torch.exp(-self.loss(model, None).detach()))
        return Score(value, "fit", True, value, value, 10, torch.full((10,), value))

    def tuning(self):
        return self


def test_known_intrinsic_dimension_is_found_by_training():
    found = intrinsic_dimension(
        GroupsTask(), (9, 10, 11), projection="sparse", lr=0.15, epochs=1, seeds=(0,)
    )
    assert (found.value, found.low, found.high) == (10, 9, 10)
    assert found.curve[1].median < 1e-6
    assert found.compressed_bytes == 48


def digits(width=16, n=200, batch_size=50, seed=0):
    x, y = load_digits(return_X_y=True)
    x, y = torch.tensor(x).float() / 16, torch.tensor(y)
    torch.manual_seed(seed)
    model = nn.Sequential(nn.Linear(64, width), nn.ReLU(), nn.Linear(width, 10))
    return module_task(model, (x[:n], y[:n]), (x[1000:], y[1000:]), batch_size=batch_size)


OPTIONS = {"lr": 0.02, "epochs": 2, "seeds": (0, 1)}


@pytest.fixture
def runs(monkeypatch):
    """Counts the training runs."""
    done = []
    fit = adapt.fit

    def counted(model, task, **options):
        done.append(options)
        return fit(model, task, **options)

    monkeypatch.setattr(MODULE, "fit", counted)
    return done


def test_finished_runs_are_taken_up_and_ladders_extended(tmp_path, runs):
    task = digits()
    first = intrinsic_dimension(task, (10, 40), out=tmp_path, **OPTIONS)
    assert len(runs) == 2 * 3
    again = intrinsic_dimension(task, (10, 40), out=tmp_path, resume=True, **OPTIONS)
    assert len(runs) == 2 * 3
    assert again.replace(seconds=None) == first.replace(seconds=None)
    longer = intrinsic_dimension(task, (10, 40, 80), out=tmp_path, resume=True, **OPTIONS)
    assert len(runs) == 2 * 4
    assert longer.curve[:3] == first.curve
    intrinsic_dimension(digits(width=8), (10,), out=tmp_path, resume=True, **OPTIONS)
    assert len(runs) == 2 * 4 + 2 * 2  # another base: nothing is taken up


def test_a_stopped_ladder_goes_on_where_it_was(tmp_path, monkeypatch, runs):
    def stop(*args, **options):
        if len(runs) == 3:
            raise KeyboardInterrupt
        return counted(*args, **options)

    counted = MODULE.fit
    monkeypatch.setattr(MODULE, "fit", stop)
    with pytest.raises(KeyboardInterrupt):
        intrinsic_dimension(digits(), (10, 40), out=tmp_path, **OPTIONS)
    monkeypatch.setattr(MODULE, "fit", counted)
    stopped = intrinsic_dimension(digits(), (10, 40), out=tmp_path, resume=True, **OPTIONS)
    assert len(runs) == 6
    whole = intrinsic_dimension(digits(), (10, 40), **OPTIONS)
    assert stopped.curve == whole.curve


def test_every_rung_is_a_seed_and_d_numbers_that_load(tmp_path):
    task = digits()
    found = intrinsic_dimension(task, (30,), out=tmp_path, scales=True, **OPTIONS)
    model = task.fresh(1)
    assert adapt.load(model, tmp_path / "d30-seed1").n_trainable == 30
    assert task.evaluate(model).value == found.curve[1].scores[1]
    assert (tmp_path / "d30-seed1" / "adapter.safetensors").stat().st_size < 700


def test_a_target_that_is_not_reached_is_said_and_not_guessed():
    found = intrinsic_dimension(digits(), (2, 3), **OPTIONS)
    assert found.value == math.inf
    assert str(found) == "> 3"
    assert (found.low, found.high) == (3, math.inf)
    assert found.notes == ("the target is not reached up to 3",)
    plain = json.loads(json.dumps(found.to_dict(), allow_nan=False))
    assert plain["value"] is None
    assert [rung["dim"] for rung in plain["curve"]] == [0, 2, 3]
    assert plain["full"]["dim"] == sum(p.numel() for p in digits().module.parameters())


def test_steps_are_as_long_in_the_weights_and_the_best_is_kept(runs):
    task = digits()
    found = intrinsic_dimension(task, (40,), lr=(1e-6, 0.02), epochs=10, seeds=(0, 1))
    assert (found.full.lr, found.curve[1].lr) == (0.02, 0.02)
    assert "held-out training data" in found.notes[0]
    size = found.full.dim
    rates = [1e-6, 0.02, 0.02, 0.02]  # two to choose, two seeds
    assert [r["lr"] for r in runs[:4]] == pytest.approx(rates)
    assert [r["lr"] for r in runs[4:]] == pytest.approx([x * math.sqrt(size / 40) for x in rates])


@pytest.fixture
def planned(monkeypatch):
    """Training that needs so many numbers with each seed."""

    def plan(need, good=1.0, bad=0.5):
        def train(self, what, task, dim, lr, seed):
            return good if dim >= need[seed] else bad

        monkeypatch.setattr(_Ladder, "_train", train)

    return plan


def test_value_is_the_median_over_seeds_and_the_interval_their_range(planned):
    planned([20, 35, 20, 50, 80])
    found = intrinsic_dimension(digits(), (10, 20, 40, 60, 100), lr=1e-3, seeds=range(5))
    assert (found.value, found.low, found.high) == (40, 10, 100)
    assert found.level == pytest.approx(1 - 2 / 32)  # P(median within the range of five)
    assert found.target == 0.9
    planned([20, 300, 300])
    found = intrinsic_dimension(digits(), (10, 20, 40), lr=1e-3, seeds=(0, 1, 2))
    assert (found.value, found.low, found.high) == (math.inf, 10, math.inf)


def test_a_model_that_needs_no_training_has_dimension_zero(planned):
    task = digits()
    planned([0], good=1.05 * task.evaluate(task.fresh()).value)
    found = intrinsic_dimension(digits(), (10, 20), lr=1e-3, seeds=(0,))
    assert (found.value, found.low, found.high) == (0, 0, 0)
    assert found.notes == ("the model reaches the target as it is",)


def test_full_training_that_falls_behind_is_said(monkeypatch):
    scores = {10: 0.5, 20: 0.8}
    monkeypatch.setattr(_Ladder, "_train", lambda self, w, t, dim, lr, s: scores.get(dim, 0.6))
    found = intrinsic_dimension(digits(), (10, 20), lr=1e-3, seeds=(0,))
    assert found.notes == ("full training is not the best: try other step sizes or more epochs",)


def test_lower_scores_can_be_the_better_ones(planned):
    x = torch.randn(40, 3)
    task = module_task(
        nn.Sequential(nn.Linear(3, 8), nn.Linear(8, 1)), (x, x[:, :1]), (x, x[:, :1])
    )
    planned([16], good=0.01, bad=0.0112)
    found = intrinsic_dimension(task, (4, 8, 16), threshold=0.9, seeds=(0,))
    assert found.target == pytest.approx(0.01 / 0.9)
    assert found.value == 16


@pytest.mark.parametrize(
    ("dims", "options", "message"),
    [
        ((), {}, "ascend"),
        ((20, 10), {}, "ascend"),
        ((0, 10), {}, "dim=0"),
        ((10, 10**7), {}, "dim=10000000: at most"),
        ((10,), {"threshold": 0}, "threshold=0"),
        ((10,), {"lr": ()}, "one step size"),
        ((10,), {"seeds": (1, 1)}, "each seed once"),
        ((4,), {"scales": True}, "scales of 4 tensors"),
        ((4,), {"projection": "gauss"}, "no projection 'gauss'"),
    ],
)
def test_bad_options_are_named(dims, options, message):
    with pytest.raises(InputError, match=message):
        intrinsic_dimension(digits(n=20), dims, **{"epochs": 1, "seeds": (0,)} | options)


@pytest.mark.slow
def test_dimension_is_about_the_same_whatever_the_width():
    found = [
        intrinsic_dimension(
            digits(width, n=1000, batch_size=100),
            (60, 100, 160, 250, 400),
            lr=0.03,
            epochs=20,
        )
        for width in (32, 256)
    ]
    narrow, wide = (f.value for f in found)
    assert wide < 700 > narrow  # reached
    assert max(narrow, wide) / min(narrow, wide) < 2
    assert found[1].full.dim / found[0].full.dim > 7


@pytest.mark.slow
def test_pretraining_lowers_the_dimension():
    """With a new head, on other images: about 80 against 320 numbers."""
    x, y = load_digits(return_X_y=True)
    x, y = torch.tensor(x).float() / 16, torch.tensor(y)
    first, second, held = ((x[a:b], y[a:b]) for a, b in ((0, 900), (900, 1400), (1400, None)))
    torch.manual_seed(0)
    layers = [nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, 10)]
    body, head = nn.Sequential(*layers), nn.Linear(64, 10)
    pretrained = copy.deepcopy(body)
    adapt.fit(pretrained, module_task(pretrained, first, held, batch_size=50), epochs=20, lr=3e-3)
    d90 = []
    for model in (body, pretrained):
        model[4] = copy.deepcopy(head)
        task = module_task(model, second, held, batch_size=50)
        d90.append(intrinsic_dimension(task, (40, 80, 160, 320), lr=0.03, epochs=15))
    assert d90[1].value < d90[0].value < math.inf


@pytest.mark.slow
@pytest.mark.parametrize("projection", ["fastfood", "dense", "sparse", "hashed"])
def test_projections_agree_on_the_curve(projection):
    options = {"lr": 0.03, "epochs": 15}
    task = digits(32, n=1000, batch_size=100)
    found = intrinsic_dimension(task, (50, 200), projection=projection, **options)
    dense = intrinsic_dimension(task, (50, 200), projection="dense", **options)
    for ours, theirs in zip(found.curve, dense.curve, strict=True):
        assert abs(ours.median - theirs.median) < 0.1
