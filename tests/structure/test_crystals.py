"""A planted distractor is found and dropped; random groups stay random on held-out pairs."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.discriminant_analysis import LinearDiscriminantAnalysis

from lowdim.errors import InputError
from lowdim.structure.crystals import (
    crystals,
    find_parallelograms,
    lda_project,
    parallelogram_score,
)
from tests.structure.sample import normal


def pairs(n=80, d=50, distractor=20.0):
    """Four relations, noise, and one direction that adds to every difference at random."""
    groups = torch.arange(n) % 4
    direction = torch.nn.functional.normalize(normal(d, seed=1), dim=0)
    x = normal(4, d, seed=2)[groups] + 0.3 * normal(n, d, seed=3)
    return x + distractor * normal(n, 1, seed=4) * direction, groups, direction


@settings(max_examples=20, deadline=None)
@given(n=st.integers(4, 20), d=st.integers(1, 6), seed=st.integers(0, 100))
def test_score_is_the_mean_of_all_cosines(n, d, seed):
    x, groups = normal(n, d, seed=seed), torch.arange(n) % 3
    cosine = torch.nn.functional.cosine_similarity(x[:, None], x[None], dim=2)
    same = (groups[:, None] == groups) & ~torch.eye(n, dtype=torch.bool)
    other = groups[:, None] != groups
    found = parallelogram_score(x, groups)
    assert found.within == pytest.approx(float(cosine[same].mean()), abs=1e-10)
    assert found.across == pytest.approx(float(cosine[other].mean()), abs=1e-10)


def test_exact_parallelograms_score_one():
    found = parallelogram_score(torch.eye(3).repeat(2, 1), [0, 1, 2, 0, 1, 2])
    assert (found.within, found.across) == (pytest.approx(1), pytest.approx(0))


def test_the_distractor_is_recovered_and_dropped():
    x, groups, direction = pairs()
    modes = lda_project(x, groups)
    assert abs(float(modes.distractors[:, 0] @ direction)) > 0.999
    leak = (modes.basis.T @ direction) / modes.basis.norm(dim=0)
    assert float(leak.abs().max()) < 0.02
    found = crystals(x, groups)
    assert found.before < 0.4
    assert found.value > 1  # four means about their mean point away from each other
    clean = parallelogram_score(pairs(distractor=0.0)[0], groups).value
    assert found.value > clean


def test_modes_are_those_of_scikit_learn_where_points_are_many():
    groups = torch.arange(4000) % 4
    x = normal(4, 6, seed=1)[groups] + normal(4000, 6) @ (torch.eye(6) + 0.2 * normal(6, 6, seed=2))
    modes = lda_project(x, groups)
    reference = LinearDiscriminantAnalysis(solver="eigen").fit(x.numpy(), groups.numpy())
    for i in range(3):
        other = torch.from_numpy(reference.scalings_[:, i].copy())
        cosine = torch.nn.functional.cosine_similarity(modes.basis[:, i], other, dim=0)
        assert abs(float(cosine)) > 0.99
    kept = modes.transform(x)
    within = sum(torch.cov(kept[groups == g].T) for g in range(4)) / 4
    assert torch.allclose(within, torch.eye(3).double(), atol=0.05)


@pytest.mark.parametrize("d", [20, 300])
def test_random_groups_do_not_form_crystals(d):
    scores = [crystals(normal(80, d, seed=s), torch.arange(80) % 4).value for s in range(6)]
    assert abs(sum(scores) / 6) < 0.06
    in_sample = lda_project(normal(80, d), torch.arange(80) % 4).transform(normal(80, d))
    assert parallelogram_score(in_sample, torch.arange(80) % 4).value > 0.2  # why halves are held


def test_planted_parallelograms_come_first():
    x = normal(24, 10)
    x = torch.cat([x, x[:4] + normal(1, 10, seed=1)])
    found = find_parallelograms(x)
    best = found.corners[:6]
    assert torch.allclose(found.cosines[:6], torch.ones(6).double())
    assert torch.allclose(found.lengths[:6], torch.ones(6).double())
    sides = x[found.corners]
    assert torch.allclose(
        torch.nn.functional.cosine_similarity(
            sides[:, 0] - sides[:, 1], sides[:, 2] - sides[:, 3], dim=1
        ),
        found.cosines,
    )
    assert bool((sides[:6, 0] - sides[:6, 1] - sides[:6, 2] + sides[:6, 3]).abs().max() < 1e-12)
    planted = {frozenset((i, j, i + 24, j + 24)) for i in range(4) for j in range(i)}
    assert {frozenset(c) for c in best.tolist()} == planted
    assert float(found.cosines[6]) < 0.98
    assert found.cosines.tolist() == sorted(found.cosines.tolist(), reverse=True)


def test_bad_input():
    x, groups, _ = pairs()
    for call, says in (
        (lambda: parallelogram_score(x, torch.arange(80)), "one pair only"),
        (lambda: parallelogram_score(x * 0, groups), "all zeros"),
        (lambda: lda_project(x, groups, components=4), "no 4 modes"),
        (lambda: lda_project(torch.eye(2).repeat(2, 1), [0, 1, 0, 1]), "no spread"),
        (lambda: crystals(x[:10], groups[:10]), "group 2 has 2"),
        (lambda: find_parallelograms(torch.cat([x, x[:1]])), "rows are equal"),
        (lambda: find_parallelograms(x, max_pairs=100), "max_pairs=100"),
    ):
        with pytest.raises(InputError, match=says):
            call()
