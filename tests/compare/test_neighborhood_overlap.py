"""Against sets from scikit-learn; exactly one for a turned copy; chance level."""

import pytest
import torch

from lowdim.compare import neighborhood_overlap
from lowdim.errors import InputError


def draw(n, d, seed=0):
    return torch.randn(n, d, generator=torch.Generator().manual_seed(seed)).double()


@pytest.mark.parametrize("k", [1, 5, 30])
def test_agrees_with_sets_of_scikit_learn(k):
    sklearn = pytest.importorskip("sklearn.neighbors")
    x = draw(200, 6)
    y = x[:, :3] + 0.3 * draw(200, 3, 1)
    a, b = (
        sklearn.NearestNeighbors(n_neighbors=k).fit(z).kneighbors(return_distance=False)
        for z in (x, y)
    )
    share = [len(set(p) & set(q)) / k for p, q in zip(a, b, strict=True)]
    found = neighborhood_overlap(x, y, k=k)
    assert found.value == pytest.approx(sum(share) / 200)
    assert found.per_point.tolist() == pytest.approx(share)


def test_a_turned_and_scaled_copy_is_exactly_one_and_unrelated_is_chance():
    x = draw(500, 10)
    turned = 40 * x @ torch.linalg.qr(draw(10, 10, 1))[0] - 3
    assert neighborhood_overlap(x, turned, k=12).value == 1
    found = [neighborhood_overlap(x, draw(500, 4, s), k=12) for s in range(2, 8)]
    assert found[0].null == 12 / 499
    assert sum(f.value for f in found) / 6 == pytest.approx(12 / 499, rel=0.1)


def test_poor_data():
    x = draw(20, 3)
    with pytest.raises(InputError, match="x has 20 rows and y 19"):
        neighborhood_overlap(x, x[:-1])
    with pytest.raises(InputError, match="at least 21 points"):
        neighborhood_overlap(x, x, k=20)
