"""The length of a code: the inequality, its use as a bound, and the number of features it gives."""

import importlib
import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.nn.functional import normalize

from lowdim.errors import InputError
from lowdim.structure import afa_loss, coherence, coherence_lower_bound, top_afa, zf_points
from lowdim.structure.sae import ReLUSAE


def noise(*shape, seed=0):
    g = torch.Generator().manual_seed(seed)
    return torch.randn(*shape, generator=g, dtype=torch.float64)


def sparse(n, m, most, seed=0):
    """(n, m) codes of 1 to ``most`` features between 0.5 and 1.5, and how many each."""
    g = torch.Generator().manual_seed(seed)
    counts = torch.randint(1, most + 1, (n,), generator=g)
    rank = torch.rand(n, m, generator=g).argsort(1).argsort(1)
    return (rank < counts[:, None]) * (torch.rand(n, m, generator=g).double() + 0.5), counts


@settings(max_examples=60, deadline=None)
@given(st.integers(2, 30), st.integers(2, 60), st.integers(0, 10**6), st.booleans())
def test_the_bound_holds_for_any_unit_dictionary(d, m, seed, signed):
    decoder = normalize(noise(m, d, seed=seed), dim=1)
    codes = noise(20, m, seed=seed + 1) if signed else sparse(20, m, m, seed)[0]
    found = coherence_lower_bound(codes @ decoder, codes)
    assert found.value <= coherence(decoder) + 1e-12
    assert found.value == float(found.per_point.max())


def test_the_bound_is_reached_by_two_features_of_one_pair():
    decoder = normalize(noise(2, 5), dim=1)
    codes = torch.tensor([[1.0, 1], [3, 0], [0, 0]], dtype=torch.float64)
    found = coherence_lower_bound(codes @ decoder, codes)
    assert found.per_point.tolist() == pytest.approx([coherence(decoder), 0, 0])


def test_coherence_is_the_largest_cosine_across_blocks(monkeypatch):
    decoder = 3 * noise(50, 8)
    cosines = normalize(decoder) @ normalize(decoder).T
    expected = float((cosines - torch.eye(50)).abs().max())
    assert coherence(decoder) == pytest.approx(expected)
    module = importlib.import_module("lowdim.structure.top_afa")  # the function has its name
    monkeypatch.setattr(module, "BLOCK", 7)
    assert coherence(decoder) == pytest.approx(expected)


def test_an_orthonormal_dictionary_is_exact():
    basis = torch.linalg.qr(noise(40, 40)).Q
    codes, counts = sparse(200, 40, 12)
    x = codes @ basis
    found = top_afa((x @ basis.T).relu(), basis, x)
    assert torch.equal(found.counts, counts)
    assert torch.allclose(found.codes @ basis, x, atol=1e-12)
    assert float(afa_loss(codes, basis, x)) < 1e-20


def test_the_number_of_features_is_found_where_no_one_number_is_right():
    """In superposition, with false alarms of up to 0.4 in all 1,400 features that are off."""
    decoder = normalize(noise(1400, 1024), dim=1)
    codes, counts = sparse(300, 1400, 15)
    alarms = 0.4 * torch.rand(codes.shape, generator=torch.Generator().manual_seed(5))
    found = top_afa(torch.where(codes > 0, codes, alarms.double()), decoder, codes @ decoder)
    error = (found.counts - counts).abs().double()
    fixed = torch.stack([(counts - k).abs().double().mean() for k in range(1, 16)])
    assert float(error.mean()) < 0.3 * float(fixed.min())
    assert float((error <= 1).double().mean()) > 0.7


def test_lengths_of_decoder_rows_count():
    basis, lengths = torch.linalg.qr(noise(9, 9)).Q, torch.linspace(0.5, 4, 9).double()
    codes, counts = sparse(50, 9, 9)
    found = top_afa(codes / lengths, basis * lengths[:, None], codes @ basis)
    assert torch.equal(found.counts, counts)
    assert float(afa_loss(codes / lengths, basis * lengths[:, None], codes @ basis)) < 1e-20


def test_zero_inputs_zero_codes_and_gradients():
    basis = torch.eye(4).double()
    codes = torch.tensor([[1.0, 2, 0, 0], [0, 0, 0, 0]]).double().requires_grad_()
    found = top_afa(codes, basis, torch.tensor([[0.0, 0, 0, 0], [1, 1, 1, 1]]).double())
    assert found.counts.tolist() == [0, 0]
    found = top_afa(codes, basis, torch.full((2, 4), 10.0).double())
    assert found.counts.tolist() == [2, 0]  # all there is, and no empty feature on top
    found.codes.sum().backward()
    assert codes.grad.tolist() == [[1, 1, 0, 0], [0, 0, 0, 0]]


def test_zf_points_are_the_lengths():
    sae, x = ReLUSAE(6, 10).double(), noise(30, 6)
    with torch.no_grad():
        sae.bias += 2
        sae.decoder *= 3
    z, f = zf_points(x, sae)
    assert torch.allclose(z, x.norm(dim=1))
    squares = (3 * sae.encode(x)).square().sum(1) + sae.bias.square().sum()
    assert torch.allclose(f, squares.sqrt())


def test_mistakes_are_named():
    codes, decoder, x = noise(5, 8).abs(), noise(8, 3), noise(5, 3)
    with pytest.raises(InputError, match="do not fit"):
        top_afa(codes, decoder.T, x)
    with pytest.raises(InputError, match="below zero"):
        top_afa(-codes, decoder, x)
    bad = x.clone()
    bad[3, 1] = math.nan
    with pytest.raises(InputError, match="row 3"):
        afa_loss(codes, decoder, bad)
    with pytest.raises(InputError, match="one code a point"):
        coherence_lower_bound(x, codes[:4])
    with pytest.raises(InputError, match="no direction"):
        coherence(torch.zeros(3, 3))
