"""y comes back exactly; the maps stay orthonormal; extra columns pay; digits meet the criterion."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.datasets import load_digits
from torch import nn
from torch.nn.functional import cosine_similarity, cross_entropy, normalize

from lowdim.errors import InputError
from lowdim.retrieval import CompatibleHead, compatibility_matrix


def pairs(n=600, d_old=12, d_new=16, noise=0.3, seed=0):
    g = torch.Generator().manual_seed(seed)
    y = normalize(torch.randn(n, d_new, generator=g))
    old = y @ torch.randn(d_new, d_old, generator=g) + noise * torch.randn(n, d_old, generator=g)
    return y, normalize(old)


@settings(max_examples=20, deadline=None)
@given(st.integers(1, 9), st.integers(1, 9), st.data())
def test_the_new_vector_is_read_off_the_output(d_old, d_new, data):
    d_extra = data.draw(st.integers(max(0, d_new - d_old), d_new))
    head = CompatibleHead(d_old, d_new, d_extra)
    y = torch.randn(5, d_new, generator=torch.Generator().manual_seed(0))
    z = head(y)
    assert z.shape == (5, d_old + d_extra)
    torch.testing.assert_close(head.recover(z), y, rtol=0, atol=1e-5)


def test_maps_stay_orthonormal_while_they_are_trained():
    y, old = pairs()
    head = CompatibleHead(12, 16, 6).fit(y, old, steps=40, learning_rate=1e-2)
    for part in (head.p, head.q, head.b):
        gram = part.weight.double() @ part.weight.double().T
        torch.testing.assert_close(gram, torch.eye(len(gram)).double(), rtol=0, atol=1e-6)
    torch.testing.assert_close(head.recover(head(y)), y, rtol=0, atol=1e-5)


def test_inner_products_are_those_of_y_and_of_what_is_imitated():
    y, old = pairs()
    head = CompatibleHead(12, 16, 9).fit(y, old, steps=0)
    z = head.transform(y)
    imitated = normalize(head.imitate(y)) @ head.q.weight[:5].T  # c = 9 + 12 - 16
    torch.testing.assert_close(z @ z.T, y @ y.T + imitated @ imitated.T, rtol=0, atol=1e-5)


def test_training_and_extra_columns_bring_it_nearer_to_the_old_vectors():
    y, old = pairs(d_new=12)

    def fit(d_extra, steps=60):
        head = CompatibleHead(12, 12, d_extra).fit(y, old, steps=steps, learning_rate=3e-3)
        return float(cosine_similarity(head.transform(y)[:, :12], old).mean())

    assert fit(0) < fit(4) < fit(12)
    assert fit(4, steps=0) < fit(4)


def test_a_turned_encoder_needs_no_extra_columns():
    y, _ = pairs()
    turn = torch.linalg.qr(torch.randn(16, 16, generator=torch.Generator().manual_seed(4))).Q
    head = CompatibleHead(16, 16, 0).fit(y, y @ turn, steps=0)
    torch.testing.assert_close(head.transform(y), y @ turn, rtol=0, atol=1e-5)


def test_digits_meet_the_criterion_and_keep_the_new_accuracy():
    """An old encoder that saw half of the digits, a new one that saw all."""
    x, y = (torch.as_tensor(v) for v in load_digits(return_X_y=True))
    order = torch.randperm(len(x), generator=torch.Generator().manual_seed(0))
    x, y = x[order].float() / 16, y[order]

    def trained(seed, classes):
        torch.manual_seed(seed)
        net, head = (
            nn.Sequential(nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, 16)),
            nn.Linear(16, 10),
        )
        adam = torch.optim.Adam([*net.parameters(), *head.parameters()], lr=3e-3)
        kept = y[:1000] < classes
        for _ in range(150):
            adam.zero_grad()
            cross_entropy(head(net(x[:1000][kept])), y[:1000][kept]).backward()
            adam.step()
        return net(x).detach()

    old, new = trained(0, 5), trained(1, 10)
    head = CompatibleHead(16, 16, 8).fit(new[:1000], old[:1000], y[:1000], steps=100)
    out, before = head.transform(new), head.old_rows(old)
    found = compatibility_matrix(
        [before[1000:], out[1000:]], [before[:1000], out[:1000]], y[1000:], y[:1000], k=10
    ).matrix
    new_new = compatibility_matrix([new[1000:]] * 2, [new[:1000]] * 2, y[1000:], y[:1000], k=10)
    assert found[1][0] >= found[0][0]  # the criterion
    assert found[1][1] >= new_new.matrix[0][0] - 0.01


def test_wrong_input_says_so():
    with pytest.raises(InputError, match="from 4 to 16"):
        CompatibleHead(12, 16, 3)
    y, old = pairs()
    with pytest.raises(InputError, match=r"give \(n, 12\) and \(n, 16\)"):
        CompatibleHead(16, 12, 4).fit(y, old)
    with pytest.raises(InputError, match="labels have shape"):
        CompatibleHead(12, 16, 4).fit(y, old, torch.zeros(3))
    with pytest.raises(InputError, match="row 2 is all zeros"):
        CompatibleHead(12, 16, 4).fit(y.index_fill(0, torch.tensor(2), 0), old)
