import math

import numpy as np
import pytest
import scipy.linalg
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from lowdim.core.random import normal
from lowdim.core.spectrum import Spectrum
from lowdim.core.subspace import Subspace
from lowdim.errors import InputError


def random_subspace(d: int, r: int, seed: int) -> Subspace:
    return Subspace.of_vectors(normal((d, r), seed, dtype=torch.float64))


def points(n: int = 60, d: int = 7, seed: int = 9) -> torch.Tensor:
    return normal((n, d), seed, dtype=torch.float64) * torch.arange(d, 0, -1) + 5


subspaces = st.builds(
    lambda r, seed, shift: Subspace(
        random_subspace(8, r, seed).basis, normal(8, seed, dtype=torch.float64) * shift
    ),
    st.integers(1, 8), st.integers(0, 200), st.floats(0, 100),
)  # fmt: skip


@given(s=subspaces, seed=st.integers(0, 100))
@settings(max_examples=50, deadline=None)
def test_projection_is_idempotent_and_pythagoras_holds(s, seed):
    x = normal((20, 8), seed, 1, dtype=torch.float64) * 3
    z = s.project(x)
    once = s.reconstruct(z)
    torch.testing.assert_close(s.reconstruct(s.project(once)), once, rtol=1e-11, atol=1e-11)
    outside = s.residual(x)
    whole = ((x - s.center) ** 2).sum(1)
    torch.testing.assert_close(outside + (z**2).sum(1), whole, rtol=1e-11, atol=1e-11)
    torch.testing.assert_close(outside, ((x - once) ** 2).sum(1), rtol=1e-9, atol=1e-18)
    assert float(s.residual(once).max()) < 1e-24 * float(whole.max() + s.center.norm() ** 2)


def test_residual_of_nearly_contained_points_is_accurate():
    s = random_subspace(6, 2, 0)
    normal_to = Subspace.of_vectors(torch.cat([s.basis, normal((6, 1), 1).double()], 1))
    away = torch.linalg.qr(torch.cat([s.basis, normal_to.basis], 1)).Q[:, 2]
    x = s.reconstruct(torch.full((1, 2), 1e3).double()) + 1e-9 * away
    # a difference of squared lengths would lose 1e-18 beside 1e6 altogether
    assert float(s.residual(x)) == pytest.approx(1e-18, rel=1e-2)


def test_of_spectrum_holds_the_energy():
    x = points()
    spectrum = Spectrum.of_points(x, vectors=True)
    s = Subspace.of_spectrum(spectrum, energy=0.9)
    assert s.rank == spectrum.rank_at(0.9)
    assert s.energy_held >= 0.9
    kept = 1 - float(s.residual(x).mean()) / spectrum.total
    assert s.energy_held == pytest.approx(kept, rel=1e-12)
    torch.testing.assert_close((s.project(x) ** 2).mean(0), s.values)
    same = Subspace.of_points(x, rank=s.rank)
    torch.testing.assert_close(same.basis, s.basis)
    uncentred = Subspace.of_points(x, rank=2, center=False)
    assert uncentred.center.abs().max() == 0
    assert repr(s).startswith(f"Subspace(rank {s.rank} of 7, ")


def test_of_spectrum_bad_use():
    with_vectors = Spectrum.of_points(points(), vectors=True)
    with pytest.raises(InputError, match="vectors=True"):
        Subspace.of_spectrum(Spectrum.of_points(points()), rank=2)
    for options in ({}, {"rank": 2, "energy": 0.9}):
        with pytest.raises(InputError, match="exactly one"):
            Subspace.of_spectrum(with_vectors, **options)
    for rank in (-1, 8):
        with pytest.raises(InputError, match="holds 7 directions"):
            Subspace.of_spectrum(with_vectors, rank=rank)
    with pytest.raises(InputError, match="no energies"):
        _ = random_subspace(5, 2, 0).energy_held


def test_of_vectors_reports_the_surviving_rank():
    v = normal((10, 3), 0, dtype=torch.float64)
    dependent = torch.cat([v, v @ normal((3, 2), 1).double(), torch.zeros(10, 1)], 1)
    s = Subspace.of_vectors(dependent)
    assert s.rank == 3
    assert s.distance(Subspace.of_vectors(v)) < 1e-14
    # a span does not depend on the lengths
    assert Subspace.of_vectors(v * torch.tensor([1e-30, 1, 1e30])).rank == 3
    assert Subspace.of_vectors(torch.zeros(4, 2)).rank == 0
    assert Subspace.of_vectors(torch.ones(4, 9)).rank == 1
    assert Subspace.of_vectors(normal((4, 9), 0)).rank == 4


def test_point_is_a_subspace_of_rank_zero():
    point = Subspace(torch.empty(3, 0), torch.tensor([1.0, 2, 3]))
    x = torch.tensor([[1.0, 2, 5], [1, 2, 3]])
    assert point.project(x).shape == (2, 0)
    assert point.residual(x).tolist() == [4, 0]
    assert torch.equal(point.reconstruct(point.project(x)), point.center.expand(2, 3))
    line = random_subspace(3, 1, 0)
    assert len(point.angles(line)) == 0
    assert point.distance(line, kind="projection") == 1
    assert point.distance(point) == 0


