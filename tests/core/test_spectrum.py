import json
import math
from collections.abc import Iterator
from dataclasses import dataclass
from types import SimpleNamespace

import numpy as np
import pytest
import torch
import vendi_score.vendi
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.decomposition import PCA

from lowdim.core.moments import Moments
from lowdim.core.random import normal, permutation
from lowdim.core.spectrum import Spectrum
from lowdim.errors import InputError, MemoryBudgetError


def data(n: int = 120, d: int = 8, seed: int = 0) -> torch.Tensor:
    return normal((n, d), seed) / torch.arange(1, d + 1) + 2


@dataclass
class Source:
    """The protocol of a point source, in the smallest form."""

    x: torch.Tensor
    rows: int = 17
    reads: int = 0

    @property
    def n(self) -> int:
        return len(self.x)

    @property
    def dim(self) -> int:
        return self.x.shape[1]

    def chunks(self, memory: int | str | None = None) -> Iterator[torch.Tensor]:
        self.reads += 1
        yield from self.x.split(self.rows)


def of_values(*values: float) -> Spectrum:
    v = torch.tensor(values, dtype=torch.float64)
    return Spectrum(v, float(v.sum()), (len(v), len(v)))


# --- made from points ---------------------------------------------------------------------------


@pytest.mark.parametrize("shape", [(120, 8), (8, 120), (30, 30), (2, 2)])
@pytest.mark.parametrize("center", [True, False])
@pytest.mark.parametrize("unit", [True, False])
def test_points_against_numpy_svd(shape, center, unit):
    x = data(*shape)
    y = x.double().numpy()
    if unit:
        y = y / np.linalg.norm(y, axis=1, keepdims=True)
    mean = y.mean(0)
    y = y - mean if center else y
    expected = np.linalg.svd(y, compute_uv=False) ** 2 / len(x)
    s = Spectrum.of_points(x, center=center, unit=unit, vectors=True)
    np.testing.assert_allclose(s.values, expected, rtol=0, atol=1e-13 * expected[0])
    assert s.total == pytest.approx((y**2).sum() / len(x), rel=1e-12)
    np.testing.assert_allclose(s.diagonal, (y**2).mean(0), rtol=1e-10, atol=1e-15)
    if center:
        np.testing.assert_allclose(s.mean, mean, rtol=1e-12)
    else:
        assert s.mean is None
    assert s.shape == shape
    assert s.exact
    assert s.error == 0
    # directions: orthonormal, and with the energy that they claim
    r = min(shape)
    torch.testing.assert_close(s.vectors.T @ s.vectors, torch.eye(r).double(), rtol=0, atol=1e-12)
    energy = ((y @ s.vectors.numpy()) ** 2).mean(0)
    np.testing.assert_allclose(energy, s.values, rtol=0, atol=1e-13 * expected[0])


def test_points_against_scikit_learn():
    x = data(200, 10).double()
    pca = PCA().fit(x.numpy())
    s = Spectrum.of_points(x)
    np.testing.assert_allclose(s.values * 200 / 199, pca.explained_variance_, rtol=1e-10)
    assert s.rank_at(0.9) == PCA(0.9).fit(x.numpy()).n_components_


@pytest.mark.parametrize("center", [True, False])
def test_gram_side_equals_covariance_side(center):
    x = data(40, 60)
    gram = Spectrum.of_points(x, center=center, vectors=True)
    covariance = Spectrum.of_moments(Moments(60).update(x), center=center, vectors=True)
    atol = 1e-13 * float(gram.values[0])
    torch.testing.assert_close(gram.values, covariance.values, rtol=0, atol=atol)
    torch.testing.assert_close(gram.diagonal, covariance.diagonal)
    assert len(gram.values) == len(covariance.values) == 40
    overlap = (gram.vectors[:, :39] * covariance.vectors[:, :39]).sum(0).abs()
    torch.testing.assert_close(overlap, torch.ones(39).double(), rtol=0, atol=1e-8)


