from itertools import combinations

import numpy as np
import pytest
import torch
from sklearn.cluster import KMeans
from sklearn.metrics import adjusted_rand_score

from lowdim.errors import InputError, MemoryBudgetError
from lowdim.structure.sine_k_medoids import SineKMedoids, lines, normalized_width, sines, swapped


def on_lines(n=400, k=5, dim=20, *, noise=0.0, seed=0):
    """Points on k lines through the origin, with random lengths and signs."""
    g = torch.Generator().manual_seed(seed)
    directions = torch.nn.functional.normalize(torch.randn(k, dim, generator=g).double())
    labels = torch.randint(k, (n,), generator=g)
    length = 10 ** (2 * torch.rand(n, 1, generator=g).double() - 1)
    sign = torch.randint(2, (n, 1), generator=g) * 2 - 1
    bent = directions[labels] + noise * torch.randn(n, dim, generator=g).double()
    return length * sign * bent, labels


def cloud(n, dim=3, seed=0):
    return torch.randn(n, dim, generator=torch.Generator().manual_seed(seed)).double()


def sine_matrix(x):
    unit = torch.nn.functional.normalize(x)
    return (1 - (unit @ unit.T).square()).clamp_min(0).sqrt()


@pytest.mark.parametrize("noise", [0.0, 0.05])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_lines_are_told_apart_where_k_means_fails(noise, dtype):
    x, labels = on_lines(noise=noise)
    found = SineKMedoids(5).fit(x.to(dtype))
    assert adjusted_rand_score(labels, found.labels_) == 1
    assert adjusted_rand_score(labels, KMeans(5, n_init=3, random_state=0).fit_predict(x)) < 0.5
    assert torch.equal(found.predict(-3 * x.to(dtype)), found.labels_)


def test_sines_are_angles_even_where_they_are_tiny():
    unit = torch.nn.functional.normalize(cloud(30, 6))
    torch.testing.assert_close(
        sines(unit, lines(unit)).fill_diagonal_(0), sine_matrix(unit).fill_diagonal_(0)
    )
    angle = 1e-9
    u, v = torch.eye(2).double()
    turned = (u * np.cos(angle) + v * np.sin(angle))[None]
    assert float(sines(turned, lines(u[None]))) == pytest.approx(angle, rel=1e-6)


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("k", [1, 2, 3])
def test_no_swap_is_left_and_the_cost_is_near_the_best_of_all(k, seed):
    x = cloud(24, seed=seed)
    matrix = sine_matrix(x)

    def cost(chosen):
        return float(matrix[:, list(chosen)].amin(1).mean())

    found = SineKMedoids(k, random_state=seed).fit(x)
    medoids = found.medoids_.tolist()
    assert len(set(medoids)) == k
    assert found.cost_ == pytest.approx(cost(medoids))
    for i in range(k):
        rest = medoids[:i] + medoids[i + 1 :]
        assert all(cost([*rest, j]) >= found.cost_ * (1 - 1e-6) for j in range(24))
    best = min(cost(chosen) for chosen in combinations(range(24), k))
    assert best <= found.cost_ * (1 + 1e-6)
    assert found.cost_ <= 1.1 * best


def test_a_swap_never_raises_the_cost():
    unit = torch.nn.functional.normalize(cloud(500, 5))
    medoids, last = torch.tensor([0, 1, 2, 3]), float("inf")
    for part in torch.arange(4, 200).split(49):
        medoids = swapped(unit, medoids, part)
        now = float(sines(unit, lines(unit[medoids])).amin(1).sum())
        assert now <= last * (1 + 1e-12)
        last = now


def test_candidates_are_sampled_where_there_are_many():
    x, labels = on_lines(1500, noise=0.02)
    found = SineKMedoids(5, candidates=50, max_iter=4).fit(x)
    assert adjusted_rand_score(labels, found.labels_) == 1
    full = SineKMedoids(5).fit(x)
    assert full.cost_ <= found.cost_ * (1 + 1e-9) <= 1.2 * full.cost_


