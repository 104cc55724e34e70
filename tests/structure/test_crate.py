"""The two steps of a CRATE block do what the objective says."""

import pytest
import torch

from lowdim.errors import InputError
from lowdim.structure.crate import CrateBlock, ista_step


def normal(*shape, seed=0):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


@pytest.mark.parametrize("share", [0.1, 0.5, 1.0])
def test_an_ista_step_lowers_the_lasso_objective(share):
    for seed in range(10):
        dictionary, z, target = (
            normal(6, 9, seed=seed),
            normal(20, 9, seed=seed + 50).relu(),
            (normal(20, 6, seed=seed + 100)),
        )

        def objective(code, dictionary=dictionary, target=target):
            return (target - code @ dictionary.T).square().sum(1) / 2 + 0.3 * code.sum(1)

        step = share / float(torch.linalg.matrix_norm(dictionary, 2)) ** 2
        after = ista_step(z, target, dictionary, step=step, penalty=0.3)
        assert bool((after >= 0).all())
        assert bool((objective(after) <= objective(z) + 1e-12).all())
        assert float(objective(after).sum()) < float(objective(z).sum())


def test_ista_converges_to_the_lasso_of_scikit_learn():
    from sklearn.linear_model import Lasso

    dictionary, target = normal(12, 5), normal(1, 12, seed=1)
    step = 1 / float(torch.linalg.matrix_norm(dictionary, 2)) ** 2
    z = torch.zeros(1, 5).double()
    for _ in range(3000):
        z = ista_step(z, target, dictionary, step=step, penalty=0.6)
    lasso = Lasso(alpha=0.6 / 12, positive=True, fit_intercept=False, tol=1e-12, max_iter=10**6)
    lasso.fit(dictionary.numpy(), target[0].numpy())
    assert z[0].tolist() == pytest.approx(lasso.coef_.tolist(), abs=1e-8)


def test_attention_is_the_sum_over_heads():
    torch.manual_seed(0)
    block, z = CrateBlock(8, 3, 2).double(), normal(2, 5, 8)
    expected = torch.zeros_like(z)
    for basis in block.bases:
        seen = z @ basis
        expected += torch.softmax(seen @ seen.mT / 2**0.5, -1) @ seen @ basis.T
    assert torch.allclose(block.compress(z), expected)
    gram = block.bases.mT @ block.bases
    assert torch.allclose(gram, torch.eye(2).double().expand(3, 2, 2), atol=1e-6)


def test_block_does_not_see_the_order_of_tokens_and_learns():
    torch.manual_seed(1)
    block, z = CrateBlock(8, 2, 4).double(), normal(3, 7, 8)
    order = torch.randperm(7)
    assert torch.allclose(block(z[:, order]), block(z)[:, order])
    assert bool((block(z) >= 0).all())
    block(z).square().mean().backward()
    assert all(bool(p.grad.abs().sum() > 0) for p in block.parameters())
    with pytest.raises(InputError, match="head_dim=9"):
        CrateBlock(8, 2, 9)
