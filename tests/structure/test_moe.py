import math

import numpy as np
import pytest
import torch
from sklearn.decomposition import MiniBatchDictionaryLearning

from lowdim.datasets import strata
from lowdim.errors import InputError, MemoryBudgetError
from lowdim.io.points import PointSource
from lowdim.structure import dictionary_pieces, moe
from lowdim.structure.agreement import accuracy
from lowdim.structure.experts import squared_errors
from lowdim.structure.moe import StratifiedMoE
from lowdim.structure.moe_contrastive import ContrastiveMoE


def planted(n=1500, seed=1, **options):
    return strata(n, seed=seed, noise=0.1, dtype=torch.float32, **options)


def dims_are_within_one(model, truth):
    found = zip(sorted(model.strata_.dims), sorted(truth.dims), strict=True)
    return all(abs(a - b) <= 1 for a, b in found)


@pytest.fixture(scope="module", params=[0.0, 3.0], ids=["crossing", "apart"])
def fitted(request):
    truth = planted(separation=request.param)
    return truth, StratifiedMoE(4, epochs=4).fit(truth.points), request.param


def entropy(shares):
    return float(torch.special.entr(shares.double()).sum(1).mean())


def test_planted_pieces_are_found(fitted):
    truth, model, _ = fitted
    assert accuracy(model.labels_, truth.labels) > 0.95
    assert accuracy(model.predict(truth.points), truth.labels) > 0.95
    assert dims_are_within_one(model, truth)


@pytest.mark.slow
@pytest.mark.parametrize("separation", [0.0, 3.0])
@pytest.mark.parametrize("sparsity", [None, (8, 12, 16, 20), 8])
@pytest.mark.parametrize("seed", range(3))
def test_planted_pieces_are_found_at_full_size(seed, sparsity, separation):
    truth = planted(4000, seed=seed, separation=separation)
    model = StratifiedMoE(4, sparsity=sparsity, random_state=seed).fit(truth.points)
    assert accuracy(model.labels_, truth.labels) > 0.95
    assert dims_are_within_one(model, truth)


def test_points_are_shared_by_competition_and_only_pieces_apart_by_the_gate_alone(fitted):
    truth, model, separation = fitted
    assert entropy(model.gates(truth.points)) < 0.02
    alone = entropy(model.attention(truth.points))
    assert alone < 0.1 * math.log(4) if separation else alone > 0.9 * math.log(4)


def test_codes_are_sparse_and_rebuild_the_points(fitted):
    truth, model, _ = fitted
    x = truth.points[:200]
    reduced = model._reduced(x)
    for codes, s in zip(model._codes(reduced), model.sparsity_, strict=True):
        assert bool(((codes != 0).sum(1) == s).all())
    rebuilt = model.transform(x) @ model.dictionaries_.mT.flatten(0, 1) * model.scale_
    rebuilt = rebuilt @ model.chart_.basis.T + model.chart_.center
    assert torch.allclose(rebuilt, model.reconstruct(x), atol=1e-5)
    lengths = model.dictionaries_.norm(dim=1)
    assert torch.allclose(lengths, torch.ones_like(lengths), atol=1e-5)


def test_it_beats_one_dictionary_with_as_many_active_atoms(fitted):
    truth, model, _ = fitted
    s, x = max(model.sparsity_), truth.points[:600].numpy()
    center = x.mean(0)
    single = MiniBatchDictionaryLearning(
        32, max_iter=5, transform_n_nonzero_coefs=s, transform_algorithm="omp", random_state=0
    ).fit(x - center)
    rebuilt = single.transform(x - center) @ single.components_
    assert -model.score(x) < 0.8 * np.square(x - center - rebuilt).sum(1).mean()


def test_loss_falls_and_the_noise_is_found(fitted):
    model = fitted[1]
    assert model.history_[-1] < model.history_[0]
    assert model.noise_ * 64 * model.scale_**2 == pytest.approx(0.01, rel=0.3)


def test_the_smallest_piece_gets_the_fewest_atoms():
    truth = planted(600)
    model = StratifiedMoE(4, sparsity=(20, 8, 16, 12), epochs=1).fit(truth.points)
    assert model.sparsity_ == (20, 8, 16, 12)
    assert np.argsort(model.strata_.dims).tolist() == [1, 3, 2, 0]


def test_an_exact_encoder_learns_too():
    truth = planted(400, separation=1.0)
    model = StratifiedMoE(4, encoder="omp", epochs=2).fit(truth.points)
    assert accuracy(model.labels_, truth.labels) > 0.95
    assert all(bool(torch.isfinite(p).all()) for p in model._network.parameters())


@pytest.mark.parametrize("loss", ["mixture", "gated"])
def test_every_parameter_learns(loss):
    truth = planted(400)
    model = StratifiedMoE(4, loss=loss, epochs=1, contrastive=0.1).fit(truth.points, truth.labels)
    model._network.zero_grad()
    x = model._reduced(truth.points[:200])
    model._loss(model._network, x, truth.labels[:200])[0].backward()
    for name, p in model._network.named_parameters():
        own = p.grad.flatten(1) if p.ndim > 1 else p.grad[None]
        assert bool((own != 0).any(1).all()), name