@pytest.mark.parametrize("shape", [(100, 7), (30, 50)])
@pytest.mark.parametrize("options", [{}, {"unit": True}, {"center": False}])
def test_source_equals_array(shape, options):
    x = data(*shape)
    a, b = Spectrum.of_points(x, **options), Spectrum.of_points(Source(x), **options)
    torch.testing.assert_close(a.values, b.values, rtol=1e-11, atol=1e-14)
    assert a.total == pytest.approx(b.total, rel=1e-12)


def test_source_is_read_once_and_its_bad_rows_are_named():
    x = data(100, 7)
    source = Source(x)
    Spectrum.of_points(source)
    assert source.reads == 1
    x[57, 3] = math.inf
    for options in ({}, {"method": "randomized", "rank": 2}):
        with pytest.raises(InputError, match="row 57, column 3"):
            Spectrum.of_points(Source(x), **options)


def test_engine_reduces_the_chunks():
    class Halves:
        """An engine that gives each chunk an accumulator of its own and merges backwards."""

        def map(self, function, items):
            return map(function, items)

        def reduce(self, start, chunks):
            parts = [start().update(chunk) for chunk in chunks]
            state = start()
            for part in reversed(parts):
                state.merge(part)
            return state

    x = data()
    one, two = Spectrum.of_points(x), Spectrum.of_points(Source(x), engine=Halves())
    torch.testing.assert_close(one.values, two.values, rtol=1e-12, atol=1e-14)


@given(
    n=st.integers(2, 30), d=st.integers(1, 12), seed=st.integers(0, 100), shift=st.floats(-50, 50)
)
@settings(max_examples=40, deadline=None)
def test_invariances(n, d, seed, shift):
    x = normal((n, d), seed, dtype=torch.float64)
    s = Spectrum.of_points(x)
    rotation = torch.linalg.qr(normal((d, d), seed, 1, dtype=torch.float64)).Q
    for same in (x[permutation(n, seed)], x + shift, x @ rotation, -x):
        torch.testing.assert_close(
            Spectrum.of_points(same).values, s.values, rtol=0, atol=1e-11 * float(s.values[0])
        )
    doubled = Spectrum.of_points(torch.cat([x, x]))  # divided by n: repetition changes nothing
    torch.testing.assert_close(
        doubled.values[: len(s.values)], s.values, rtol=0, atol=1e-12 * float(s.values[0])
    )
    assert float(s.values.sum()) == pytest.approx(s.total, rel=1e-12)
    assert float(s.diagonal.sum()) == pytest.approx(s.total, rel=1e-12)


@pytest.mark.parametrize("n", [1, 3, 50])
def test_constant_rows_are_exactly_zero(n):
    x = torch.full((n, 4), 0.1)
    s = Spectrum.of_points(x)
    assert s.total == 0
    assert s.values.abs().max() == 0
    assert "all zero" in repr(s)
    for read in (s.effective_rank, s.participation_ratio, s.stable_rank, lambda: s.rank_at(0.5)):
        with pytest.raises(InputError, match="every row is the same"):
            read()
    uncentred = Spectrum.of_points(x, center=False)
    assert uncentred.effective_rank(0) == 1
    assert uncentred.total == pytest.approx(0.04, rel=1e-6)


def test_one_column_one_row_and_repeated_rows():
    column = Spectrum.of_points([1.0, 2, 3, 6])
    assert column.values.tolist() == [3.5]
    assert column.effective_rank() == 1
    row = Spectrum.of_points(torch.ones(1, 5), center=False)
    assert row.values.tolist() == [5]
    line = Spectrum.of_points(torch.tensor([[0.0, 0, 0], [1, 2, 2]]).repeat(10, 1))
    assert line.effective_rank(0) == 1
    assert float(line.values[0]) == pytest.approx(9 / 4)


def test_rank_deficient_points_have_zeros_beyond_their_rank():
    x = normal((300, 4), 0, dtype=torch.float64) @ normal((4, 25), 1, dtype=torch.float64)
    for points in (x, x[:20]):
        s = Spectrum.of_points(points)
        assert s.effective_rank(0) == 4
        assert s.rank_at(1.0) == 4
        assert bool((s.values[4:] == 0).all())


def test_half_precision_and_integers_are_promoted():
    x = data().half()
    torch.testing.assert_close(
        Spectrum.of_points(x).values, Spectrum.of_points(x.float()).values, rtol=0, atol=0
    )
    assert Spectrum.of_points([[1, 2], [3, 4]]).total == 2


