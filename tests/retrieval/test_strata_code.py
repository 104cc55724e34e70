"""Pieces that are planted are found and paid for with fewer bytes; every byte means something."""

import numpy as np
import pytest
import torch

from lowdim.errors import InputError
from lowdim.retrieval.bits_code import BitsCode
from lowdim.retrieval.code import find_code
from lowdim.retrieval.codec import Codec
from lowdim.retrieval.k_means import nearest
from lowdim.retrieval.metric import exact_search
from lowdim.retrieval.recall import recall_at_k
from lowdim.retrieval.strata_code import StrataCode, _orthonormal


def planted(n=4000, d=32, rank=4, pieces=4, seed=0):
    """Rows on a few planes of their own directions, far from each other."""
    g = torch.Generator().manual_seed(seed)
    bases = torch.linalg.qr(torch.randn(pieces, d, rank, generator=g))[0]
    means = torch.randn(pieces, d, generator=g) * 12 / d**0.5
    label = torch.randint(pieces, (n,), generator=g)
    inside = torch.randn(n, rank, generator=g) * torch.tensor([2.0, 1.5, 1.0, 1.0])
    x = torch.einsum("ndr,nr->nd", bases[label], inside)
    return x + means[label] + 0.01 * torch.randn(n, d, generator=g)


def one_basis(x):
    """Principal coordinates, which is what ``bits`` is given."""
    axes = torch.linalg.eigh(torch.cov(x.T).double())[1].flip(1).float()
    return (x - x.mean(0)) @ axes


def left(code, z):
    return float((z - code.decode(code.encode(z))).square().sum(1).mean())


def test_planes_of_their_own_take_fewer_bytes_than_one_basis():
    x, fresh = planted(6000).split([4000, 2000])
    code = StrataCode.fit(x, size=4)
    single = BitsCode.fit(one_basis(x), size=4)
    assert left(code, x) < 0.3 * left(single, one_basis(x))
    assert left(code, fresh) < 0.4 * left(single, one_basis(x))


def test_many_bytes_leave_nothing_but_the_rounding():
    x = planted(800)
    code = StrataCode.fit(x, size=33)
    assert left(code, x) < 1e-3 * float(x.var(0).sum())
    errors = [left(StrataCode.fit(x, size=s), x) for s in (2, 3, 5, 9, 17)]
    assert errors == sorted(errors, reverse=True)


def test_a_code_is_the_piece_and_its_bits_in_numpy():
    x = planted()
    code = StrataCode.fit(x, size=5)
    codes = code.encode(x)
    assert codes.shape == (len(x), code.bytes_per_vector) == (4000, 5)
    labels = nearest(x, code.centers)[0]
    assert codes[:, 0].long().equal(labels)
    ends = np.cumsum(code.ranks.numpy())
    z = code.decode(codes)
    for row in (0, 17, 999):
        k = int(labels[row])
        part = slice(int(ends[k] - code.ranks[k]), int(ends[k]))
        basis = code.basis[part].double().numpy()
        np.testing.assert_allclose(basis @ basis.T, np.eye(len(basis)), atol=2e-3)
        bits = code.bits[part].numpy().astype(int)
        assert bits.sum() == 8 * 4
        y = basis @ (x[row] - code.centers[k]).double().numpy()
        start, step = code.start[part].double().numpy(), code.step[part].double().numpy()
        number = np.zeros(len(y))
        on = step > 0
        number[on] = np.clip(np.round((y - start)[on] / step[on]), 0, 2 ** bits[on] - 1)
        want = (start + number * step) @ basis + code.centers[k].double().numpy()
        np.testing.assert_allclose(z[row].numpy(), want, atol=2e-3)


def test_what_is_stored_once_is_counted():
    code = StrataCode.fit(planted(), size=4)
    k, r, m = len(code.centers), int(code.ranks.sum()), 32
    assert code.overhead == 4 * k * m + 8 * k + 2 * r * m + (4 + 4 + 1) * r
    again = StrataCode(**code.tensors(), **code.options())
    codes = code.encode(planted())
    assert again.decode(codes).equal(code.decode(codes))


def test_search_is_that_of_the_decoded_vectors_and_better_than_one_basis():
    x = planted(3000)
    rows, q = x[100:], x[:100]
    truth, _ = exact_search(rows, q, 10)
    recalls = {}
    for name, reduction in (("strata6", "none"), ("strata6", "pca"), ("bits6", "pca")):
        codec = Codec(name, reduction=reduction).fit(rows)
        codes = codec.encode(rows)
        found, _ = codec.search(codes, q, 10)
        decoded, _ = exact_search(codec.decode(codes), q, 10)
        assert (found == decoded).double().mean() > 0.97  # but for ties
        recalls[name, reduction] = float(recall_at_k(found, truth).mean())
    assert recalls["strata6", "none"] > recalls["bits6", "pca"] + 0.1
    assert recalls["strata6", "pca"] == pytest.approx(recalls["strata6", "none"], abs=0.05)


def test_bases_come_back_orthonormal_from_float16():
    rows = torch.linalg.qr(torch.randn(384, 313, generator=torch.Generator().manual_seed(0)))[0].T
    basis = _orthonormal(rows.half())
    assert (basis @ basis.T - torch.eye(313)).abs().max() < 1e-6
    assert (basis - rows).abs().max() < 1e-3
    assert torch.allclose(_orthonormal(rows), rows, atol=1e-6)


def test_few_rows_are_one_piece_and_all_equal_rows_come_back():
    x = planted(90)
    assert len(StrataCode.fit(x, size=4).centers) == 1
    same = torch.ones(500, 3)
    code = StrataCode.fit(same, size=2)
    assert code.decode(code.encode(same)).equal(same)
    code = StrataCode.fit(torch.cat([planted(400)] * 3), size=4)
    assert code.decode(code.encode(x)).isfinite().all()


def test_a_fit_repeats_and_leaves_its_input():
    x = planted(800)
    before = x.clone()
    a, b = StrataCode.fit(x, size=6, seed=1), StrataCode.fit(x, size=6, seed=1)
    assert x.equal(before)
    assert all(a.tensors()[name].equal(b.tensors()[name]) for name in a.tensors())


def test_poor_input():
    x = planted(800)
    assert find_code("strata24") == (StrataCode, 24)
    for size in (None, 1, 34):
        with pytest.raises(InputError, match="32 coordinates take 2 to 33 bytes"):
            StrataCode.fit(x, size=size)
    with pytest.raises(InputError, match="no vectors at all"):
        StrataCode.fit(x[:0], size=4)
    code = StrataCode.fit(x, size=4)
    codes = code.encode(x)
    codes[3, 0] = 255
    with pytest.raises(InputError, match="piece 255"):
        code.decode(codes)
    assert code.encode(x[:0]).shape == (0, 4)
    assert code.decode(codes[:0]).shape == (0, 32)
