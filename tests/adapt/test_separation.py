import itertools
import math

import pytest
import torch

from lowdim.adapt.kronecker import (
    kronecker_apply,
    kronecker_sum,
    operations,
    split_cost,
    split_side,
)
from lowdim.adapt.separation import nearest_lsr, nearest_product, rearranged, separation_spectrum
from lowdim.core.linalg import Operator
from lowdim.core.random import normal
from lowdim.errors import InputError, MemoryBudgetError


def gaussian(*shape, seed=0):
    return normal(shape, seed, dtype=torch.float64)


def summed(left, right):
    return sum(torch.kron(a, b) for a, b in zip(left, right, strict=True))


def test_a_sum_made_is_torch_kron_term_by_term():
    a, b, c = gaussian(4, 3, 2), gaussian(4, 2, 5, seed=1), gaussian(4, 2, 3, seed=2)
    assert torch.allclose(kronecker_sum([a, b]), summed(a, b))
    three = sum(torch.kron(torch.kron(a[i], b[i]), c[i]) for i in range(4))
    assert torch.allclose(kronecker_sum([a, b, c]), three)


@pytest.mark.parametrize("n", [0, 1, 7])
@pytest.mark.parametrize("n_factors", [1, 2, 3, 4])
def test_inputs_met_factor_by_factor_give_the_product_with_the_matrix(n, n_factors):
    shapes = [(3, 2), (2, 5), (4, 3), (2, 2)][:n_factors]
    factors = [gaussian(6, *shape, seed=k) for k, shape in enumerate(shapes)]
    x = gaussian(n, math.prod(shape[1] for shape in shapes), seed=9)
    whole = factors[0].sum(0) if n_factors == 1 else kronecker_sum(factors)
    assert torch.allclose(kronecker_apply(factors, x), x @ whole.T)


def test_one_by_one_is_cheaper_where_terms_are_fewer_than_ranks():
    made, met = operations([torch.ones(16, 2, 64), torch.ones(16, 2, 64)], 4096)
    assert (made, met) == ((16 + 4096) * 4 * 4096, 4096 * 16 * (2 * 4096 + 4 * 64))
    made, met = operations([torch.ones(1, 16, 64), torch.ones(1, 16, 64)], 4096)
    assert met < made


@pytest.mark.parametrize("terms", [1, 3, 5])
def test_a_planted_separation_rank_is_recovered(terms):
    planted = summed(gaussian(terms, 4, 3), gaussian(terms, 5, 6, seed=1))
    spectrum = separation_spectrum(planted, rows=(4, 5), columns=(3, 6))
    assert int((spectrum.values > 0).sum()) == terms
    found = nearest_lsr(planted, terms, rows=(4, 5), columns=(3, 6))
    assert torch.allclose(found.matrix(), planted)
    assert found.error < 1e-12
    assert int((found.spectrum.values > 0).sum()) == terms
    assert found.left.shape == (terms, 4, 3)
    assert found.right.shape == (terms, 5, 6)


def test_the_error_is_the_tail_of_the_spectrum_and_no_terms_left_out_is_exact():
    m = gaussian(12, 20)
    whole = torch.linalg.vector_norm(m)
    for terms in (1, 4, 11, 12):  # sides 4 x 3 and 5 x 4: at most min(20, 12)
        found = nearest_lsr(m, terms)
        missed = torch.linalg.vector_norm(m - found.matrix()) / whole
        tail = (found.spectrum.values[terms:].sum() / whole**2).sqrt()
        assert float(missed) == pytest.approx(float(tail), abs=1e-12)
        assert found.error == pytest.approx(float(tail), abs=1e-12)
    exact = nearest_lsr(m, 12)
    assert torch.allclose(exact.matrix(), m)
    assert float(separation_spectrum(m).total) == pytest.approx(float(whole**2))


def test_no_other_sum_is_nearer():
    m = gaussian(6, 6)
    best = torch.linalg.vector_norm(m - nearest_lsr(m, 2, rows=(2, 3), columns=(3, 2)).matrix())
    left, right = (
        x.clone().requires_grad_() for x in (gaussian(2, 2, 3, seed=1), gaussian(2, 3, 2, seed=2))
    )
    optimizer = torch.optim.LBFGS([left, right], max_iter=200, line_search_fn="strong_wolfe")

    def loss() -> torch.Tensor:
        optimizer.zero_grad()
        missed = (m - kronecker_sum([left, right])).square().sum()
        missed.backward()
        return missed.detach()

    optimizer.step(loss)
    assert float(loss()) == pytest.approx(float(best**2), rel=1e-6)