def test_memory_budget_is_named_before_the_work():
    x = torch.zeros(3000, 2000)
    with pytest.raises(MemoryBudgetError, match=r"152\.6 MiB and may use 95\.4 MiB"):
        Spectrum.of_points(x, memory="100MB")
    with pytest.raises(MemoryBudgetError, match="Gram"):
        Spectrum.of_points(torch.zeros(2000, 3000), memory="100MB")
    with pytest.raises(MemoryBudgetError, match="the points"):
        Spectrum.of_points(Source(torch.zeros(100, 20_000)), memory="10MB")
    with pytest.raises(MemoryBudgetError, match="SVD"):
        Spectrum.of_matrix(torch.zeros(1000, 1000).double(), memory="10MB")


def test_values_whose_squares_overflow():
    with pytest.raises(InputError, match="rescale"):
        Spectrum.of_points(torch.tensor([[1e200, 0], [0, 1e200]], dtype=torch.float64))


# --- identities ---------------------------------------------------------------------------------


@pytest.mark.parametrize("shape", [(50, 6), (20, 40)])
def test_vendi_scores_are_effective_ranks_of_the_second_moment(shape):
    x = data(*shape).double()
    unit = x / x.norm(dim=1, keepdim=True)
    k = unit @ unit.T / len(x)
    s = Spectrum.of_points(x, center=False, unit=True)
    assert s.total == pytest.approx(1)
    assert s.effective_rank(2) == pytest.approx(1 / float(k.norm() ** 2), rel=1e-10)
    assert s.participation_ratio() == pytest.approx(s.effective_rank(2), rel=1e-10)
    w = torch.linalg.eigvalsh(k).clamp_min(0)
    von_neumann = -float(torch.special.entr(w).sum().neg())
    assert s.effective_rank(1) == pytest.approx(math.exp(von_neumann), rel=1e-10)
    for q in (0.5, 1, 2, 7, "inf"):
        expected = vendi_score.vendi.score_dual(unit.numpy(), q=q)
        assert s.effective_rank(float(q)) == pytest.approx(expected, rel=1e-6)


def test_isoscore_is_the_scaled_participation_ratio():
    # Rudman et al. 2022, their definition step by step
    x = data(300, 5).double()
    d = 5
    variances = Spectrum.of_points(x).values  # the covariance after PCA
    normalised = math.sqrt(d) * variances / variances.norm()
    defect = float((normalised - 1).norm()) / math.sqrt(2 * (d - math.sqrt(d)))
    k = (d - defect**2 * (d - math.sqrt(d))) ** 2 / d**2
    assert (d * k - 1) / (d - 1) == pytest.approx(
        (Spectrum.of_points(x).participation_ratio() - 1) / (d - 1), rel=1e-10
    )


# --- made from matrices and operators -----------------------------------------------------------


@pytest.mark.parametrize("shape", [(40, 25), (25, 40)])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_matrix_against_svd(shape, dtype):
    w = normal(shape, 0, dtype=dtype)
    s = Spectrum.of_matrix(w, vectors=True)
    expected = torch.linalg.svdvals(w.double())
    torch.testing.assert_close(s.singular_values, expected, rtol=1e-12, atol=0)
    assert s.total == pytest.approx(float(w.double().norm() ** 2), rel=1e-12)
    image = (w.double() @ s.vectors).norm(dim=0)
    torch.testing.assert_close(image, expected, rtol=1e-12, atol=0)
    assert s.stable_rank() == pytest.approx(float(expected.norm() ** 2 / expected[0] ** 2))
    torch.testing.assert_close(s.diagonal, (w.double() ** 2).sum(0))


def test_float64_matrix_keeps_small_singular_values():
    values = 10.0 ** -torch.arange(13, dtype=torch.float64)
    left = torch.linalg.qr(normal((30, 13), 0, dtype=torch.float64)).Q
    s = Spectrum.of_matrix(left * values)
    torch.testing.assert_close(s.singular_values, values, rtol=1e-3, atol=0)
    # float32 goes through the Gram matrix: right to 1e-7 of the largest
    single = Spectrum.of_matrix((left * values).float())
    torch.testing.assert_close(single.singular_values, values, rtol=0, atol=3e-7)


