"""Logits see subspaces and not bases; the optimiser stays on the manifold and goes downhill."""

import pytest
import torch
from sklearn.datasets import load_digits
from sklearn.linear_model import LogisticRegression

from lowdim.errors import InputError
from lowdim.structure.grassmann_head import (
    GrassmannHead,
    GrassmannSGD,
    SubspaceClassifier,
    horizontal,
)
from tests.structure.sample import normal


def test_logits_are_lengths_of_projections_whatever_the_basis():
    torch.manual_seed(0)
    head, x = GrassmannHead(10, 4, 3).double(), normal(6, 10)
    logits = head(x)
    for c, subspace in enumerate(head.subspaces()):
        length = subspace.project(x).norm(dim=1) / x.norm(dim=1)
        assert torch.allclose(logits[:, c], 25 * length, atol=1e-6)
    with torch.no_grad():
        head.bases.copy_(head.bases @ torch.linalg.qr(normal(4, 3, 3, seed=1)).Q)
    assert torch.allclose(head(x), logits)
    assert torch.allclose(head(7 * x), logits)
    line = GrassmannHead(10, 4, 1).double()
    cosine = torch.nn.functional.cosine_similarity(x[:, None], line.bases[..., 0][None], dim=2)
    assert torch.allclose(line(x), 25 * cosine.abs(), atol=1e-5)


def test_gradients():
    head, x = GrassmannHead(5, 3, 2).double(), normal(4, 5).requires_grad_()
    assert torch.autograd.gradcheck(head, x)
    assert bool(torch.isfinite(head(torch.zeros(1, 5).double())).all())


def test_a_step_follows_the_projected_gradient():
    """The slope of the loss along the retracted step is minus the squared projected gradient."""
    torch.manual_seed(0)
    head, x, y = GrassmannHead(8, 3, 2).double(), normal(20, 8), torch.arange(20) % 3
    with torch.no_grad():
        head.bases.copy_(torch.linalg.qr(head.bases).Q)  # orthonormal in float64
    loss = torch.nn.functional.cross_entropy(head(x), y)
    loss.backward()
    gradient = horizontal(head.bases.detach(), head.bases.grad)
    assert float((head.bases.detach().mT @ gradient).abs().max()) < 1e-12
    step = 1e-6
    GrassmannSGD(head.parameters(), lr=step, momentum=0.0).step()
    after = torch.nn.functional.cross_entropy(head(x), y)
    slope = float((after - loss).detach()) / step
    assert slope == pytest.approx(-float(gradient.square().sum()), rel=1e-3)


def test_bases_stay_orthonormal_and_the_loss_falls():
    torch.manual_seed(0)
    head, x, y = GrassmannHead(12, 4, 2, gamma=10.0), normal(40, 12).float(), torch.arange(40) % 4
    optimizer = GrassmannSGD(head.parameters(), lr=0.02)
    losses = []
    for _ in range(1000):
        optimizer.zero_grad()
        loss = torch.nn.functional.cross_entropy(head(x), y)
        loss.backward()
        optimizer.step()
        losses.append(float(loss.detach()))
    bases = head.bases.detach()
    gram = bases.mT @ bases
    assert float((gram - torch.eye(2)).abs().max()) < 1e-6
    assert losses[-1] < 0.5 * losses[0]


def test_digits_are_read_no_worse_than_by_softmax():
    x, y = load_digits(return_X_y=True)
    x, train, test = x / 16, slice(0, 1000), slice(1000, None)
    softmax = LogisticRegression(max_iter=1000).fit(x[train], y[train]).score(x[test], y[test])
    found = SubspaceClassifier(8).fit(x[train], y[train])
    assert found.score(x[test], y[test]) > softmax + 0.02
    assert SubspaceClassifier(1).fit(x[train], y[train]).score(x[test], y[test]) < softmax
    scores = found.decision_function(x[test])
    assert bool(((scores >= 0) & (scores <= 1 + 1e-6)).all())
    assert found.get_params() == {"rank": 8}

    torch.manual_seed(0)
    head, features, labels = GrassmannHead(64, 10, 2), torch.tensor(x).float(), torch.tensor(y)
    optimizer = GrassmannSGD(head.parameters(), lr=0.005)
    for _ in range(150):
        optimizer.zero_grad()
        torch.nn.functional.cross_entropy(head(features[train]), labels[train]).backward()
        optimizer.step()
    right = head(features[test]).argmax(1) == labels[test]
    assert float(right.double().mean()) > softmax - 0.01


def test_bad_input():
    x = normal(10, 3)
    for call, says in (
        (lambda: GrassmannHead(4, 2, 5), "rank=5"),
        (lambda: GrassmannSGD([x], lr=0.0), "lr=0.0"),
        (lambda: SubspaceClassifier(4).fit(x, torch.arange(10) % 2), "rank=4"),
        (lambda: SubspaceClassifier(1).fit(x, torch.zeros(10)), "one class"),
        (lambda: SubspaceClassifier(1).predict(x), "not fitted"),
    ):
        with pytest.raises(InputError, match=says):
            call()
