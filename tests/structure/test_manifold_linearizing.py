import numpy as np
import pytest
import torch
from sklearn.metrics import adjusted_rand_score

from lowdim.datasets import strata
from lowdim.errors import InputError
from lowdim.structure import ManifoldLinearizing, coding_rate, compressed_rate, mlp_encoder
from lowdim.structure.manifold_linearizing import membership


@pytest.mark.parametrize("noise", [0.0, 0.1])
def test_planted_subspaces_are_found_without_an_encoder(noise):
    planted = strata(400, noise=noise, seed=2, dtype=torch.float32)
    found = ManifoldLinearizing(4, epochs=1).fit(planted.points)
    assert adjusted_rand_score(planted.labels, found.labels_) == 1
    assert adjusted_rand_score(planted.labels, found.predict(planted.points)) == 1
    sums = found.membership_.sum(axis=1)
    assert np.abs(sums - 1).max() <= 1e-6
    assert abs(found.membership_ - found.membership_.T).max() < 1e-12


def test_the_objective_is_highest_at_the_true_membership():
    planted = strata(200, (2, 5, 9), 32, noise=0.1, seed=2)
    x = torch.nn.functional.normalize(planted.points)
    true = (planted.labels[:, None] == planted.labels).double()
    true = true / true.sum(1, keepdim=True)
    shuffled = torch.randperm(200, generator=torch.Generator().manual_seed(0))
    random = true[shuffled][:, shuffled]
    even = torch.full_like(true, 1 / 200)
    rates = [float(coding_rate(x) - compressed_rate(x, p)) for p in (true, random, even)]
    assert rates[0] > rates[1] + 0.5
    assert rates[0] > rates[2] + 0.5
    assert rates[2] == pytest.approx(0, abs=1e-9)  # one piece of everything


def test_training_lowers_the_loss_and_brings_kin_together():
    planted = strata(300, (2, 3), 16, noise=0.3, shared=1, seed=2)
    options = {"batch_size": 100, "learning_rate": 3e-3, "temperature": 0.2}
    found = ManifoldLinearizing(2, epochs=8, **options).fit(planted.points)
    assert found.losses_[-1] < found.losses_[0]
    same = (planted.labels[:, None] == planted.labels).double()
    start = ManifoldLinearizing(2, epochs=0, **options).fit(planted.points)
    x = torch.nn.functional.normalize(planted.points)
    within = [
        float((membership(torch.nn.functional.normalize(f.head_(x)), 0.2) * same).sum())
        for f in (start, found)
    ]
    assert within[1] > within[0]


def test_an_encoder_is_copied_and_gives_features():
    planted = strata(200, (2, 3), 12, noise=0.1, seed=2, dtype=torch.float32)
    encoder = mlp_encoder(12, hidden=32, features=8)
    before = [p.clone() for p in encoder.parameters()]
    options = {"encoder": encoder, "warm_up": 2, "epochs": 1, "batch_size": 64}
    state = torch.random.get_rng_state()
    found = ManifoldLinearizing(2, **options).fit(planted.points)
    assert torch.equal(torch.random.get_rng_state(), state)
    assert all(torch.equal(p, q) for p, q in zip(encoder.parameters(), before, strict=True))
    z = found.transform(planted.points)
    assert z.shape == (200, 8)
    assert torch.allclose(z.norm(dim=1), torch.ones(200))
    assert found.strata_.pieces[0].dim == 8
    assert (found.predict(planted.points) == found.labels_).double().mean() > 0.9
    with pytest.raises(InputError, match="no way back"):
        found.reconstruct(planted.points)
    again = ManifoldLinearizing(2, **options).fit(planted.points)
    assert torch.equal(again.transform(planted.points), z)


def test_a_curved_piece_is_flattened_by_an_encoder_that_knows_what_matters():
    g = torch.Generator().manual_seed(0)
    kind, angle = torch.arange(300) % 3, 6.28 * torch.rand(300, generator=g)
    place = torch.nn.functional.one_hot(kind, 3).float()
    x = torch.cat([2 * place, angle.cos()[:, None], angle.sin()[:, None]], 1)

    def turn(x):
        a = 6.28 * torch.rand(len(x), 1)
        return torch.cat([x[:, :3], x[:, 3:4] * a.cos() - x[:, 4:] * a.sin(),
                          x[:, 3:4] * a.sin() + x[:, 4:] * a.cos()], 1)  # fmt: skip

    found = ManifoldLinearizing(
        3, encoder=mlp_encoder(5, hidden=32, features=8), augment=turn, warm_up=60, epochs=5,
        batch_size=100, learning_rate=3e-3, temperature=0.3,
    ).fit(x)  # fmt: skip
    assert adjusted_rand_score(kind, found.labels_) == 1


def test_a_resumed_fit_is_the_same(tmp_path):
    planted = strata(150, (2, 3), 8, noise=0.1, seed=2, dtype=torch.float32)
    first = ManifoldLinearizing(2, epochs=3).fit(planted.points, out=tmp_path)
    weight = first.head_.weight.clone()
    pieces = sorted(tmp_path.glob(".pieces/*/linearizing_2*"))
    assert len(pieces) == 1
    pieces[0].unlink()  # as if it had been killed before the last epoch
    for kept in tmp_path.glob(".pieces/*/coefficients*"):
        kept.unlink()
    again = ManifoldLinearizing(2, epochs=3).fit(planted.points, out=tmp_path, resume=True)
    assert torch.equal(again.head_.weight, weight)
    assert again.losses_ == first.losses_


def test_mistakes_are_named():
    x = strata(60, (2, 3), 8, seed=2).points
    for change in ({"temperature": 0.0}, {"eps": 0.0}, {"batch_size": 1}, {"epochs": -1}):
        with pytest.raises(InputError, match=next(iter(change))):
            ManifoldLinearizing(2, **change).fit(x)
    with pytest.raises(InputError, match="too few"):
        ManifoldLinearizing(2).fit(x[:1].expand(20, -1))
    with pytest.raises(InputError, match="zeros"):
        ManifoldLinearizing(2).fit(torch.cat([x, 0 * x[:1]]))