def test_rearranging_makes_a_kronecker_product_an_outer_product():
    a, b = gaussian(2, 3), gaussian(4, 5, seed=1)
    r = rearranged(torch.kron(a, b), (2, 4), (3, 5))
    assert torch.equal(r, torch.outer(a.flatten(), b.flatten()))


def test_energy_is_that_of_the_matrix_and_float32_stays_float32():
    m = gaussian(8, 9).float()
    before = m.clone()
    found = nearest_lsr(m, 2)
    assert torch.equal(m, before)
    assert found.left.dtype == torch.float32
    assert found.spectrum.total == pytest.approx(float(m.square().sum()), rel=1e-6)
    assert torch.allclose(nearest_lsr(m.double(), 2).matrix().float(), found.matrix(), atol=1e-5)
    half = nearest_lsr(m.half(), 2)
    assert half.left.dtype == torch.float32
    assert nearest_lsr(torch.zeros(4, 4), 1).error == 0


@pytest.mark.parametrize(
    ("size", "ranks", "exact", "padded"),
    [
        (768, (1, 1), (32, 24), (32, 24)),
        (4096, (2, 2), (64, 64), (64, 64)),
        (769, (1, 1), (769, 1), (31, 25)),
        (4096, (2, 2, 2), (16, 16, 16), (16, 16, 16)),
        (1024, (4, 1), (16, 64), (16, 64)),
        (1, (1, 1), (1, 1), (1, 1)),
    ],
)
def test_splits_of_sides(size, ranks, exact, padded):
    assert split_side(size, ranks) == exact
    assert split_side(size, ranks, True) == padded


@pytest.mark.parametrize("ranks", [(1, 1), (3, 1), (1, 2, 2)])
def test_no_split_stores_less(ranks):
    for size in range(1, 30):
        every = list(itertools.product(range(1, size + 1), repeat=len(ranks)))
        for padded in (False, True):
            found = split_side(size, ranks, padded)
            fits = [s for s in every if math.prod(s) >= size and (padded or math.prod(s) == size)]
            assert math.prod(found) >= size
            assert split_cost(found, ranks) == min(split_cost(s, ranks) for s in fits)


@pytest.mark.parametrize("seed", range(4))
def test_a_product_of_sums_is_found_in_whichever_basis_it_is_separable(seed):
    b = [gaussian(2, 8, 2, seed=seed), gaussian(2, 6, 2, seed=seed + 10)]
    a = [gaussian(2, 2, 8, seed=seed + 20), gaussian(2, 2, 6, seed=seed + 30)]
    planted = kronecker_sum(b) @ kronecker_sum(a)  # (48, 48), rank 4
    high, wide = nearest_product(Operator.of_matrix(planted), b, a, steps=200, starts=8, seed=0)
    assert [f.shape for f in high + wide] == [f.shape for f in b + a]
    missed = torch.linalg.vector_norm(kronecker_sum(high) @ kronecker_sum(wide) - planted)
    assert float(missed) < 1e-6 * float(torch.linalg.vector_norm(planted))


def test_more_steps_never_miss_more():
    b = [gaussian(2, 4, 2), gaussian(2, 3, 2, seed=1)]
    a = [f.mT for f in b]
    update = gaussian(11, 12, seed=5)  # a row of the sums is padding

    def missed(steps):
        high, wide = nearest_product(
            Operator.of_matrix(update), b, a, steps=steps, starts=1, seed=0
        )
        return float(
            torch.linalg.vector_norm(kronecker_sum(high)[:11] @ kronecker_sum(wide) - update)
        )

    errors = [missed(steps) for steps in (0, 1, 2, 5, 20)]
    assert errors == sorted(errors, reverse=True)
    assert errors[-1] < errors[0]


def test_bad_input_is_named():
    m = gaussian(12, 12)
    for call, message in [
        (lambda: nearest_lsr(m, 99), "rank=99"),
        (lambda: nearest_lsr(m, 1, rows=(5, 2)), "product is 12"),
        (lambda: nearest_lsr(m, 1, columns=(2, 2, 3)), "two whole numbers"),
        (lambda: separation_spectrum(m.index_fill(0, torch.tensor(3), math.nan)), "row 3"),
        (lambda: separation_spectrum(gaussian(101, 12)), "number of rows is 101"),
        (lambda: separation_spectrum(m[None]), "shape"),
    ]:
        with pytest.raises(InputError, match=message):
            call()
    with pytest.raises(MemoryBudgetError):
        nearest_lsr(gaussian(64, 64), 1, memory="64KiB")