@pytest.mark.parametrize("method", ["randomized", "lanczos"])
@pytest.mark.parametrize("decay", [0.5, 2.0])
@pytest.mark.parametrize("make", ["matrix float32", "matrix float64", "points", "source"])
def test_approximate_values_lie_within_their_error(method, decay, make):
    x = normal((150, 60), 3) * torch.arange(1, 61) ** -decay + 1
    if make.startswith("matrix"):
        w = x.to(torch.float64 if make.endswith("64") else torch.float32)
        exact = Spectrum.of_matrix(w)
        s = Spectrum.of_matrix(w, method=method, rank=6, vectors=True, seed=1)
    else:
        points = Source(x) if make == "source" else x
        exact = Spectrum.of_points(x, unit=True)
        s = Spectrum.of_points(points, unit=True, method=method, rank=6, vectors=True, seed=1)
        torch.testing.assert_close(s.mean, exact.mean)
    gap = (s.values - exact.values[:6]).abs().max() / exact.values[0]
    assert float(gap) <= s.error < 0.5
    assert not s.exact
    assert s.total == pytest.approx(exact.total, rel=1e-6)
    torch.testing.assert_close(s.diagonal, exact.diagonal, rtol=1e-5, atol=1e-8)
    assert s.stable_rank() == pytest.approx(exact.stable_rank(), rel=0.05)
    assert s.vectors.shape == (60, 6)
    with pytest.raises(InputError, match="holds 6 of 60 values"):
        s.participation_ratio()
    with pytest.raises(InputError, match="computed values hold"):
        s.rank_at(0.99999)


def test_randomized_small_budget_reads_the_source_again():
    x = normal((400, 50), 0) * torch.arange(1, 51) ** -1.0
    source = Source(x)
    s = Spectrum.of_points(source, method="randomized", rank=3, memory="300KB")
    assert source.reads > 5
    torch.testing.assert_close(s.values, Spectrum.of_points(x).values[:3], rtol=1e-3, atol=0)


def test_low_rank_matrix_is_complete_with_few_values():
    w = normal((50, 3), 0, dtype=torch.float64) @ normal((3, 40), 1, dtype=torch.float64)
    s = Spectrum.of_matrix(w, method="randomized", rank=5)
    assert s.complete
    exact = Spectrum.of_matrix(w).participation_ratio()
    assert s.participation_ratio() == pytest.approx(exact, rel=1e-9)


def test_operator():
    b = normal((80, 200), 0, dtype=torch.float64)
    a = b @ b.T
    exact = torch.linalg.eigvalsh(a).flip(0)
    s = Spectrum.of_operator(lambda v: a @ v, 80, 6, vectors=True)
    torch.testing.assert_close(s.values, exact[:6], rtol=1e-9, atol=0)
    assert s.total_error > 0
    assert abs(s.total - float(a.trace())) < 4 * s.total_error
    assert not s.complete
    known = Spectrum.of_operator(lambda v: a @ v, 80, 6, total=float(a.trace()))
    assert known.stable_rank() == pytest.approx(float(a.trace() / exact[0]))
    whole = Spectrum.of_operator(lambda v: a @ v, 80, 80)
    assert whole.total == pytest.approx(float(a.trace()))
    assert whole.complete
    with pytest.raises(InputError, match="energies are not negative"):
        Spectrum.of_operator(lambda v: -v, 20, 2)


@pytest.mark.parametrize(
    "options",
    [{"method": "magic"}, {"method": "randomized"}, {"rank": 3}, {"method": "lanczos", "rank": 9}],
)
def test_bad_options(options):
    with pytest.raises(InputError):
        Spectrum.of_points(data(20, 8), **options)
    with pytest.raises(InputError):
        Spectrum.of_matrix(data(20, 8), **options)


# --- read-outs ----------------------------------------------------------------------------------

energies = st.lists(st.floats(0, 1e6), min_size=1, max_size=30).filter(lambda v: max(v) > 1e-3)


def descending(values: list[float]) -> Spectrum:
    return of_values(*sorted(values, reverse=True))


