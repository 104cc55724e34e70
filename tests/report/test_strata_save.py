"""Saved pieces come back bit for bit, and a file that is no strata is an error."""

from __future__ import annotations

import json

import pytest
import torch
from safetensors.torch import load_file, save_file

from lowdim.core.strata import Strata
from lowdim.core.subspace import Subspace
from lowdim.datasets import strata
from lowdim.errors import InputError
from lowdim.structure.save import load_strata, save_strata


@pytest.fixture
def made():
    planted = strata(120, (1, 3, 4), 8, separation=2.0, noise=0.1, seed=3)
    return Strata.of_labels(planted.points, planted.labels, rank=2)


def test_pieces_come_back_bit_for_bit(made, tmp_path):
    found = load_strata(save_strata(made, tmp_path / "s", about={"method": "by hand"}))
    assert torch.equal(found.weights, made.weights)
    for a, b in zip(found.pieces, made.pieces, strict=True):
        assert torch.equal(a.basis, b.basis)
        assert torch.equal(a.center, b.center)
        assert torch.equal(a.values, b.values)
        assert a.total == b.total
    facts = json.loads((tmp_path / "s" / "strata.json").read_text())
    assert facts["about"] == {"method": "by hand"}
    assert facts["dims"] == [2, 2, 2]
    x = torch.randn(10, 8).double()
    assert torch.equal(found.assign(x), made.assign(x))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_pieces_without_energies_of_any_rank_and_type(tmp_path, dtype):
    center = torch.ones(5, dtype=dtype)  # one tensor that all pieces share
    pieces = tuple(Subspace(torch.eye(5, dtype=dtype)[:, :r], center) for r in (0, 1, 5))
    shares = torch.tensor([[0.2, 0.3, 0.5], [1, 0, 0]], dtype=dtype)
    found = load_strata(save_strata(Strata(pieces, shares), tmp_path))
    assert found.dims == (0, 1, 5)
    assert found.weights.dtype == dtype
    assert found.pieces[1].values is None
    assert found.pieces[1].total is None


def change(folder, **tensors):
    """Other numbers under the same names; None takes one away."""
    path = folder / "strata.safetensors"
    kept = load_file(path) | tensors
    save_file({name: x for name, x in kept.items() if x is not None}, path)


@pytest.mark.parametrize(
    ("tensors", "word"),
    [
        ({"weights": torch.ones(120, 3).double()}, "shares"),
        ({"weights": torch.full((120, 3), torch.nan).double()}, "nan"),
        ({"0/basis": torch.ones(8, 2).double()}, "orthonormal"),
        ({"0/basis": None}, "0/basis"),
        ({"1/center": torch.zeros(7).double()}, "center"),
        ({"1/values": torch.zeros(7).double()}, "values"),
        ({"weights": torch.eye(3).double()}, "not of the same strata"),
    ],
)
def test_numbers_that_make_no_pieces_are_refused(made, tmp_path, tensors, word):
    save_strata(made, tmp_path)
    change(tmp_path, **tensors)
    with pytest.raises(InputError, match=word):
        load_strata(tmp_path)


@pytest.mark.parametrize(
    ("facts", "word"),
    [
        ("{", "cannot be read"),
        ("[]", "schema"),
        ('{"schema": "lowdim.strata/9"}', "lowdim.strata/9"),
        ('{"schema": "lowdim.strata/1"}', "dims"),
        (
            '{"schema": "lowdim.strata/1", "dims": [2, 2], "totals": [1, 1], "n": 120}',
            "weights have",
        ),
        ('{"schema": "lowdim.strata/1", "dims": 3, "totals": [1, 1], "n": 120}', "dims"),
        (
            '{"schema": "lowdim.strata/1", "dims": [1, 2, 2], "totals": [1, 1, 1], "n": 120}',
            "not of the same",
        ),
    ],
)
def test_facts_that_do_not_fit_are_refused(made, tmp_path, facts, word):
    save_strata(made, tmp_path)
    (tmp_path / "strata.json").write_text(facts)
    with pytest.raises(InputError, match=word):
        load_strata(tmp_path)


def test_what_is_missing_or_cut_is_named(made, tmp_path):
    with pytest.raises(InputError, match="does not exist"):
        load_strata(tmp_path)
    save_strata(made, tmp_path)
    path = tmp_path / "strata.safetensors"
    path.write_bytes(path.read_bytes()[:-40])
    with pytest.raises(InputError, match="cannot be read"):
        load_strata(tmp_path)
