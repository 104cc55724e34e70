import numpy as np
import pytest
import torch
from sklearn.linear_model import LogisticRegression, orthogonal_mp

from lowdim.datasets import strata
from lowdim.errors import InputError, MemoryBudgetError
from lowdim.structure.agreement import accuracy
from lowdim.structure.dictionary_pieces import (
    DictionaryPieces,
    least_squares_atoms,
    linear_gate,
)


@pytest.mark.parametrize("separation", [0.0, 3.0])
@pytest.mark.parametrize("sparsity", [None, (8, 12, 16, 20)])
def test_planted_pieces_are_found(sparsity, separation):
    truth = strata(800, seed=1, noise=0.1, separation=separation, dtype=torch.float32)
    model = DictionaryPieces(4, sparsity=sparsity).fit(truth.points)
    assert accuracy(model.labels_, truth.labels) > 0.95
    assert accuracy(model.predict(truth.points), truth.labels) > 0.95
    for found, dim in zip(sorted(model.strata_.dims), truth.dims, strict=True):
        assert abs(found - dim) <= 1
    assert float(model.strata_.gate_entropy().mean()) < 0.02
    assert min(model.history_) < model.history_[0]


def test_codes_are_those_of_scikit_learn():
    x = strata(200, (3, 4), 20, seed=4, noise=0.3).points
    model = DictionaryPieces(1, sparsity=3, n_atoms=24, reduce=None).fit(x)
    atoms, reduced = model.dictionaries_[0].numpy(), model._reduced(x).numpy()
    codes = orthogonal_mp(atoms, reduced.T, n_nonzero_coefs=3).T
    rebuilt = model.transform(x).numpy() @ atoms.T  # of two equal atoms either may be taken
    assert np.allclose(rebuilt, codes @ atoms.T, atol=1e-8)
    counts = (model.transform(x) != 0).sum(1)
    assert bool((counts <= 3).all())  # fewer for a point that is a sum of fewer atoms
    assert float((counts == 3).double().mean()) > 0.9


def test_least_squares_is_not_beaten_by_any_atoms_of_those_codes():
    g = torch.Generator().manual_seed(0)
    x, codes = torch.randn(50, 8, generator=g).double(), torch.randn(50, 6, generator=g).double()
    codes[:, 4] = 0
    atoms = torch.nn.functional.normalize(torch.randn(8, 6, generator=g).double(), dim=0)
    own = torch.arange(50) < 30
    found = least_squares_atoms(x, codes, own, atoms)
    assert torch.allclose(found.norm(dim=0), torch.ones(6).double())
    assert torch.equal(found[:, 4], atoms[:, 4])
    expected = np.linalg.lstsq(codes[:30].numpy(), x[:30].numpy(), rcond=None)[0][[0, 1, 2, 3, 5]]
    expected /= np.linalg.norm(expected, axis=1, keepdims=True)
    assert np.allclose(found[:, [0, 1, 2, 3, 5]].T.numpy(), expected)
    assert torch.equal(least_squares_atoms(x, codes, torch.zeros(50).bool(), atoms), atoms)


@pytest.mark.parametrize("classes", [(0, 1, 2), (0, 2), (1,)])
def test_the_gate_is_scikit_learn_s_logistic_regression(classes):
    g = torch.Generator().manual_seed(1)
    x = torch.randn(90, 4, generator=g).double()
    labels = torch.tensor(classes)[torch.randint(len(classes), (90,), generator=g)]
    weight, offset = linear_gate(x, labels, 3)
    shares = (x @ weight.T + offset).softmax(1)
    absent = sorted({0, 1, 2} - set(classes))
    assert float(shares[:, absent].sum(1).max() if absent else 0.0) < 0.05
    if len(classes) > 1:
        model = LogisticRegression(max_iter=1000).fit(x.numpy(), labels.numpy())
        among = shares[:, list(classes)] / shares[:, list(classes)].sum(1, keepdim=True)
        assert np.allclose(among.numpy(), model.predict_proba(x.numpy()), atol=1e-8)


def test_mistakes_are_named():
    x = strata(60, (1, 2), 6, noise=0.1).points
    with pytest.raises(InputError, match="sparsity"):
        DictionaryPieces(2, sparsity=40).fit(x)
    with pytest.raises(InputError, match="penalty"):
        DictionaryPieces(2, penalty=-1.0).fit(x)
    with pytest.raises(InputError, match="max_iter"):
        DictionaryPieces(2, max_iter=0).fit(x)
    with pytest.raises(MemoryBudgetError):
        DictionaryPieces(2, memory="20kB").fit(x)
