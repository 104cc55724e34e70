"""Chances on the sphere by Monte Carlo, and growth of recall by brute force on each size."""

import math

import pytest
import torch

from lowdim.errors import InputError
from lowdim.retrieval.codec import Codec
from lowdim.retrieval.growth import effective_dimension, false_positive_curve, recall_growth


def on_sphere(n, d, seed):
    x = torch.randn(n, d, generator=torch.Generator().manual_seed(seed)).double()
    return x / x.norm(dim=1, keepdim=True)


@pytest.mark.parametrize(("dim", "s"), [(2, 0.9), (3, 0.95), (16, 0.5), (64, 0.3), (16, -0.2)])
def test_chances_agree_with_monte_carlo(dim, s):
    n, trials = 50, 4000
    above = (on_sphere(n * trials, dim, 0)[:, 0] > s).view(trials, n).sum(1).double()
    found = false_positive_curve([s], dim=dim, sizes=[n])
    error = 4 / math.sqrt(trials)
    assert found.count[0] == pytest.approx(float(above.mean()), abs=error * float(above.std()))
    assert found.share[0] == pytest.approx(float((above > 0).double().mean()), abs=error)
    assert found.mrr[0] == pytest.approx(float((1 / (1 + above)).mean()), abs=error)


def test_closed_forms_on_the_circle_and_the_sphere():
    circle = false_positive_curve([math.cos(0.3)], dim=2, sizes=[1])
    assert circle.count[0] == pytest.approx(0.3 / math.pi)
    ball = false_positive_curve([0.4], dim=3, sizes=[1])
    assert ball.count[0] == pytest.approx((1 - 0.4) / 2)  # Archimedes: the height is uniform


def test_more_rows_and_fewer_dimensions_do_harm():
    sizes = [10**3, 10**5, 10**7]
    low, high = (false_positive_curve([0.6, 0.7], dim=d, sizes=sizes) for d in (16, 64))
    assert list(low.mrr) == sorted(low.mrr, reverse=True)
    assert all(a < b for a, b in zip(low.mrr, high.mrr, strict=True))
    perfect = false_positive_curve([1.0], dim=16, sizes=[10**7])
    assert (perfect.share[0], perfect.mrr[0]) == (pytest.approx(0, abs=1e-12), pytest.approx(1))


def test_effective_dimension_finds_the_sphere_it_was_counted_on():
    queries, rows = on_sphere(60, 12, 1), on_sphere(20_000, 12, 2)
    right = torch.full((60,), 0.6).double()
    above = (queries @ rows.T > right[:, None]).sum(1)
    assert effective_dimension(right, above, len(rows)) == pytest.approx(12, abs=0.5)


def test_an_effective_dimension_foretells_the_next_sizes():
    """Rows near a 6-dimensional subspace of 40: MRR of a noisy copy among ever more of them."""
    g = torch.Generator().manual_seed(0)
    x = torch.randn(16_200, 6, generator=g).double() @ torch.randn(6, 40, generator=g).double()
    x += 0.05 * torch.randn(x.shape, generator=g).double()
    x = x / x.norm(dim=1, keepdim=True)
    right, rows = x[:200], x[200:]
    q = right + 0.06 * torch.randn(right.shape, generator=g).double()
    q = q / q.norm(dim=1, keepdim=True)
    s = (q * right).sum(1)
    above = (q @ rows.T > s[:, None]).double()
    d = effective_dimension(s, above[:, :4000].sum(1), 4000)
    assert d < 12
    found = false_positive_curve(s, dim=d, sizes=[16_000])
    measured = float((1 / (1 + above.sum(1))).mean())
    assert found.mrr[0] == pytest.approx(measured, abs=0.08)
    naive = false_positive_curve(s, dim=40, sizes=[16_000])
    assert abs(naive.mrr[0] - measured) > abs(found.mrr[0] - measured)


@pytest.mark.parametrize(
    ("s", "dim", "sizes"), [([1.5], 8, [10]), ([], 8, [10]), ([0.5], 1, [10]), ([0.5], 8, [0])]
)
def test_what_cannot_be_is_refused(s, dim, sizes):
    with pytest.raises(InputError):
        false_positive_curve(s, dim=dim, sizes=sizes)


def vectors(n, d=24, seed=0):
    g = torch.Generator().manual_seed(seed)
    return torch.randn(n, d, generator=g) * torch.linspace(2, 0.2, d)


@pytest.mark.parametrize("metric", ["cosine", "euclidean", "dot"])
def test_all_rows_have_the_recall_of_a_plain_search(metric):
    from lowdim.retrieval.metric import exact_search
    from lowdim.retrieval.recall import recall_at_k

    x, q = vectors(1600), vectors(60, seed=1)
    codec = Codec("float16", reduction="pca", dims=8, metric=metric).fit(x)
    found = recall_growth(x, codec, q, k=5)
    truth = exact_search(x, q, 5, metric=metric)[0]
    ids = codec.search(codec.encode(x), q, 5)[0]
    assert found.sizes == (100, 200, 400, 800, 1600)
    assert found.measured[-1] == pytest.approx(float(recall_at_k(ids, truth).mean()), abs=0.005)


def test_recall_falls_with_size_and_is_foretold():
    x, q = vectors(6400, seed=2), vectors(150, seed=3)
    codec = Codec("float16", reduction="pca", dims=10).fit(x)
    found = recall_growth(x, codec, q, k=10)
    assert found.measured[0] > found.measured[-1]
    assert found.predicted[:2] == (None, None)
    gaps = [abs(p - m) for p, m in zip(found.predicted[2:], found.measured[2:], strict=True)]
    assert found.error == pytest.approx(max(gaps))
    assert found.error < 0.05
    assert [size for size, _ in found.forecast] == [12_800, 25_600, 64_000]
    assert found.forecast[-1][1] < found.forecast[0][1] < found.measured[0]


def test_too_few_rows_are_refused():
    x = vectors(100)
    with pytest.raises(InputError, match="at least 320"):
        recall_growth(x, Codec("float16").fit(x), x[:5], k=10)