def test_rank_one_is_no_worse_than_the_medoid_and_rank_two_no_worse_than_rank_one():
    x = cloud(200, 6, seed=3)
    found = SineKMedoids(4).fit(x)
    unit = torch.nn.functional.normalize(x)
    own = found.labels_
    squared = sines(unit, found.lines_).square()
    widths = [normalized_width(x, own, r) for r in range(4)]
    for k in range(4):
        medoid = float(squared[own == k, k].mean())
        mean = [float(w.lower[k]) ** 2 for w in widths]
        assert mean[0] == pytest.approx(1)
        assert mean[1] <= medoid + 1e-12
        assert mean[3] <= mean[2] <= mean[1] <= mean[0]
        assert all(float(w.lower[k]) <= float(w.upper[k]) <= 1 + 1e-12 for w in widths)


def test_width_of_a_known_fan():
    """Directions at -a, 0 and a in a plane: the best line is at 0, the worst at sin a from it."""
    angle = torch.tensor([-0.3, 0.0, 0.3]).double()
    x = torch.stack([angle.cos(), angle.sin()], 1) * torch.tensor([[1.0], [-5], [2]])
    width = normalized_width(x, [0, 0, 0], 1)
    assert float(width.upper) == pytest.approx(np.sin(0.3))
    assert float(width.lower) == pytest.approx(np.sin(0.3) * (2 / 3) ** 0.5)
    assert float(normalized_width(x, [0, 0, 0], 2).upper) == pytest.approx(0, abs=1e-12)
    assert normalized_width(x, [0, 2, 2], 1).upper[1] == 0


def test_pieces_are_linear_and_their_rank_is_found():
    x, _ = on_lines(400, noise=0.05)
    found = SineKMedoids(5).fit(x)
    assert found.strata_.dims == (1,) * 5
    assert all(bool((p.center == 0).all()) for p in found.strata_.pieces)
    assert SineKMedoids(5, rank=3).fit(x).strata_.dims == (3,) * 5


def test_points_are_rebuilt_on_the_piece_of_their_medoid():
    x = cloud(200, 5)
    found = SineKMedoids(4, rank=2).fit(x)
    own = found.predict(x)
    expected = torch.empty_like(x)
    for k, piece in enumerate(found.strata_.pieces):
        expected[own == k] = piece.reconstruct(piece.project(x[own == k]))
    torch.testing.assert_close(found.reconstruct(x), expected)
    assert int(found.predict(torch.zeros(1, 5))) == 0


def test_poor_data_and_mistakes():
    same = torch.ones(10, 3) * torch.arange(1, 11)[:, None]
    found = SineKMedoids(3).fit(same)
    assert len(set(found.medoids_.tolist())) == 3
    assert found.cost_ == pytest.approx(0, abs=1e-6)
    assert SineKMedoids(4).fit(torch.eye(4)).cost_ == 0
    assert SineKMedoids(2).fit(cloud(9, 1)).labels_.shape == (9,)
    with pytest.raises(InputError, match="row 4"):
        SineKMedoids(2).fit(torch.ones(6, 2) * (torch.arange(6) != 4)[:, None])
    with pytest.raises(InputError, match="rank=-1"):
        SineKMedoids(2, rank=-1).fit(same)
    with pytest.raises(InputError, match="from 0 to 3"):
        normalized_width(same, [0] * 10, 4)
    with pytest.raises(MemoryBudgetError):
        SineKMedoids(2, memory="10kB").fit(same)


def test_a_resumed_fit_gives_the_same_medoids(tmp_path):
    x = cloud(300, 5)
    straight = SineKMedoids(4, candidates=40, max_iter=6).fit(x)
    SineKMedoids(4, candidates=40, max_iter=6).fit(x, out=tmp_path)
    rounds = sorted(tmp_path.rglob("*.safetensors"))
    assert len(rounds) > 1
    rounds[-1].unlink()
    again = SineKMedoids(4, candidates=40, max_iter=6).fit(x, out=tmp_path, resume=True)
    assert torch.equal(again.medoids_, straight.medoids_)
