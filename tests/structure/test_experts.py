import math

import numpy as np
import pytest
import torch
from sklearn.linear_model import orthogonal_mp

from lowdim.errors import InputError
from lowdim.structure.experts import (
    Experts,
    Gate,
    choose,
    contrast,
    group_ids,
    keep,
    log_joint,
    noise_of,
    pursue,
    squared_errors,
)


def normals(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed)).double()


def dictionary(d, m, seed=0):
    return torch.nn.functional.normalize(normals(d, m, seed=seed), dim=0)


def test_exactly_the_largest_are_kept():
    values, sparsity = normals(3, 50, 12), (2, 9, 12)
    kept = keep(values, sparsity)
    for own, all_of, s in zip(kept, values, sparsity, strict=True):
        assert bool(((own != 0).sum(1) == s).all())
        assert torch.equal(own.abs().sort(1).values[:, -s:], all_of.abs().sort(1).values[:, -s:])
    ties = keep(torch.ones(1, 4, 6), (3,))
    assert bool(((ties != 0).sum(2) == 3).all())


def test_what_is_not_kept_still_learns():
    values = normals(2, 5, 8).requires_grad_()
    (keep(values, (2, 3)) * normals(2, 5, 8, seed=1)).sum().backward()
    assert torch.equal(values.grad, normals(2, 5, 8, seed=1))


def test_orthonormal_atoms_are_coded_exactly_from_the_start():
    atoms = torch.linalg.qr(normals(16, 10)).Q
    x = normals(30, 16, seed=2)
    codes = Experts(atoms[None], (4,), n_layers=3)(x)[0]
    expected = orthogonal_mp(atoms.numpy(), x.T.numpy(), n_nonzero_coefs=4)
    assert np.allclose(codes.detach().numpy(), expected.T, atol=1e-10)


def test_pursuit_rebuilds_what_scikit_learn_does():
    atoms, x = dictionary(24, 40), normals(60, 24, seed=3)
    codes = pursue(x, atoms[None], (5,), None)
    expected = atoms.numpy() @ orthogonal_mp(atoms.numpy(), x.T.numpy(), n_nonzero_coefs=5)
    assert np.allclose((codes[0] @ atoms.T).numpy(), expected.T, atol=1e-9)


def test_learned_codes_come_close_to_pursuit_with_fixed_atoms():
    """Share of the energy that is explained: within three points of scikit-learn's."""
    atoms, rows = dictionary(64, 32), torch.Generator().manual_seed(4)
    support = torch.rand(2400, 32, generator=rows).argsort(1)[:, :6]
    x = torch.zeros(2400, 32).double().scatter_(1, support, normals(2400, 6, seed=5)) @ atoms.T
    x = x + 0.05 * normals(2400, 64, seed=6)
    experts = Experts(atoms[None], (6,), n_layers=8)
    adam = torch.optim.Adam([experts.analysis, experts.mixing], lr=1e-3)
    for step in range(80):
        batch = x[(step * 200) % 2000 :][:200]
        adam.zero_grad()
        squared_errors(batch, experts(batch), atoms[None]).mean().backward()
        adam.step()
    test, learned = x[2000:], experts(x[2000:]).detach()
    ours = squared_errors(test, learned, atoms[None]).sum() / test.square().sum()
    codes = orthogonal_mp(atoms.numpy(), test.T.numpy(), n_nonzero_coefs=6)
    pursuit = np.square(test.T.numpy() - atoms.numpy() @ codes).sum() / test.square().sum()
    assert float(ours) <= float(pursuit) + 0.03


def test_the_gate_is_attention_and_begins_as_a_classifier():
    weight, offset, x = normals(3, 7), normals(3, seed=1), normals(20, 7, seed=2)
    gate = Gate(weight, offset, query_dim=16, seed=0)
    assert torch.allclose(gate(x), (x @ weight.T + offset).log_softmax(1))
    with torch.no_grad():
        for p in gate.parameters():
            p.add_(normals(*p.shape, seed=9))
    query = x @ gate.weight.T + gate.bias
    expected = (query @ gate.keys.T / math.sqrt(16)).softmax(1)
    assert torch.allclose(gate(x).exp(), expected)


def test_without_a_price_the_mixture_is_that_of_normal_errors():
    x, codes, atoms = normals(9, 6), normals(2, 9, 4, seed=1), normals(2, 6, 4, seed=2)
    gates = normals(9, 2, seed=3).log_softmax(1)
    errors = squared_errors(x, codes, atoms)
    joint = log_joint(gates, errors, 6, (2, 3), 0.3, 0.0)
    for k in range(2):
        normal = torch.distributions.Normal(codes[k] @ atoms[k].T, math.sqrt(0.3))
        assert torch.allclose(joint[:, k], gates[:, k] + normal.log_prob(x).sum(1))


def test_atoms_cost_and_noise_is_counted_in_the_columns_that_are_left():
    gates, errors = torch.zeros(1, 2), torch.zeros(1, 2)
    price = log_joint(gates, errors, 10, (1, 4), 0.01, 1.0)[0]
    assert float(price[0] - price[1]) == pytest.approx(0.5 * (4 * math.log(25) - math.log(100)))
    x = 0.2 * normals(20_000, 12)
    codes = x[None, :, :3]  # an expert that holds three columns exactly
    errors = squared_errors(x, codes, torch.eye(12).double()[None, :, :3])
    assert noise_of(errors, torch.ones(20_000, 1).double(), 12, (3,)) == pytest.approx(
        0.04, rel=0.02
    )


def test_the_sparsest_eligible_expert_is_chosen_and_the_gate_learns():
    gates = torch.tensor([[0.5, 0.3, 0.2], [0.1, 0.45, 0.45], [0.9, 0.1, 0.0]]).requires_grad_()
    chosen = choose(gates, (9, 4, 4), threshold=0.5)
    assert chosen.argmax(1).tolist() == [1, 1, 0]
    assert torch.equal(chosen, torch.nn.functional.one_hot(chosen.argmax(1), 3).float())
    weights = torch.arange(9.0).view(3, 3)
    (chosen * weights).sum().backward()
    assert torch.equal(gates.grad, weights)


def test_contrast_is_the_mean_over_pairs():
    e, groups = normals(6, 3), torch.tensor([0, 0, 1, 1, 2, 2])
    total = 0.0
    for i in range(6):
        for j in range(6):
            distance = float((e[i] - e[j]).norm())
            total += distance**2 if groups[i] == groups[j] else max(0.0, 1 - distance) ** 2
    assert float(contrast(e, groups)) == pytest.approx(total / 36)
    equal = torch.zeros(4, 3).requires_grad_()
    contrast(equal, torch.tensor([0, 0, 1, 1])).backward()
    assert torch.isfinite(equal.grad).all()


def test_label_zero_of_two_corpora_is_two_groups():
    labels, corpora = [0, 1, 0, 1, 0], ["sst2", "sst2", "news", "news", "sst2"]
    ids = group_ids(labels, corpora)
    assert ids.tolist() == [2, 3, 0, 1, 2]
    e = torch.tensor([[0.0], [5.0], [0.0], [9.0], [0.0]])
    faulty = contrast(e, torch.tensor(labels))  # the labels alone: rows 0 and 2 are one class
    assert float(contrast(e, torch.from_numpy(ids))) != pytest.approx(float(faulty))
    with pytest.raises(InputError, match="one of each"):
        group_ids([0, 1], ["a"])
