"""The simplex in closed form; the loss by hand; versions that never met search each other."""

import math

import pytest
import torch
from sklearn.datasets import load_digits
from torch import nn
from torch.nn.functional import cross_entropy, normalize

from lowdim.errors import InputError
from lowdim.retrieval import SimplexClassifier, compatibility_matrix, hoc_loss, simplex_classifier

DIM = 16


def digits():
    """Training and test images and labels."""
    x, y = (torch.as_tensor(v) for v in load_digits(return_X_y=True))
    order = torch.randperm(len(x), generator=torch.Generator().manual_seed(0))
    x, y = x[order].float() / 16, y[order]
    return x[:1000], y[:1000], x[1000:], y[1000:]


def trained(seed, head, n=1000):
    """A small encoder, trained on the first ``n`` images."""
    x, y, _, _ = digits()
    x, y = x[:n], y[:n]
    torch.manual_seed(seed)
    net = nn.Sequential(nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, DIM))
    head = head()
    adam = torch.optim.Adam([*net.parameters(), *head.parameters()], lr=3e-3)
    for _ in range(150):
        adam.zero_grad()
        cross_entropy(head(net(x)), y).backward()
        adam.step()
    return net.requires_grad_(False)


def matrix_of(nets, k=1):
    x, y, queries, wanted = digits()
    return compatibility_matrix(
        [n(queries) for n in nets], [n(x) for n in nets], wanted, y, k=k
    )  # fmt: skip


@pytest.mark.parametrize("d", [1, 2, 3, 7, 64, 300])
def test_gram_of_the_simplex(d):
    w = simplex_classifier(d, dtype=torch.float64)
    gram = torch.full((d + 1, d + 1), -1 / d, dtype=torch.float64)
    gram.fill_diagonal_(1)
    torch.testing.assert_close(w @ w.T, gram, rtol=0, atol=1e-12)


def test_the_head_is_never_trained_nor_stored():
    head = SimplexClassifier(5, scale=3)
    assert not list(head.parameters())
    assert not head.state_dict()
    vertex = simplex_classifier(5)
    torch.testing.assert_close(head(7 * vertex).diagonal(), torch.full((6,), 3.0))


def test_versions_from_other_seeds_search_each_other_only_with_the_simplex():
    free = matrix_of([trained(seed, lambda: nn.Linear(DIM, 10)) for seed in (0, 1)]).matrix
    fixed = matrix_of([trained(seed, lambda: SimplexClassifier(DIM)) for seed in (0, 1)]).matrix
    assert min(free[0][0], free[1][1], fixed[0][0], fixed[1][1]) > 0.9
    assert max(free[0][1], free[1][0]) < 0.35  # ten classes: chance is 0.1
    assert min(fixed[0][1], fixed[1][0]) > 0.9


def test_a_version_that_saw_more_images_searches_the_old_store_better():
    nets = [trained(seed, lambda: SimplexClassifier(DIM), n) for seed, n in ((0, 60), (1, 1000))]
    found = matrix_of(nets, k=5)
    assert found.matrix[1][0] > found.matrix[0][0]
    assert found.ac == 1


def test_hoc_loss_by_hand():
    g = torch.Generator().manual_seed(0)
    new, old = torch.randn(2, 6, 4, generator=g).double()
    labels = torch.tensor([0, 0, 1, 1, 2, 0])
    a, b = normalize(new), normalize(old)
    losses = []
    for i in range(6):
        own = 5 * float(a[i] @ b[i])
        others = [5 * float(a[i] @ b[j]) for j in range(6) if labels[j] != labels[i]]
        losses.append(-own + math.log(sum(math.exp(s) for s in (own, *others))))
    assert float(hoc_loss(new, old, labels, scale=5)) == pytest.approx(sum(losses) / 6)


def test_same_class_pairs_are_left_out_altogether():
    g = torch.Generator().manual_seed(1)
    new, old = torch.randn(2, 8, 4, generator=g)
    labels = torch.arange(8) // 2
    moved = old.clone().requires_grad_()
    cross = hoc_loss(new[:1].expand(8, -1), moved, torch.tensor([0] * 7 + [1]))
    cross.backward()
    alone = hoc_loss(new, old, torch.zeros(8))
    assert float(alone) == 0  # one class: nothing to be told apart
    assert float(hoc_loss(old, old, labels)) < float(hoc_loss(new, old, labels))
    assert moved.grad.abs().sum() > 0


def test_matrix_ac_and_aa_by_hand():
    rows, labels = torch.eye(3), torch.tensor([0, 1, 2])
    good, bad = torch.eye(3), torch.eye(3)[[1, 0, 2]]
    found = compatibility_matrix([bad, good], [rows, rows], labels, labels)
    assert found.matrix == ((1 / 3, 1 / 3), (1.0, 1.0))
    assert (found.ac, found.aa) == (1.0, pytest.approx((1 / 3 + 1 + 1) / 3))
    assert "AC 1.000" in str(found)
    assert found.to_dict()["ac"] == 1


def test_wrong_input_says_so():
    with pytest.raises(InputError, match="at least 1 dimension"):
        simplex_classifier(0)
    with pytest.raises(InputError, match="scale=0"):
        SimplexClassifier(4, scale=0)
    with pytest.raises(InputError, match=r"give \(n, d\)"):
        hoc_loss(torch.ones(3, 2), torch.ones(4, 2), torch.ones(3))
    with pytest.raises(InputError, match="give T of each"):
        compatibility_matrix([torch.eye(3)], [torch.eye(3)], [0, 1, 2], [0, 1, 2])
    with pytest.raises(InputError, match="labels of queries"):
        compatibility_matrix([torch.eye(3)] * 2, [torch.eye(3)] * 2, [0, 1], [0, 1, 2])