@given(values=energies, q=st.floats(0, 50), step=st.floats(0, 50))
@settings(deadline=None)
def test_hill_numbers_fall_with_q_between_one_and_the_rank(values, q, step):
    s = descending(values)
    high, low = s.effective_rank(q), s.effective_rank(q + step)
    assert low <= high * (1 + 1e-12)
    assert low >= 1 - 1e-12
    assert high <= s.effective_rank(0) * (1 + 1e-12)
    assert s.stable_rank() <= low * (1 + 1e-12)


@given(values=energies, a=st.floats(0.001, 1), b=st.floats(0.001, 1))
@settings(deadline=None)
def test_rank_at_is_monotone_and_enough(values, a, b):
    s = descending(values)
    low, high = s.rank_at(min(a, b)), s.rank_at(max(a, b))
    assert 1 <= low <= high <= len(values)
    held = float(s.values[:low].sum())
    assert held >= min(a, b) * s.total * (1 - 1e-9)
    assert float(s.values[: low - 1].sum()) < min(a, b) * s.total


@pytest.mark.parametrize("q", [0, 0.3, 1, 1.5, 2, 30, 1e3, 1e8, 1e300, math.inf])
def test_equal_energies_count_themselves(q):
    assert of_values(*[7.0] * 12).effective_rank(q) == pytest.approx(12, rel=1e-12)


def test_hill_numbers_in_closed_form():
    s = of_values(3.0, 1.0)
    for q in (0.5, 0.999999, 1.000001, 1.7, 3, 10):
        expected = (0.75**q + 0.25**q) ** (1 / (1 - q))
        assert s.effective_rank(q) == pytest.approx(expected, rel=1e-9)
    assert s.effective_rank(1) == pytest.approx(4 / 3**0.75, rel=1e-14)
    assert s.effective_rank(2) == pytest.approx(1.6, rel=1e-14)
    assert s.effective_rank(math.inf) == pytest.approx(4 / 3, rel=1e-14)
    assert s.effective_rank(0) == 2
    # smooth through one: the derivative there is finite, so no digits may cancel
    one = s.effective_rank(1)
    for q in (1 - 1e-9, 1 + 1e-9, 1 - 1e-13, 1 + 1e-13):
        assert s.effective_rank(q) == pytest.approx(one, rel=1e-8)


def test_hill_numbers_of_large_order_do_not_underflow():
    s = of_values(1.0, 1e-3, 1e-200)
    for q in (500, 1e6, 1e300):
        assert s.effective_rank(q) == pytest.approx(1.001 ** (q / (q - 1)), rel=1e-9)
    many = of_values(*[1e-150] * 1000)
    assert many.effective_rank(1e5) == pytest.approx(1000)


@pytest.mark.parametrize("q", [-1, math.nan])
def test_bad_order(q):
    with pytest.raises(InputError, match="Hill"):
        of_values(1.0).effective_rank(q)


@pytest.mark.parametrize("energy", [0, -1, 1.1, math.nan])
def test_bad_energy(energy):
    with pytest.raises(InputError, match="share"):
        of_values(1.0).rank_at(energy)


def test_prints_in_a_line_and_turns_into_json():
    s = Spectrum.of_points(data(), vectors=True)
    assert "\n" not in repr(s)
    assert repr(s).startswith("Spectrum(120 x 8, 8 values (exact)")
    back = json.loads(json.dumps(s.to_dict()))
    assert back["shape"] == [120, 8]
    assert back["values"] == s.values.tolist()
    assert "vectors" not in back
    assert "error" in repr(Spectrum.of_points(data(), method="randomized", rank=2))


def test_input_is_left_alone():
    for x in (data(), data(8, 120), data().double()):
        before = x.clone()
        Spectrum.of_points(x, unit=True, vectors=True)
        Spectrum.of_matrix(x, vectors=True)
        Spectrum.of_points(x, method="randomized", rank=2)
        assert torch.equal(x, before)


def test_array_with_a_chunks_attribute_is_not_a_source():
    dask_like = SimpleNamespace(chunks=((2,), (2,)))
    with pytest.raises(InputError):
        Spectrum.of_points(dask_like)