def test_balance_evens_out_the_gate():
    truth = planted(400, separation=3.0, balance=0.1)

    def uneven(balance):
        model = StratifiedMoE(4, loss="gated", balance=balance, learning_rate=0.01).fit(
            truth.points
        )
        return float(model.attention(truth.points).mean(0).square().sum())

    assert uneven(10.0) < 0.9 * uneven(0.0)


def test_the_same_seed_gives_the_same_numbers_and_no_other_draw_is_disturbed():
    truth = planted(250)
    torch.manual_seed(3)
    expected = torch.rand(3)
    torch.manual_seed(3)
    one = StratifiedMoE(4, epochs=2).fit(truth.points)
    assert torch.equal(torch.rand(3), expected)
    two = StratifiedMoE(4, epochs=2).fit(truth.points)
    assert torch.equal(one.dictionaries_, two.dictionaries_)
    assert torch.equal(one.strata_.weights, two.strata_.weights)
    other = StratifiedMoE(4, epochs=2, random_state=1).fit(truth.points)
    assert not torch.equal(one.keys_, other.keys_)


class Killed(Exception):
    """What a test stops a fit with."""


class KilledAt:
    """Stops the fit once so many points have gone through."""

    def __init__(self, points):
        self.points = points

    def task(self, what):
        def advance(done, total):
            if done >= self.points:
                raise Killed

        return advance


def test_a_killed_fit_goes_on_bit_for_bit(tmp_path):
    truth = planted(400)
    options = {"epochs": 4, "batch_size": 50, "contrastive": 0.1}
    whole = StratifiedMoE(4, **options).fit(truth.points, truth.labels)
    with pytest.raises(Killed):
        StratifiedMoE(4, **options).fit(
            truth.points, truth.labels, out=tmp_path, progress=KilledAt(1000)
        )
    kept = sorted(p.name[:7] for p in tmp_path.rglob("epoch*"))
    assert kept == ["epoch_0", "epoch_1"]  # killed within the third
    resumed = StratifiedMoE(4, **options).fit(truth.points, truth.labels, out=tmp_path, resume=True)
    assert resumed.history_ == whole.history_
    for a, b in zip(whole._network.parameters(), resumed._network.parameters(), strict=True):
        assert torch.equal(a, b)
    assert torch.equal(resumed.strata_.weights, whole.strata_.weights)


def test_a_file_is_read_in_parts_and_memory_changes_nothing(tmp_path, monkeypatch):
    monkeypatch.setattr(moe, "SHARD", 256)
    monkeypatch.setattr(dictionary_pieces, "SHARD", 256)
    truth = planted(600)
    np.save(tmp_path / "x.npy", truth.points.numpy())
    read, largest = PointSource.read, []

    def watched(self, memory=None):
        largest.append(self.n)
        return read(self, memory)

    monkeypatch.setattr(PointSource, "read", watched)
    one = StratifiedMoE(4, epochs=2).fit(tmp_path / "x.npy")
    two = StratifiedMoE(4, epochs=2, memory="64MB").fit(tmp_path / "x.npy")
    held = StratifiedMoE(4, epochs=2).fit(truth.points)
    assert largest
    assert max(largest) <= 256
    assert torch.equal(one.labels_, two.labels_)
    assert torch.allclose(one.strata_.weights, held.strata_.weights, atol=1e-4)
    with pytest.raises(MemoryBudgetError):
        StratifiedMoE(4, memory="100kB").fit(tmp_path / "x.npy")


def test_mistakes_are_named():
    x = planted(100).points
    wrong = {
        "encoder": "mlp", "loss": "l2", "epochs": 0, "n_layers": 0, "balance": -1.0,
        "sparsity": (2, 3), "reduce": 0, "n_atoms": 0, "penalty": -1.0,
    }  # fmt: skip
    for name, value in wrong.items():
        with pytest.raises(InputError, match=name):
            StratifiedMoE(4, **{name: value}).fit(x)
    with pytest.raises(InputError, match="all points are equal"):
        StratifiedMoE(2).fit(torch.ones(20, 3))
    with pytest.raises(InputError, match="needs groups"):
        ContrastiveMoE(4).fit(x)
    with pytest.raises(InputError, match="99 groups for 100"):
        ContrastiveMoE(4).fit(x, np.arange(99))
    with pytest.raises(InputError, match="group_ids"):
        ContrastiveMoE(4).fit(x, [[0] * 60, [0] * 40])


def test_more_pieces_than_there_are_and_fewer_columns_than_atoms():
    x = strata(300, (1, 2), 5, noise=0.05, separation=3).points
    model = StratifiedMoE(6, epochs=2).fit(x)
    assert torch.isfinite(model.reconstruct(x)).all()
    assert -model.score(x) < 0.02
    errors = squared_errors(model._reduced(x), model._codes(model._reduced(x)), model.dictionaries_)
    assert float(errors.amin(1).mean()) < 0.01


def test_a_million_rows_need_no_more_than_blocks(monkeypatch):
    model = StratifiedMoE(4, epochs=1).fit(planted(400).points)
    seen = []
    codes = model._codes
    monkeypatch.setattr(model, "_codes", lambda x: seen.append(len(x)) or codes(x))
    model.predict(planted(5000).points)
    assert sum(seen) == 5000
    assert max(seen) <= dictionary_pieces.ROWS
