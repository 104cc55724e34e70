"""Closed forms, the bound by the rank, and gradients by finite differences."""

import math

import pytest
import torch

from lowdim.core.spectrum import Spectrum
from lowdim.diversity import vendi, von_neumann_entropy, von_neumann_entropy_of
from lowdim.errors import InputError


def draw(n, d, seed=0):
    return torch.randn(n, d, generator=torch.Generator().manual_seed(seed)).double()


@pytest.mark.parametrize("r", [1, 3, 7])
def test_r_equally_frequent_directions(r):
    rows = torch.eye(7).double()[:r].repeat(4, 1) * 2.5
    assert von_neumann_entropy_of(rows).item() == pytest.approx(math.log(r), abs=1e-12)


@pytest.mark.parametrize("shape", [(60, 8), (8, 60)])
def test_the_measure_and_the_loss_term_are_one_number(shape):
    x = draw(*shape) + 0.3
    spectrum = Spectrum.of_points(x, center=False, unit=True)
    measured = von_neumann_entropy(spectrum).value
    assert measured == pytest.approx(von_neumann_entropy_of(x).item(), rel=1e-12)
    assert math.exp(measured) == pytest.approx(vendi(spectrum).value, rel=1e-12)
    assert math.exp(measured) <= min(shape)


@pytest.mark.parametrize(
    "h",
    [draw(12, 4), draw(4, 12), torch.cat([draw(9, 3), torch.zeros(9, 3).double()], 1), draw(9, 1)],
    ids=["n > d", "n < d", "dead columns", "d = 1"],
)
def test_gradient_by_finite_differences(h):
    h = h.clone().requires_grad_()
    (gradient,) = torch.autograd.grad(von_neumann_entropy_of(h), h)
    assert torch.isfinite(gradient).all()
    eps = 1e-6
    numeric = torch.zeros_like(h)
    live = (h != 0).nonzero().tolist()
    for i, j in live:
        step = torch.zeros_like(h)
        step[i, j] = eps
        up, down = von_neumann_entropy_of(h + step), von_neumann_entropy_of(h - step)
        numeric[i, j] = (up - down).item() / (2 * eps)
    rows, columns = torch.tensor(live).T
    assert torch.allclose(gradient[rows, columns], numeric[rows, columns], atol=1e-6)


def test_a_collapsed_batch_has_finite_gradients():
    h = torch.ones(8, 5, dtype=torch.float32, requires_grad=True)
    value = von_neumann_entropy_of(h)
    value.backward()
    assert value.item() == pytest.approx(0, abs=1e-6)
    assert torch.isfinite(h.grad).all()


def test_following_the_gradient_spreads_the_rows():
    h = (draw(32, 6) + 2).requires_grad_()
    start = von_neumann_entropy_of(h).item()
    optimizer = torch.optim.SGD([h], lr=5.0)
    for _ in range(50):
        optimizer.zero_grad()
        (-von_neumann_entropy_of(h)).backward()
        optimizer.step()
    assert start + 0.2 < von_neumann_entropy_of(h).item() <= math.log(6)


def test_a_zero_row_is_named():
    with pytest.raises(InputError, match="row 2"):
        von_neumann_entropy_of(torch.ones(4, 3) * torch.tensor([1, 1, 0, 1])[:, None])


def test_the_coefficient_moves_the_effective_rank_its_way():
    """A small network that has to tell three classes apart, with the term added to its loss."""
    x = draw(96, 8)
    labels = x[:, :3].argmax(1)

    def effective_rank(c):
        torch.manual_seed(0)
        net = torch.nn.Sequential(torch.nn.Linear(8, 12), torch.nn.Tanh()).double()
        head = torch.nn.Linear(12, 3).double()
        optimizer = torch.optim.Adam([*net.parameters(), *head.parameters()], lr=0.02)
        for _ in range(80):
            h = net(x)
            loss = torch.nn.functional.cross_entropy(head(h), labels)
            optimizer.zero_grad()
            (loss - c * von_neumann_entropy_of(h)).backward()
            optimizer.step()
        spectrum = Spectrum.of_points(net(x), center=False, unit=True)
        return spectrum.effective_rank(1)

    ranks = [effective_rank(c) for c in (-0.5, 0.0, 0.5)]
    assert ranks[0] + 1 < ranks[1] < ranks[2] - 1


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_and_autocast(dtype):
    h = draw(40, 6).to(dtype).requires_grad_()
    value = von_neumann_entropy_of(h)
    value.backward()
    assert value.item() == pytest.approx(von_neumann_entropy_of(h.double()).item(), abs=1e-5)
    assert torch.isfinite(h.grad).all()
    x = draw(40, 6).float()
    with torch.autocast("cpu", torch.bfloat16):
        inside = von_neumann_entropy_of(x).item()
    assert inside == von_neumann_entropy_of(x).item()
