"""Against the textbook n x n formula, on both routes; chance level; bad input."""

import sys

import pytest
import torch

from lowdim.compare import cka, cka_matrix
from lowdim.errors import InputError

routes = sys.modules["lowdim.compare.cka"]


def draw(n, d, seed=0):
    return torch.randn(n, d, generator=torch.Generator().manual_seed(seed)).double()


def textbook(x, y, debiased):
    """HSIC from n x n kernels, as Song et al. 2012 and Gretton et al. 2005 write it."""
    n = len(x)
    one = torch.ones(n).double()

    def hsic(k, l):
        if not debiased:
            h = torch.eye(n).double() - 1 / n
            return (k @ h @ l @ h).trace()
        k, l = k - k.diag().diag(), l - l.diag().diag()
        middle = (one @ k @ one) * (one @ l @ one) / ((n - 1) * (n - 2))
        return ((k @ l).trace() + middle - 2 / (n - 2) * one @ k @ l @ one) / (n * (n - 3))

    k, l = x @ x.T, y @ y.T
    return float(hsic(k, l) / (hsic(k, k) * hsic(l, l)).sqrt())


def related(n, widths):
    """Layers that share part of what they hold, off the origin and of unlike scale."""
    base = draw(n, 5, 99)
    return [
        10**i * (base @ draw(5, d, i) + draw(n, d, 10 + i)) + 3 * i for i, d in enumerate(widths)
    ]


@pytest.mark.parametrize("debiased", [True, False])
@pytest.mark.parametrize(
    ("n", "widths"), [(300, (4, 7, 3)), (40, (60, 80, 50)), (300, (200, 1, 40))]
)
def test_agrees_with_the_textbook(n, widths, debiased):
    layers = related(n, widths)
    matrix = cka_matrix(layers, debiased=debiased)
    for i, x in enumerate(layers):
        assert matrix[i, i] == 1
        for j, y in enumerate(layers):
            assert matrix[i, j] == pytest.approx(textbook(x, y, debiased), abs=1e-9)
    single = cka(layers[0], layers[1], debiased=debiased)
    assert single.value == pytest.approx(float(matrix[0, 1]), abs=1e-12)
    assert single.n == n


@pytest.mark.parametrize("debiased", [True, False])
@pytest.mark.parametrize("n", [30, 600])  # less and more than one block of rows
def test_the_two_routes_agree(n, debiased):
    layers = [routes._standardise(x, 0) for x in related(n, (12, 35, 3))]
    kernels = routes._from_kernels(layers, debiased, memory=None)
    narrow = routes._from_kernels(layers, debiased, memory="200kB")
    features = routes._from_features(layers, debiased)
    assert torch.allclose(kernels, features, rtol=1e-10)
    assert torch.allclose(narrow, kernels, rtol=1e-10)


def test_unrelated_wide_layers_read_zero_only_when_debiased():
    """The plain form tends to one for any two layers as the width passes the number of rows."""
    values = [float(cka(draw(50, 400, s), draw(50, 400, 100 + s)).value) for s in range(30)]
    assert abs(sum(values)) / 30 < 0.02
    assert cka(draw(50, 400), draw(50, 400, 1), debiased=False).value > 0.8


def test_single_precision_is_good_to_five_digits():
    layers = related(400, (30, 50))
    for debiased in (True, False):
        exact = cka(*layers, debiased=debiased).value
        single = cka(*(x.float() for x in layers), debiased=debiased).value
        assert single == pytest.approx(exact, abs=1e-5)


def test_a_far_mean_or_a_wild_scale_changes_nothing():
    x, y = related(100, (6, 9))
    value = cka(x, y).value
    assert cka(x + 1e6, y).value == pytest.approx(value, abs=1e-7)
    assert cka(x * 1e150, y * 1e-150).value == pytest.approx(value, abs=1e-12)
    assert cka(x.float() * 1e30, y.float() * 1e-30).value == pytest.approx(value, abs=1e-5)


def test_one_column_each_is_the_squared_correlation():
    x, y = draw(200, 1), draw(200, 1, 1)
    y = y + x
    r = torch.corrcoef(torch.cat([x, y], 1).T)[0, 1]
    assert cka(x, y, debiased=False).value == pytest.approx(float(r**2), abs=1e-12)


def test_poor_data():
    x = draw(20, 3)
    with pytest.raises(InputError, match=r"layers\[1\] has 19 rows"):
        cka(x, x[:-1])
    with pytest.raises(InputError, match="at least 4 rows"):
        cka(x[:3], x[:3])
    with pytest.raises(InputError, match=r"layers\[1\] has all rows equal"):
        cka(x, torch.ones(20, 3))
