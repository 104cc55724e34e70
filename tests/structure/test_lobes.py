"""Coefficients of 2 x 2 tables, planted lobes, and an honest null."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.metrics import adjusted_mutual_info_score, jaccard_score, mutual_info_score

from lowdim.errors import InputError, MemoryBudgetError
from lowdim.structure.lobes import _mutual_information, cooccurrence, label_agreement, lobes
from lowdim.structure.omp import SparseCodes


def firing(n, m, share=0.3, seed=0):
    g = torch.Generator().manual_seed(seed)
    return (torch.rand(n, m, generator=g) < share).float()


def planted(strength, m=150, blocks=60, seed=0):
    """Features of three lobes that fire with their topic, and their directions."""
    g = torch.Generator().manual_seed(seed)
    lobe = torch.arange(m) % 3
    topic = torch.randint(0, 3, (blocks,), generator=g).repeat_interleave(32)
    chance = torch.where(lobe == topic[:, None], 0.02, 0.004)
    codes = (torch.rand(blocks * 32, m, generator=g) < chance) * torch.rand(m, generator=g)
    centres = torch.randn(3, 16, generator=g)
    return lobe, codes, torch.randn(m, 16, generator=g) + strength * centres[lobe]


def test_phi_is_the_correlation_and_the_others_are_their_definitions():
    codes = firing(90, 7)
    table = cooccurrence(codes, block=1)
    bits = codes.numpy().astype(bool)
    assert np.allclose(table.affinity("phi"), np.corrcoef(bits.T), atol=1e-12)
    for i, j in ((0, 1), (2, 6)):
        a, b = bits[:, i], bits[:, j]
        both = (a & b).sum()
        expected = {
            "jaccard": jaccard_score(a, b),
            "dice": 2 * both / (a.sum() + b.sum()),
            "simple-matching": (a == b).mean(),
            "overlap": both / min(a.sum(), b.sum()),
        }
        for kind, value in expected.items():
            assert float(table.affinity(kind)[i, j]) == pytest.approx(value)


@settings(max_examples=20, deadline=None)
@given(n=st.integers(1, 50), block=st.integers(1, 12), seed=st.integers(0, 100))
def test_blocks_fire_where_any_token_does_dense_or_sparse(n, block, seed):
    codes = firing(n, 6, 0.2, seed) * torch.randn(6, generator=torch.Generator().manual_seed(seed))
    parts = [part.ne(0).any(0).double() for part in codes.split(block)]
    expected = torch.stack(parts).T @ torch.stack(parts)
    sparse = SparseCodes(torch.arange(6).expand(n, 6).flip(1), codes.flip(1))
    for table in (cooccurrence(codes, block=block), cooccurrence(sparse, 6, block=block)):
        assert table.blocks == len(parts)
        assert torch.equal(table.counts, expected)


def test_counts_do_not_depend_on_the_budget():
    codes = firing(3000, 40, 0.05)
    whole = cooccurrence(codes, block=4).counts
    assert torch.equal(cooccurrence(codes, block=4, memory="64KiB").counts, whole)
    with pytest.raises(MemoryBudgetError):
        cooccurrence(codes, memory="10KiB")
    with pytest.raises(MemoryBudgetError):
        lobes(torch.randn(40, 3), cooccurrence(codes, block=4), memory="100KiB")


def test_planted_lobes_are_found_and_lie_together():
    lobe, codes, directions = planted(2.0)
    table = cooccurrence(codes, block=32)
    for kind in ("phi", "jaccard"):
        found = lobes(directions, table, 3, kind=kind, permutations=50)
        assert adjusted_mutual_info_score(found.labels, lobe[found.features]) > 0.9
        assert found.geometry.value > 0.9
        assert found.geometry.z_score > 20
        assert found.geometry.p_value == pytest.approx(1 / 51)
        assert found.accuracy > 0.9
        assert found.prediction.value > 0.8


def test_lobes_without_a_place_of_their_own_are_no_better_than_chance():
    _, codes, directions = planted(0.0)
    found = lobes(directions, cooccurrence(codes, block=32), 3, permutations=50)
    assert abs(found.geometry.value) < 0.05
    assert abs(found.geometry.z_score) < 4
    assert found.accuracy < 0.5


def test_features_that_never_or_always_fire_are_left_out():
    _, codes, directions = planted(2.0)
    codes[:, 4], codes[:, 7] = 0, 1
    found = lobes(directions, cooccurrence(codes, block=32), 3, permutations=10)
    assert 4 not in found.features
    assert 7 not in found.features
    assert len(found.labels) == len(found.places) == len(found.features)


def test_agreement_is_scikit_learns_and_z_is_standard_under_the_null():
    g = torch.Generator().manual_seed(0)
    a = torch.randint(0, 4, (200,), generator=g)
    b = torch.where(torch.rand(200, generator=g) < 0.5, a, torch.randint(0, 3, (200,), generator=g))
    assert label_agreement(a, b).value == pytest.approx(adjusted_mutual_info_score(a, b))
    assert float(_mutual_information(a, b)) == pytest.approx(mutual_info_score(a, b))
    assert label_agreement(a, a).value == pytest.approx(1)
    names = np.array(["w", "x", "y", "z"])[a]
    assert label_agreement(names, b).z_score == label_agreement(a, b).z_score
    null = [
        label_agreement(a, b[torch.randperm(200, generator=g)], permutations=40) for _ in range(100)
    ]
    scores = torch.tensor([found.z_score for found in null])
    assert abs(float(scores.mean())) < 0.4
    assert float(scores.std()) == pytest.approx(1, abs=0.3)
    assert 0 <= sum(found.p_value <= 0.05 for found in null) <= 12
    assert label_agreement(a, torch.zeros(200)).z_score == 0


def test_bad_input():
    _, codes, directions = planted(1.0)
    table = cooccurrence(codes, block=32)
    for call, says in (
        (lambda: cooccurrence(codes, 150), "only with them"),
        (lambda: cooccurrence(codes, block=0), "block=0"),
        (lambda: cooccurrence(SparseCodes(torch.tensor([[5]]), torch.ones(1, 1)), 5), "below m"),
        (lambda: cooccurrence(codes * float("nan")), "row 0"),
        (lambda: table.affinity("cosine"), "choose from"),
        (lambda: lobes(directions[:-1], table), "149 directions"),
        (lambda: lobes(directions, table, 1), "n_lobes=1"),
        (lambda: lobes(directions * 0, table), "all zeros"),
        (lambda: label_agreement([0, 1], [0]), "2 and 1 labels"),
    ):
        with pytest.raises(InputError, match=says):
            call()
