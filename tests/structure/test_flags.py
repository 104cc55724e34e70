"""The mixture of projectors rebuilds the covariance; distances agree with their definitions."""

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import lowdim
from lowdim.core.spectrum import Spectrum
from lowdim.core.subspace import Subspace
from lowdim.datasets import cube
from lowdim.errors import InputError
from lowdim.structure.flags import Flag, flag_weights, mean_dimension


def normal(*shape, seed=0):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def covariance(d, rank, seed=0):
    factor = normal(d, rank, seed=seed)
    return factor @ factor.T


def plane(d, rank, seed=0):
    return Subspace.of_vectors(normal(d, rank, seed=seed))


@settings(max_examples=40, deadline=None)
@given(d=st.integers(1, 12), seed=st.integers(0, 1000), data=st.data())
def test_weights_sum_to_one_and_rebuild_the_covariance(d, seed, data):
    s = covariance(d, data.draw(st.integers(1, d)), seed)
    flag = Flag.of_covariance(s)
    assert float(flag.weights.sum()) == pytest.approx(1, abs=1e-14)
    assert bool((flag.weights >= 0).all())
    rebuilt = torch.zeros(d, d).double()
    for i, w in enumerate(flag.weights.tolist(), start=1):
        rebuilt += w * flag.vectors[:, :i] @ flag.vectors[:, :i].T / i
    assert torch.allclose(rebuilt, s / s.trace(), atol=2e-15, rtol=0)
    assert torch.allclose(flag.covariance, s / s.trace(), atol=2e-15, rtol=0)
    by_weights = (flag.weights * torch.arange(1, len(flag.weights) + 1)).sum()
    assert flag.dimension == pytest.approx(float(by_weights))


def test_a_plane_has_one_weight():
    for rank in (1, 3, 6):
        weights = Flag.of_subspace(plane(6, rank)).weights
        assert weights.tolist() == pytest.approx([0.0] * (rank - 1) + [1.0])
    assert flag_weights(torch.tensor([[3.0, 1.0], [1.0, 1.0]])).tolist() == [[0.5, 0.5], [0, 1]]
    assert mean_dimension(torch.tensor([3.0, 1.0])) == pytest.approx(1.5)


@pytest.mark.parametrize(("p", "q"), [(1, 1), (2, 2), (1, 3), (2, 5), (4, 4)])
def test_distances_agree_with_their_definitions(p, q):
    a, b = (Flag.of_covariance(covariance(6, r, s)) for r, s in ((p, 1), (q, 2)))
    values, vectors = np.linalg.eigh(a.covariance.numpy())
    root = vectors * np.sqrt(values.clip(0)) @ vectors.T
    middle = np.linalg.eigvalsh(root @ b.covariance.numpy() @ root).clip(0)
    assert a.distance(b) == pytest.approx(math.acos(np.sqrt(middle).sum()), abs=1e-6)
    assert a.distance(b) == pytest.approx(b.distance(a))
    frobenius = float((a.covariance - b.covariance).norm())
    assert a.distance(b, kind="frobenius") == pytest.approx(frobenius)


@pytest.mark.parametrize(("p", "q"), [(2, 2), (1, 4), (3, 2)])
def test_closed_forms_between_planes(p, q):
    a, b = plane(7, p, 3), plane(7, q, 4)
    cosines = a.angles(b).cos()
    one, other = Flag.of_subspace(a), Flag.of_subspace(b)
    assert math.cos(one.distance(other)) == pytest.approx(float(cosines.sum()) / math.sqrt(p * q))
    squared = 1 / p + 1 / q - 2 * float(cosines.square().sum()) / (p * q)
    assert one.distance(other, kind="frobenius") == pytest.approx(math.sqrt(squared))


@settings(max_examples=25, deadline=None)
@given(seed=st.integers(0, 1000), ranks=st.tuples(*[st.integers(1, 4)] * 3))
def test_both_distances_are_metrics(seed, ranks):
    a, b, c = (Flag.of_covariance(covariance(4, r, seed + i)) for i, r in enumerate(ranks))
    for kind in ("bures", "frobenius"):
        assert a.distance(a, kind=kind) <= 1e-14
        direct = a.distance(c, kind=kind)
        assert direct <= a.distance(b, kind=kind) + b.distance(c, kind=kind) + 1e-9


@pytest.mark.parametrize(("p", "q"), [(1, 1), (1, 3), (2, 2), (3, 1)])
def test_the_path_is_shortest_and_passes_no_higher_dimension(p, q):
    a, b = Flag.of_subspace(plane(6, p, 5)), Flag.of_subspace(plane(6, q, 6))
    whole = a.distance(b)
    for share in (0.0, 0.25, 0.5, 0.9, 1.0):
        between = a.toward(b, share)
        assert len(between.values) <= max(p, q)
        assert a.distance(between) == pytest.approx(share * whole, abs=1e-7)
        assert between.distance(b) == pytest.approx((1 - share) * whole, abs=1e-7)
    straight = Flag.of_covariance((a.covariance + b.covariance) / 2)
    assert len(straight.values) > max(p, q)
    assert a.toward(a, 0.5).distance(a) < 1e-7


def test_spectra_and_covariances_give_one_flag():
    x = normal(50, 4) * torch.tensor([3.0, 2, 1, 0.1])
    of_spectrum = Flag.of_spectrum(Spectrum.of_points(x, vectors=True))
    of_covariance = Flag.of_covariance(torch.cov(x.T))
    assert of_spectrum.distance(of_covariance) < 1e-7
    assert "weights 0." in repr(of_spectrum)


def test_measure_tells_a_curve_from_a_surface():
    line = torch.cat([cube(300, 1, 1), torch.zeros(300, 2)], 1)
    sheet = torch.cat([cube(300, 2, 2), torch.zeros(300, 1)], 1) + 3
    found = lowdim.measure(torch.cat([line, sheet]), "flag-dimension")["flag-dimension"]
    assert found.per_point[:300].tolist() == pytest.approx([1.0] * 300, abs=1e-6)
    assert 1.5 < float(found.per_point[300:].mean()) < 2
    assert float(found.per_point[300:].max()) <= 2 + 1e-9


def test_bad_input():
    flag = Flag.of_covariance(torch.eye(3))
    for call, says in (
        (lambda: flag_weights(torch.tensor([1.0, 2.0])), "descending"),
        (lambda: flag_weights(torch.zeros(2)), "not all zero"),
        (lambda: Flag.of_covariance(torch.zeros(2, 2)), "all energies are zero"),
        (lambda: Flag.of_covariance(torch.ones(2, 3)), "symmetric"),
        (lambda: Flag.of_covariance(torch.diag(torch.tensor([1.0, -1.0]))), "not positive"),
        (lambda: Flag.of_spectrum(Spectrum.of_points(normal(5, 2))), "vectors=True"),
        (lambda: Flag.of_subspace(Subspace(torch.ones(3, 0), torch.zeros(3))), "single point"),
        (lambda: flag.distance(Flag.of_covariance(torch.eye(2))), "3 and 2 columns"),
        (lambda: flag.distance(flag, kind="l2"), "choose from"),
        (lambda: flag.toward(flag, 1.5), "share=1.5"),
    ):
        with pytest.raises(InputError, match=says):
            call()
