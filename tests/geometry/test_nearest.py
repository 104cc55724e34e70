"""The shared standard error: by its definition, and for queries that share a reference set."""

import pytest
import torch

from lowdim.core.neighbors import Neighbors
from lowdim.errors import InputError
from lowdim.geometry import gride, mada, mind_ml, mle, mle_levina_bickel, mom, two_nn
from lowdim.geometry.nearest import separations, standard_error
from tests.geometry.manifolds import coverage, flat_torus, flat_torus_queries, normal

RATIOS = [two_nn, mle, mle_levina_bickel, mom, mada, mind_ml, gride]


def by_definition(influence, indices, own):
    """Pair by pair: joined by an edge counts whole, neighbours in common count by their share."""
    n, k = indices.shape
    s, lists = influence.numpy(), [set(row) for row in indices.tolist()]
    joined = shared = 0.0
    for i in range(n):
        for j in range(n):
            edge = i == j or (own and (j in lists[i] or i in lists[j]))
            joined += s[i] * s[j] * edge
            shared += s[i] * s[j] * len(lists[i] & lists[j]) / k
    return max(joined, shared) ** 0.5 / n


@pytest.mark.parametrize("seed", range(3))
def test_is_the_sum_over_dependent_pairs(seed):
    influence = normal(60, 1, seed)[:, 0]
    own = flat_torus(60, 2, 5, seed).indices
    assert standard_error(influence, own) == pytest.approx(by_definition(influence, own, True))
    foreign = flat_torus_queries(60, 25, 2, 5, seed).indices
    found = standard_error(influence, foreign, n_reference=25)
    assert found == pytest.approx(by_definition(influence, foreign, False))


@pytest.mark.parametrize("method", RATIOS)
def test_queries_among_others_give_the_dimension(method):
    found = method(flat_torus_queries(2500, 1500, 2, 32))
    assert found.value == pytest.approx(2, rel=0.12)
    assert found.n == 2500
    if found.per_point is not None:
        assert found.per_point.shape == (2500,)


@pytest.mark.parametrize("method", [two_nn, mle, mind_ml])
@pytest.mark.parametrize(("d", "n", "m"), [(1, 3000, 300), (2, 1500, 300), (5, 1000, 1000)])
def test_intervals_count_that_queries_share_their_references(method, d, n, m):
    """Nominal 95%; of 60 draws of a 95% interval 52 or more hold it in 99.7% of runs."""
    hits, claimed = coverage([method(flat_torus_queries(n, m, d, 21, s)) for s in range(60)], d)
    assert hits >= 52 / 60
    assert 0.7 < claimed < 2.2


def test_more_queries_do_not_help_without_end():
    """The error of n queries levels off at what the reference set itself leaves open."""
    some, many = (mle(flat_torus_queries(n, 300, 2, 20)).standard_error for n in (3000, 30000))
    assert many == pytest.approx(some, rel=0.3)  # n independent points: a third of it


def test_a_query_that_is_a_reference_point_is_named():
    x = normal(60, 3)
    queries = torch.cat([normal(4, 3, 1), x[46:]])
    with pytest.raises(InputError, match=r"query 4 equals a point .* \(4 such queries\)"):
        separations(Neighbors.of_points(x[:50], 5, queries=queries), 2)
