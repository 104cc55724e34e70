"""Another model's vectors are told from other texts of the same model."""

import warnings

import pytest
import torch

from lowdim.core.random import normal, permutation
from lowdim.errors import DriftWarning
from lowdim.retrieval import Codec
from lowdim.retrieval.drift import RETAINED, Fingerprint, held


def model(n, seed, *, dim=48, basis=0, topic=0.0):
    """Vectors whose energies fall as 1/i along directions of their model, about a mean."""
    turn = torch.linalg.qr(normal((dim, dim), seed=1000 + basis))[0]
    energies = 1 / torch.arange(1, dim + 1).sqrt()
    mixed = energies * (1 + topic * normal((dim,), seed=50 + seed)).abs()
    return 0.3 * turn[0] + topic * turn[1] + normal((n, dim), seed=seed) * mixed @ turn


def test_share_along_a_basis_is_that_of_the_covariance():
    x = model(500, 1)
    basis = torch.linalg.qr(normal((48, 7), seed=3))[0]
    covariance = torch.cov(x.T)
    expected = float((basis.T @ covariance @ basis).trace() / covariance.trace())
    assert held(x, basis) == pytest.approx(expected, rel=1e-4)
    assert held(x[:1].expand(9, -1), basis) is None


def test_rows_of_the_same_kind_keep_all_and_noise_keeps_nothing():
    found = Fingerprint.of(model(4000, 1))
    assert found.basis.shape == (48, 24)
    assert found.retained(model(4000, 2)) == pytest.approx(1, abs=0.05)
    assert found.retained(normal((4000, 48), seed=9)) == pytest.approx(0, abs=0.05)


@pytest.mark.parametrize("metric", ["cosine", "dot", "euclidean"])
def test_only_another_model_is_warned_of(metric):
    x = model(1000, 1)
    codec = Codec("float16", metric=metric).fit(x)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        codec.encode(model(700, 2))
        codec.encode(model(700, 3, topic=0.7))
        codec.encode(2 * model(70, 4) + 0.1)
        codec.encode(model(63, 5, basis=1))  # too few to tell
        codec.encode(x[:1].expand(100, -1))  # no spread
    foreign = model(700, 2, basis=1), x[:, permutation(48, seed=4)], -normal((99, 48), seed=1)
    for other in foreign:
        with pytest.warns(DriftWarning, match=r"holds \d+% of its spread .* \(50% is chance\)"):
            codec.encode(other)


def test_nothing_is_said_where_nothing_can_be_told():
    assert Fingerprint.of(normal((1000, 32), seed=1)) is None  # every direction alike
    assert Fingerprint.of(model(127, 1)) is None
    assert Fingerprint.of(torch.ones(200, 8)) is None
    assert Fingerprint.of(normal((200, 1), seed=1)) is None
    assert Fingerprint.of(torch.empty(0, 8)) is None


def test_fewer_rows_than_columns():
    x = model(400, 1, dim=300)
    found = Fingerprint.of(x)
    assert found.basis.shape == (300, 150)
    assert found.retained(model(100, 2, dim=300)) > 0.7
    assert found.retained(x[:, permutation(300, seed=4)]) < RETAINED / 2


@pytest.mark.slow
def test_texts_of_minilm_are_known_and_its_shuffled_columns_are_not(minilm_folder):
    """Glosses against questions to a clinic, of other words and other length."""
    from lowdim.datasets import glosses
    from lowdim.io.activations import embed
    from lowdim.io.models import load_model

    network = load_model(minilm_folder)
    train = embed(network, glosses().texts[:200])
    asked = [f"A {a}-year-old {who} presents with {what} after {when}; which drug is indicated?"
             for a in (19, 47) for who in ("man", "woman", "nurse", "farmer")
             for what in ("fever and cough", "chest pain", "a swollen knee")
             for when in ("a week", "travel", "surgery")]  # fmt: skip
    found = Fingerprint.of(train.float())
    other = embed(network, asked).float()
    assert found.retained(other) > RETAINED
    assert found.retained(other[:, permutation(384, seed=1)]) < RETAINED / 2
