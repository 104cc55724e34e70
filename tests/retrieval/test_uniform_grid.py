"""The grid of least squared error: Max's table, and no worse than the usual ranges."""

import pytest
import torch

from lowdim.core.random import ndtri
from lowdim.errors import InputError
from lowdim.retrieval.uniform_grid import fit_grid

N = 20_000
P = (torch.arange(N, dtype=torch.float64) + 0.5) / N
NORMAL = ndtri(P).float()[:, None]
SHAPES = {
    "normal": NORMAL,
    "uniform": P.float()[:, None],
    "exponential": -(1 - P).log().float()[:, None],
    "cubed normal": NORMAL**3,
    "two clumps": torch.cat([NORMAL[::2] * 0.01 - 1, NORMAL[::2] * 0.01 + 1]),
    "outlier": torch.cat([NORMAL[:-1], torch.tensor([[1000.0]])]),
}


def error(x, low, step, levels):
    number = ((x - low) / step.clamp_min(1e-30)).floor().clamp_min(0)
    number = torch.minimum(number, torch.as_tensor(levels) - 1.0)
    return (x - low - (number + 0.5) * step).double().square().mean(0)


# Max 1960, table II: step and squared error of the best uniform grids of a normal distribution
@pytest.mark.parametrize(
    ("levels", "step", "distortion"),
    [(2, 1.596, 0.3634), (4, 0.9957, 0.1188), (8, 0.5860, 0.03744), (16, 0.3352, 0.01154),
     (32, 0.1881, 0.003490)],
)  # fmt: skip
def test_the_table_of_max(levels, step, distortion):
    found_low, found = fit_grid(3 * NORMAL + 100, levels)
    assert float(found) / 3 == pytest.approx(step, rel=0.03)
    assert float(found_low) == pytest.approx(100 - 3 * step * levels / 2, abs=0.3)
    left = float(error(3 * NORMAL + 100, found_low, found, levels)) / 9
    assert left == pytest.approx(distortion, rel=0.02)


@pytest.mark.parametrize("levels", [2, 4, 16, 256])
@pytest.mark.parametrize("name", SHAPES)
def test_no_worse_than_the_whole_range_or_any_quantile_range(name, levels):
    x = SHAPES[name]
    ours = error(x, *fit_grid(x, levels), levels)
    for cut in (0, 0.001, 0.01, 0.05):
        low = x.quantile(cut, dim=0)
        step = (x.quantile(1 - cut, dim=0) - low) / levels
        assert ours <= error(x, low, step, levels) * 1.005


def test_levels_of_each_column():
    x = NORMAL.expand(-1, 3) * torch.tensor([1.0, 5.0, 0.1])
    levels = torch.tensor([2, 16, 256])
    low, step = fit_grid(x, levels)
    for j in range(3):
        one = fit_grid(x[:, j : j + 1], int(levels[j]))
        assert torch.allclose(torch.cat(one), torch.stack([low[j], step[j]]), rtol=1e-5)


def test_constant_columns_and_one_row():
    x = torch.full((20, 2), 0.1)
    low, step = fit_grid(x, 16)
    assert torch.equal(low, x[0])
    assert torch.equal(step, torch.zeros(2))
    low, step = fit_grid(torch.tensor([[3.0, -4.0]]), 256)
    assert torch.equal(low, torch.tensor([3.0, -4.0]))


def test_more_rows_than_are_looked_at_give_nearly_the_same():
    g = torch.Generator().manual_seed(0)
    x = torch.randn(60_000, 100, generator=g)
    low, step = fit_grid(x, 16, seed=1)
    assert torch.allclose(step, torch.full((100,), 0.3352), rtol=0.05)
    assert not torch.equal(step, fit_grid(x, 16, seed=2)[1])
    assert torch.equal(step, fit_grid(x, 16, seed=1)[1])
    assert torch.allclose(low + 8 * step, torch.zeros(100), atol=0.1)


def test_nothing_to_fit_to():
    with pytest.raises(InputError, match="no vectors at all"):
        fit_grid(torch.zeros(0, 3), 16)
