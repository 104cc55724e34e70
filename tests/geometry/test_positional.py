"""Planted positions and contexts come back; sums of squares add; controls and nulls."""

import math

import pytest
import torch

from lowdim.errors import InputError
from lowdim.geometry import positional_decomposition, query_key_split
from lowdim.geometry.positional import low_frequency_share

C, T, D = 30, 48, 24


def draw(*shape, seed=0):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed)).double()


def planted(noise=0.1):
    """A spiral through three directions, four clusters of contexts in others, and noise."""
    turn = torch.arange(T).double() * 2 * math.pi / T
    spiral = torch.stack([turn.cos(), turn.sin(), turn / 3], 1)
    position = torch.zeros(T, D).double()
    position[:, :3] = spiral - spiral.mean(0)
    context = torch.zeros(C, D).double()
    context[:, 3:12] = 2 * draw(4, 9)[torch.arange(C) % 4] + 0.1 * draw(C, 9, seed=1)
    context -= context.mean(0)
    h = 5 + position + context[:, None] + noise * draw(C, T, D, seed=2)
    return h, position, context


def test_the_plant_comes_back():
    h, position, context = planted()
    found = positional_decomposition(h, labels=[i % 4 for i in range(C)])
    assert torch.allclose(found.positions, position, atol=0.1)
    assert torch.allclose(found.contexts, context, atol=0.1)
    assert torch.allclose(found.mean, torch.full((D,), 5.0).double(), atol=0.05)
    assert found.rank_95 <= 3
    assert found.low_frequency > 0.9 > 3 * found.low_frequency_shuffled
    assert found.incoherence < 0.2 < found.incoherence_null
    assert found.cluster > 0.8 > 2 * found.cluster_null


def test_without_noise_the_figures_are_those_of_the_plant():
    h, position, _ = planted(noise=0)
    found = positional_decomposition(h)
    values = torch.linalg.svdvals(position)
    assert found.stable_rank == pytest.approx(float((values**2).sum() / values[0] ** 2))
    assert found.residual_share < 1e-25
    assert found.incoherence < 1e-12
    assert found.cluster is None


def test_sums_of_squares_add_up_and_the_residual_is_orthogonal():
    h = draw(C, T, D) + 3 * draw(T, D, seed=1) + draw(C, 1, D, seed=2)
    found = positional_decomposition(h.float())
    shares = found.position_share, found.context_share, found.residual_share
    assert sum(shares) == pytest.approx(1, abs=1e-14)
    total = float((h.float().double() - found.mean).square().sum())
    assert C * float(found.positions.square().sum()) == pytest.approx(total * shares[0])
    residual = found.residual(h.float())
    assert float(residual.square().sum()) == pytest.approx(total * shares[2])
    assert float(residual.mean(0).abs().max()) < 1e-12
    assert float(residual.mean(1).abs().max()) < 1e-12


def test_independent_states_give_the_null():
    found = [positional_decomposition(draw(C, T, D, seed=s), seed=s) for s in range(10)]
    share = sum(f.position_share for f in found) / 10
    assert share == pytest.approx((T - 1) / (C * T - 1), rel=0.03)
    low = sum(f.low_frequency for f in found) / 10
    shuffled = sum(f.low_frequency_shuffled for f in found) / 10
    assert low == pytest.approx(shuffled, rel=0.15)
    incoherence = sum(f.incoherence for f in found) / 10
    null = sum(f.incoherence_null for f in found) / 10
    assert incoherence == pytest.approx(null, abs=0.05)


def test_low_frequency_share_is_that_of_the_two_sided_cosine_transform():
    scipy = pytest.importorskip("scipy.fft")
    x = draw(40, 6) + torch.linspace(0, 4, 40)[:, None]
    x -= x.mean(0)
    gram = (x @ x.T).numpy()
    energy = scipy.dctn(gram, norm="ortho") ** 2
    assert low_frequency_share(x, 5) == pytest.approx(energy[:6, :6].sum() / energy.sum())
    assert low_frequency_share(x, 39) == pytest.approx(1)


def test_a_head_that_looks_at_places_and_one_that_looks_at_contents():
    found = positional_decomposition(planted()[0])
    place, content = torch.zeros(D, D), torch.zeros(D, D)
    place[:3, :3], content[3:12, 3:12] = torch.eye(3), torch.eye(9)
    assert query_key_split(found, place).value > 0.95
    split = query_key_split(found, content)
    assert split.shares["context-context"] > 0.95
    assert sum(split.shares.values()) == pytest.approx(1)
    mixed = place + content
    parts = query_key_split(found, mixed).terms
    t, c = 7, 3
    score = (found.positions[t] + found.contexts[c]) @ mixed.double()
    score = score @ (found.positions[t + 1] + found.contexts[c])
    own = (
        parts["position-position"][t, t + 1] + parts["position-context"][t, c]
        + parts["context-position"][c, t + 1] + parts["context-context"][c, c]
    )  # fmt: skip
    assert float(own) == pytest.approx(float(score))


def test_poor_data():
    h = planted()[0]
    with pytest.raises(InputError, match=r"give \(contexts, positions, d\)"):
        positional_decomposition(h[0])
    with pytest.raises(InputError, match="at least 2 contexts of 3"):
        positional_decomposition(h[:1])
    with pytest.raises(InputError, match="all states are equal"):
        positional_decomposition(torch.ones(4, 5, 6))
    with pytest.raises(InputError, match="29 labels for 30"):
        positional_decomposition(h, labels=[0] * 29)
    h[2, 3, 4] = math.inf
    with pytest.raises(InputError, match="context 2, position 3, column 4"):
        positional_decomposition(h)
    same = positional_decomposition(draw(C, 1, D).expand(C, T, D))  # no position at all
    assert same.position_share < 1e-25
    assert same.rank_95 == 0