@given(a=st.integers(1, 6), b=st.integers(1, 6), seed=st.integers(0, 100))
@settings(max_examples=50, deadline=None)
def test_angles_against_scipy(a, b, seed):
    one, two = random_subspace(9, a, seed), random_subspace(9, b, seed + 1000)
    expected = np.sort(scipy.linalg.subspace_angles(one.basis.numpy(), two.basis.numpy()))
    # where a + b > 9 they meet, and scipy says 2e-8 for 0
    np.testing.assert_allclose(one.angles(two), expected, rtol=1e-9, atol=1e-7)
    assert float(one.angles(two)[: max(0, a + b - 9)].sum()) < 1e-13
    torch.testing.assert_close(one.angles(two), two.angles(one), rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("angle", [0, 1e-12, 1e-7, 1e-3, 0.7, math.pi / 4, 1.2, math.pi / 2])
def test_known_angles(angle):
    e = torch.eye(5, dtype=torch.float64)
    flat = Subspace(e[:, :2], torch.zeros(5).double())
    tilted = torch.stack([e[0], math.cos(angle) * e[1] + math.sin(angle) * e[2]], 1)
    measured = flat.angles(Subspace(tilted, torch.zeros(5).double()))
    assert float(measured[0]) == 0
    assert float(measured[1]) == pytest.approx(angle, rel=1e-10, abs=1e-18)


@given(
    ranks=st.tuples(*[st.integers(0, 6)] * 3),
    seed=st.integers(0, 100),
    kind=st.sampled_from(["chordal", "grassmann", "projection"]),
)
@settings(max_examples=60, deadline=None)
def test_distances_are_metrics(ranks, seed, kind):
    a, b, c = (
        Subspace.of_vectors(normal((6, r), seed, i, dtype=torch.float64)) if r
        else Subspace(torch.empty(6, 0).double(), torch.zeros(6).double())
        for i, r in enumerate(ranks)
    )  # fmt: skip
    ab = a.distance(b, kind=kind)
    assert a.distance(a, kind=kind) < 1e-12
    assert ab == pytest.approx(b.distance(a, kind=kind), abs=1e-12)
    assert ab <= a.distance(c, kind=kind) + c.distance(b, kind=kind) + 1e-12


def test_distances_against_projectors():
    a, b = random_subspace(8, 3, 0), random_subspace(8, 3, 1)
    difference = a.basis @ a.basis.T - b.basis @ b.basis.T
    assert a.distance(b) == pytest.approx(float(difference.norm()) / math.sqrt(2))
    spectral = float(torch.linalg.matrix_norm(difference, 2))
    assert a.distance(b, kind="projection") == pytest.approx(spectral)
    assert a.distance(b, kind="grassmann") == pytest.approx(float(a.angles(b).norm()))
    with pytest.raises(InputError, match="chordal"):
        a.distance(b, kind="manhattan")
    with pytest.raises(InputError, match="8 and 5"):
        a.angles(random_subspace(5, 2, 0))


def test_blocks_of_rows_do_not_matter(monkeypatch):
    s, x = Subspace.of_points(points(), rank=3), points()
    z, outside = s.project(x), s.residual(x)
    monkeypatch.setattr("lowdim.core.subspace.BLOCK", 50)
    torch.testing.assert_close(s.project(x), z)
    torch.testing.assert_close(s.residual(x), outside)


def test_to_changes_the_dtype():
    s = Subspace.of_points(points(), rank=3)
    half = s.to(torch.float32)
    assert half.project(points()).dtype == torch.float32
    torch.testing.assert_close(half.project(points()).double(), s.project(points()), rtol=1e-4,
                               atol=1e-4)  # fmt: skip


@pytest.mark.parametrize(
    ("basis", "center", "message"),
    [
        (torch.ones(3, 2), torch.zeros(3), "not orthonormal"),
        (torch.full((3, 1), math.nan), torch.zeros(3), "not orthonormal"),
        (torch.eye(3)[0], torch.zeros(3), "shape"),
        (torch.eye(3), torch.zeros(2), "center"),
        (torch.eye(2, 3), torch.zeros(2), "not orthonormal"),
    ],
)
def test_bad_basis(basis, center, message):
    with pytest.raises(InputError, match=message):
        Subspace(basis, center)


def test_bad_values_and_points():
    with pytest.raises(InputError, match="values"):
        Subspace(torch.eye(3), torch.zeros(3), torch.ones(2))
    with pytest.raises(InputError, match="4 columns and the subspace 3"):
        Subspace(torch.eye(3), torch.zeros(3)).project(torch.ones(2, 4))
    with pytest.raises(InputError, match="coordinates"):
        Subspace(torch.eye(3), torch.zeros(3)).reconstruct(torch.ones(2, 4))


def test_a_subspace_in_finer_precision_is_the_same_and_orthonormal():
    coarse = Subspace.of_points(
        torch.randn(50, 20, generator=torch.Generator().manual_seed(0)), rank=6
    )
    coarse = coarse.to(torch.float32)
    fine = coarse.to(torch.float64)
    assert torch.allclose(fine.basis, coarse.basis.double(), atol=1e-6)
    eye = torch.eye(6, dtype=torch.float64)
    assert torch.allclose(fine.basis.T @ fine.basis, eye, atol=1e-14)
