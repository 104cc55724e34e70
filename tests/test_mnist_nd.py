import math

import numpy as np
import pytest
import torch
from sklearn.cluster import KMeans
from sklearn.datasets import load_digits

from lowdim.datasets import phase_shuffled
from lowdim.errors import InputError
from lowdim.mnist_nd import MixtureVAE, clustering_vs_dimension, digits_nd, mnist_nd


@pytest.fixture(scope="module")
def graded():
    return {dim: digits_nd(dim, epochs=8) for dim in (2, 16)}


def test_codes_have_the_width_and_keep_the_classes(graded):
    for dim, found in graded.items():
        assert found.points.shape == (1797, dim)
        assert found.points.dtype == torch.float32
        assert found.dim == dim
        scores = clustering_vs_dimension(
            {"k-means": KMeans(10, random_state=0).fit_predict}, [found]
        )
        assert scores[0].ari > 0.3


def test_a_wide_code_is_not_filled_and_loses_less(graded):
    assert graded[16].intrinsic < 14
    assert graded[2].intrinsic < 2.5
    assert graded[16].error < graded[2].error < 1


def test_labels_are_not_read(graded):
    digits = load_digits()
    again = mnist_nd(digits.data, np.zeros(1797, dtype=int), 2, epochs=8)
    assert torch.equal(again.points, graded[2].points)
    assert not torch.equal(digits_nd(2, epochs=1, random_state=1).points, graded[2].points)


def test_the_unit_of_the_images_does_not_matter():
    x = torch.rand(200, 12, generator=torch.Generator().manual_seed(0))
    y = torch.zeros(200, dtype=torch.int64)
    one, other = (mnist_nd(scale * x + shift, y, 3, epochs=3) for scale, shift in ((1, 0), (8, 4)))
    assert torch.allclose(one.points, other.points, atol=1e-3)


def test_prior_is_a_mixture_of_normal_distributions():
    torch.manual_seed(0)
    model = MixtureVAE(6, 3, 4, 8)
    with torch.no_grad():
        model.log_scales.normal_()
        model.shares.normal_()
    mixture = torch.distributions.MixtureSameFamily(
        torch.distributions.Categorical(logits=model.shares),
        torch.distributions.Independent(
            torch.distributions.Normal(model.means, model.log_scales.exp()), 1
        ),
    )
    z = torch.randn(20, 3)
    assert torch.allclose(model.log_prior(z), mixture.log_prob(z), atol=1e-5)


def test_loss_is_the_evidence_bound():
    torch.manual_seed(1)
    model, x, noise = MixtureVAE(6, 3, 4, 8), torch.randn(20, 6), torch.randn(20, 3)
    mean, log_scale = model.posterior(x)
    posterior = torch.distributions.Normal(mean, log_scale.exp())
    z = mean + log_scale.exp() * noise
    decoded = model.decoder(z)
    sigma = (decoded - x).square().mean().sqrt()  # the best one
    likelihood = torch.distributions.Normal(decoded, sigma).log_prob(x).sum(1)
    bound = likelihood + model.log_prior(z) - posterior.log_prob(z).sum(1)
    constant = 6 / 2 * (1 + math.log(2 * math.pi))
    assert float(model.loss(x, noise).detach()) == pytest.approx(
        -float(bound.mean().detach()) - constant, rel=1e-5
    )


def test_training_leaves_the_global_generator_alone():
    torch.manual_seed(5)
    expected = torch.rand(3)
    torch.manual_seed(5)
    mnist_nd(torch.eye(30), torch.arange(30), 2, epochs=1)
    assert torch.equal(torch.rand(3), expected)


def test_scores_are_one_a_set_and_algorithm(graded):
    truth = graded[2].labels.numpy()
    algorithms = {"oracle": lambda x: truth, "one": lambda x: np.zeros(len(x), dtype=int)}
    scores = clustering_vs_dimension(algorithms, graded.values())
    assert [(s.algorithm, s.dim) for s in scores] == [
        ("oracle", 2), ("one", 2), ("oracle", 16), ("one", 16),
    ]  # fmt: skip
    assert [(s.ari, s.nmi) for s in scores] == [(1, 1), (0, 0)] * 2
    assert scores[2].intrinsic == graded[16].intrinsic
    with pytest.raises(InputError, match="half gave labels of shape"):
        clustering_vs_dimension({"half": lambda x: truth[:900]}, [graded[2]])


def test_mistakes_are_named():
    x, y = torch.rand(40, 5), torch.zeros(40, dtype=torch.int64)
    with pytest.raises(InputError, match="40 integers"):
        mnist_nd(x, y[:39], 2)
    with pytest.raises(InputError, match="dim=0"):
        mnist_nd(x, y, 0)
    with pytest.raises(InputError, match="1 distinct images"):
        mnist_nd(torch.ones(40, 5), y, 2)
    x[17, 3] = float("nan")
    with pytest.raises(InputError, match="images holds nan at row 17"):
        mnist_nd(x, y, 2)


@pytest.mark.parametrize("n", [300, 301])
def test_shuffled_phases_keep_mean_and_covariance(n):
    generator = torch.Generator().manual_seed(0)
    x = torch.rand(n, 4, generator=generator).double() ** 6 + 3  # far from normal
    kept = x.clone()
    found = phase_shuffled(x)
    assert torch.equal(x, kept)
    assert torch.allclose(found.mean(0), x.mean(0))
    assert torch.allclose(torch.cov(found.T), torch.cov(x.T))
    assert torch.equal(phase_shuffled(x), found)
    assert not torch.allclose(phase_shuffled(x, seed=1), found)
    assert phase_shuffled(x.float()).dtype == torch.float32
    kurtosis = [(v - v.mean()).pow(4).mean() / v.var() ** 2 for v in (x[:, 0], found[:, 0])]
    assert kurtosis[0] > 5
    assert abs(float(kurtosis[1]) - 3) < 1
