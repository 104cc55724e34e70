import numpy as np
import pytest
import torch
from sklearn.linear_model import Ridge

from lowdim.datasets import strata
from lowdim.errors import InputError
from lowdim.structure import LeastSquaresRepresentation
from lowdim.structure.least_squares_representation import least_squares_factors


def unit(n, noise, **options):
    return torch.nn.functional.normalize(strata(n, noise=noise, **options).points)


@pytest.mark.parametrize("n", [50, 200])
def test_each_row_is_a_ridge_regression_on_the_others(n):
    x = unit(n, 0.3, ambient=64)
    left, right = least_squares_factors(x, 0.1)
    c = left @ right.T
    for j in range(5):
        others = np.delete(np.arange(n), j)
        ridge = Ridge(alpha=0.1 * n / 64, fit_intercept=False, tol=1e-12, solver="cholesky")
        ridge.fit(x[others].numpy().T, x[j].numpy())
        assert np.allclose(c[j, others], ridge.coef_, atol=1e-10)


def test_coefficients_between_independent_subspaces_vanish_without_noise():
    planted = strata(200, (2, 5, 9), 64, seed=1)
    left, right = least_squares_factors(torch.nn.functional.normalize(planted.points), 1e-6)
    c = (left @ right.T).fill_diagonal_(0).abs()
    same = planted.labels[:, None] == planted.labels
    assert float(c[~same].max()) < 1e-4 * float(c[same].max())


def test_the_graph_holds_the_largest_coefficients_of_each_row():
    planted = strata(150, (2, 5), 20, noise=0.1, seed=1)
    found = LeastSquaresRepresentation(2, n_neighbors=7).fit(planted.points)
    left, right = least_squares_factors(torch.nn.functional.normalize(planted.points), 0.1)
    c = (left @ right.T).fill_diagonal_(0).abs()
    top = c.topk(7)
    kept = torch.zeros_like(c).scatter(1, top.indices, top.values)
    assert np.allclose(found.coefficients_.toarray(), kept, atol=1e-12)
    for change in ({"regularization": 0.0}, {"n_neighbors": 0}):
        with pytest.raises(InputError, match=next(iter(change))):
            LeastSquaresRepresentation(2, **change).fit(planted.points)
