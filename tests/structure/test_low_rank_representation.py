import pytest
import torch

from lowdim.datasets import strata
from lowdim.errors import InputError
from lowdim.structure import LowRankRepresentation
from lowdim.structure.low_rank_representation import low_rank_factor


def unit(n=60, noise=0.3, **options):
    return torch.nn.functional.normalize(strata(n, noise=noise, **options).points)


@pytest.mark.parametrize("threshold", [0.05, 0.3, 1.0])
def test_the_closed_form_is_where_proximal_steps_end(threshold):
    x = unit(40, ambient=16, dims=(2, 3))
    theta = threshold * 40 / 16
    c = torch.zeros(40, 40).double()
    gram = x @ x.T
    size = theta / float(torch.linalg.eigvalsh(gram)[-1])  # of steps on |x - c x|^2 / (2 theta)
    for _ in range(3000):
        u, s, v = torch.linalg.svd(c - size / theta * (c - torch.eye(40).double()) @ gram)
        c = u @ torch.diag((s - size).clamp_min(0)) @ v
    factor = low_rank_factor(x, threshold)
    assert torch.allclose(factor @ factor.T, c, atol=1e-6)


def test_without_noise_it_is_the_shape_interaction_matrix():
    planted = strata(120, (2, 5, 9), 64, seed=1)
    x = torch.nn.functional.normalize(planted.points)
    factor = low_rank_factor(x, 0.0)
    c = factor @ factor.T
    assert factor.shape == (120, 16)
    assert torch.allclose(c @ x, x, atol=1e-12)  # every point is written exactly
    assert torch.allclose(c @ c, c, atol=1e-12)
    same = planted.labels[:, None] == planted.labels
    assert float(c[~same].abs().max()) < 1e-10


def test_float32_rounding_is_no_direction():
    x = unit(120, 0.0, dims=(2, 5, 9), seed=1).float()
    assert low_rank_factor(x, 0.0).shape == (120, 16)


def test_a_threshold_above_everything_is_an_error_with_the_figure():
    for threshold in (1e3, -1.0):
        with pytest.raises(InputError, match="threshold"):
            LowRankRepresentation(2, threshold=threshold).fit(unit())
